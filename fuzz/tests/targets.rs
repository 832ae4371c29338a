//! Every target on its seeds, on each input that once made it panic, and on mutations of them.
use anyhow::{Context as _, Result, ensure};
use fuzz::{Budget, TARGETS, run, target};
use rstest::rstest;

/// Mutations of each target, which take seconds in a development build.
const INPUTS: u64 = 15_000;

#[rstest]
fn no_target_panics(
    #[values(
        "admission-reviews",
        "chains",
        "conversion-reviews",
        "csrs",
        "durations",
        "etcd-requests",
        "injector-texts",
        "keys",
        "manifests",
        "placement-reports",
        "scheduler-records",
        "schedules",
        "sign-requests",
        "spiffe-ids",
        "stored-cas",
        "token-reviews",
        "tokens"
    )]
    name: &str,
) -> Result<()> {
    let target = target(name).with_context(|| format!("no target {name}"))?;
    let found = run(&target, 1, Budget::Inputs(INPUTS))?;
    ensure!(found.panics.is_empty(), "inputs that panic: {:#?}", found.panics);
    Ok(())
}

#[test]
fn every_target_is_tested() {
    let source = include_str!("targets.rs");
    for target in TARGETS {
        assert!(source.contains(&format!("\"{}\"", target.name)), "{}", target.name);
    }
}

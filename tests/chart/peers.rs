//! Our programs accept the arguments of the chart. (The official CLI: `tests/cli`.)

use std::process::Command;

use anyhow::{Result, ensure};
use blackbox::{build_binary, process};
use rstest::rstest;

use crate::helm::Objects;

#[rstest]
#[case("operator", "Deployment/dapr-operator")]
#[case("sentry", "Deployment/dapr-sentry")]
#[case("injector", "Deployment/dapr-sidecar-injector")]
#[case("placement", "StatefulSet/dapr-placement-server")]
#[case("scheduler", "StatefulSet/dapr-scheduler-server")]
fn our_programs_take_every_argument(#[case] program: &str, #[case] workload: &str) -> Result<()> {
    let file = build_binary(program)?;
    let everything = [
        "global.logAsJson=true",
        "global.rbac.namespaced=true",
        "global.argoRolloutServiceReconciler.enabled=true",
        "global.operator.watchdogCanPatchPodLabels=true",
        "global.issuerFilenames.ca=ca.crt",
        "global.issuerFilenames.cert=tls.crt",
        "global.issuerFilenames.key=tls.key",
        "dapr_operator.serviceReconciler.enabled=false",
        "dapr_operator.serviceReconciler.daemonSets=true",
        "dapr_operator.healthzPort=8081",
        "dapr_operator.webhookPort=29443",
        "dapr_sidecar_injector.webhookPort=24000",
        "dapr_sentry.caKeyType=ed25519",
        "dapr_sentry.caLifetime=720h",
        "dapr_sentry.caRotateAt=0",
        "dapr_sentry.caKeepRetired=48h",
        "dapr_placement.metadataEnabled=true",
        "dapr_scheduler.metadataEnabled=true",
        "dapr_scheduler.storeEngine=embedded",
        "dapr_scheduler.etcdSpaceQuota=2147483648",
        "dapr_scheduler.overrideBroadcastHostPort=scheduler.example:50006",
    ];
    for sets in [&[][..], &["global.prometheus.enabled=false"], &everything] {
        // Arguments are read from left to right: what comes before --help must be known.
        let args = Objects::render(sets)?.args(workload)?;
        process::output(Command::new(&file).args(args).arg("--help"))?;
    }
    // The check can fail: an unknown argument is rejected.
    let unknown = process::output(Command::new(&file).args(["--no-such-flag", "--help"]));
    ensure!(unknown.is_err(), "{program} takes any argument");
    Ok(())
}

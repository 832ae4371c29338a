//! The commands of the operator's image: hooks and tests that the chart runs.
pub mod apply_crds;
pub mod cluster;
mod crd_merge;
pub mod scheduler_check;
pub mod self_test;

use clap::{Parser, Subcommand};

use self::apply_crds::ApplyFlags;
use self::scheduler_check::SchedulerFlags;
use self::self_test::SelfTestFlags;

/// The names of the commands; without one the image runs the operator.
pub const WORDS: [&str; 3] = ["apply-crds", "check-scheduler", "self-test"];

/// The command line of a command.
#[derive(Clone, Debug, Parser)]
#[command(name = "operator", about = "Runs a command of the operator's image")]
pub struct Flags {
    /// The command and its flags.
    #[command(subcommand)]
    pub command: Command,
}

/// A command of the image.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Upgrade the custom resource definitions of the cluster to this version
    ApplyCrds(Box<ApplyFlags>),
    /// Check that the scheduler of this version has the jobs of the one that runs
    CheckScheduler(Box<SchedulerFlags>),
    /// Test whether the control plane works
    SelfTest(Box<SelfTestFlags>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_each_command_and_its_flags() {
        let [apply, check, test] = WORDS;
        let flags = Flags::parse_from(["operator", apply, "--log-level=debug"]);
        assert!(matches!(flags.command, Command::ApplyCrds(_)));
        let flags = Flags::parse_from([
            "operator",
            check,
            "--replicas=3",
            "--store-engine=etcd",
            "--etcd-client-endpoints=a:1,b:2",
        ]);
        let Command::CheckScheduler(flags) = flags.command else { panic!("{flags:?}") };
        assert_eq!((flags.replicas, flags.store_engine), (3, scheduler_check::Engine::Etcd));
        assert_eq!(flags.etcd_client_endpoints, ["a:1", "b:2"]);
        let flags = Flags::parse_from([
            "operator",
            test,
            "--service=dapr-sentry:443",
            "--service=dapr-api:443",
            "--injection=false",
            "--trust-anchors-file=/x",
        ]);
        let Command::SelfTest(flags) = flags.command else { panic!("{flags:?}") };
        assert_eq!(flags.service, ["dapr-sentry:443", "dapr-api:443"]);
        assert!(!flags.injection);
        assert_eq!(flags.operator.trust_anchors_file, std::path::Path::new("/x"));
    }
}

//! The commands that the chart runs from the operator's image, beside the service itself.
use clap::{Parser, Subcommand};

use crate::{crds::ApplyFlags, self_test::SelfTestFlags};

/// Their words on the command line; anything else starts the service.
pub const WORDS: [&str; 2] = ["apply-crds", "self-test"];

/// The command line, as typed.
#[derive(Clone, Debug, Parser)]
#[command(name = "operator", about = "A command of the operator's image")]
pub struct Flags {
    /// Which one.
    #[command(subcommand)]
    pub command: Command,
}

/// What the image can do beside being the operator.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Bring the custom resource definitions of the cluster to this version
    ApplyCrds(Box<ApplyFlags>),
    /// Find out whether the control plane works
    SelfTest(Box<SelfTestFlags>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_known_by_its_word_and_takes_its_flags() {
        let [apply, test] = WORDS;
        let flags = Flags::parse_from(["operator", apply, "--log-level=debug"]);
        assert!(matches!(flags.command, Command::ApplyCrds(_)));
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

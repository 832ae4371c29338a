//! `cargo xtask cluster`: the test bed behind a command line.

use std::io::Write as _;

use anyhow::Result;
use blackbox::{LocalApi, Tool, progress::step, tools};
use clap::{Args, Subcommand};

/// A real Kubernetes on this machine.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start it, or find it running; a leftover of a crash is cleaned up first
    Up {
        /// Only etcd, kube-apiserver and kube-controller-manager: no root needed, Pods stay Pending
        #[arg(long)]
        api_only: bool,
    },
    /// Stop it and remove everything it made
    Down {
        /// Only the API-only cluster
        #[arg(long)]
        api_only: bool,
    },
    /// Say what runs
    Status,
    /// Build the programs the bed needs into the cache and print where each is
    Tools {
        /// `name` or `name@version`; all of them when none is given
        names: Vec<String>,
    },
}

pub(crate) fn run(flags: Flags) -> Result<()> {
    match flags.action {
        Action::Up { .. } => {
            let cluster = step("API-only cluster", || LocalApi::here().up())?;
            if let Some(kubeconfig) = cluster.kubeconfig() {
                print(&format!("export KUBECONFIG={}", kubeconfig.display()))?;
            }
            Ok(())
        }
        Action::Down { .. } => step("API-only cluster down", || LocalApi::here().down()),
        Action::Status => {
            for (name, running) in LocalApi::here().programs() {
                print(&format!("{name}\t{}", if running { "running" } else { "ended" }))?;
            }
            Ok(())
        }
        Action::Tools { names } => {
            let chosen: Vec<Tool> = if names.is_empty() {
                Tool::ALL.to_vec()
            } else {
                names.iter().map(|name| Tool::parse(name)).collect::<Result<_>>()?
            };
            tools::provide(&chosen)?;
            chosen.iter().try_for_each(|tool| print(&format!("{tool}\t{}", tool.path()?.display())))
        }
    }
}

fn print(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

//! `cargo xtask bundle`: the files that `dapr init --slim --from-dir` installs.

use std::path::PathBuf;

use anyhow::Result;
use blackbox::bundle::Bundle;
use blackbox::progress::step;
use blackbox::{Service, Tool, build_dashboard_static, environment};
use clap::Args;

use crate::output::print;

/// Writes an installer bundle for machines without a cluster and without the Internet: `dapr init
/// --slim --from-dir DIR`. daprd is Dapr's own, built from its published module unless given;
/// placement, scheduler, sentry and dashboard are ours.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Folder to write the bundle to
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Dapr's sidecar, for example from its release page
    #[arg(long, value_name = "FILE")]
    daprd: Option<PathBuf>,
    /// Cargo's profile for our programs
    #[arg(long, default_value = "release")]
    profile: String,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let folder = environment::workspace().join(&flags.folder); // an absolute path is unchanged
    let bundle = Bundle {
        daprd: flags.daprd.clone().map_or_else(|| Tool::DAPRD.path(), Ok)?,
        scheduler: Service::Scheduler.build_static(&flags.profile)?,
        placement: Service::Placement.build_static(&flags.profile)?,
        sentry: Service::Sentry.build_static(&flags.profile)?,
        dashboard: build_dashboard_static(&flags.profile)?,
    };
    step("pack", || bundle.write(&folder))?;
    print(&format!("dapr init --slim --from-dir {}", folder.display()))
}

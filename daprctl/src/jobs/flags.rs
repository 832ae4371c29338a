//! Flags of `daprctl jobs`.

use std::path::PathBuf;

use crate::cluster::ClusterFlags;

/// The command line of `daprctl jobs`.
#[derive(Debug, clap::Args)]
pub struct JobsFlags {
    /// Where the scheduler is.
    #[command(flatten)]
    pub(super) place: Place,
    /// What to do.
    #[command(subcommand)]
    pub(super) action: Action,
}

/// Where the scheduler is.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The cluster.
    #[command(flatten)]
    pub(super) cluster: ClusterFlags,
    /// Namespace of the control plane; its pod dapr-scheduler-server-0 is asked by a port-forward
    #[arg(long, value_name = "NAME", default_value = "dapr-system", global = true)]
    pub(super) control_plane: String,
    /// Client port of a scheduler outside a cluster, such as localhost:2379; plain text
    #[arg(long, value_name = "HOST:PORT", global = true, conflicts_with_all = ["kubeconfig", "context"])]
    pub(super) address: Option<String>,
}

/// What to do with jobs.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// List jobs, actor reminders and workflow timers
    List(ListFlags),
    /// Show jobs by their keys
    Get(GetFlags),
    /// Delete jobs by their keys
    Delete(DeleteFlags),
    /// Write all jobs with their counters into a file
    Export(ExportFlags),
    /// Put the jobs of a file into the scheduler, one by one; an import that was stopped goes on
    Import(ImportFlags),
}

/// Kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    /// Scheduled by an app.
    Job,
    /// Of an actor.
    Reminder,
    /// Of a workflow instance.
    Workflow,
    /// Of an activity of a workflow.
    Activity,
    /// The record cannot be decoded.
    Unreadable,
}

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    Table,
    Json,
    Yaml,
}

/// Format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// With a checksum.
    Trilby,
    /// That of `dapr scheduler export`, which `dapr scheduler import` reads.
    Dapr,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListFlags {
    /// Namespace of the jobs. Default: all
    #[arg(short, long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// Only entries of this kind. Default: all
    #[arg(long, value_name = "KIND")]
    pub(super) kind: Option<Kind>,
    /// Only entries that this app scheduled. Default: all
    #[arg(long, value_name = "APP-ID")]
    pub(super) app: Option<String>,
    /// Only entries whose name, or the id of whose actor, contains this, in any case
    #[arg(long, value_name = "TEXT")]
    pub(super) name: Option<String>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(super) output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct GetFlags {
    /// Keys: the column KEY of the list, or app/APP-ID/NAME, or actor/TYPE/ID/NAME
    #[arg(value_name = "KEY", required = true)]
    pub(super) keys: Vec<String>,
    /// Namespace of keys that begin with app/ or actor/
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    pub(super) namespace: String,
    /// Print the payload too, in base64
    #[arg(long)]
    pub(super) payload: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    pub(super) output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct DeleteFlags {
    /// Keys: the column KEY of the list, or app/APP-ID/NAME, or actor/TYPE/ID/NAME
    #[arg(value_name = "KEY", required = true)]
    pub(super) keys: Vec<String>,
    /// Namespace of keys that begin with app/ or actor/
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    pub(super) namespace: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExportFlags {
    /// The file. It must not exist; only its owner can read it, because payloads are in it
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Format: trilby has a checksum; dapr is for `dapr scheduler import`
    #[arg(long, value_name = "FORMAT", default_value = "trilby")]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportFlags {
    /// A file of `daprctl jobs export` or `dapr scheduler export`
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Replace jobs that the scheduler has under the same key with other content
    #[arg(long)]
    pub(super) overwrite: bool,
}

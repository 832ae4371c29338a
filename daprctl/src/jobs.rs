//! `daprctl jobs`: the stored jobs, through the scheduler's client port. Start reading at [`run`];
//! `record` says what an entry is, `file` what an export is, `import` how one is put back.

mod client;
mod file;
mod file_error;
mod flags;
mod gob;
mod import;
mod output;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use prost::Message as _;
use proto::cron;
use proto::etcd::mvccpb::KeyValue;

use self::client::Client;
pub use self::file_error::FileError;
pub use self::flags::JobsFlags;
use self::flags::{Action, DeleteFlags, ExportFlags, GetFlags, ImportFlags, ListFlags};
use self::record::Job;

/// Prefixes of the store (Dapr 1.18).
const JOBS: &[u8] = b"dapr/jobs/";
const COUNTERS: &[u8] = b"dapr/counters/";
/// Upper limit of entries of a list, jobs and counters.
const MAX_LISTED: usize = 2_000_000;

/// Why a command about jobs fails.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] kubernetes::ClientError),
    /// Contains the address.
    #[error("{0:?} is no address: use HOST:PORT, such as localhost:2379")]
    Address(String),
    /// Nothing answers there. Contains the address.
    #[error("connect to the scheduler's client port {0}")]
    Connect(String, #[source] tonic::transport::Error),
    /// The store refused a call.
    #[error("the scheduler's client port answered {}", .0.message())]
    Call(#[from] tonic::Status),
    /// Contains the limit.
    #[error("the scheduler has more than {0} jobs and counters")]
    TooMany(usize),
    /// A key is malformed. Contains the sentence.
    #[error("{0}")]
    Key(String),
    /// Contains the keys that are not there.
    #[error("no such job: {0}")]
    Missing(String),
    /// The store has another job under this key.
    #[error("{0} is there with other content: nothing was replaced; use --overwrite to replace it")]
    Conflict(String),
    /// The store returned other bytes than were put under this key.
    #[error("the scheduler stored {0} with other content: import the file again with --overwrite")]
    Verification(String),
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is no export.
    #[error("import {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: FileError,
    },
    /// The jobs do not fit into a file. Nothing was written.
    #[error("export to {}", path.display())]
    Export {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: FileError,
    },
    /// The list cannot be serialised.
    #[error("print jobs: {0}")]
    Print(String),
}

/// Runs one command. What is to be printed is added to `text`, also when the command fails midway.
pub(crate) async fn run(flags: &JobsFlags, text: &mut String) -> Result<(), JobsError> {
    let mut client = connect(flags).await?;
    match &flags.action {
        Action::List(list) => *text += &listed(&mut client, list).await?,
        Action::Get(get) => *text += &shown(&mut client, get).await?,
        Action::Delete(delete) => deleted(&mut client, delete, text).await?,
        Action::Export(export) => *text += &exported(&mut client, export).await?,
        Action::Import(import) => *text += &imported(&mut client, import).await?,
    }
    Ok(())
}

async fn connect(flags: &JobsFlags) -> Result<Client, JobsError> {
    let place = &flags.place;
    if let Some(address) = &place.address {
        let channel = client::endpoint(address)?.connect().await;
        return Ok(Client::new(channel.map_err(|e| JobsError::Connect(address.clone(), e))?));
    }
    let cluster = place.cluster.connect(place.control_plane.clone()).await?;
    let connector = cluster.scheduler_connector();
    // The name is not resolved: the connector opens a port-forward.
    let endpoint = client::endpoint("dapr-scheduler-server-0")?;
    let channel = endpoint.connect_with_connector(connector).await;
    let named =
        |e| JobsError::Connect(format!("of {}/dapr-scheduler-server-0", place.control_plane), e);
    Ok(Client::new(channel.map_err(named)?))
}

/// An entry of a snapshot without its payload.
enum Entry {
    Job(Box<Job>),
    Counter(String, cron::Counter),
}

fn entry(pair: &KeyValue) -> Option<Entry> {
    let name = |prefix| {
        let name = pair.key.strip_prefix(prefix)?;
        Some(String::from_utf8_lossy(name).into_owned())
    };
    if let Some(key) = name(JOBS) {
        return Some(Entry::Job(Box::new(Job::read(&key, &pair.value, false))));
    }
    Some(Entry::Counter(name(COUNTERS)?, cron::Counter::decode(&pair.value[..]).ok()?))
}

/// Jobs with their counters, in the order of keys.
fn joined(entries: Vec<Entry>) -> Vec<Job> {
    let mut counters = BTreeMap::new();
    let mut jobs = Vec::new();
    for entry in entries {
        match entry {
            Entry::Counter(key, counter) => drop(counters.insert(key, counter)),
            Entry::Job(job) => jobs.push(*job),
        }
    }
    for job in &mut jobs {
        if let Some(counter) = counters.get(&job.key) {
            job.apply(counter);
        }
    }
    jobs.sort_by(|a, b| (&a.namespace, a.kind, &a.key).cmp(&(&b.namespace, b.kind, &b.key)));
    jobs
}

async fn listed(client: &mut Client, flags: &ListFlags) -> Result<String, JobsError> {
    let mut jobs = joined(client.snapshot(MAX_LISTED, |pair| entry(&pair)).await?);
    jobs.retain(|job| is_wanted(job, flags));
    output::print(&jobs, flags.output)
}

/// Whether the list has this entry.
fn is_wanted(job: &Job, flags: &ListFlags) -> bool {
    let is = |wanted: &Option<String>, own: &str| wanted.as_deref().is_none_or(|w| w == own);
    let contains = |wanted: &str| {
        let wanted = wanted.to_lowercase();
        let mut names = std::iter::once(&job.name).chain(&job.actor_id);
        names.any(|name| name.to_lowercase().contains(&wanted))
    };
    flags.kind.is_none_or(|kind| kind == job.kind)
        && is(&flags.namespace, &job.namespace)
        && is(&flags.app, &job.app_id)
        && flags.name.as_deref().is_none_or(contains)
}

fn stored_keys(keys: &[String], namespace: &str) -> Result<Vec<String>, JobsError> {
    let stored = keys.iter().map(|key| record::stored_key(key, namespace));
    stored.collect::<Result<_, _>>().map_err(JobsError::Key)
}

async fn shown(client: &mut Client, flags: &GetFlags) -> Result<String, JobsError> {
    let mut jobs = Vec::new();
    for key in stored_keys(&flags.keys, &flags.namespace)? {
        let (job, counter) =
            client.get(&key).await?.ok_or_else(|| JobsError::Missing(key.clone()))?;
        let mut shown = Job::read(&key, &job.value, flags.payload);
        // A counter that cannot be decoded counts nothing.
        if let Some(Ok(counter)) = counter.map(|pair| cron::Counter::decode(&pair.value[..])) {
            shown.apply(&counter);
        }
        jobs.push(shown);
    }
    output::print(&jobs, flags.output)
}

/// Deletes what is there, each with a line in `text`, and names the rest.
async fn deleted(
    client: &mut Client,
    flags: &DeleteFlags,
    text: &mut String,
) -> Result<(), JobsError> {
    let mut missing = Vec::new();
    for key in stored_keys(&flags.keys, &flags.namespace)? {
        if client.delete(&key).await? {
            let _ = writeln!(text, "deleted {}", runtime::printable(&key));
        } else {
            missing.push(key);
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(JobsError::Missing(missing.join(", "))) }
}

async fn exported(client: &mut Client, flags: &ExportFlags) -> Result<String, JobsError> {
    let mut pairs = client.snapshot(file::MAX_PAIRS, Some).await?;
    file::sort(&mut pairs);
    let file = file::encode(flags.format, &pairs, file::MAX_FILE_BYTES);
    let path = flags.file.clone();
    file::save(&flags.file, &file.map_err(|source| JobsError::Export { path, source })?)?;
    Ok(output::exported(&pairs, &flags.file))
}

async fn imported(client: &mut Client, flags: &ImportFlags) -> Result<String, JobsError> {
    let done = import::run(client, &flags.file, flags.overwrite).await?;
    Ok(output::imported(&done, &flags.file))
}

//! Jobs as a table, JSON or YAML, and what an export and an import say. Pure.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use proto::etcd::mvccpb::KeyValue;
use serde::Serialize;

use super::flags::Output;
use super::import::Summary;
use super::record::Job;
use super::{JOBS, JobsError, file};
use crate::output::table;
use crate::output::words::count;

/// The jobs in this format.
///
/// # Errors
/// They cannot be serialised.
pub(super) fn print(jobs: &[Job], output: Output) -> Result<String, JobsError> {
    #[derive(Serialize)]
    struct All<'a> {
        jobs: &'a [Job],
    }
    match output {
        Output::Table => Ok(table(jobs)),
        Output::Json => serde_json::to_string_pretty(&All { jobs })
            .map(|text| text + "\n")
            .map_err(|error| JobsError::Print(error.to_string())),
        Output::Yaml => serde_saphyr::to_string(&All { jobs })
            .map_err(|error| JobsError::Print(error.to_string())),
    }
}

fn table(jobs: &[Job]) -> String {
    if jobs.is_empty() {
        return "The scheduler has no such jobs.\n".to_owned();
    }
    let heading = ["NAMESPACE", "KIND", "TARGET", "WHEN", "BEGIN", "COUNT", "LAST TRIGGER", "KEY"];
    table::columns(heading, jobs.iter().map(row))
}

fn row(job: &Job) -> [String; 8] {
    let kind = format!("{:?}", job.kind).to_lowercase();
    let when = match (&job.schedule, &job.due_time, &job.error) {
        (_, _, Some(error)) => error.clone(),
        (Some(schedule), _, _) => match job.repeats {
            Some(1) => format!("{schedule}, once"),
            Some(repeats) => format!("{schedule}, {repeats} times"),
            None => schedule.clone(),
        },
        (None, Some(due), _) => format!("once, {due}"),
        (None, None, None) => "once".to_owned(),
    };
    [
        job.namespace.clone(),
        kind,
        job.target.clone(),
        when,
        time(job.begin),
        job.count.to_string(),
        time(job.last_trigger),
        job.key.clone(),
    ]
    .map(|cell| if cell.is_empty() { "-".to_owned() } else { cell })
}

/// Whole seconds, as columns have.
fn time(at: Option<Timestamp>) -> String {
    let whole = at.and_then(|at| Timestamp::from_second(at.as_second()).ok());
    whole.map_or_else(|| "-".to_owned(), |at| at.to_string())
}

/// What was written to a file.
pub(super) fn exported(pairs: &[KeyValue], file: &Path) -> String {
    let jobs = pairs.iter().filter(|pair| pair.key.starts_with(JOBS)).count();
    let (counters, hash) = (pairs.len() - jobs, file::content_hash(pairs));
    let (jobs, counters) = (count(jobs, "job"), count(counters, "counter"));
    format!("exported {jobs} and {counters} to {}\ncontent SHA-256 {hash}\n", file.display())
}

/// What came out of a file.
pub(super) fn imported(done: &Summary, file: &Path) -> String {
    let (jobs, counters) = (count(done.jobs, "job"), count(done.counters, "counter"));
    let mut text = format!("imported {jobs} and {counters} from {}", file.display());
    if done.earlier > 0 {
        let _ = write!(text, ", {} by an earlier run", done.earlier);
    }
    if done.present > 0 {
        let _ = write!(text, ", {} there already with the same content", done.present);
    }
    let _ = writeln!(text, "\nread back and equal: content SHA-256 {}", done.content);
    text
}

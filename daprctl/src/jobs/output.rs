//! Jobs as a table, JSON or YAML. Pure.

use jiff::Timestamp;
use serde::Serialize;

use super::JobsError;
use super::flags::Output;
use super::record::Job;
use crate::output::table;

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

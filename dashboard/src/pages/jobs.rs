//! Jobs, actor reminders and workflows: counts of the scheduler. Names and payloads of jobs are not
//! read: the client port would show those of every namespace to each user of the page.

mod groups;

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use super::parts::{Filter, Level, badge, facts, hint, notice, section, table};
use super::{Site, words};
use crate::html::{Html, text};
use crate::model::{SCHEDULER, Snapshot};
use crate::peers::answers::{METRICS, SCHEDULER_JOBS};
use crate::peers::samples::samples;
use crate::peers::{Answer, Question};

use groups::Groups;

/// Metrics port of the scheduler (chart).
const METRICS_PORT: u16 = 9090;
/// Prefix of the names of the scheduler's own metrics (Dapr 1.18).
const PREFIX: &str = "dapr_scheduler_";
/// Replicas that are asked; the page says how many answered.
const MAX_ASKED: usize = 9;
/// Gauges of times in seconds since 1970, of our scheduler.
const NEXT_DUE: &str = "dapr_scheduler_next_due_timestamp_seconds";
const LAST_ANSWER: &str = "dapr_scheduler_last_answer_timestamp_seconds";
/// Limits of concurrency that are shown; the page says how many more there are.
const MAX_LIMITS: usize = 200;

/// Counts of one type since the scheduler started.
#[derive(Debug, PartialEq, Serialize)]
struct TypeRow {
    /// `job` or `actor`.
    kind: &'static str,
    scheduled: f64,
    rejected: f64,
    delivered: f64,
    failed: f64,
    without_sidecar: f64,
    deleted: f64,
    /// Milliseconds from the due time to the answer; absent without triggers.
    average_latency_ms: Option<f64>,
    /// The last answer of a sidecar; absent without one, and for Dapr's scheduler.
    last: Option<Time>,
}

/// A time, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Time {
    /// In RFC 3339.
    at: Timestamp,
    words: String,
}

impl Time {
    fn of(at: Timestamp, now: Timestamp) -> Self {
        let words = match now.duration_until(at).as_secs() {
            seconds @ 1.. => format!("in {}", words::span(seconds)),
            0 => "now".to_owned(),
            seconds => format!("{} ago", words::span(-seconds)),
        };
        Self { at, words }
    }
}

/// A limit of concurrent triggers.
#[derive(Debug, PartialEq, Serialize)]
struct LimitRow {
    key: String,
    running: f64,
    waiting: f64,
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct Jobs {
    /// Why there are no counts.
    error: Option<String>,
    /// Replicas of the scheduler that are ready.
    replicas: usize,
    /// Replicas that answered, whose counts are added.
    answered: usize,
    /// Stored jobs and reminders; absent for a scheduler without that metric.
    stored: Option<f64>,
    /// Jobs that wait for their due time.
    armed: Option<f64>,
    /// The next due job; absent if none waits for its time, and for Dapr's scheduler.
    next: Option<Time>,
    /// Whether the scheduler says when the next job is due, as Dapr's does not.
    says_next: bool,
    /// Due jobs without a connected sidecar of their application.
    staged: Option<f64>,
    /// Due jobs that wait for a limit or for a sidecar that reads.
    waiting: Option<f64>,
    /// Delivered jobs without an answer.
    in_flight: Option<f64>,
    unreadable: Option<f64>,
    streams: Option<f64>,
    types: Vec<TypeRow>,
    limits: Vec<LimitRow>,
    /// Number of limits that are not shown.
    more_limits: usize,
    groups: Groups,
}

/// Answers of the scheduler's replicas.
pub(crate) struct Answers {
    pub(crate) metrics: Vec<Answer>,
    pub(crate) groups: Vec<Answer>,
}

/// Series of the scheduler, summed over its replicas: by name, and by the type of job or the
/// concurrency key, which is empty for a series with neither.
struct Sums<'a>(BTreeMap<&'a str, BTreeMap<String, f64>>);

impl<'a> Sums<'a> {
    fn of(bodies: impl Iterator<Item = &'a Bytes>) -> Self {
        let mut sums = BTreeMap::<_, BTreeMap<_, f64>>::new();
        for sample in bodies.flat_map(|body| samples(body, |name| name.starts_with(PREFIX))) {
            let labels = ["type", "concurrency_key"].map(|label| sample.label(label));
            let label = labels.into_iter().find(|label| !label.is_empty()).unwrap_or_default();
            *sums.entry(sample.name).or_default().entry(label.to_owned()).or_default() +=
                sample.value;
        }
        Self(sums)
    }

    fn get(&self, name: &str, label: &str) -> Option<f64> {
        self.0.get(name)?.get(label).copied()
    }

    fn gauge(&self, name: &str) -> Option<f64> {
        self.get(name, "")
    }

    fn row(&self, kind: &'static str, last: Option<Time>) -> TypeRow {
        let sum = |name: &str| self.get(name, kind).unwrap_or_default();
        let count = sum("dapr_scheduler_trigger_latency_count");
        TypeRow {
            kind,
            scheduled: sum("dapr_scheduler_jobs_created_total"),
            rejected: sum("dapr_scheduler_jobs_created_failed_total"),
            delivered: sum("dapr_scheduler_jobs_triggered_total"),
            failed: sum("dapr_scheduler_jobs_failed_total"),
            without_sidecar: sum("dapr_scheduler_jobs_undelivered_total"),
            deleted: sum("dapr_scheduler_jobs_deleted_total"),
            average_latency_ms: (count > 0.0)
                .then(|| sum("dapr_scheduler_trigger_latency_sum") / count),
            last,
        }
    }

    /// Limits in the order of their keys.
    fn limits(&self) -> Vec<LimitRow> {
        let running = self.0.get("dapr_scheduler_concurrency_inflight").into_iter().flatten();
        let row = |(key, running): (&String, &f64)| LimitRow {
            key: key.clone(),
            running: *running,
            waiting: self.get("dapr_scheduler_concurrency_pending", key).unwrap_or_default(),
        };
        running.map(row).collect()
    }
}

/// Values of a gauge of times, with its label `type`, of all replicas. 0 is no time.
fn times<'a>(
    answers: &'a [Answer],
    name: &'static str,
) -> impl Iterator<Item = (String, Timestamp)> + 'a {
    let series =
        answers.iter().flatten().flat_map(move |body| samples(body, move |own| own == name));
    series.filter_map(|sample| {
        #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
        let at = Timestamp::from_second(sample.value as i64).ok()?;
        (at > Timestamp::UNIX_EPOCH).then(|| (sample.label("type").to_owned(), at))
    })
}

/// The questions of this page: for metrics and for groups.
pub(crate) fn questions(snapshot: &Snapshot) -> [Vec<Question>; 2] {
    [(METRICS_PORT, METRICS), (groups::HEALTH_PORT, SCHEDULER_JOBS)].map(|(port, path)| {
        let replicas = snapshot.ready_addresses(SCHEDULER).take(MAX_ASKED);
        Question::to_each(replicas, port, path)
    })
}

/// Builds the view model. Counts of several replicas are added.
pub(crate) fn view(snapshot: &Snapshot, answers: &Answers, filter: Filter, now: Timestamp) -> Jobs {
    let groups = groups::view(snapshot, &answers.groups, filter, now);
    let answers = answers.metrics.as_slice();
    let answered = answers.iter().flatten().count();
    let error = if answers.is_empty() {
        Some("No pod of the scheduler is ready. Applications without jobs, actor reminders and workflows do not need it.".to_owned())
    } else if answered == 0 {
        let error = answers.iter().find_map(|answer| answer.as_ref().err());
        error.map(|error| format!("The scheduler cannot be asked: {error}"))
    } else {
        None
    };
    let sums = Sums::of(answers.iter().flatten());
    let mut limits = sums.limits();
    let more_limits = limits.len().saturating_sub(MAX_LIMITS);
    limits.truncate(MAX_LIMITS);
    let row = |kind: &'static str| {
        let last = times(answers, LAST_ANSWER).filter(|(own, _)| own == kind);
        sums.row(kind, last.map(|(_, at)| at).max().map(|at| Time::of(at, now)))
    };
    Jobs {
        replicas: snapshot.ready_addresses(SCHEDULER).count(),
        answered,
        stored: sums.gauge("dapr_scheduler_jobs"),
        armed: sums.gauge("dapr_scheduler_armed_jobs"),
        staged: sums.gauge("dapr_scheduler_staged_jobs"),
        waiting: sums.gauge("dapr_scheduler_waiting_jobs"),
        in_flight: sums.gauge("dapr_scheduler_inflight"),
        unreadable: sums.gauge("dapr_scheduler_corrupt_records"),
        streams: sums.gauge("dapr_scheduler_sidecars_connected"),
        says_next: sums.gauge(NEXT_DUE).is_some(),
        next: times(answers, NEXT_DUE).map(|(_, at)| at).min().map(|at| Time::of(at, now)),
        types: if error.is_none() { ["job", "actor"].map(row).into() } else { vec![] },
        limits,
        more_limits,
        groups,
        error,
    }
}

/// The page.
pub(crate) fn render(site: &Site<'_>, view: &Jobs) -> Html {
    if let Some(error) = &view.error {
        return hint(error);
    }
    let number = |value: Option<f64>| {
        text(value.map_or_else(|| "not reported".to_owned(), |value| format!("{value:.0}")))
    };
    // Counts that should be zero are highlighted otherwise.
    let alarm = |value: Option<f64>, level| match value {
        Some(value) if value > 0.0 => badge(level, &format!("{value:.0}")),
        other => number(other),
    };
    let next = match &view.next {
        Some(next) => next.words.as_str(),
        None if view.says_next => "none",
        None => "not known",
    };
    let now = facts([
        ("Jobs and reminders", number(view.stored)),
        ("Not due yet", number(view.armed)),
        ("Next run", text(next)),
        ("Due, no sidecar of the application is connected", alarm(view.staged, Level::Warning)),
        ("Due, waiting for a limit or a busy sidecar", number(view.waiting)),
        ("Delivered, without an answer yet", number(view.in_flight)),
        ("Records that cannot be read", alarm(view.unreadable, Level::Error)),
        ("Streams of sidecars", number(view.streams)),
    ]);
    let rows = view.types.iter().map(|row| {
        let kind = if row.kind == "job" { "Jobs" } else { "Actor reminders and workflows" };
        let whole = |value: f64| text(format!("{value:.0}"));
        let latency =
            row.average_latency_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.0} ms"));
        vec![
            text(kind),
            whole(row.scheduled),
            whole(row.rejected),
            whole(row.delivered),
            whole(row.failed),
            whole(row.without_sidecar),
            whole(row.deleted),
            text(latency),
            text(row.last.as_ref().map_or("–", |last| last.words.as_str())),
        ]
    });
    let headings = [
        "What",
        "Scheduled",
        "Rejected",
        "Delivered",
        "Failed",
        "Without sidecar",
        "Deleted",
        "Average to the answer",
        "Last answer",
    ];
    let types = table("Since the scheduler started", &headings, rows, "No counts.");
    let limits = view.limits.iter().map(|row| {
        vec![
            text(&row.key),
            text(format!("{:.0}", row.running)),
            text(format!("{:.0}", row.waiting)),
        ]
    });
    let empty = "No limit is in use. A workflow or an activity sets one by a Configuration.";
    let limits = table("Concurrency limits", &["Limit", "Running", "Waiting"], limits, empty);
    let all_limits = view.limits.len() + view.more_limits;
    let limits_title = format!("{} in use", words::count(all_limits, "concurrency limit"));
    let silent = (view.answered < view.replicas).then(|| {
        let (answered, replicas) = (view.answered, view.replicas);
        notice(format!("The counts are those of {answered} of {replicas} replicas of the scheduler: the others did not answer, or were not asked."))
    });
    let more = (view.more_limits > 0)
        .then(|| notice(format!("{}.", words::not_shown(view.more_limits, "limit"))));
    [
        silent.unwrap_or_default(),
        section("Now", now),
        section("Since the scheduler started", types),
        section("By application and actor type", groups::render(site, &view.groups)),
        section(&limits_title, [Some(limits), more].into_iter().flatten().collect()),
    ]
    .into_iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const METRICS: &str = "dapr_scheduler_jobs 7\ndapr_scheduler_staged_jobs 2\n\
        dapr_scheduler_jobs_triggered_total{type=\"job\"} 3\n\
        dapr_scheduler_trigger_latency_sum{type=\"job\"} 30\n\
        dapr_scheduler_trigger_latency_count{type=\"job\"} 3\n\
        dapr_scheduler_concurrency_inflight{concurrency_key=\"k\"} 1\n\
        dapr_scheduler_concurrency_pending{concurrency_key=\"k\"} 4\n";
    const NOW: Timestamp = Timestamp::constant(1_000, 0);

    fn view(snapshot: &Snapshot, answers: &[Answer]) -> Jobs {
        let answers = Answers { metrics: answers.to_vec(), groups: Vec::new() };
        super::view(snapshot, &answers, Filter::default(), NOW)
    }

    /// Answers of this many replicas.
    fn answers(text: &str, replicas: usize) -> Vec<Answer> {
        vec![Ok(Bytes::from(text.to_owned())); replicas]
    }

    /// A cluster with this many ready replicas of the scheduler.
    fn cluster(replicas: usize) -> Snapshot {
        Snapshot::of_pods((0..replicas).map(|number| {
            json!({
                "metadata": {"namespace": "dapr-system", "name": format!("scheduler-{number}"),
                    "labels": {"app": SCHEDULER, "app.kubernetes.io/part-of": "dapr"}},
                "status": {"podIP": "10.0.0.1", "phase": "Running"},
            })
        }))
    }

    fn page(view: &Jobs) -> String {
        let snapshot = Snapshot::default();
        render(&Site::new("", &snapshot), view).into_document()
    }

    #[test]
    fn counts_are_those_of_the_metrics() {
        let one = view(&cluster(1), &answers(METRICS, 1));
        assert_eq!((one.stored, one.staged, one.armed), (Some(7.0), Some(2.0), None));
        let jobs = one.types.first().unwrap();
        assert_eq!((jobs.delivered, jobs.average_latency_ms), (3.0, Some(10.0)));
        assert_eq!(one.limits, [LimitRow { key: "k".to_owned(), running: 1.0, waiting: 4.0 }]);
    }

    #[test]
    fn counts_and_limits_of_replicas_are_added() {
        let two = view(&cluster(2), &answers(METRICS, 2));
        assert_eq!(two.stored, Some(14.0));
        assert_eq!(two.types.first().unwrap().average_latency_ms, Some(10.0));
        assert_eq!(two.limits, [LimitRow { key: "k".to_owned(), running: 2.0, waiting: 8.0 }]);
        assert!(!page(&two).contains("replicas of the scheduler"));
    }

    #[test]
    fn the_next_run_is_the_first_of_all_replicas_and_the_last_answer_the_last() {
        let of = |next: i64, last: i64| {
            let text = format!(
                "{NEXT_DUE} {next}\n{LAST_ANSWER}{{type=\"job\"}} {last}\n{LAST_ANSWER}{{type=\"actor\"}} 940\n"
            );
            Ok(Bytes::from(text))
        };
        let all = view(&cluster(3), &[of(1_600, 700), of(1_120, 880), of(0, 0)]);
        assert_eq!(all.next.as_ref().unwrap().words, "in 2 minutes");
        let last: Vec<_> =
            all.types.iter().map(|row| row.last.as_ref().unwrap().words.clone()).collect();
        assert_eq!(last, ["2 minutes ago", "1 minute ago"]);
        assert!(page(&all).contains("in 2 minutes"));
        let none = view(&cluster(1), &[of(0, 0)]);
        assert_eq!(none.next, None);
        assert!(page(&none).contains("<dd>none</dd>"));
        assert!(page(&view(&cluster(1), &answers(METRICS, 1))).contains("not known"));
        assert_eq!(view(&cluster(1), &[of(1_000, 0)]).next.unwrap().words, "now");
    }

    #[test]
    fn replicas_have_a_limit_and_the_page_says_how_many_answered() {
        for (replicas, is_cut) in [(MAX_ASKED, false), (MAX_ASKED + 1, true)] {
            let cluster = cluster(replicas);
            let [asked, groups] = questions(&cluster);
            assert_eq!([asked.len(), groups.len()], [MAX_ASKED; 2]);
            let page = page(&view(&cluster, &answers(METRICS, asked.len())));
            assert_eq!(page.contains("9 of 10 replicas"), is_cut, "{page}");
        }
    }

    #[test]
    fn limits_have_a_limit_and_the_page_says_so() {
        let shown = |limits: usize| {
            let series = |number| {
                format!(
                    "dapr_scheduler_concurrency_inflight{{concurrency_key=\"k{number:03}\"}} 1\n"
                )
            };
            let text: String = (0..limits).map(series).collect();
            let view = view(&cluster(1), &answers(&text, 1));
            assert_eq!(view.limits.len(), MAX_LIMITS);
            page(&view)
        };
        assert!(!shown(MAX_LIMITS).contains("not shown"));
        assert!(shown(MAX_LIMITS + 1).contains("1 more limit is not shown"));
    }

    #[test]
    fn a_scheduler_that_is_not_there_is_said() {
        assert!(view(&cluster(0), &[]).error.unwrap().contains("No pod of the scheduler"));
        let refused = Err(crate::peers::AskError::Address([127, 0, 0, 1].into()));
        assert!(view(&cluster(1), &[refused]).error.unwrap().contains("cannot be asked"));
    }
}

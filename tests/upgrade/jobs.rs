//! Jobs and reminders while the control plane is replaced: each delivery is counted.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use blackbox::demo::Demo;
use blackbox::progress::say;
use blackbox::{Deadline, until};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::TIMEOUT;

/// Jobs that fire once during each replacement, `STEP_MS` apart, from `FIRST_MS` on.
const COUNT: u32 = 40;
const FIRST_MS: u32 = 5_000;
const STEP_MS: u32 = 3_000;
/// Jobs that must not fire in this test.
const DISTANT: u32 = 20;
const DISTANT_MS: u32 = 3_600_000;
/// Jobs that fire again and again, with their periods in milliseconds.
const RECURRING: [(&str, u32); 3] = [("three", 3_000), ("five", 5_000), ("seven", 7_000)];

/// Starts the application and its jobs.
pub(crate) fn start(demo: &Demo) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "jobs", "annotations": {
            "dapr.io/enabled": "true", "dapr.io/app-id": "jobs", "dapr.io/app-port": "3000",
        }},
        "spec": {"containers": [{
            "name": "jobs", "image": crate::NODE_JS, "imagePullPolicy": "IfNotPresent",
            "args": ["-e", include_str!("jobs.js")],
        }]},
    });
    demo.apply(&pod.to_string())?;
    demo.kubectl(&["wait", "--for=condition=Ready", "pod/jobs", "--timeout=3m"])?;
    let mut refused = String::new();
    until(Deadline::seconds(TIMEOUT), "the scheduler to take a job", || {
        let (name, period) = RECURRING[0];
        let taken = post(demo, "every", &json!({"name": name, "period": period}));
        refused = taken.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        Ok(taken.ok())
    })
    .with_context(|| refused)?;
    for (name, period) in &RECURRING[1..] {
        post(demo, "every", &json!({"name": name, "period": period}))?;
    }
    post(demo, "remind", &json!({}))?;
    once(demo, "distant", DISTANT, DISTANT_MS)
}

/// Schedules jobs that fire while the control plane is replaced.
pub(crate) fn plan(demo: &Demo, prefix: &str) -> Result<()> {
    once(demo, prefix, COUNT, FIRST_MS)
}

fn once(demo: &Demo, prefix: &str, count: u32, first: u32) -> Result<()> {
    let plan = json!({"prefix": prefix, "count": count, "first": first, "step": STEP_MS});
    post(demo, "once", &plan)
}

/// Waits until every job that was due by now is delivered and reminders go on; none may be early.
pub(crate) fn nothing_is_lost(demo: &Demo) -> Result<()> {
    let missing = get(demo, "missing")?;
    ensure!(missing == json!([]), "the scheduler has lost {missing}");
    let first = report(demo)?;
    let mut seen = Counts::default();
    until(Deadline::seconds(TIMEOUT), "each delivery", || {
        seen = report(demo)?.counts_since(&first)?;
        Ok(seen.pending.is_empty().then_some(()))
    })
    .with_context(|| format!("{seen}"))?;
    say(format_args!("{seen}"));
    Ok(())
}

fn report(demo: &Demo) -> Result<Report> {
    Ok(serde_json::from_value(get(demo, "")?)?)
}

fn get(demo: &Demo, path: &str) -> Result<Value> {
    let answer = demo.cluster().kubectl(&["get", "--raw", &url(path)])?;
    serde_json::from_str(&answer).with_context(|| format!("the application answers {answer}"))
}

fn post(demo: &Demo, path: &str, body: &Value) -> Result<()> {
    let args = ["create", "--raw", &url(path), "-f", "-"];
    demo.cluster().kubectl_with_input(&args, &body.to_string()).map(drop)
}

/// The application, through the API server.
fn url(path: &str) -> String {
    format!("/api/v1/namespaces/hello/pods/jobs:3000/proxy/{path}")
}

/// What the application knows. Times are in milliseconds.
#[derive(Debug, Deserialize)]
struct Report {
    now: u64,
    /// Of the reminder.
    ticks: u64,
    jobs: BTreeMap<String, Job>,
}

#[derive(Debug, Deserialize)]
struct Job {
    asked: u64,
    #[serde(flatten)]
    when: When,
    delivered: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    /// Once, at that time.
    Due(u64),
    /// Again and again, from one period after it was asked for.
    Period(u64),
}

impl Job {
    /// The number of deliveries that are due by then.
    fn owed(&self, now: u64) -> usize {
        let owed = match self.when {
            When::Due(due) => u64::from(due <= now),
            When::Period(period) => now.saturating_sub(self.asked) / period,
        };
        usize::try_from(owed).unwrap_or(usize::MAX)
    }

    /// How many deliveries were more than were due. Those of a job that fires once are repetitions.
    fn extra(&self) -> usize {
        let ahead = |(before, at): (usize, &u64)| (before + 1).saturating_sub(self.owed(*at));
        self.delivered.iter().enumerate().map(ahead).max().unwrap_or_default()
    }
}

/// The deliveries of all jobs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    delivered: usize,
    /// Jobs with more deliveries than were due, and how many.
    extra: BTreeMap<String, usize>,
    /// Jobs with fewer.
    pending: Vec<String>,
    /// Largest delay of a job that fires once, in milliseconds.
    latest: u64,
    ticks: u64,
}

impl Report {
    /// Counts the deliveries; those that were due by an earlier report must be there.
    fn counts_since(&self, earlier: &Self) -> Result<Counts> {
        let mut counts = Counts { ticks: self.ticks, ..Counts::default() };
        for (name, job) in &self.jobs {
            counts.delivered += job.delivered.len();
            if let (When::Due(due), Some(first)) = (job.when, job.delivered.first()) {
                ensure!(due <= *first, "{name} came {} ms early", due - first);
                counts.latest = counts.latest.max(first - due);
            }
            if job.extra() > 0 {
                counts.extra.insert(name.clone(), job.extra());
            }
            if job.delivered.len() < job.owed(earlier.now) {
                counts.pending.push(name.clone());
            }
        }
        if self.ticks <= earlier.ticks {
            counts.pending.push("reminder".to_owned());
        }
        Ok(counts)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delivered, extra, pending, latest, ticks } = self;
        write!(
            f,
            "{delivered} deliveries of jobs, at most {latest} ms late; more than due: {extra:?}; \
             {ticks} ticks of the reminder; to come: {pending:?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(job: &Value) -> Result<Counts> {
        let report = |now: u64, ticks: u64| json!({"now": now, "ticks": ticks, "jobs": {"a": job}});
        let [first, second] =
            [report(10_000, 3), report(20_000, 4)].map(serde_json::from_value::<Report>);
        second?.counts_since(&first?)
    }

    #[test]
    fn each_delivery_is_counted_once_and_not_before_its_time() -> Result<()> {
        let late = counts(&json!({"asked": 0, "due": 7_000, "delivered": [7_500]}))?;
        assert_eq!((late.latest, late.pending.len(), late.extra.len()), (500, 0, 0));
        let twice = counts(&json!({"asked": 0, "due": 7_000, "delivered": [7_500, 7_600]}))?;
        assert_eq!(twice.extra, [("a".to_owned(), 1)].into());
        let lost = counts(&json!({"asked": 0, "due": 7_000, "delivered": []}))?;
        assert_eq!(lost.pending, ["a"]);
        assert!(counts(&json!({"asked": 0, "due": 7_000, "delivered": [6_999]})).is_err());
        Ok(())
    }

    #[test]
    fn ticks_that_were_missed_are_expected_later() -> Result<()> {
        let all = counts(&json!({"asked": 0, "period": 4_000, "delivered": [9_000, 9_001]}))?;
        assert_eq!((all.pending.len(), all.extra.len(), all.delivered), (0, 0, 2));
        let twice =
            counts(&json!({"asked": 0, "period": 4_000, "delivered": [4_000, 4_100, 8_000]}))?;
        assert_eq!((twice.pending.len(), twice.extra), (0, [("a".to_owned(), 1)].into()));
        let lost = counts(&json!({"asked": 0, "period": 4_000, "delivered": [4_000]}))?;
        assert_eq!(lost.pending, ["a"]);
        Ok(())
    }
}

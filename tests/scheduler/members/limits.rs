//! A concurrency limit is shared by all members.

use std::time::Duration;

use anyhow::{Result, ensure};
use blackbox::{http, soon, until};
use proto::scheduler::concurrency_limit::Target;
use proto::scheduler::job_target_metadata::Type;
use proto::scheduler::{
    ConcurrencyLimit, ConcurrencyLimitActor, JobTargetMetadata, KnownMetadata, ScheduleJobRequest,
    TargetActorReminder, WatchJobsRequestInitial,
};
use rstest::rstest;

use super::Three;
use crate::processes::member::{metadata, names, once};

const TYPE: &str = "cat";
const REMINDERS: usize = 60;
/// Longer than the test.
const NEVER: Duration = Duration::from_hours(1);

/// The first message of a sidecar whose actors run so many reminders at a time.
fn limited(max_concurrent: i32) -> WatchJobsRequestInitial {
    let target = Some(Target::Actor(ConcurrencyLimitActor { r#type: TYPE.to_owned() }));
    WatchJobsRequestInitial {
        actor_types: vec![TYPE.to_owned()],
        concurrency_limits: vec![ConcurrencyLimit { max_concurrent, name: None, target }],
        ..WatchJobsRequestInitial::default()
    }
}

fn reminder(id: &str) -> ScheduleJobRequest {
    let actor = TargetActorReminder { id: id.to_owned(), r#type: TYPE.to_owned() };
    let target = Some(JobTargetMetadata { r#type: Some(Type::Actor(actor)) });
    ScheduleJobRequest {
        name: id.to_owned(),
        job: Some(once("0s")),
        metadata: Some(KnownMetadata { target, ..metadata() }.into()),
        overwrite: false,
    }
}

impl Three {
    /// The sum of a gauge of all members.
    fn sum(&self, gauge: &str) -> Result<usize> {
        let series = format!("dapr_scheduler_{gauge}{{concurrency_key=\"{TYPE}\"}}");
        let mut sum = 0.0;
        for member in &self.members {
            sum += http::metric(member.metrics, &series)?.unwrap_or_default();
        }
        Ok(format!("{sum}").parse()?)
    }
}

/// Each member has at least one, whatever the limit.
#[rstest]
#[case::shared(6, 6)]
#[case::below_the_number_of_members(2, 3)]
fn a_limit_holds_over_all_members(#[case] limit: i32, #[case] running: usize) -> Result<()> {
    let three = Three::start()?;
    three.crowd.work_for(NEVER);
    for member in &three.members {
        three.crowd.watch_as(member.port, limited(limit));
    }
    let reminders = names("reminder", REMINDERS);
    for (id, member) in reminders.iter().zip(three.members.iter().cycle()) {
        three.crowd.send(member.port, reminder(id))?;
    }
    until(soon(), "all others to wait", || {
        let (waiting, sent) = (three.sum("concurrency_pending")?, three.crowd.seen().len());
        ensure!(sent <= running, "{sent} run at a time");
        Ok((waiting == REMINDERS - running && sent == running).then_some(()))
    })?;
    ensure!(three.sum("concurrency_inflight")? == running);
    // Each answer starts one, and never more.
    three.crowd.work_for(Duration::from_millis(50));
    until(soon(), "every reminder", || {
        let running_now = three.sum("concurrency_inflight")?;
        ensure!(running_now <= running, "{running_now} run at a time");
        Ok((three.crowd.counts().len() == REMINDERS).then_some(()))
    })?;
    three.crowd.ensure_once(&reminders)
}

//! The scheduler in the demo: a job of the order service, a reminder of an actor.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{CONTROL_PLANE, Demo};
use crate::{Deadline, until};

/// The pod of the scheduler.
const POD: &str = "dapr-scheduler-server-0";
/// The actor whose reminder is checked; no other step uses it.
const ACTOR: &str = "reminded";
/// Further ticks of the reminder to wait for.
const TICKS: i64 = 2;
/// Seconds for a pod to be replaced and sidecars to connect again.
const SECONDS: u64 = 180;

impl Demo {
    /// Lets the order service schedule a job for `due` (a duration as Dapr writes it; the same in
    /// `milliseconds`) and waits until its sidecar delivers it. Returns by how many milliseconds
    /// it is late, by the clock of the application.
    ///
    /// # Errors
    /// It comes too early, or not in time.
    pub fn job_arrives(&self, due: &str, milliseconds: i64) -> Result<i64> {
        self.schedule_job("hello", due)?;
        let job = until(Deadline::seconds(SECONDS), "the job to arrive", || {
            let Ok(answer) = self.raw(&["get"], "/jobs/hello", None) else { return Ok(None) };
            let job: Value = serde_json::from_str(&answer)?;
            Ok(job["arrived"].is_i64().then_some(job))
        })?;
        let time = |key: &str| job[key].as_i64().with_context(|| format!("no {key} in {job}"));
        let late = time("arrived")? - time("asked")? - milliseconds;
        ensure!(late >= 0, "the job for in {due} came {} ms early", -late);
        Ok(late)
    }

    /// Lets the order service schedule a job for `due`, a duration as Dapr writes it.
    ///
    /// # Errors
    /// No scheduler accepts it in time.
    pub fn schedule_job(&self, name: &str, due: &str) -> Result<()> {
        let body = json!({ "dueTime": due }).to_string();
        let accepted = || Ok(self.raw(&["create"], &format!("/jobs/{name}"), Some(&body)).ok());
        until(Deadline::seconds(SECONDS), "the job to be accepted", accepted).map(drop)
    }

    /// An actor registers a reminder of each second; the scheduler's pod is deleted, and the
    /// reminder continues. Returns the actor's count.
    ///
    /// # Errors
    /// It does not continue.
    pub fn reminder_survives(&self) -> Result<i64> {
        until(Deadline::seconds(SECONDS), "the reminder to be accepted", || {
            Ok(self.raw(&["create"], &format!("/ticks/{ACTOR}"), Some("{}")).ok())
        })?;
        self.ticks_go_on()?;
        let uid = || -> Result<Value> {
            let pod = self.cluster.get(&["pod", POD, "-n", CONTROL_PLANE])?;
            Ok(pod["metadata"]["uid"].clone())
        };
        let before = uid()?;
        let delete = ["-n", CONTROL_PLANE, "delete", "pod", POD, "--grace-period=0", "--force"];
        self.cluster.kubectl(&delete)?;
        until(Deadline::seconds(SECONDS), "another pod of the scheduler", || {
            Ok(uid().ok().filter(|now| *now != before))
        })?;
        self.control_plane()?;
        let counted = self.ticks_go_on()?;
        // The ticks may come through the sidecar of the other pod while the actor's own still waits to
        // connect again.
        until(Deadline::seconds(SECONDS), "the reminder to be deleted", || {
            Ok(self.raw(&["delete"], &format!("/ticks/{ACTOR}"), None).ok())
        })?;
        Ok(counted)
    }

    /// Waits for more ticks; returns the count after them.
    fn ticks_go_on(&self) -> Result<i64> {
        let count = || -> Result<Option<i64>> {
            let Ok(answer) = self.raw(&["get"], &format!("/count/{ACTOR}"), None) else {
                return Ok(None);
            };
            Ok(serde_json::from_str::<Value>(&answer)?["count"].as_i64())
        };
        let before = until(Deadline::seconds(SECONDS), "the actor to answer", count)?;
        until(Deadline::seconds(SECONDS), "more ticks of the reminder", || {
            Ok(count()?.filter(|now| *now >= before + TICKS))
        })
    }
}

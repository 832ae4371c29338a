//! The scheduler as a process, with official sidecars and with crashes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

mod etcd;
mod faults;
mod jobs;
mod members;
mod namespaces;
mod native;
mod processes;
mod self_hosted;
mod versions;
mod workflow;

use std::time::{Duration, SystemTime};

use blackbox::{Tool, TriggerApp, http, soon, until};
use rustix::process::Signal;
use serde_json::json;

use processes::{Placement, Scheduler, Sidecar};

fn schedule(sidecar: &Sidecar, name: &str, body: &serde_json::Value) {
    let path = format!("/v1.0-alpha1/jobs/{name}");
    let answer = http::post(sidecar.daprd.http_port, &path, body).unwrap();
    assert!(answer.is_success(), "{}: {}", answer.status, answer.body);
}

fn wait_for(app: &TriggerApp, count: usize) {
    let what = format!("{count} triggers");
    until(soon(), &what, || Ok((app.received().len() >= count).then_some(()))).unwrap();
}

#[test]
fn a_job_through_the_sidecar_arrives_on_time() {
    let scheduler = Scheduler::start();
    let app = TriggerApp::start(&[]).unwrap();
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &scheduler, None);
    let asked = SystemTime::from(runtime::clock::now());
    schedule(&sidecar, "hello", &json!({"dueTime": "2s", "data": {"a": 1}}));
    wait_for(&app, 1);
    let trigger = &app.received()[0];
    assert_eq!(trigger.path, "/job/hello");
    assert!(trigger.at.duration_since(asked).unwrap() >= Duration::from_secs(2), "never early");
    until(soon(), "the scheduler to count it", || {
        let series = r#"dapr_scheduler_jobs_triggered_total{type="job"}"#;
        Ok(http::metric(scheduler.metrics, series)?.filter(|count| *count >= 1.0))
    })
    .unwrap();
    let gone = http::get(sidecar.daprd.http_port, "/v1.0-alpha1/jobs/hello").unwrap();
    assert!(!gone.is_success(), "{}: {}", gone.status, gone.body);
}

#[test]
fn an_actor_reminder_goes_on_after_the_scheduler_was_killed() {
    let mut scheduler = Scheduler::start();
    let placement = Placement::start();
    let app = TriggerApp::start(&["cat"]).unwrap();
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &scheduler, Some(&placement));
    let path = "/v1.0/actors/cat/tom/reminders/feed";
    let body = json!({"dueTime": "0s", "period": "500ms"});
    until(soon(), "the reminder to be taken", || {
        Ok(http::post(sidecar.daprd.http_port, path, &body)?.is_success().then_some(()))
    })
    .unwrap();
    wait_for(&app, 2);
    assert_eq!(app.received()[0].path, "/actors/cat/tom/method/remind/feed");
    scheduler.crash();
    let before = app.received().len();
    wait_for(&app, before + 3);
}

#[test]
fn a_job_whose_sidecar_dies_before_the_answer_is_delivered_again() {
    let scheduler = Scheduler::start();
    let app = TriggerApp::start(&[]).unwrap();
    app.hold(true);
    let mut first = Sidecar::start(Tool::DAPRD, "app", &app, &scheduler, None);
    schedule(&first, "again", &json!({"dueTime": "0s"}));
    wait_for(&app, 1);
    first.daprd.process().signal(Signal::KILL).unwrap();
    app.hold(false);
    let _second = Sidecar::start(Tool::DAPRD, "app", &app, &scheduler, None);
    wait_for(&app, 2);
    assert!(app.received().iter().all(|trigger| trigger.path == "/job/again"));
}

#[test]
fn a_job_that_fails_is_repeated_as_its_policy_says() {
    let scheduler = Scheduler::start();
    let app = TriggerApp::start(&[]).unwrap();
    app.fail(true);
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &scheduler, None);
    // The default: three repetitions, a second apart.
    schedule(&sidecar, "fails", &json!({"dueTime": "0s"}));
    wait_for(&app, 4);
    until(soon(), "the job to be given up", || {
        let path = "/v1.0-alpha1/jobs/fails";
        Ok((!http::get(sidecar.daprd.http_port, path)?.is_success()).then_some(()))
    })
    .unwrap();
    assert_eq!(app.received().len(), 4);
}

#[test]
fn signals_end_it_in_order_and_its_jobs_stay() {
    let mut scheduler = Scheduler::start();
    let app = TriggerApp::start(&[]).unwrap();
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &scheduler, None);
    schedule(&sidecar, "later", &json!({"dueTime": "1h"}));
    for signal in [Signal::TERM, Signal::INT] {
        scheduler.process.signal(signal).unwrap();
        let status = until(soon(), "the end", || Ok(scheduler.process.exit_status())).unwrap();
        assert_eq!(status.code(), Some(0), "{}", scheduler.process.log());
        scheduler.restart();
    }
    until(soon(), "the job to be found", || {
        let path = "/v1.0-alpha1/jobs/later";
        Ok(http::get(sidecar.daprd.http_port, path)?.is_success().then_some(()))
    })
    .unwrap();
}

//! `daprctl jobs` with both schedulers: what one exports the other runs.

mod engines;

use std::path::Path;
use std::process::{Command, Output};

use blackbox::{Scratch, Tool, TriggerApp, build_daprctl, environment, http, soon, until};
use serde_json::{Value, json};

use crate::etcd::client_port::etcdctl;
use crate::processes::{Scheduler, Sidecar};
use crate::{schedule, wait_for};

/// `daprctl jobs` with the scheduler whose client port this is.
fn daprctl(client: u16, args: &[&str]) -> Output {
    let mut command = Command::new(build_daprctl().unwrap());
    command.arg("jobs").args(args).arg(format!("--address=127.0.0.1:{client}"));
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The jobs, without what is written anew when a job is put.
fn list(client: u16) -> Vec<Value> {
    let text = said(&daprctl(client, &["list", "-o", "json"]));
    let all: Value = serde_json::from_str(&text).unwrap();
    all["jobs"].as_array().unwrap().clone()
}

/// A scheduler with jobs of an app: 150 far ones, and one that ends after three triggers of which two
/// are delivered.
fn fill(scheduler: &Scheduler, app: &TriggerApp) {
    let sidecar = Sidecar::start(Tool::DAPRD, "app", app, scheduler, None);
    for number in 0..150 {
        let data = json!({"dueTime": "24h", "data": {"number": number}});
        schedule(&sidecar, &format!("far-{number:03}"), &data);
    }
    schedule(&sidecar, "thrice", &json!({"schedule": "@every 3s", "repeats": 3}));
    wait_for(app, 2);
    until(soon(), "the counter", || {
        let jobs = list(scheduler.client);
        let counted = jobs.iter().any(|job| job["name"] == "thrice" && job["count"] == 2);
        Ok(counted.then_some(()))
    })
    .unwrap();
}

/// Exports from one, imports in the other: the same records, and each job runs there under its own
/// name, from where it was.
fn moves(from: &Scheduler, to: &Scheduler, format: &str) {
    let app = TriggerApp::start(&[]).unwrap();
    fill(from, &app);
    let folder = Scratch::new("jobs").unwrap();
    let file = folder.path().join("jobs.export").to_string_lossy().into_owned();
    let exported = said(&daprctl(from.client, &["export", &file, "--format", format]));
    assert!(exported.starts_with("exported 151 jobs and 1 counter "), "{exported}");
    let before = list(from.client);
    let imported = said(&daprctl(to.client, &["import", &file]));
    assert_eq!(
        imported.lines().nth(1).unwrap().rsplit(' ').next(),
        exported.trim().rsplit(' ').next()
    );
    assert!(!Path::new(&format!("{file}.progress")).exists());

    let received = app.received().len();
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, to, None);
    until(soon(), "the last trigger", || Ok((app.received().len() > received).then_some(())))
        .unwrap();
    until(soon(), "the job to end", || {
        Ok((!list(to.client).iter().any(|job| job["name"] == "thrice")).then_some(()))
    })
    .unwrap();
    assert_eq!(app.received().len(), received + 1, "one trigger was left");
    let far = |jobs: Vec<Value>| -> Vec<Value> {
        jobs.into_iter().filter(|job| job["name"] != "thrice").collect()
    };
    assert_eq!(far(list(to.client)), far(before));
    for path in ["far-000", "far-149"] {
        let path = format!("/v1.0-alpha1/jobs/{path}");
        let answer = http::get(sidecar.daprd.http_port, &path).unwrap();
        assert!(answer.is_success(), "{}: {}", answer.status, answer.body);
    }
}

#[test]
fn jobs_move_from_daprs_scheduler_to_ours() {
    let (reference, ours) = (Scheduler::start_reference(), Scheduler::start());
    moves(&reference, &ours, "trilby");
}

#[test]
fn jobs_move_from_our_scheduler_to_daprs() {
    let (reference, ours) = (Scheduler::start_reference(), Scheduler::start());
    moves(&ours, &reference, "dapr");
}

#[test]
fn jobs_are_listed_shown_and_deleted_by_their_keys() {
    let scheduler = Scheduler::start();
    let app = TriggerApp::start(&[]).unwrap();
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &scheduler, None);
    schedule(&sidecar, "secret", &json!({"dueTime": "24h", "data": "sesame"}));
    schedule(&sidecar, "other", &json!({"dueTime": "24h"}));
    let jobs = list(scheduler.client);
    let key = jobs.iter().find(|job| job["name"] == "secret").unwrap()["key"].as_str().unwrap();
    let namespace = jobs[0]["namespace"].as_str().unwrap();
    let table = said(&daprctl(scheduler.client, &["list", "--kind", "job"]));
    assert!(table.contains(key) && !table.contains("sesame"), "{table}");
    let shown = said(&daprctl(scheduler.client, &["get", key]));
    assert!(shown.contains("dueTime: 24h"), "{shown}");
    let short = ["get", "app/app/secret", "-n", namespace, "-o", "json", "--payload"];
    let shown: Value = serde_json::from_str(&said(&daprctl(scheduler.client, &short))).unwrap();
    assert!(shown["jobs"][0]["payload"]["value"].is_string(), "{shown}");
    assert!(said(&daprctl(scheduler.client, &["delete", key])).contains("deleted"));
    assert!(refusal(&daprctl(scheduler.client, &["delete", key])).contains("no such job"));
    assert!(refusal(&daprctl(scheduler.client, &["get", key])).contains("no such job"));
    assert_eq!(list(scheduler.client).len(), 1);
}

/// The second run goes on behind what the first has put: a job that ran meanwhile stays away.
#[test]
fn an_import_that_was_stopped_goes_on() {
    let (source, target) = (Scheduler::start(), Scheduler::start());
    let app = TriggerApp::start(&[]).unwrap();
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &source, None);
    for name in ["a", "b", "c"] {
        schedule(&sidecar, name, &json!({"dueTime": "24h"}));
    }
    let folder = Scratch::new("jobs").unwrap();
    let file = folder.path().join("jobs.export").to_string_lossy().into_owned();
    said(&daprctl(source.client, &["export", &file]));
    let jobs = list(source.client);
    let [first, second] = [0, 1].map(|at| jobs[at]["key"].as_str().unwrap().to_owned());
    // Another job stands in the way of the second.
    etcdctl(target.client, &["put", &format!("dapr/jobs/{second}"), "other"]);
    let stopped = refusal(&daprctl(target.client, &["import", &file]));
    assert!(stopped.contains(&second) && stopped.contains("--overwrite"), "{stopped}");
    said(&daprctl(target.client, &["delete", &first, &second]));
    let resumed = said(&daprctl(target.client, &["import", &file]));
    assert!(resumed.contains("1 by an earlier run"), "{resumed}");
    let keys: Vec<_> = list(target.client).iter().map(|job| job["key"].clone()).collect();
    assert_eq!(keys, [jobs[1]["key"].clone(), jobs[2]["key"].clone()]);
    // A whole import finds what is there, and fills what is missing.
    let again = said(&daprctl(target.client, &["import", &file]));
    assert!(again.contains("2 there already with the same content"), "{again}");
    assert_eq!(list(target.client), jobs);
    let twice = refusal(&daprctl(source.client, &["export", &file]));
    assert!(twice.contains("jobs.export"), "an export replaces no file: {twice}");
}

#[test]
fn a_scheduler_that_does_not_answer_is_named() {
    let free = environment::free_port().unwrap();
    let said = refusal(&daprctl(free, &["list"]));
    assert!(said.contains(&format!("127.0.0.1:{free}")), "{said}");
}

/// `GET /scheduler/jobs` on the health port, which the dashboard reads.
#[test]
fn jobs_are_counted_by_application_where_that_is_switched_on() {
    let counting =
        Scheduler::start_with(environment::free_port().unwrap(), &["--metadata-enabled"]);
    let app = TriggerApp::start(&[]).unwrap();
    let sidecar = Sidecar::start(Tool::DAPRD, "app", &app, &counting, None);
    for name in ["a", "b", "c"] {
        schedule(&sidecar, name, &json!({"dueTime": "24h"}));
    }
    let counts = http::get(counting.health, "/scheduler/jobs").unwrap().json().unwrap();
    let group = &counts["groups"][0];
    assert_eq!(
        (&group["kind"], &group["name"], &group["jobs"]),
        (&json!("job"), &json!("app"), &json!(3))
    );
    assert_eq!((counts["groups"].as_array().unwrap().len(), &counts["omitted"]), (1, &json!(0)));
    assert!(group["nextDue"].as_str().unwrap() > "2026", "{counts}");
    let silent = Scheduler::start();
    assert_eq!(http::get(silent.health, "/scheduler/jobs").unwrap().status, 404);
}

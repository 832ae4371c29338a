//! Official sidecars of every version that uses a scheduler: jobs and reminders, and the reminders
//! that older ones kept in a state store.

use anyhow::Result;
use blackbox::{Daprd, Redis, Scratch, Tool, TriggerApp, http, soon, until};
use serde_json::{Value, json};

use crate::etcd::client_port::etcdctl;
use crate::processes::{Placement, Scheduler, Sidecar};
use crate::schedule;

/// Sidecars before 1.15 keep reminders in a state store.
pub(crate) fn sidecars() -> impl Iterator<Item = Tool> {
    Tool::sidecars().into_iter().filter(|tool| *tool != Tool::DAPRD_1_14)
}

#[test]
fn jobs_and_reminders_of_every_sidecar_survive_a_crash() {
    let placement = Placement::start();
    for version in sidecars() {
        let mut scheduler = Scheduler::start();
        let app = TriggerApp::start(&["cat"]).unwrap();
        let sidecar = Sidecar::start(version, "app", &app, &scheduler, Some(&placement));
        let path = "/v1.0/actors/cat/tom/reminders/feed";
        let body = json!({"dueTime": "0s", "period": "500ms"});
        until(soon(), &format!("{version:?}: the reminder to be taken"), || {
            Ok(http::post(sidecar.daprd.http_port, path, &body)?.is_success().then_some(()))
        })
        .unwrap();
        schedule(&sidecar, "tick", &json!({"schedule": "@every 500ms", "data": {"a": 1}}));
        let two_more = || {
            for path in ["/job/tick", "/actors/cat/tom/method/remind/feed"] {
                let calls = || app.received().iter().filter(|call| call.path == path).count();
                let before = calls();
                until(soon(), &format!("{version:?}: two more calls of {path}"), || {
                    Ok((calls() >= before + 2).then_some(()))
                })
                .unwrap();
            }
        };
        two_more();
        scheduler.crash();
        two_more();
        let job = http::get(sidecar.daprd.http_port, "/v1.0-alpha1/jobs/tick").unwrap();
        assert_eq!(job.json().unwrap()["schedule"], "@every 500ms", "{version:?}");
        for path in [path, "/v1.0-alpha1/jobs/tick"] {
            let gone = http::request(sidecar.daprd.http_port, "DELETE", path, &[], None).unwrap();
            assert!(gone.is_success(), "{version:?} {path}: {} {}", gone.status, gone.body);
        }
        assert_eq!(stored(&scheduler), 0, "{version:?}");
    }
}

/// Jobs in the store.
fn stored(scheduler: &Scheduler) -> u64 {
    let answer = etcdctl(scheduler.client, &["get", "dapr/jobs/", "--prefix", "--keys-only"]);
    let answer: Value = serde_json::from_str(answer.trim()).unwrap();
    answer["count"].as_u64().unwrap_or(0)
}

/// Sidecars 1.15 and 1.16 move them, in a burst of parallel calls.
#[test]
fn reminders_of_a_state_store_are_moved_by_an_older_sidecar() -> Result<()> {
    const REMINDERS: u64 = 50;
    let (redis, scheduler, placement) =
        (Redis::start(None)?, Scheduler::start(), Placement::start());
    let app = TriggerApp::start(&["cat"])?;
    let folder = Scratch::new("resources")?;
    folder.write("store.yaml", redis.actor_state())?;
    let start = |version: Tool, in_scheduler: bool| -> Result<Daprd> {
        let files = Scratch::new("configuration")?;
        let features = json!([{"name": "SchedulerReminders", "enabled": in_scheduler}]);
        let config = json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
            "metadata": {"name": "reminders"}, "spec": {"features": features},
        });
        let config = files.write("config.yaml", config.to_string())?;
        let mut daprd = Daprd::builder("app")
            .version(version)
            .arg(format!("--config={}", config.display()))
            .resources(folder.path())
            .scheduler(&scheduler.address())
            .placement(&placement.address())
            .arg(format!("--app-port={}", app.port()))
            .on_loopback()
            .start()?;
        daprd.wait_ready(soon())?;
        Ok(daprd)
    };

    let mut old = start(Tool::DAPRD_1_15, false)?;
    for number in 0..REMINDERS {
        let path = format!("/v1.0/actors/cat/{number}/reminders/feed");
        let body = json!({"dueTime": "1h", "period": "1h"});
        until(soon(), "the reminder to be taken", || {
            Ok(http::post(old.http_port, &path, &body)?.is_success().then_some(()))
        })?;
    }
    assert_eq!(stored(&scheduler), 0, "they are in the state store");
    old.process().terminate(soon())?;
    for version in sidecars().filter(|version| *version != Tool::DAPRD) {
        let mut new = start(version, true)?;
        until(soon(), &format!("{version:?} to move all reminders"), || {
            Ok((stored(&scheduler) == REMINDERS).then_some(()))
        })?;
        let path = "/v1.0/actors/cat/7/reminders/feed";
        let moved = http::get(new.http_port, path)?;
        assert!(moved.is_success() && moved.body.contains("1h"), "{version:?}: {}", moved.body);
        new.process().terminate(soon())?;
    }
    Ok(())
}

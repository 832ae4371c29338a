//! The etcd API with `etcdctl`.

use std::process::Command;

use blackbox::{Scratch, Tool};
use serde_json::Value;

use crate::processes::Scheduler;
use crate::processes::etcd_server::EtcdServer;

/// The scheduler's own pair, which an etcd gets by hand.
const LEADERSHIP: &str = "dapr/leadership/dapr-scheduler-server-0";

/// One line for each call. What two stores cannot have in common is masked.
const SCRIPT: &[&[&str]] = &[
    &["put", "t/a", "1"],
    &["put", "t/a", "2", "--prev-kv"],
    &["put", "t/b", "1"],
    &["get", "t/a"],
    &["get", "t/", "--prefix"],
    &["get", "t/", "--prefix", "--limit=1"],
    &["get", "t/", "--prefix", "--keys-only"],
    &["get", "t/", "--prefix", "--count-only", "--write-out=fields"],
    &["get", "t/", "--prefix", "--sort-by=MODIFY", "--order=DESCEND"],
    &["get", "t/", "--prefix", "--sort-by=VALUE"],
    &["get", "t/b", "--from-key"],
    &["get", "t/a", "t/b"],
    &["get", "t/none"],
    &["get", "t/a", "--rev=99"],
    &["put", "t/a", "--ignore-value"],
    &["put", "t/none", "--ignore-value"],
    &["put", "t/none", "v", "--ignore-lease"],
    &["put", "t/none", "v", "--lease=77"],
    &["del", "t/none"],
    &["del", "t/b", "--prev-kv"],
    &["compaction", "4"],
    &["compaction", "4"],
    &["compaction", "99"],
    &["get", "t/a", "--rev=3"],
    &["lease", "revoke", "77"],
    &["lease", "timetolive", "77"],
    &["alarm", "list"],
    &["alarm", "disarm"],
    &["defrag"],
    &["put", "t/z", "end"],
    &["get", "t/z"],
];

/// Runs it and returns what it said, with what no two stores have in common masked.
pub(crate) fn etcdctl(port: u16, args: &[&str]) -> String {
    let mut command = Command::new(Tool::ETCDCTL.path().unwrap());
    command.arg(format!("--endpoints=127.0.0.1:{port}")).args(["--write-out=json"]).args(args);
    let done = command.output().unwrap();
    // Of the lines that the client logs only the error is part of the answer.
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    let error = errors.lines().filter(|line| line.starts_with("Error")).collect::<String>();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let own = ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\""];
    let shared = said.lines().filter(|line| !own.iter().any(|name| line.starts_with(name)));
    let lines = shared.map(|line| match serde_json::from_str::<Value>(line) {
        Ok(mut answer) => {
            mask(&mut answer);
            answer.to_string()
        }
        Err(_) => line.replace(&port.to_string(), "PORT").split(" took ").take(1).collect(),
    });
    lines.chain([error]).collect::<Vec<_>>().join("\n")
}

fn mask(answer: &mut Value) {
    match answer {
        Value::Object(members) => {
            members.retain(|name, _| {
                !["cluster_id", "member_id", "raft_term"].contains(&name.as_str())
            });
            members.values_mut().for_each(mask);
        }
        Value::Array(values) => values.iter_mut().for_each(mask),
        _ => {}
    }
}

#[test]
fn etcdctl_gets_the_answers_of_an_etcd() {
    let (scheduler, etcd) = (Scheduler::start(), EtcdServer::start().unwrap());
    etcdctl(etcd.port, &["put", LEADERSHIP, "as the scheduler does"]);
    for args in SCRIPT {
        let [ours, theirs] = [scheduler.client, etcd.port].map(|port| etcdctl(port, args));
        assert_eq!(ours, theirs, "{args:?}");
    }
    let folder = Scratch::new("snapshot").unwrap();
    let file = folder.path().join("file").to_string_lossy().into_owned();
    etcdctl(scheduler.client, &["snapshot", "save", &file]);
    assert_eq!(std::fs::metadata(&file).unwrap().len() % 512, 32, "etcdctl checked it");
}

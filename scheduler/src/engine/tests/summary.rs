//! Jobs counted by application and actor type.

use serde_json::{Value, json};

use super::*;
use crate::engine::summary::{Summary, Walk};

impl Fixture {
    fn count(&self) -> Summary {
        let mut walk = Walk::default();
        loop {
            match self.engine.count(walk) {
                Ok(summary) => return summary,
                Err(further) => walk = further,
            }
        }
    }
}

fn groups(summary: &Summary) -> Vec<Value> {
    summary.groups().map(|group| serde_json::to_value(group).unwrap()).collect()
}

#[test]
fn jobs_are_counted_by_what_they_wait_for() {
    let mut fixture = Fixture::new();
    fixture.put("app||ns||app||far", &due("1h"));
    fixture.put("app||ns||app||near", &due("10s"));
    fixture.put("app||ns||app||now", &due("0s"));
    fixture.put("neither", &due("0s"));
    fixture.put_actor("actorreminder||ns||type||1||a", None);
    let staged = fixture.count();
    assert_eq!(staged.omitted(), 1);
    let near = "2023-11-14T22:13:30Z";
    assert_eq!(
        groups(&staged),
        [
            json!({"namespace": "ns", "kind": "job", "name": "app", "jobs": 3, "staged": 1,
                "waiting": 0, "inFlight": 0, "nextDue": near}),
            json!({"namespace": "ns", "kind": "actor", "name": "type", "jobs": 1, "staged": 1,
                "waiting": 0, "inFlight": 0, "nextDue": null}),
        ]
    );
    fixture.open(1);
    let delivered = groups(&fixture.count());
    let counts =
        |group: &Value| [&group["staged"], &group["inFlight"]].map(|n| n.as_u64().unwrap());
    assert_eq!(delivered.iter().map(counts).collect::<Vec<_>>(), [[0, 1], [0, 1]]);
}

#[test]
fn a_count_in_steps_meets_each_job_once() {
    let mut fixture = Fixture::new();
    for number in 0..20_000 {
        fixture.put(&format!("app||ns||app||{number}"), &due("1h"));
    }
    let count = fixture.count();
    assert_eq!((groups(&count)[0]["jobs"].as_u64(), count.omitted()), (Some(20_000), 0));
}

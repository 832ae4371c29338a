//! A client that calls through its sidecar while the control plane is replaced.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use blackbox::demo::{CONTROL_PLANE, Demo};
use blackbox::{Deadline, until};
use serde_json::{Value, json};

use crate::TIMEOUT;

/// Its calls: `invoke` calls the order service of the sample, `actor…` its actors; `job` is how
/// often the scheduler called back.
const CALLS: [&str; 4] = ["invoke", "actor1", "actor2", "job"];

/// Starts it in the sample's namespace and waits until each of its calls has been answered.
pub(crate) fn start(demo: &Demo) -> Result<()> {
    let script = include_str!("client.js");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "client", "labels": {"app": "client"}, "annotations": {
            "dapr.io/enabled": "true", "dapr.io/app-id": "client", "dapr.io/app-port": "3000",
        }},
        "spec": {"containers": [{
            "name": "client", "image": crate::NODE_JS, "imagePullPolicy": "IfNotPresent",
            "args": ["-e", script],
        }]},
    });
    demo.apply(&pod.to_string())?;
    demo.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=3m"])?;
    wait_for_answers(demo)
}

/// Waits until each of its calls is answered (again).
pub(crate) fn wait_for_answers(demo: &Demo) -> Result<()> {
    let before = Report::take(demo)?;
    let mut waiting = CALLS.to_vec();
    until(Deadline::seconds(TIMEOUT), "an answer to each of the client's calls", || {
        let now = Report::take(demo)?;
        waiting.retain(|call| now.done(call) <= before.done(call));
        Ok(waiting.is_empty().then_some(()))
    })
    .with_context(|| format!("no answer to {waiting:?}"))
    .or_else(|error| {
        let error = match Report::take(demo) {
            Ok(report) => error.context(format!("{report}")),
            Err(_) => error,
        };
        demo.explain(&error, CONTROL_PLANE)
    })
}

/// Results of its calls since [`forget`].
pub(crate) struct Report(Value);

impl Report {
    /// Reads the results.
    pub(crate) fn take(demo: &Demo) -> Result<Self> {
        let answer = ask(demo, "")?;
        let counts = serde_json::from_str(&answer);
        counts.map(Self).with_context(|| format!("the client answers {answer}"))
    }

    fn done(&self, call: &str) -> i64 {
        self.0[call]["done"].as_i64().unwrap_or_default()
    }

    /// Calls between applications need no control plane: none may fail.
    pub(crate) fn no_invocation_failed(&self) -> Result<()> {
        let invoke = &self.0["invoke"];
        ensure!(invoke["failed"] == 0, "invocations failed: {invoke}");
        ensure!(self.done("invoke") > 0, "the client made no call: {invoke}");
        Ok(())
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut line = String::new();
        for call in CALLS {
            let seen = &self.0[call];
            let (done, failed, gap) = (&seen["done"], &seen["failed"], &seen["gapMs"]);
            write!(line, "{call}: {done} answered, {failed} failed, longest gap {gap} ms; ")?;
            for error in seen["errors"].as_array().into_iter().flatten() {
                write!(line, "[{error}] ")?;
            }
        }
        f.write_str(line.trim_end())
    }
}

/// Resets the counts.
pub(crate) fn forget(demo: &Demo) -> Result<()> {
    ask(demo, "forget").map(drop)
}

fn ask(demo: &Demo, path: &str) -> Result<String> {
    let url = format!("/api/v1/namespaces/hello/pods/client:3000/proxy/{path}");
    demo.cluster().kubectl(&["get", "--raw", &url])
}

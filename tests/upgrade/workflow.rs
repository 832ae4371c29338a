//! Workflows that are half done when the control plane is replaced.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use blackbox::demo::Demo;
use blackbox::progress::say;
use blackbox::{Deadline, until};
use serde_json::{Value, json};

use crate::TIMEOUT;

/// The image of [`demo::import_tour_image`](blackbox::demo::import_tour_image).
const PYTHON: &str = "localhost/trilby-sample-python-sdk:1";
/// Seconds of a timer that ends while the control plane is replaced.
const DURING: u64 = 40;

/// Where a workflow stands, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Its timer runs.
    Timer,
    /// It waits for its event.
    Event,
    /// It is completed.
    Done,
}

/// Starts the application, whose workflows are stored by its sidecar.
pub(crate) fn deploy(demo: &Demo) -> Result<()> {
    let store = json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {"name": "workflows"},
        "spec": {"type": "state.in-memory", "version": "v1", "metadata": [
            {"name": "actorStateStore", "value": "true"},
        ]},
        "scopes": ["workflow"],
    });
    demo.apply(&store.to_string())?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "workflow", "annotations": {
            "dapr.io/enabled": "true", "dapr.io/app-id": "workflow",
            "dapr.io/sidecar-listen-addresses": "0.0.0.0",
        }},
        "spec": {"containers": [{
            "name": "workflow", "image": PYTHON, "imagePullPolicy": "IfNotPresent",
            "args": ["-c", include_str!("workflow.py")],
        }]},
    });
    demo.apply(&pod.to_string())?;
    demo.kubectl(&["wait", "--for=condition=Ready", "pod/workflow", "--timeout=3m"]).map(drop)
}

/// An instance of the workflow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workflow(pub(crate) &'static str);

impl Workflow {
    /// Starts it. Its timer ends while the control plane is replaced.
    pub(crate) fn start(self, demo: &Demo) -> Result<()> {
        let path = format!("order/start?instanceID={}", self.0);
        until(Deadline::seconds(TIMEOUT), "the workflow to be taken", || {
            Ok(post(demo, &path, &DURING.to_string()).ok())
        })?;
        self.reaches(demo, Stage::Timer)
    }

    /// Sends the event that it waits for.
    pub(crate) fn approve(self, demo: &Demo) -> Result<()> {
        self.reaches(demo, Stage::Event)?;
        post(demo, &format!("{}/raiseEvent/approval", self.0), "\"yes\"")?;
        self.reaches(demo, Stage::Done)?;
        let steps = ["begun", "ripe", "approved"].map(|step| format!("{} {step}", self.0));
        let output = property(&state(demo, self)?, "dapr.workflow.output");
        ensure!(serde_json::from_str::<Value>(&output)? == json!(steps), "{}: {output}", self.0);
        Ok(())
    }

    pub(crate) fn reaches(self, demo: &Demo, stage: Stage) -> Result<()> {
        until(Deadline::seconds(TIMEOUT), &format!("workflow {} at {stage:?}", self.0), || {
            let answer = state(demo, self)?;
            let done = answer["runtimeStatus"] == "COMPLETED";
            let status = property(&answer, "dapr.workflow.custom_status");
            let now = match status.trim_matches('"') {
                _ if done => Stage::Done,
                "event" => Stage::Event,
                "timer" => Stage::Timer,
                _ => return Ok(None),
            };
            Ok((now >= stage).then_some(()))
        })
        .with_context(|| format!("{:?}", state(demo, self)))
    }
}

/// Prints which activities were executed more often than once, which a workflow may do.
pub(crate) fn report(demo: &Demo) -> Result<()> {
    let script = "print(open('/tmp/executions').read())";
    let executions =
        demo.kubectl(&["exec", "workflow", "-c", "workflow", "--", "python3", "-c", script])?;
    let mut times = BTreeMap::<_, u32>::new();
    for name in executions.lines().filter(|name| !name.is_empty()) {
        *times.entry(name).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    say(format_args!("{} activities executed, more than once: {twice:?}", times.len()));
    Ok(())
}

fn state(demo: &Demo, workflow: Workflow) -> Result<Value> {
    let answer = demo.cluster().kubectl(&["get", "--raw", &url(workflow.0)])?;
    serde_json::from_str(&answer).with_context(|| format!("no state: {answer}"))
}

fn property(state: &Value, name: &str) -> String {
    state["properties"][name].as_str().unwrap_or_default().to_owned()
}

fn post(demo: &Demo, path: &str, body: &str) -> Result<()> {
    let args = ["create", "--raw", &url(path), "-f", "-"];
    demo.cluster().kubectl_with_input(&args, body).map(drop)
}

/// The workflow API of its sidecar, through the API server.
fn url(path: &str) -> String {
    format!("/api/v1/namespaces/hello/pods/workflow:3500/proxy/v1.0/workflows/dapr/{path}")
}

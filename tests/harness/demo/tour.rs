//! The tour of the building blocks: small applications use each of them through the official
//! sidecar and a real backend. `cargo xtask demo --tour` prints it; the end-to-end suite asserts it.
//!
//! Start at [`Tour::take`]. `blocks` has what is shown of each block; `copies`, the Components that
//! are made while the sidecar runs.

mod answer;
mod blocks;
mod copies;
mod observers;

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use self::answer::Answer;
pub use self::blocks::Block;
pub use self::observers::Observers;
use super::{Demo, array, containers, path, text};
use crate::progress::step;
use crate::{Deadline, environment, until};

/// The folder of the sample.
const SAMPLE: &str = "deploy/samples/building-blocks";
/// The namespace that its manifests name, and where the tour is taken.
pub const NAMESPACE: &str = "building-blocks";
/// Another namespace with the same applications.
const OTHER_NAMESPACE: &str = "building-blocks-too";
/// How long a sidecar may take to load a Component, or to reach another application.
const SECONDS: u64 = 90;

/// An application of the sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum App {
    /// Uses every building block.
    Tour,
    /// May do only what its Configuration allows.
    Strict,
}

impl App {
    const fn name(self) -> &'static str {
        match self {
            Self::Tour => "tour",
            Self::Strict => "strict",
        }
    }
}

/// What was shown of a building block, and how long it took.
#[derive(Clone, Debug)]
pub struct Shown {
    block: &'static str,
    what: String,
    took: Duration,
}

impl Shown {
    fn of(block: &'static str, show: impl FnOnce() -> Result<String>) -> Result<Self> {
        let clock = Deadline::after(Duration::MAX);
        let what = step(block, show).with_context(|| format!("building block {block}"))?;
        Ok(Self { block, what, took: clock.elapsed() })
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<18} {:>5.1} s  {}", self.block, self.took.as_secs_f64(), self.what)
    }
}

/// The applications of the tour in one namespace of a cluster with a control plane.
#[derive(Clone, Debug)]
pub struct Tour {
    demo: Demo,
    /// Distinguishes what this tour stores and sends from that of an earlier one.
    token: String,
}

impl Tour {
    /// Deploys the applications in two namespaces and waits until they are Ready.
    ///
    /// # Errors
    /// What kubectl says, and what the pods say when they do not get Ready.
    pub fn deploy(demo: &Demo) -> Result<[Self; 2]> {
        let tours = [Self::new(demo, NAMESPACE)?, Self::new(demo, OTHER_NAMESPACE)?];
        tours.iter().try_for_each(Self::apply)?;
        tours.iter().try_for_each(Self::wait_available)?;
        Ok(tours)
    }

    /// Shows block after block, that the applications of `other` are others, and what observers
    /// see of it; `report` gets what was shown.
    ///
    /// # Errors
    /// What does not work, in the words of the API server, the sidecar or the application.
    pub fn take(
        &self,
        other: &Self,
        observers: Option<&Observers>,
        mut report: impl FnMut(&Shown) -> Result<()>,
    ) -> Result<()> {
        if let Some(observers) = observers {
            self.connect(observers)?;
        }
        let restarts = self.restarts()?;
        self.make_copies()?;
        for block in Block::ALL {
            report(&Shown::of(block.name(), || block.show(self))?)?;
        }
        report(&Shown::of("two namespaces", || self.is_apart_from(other))?)?;
        report(&Shown::of("unloading", || self.unloads_copies(restarts))?)?;
        if observers.is_some() {
            report(&Shown::of("traces", || self.traces_arrive())?)?;
            report(&Shown::of("metrics", || self.metrics_arrive())?)?;
        }
        Ok(())
    }

    /// Deletes the namespaces of the tour.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn remove(demo: &Demo) -> Result<()> {
        let namespaces = [NAMESPACE, OTHER_NAMESPACE];
        let mut args = vec!["delete", "namespace", "--ignore-not-found", "--timeout=2m"];
        args.extend(namespaces);
        demo.cluster.kubectl(&args).map(drop)
    }

    fn new(demo: &Demo, namespace: &str) -> Result<Self> {
        let demo = Demo { namespace: namespace.to_owned(), ..demo.clone() };
        Ok(Self { demo, token: environment::secret()? })
    }

    fn namespace(&self) -> &str {
        &self.demo.namespace
    }

    fn apply(&self) -> Result<()> {
        let sample = self.demo.root.join(SAMPLE).join(self.demo.overlay);
        let manifests = self.demo.cluster.kubectl(&["kustomize", path(&sample)?])?;
        self.demo.cluster.apply(&in_namespace(&manifests, self.namespace())).map(drop)
    }

    fn wait_available(&self) -> Result<()> {
        let wait = ["wait", "--for=condition=Available", "deployment", "--all", "--timeout=4m"];
        let ready = self.demo.kubectl(&wait).map(drop);
        ready.or_else(|error| self.demo.explain(&error, self.namespace()))
    }

    /// Lets an application use its sidecar.
    fn ask(&self, app: App, operation: &str, fields: &Value) -> Result<Answer> {
        let request = format!("/use/{operation}");
        let body = fields.to_string();
        Answer::parse(&self.demo.service(app.name(), &["create"], &request, Some(&body))?)
    }

    /// Lets the application `tour` use its sidecar until it is no error, as when the sidecar has
    /// yet to load a Component.
    fn works(&self, operation: &str, fields: &Value) -> Result<Answer> {
        let mut last = String::new();
        until(Deadline::seconds(SECONDS), operation, || {
            let answer = self.ask(App::Tour, operation, fields);
            let error = answer.as_ref().map(|answer| answer.text().err());
            match error {
                Ok(None) => return answer.map(Some),
                Ok(Some(error)) => last = format!("{error:#}"),
                Err(error) => last = format!("{error:#}"),
            }
            Ok(None)
        })
        .with_context(|| format!("{operation} {fields}: {last}"))
    }

    /// Lets an application use its sidecar, which has to refuse with `reason`. Other errors are those
    /// of a sidecar that has yet to load the Component.
    fn refused(&self, app: App, operation: &str, fields: &Value, reason: &str) -> Result<()> {
        let mut last = String::new();
        until(Deadline::seconds(SECONDS), "a refusal", || {
            let answer = self.ask(app, operation, fields)?;
            ensure!(!answer.is_success(), "not refused: {answer:?}");
            let refused = answer.refused(reason);
            last = refused.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
            Ok(refused.ok())
        })
        .with_context(|| format!("{operation} {fields} of {}: {last}", app.name()))
    }

    /// Waits until the sidecar has brought the application `tour` something of that kind.
    fn heard(&self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        until(Deadline::seconds(SECONDS), &format!("{kind} to arrive"), || {
            let Ok(heard) = self.demo.service(App::Tour.name(), &["get"], "/heard", None) else {
                return Ok(None);
            };
            let heard: Value = serde_json::from_str(&heard)?;
            let found: Vec<Value> =
                array(&heard[kind]).filter(|what| wanted(what)).cloned().collect();
            Ok((!found.is_empty()).then_some(found))
        })
    }

    fn make_copies(&self) -> Result<()> {
        let components = self.demo.cluster.get(&["components", "-n", self.namespace()])?;
        self.demo.cluster.apply(&copies::of(&components).to_string()).map(drop)
    }

    /// How often containers of the application `tour` were restarted.
    fn restarts(&self) -> Result<i64> {
        let pods = self.demo.app_pods(App::Tour.name())?;
        let counts = pods.iter().flat_map(containers).map(|c| c["restartCount"].as_i64());
        counts.sum::<Option<i64>>().context("a container without a count of restarts")
    }

    /// Deletes the copies; the sidecar unloads them. There were so many `restarts` before they were
    /// made, and there are no more.
    fn unloads_copies(&self, restarts: i64) -> Result<String> {
        let names = copies::names();
        let mut args = vec!["delete", "component"];
        args.extend(names.iter().map(String::as_str));
        self.demo.kubectl(&args)?;
        until(Deadline::seconds(SECONDS), "the copies to be unloaded", || {
            let metadata = self.works("metadata", &json!({}))?.json()?;
            let copy = |name: &str| names.iter().any(|copy| copy == name);
            let loaded = array(&metadata["components"]).any(|found| copy(text(&found["name"])));
            Ok((!loaded).then_some(()))
        })?;
        let now = self.restarts()?;
        ensure!(now == restarts, "{} restarts since the copies were made", now - restarts);
        Ok(format!("{} deleted Components are unloaded without a restart", names.len()))
    }

    /// The same application ids in another namespace are other applications: they answer for
    /// themselves, and have other state and other actors.
    fn is_apart_from(&self, other: &Self) -> Result<String> {
        let key = format!("apart-{}", self.token);
        let save = |tour: &Self, value: &str| {
            tour.works("save", &json!({"component": "statestore", "key": key, "value": value}))
        };
        let act = json!({"type": "Tally", "id": key, "method": "count"});
        for tour in [self, other] {
            save(tour, tour.namespace())?;
            let count = tour.works("act", &act)?.json()?["count"].clone();
            ensure!(count == 1, "an actor of {} counts {count} first", tour.namespace());
        }
        for tour in [self, other] {
            let load = json!({"component": "statestore", "key": key});
            let value = tour.works("load", &load)?.json()?;
            ensure!(value == tour.namespace(), "state of {}: {value}", tour.namespace());
            blocks::greeted(tour)?;
        }
        Ok("the same app ids twice: calls, state and actors stay in their namespace".to_owned())
    }
}

/// The sample's manifests for another namespace.
fn in_namespace(manifests: &str, namespace: &str) -> String {
    let line = |line: &str| {
        let (indent, key) = line.split_at(line.len() - line.trim_start().len());
        let named = ["namespace:", "name:"]
            .into_iter()
            .find(|named| key.strip_prefix(named).is_some_and(|value| value.trim() == NAMESPACE));
        named.map_or_else(|| line.to_owned(), |named| format!("{indent}{named} {namespace}"))
    };
    manifests.lines().map(|text| line(text) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_move_to_another_namespace_and_nothing_else_changes() {
        let manifests = "metadata:\n  name: building-blocks\n  namespace: building-blocks\n\
                         text: in building-blocks\nname: tour\n";
        assert_eq!(
            in_namespace(manifests, "two"),
            "metadata:\n  name: two\n  namespace: two\ntext: in building-blocks\nname: tour\n"
        );
    }

    #[test]
    fn a_line_has_the_block_the_time_and_what_was_shown() {
        let shown = Shown {
            block: Block::State.name(),
            what: "kept".to_owned(),
            took: Duration::from_millis(1_240),
        };
        assert_eq!(shown.to_string(), "state                1.2 s  kept");
    }
}

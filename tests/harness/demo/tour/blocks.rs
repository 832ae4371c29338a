//! What the tour shows of each building block: that it works with its Component and with one that
//! is made while the sidecar runs, that its policy acts, and that its list refuses.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::copies::{HASTY, LATE};
use super::{App, Tour};
use crate::{Deadline, until};

/// What a sidecar says when a policy's timeout ended a call.
const TIMED_OUT: &str = "deadline exceeded";
/// How often the sample's flaky operations are tried until they work.
const TRIES: u64 = 3;

/// A building block of Dapr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Calls by application id.
    Invocation,
    /// Values by key.
    State,
    /// Events of a topic.
    PubSub,
    /// Systems of others, as called and as callers.
    Bindings,
    /// Objects with state that handle one call at a time.
    Actors,
    /// Values from a store of secrets.
    Secrets,
    /// Settings, and their changes.
    Configuration,
    /// A lock among applications.
    Lock,
    /// Ciphers whose keys the application does not see.
    Cryptography,
    /// Calls at a time.
    Jobs,
    /// Programs that survive their process.
    Workflow,
}

impl Block {
    /// All of them, in the order of the tour.
    pub const ALL: [Self; 11] = [
        Self::Invocation,
        Self::State,
        Self::PubSub,
        Self::Bindings,
        Self::Actors,
        Self::Secrets,
        Self::Configuration,
        Self::Lock,
        Self::Cryptography,
        Self::Jobs,
        Self::Workflow,
    ];

    /// Its name, as Dapr's documentation has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invocation => "service invocation",
            Self::State => "state",
            Self::PubSub => "pub/sub",
            Self::Bindings => "bindings",
            Self::Actors => "actors",
            Self::Secrets => "secrets",
            Self::Configuration => "configuration",
            Self::Lock => "distributed lock",
            Self::Cryptography => "cryptography",
            Self::Jobs => "jobs",
            Self::Workflow => "workflow",
        }
    }

    /// Uses it and says what was shown.
    pub(super) fn show(self, tour: &Tour) -> Result<String> {
        match self {
            Self::Invocation => invocation(tour),
            Self::State => state(tour),
            Self::PubSub => pub_sub(tour),
            Self::Bindings => bindings(tour),
            Self::Actors => actors(tour),
            Self::Secrets => secrets(tour),
            Self::Configuration => configuration(tour),
            Self::Lock => lock(tour),
            Self::Cryptography => cryptography(tour),
            Self::Jobs => jobs(tour),
            Self::Workflow => workflow(tour),
        }
        .map(str::to_owned)
    }
}

/// The application `strict` of the same namespace answers.
pub(super) fn greeted(tour: &Tour) -> Result<()> {
    let answer = tour.works("invoke", &json!({"app": "strict", "method": "greeting"}))?.json()?;
    let wanted = format!("hello from {}", tour.namespace());
    ensure!(answer["greeting"] == wanted, "{answer}, not {wanted:?}");
    Ok(())
}

fn invocation(tour: &Tour) -> Result<&'static str> {
    greeted(tour)?;
    let flaky = tour.ask(App::Tour, "invoke", &json!({"app": "strict", "method": "flaky"}))?;
    third_try(&flaky.json()?)?;
    let private = json!({"app": "strict", "method": "private"});
    tour.refused(App::Tour, "invoke", &private, "403")?;
    Ok("a call by app id; tried again until it works; refused by the access control of the callee")
}

fn state(tour: &Tour) -> Result<&'static str> {
    for store in both("statestore") {
        let value = format!("kept-{}", tour.token);
        tour.works("save", &json!({"component": store, "key": "word", "value": value}))?;
        let loaded = tour.works("load", &json!({"component": store, "key": "word"}))?.json()?;
        ensure!(loaded == value, "{store} has {loaded}, not {value}");
    }
    let hasty = json!({"component": format!("{HASTY}statestore"), "key": "word"});
    times_out(tour, "load", &hasty)?;
    let elsewhere = json!({"component": "statestore", "key": "word"});
    tour.refused(App::Strict, "load", &elsewhere, "ERR_STATE_STORE_NOT_CONFIGURED")?;
    Ok("a value saved and read; hidden from an application outside the scopes of its Component")
}

fn pub_sub(tour: &Tour) -> Result<&'static str> {
    for component in both("pubsub") {
        let order = format!("{component}-{}", tour.token);
        let fields = json!({"component": component, "topic": "orders", "data": order});
        tour.works("publish", &fields)?;
        tour.heard("events", |event| event["data"] == order)?;
    }
    let order = format!("flaky-{}", tour.token);
    tour.works("publish", &json!({"component": "pubsub", "topic": "flaky", "data": order}))?;
    tour.heard("events", |event| event["data"] == order && event["status"] == 200)?;
    let hasty = format!("{HASTY}pubsub");
    times_out(tour, "publish", &json!({"component": hasty, "topic": "orders", "data": "lost"}))?;
    let fields = json!({"component": "pubsub", "topic": "orders", "data": "forbidden"});
    tour.refused(App::Strict, "publish", &fields, "403")?;
    Ok("an event received; again until its receiver works; refused outside of publishingScopes")
}

fn bindings(tour: &Tour) -> Result<&'static str> {
    let file = json!({"fileName": "tour.txt"});
    for component in both("files") {
        let text = format!("{component}-{}", tour.token);
        let create =
            json!({"component": component, "operation": "create", "metadata": file, "data": text});
        tour.works("bind", &create)?;
        let get = json!({"component": component, "operation": "get", "metadata": file});
        let got = tour.works("bind", &get)?;
        ensure!(got.text()?.trim_matches('"') == text, "{component} has {got:?}, not {text:?}");
    }
    tour.heard("ticks", |tick| tick == "clock")?;
    let hasty = format!("{HASTY}files");
    times_out(tour, "bind", &json!({"component": hasty, "operation": "get", "metadata": file}))?;
    let denied = json!({"component": "files", "operation": "get", "metadata": file});
    tour.refused(App::Strict, "bind", &denied, "ERR_INVOKE_OUTPUT_BINDING")?;
    Ok("a file written and read, a clock that calls; a type of Component denied by Configuration")
}

fn actors(tour: &Tour) -> Result<&'static str> {
    let act = |kind: &str, method: &str| json!({"type": kind, "id": tour.token, "method": method});
    for wanted in 1..=2 {
        let count = tour.works("act", &act("Tally", "count"))?.json()?["count"].clone();
        ensure!(count == wanted, "the actor counts {count}, not {wanted}");
    }
    third_try(&tour.ask(App::Tour, "act", &act("Flaky", "flaky"))?.json()?)?;
    tour.refused(App::Strict, "act", &act("Tally", "count"), "404")?;
    Ok("an actor counts in its state; tried again until it works; an API denied by Configuration")
}

fn secrets(tour: &Tour) -> Result<&'static str> {
    let greeting = |component: &str| json!({"component": component, "name": "greeting"});
    for component in both("secrets") {
        let secret = tour.works("secret", &greeting(&component))?.json()?;
        ensure!(secret == json!({"word": "hello"}), "{component} has another Secret");
    }
    times_out(tour, "secret", &greeting(&format!("{HASTY}secrets")))?;
    tour.ask(App::Strict, "secret", &greeting("kubernetes"))?.text()?;
    let safe = json!({"component": "kubernetes", "name": "safe"});
    tour.refused(App::Strict, "secret", &safe, "403")?;
    Ok("a Kubernetes Secret read; another refused, which is not among the allowed Secrets")
}

fn configuration(tour: &Tour) -> Result<&'static str> {
    let set = |value: &str| {
        let metadata = json!({"key": "colour"});
        tour.works(
            "bind",
            &json!({"component": "keys", "operation": "create", "metadata": metadata, "data": value}),
        )
    };
    let colour = |component: &str| json!({"component": component, "key": "colour"});
    let is = |value: &Value, wanted: &str| value.as_str().is_some_and(|text| text.contains(wanted));
    let red = format!("red-{}", tour.token);
    set(&red)?;
    for component in both("settings") {
        let items = tour.works("configuration", &colour(&component))?.json()?;
        ensure!(is(&items["colour"]["value"], &red), "{component} has {items}, not {red}");
    }
    tour.works("subscribe", &colour("settings"))?;
    let blue = format!("blue-{}", tour.token);
    set(&blue)?;
    tour.heard("configuration", |change| is(&change["value"], &blue))?;
    times_out(tour, "configuration", &colour(&format!("{HASTY}settings")))?;
    tour.refused(App::Strict, "configuration", &colour("settings"), "404")?;
    Ok("a setting read, and its change received; an API denied by Configuration")
}

fn lock(tour: &Tour) -> Result<&'static str> {
    let fields = |component: &str, owner: &str| {
        let resource = format!("{component}-{}", tour.token);
        json!({"component": component, "resource": resource, "owner": owner})
    };
    for component in both("locks") {
        let taken = |owner: &str| -> Result<Value> {
            let answer = tour.works("lock", &fields(&component, owner))?;
            Ok(answer.json()?["success"].clone())
        };
        ensure!(taken("one")? == true, "{component}: nobody holds the lock, and it is not given");
        ensure!(taken("two")? != true, "{component}: two owners hold one lock");
        tour.works("unlock", &fields(&component, "one"))?;
        ensure!(taken("two")? == true, "{component}: the lock is not free after its release");
    }
    times_out(tour, "lock", &fields(&format!("{HASTY}locks"), "one"))?;
    tour.refused(App::Strict, "lock", &fields("locks", "one"), "404")?;
    Ok("a lock that a second owner gets after its release; an API denied by Configuration")
}

fn cryptography(tour: &Tour) -> Result<&'static str> {
    let plain =
        |component: &str| json!({"component": component, "key": "tour.json", "text": tour.token});
    for component in both("vault") {
        let encrypted = tour.works("encrypt", &plain(&component))?;
        let cipher = encrypted.text()?;
        let decrypt = json!({"component": component, "ciphertext": cipher});
        let decrypted = tour.works("decrypt", &decrypt)?;
        ensure!(decrypted.text()? == tour.token, "{component} decrypts to {decrypted:?}");
    }
    times_out(tour, "encrypt", &plain(&format!("{HASTY}vault")))?;
    tour.refused(App::Strict, "encrypt", &plain("vault"), "404")?;
    Ok("a text encrypted and decrypted by a key of the sidecar; an API denied by Configuration")
}

fn jobs(tour: &Tour) -> Result<&'static str> {
    let name = |kind: &str| format!("{kind}-{}", tour.token);
    for kind in ["plain", "flaky"] {
        let job = name(kind);
        tour.works("schedule", &json!({"name": job, "due": "1s"}))?;
        tour.heard("jobs", |arrived| arrived["name"] == job && arrived["status"] == 200)?;
    }
    let deliveries = tour.heard("jobs", |arrived| arrived["name"] == name("flaky"))?;
    ensure!(deliveries.len() as u64 == TRIES, "delivered {} times", deliveries.len());
    let denied = json!({"name": name("denied"), "due": "1s"});
    tour.refused(App::Strict, "schedule", &denied, "404")?;
    Ok("a job arrives; another until its receiver works; an API denied by Configuration")
}

fn workflow(tour: &Tour) -> Result<&'static str> {
    let id = &tour.token;
    tour.works("start", &json!({"workflow": "greet", "id": id}))?;
    let status = until(Deadline::seconds(super::SECONDS), "the workflow to end", || {
        let status = tour.works("status", &json!({"id": id}))?.json()?;
        Ok((status["runtimeStatus"] != "RUNNING" && status["runtimeStatus"] != "PENDING")
            .then_some(status))
    })?;
    let output = status["properties"]["dapr.workflow.output"].as_str();
    let output = output.with_context(|| format!("no output in {status}"))?;
    ensure!(output == "\"HELLO TOUR\"", "the workflow ended with {output}: {status}");
    tour.refused(App::Strict, "start", &json!({"workflow": "greet", "id": id}), "404")?;
    Ok("two activities, the first tried again until it works; an API denied by Configuration")
}

/// The Component of that name, and its copy that was made while the sidecar runs.
fn both(name: &str) -> [String; 2] {
    [name.to_owned(), format!("{LATE}{name}")]
}

/// The policy of a copy ends its calls.
fn times_out(tour: &Tour, operation: &str, fields: &Value) -> Result<()> {
    tour.refused(App::Tour, operation, fields, TIMED_OUT)
}

/// A flaky operation works at its last try, and the caller saw no error.
fn third_try(answer: &Value) -> Result<()> {
    ensure!(answer["tries"] == TRIES, "worked after {} tries, not {TRIES}", answer["tries"]);
    Ok(())
}

//! `--auth=token`: each user sees what the API server lets them list.

use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use blackbox::injector_fixture::NAMESPACE;
use blackbox::{Deadline, Spawn, build_dashboard, environment, http, until};
use serde_json::{Value, json};

use crate::{Fixture, START, deploy};

/// Requests with a refused token beside those of another user.
const REFUSED: usize = 200;

/// A second application in a namespace of its own, a user of the first, and one of all.
fn people(all: &Fixture) -> Result<()> {
    let api = &all.api;
    api.kubectl(&["create", "namespace", "bank"])?;
    until(Deadline::seconds(START), "accounts for pods", || {
        Ok(api.kubectl(&["get", "serviceaccount", "default", "-n", "bank"]).ok())
    })?;
    let annotations = json!({"dapr.io/enabled": "true", "dapr.io/app-id": "ledger"});
    let containers = [("app", "ledger:1"), ("daprd", "ghcr.io/dapr/daprd:1.18.3")];
    deploy(api, "bank", "ledger", &json!({"app": "ledger"}), &annotations, &containers)?;
    for person in ["clerk", "boss"] {
        api.kubectl(&["create", "serviceaccount", person, "-n", "shop"])?;
    }
    let kinds = "--resource=pods,components.dapr.io";
    api.kubectl(&["create", "role", "clerk", "-n", "shop", "--verb=list", kinds])?;
    let clerk = ["create", "rolebinding", "clerk", "-n", "shop", "--role=clerk"];
    api.kubectl(&[&clerk[..], &["--serviceaccount=shop:clerk"]].concat())?;
    let boss = ["create", "clusterrolebinding", "boss", "--clusterrole=dapr-dashboard"];
    api.kubectl(&[&boss[..], &["--serviceaccount=shop:boss"]].concat()).map(drop)
}

pub(crate) fn see_what_they_may_list(all: &Fixture) -> Result<()> {
    people(all)?;
    let api = &all.api;
    let [port, health, metrics] = [(); 3].map(|()| environment::free_port());
    let (port, health, metrics) = (port?, health?, metrics?);
    let mut dashboard = Spawn::new("dashboard", build_dashboard()?, all.scratch.path())
        .args(["--port", &port.to_string(), "--namespace", NAMESPACE, "--auth", "token", "--logs"])
        .args(["--healthz-port", &health.to_string(), "--metrics-port", &metrics.to_string()])
        .arg("--kubeconfig")
        .arg(&all.kubeconfig)
        .start()?;
    dashboard.wait_for_http(health, "/healthz", Deadline::seconds(START))?;
    let token = |person: &str| -> Result<String> {
        Ok(all.api.kubectl(&["create", "token", person, "-n", "shop"])?.trim().to_owned())
    };
    let (clerk, boss) = (token("clerk")?, token("boss")?);
    let ask = |token: &str, path: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Accept", "application/json"), ("Authorization", bearer.as_str())];
        http::request(port, "GET", path, &headers, None)
    };
    let json = |token: &str, path: &str| -> Result<Value> {
        let answer = ask(token, path)?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        answer.json()
    };
    let namespaces = |view: &Value, list: &str| -> Vec<String> {
        let rows = view.pointer(list).and_then(Value::as_array).into_iter().flatten();
        let rows = rows.filter_map(|row| row.pointer("/namespace")?.as_str());
        rows.map(str::to_owned).collect()
    };

    for path in ["/", "/apps", "/graph", "/changes", "/components/shop/state"] {
        let nobody = http::request(port, "GET", path, &[], None)?;
        ensure!(nobody.status == 401, "{path} without a token: {}", nobody.status);
        let wrong = ask("wrong", path)?;
        ensure!(wrong.status == 401, "{path} with a wrong token: {}", wrong.status);
    }
    // Reviews of several users at the same time; a new token has no answers that still count.
    thread::scope(|scope| -> Result<()> {
        let refused = scope.spawn(|| -> Result<()> {
            (0..REFUSED).try_for_each(|_| {
                let wrong = ask("wrong", "/apps")?;
                ensure!(wrong.status == 401, "a wrong token: {} {}", wrong.status, wrong.body);
                Ok(())
            })
        });
        while !refused.is_finished() {
            json(&token("clerk")?, "/apps").context("beside a user with a wrong token")?;
        }
        refused.join().map_err(|_| anyhow!("a thread panicked"))?
    })?;
    until(Deadline::seconds(START), "both applications", || {
        let seen = namespaces(&json(&boss, "/apps")?, "/apps");
        Ok((seen == ["bank", "shop"]).then_some(()))
    })?;
    ensure!(namespaces(&json(&clerk, "/apps")?, "/apps") == ["shop"]);
    ensure!(namespaces(&json(&clerk, "/components")?, "/resources") == ["shop"]);
    // No right to list them, though they are in the same namespace.
    ensure!(namespaces(&json(&clerk, "/configurations")?, "/resources").is_empty());
    ensure!(namespaces(&json(&boss, "/configurations")?, "/resources") == ["shop"]);
    for path in ["/apps/bank/ledger", "/configurations/shop/tracing"] {
        ensure!(ask(&clerk, path)?.status == 404, "{path}");
        ensure!(ask(&boss, path)?.status == 200, "{path}");
    }
    for path in ["/", "/apps", "/control-plane", "/graph", "/topics", "/jobs", "/certificates"] {
        let seen = ask(&clerk, path)?.body;
        ensure!(!seen.contains("ledger") && !seen.contains("bank"), "{path}: {seen}");
        ensure!(!seen.contains("dapr-sentry-"), "{path}: {seen}");
    }
    // The boss may read logs, of which a pod without a node has none; the clerk may not.
    api.kubectl(&["create", "clusterrole", "logs", "--verb=get", "--resource=pods/log"])?;
    let boss_logs = ["create", "clusterrolebinding", "logs", "--clusterrole=logs"];
    api.kubectl(&[&boss_logs[..], &["--serviceaccount=shop:boss"]].concat())?;
    let pods = api.get(&["pods", "-n", "shop", "-l", "app=cart"])?;
    let cart = pods.pointer("/items/0/metadata/name").and_then(Value::as_str).context("no pod")?;
    let error = |token: &str| -> Result<String> {
        let view = json(token, &format!("/logs/shop/{cart}"))?;
        Ok(view.pointer("/error").and_then(Value::as_str).unwrap_or_default().to_owned())
    };
    ensure!(error(&clerk)?.contains("pods/log in namespace shop"), "{}", error(&clerk)?);
    ensure!(error(&boss)?.is_empty(), "{}", error(&boss)?);
    let follow = format!("/changes?namespace=shop&pod={cart}");
    ensure!(ask(&clerk, &follow)?.status == 403);
    ensure!(!dashboard.log().contains(&clerk), "the log holds a token");
    Ok(())
}

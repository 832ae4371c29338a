//! Alerts and dashboard use metrics that the services export.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use blackbox::{Service, environment};
use serde_json::Value;

use crate::helm::Objects;

const ALL: [&str; 3] = [
    "monitoring.podMonitor.enabled=true",
    "monitoring.alerts.enabled=true",
    "monitoring.dashboard.enabled=true",
];

/// Every text below a key `expr`.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match member.as_str() {
                    Some(text) if key == "expr" => found.push(text.to_owned()),
                    _ => expressions(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

/// The metrics of ours that an expression names.
fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| ["dapr_", "trilby_", "etcd_"].iter().any(|prefix| word.starts_with(prefix)))
}

/// Every text between quotes in the sources of the services.
fn quoted_in_the_services() -> Result<BTreeSet<String>> {
    fn read(folder: &Path, found: &mut BTreeSet<String>) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                read(&path, found)?;
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path)?;
                found.extend(text.split('"').map(str::to_owned));
            }
        }
        Ok(())
    }
    let mut found = BTreeSet::new();
    for service in Service::ALL {
        read(&environment::workspace().join(service.package()).join("src"), &mut found)?;
    }
    read(&environment::workspace().join("crates/runtime/src"), &mut found)?;
    Ok(found)
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() -> Result<()> {
    let objects = Objects::render(&ALL)?;
    let dashboard = objects.get("ConfigMap/dapr-dashboard-control-plane")?;
    let dashboard = dashboard.pointer("/data/dapr-control-plane.json").and_then(Value::as_str);
    let dashboard: Value = serde_json::from_str(dashboard.context("no dashboard")?)?;
    let mut asked = Vec::new();
    expressions(objects.get("PrometheusRule/dapr-control-plane")?, &mut asked);
    expressions(&dashboard, &mut asked);
    ensure!(asked.len() > 60, "only {} expressions", asked.len());
    let exported = quoted_in_the_services()?;
    for expression in &asked {
        let mut named = metrics(expression).peekable();
        // Metrics of the kubelet.
        let kubelet = ["container_memory", "kubelet_volume_stats"];
        let foreign = kubelet.iter().any(|name| expression.contains(name));
        ensure!(named.peek().is_some() || foreign, "{expression}");
        for metric in named {
            let series =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| metric.strip_suffix(end));
            let exists = exported.contains(metric) || series.is_some_and(|s| exported.contains(s));
            ensure!(exists, "no service exports {metric}, which {expression:?} uses");
        }
    }
    Ok(())
}

#[test]
fn each_promise_has_its_alert_and_says_what_to_do() -> Result<()> {
    let objects = Objects::render(&ALL)?;
    let rule = objects.get("PrometheusRule/dapr-control-plane")?;
    let rules = rule.pointer("/spec/groups/0/rules").and_then(Value::as_array);
    let mut promises = BTreeSet::new();
    for alert in rules.context("no rules")? {
        let text = |pointer| alert.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        promises.extend(text("/labels/promise").parse::<u32>());
        ensure!(["warning", "critical"].contains(&text("/labels/severity")), "{alert}");
        ensure!(text("/annotations/summary").len() > 20, "{alert}");
        ensure!(text("/annotations/description").len() > 60, "{alert}");
    }
    assert_eq!(promises, (1..=10).collect());
    // A service that is switched off raises no alert.
    let less = Objects::render(&[
        ALL[1],
        "global.actors.enabled=false",
        "dapr_sidecar_injector.enabled=false",
        "global.scheduler.enabled=false",
    ])?;
    let less = less.get("PrometheusRule/dapr-control-plane")?.to_string();
    for absent in
        ["dapr_placement", "trilby_placement", "dapr_injector", "watchdog", "dapr_scheduler"]
    {
        ensure!(!less.contains(absent), "{absent} is used");
    }
    Ok(())
}

#[test]
fn the_scheduler_has_alerts_and_rows_of_its_own() -> Result<()> {
    let objects = Objects::render(&ALL)?;
    let rule = objects.get("PrometheusRule/dapr-control-plane")?;
    let rules = rule.pointer("/spec/groups/0/rules").and_then(Value::as_array);
    let names: BTreeSet<_> = rules
        .context("no rules")?
        .iter()
        .filter_map(|rule| rule.pointer("/alert").and_then(Value::as_str))
        .collect();
    for name in [
        "DaprJobsNotDelivered",
        "DaprJobsLate",
        "DaprJobsStaged",
        "DaprSchedulerStoreFull",
        "DaprSchedulerStoreDown",
    ] {
        ensure!(names.contains(name), "{name} is missing in {names:?}");
    }
    let dashboard = objects.get("ConfigMap/dapr-dashboard-control-plane")?;
    let dashboard = dashboard.pointer("/data/dapr-control-plane.json").and_then(Value::as_str);
    let dashboard: Value = serde_json::from_str(dashboard.context("no dashboard")?)?;
    let panels = dashboard.pointer("/panels").and_then(Value::as_array).context("no panels")?;
    let at = |panel: &Value, path: &str| panel.pointer(path).and_then(Value::as_i64);
    let rows: Vec<_> = panels
        .iter()
        .filter(|panel| panel.pointer("/type").is_some_and(|kind| kind == "row"))
        .filter_map(|panel| panel.pointer("/title").and_then(Value::as_str))
        .collect();
    ensure!(rows == ["Scheduler", "Workflows"], "{rows:?}");
    let mut ids = BTreeSet::new();
    let mut fields = BTreeSet::new();
    for panel in panels {
        ensure!(ids.insert(at(panel, "/id")), "an id is used twice: {panel}");
        let place = (at(panel, "/gridPos/x"), at(panel, "/gridPos/y"));
        ensure!(fields.insert(place), "two panels are at {place:?}");
    }
    Ok(())
}

#[test]
fn sidecars_have_a_monitor_of_their_own() -> Result<()> {
    let without = Objects::render(&ALL)?;
    ensure!(without.get("PodMonitor/dapr-sidecars").is_err(), "rendered without its value");
    let sidecars = "monitoring.podMonitor.sidecars=true";
    let with = Objects::render(&[ALL[0], sidecars])?;
    let monitor = with.get("PodMonitor/dapr-sidecars")?;
    let at = |path: &str| monitor.pointer(path).and_then(Value::as_str);
    ensure!(at("/spec/podMetricsEndpoints/0/port") == Some("dapr-metrics"), "{monitor:#}");
    ensure!(
        monitor.pointer("/spec/namespaceSelector/any") == Some(&Value::Bool(true)),
        "{monitor:#}"
    );
    let selector = monitor.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    ensure!(selector.is_some_and(|labels| labels.contains_key("dapr.io/sidecar-injected")));
    let namespaced = Objects::render(&[ALL[0], sidecars, "global.rbac.namespaced=true"])?;
    let monitor = namespaced.get("PodMonitor/dapr-sidecars")?;
    ensure!(monitor.pointer("/spec/namespaceSelector").is_none(), "{monitor:#}");
    Ok(())
}

//! Intended differences between our injector and Dapr's.
//!
//! Each entry changes a request such that Dapr's injector answers it as ours answers the original.
//! So a difference is not just ignored: it must be exactly the one described here. An entry without
//! effect on Dapr's injector fails the suite.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// One deliberate difference.
pub(crate) struct Difference {
    pub(crate) name: &'static str,
    /// The reason for it.
    pub(crate) reason: &'static str,
    /// Changes the request; returns false if the difference does not apply.
    pub(crate) rewrite: fn(&mut Value) -> bool,
    /// Completes the pod that Dapr's injector makes of the changed request; the first argument is
    /// the original pod.
    pub(crate) restore: fn(&Value, &mut Value),
}

pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "truthy",
        reason: "the switch is read one way by injector, operator and guard; Dapr's injector takes \
                 no other word than true, its operator does",
        rewrite: |request| {
            let truthy = text(request, "enabled").is_some_and(resources::annotations::is_truthy);
            let other = !text(request, "enabled").unwrap_or_default().eq_ignore_ascii_case("true");
            truthy && other && set(request, "enabled", "true")
        },
        restore: annotations_as_before,
    },
    Difference {
        name: "app id with a dash at its end",
        reason: "refused with a reason, or the API server refuses the label with a worse one",
        rewrite: |request| {
            let dash = text(request, "app-id")
                .is_some_and(|id| id.ends_with('-') && !id.starts_with('-') && id.len() <= 58);
            dash && set(request, "app-id", "Refused_")
        },
        restore: nothing,
    },
    Difference {
        name: "empty app id",
        reason: "sentry takes an empty annotation at its word and gives no certificate",
        rewrite: |request| {
            let name = request.pointer("/object/metadata/name").and_then(Value::as_str);
            let name = name.unwrap_or_default().to_owned();
            text(request, "app-id") == Some("") && !name.is_empty() && set(request, "app-id", &name)
        },
        restore: nothing,
    },
    Difference {
        name: "empty config",
        reason: "sentry takes an empty annotation at its word and gives no certificate",
        rewrite: |request| text(request, "config") == Some("") && remove(request, "config"),
        restore: nothing,
    },
    Difference {
        name: "empty values",
        reason: "charts render an empty value for one that is not set; daprd would not start with it",
        rewrite: |request| {
            let keys = [
                "log-level",
                "sidecar-image",
                "app-binding-options-timeout",
                "block-shutdown-duration",
                "actors-disseminate-timeout",
            ];
            remove_where(request, |key, value| value.is_empty() && keys.contains(&key))
        },
        restore: annotations_as_before,
    },
    Difference {
        name: "Windows",
        reason: "the API server rejects fields that only Linux has on a pod whose os is Windows",
        rewrite: |request| request.pointer("/object/spec/os/name") == Some(&json!("windows")),
        restore: |_, pod| {
            let context = daprd(pod).and_then(|sidecar| sidecar["securityContext"].as_object_mut());
            let Some(context) = context else { return };
            context
                .retain(|member, _| ["runAsNonRoot", "windowsOptions"].contains(&member.as_str()));
        },
    },
    Difference {
        name: "numbers beyond 32 bits",
        reason: "ignored with a warning; truncated to 32 bits they have an unintended value",
        rewrite: |request| {
            remove_where(request, |key, value| {
                NUMBERS_OF_32_BITS.contains(&key)
                    && value.parse::<i64>().is_ok_and(|n| i32::try_from(n).is_err())
            })
        },
        restore: annotations_as_before,
    },
    Difference {
        name: "negative numbers",
        reason: "daprd takes -10 for a flag and ends; every negative number means the same, so -1",
        rewrite: |request| {
            let below = |text: &str| text.parse::<i64>().is_ok_and(|n| n < -1);
            let keys = ["app-max-concurrency", "http-max-request-size", "http-read-buffer-size"];
            let health =
                ["app-health-probe-interval", "app-health-probe-timeout", "app-health-threshold"];
            let all = keys.iter().chain(&health).chain(&["graceful-shutdown-seconds"]);
            let mut found = false;
            for key in all {
                found |= text(request, key).is_some_and(below) && set(request, key, "-1");
            }
            for key in ["max-body-size", "read-buffer-size"] {
                let negative = text(request, key).is_some_and(|t| t == "-16Mi");
                found |= negative && set(request, key, "-1");
            }
            found
        },
        restore: annotations_as_before,
    },
    Difference {
        name: "one bad quantity",
        reason: "it is left out with a warning; Dapr's injector drops the good ones too",
        rewrite: |request| {
            remove_where(request, |key, value| {
                RESOURCES.contains(&key) && ["1 Gi", "1gi", "a lot"].contains(&value)
            })
        },
        restore: annotations_as_before,
    },
    Difference {
        name: "quantities as written",
        reason: "they mean the same to the API server, which puts them into its own form anyway",
        rewrite: |request| RESOURCES.iter().any(|key| text(request, key).is_some()),
        restore: |original, pod| {
            let Some(sidecar) = daprd(pod) else { return };
            for key in RESOURCES {
                let words: Vec<&str> = key.split('-').collect();
                let place = format!("/resources/{}s/{}", words[2], words[1]);
                if let Some(quantity) = sidecar.pointer_mut(&place) {
                    *quantity = json!(annotation(original, key));
                }
            }
        },
    },
    Difference {
        name: "a variable from nowhere",
        reason: "a variable that is dropped is not listed in DAPR_ENV_KEYS",
        rewrite: |request| match text(request, "env-from-secret") {
            Some("A=a:b:c,B=d") => set(request, "env-from-secret", "B=d"),
            Some("A=a:b:c") => remove(request, "env-from-secret"),
            _ => false,
        },
        restore: annotations_as_before,
    },
    Difference {
        name: "blanks between component names",
        reason: "a list is meant, not a container whose name starts with a blank",
        rewrite: |request| {
            text(request, "pluggable-components") == Some("app, side")
                && set(request, "pluggable-components", "app,side")
        },
        restore: annotations_as_before,
    },
    Difference {
        name: "metrics off",
        reason: "off means off; without a flag daprd's own default is on",
        rewrite: |request| {
            text(request, "enable-metrics")
                .is_some_and(|text| !resources::annotations::is_truthy(text))
        },
        restore: |_, pod| {
            edit_arguments(pod, |args| {
                let after = ["--app-port", "--sentry-address"];
                let place = after.iter().find_map(|flag| position(args, flag)).unwrap();
                args.insert(place + 2, "--enable-metrics=false".to_owned());
            });
        },
    },
    Difference {
        name: "a list of volumes replaced",
        reason: "with component sockets in a pod that had no volumes Dapr's injector writes the \
                 list a second time and loses the first, which refuses the pod",
        rewrite: |request| {
            let sockets = text(request, "unix-domain-socket-path").unwrap_or_default();
            let volumes = request.pointer("/object/spec/volumes").and_then(Value::as_array);
            let lost =
                !sockets.is_empty() && components(request) && volumes.is_none_or(Vec::is_empty);
            if lost {
                request["object"]["spec"]["volumes"] = json!([{"name": "keeps the list"}]);
            }
            lost
        },
        restore: |_, pod| {
            let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
            volumes.retain(|volume| volume["name"] != "keeps the list");
        },
    },
    Difference {
        name: "a volume twice",
        reason: "Dapr's injector adds a volume again that the pod or another Component has \
                 brought, which refuses the pod",
        rewrite: |request| components(request),
        restore: |_, pod| {
            let volumes = pod.pointer_mut("/spec/volumes").and_then(Value::as_array_mut);
            let Some(volumes) = volumes else { return };
            let mut seen = BTreeSet::new();
            volumes.retain(|volume| seen.insert(volume["name"].to_string()));
        },
    },
    Difference {
        name: "certificates on Linux",
        reason: "a pod that says linux keeps the strict security context in spite of SSL_CERT_DIR, \
                 which needs an administrator on Windows only",
        rewrite: |request| {
            let linux = ["/object/spec/os/name", "/object/spec/nodeSelector/kubernetes.io~1os"];
            let linux = linux.iter().any(|p| request.pointer(p) == Some(&json!("linux")));
            linux
                && text(request, "env") == Some("SSL_CERT_DIR=/certs")
                && set(request, "env", "SSL_CERT_DIR_=/certs")
        },
        restore: |original, pod| {
            annotations_as_before(original, pod);
            let text = daprd(pod).unwrap().to_string().replace("SSL_CERT_DIR_", "SSL_CERT_DIR");
            *daprd(pod).unwrap() = serde_json::from_str(&text).unwrap();
        },
    },
];

const NUMBERS_OF_32_BITS: &[&str] = &[
    "debug-port",
    "app-port",
    "app-health-probe-interval",
    "app-health-probe-timeout",
    "app-health-threshold",
    "grpc-port",
    "internal-grpc-port",
    "metrics-port",
    "sidecar-liveness-probe-delay-seconds",
    "sidecar-liveness-probe-timeout-seconds",
    "sidecar-liveness-probe-period-seconds",
    "sidecar-liveness-probe-threshold",
    "sidecar-readiness-probe-delay-seconds",
    "sidecar-readiness-probe-timeout-seconds",
    "sidecar-readiness-probe-period-seconds",
    "sidecar-readiness-probe-threshold",
];

const RESOURCES: &[&str] =
    &["sidecar-cpu-request", "sidecar-cpu-limit", "sidecar-memory-request", "sidecar-memory-limit"];

fn components(request: &Value) -> bool {
    ["pluggable-components", "inject-pluggable-components"]
        .iter()
        .any(|key| text(request, key).is_some_and(|value| !value.is_empty()))
}

fn nothing(_: &Value, _: &mut Value) {}

/// The value of an annotation was changed for the request only.
fn annotations_as_before(original: &Value, pod: &mut Value) {
    let before = original["metadata"]["annotations"].as_object().unwrap();
    for (key, value) in before {
        let mended = ["dapr.io/app-id", "dapr.io/config"].contains(&key.as_str()) && value == "";
        if !mended {
            pod["metadata"]["annotations"][key] = value.clone();
        }
    }
}

fn annotation<'a>(pod: &'a Value, key: &str) -> &'a str {
    pod["metadata"]["annotations"][format!("dapr.io/{key}")].as_str().unwrap_or_default()
}

fn text<'a>(request: &'a Value, key: &str) -> Option<&'a str> {
    request.pointer("/object/metadata/annotations")?.get(format!("dapr.io/{key}"))?.as_str()
}

fn set(request: &mut Value, key: &str, value: &str) -> bool {
    request["object"]["metadata"]["annotations"][format!("dapr.io/{key}")] = json!(value);
    true
}

fn remove(request: &mut Value, key: &str) -> bool {
    let all = request["object"]["metadata"]["annotations"].as_object_mut().unwrap();
    all.shift_remove(&format!("dapr.io/{key}")).is_some()
}

fn remove_where(request: &mut Value, unwanted: impl Fn(&str, &str) -> bool) -> bool {
    let Some(all) = request.pointer_mut("/object/metadata/annotations") else { return false };
    let Some(all) = all.as_object_mut() else { return false };
    let before = all.len();
    all.retain(|key, value| {
        let key = key.strip_prefix("dapr.io/").unwrap_or_default();
        !unwanted(key, value.as_str().unwrap_or_default())
    });
    all.len() < before
}

/// The sidecar, in either list of containers.
pub(crate) fn daprd(pod: &mut Value) -> Option<&mut Value> {
    let spec = pod.get_mut("spec")?.as_object_mut()?;
    let lists = spec.iter_mut().filter(|(key, _)| key.to_lowercase().ends_with("containers"));
    let mut all = lists.filter_map(|(_, list)| list.as_array_mut()).flatten();
    all.find(|container| container["name"] == "daprd" && container.get("livenessProbe").is_some())
}

fn edit_arguments(pod: &mut Value, edit: impl FnOnce(&mut Vec<String>)) {
    // A pod without a sidecar has nothing to edit.
    let Some(sidecar) = daprd(pod) else { return };
    let mut args: Vec<String> = serde_json::from_value(sidecar["args"].clone()).unwrap();
    edit(&mut args);
    sidecar["args"] = json!(args);
}

fn position(args: &[String], flag: &str) -> Option<usize> {
    args.iter().position(|arg| arg == flag)
}

//! Annotations of `dapr.io` that nobody reads: probably a slip of the pen.

use resources::{
    annotations::{
        ANNOTATION_COMPONENT_CONTAINER, ANNOTATION_ENABLED, POD, PREFIX, WRITTEN_BY_DAPR, is_falsy,
        is_truthy,
    },
    spelling,
};

use crate::pod::PodView;
use crate::reader::quoted;
use crate::warnings::Warning;

/// What warnings of unknown annotations are about, whatever their keys.
const UNKNOWN: &str = "unknown";

/// One sentence for each annotation of the pod that has no effect. A guess is only ever named,
/// never acted upon.
pub fn warnings(pod: &PodView<'_>) -> Vec<Warning> {
    let Some(annotations) = pod.annotations() else { return Vec::new() };
    let unknown = annotations.keys().filter_map(|key| unknown(key));
    let mut found: Vec<Warning> = unknown.map(|text| Warning { about: UNKNOWN, text }).collect();
    if let Some(text) = pod.annotation(ANNOTATION_ENABLED)
        && !is_truthy(text)
        && !is_falsy(text)
    {
        let text = format!(
            "{ANNOTATION_ENABLED}: {} counts as false, no sidecar is injected; write \"true\"",
            quoted(text)
        );
        found.push(Warning { about: ANNOTATION_ENABLED, text });
    }
    found
}

fn unknown(key: &str) -> Option<String> {
    if !key.starts_with(PREFIX) || POD.contains(&key) || WRITTEN_BY_DAPR.contains(&key) {
        return None;
    }
    if key == ANNOTATION_COMPONENT_CONTAINER {
        return Some(format!("{key} has no effect on a pod; it belongs on a Component"));
    }
    let key_shown = quoted(key);
    Some(match nearest(key) {
        Some(known) => {
            format!("unknown annotation {key_shown} is ignored; did you mean {known}?")
        }
        None => format!("unknown annotation {key_shown} is ignored"),
    })
}

/// The known key that was probably meant.
fn nearest(key: &str) -> Option<&'static str> {
    spelling::nearest(key, POD.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case("dapr.io/sidecar-listen-address", Some("dapr.io/sidecar-listen-addresses"))]
    #[case("dapr.io/app-max-concurrerncy", Some("dapr.io/app-max-concurrency"))]
    #[case("dapr.io/appid", Some("dapr.io/app-id"))]
    #[case("dapr.io/enabeld", Some("dapr.io/enabled"))]
    #[case("dapr.io/App-Id", Some("dapr.io/app-id"))]
    #[case("dapr.io/something-else", None)]
    fn guesses_the_nearest_key(#[case] key: &str, #[case] want: Option<&str>) {
        assert_eq!(nearest(key), want);
    }

    fn texts(pod: &serde_json::Value) -> Vec<String> {
        warnings(&PodView::parse(pod).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn speaks_of_every_dead_annotation_and_of_nothing_else() {
        let pod = json!({"spec": {}, "metadata": {"annotations": {
            "dapr.io/enabled": "ture",
            "dapr.io/app-id": "a",
            "dapr.io/appport": "3000",
            "dapr.io/foo\n": "",
            "dapr.io/component-container": "{}",
            "dapr.io/control-plane": "sentry",
            "dapr.io/http-stream-request-body": "true",
            "prometheus.io/scrape": "true",
        }}});
        insta::assert_snapshot!(texts(&pod).join("\n"), @r#"
        unknown annotation "dapr.io/appport" is ignored; did you mean dapr.io/app-port?
        unknown annotation "dapr.io/foo\n" is ignored
        dapr.io/component-container has no effect on a pod; it belongs on a Component
        dapr.io/enabled: "ture" counts as false, no sidecar is injected; write "true"
        "#);
    }
}

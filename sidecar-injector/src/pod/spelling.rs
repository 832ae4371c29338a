//! Unknown `dapr.io` annotations: likely typing errors.

use resources::annotations::{
    ANNOTATION_COMPONENT_CONTAINER, ANNOTATION_ENABLED, POD, PREFIX, WRITTEN_BY_DAPR, is_falsy,
    is_truthy,
};
use resources::spelling;

use super::annotations::quoted;
use super::view::PodView;
use super::warning::Warning;

/// Subject of warnings about unknown annotations: keys are not label values.
pub(crate) const UNKNOWN_ANNOTATION: &str = "unknown";

/// One warning for each annotation of the pod that has no effect. A suggested key is only printed;
/// its value is not applied.
pub(crate) fn unknown_annotations(pod: &PodView<'_>) -> Vec<Warning> {
    let Some(annotations) = pod.annotations() else { return Vec::new() };
    let unknown = annotations.keys().filter_map(|key| unknown(key));
    let mut found: Vec<Warning> =
        unknown.map(|text| Warning { about: UNKNOWN_ANNOTATION, text }).collect();
    if let Some(text) = pod.annotation(ANNOTATION_ENABLED)
        && !is_truthy(text)
        && !is_falsy(text)
    {
        let text = format!(
            "{ANNOTATION_ENABLED}: {} counts as false and no sidecar is injected; set it to \"true\"",
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
        return Some(format!("{key} has no effect on a pod; set it on a Component"));
    }
    let key_shown = quoted(key);
    Some(match nearest(key) {
        Some(known) => {
            format!("unknown annotation {key_shown} is ignored; did you mean {known}?")
        }
        None => format!("unknown annotation {key_shown} is ignored"),
    })
}

/// Words that keys have gained since Dapr 1.0 (`dapr.io/port` is `dapr.io/app-port` now) or that
/// other keys start with.
const FIRST_WORDS: [&str; 3] = ["app-", "enable-", "sidecar-"];

/// The known key that is most likely meant by `key`: with one of [`FIRST_WORDS`] more or less, else
/// the one with the smallest edit distance.
fn nearest(key: &str) -> Option<&'static str> {
    let known = |name: &str| POD.iter().copied().find(|k| k.strip_prefix(PREFIX) == Some(name));
    let name = key.strip_prefix(PREFIX)?;
    let longer = FIRST_WORDS.iter().find_map(|word| known(&format!("{word}{name}")));
    let shorter = || FIRST_WORDS.iter().find_map(|word| known(name.strip_prefix(word)?));
    longer.or_else(shorter).or_else(|| spelling::nearest(key, POD.iter().copied()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("dapr.io/sidecar-listen-address", Some("dapr.io/sidecar-listen-addresses"))]
    #[case("dapr.io/app-max-concurrerncy", Some("dapr.io/app-max-concurrency"))]
    #[case("dapr.io/appid", Some("dapr.io/app-id"))]
    #[case("dapr.io/enabeld", Some("dapr.io/enabled"))]
    #[case("dapr.io/App-Id", Some("dapr.io/app-id"))]
    #[case::before_1_0("dapr.io/id", Some("dapr.io/app-id"))]
    #[case::before_1_0("dapr.io/port", Some("dapr.io/app-port"))]
    #[case::before_1_0("dapr.io/protocol", Some("dapr.io/app-protocol"))]
    #[case::before_1_0("dapr.io/profiling", Some("dapr.io/enable-profiling"))]
    #[case("dapr.io/max-concurrency", Some("dapr.io/app-max-concurrency"))]
    #[case("dapr.io/cpu-limit", Some("dapr.io/sidecar-cpu-limit"))]
    #[case("dapr.io/sidecar-log-level", Some("dapr.io/log-level"))]
    #[case("dapr.io/something-else", None)]
    fn suggests_the_nearest_key(#[case] key: &str, #[case] want: Option<&str>) {
        assert_eq!(nearest(key), want);
    }

    fn texts(pod: &serde_json::Value) -> Vec<String> {
        unknown_annotations(&PodView::parse(pod).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn warns_about_each_annotation_without_effect() {
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
        dapr.io/component-container has no effect on a pod; set it on a Component
        dapr.io/enabled: "ture" counts as false and no sidecar is injected; set it to "true"
        "#);
    }
}

//! Annotation values as typed values.
//!
//! Source of the rules: Dapr 1.18. A number that cannot be parsed does not refuse the pod: the
//! default applies and the user gets a warning.

use resources::annotations::is_truthy;

use super::defaults::DefaultLayers;
use super::quantity::is_quantity;
use super::view::PodView;

/// An annotation value that is wrong or has no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{annotation}: {text}")]
pub(crate) struct Problem {
    pub(crate) annotation: &'static str,
    /// The fault and its consequence, or the value to write instead.
    pub(crate) text: String,
}

/// Reads annotations of a pod, applies defaults and collects problems.
#[derive(Debug)]
pub(crate) struct AnnotationReader<'a> {
    pod: PodView<'a>,
    defaults: DefaultLayers<'a>,
    problems: Vec<Problem>,
}

impl<'a> AnnotationReader<'a> {
    pub(crate) fn new(pod: PodView<'a>, defaults: DefaultLayers<'a>) -> Self {
        Self { pod, defaults, problems: Vec::new() }
    }

    /// The value of an annotation: the pod's own, else the default of its namespace or the cluster.
    fn annotation(&self, key: &str) -> Option<&'a str> {
        self.pod.annotation(key).or_else(|| self.defaults.get(key))
    }

    /// The problems in the order in which the annotations were read.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Records a problem.
    pub(crate) fn problem(&mut self, annotation: &'static str, text: impl Into<String>) {
        let mut text = text.into();
        if self.pod.annotation(annotation).is_none() && self.defaults.get(annotation).is_some() {
            text.push_str(" (set by the defaults of the namespace or the cluster, not by the pod)");
        }
        self.problems.push(Problem { annotation, text });
    }

    /// Whether the text of an annotation is a quantity. Records a problem with this consequence if it
    /// is not.
    pub(crate) fn check_quantity(
        &mut self,
        annotation: &'static str,
        text: &str,
        consequence: &str,
    ) -> bool {
        let valid = is_quantity(text);
        if !valid {
            let text = quoted(text);
            let text = format!("{text} is not a quantity such as 100m or 64Mi and {consequence}");
            self.problem(annotation, text);
        }
        valid
    }

    /// A boolean: a truthy value is true, any other value is false.
    pub(crate) fn boolean(&self, key: &str, default: bool) -> bool {
        self.optional_boolean(key).unwrap_or(default)
    }

    pub(crate) fn optional_boolean(&self, key: &str) -> Option<bool> {
        self.annotation(key).map(is_truthy)
    }

    /// The value unchanged; an empty value overrides the default.
    pub(crate) fn text(&self, key: &str, default: &str) -> String {
        self.annotation(key).unwrap_or(default).to_owned()
    }

    pub(crate) fn optional_text(&self, key: &str) -> Option<String> {
        self.annotation(key).map(str::to_owned)
    }

    /// The value, where one that is empty or blank counts as absent.
    pub(crate) fn filled_text(&self, key: &str) -> Option<String> {
        self.optional_text(key).filter(|text| !text.trim().is_empty())
    }

    /// The value, where an empty value is a problem and yields `None`: charts render it for a value
    /// that is not set, and daprd would not start with it.
    pub(crate) fn nonempty_text(&mut self, key: &'static str) -> Option<String> {
        let value = self.optional_text(key)?;
        if value.trim().is_empty() {
            self.problem(key, "is empty; the default applies");
            return None;
        }
        Some(value)
    }

    /// An address without surrounding quotes and blanks.
    pub(crate) fn address(&self, key: &str) -> Option<String> {
        self.annotation(key).map(|text| text.trim_matches(['"', '\'']).trim().to_owned())
    }

    /// A 64-bit integer; `None` and a problem if the value is not one.
    pub(crate) fn optional_integer(&mut self, key: &'static str) -> Option<i64> {
        let text = self.annotation(key)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.problem(key, format!("{} is not an integer and is ignored", quoted(text)));
        }
        number
    }

    /// A 32-bit integer; the default and a problem if the value is not one.
    pub(crate) fn integer(&mut self, key: &'static str, default: i32) -> i32 {
        let Some(text) = self.annotation(key) else { return default };
        match text.parse::<i64>().map(i32::try_from) {
            Ok(Ok(number)) => number,
            Ok(Err(_)) => {
                let shown = quoted(text);
                self.problem(
                    key,
                    format!("{shown} does not fit in 32 bits; the default {default} applies"),
                );
                default
            }
            Err(_) => {
                let shown = quoted(text);
                self.problem(
                    key,
                    format!("{shown} is not an integer; the default {default} applies"),
                );
                default
            }
        }
    }
}

/// A value for a message: quoted, escaped, at most 40 characters.
pub(crate) fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(40).is_some() { "…" } else { "" };
    format!("\"{shown}{more}\"")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    const KEY: &str = "dapr.io/key";

    fn with<T>(
        value: Option<&str>,
        read: impl FnOnce(&mut AnnotationReader<'_>) -> T,
    ) -> (T, Vec<String>) {
        let annotations = value.map_or(Value::Null, |v| json!({ KEY: v }));
        let pod = json!({"metadata": {"annotations": annotations}, "spec": {}});
        let mut reader = AnnotationReader::new(PodView::parse(&pod).unwrap(), DefaultLayers::NONE);
        let got = read(&mut reader);
        (got, reader.into_problems().iter().map(ToString::to_string).collect())
    }

    #[rstest]
    #[case(None, 7, None)]
    #[case(Some("3000"), 3000, None)]
    #[case(Some("+5"), 5, None)]
    #[case(Some("-1"), -1, None)]
    #[case(Some(""), 7, Some("dapr.io/key: \"\" is not an integer; the default 7 applies"))]
    #[case(Some(" 5"), 7, Some("dapr.io/key: \" 5\" is not an integer; the default 7 applies"))]
    #[case(
        Some("1_000"),
        7,
        Some("dapr.io/key: \"1_000\" is not an integer; the default 7 applies")
    )]
    #[case(Some("0x10"), 7, Some("dapr.io/key: \"0x10\" is not an integer; the default 7 applies"))]
    #[case(
        Some("4294970296"),
        7,
        Some("dapr.io/key: \"4294970296\" does not fit in 32 bits; the default 7 applies")
    )]
    fn integers(#[case] value: Option<&str>, #[case] want: i32, #[case] problem: Option<&str>) {
        let (got, problems) = with(value, |r| r.integer(KEY, 7));
        assert_eq!(got, want);
        assert_eq!(problems.first().map(String::as_str), problem);
    }

    #[rstest]
    #[case(None, None, 0)]
    #[case(Some("4294970296"), Some(4_294_970_296), 0)]
    #[case(Some("9223372036854775808"), None, 1)]
    #[case(Some("x"), None, 1)]
    fn optional_integers(
        #[case] value: Option<&str>,
        #[case] want: Option<i64>,
        #[case] problems: usize,
    ) {
        let (got, found) = with(value, |r| r.optional_integer(KEY));
        assert_eq!((got, found.len()), (want, problems));
    }

    #[rstest]
    #[case(None, true, None)]
    #[case(Some(""), false, Some(false))]
    #[case(Some("maybe"), false, Some(false))]
    #[case(Some(" On "), true, Some(true))]
    fn booleans(#[case] value: Option<&str>, #[case] or_true: bool, #[case] tri: Option<bool>) {
        assert_eq!(with(value, |r| r.boolean(KEY, true)).0, or_true);
        assert_eq!(with(value, |r| r.optional_boolean(KEY)).0, tri);
    }

    #[rstest]
    #[case(None, "d", None, None)]
    #[case(Some(""), "", None, Some(""))]
    #[case(Some(" x "), " x ", Some(" x "), Some("x"))]
    #[case(Some("\"\""), "\"\"", Some("\"\""), Some(""))]
    #[case(Some("' a:1 '"), "' a:1 '", Some("' a:1 '"), Some("a:1"))]
    fn texts(
        #[case] value: Option<&str>,
        #[case] text: &str,
        #[case] filled: Option<&str>,
        #[case] address: Option<&str>,
    ) {
        assert_eq!(with(value, |r| r.text(KEY, "d")).0, text);
        assert_eq!(with(value, |r| r.filled_text(KEY)).0.as_deref(), filled);
        assert_eq!(with(value, |r| r.address(KEY)).0.as_deref(), address);
    }

    #[test]
    fn values_in_messages_are_short_and_printable() {
        assert_eq!(quoted("a\"\n"), r#""a\"\n""#);
        assert_eq!(quoted(&"x".repeat(50)).chars().count(), 43);
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(text in ".{0,24}") {
            let _ = with(Some(&text), |r| (r.integer(KEY, 0), r.optional_integer(KEY), r.address(KEY)));
        }
    }
}

//! Annotation values as typed values, and what was wrong with them.
//!
//! Source of the rules: Dapr 1.18. A number that cannot be read never refuses a pod: its default
//! stays, and the user is told.

use resources::annotations::is_truthy;

use crate::defaults::Layers;
use crate::pod::PodView;

/// Something about one annotation that the user should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{annotation}: {text}")]
pub struct Problem {
    /// The annotation's key.
    pub annotation: &'static str,
    /// What is wrong, and what happens or what to write.
    pub text: String,
}

/// Reads annotations and collects problems.
#[derive(Debug)]
pub struct Reader<'a> {
    pod: PodView<'a>,
    defaults: Layers<'a>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// A reader without problems so far.
    pub fn new(pod: PodView<'a>, defaults: Layers<'a>) -> Self {
        Self { pod, defaults, problems: Vec::new() }
    }

    /// The value of an annotation: the pod's own, else the default that holds for it.
    fn annotation(&self, key: &str) -> Option<&'a str> {
        self.pod.annotation(key).or_else(|| self.defaults.get(key))
    }

    /// The problems found, in the order of reading.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Notes a problem.
    pub fn problem(&mut self, annotation: &'static str, text: impl Into<String>) {
        let mut text = text.into();
        if self.pod.annotation(annotation).is_none() && self.defaults.get(annotation).is_some() {
            text.push_str(" (not from the pod: from the defaults of its namespace or the cluster)");
        }
        self.problems.push(Problem { annotation, text });
    }

    /// A boolean: truthy is true, anything else false, absent the default.
    pub fn boolean(&self, key: &str, default: bool) -> bool {
        self.optional_boolean(key).unwrap_or(default)
    }

    /// A boolean whose absence means something of its own.
    pub fn optional_boolean(&self, key: &str) -> Option<bool> {
        self.annotation(key).map(is_truthy)
    }

    /// A text as it stands; a present empty one overrides the default.
    pub fn text(&self, key: &str, default: &str) -> String {
        self.annotation(key).unwrap_or(default).to_owned()
    }

    /// A text as it stands, present or not.
    pub fn optional_text(&self, key: &str) -> Option<String> {
        self.annotation(key).map(str::to_owned)
    }

    /// A text for which empty and absent are the same.
    pub fn filled_text(&self, key: &str) -> Option<String> {
        self.optional_text(key).filter(|text| !text.is_empty())
    }

    /// An address: quotes around it, then blanks around it, are stripped.
    pub fn address(&self, key: &str) -> Option<String> {
        self.annotation(key).map(|text| text.trim_matches(['"', '\'']).trim().to_owned())
    }

    /// A whole number of 64 bits; `None`, and a problem, when it is none.
    pub fn optional_integer(&mut self, key: &'static str) -> Option<i64> {
        let text = self.annotation(key)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.problem(key, format!("{} is not a whole number, it is ignored", quoted(text)));
        }
        number
    }

    /// A whole number of 32 bits; the default, and a problem, when it is none.
    pub fn integer(&mut self, key: &'static str, default: i32) -> i32 {
        let Some(text) = self.annotation(key) else { return default };
        match text.parse::<i64>().map(i32::try_from) {
            Ok(Ok(number)) => number,
            Ok(Err(_)) => {
                let shown = quoted(text);
                self.problem(key, format!("{shown} does not fit 32 bits, {default} is used"));
                default
            }
            Err(_) => {
                let shown = quoted(text);
                self.problem(key, format!("{shown} is not a whole number, {default} is used"));
                default
            }
        }
    }
}

/// A text for a message: in quotes, escaped, at most 40 characters of it.
pub fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(40).is_some() { "…" } else { "" };
    format!("\"{shown}{more}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    const KEY: &str = "dapr.io/key";

    fn with<T>(value: Option<&str>, read: impl FnOnce(&mut Reader<'_>) -> T) -> (T, Vec<String>) {
        let annotations = value.map_or(Value::Null, |v| json!({ KEY: v }));
        let pod = json!({"metadata": {"annotations": annotations}, "spec": {}});
        let mut reader = Reader::new(PodView::parse(&pod).unwrap(), Layers::NONE);
        let got = read(&mut reader);
        (got, reader.into_problems().iter().map(ToString::to_string).collect())
    }

    #[rstest]
    #[case(None, 7, None)]
    #[case(Some("3000"), 3000, None)]
    #[case(Some("+5"), 5, None)]
    #[case(Some("-1"), -1, None)]
    #[case(Some(""), 7, Some("dapr.io/key: \"\" is not a whole number, 7 is used"))]
    #[case(Some(" 5"), 7, Some("dapr.io/key: \" 5\" is not a whole number, 7 is used"))]
    #[case(Some("1_000"), 7, Some("dapr.io/key: \"1_000\" is not a whole number, 7 is used"))]
    #[case(Some("0x10"), 7, Some("dapr.io/key: \"0x10\" is not a whole number, 7 is used"))]
    #[case(
        Some("4294970296"),
        7,
        Some("dapr.io/key: \"4294970296\" does not fit 32 bits, 7 is used")
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

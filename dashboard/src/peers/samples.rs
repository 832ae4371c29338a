//! Metrics in the text format of Prometheus 0.0.4. Pure.

use std::collections::BTreeMap;

/// One series and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample<'a> {
    pub(crate) name: &'a str,
    labels: BTreeMap<&'a str, String>,
    pub(crate) value: f64,
}

impl Sample<'_> {
    /// A label; empty if it is absent.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// The series whose names `wanted` admits. Invalid lines are left out.
pub(crate) fn samples<'a>(
    body: &'a [u8],
    wanted: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = Sample<'a>> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    text.lines().filter_map(move |line| {
        let end = line.find(['{', ' '])?;
        let (name, rest) = line.split_at_checked(end)?;
        if !wanted(name) {
            return None;
        }
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (BTreeMap::new(), rest),
        };
        let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
        value.is_finite().then_some(Sample { name, labels, value })
    })
}

/// Labels up to the brace, and the rest of the line. Values escape `\`, `"` and line ends.
fn labels(mut rest: &str) -> Option<(BTreeMap<&str, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(end) = rest.strip_prefix('}') {
            return Some((labels, end));
        }
        let (name, value) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut chars = value.char_indices();
        loop {
            match chars.next()? {
                (at, '"') => {
                    rest = value.get(at + 1..)?;
                    break;
                }
                (_, '\\') => text.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => text.push(other),
            }
        }
        labels.insert(name.trim(), text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn series_are_read_with_their_labels() {
        let text = b"# HELP a b\na{x=\"1\",y=\"q\\\"\\\\\\n}\"} 3\nab 4\na 1.5e+1 1700000000\na{x=\"1\" 3\na NaN\n";
        let found: Vec<_> = samples(text, |name| name == "a").collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].label("x"), found[0].label("y")), ("1", "q\"\\\n}"));
        assert_eq!(found[0].label("z"), "");
        let values: Vec<_> = found.iter().map(|sample| sample.value.to_string()).collect();
        assert_eq!(values, ["3", "15"]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z{}=\",\\\\ 0-9\n]{0,80}") {
            let _ = samples(text.as_bytes(), |_| true).count();
        }
    }
}

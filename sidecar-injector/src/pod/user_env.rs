//! Environment variables of the sidecar that annotations set.
//!
//! Source of the grammar: Dapr 1.18, `dapr.io/env`. A comma separates entries only if an
//! identifier and `=` follow it, so values can contain commas.

/// One variable of `dapr.io/env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlainVar {
    /// Text before the first `=`, unchanged.
    pub(crate) name: String,
    /// Text after the first `=`, including quotes.
    pub(crate) value: String,
}

/// One variable of `dapr.io/env-from-secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretVar {
    pub(crate) name: String,
    /// Name of the Secret.
    pub(crate) secret: String,
    /// Key in the Secret.
    pub(crate) key: String,
}

/// Parses `dapr.io/env`: `A=1, B=2`. A part without `=` is dropped.
pub(crate) fn parse_plain(text: &str) -> Vec<PlainVar> {
    entries(text)
        .map(|(name, value)| PlainVar { name: name.to_owned(), value: value.to_owned() })
        .collect()
}

/// Parses `dapr.io/env-from-secret`: `A=secret:key, B=both`. The second list contains the names
/// of variables whose value has more than one `:`; these are dropped.
pub(crate) fn parse_from_secret(text: &str) -> (Vec<SecretVar>, Vec<String>) {
    let (mut vars, mut dropped) = (Vec::new(), Vec::new());
    for (name, value) in entries(text) {
        let (secret, key) = value.split_once(':').unwrap_or((value, value));
        if key.contains(':') {
            dropped.push(name.to_owned());
        } else {
            vars.push(SecretVar {
                name: name.to_owned(),
                secret: secret.trim().to_owned(),
                key: key.trim().to_owned(),
            });
        }
    }
    (vars, dropped)
}

fn entries(text: &str) -> impl Iterator<Item = (&str, &str)> {
    parts(text).into_iter().filter_map(|part| part.trim().split_once('='))
}

fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut part, mut rest) = (text, text);
    while let Some(comma) = rest.find(',') {
        let after = rest.get(comma + 1..).unwrap_or_default();
        if starts_entry(after) {
            let length = part.len() - rest.len() + comma;
            parts.push(part.get(..length).unwrap_or_default());
            part = after;
        }
        rest = after;
    }
    parts.push(part);
    parts
}

/// Whether the text starts with optional white space, an identifier and `=`.
fn starts_entry(text: &str) -> bool {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    rest.starts_with('=') && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("A=1 , B=2", &[("A", "1"), ("B", "2")])]
    #[case(
        r#"NO_PROXY="localhost,127.0.0.1,.x.com", B=2"#,
        &[("NO_PROXY", r#""localhost,127.0.0.1,.x.com""#), ("B", "2")]
    )]
    #[case(
        "OTEL=service.namespace=prod,service.version=1,Z=2",
        &[("OTEL", "service.namespace=prod,service.version=1"), ("Z", "2")]
    )]
    #[case("DSN=host=h;port=1,USER=x", &[("DSN", "host=h;port=1"), ("USER", "x")])]
    #[case("A=", &[("A", "")])]
    #[case("junk,A=1", &[("A", "1")])]
    #[case("A=1,\n  B=2\n", &[("A", "1"), ("B", "2")])]
    #[case("A =1", &[("A ", "1")])]
    #[case("A=1,2B=3", &[("A", "1,2B=3")])]
    #[case("A=ä,B=ö", &[("A", "ä"), ("B", "ö")])]
    #[case("", &[])]
    #[case(",,", &[])]
    fn parses_plain_variables(#[case] text: &str, #[case] want: &[(&str, &str)]) {
        let got = parse_plain(text);
        let got: Vec<_> = got.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn parses_variables_from_secrets() {
        let (vars, dropped) = parse_from_secret("A=s:k,B=both, C= s : k ,D=a:b:c");
        let got: Vec<_> = vars.iter().map(|v| [&v.name, &v.secret, &v.key]).collect();
        assert_eq!(got, [["A", "s", "k"], ["B", "both", "both"], ["C", "s", "k"]]);
        assert_eq!(dropped, ["D"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = (parse_plain(&text), parse_from_secret(&text));
        }

        #[test]
        fn joined_variables_are_split_again(
            vars in proptest::collection::vec(("[A-Z_][A-Z0-9_]{0,8}", "[a-z0-9.:;/=\"]{0,12}"), 1..6)
        ) {
            let text: Vec<String> = vars.iter().map(|(n, v)| format!("{n}={v}")).collect();
            let got: Vec<(String, String)> =
                parse_plain(&text.join(", ")).into_iter().map(|v| (v.name, v.value)).collect();
            proptest::prop_assert_eq!(got, vars);
        }
    }
}

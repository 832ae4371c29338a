//! Syntax check of Kubernetes quantities (`100m`, `1.5Gi`). The API server canonicalises them.

/// Whether a text matches
/// `[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?`.
/// Source: Kubernetes 1.34, package `resource`.
pub(crate) fn is_quantity(text: &str) -> bool {
    let number = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, rest) = digits(number);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    !(whole.is_empty() && fraction.is_empty()) && is_suffix(suffix)
}

fn is_suffix(suffix: &str) -> bool {
    let exponent = suffix.strip_prefix(['e', 'E']).is_some_and(|power| {
        let power = power.strip_prefix(['+', '-']).unwrap_or(power);
        !power.is_empty() && power.bytes().all(|b| b.is_ascii_digit())
    });
    let scales =
        ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    exponent || scales.contains(&suffix)
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn accepts(
        #[values(
            "5.", ".5", "+5", "-5", "1e3", "1E", "1E-3", "100u", "0", "16Mi", "1.5Gi", "100m", "1k"
        )]
        text: &str,
    ) {
        assert!(is_quantity(text));
    }

    #[rstest]
    fn rejects(
        #[values("", "1 Gi", "1gi", "1Ki5", "abc", ".", "+", "1e", "1K", "1ki", "--1", " 1")]
        text: &str,
    ) {
        assert!(!is_quantity(text));
    }
}

//! Admission warnings within the limits of the API server.
//! Source: Kubernetes 1.34. It drops a warning with a control character. If the warnings have more
//! than 4096 characters in total, it cuts each to 256 and drops those beyond the total.

use runtime::printable;

use crate::pod::Warning;

/// Names the source: `kubectl` prints warnings of all webhooks alike.
const PREFIX: &str = "dapr: ";
/// Longest warning in characters.
const MAX_CHARS: usize = 256;
/// Longest total of all warnings in characters.
const MAX_TOTAL_CHARS: usize = 4096;

/// The warnings within the limits. If some are dropped, the last one states how many.
pub(crate) fn bounded(warnings: &[Warning]) -> Vec<String> {
    let all: Vec<String> =
        warnings.iter().map(|w| cut(&printable(&format!("{PREFIX}{w}")))).collect();
    let length = |texts: &[String]| texts.iter().map(|w| w.chars().count()).sum::<usize>();
    if length(&all) <= MAX_TOTAL_CHARS {
        return all;
    }
    let mut kept = all;
    let count = kept.len();
    while length(&kept) + MAX_CHARS > MAX_TOTAL_CHARS && kept.pop().is_some() {}
    kept.push(match count - kept.len() {
        1 => format!("{PREFIX}and 1 more warning"),
        more => format!("{PREFIX}and {more} more warnings"),
    });
    kept
}

fn cut(text: &str) -> String {
    if text.chars().count() <= MAX_CHARS {
        return text.to_owned();
    }
    text.chars().take(MAX_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(text: &str) -> Warning {
        Warning { about: "pod", text: text.to_owned() }
    }

    #[test]
    fn adds_the_source_and_replaces_control_characters() {
        assert_eq!(bounded(&[warning("a\nb\t")]), ["dapr: a b "]);
    }

    #[test]
    fn drops_warnings_beyond_the_limits_and_counts_them() {
        let many: Vec<Warning> = (0..40).map(|_| warning(&"ä".repeat(300))).collect();
        let sent = bounded(&many);
        let lengths: Vec<usize> = sent.iter().map(|w| w.chars().count()).collect();
        assert!(lengths.iter().all(|n| *n <= MAX_CHARS));
        assert!(lengths.iter().sum::<usize>() <= MAX_TOTAL_CHARS);
        assert_eq!(sent.last().unwrap(), "dapr: and 25 more warnings");
        assert_eq!(sent.len(), 16);
    }
}

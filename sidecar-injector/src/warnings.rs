//! Admission warnings within the limits of the API server.
//! Source: Kubernetes 1.34: a warning with a control character is dropped; when all of them
//! together exceed 4096 characters each is cut to 256, and the rest is dropped.

use std::fmt;

use runtime::printable;

use crate::reader::Problem;

/// A sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What it is about, from a fixed set, for the metric: mostly an annotation's key.
    pub about: &'static str,
    /// The sentence.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<&Problem> for Warning {
    fn from(problem: &Problem) -> Self {
        Self { about: problem.annotation, text: problem.to_string() }
    }
}

/// What `kubectl` shows before the text is its own; this names the speaker.
const PREFIX: &str = "dapr: ";
/// Longest warning, in characters.
const MAX_CHARS: usize = 256;
/// Longest sum of all warnings, in characters.
const MAX_TOTAL_CHARS: usize = 4096;

/// The warnings as they may be sent; when some had to go, the last one says how many.
pub fn bounded(warnings: &[Warning]) -> Vec<String> {
    let all: Vec<String> =
        warnings.iter().map(|w| cut(&printable(&format!("{PREFIX}{w}")))).collect();
    let length = |texts: &[String]| texts.iter().map(|w| w.chars().count()).sum::<usize>();
    if length(&all) <= MAX_TOTAL_CHARS {
        return all;
    }
    let mut kept = all;
    let count = kept.len();
    while length(&kept) + MAX_CHARS > MAX_TOTAL_CHARS && kept.pop().is_some() {}
    kept.push(format!("{PREFIX}and {} more warnings", count - kept.len()));
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
    fn names_the_speaker_and_drops_control_characters() {
        assert_eq!(bounded(&[warning("a\nb\t")]), ["dapr: a b "]);
    }

    #[test]
    fn stays_within_the_limits_and_says_what_is_missing() {
        let many: Vec<Warning> = (0..40).map(|_| warning(&"ä".repeat(300))).collect();
        let sent = bounded(&many);
        let lengths: Vec<usize> = sent.iter().map(|w| w.chars().count()).collect();
        assert!(lengths.iter().all(|n| *n <= MAX_CHARS));
        assert!(lengths.iter().sum::<usize>() <= MAX_TOTAL_CHARS);
        assert_eq!(sent.last().unwrap(), "dapr: and 25 more warnings");
        assert_eq!(sent.len(), 16);
    }
}

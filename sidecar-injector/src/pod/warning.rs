//! A message for the user who creates a pod.

use std::fmt;

use super::annotations::Problem;

/// A message for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The subject, from a fixed set: an annotation's key in most cases. Label of a metric.
    pub about: &'static str,
    /// The message.
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

//! What a sidecar answered to its application.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Status and body of the sidecar's answer, as the application passes it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    status: u64,
    body: String,
}

impl Answer {
    /// Reads what the application says.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("the application's answer")?;
        let status = value["status"].as_u64().with_context(|| format!("no status in {text}"))?;
        let body = value["body"].as_str().with_context(|| format!("no body in {text}"))?;
        Ok(Self { status, body: body.to_owned() })
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body, of an answer that is no error.
    pub(super) fn text(&self) -> Result<&str> {
        ensure!(self.is_success(), "the sidecar answered {}: {}", self.status, self.body);
        Ok(&self.body)
    }

    /// The body as JSON, of an answer that is no error.
    pub(super) fn json(&self) -> Result<Value> {
        let text = self.text()?;
        serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))
    }

    /// Checks that it is an error that says `reason`.
    pub(super) fn refused(&self, reason: &str) -> Result<()> {
        ensure!(!self.is_success(), "not refused: {} {}", self.status, self.body);
        ensure!(
            self.body.contains(reason) || self.status.to_string() == reason,
            "refused without {reason:?}: {} {}",
            self.status,
            self.body
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_no_text_and_names_status_and_body() {
        let answer = Answer::parse(r#"{"status": 500, "body": "ERR_X: no"}"#).unwrap();
        let error = answer.text().unwrap_err().to_string();
        assert!(error.contains("500") && error.contains("ERR_X"), "{error}");
        answer.refused("ERR_X").unwrap();
        answer.refused("500").unwrap();
        answer.refused("ERR_Y").unwrap_err();
    }

    #[test]
    fn a_success_is_not_refused() {
        let answer = Answer::parse(r#"{"status": 204, "body": "ERR_X"}"#).unwrap();
        answer.refused("ERR_X").unwrap_err();
        let number = Answer::parse(r#"{"status": 200, "body": "7"}"#).unwrap();
        assert_eq!(number.json().unwrap(), 7);
    }

    #[test]
    fn what_the_application_itself_refuses_is_no_answer() {
        Answer::parse(r#"{"message": "KeyError"}"#).unwrap_err();
    }
}

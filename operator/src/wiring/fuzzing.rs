//! Entry points of the fuzz targets.
use crate::definitions::subscriptions::conversion;

/// A `ConversionReview` as JSON.
///
/// # Panics
/// When an answer is no `ConversionReview`: a defect that the fuzzer found.
pub fn conversion_review(data: &[u8]) {
    if let Some(answer) = conversion::review(data) {
        let answer: serde_json::Value =
            serde_json::from_slice(&answer).unwrap_or_else(|e| unreachable!("no JSON: {e}"));
        assert!(answer.get("response").is_some(), "{answer}");
    }
}

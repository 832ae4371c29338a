//! Memory of the conversion webhook. A test binary of its own: the peak is that of the process.
#![expect(clippy::unwrap_used, reason = "test code outside of #[test] functions")]

use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::Value;
use tower::ServiceExt as _;

/// An eighth of the largest body, which the debug build reads in seconds.
const BODY_BYTES: usize = 4 * 1024 * 1024;
/// Memory in addition to the body: its copy, the response, and one object at a time. A tree of the
/// body takes 150 MiB.
const MARGIN_BYTES: usize = 24 * 1024 * 1024;

/// Peak of the resident memory of this process.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// `prefix`, then `filling` until the body has its largest size, then `suffix`.
fn body(prefix: &str, filling: &str, suffix: &str) -> Vec<u8> {
    let mut body = String::with_capacity(BODY_BYTES);
    body.push_str(prefix);
    while body.len() + filling.len() + suffix.len() < BODY_BYTES {
        body.push_str(filling);
    }
    body.push_str(suffix);
    body.into_bytes()
}

#[tokio::test]
async fn hostile_bodies_are_not_expanded() {
    let request = r#"{"request":{"uid":"1","desiredAPIVersion":"dapr.io/v2alpha1","objects":["#;
    let object =
        r#"{"kind":"Subscription","apiVersion":"dapr.io/v1alpha1","metadata":{"name":"s"}"#;
    let bodies = [
        ("root", body(r#"{"request":{"uid":"1"},"x":["#, "0,", "0]}")),
        ("request", body(r#"{"request":{"uid":"1","x":["#, "0,", "0]}}")),
        ("objects", body(request, "0,", "0]}}")),
        ("empty objects", body(request, "{},", "{}]}}")),
        ("member", body(&format!(r#"{request}{object},"x":["#), "0,", "0]}]}}")),
        ("metadata", body(&format!("{request}{object},\"spec\":{{\"x\":["), "[],", "0]}}]}}")),
        ("names", body(&format!("{request}{object},\"spec\":{{"), "\"\":0,", "\"a\":0}}]}}")),
    ];
    for (place, body) in bodies {
        let before = peak_bytes();
        let review = Request::post("/convert")
            .header("content-length", body.len())
            .body(Body::from(body))
            .unwrap();
        let response = operator::conversion_webhook().oneshot(review).await.unwrap();
        let grown = peak_bytes() - before;
        assert!(grown < MARGIN_BYTES, "{place}: {} MiB", grown / 1024 / 1024);
        if response.status() == StatusCode::OK {
            let body = axum::body::to_bytes(response.into_body(), BODY_BYTES).await.unwrap();
            let answer: Value = serde_json::from_slice(&body).unwrap();
            assert!(answer.pointer("/response/result/status").is_some(), "{place}: {answer}");
        }
    }
}

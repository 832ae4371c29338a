//! The status of an answer, in HTTP or in the headers or trailers of gRPC. Pure.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;

/// Name of the code, and of the text, percent-encoded (gRPC over HTTP/2, "Responses").
const CODE: &str = "grpc-status";
const TEXT: &str = "grpc-message";
/// Codes of gRPC.
pub(super) const DEADLINE_EXCEEDED: &str = "4";
pub(super) const RESOURCE_EXHAUSTED: &str = "8";
/// Bytes of a text. Errors name what they refuse, which may be as long as a request; clients accept
/// 16 KiB of headers by default (hyper).
const MAX_TEXT_BYTES: usize = 4 * 1024;
/// Codes of gRPC by which a request is refused for what it is or whose it is: `INVALID_ARGUMENT`,
/// `PERMISSION_DENIED`, `RESOURCE_EXHAUSTED`, `OUT_OF_RANGE`, `UNIMPLEMENTED`, `INTERNAL` (of messages
/// that cannot be decoded), `UNAUTHENTICATED`. Others are answers, such as `NOT_FOUND`.
const REFUSALS: [&str; 7] = ["3", "7", RESOURCE_EXHAUSTED, "11", "12", "13", "16"];

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.starts_with("application/grpc"))
}

/// An answer in the protocol of the client.
pub(super) fn refusal(
    grpc: bool,
    status: StatusCode,
    code: &'static str,
    text: &'static str,
) -> Response<Body> {
    if !grpc {
        return (status, text).into_response();
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(CODE, HeaderValue::from_static(code));
    headers.insert(TEXT, HeaderValue::from_static(text));
    response
}

/// Whether an answer refuses its request. A gRPC error that follows messages does not.
pub(super) fn is_refusal(status: StatusCode, headers: &HeaderMap) -> bool {
    let code = headers.get(CODE).and_then(|code| code.to_str().ok());
    status.is_client_error() || code.is_some_and(|code| REFUSALS.contains(&code))
}

/// Cuts a text that is too long, between two characters.
pub(super) fn shorten(headers: &mut HeaderMap) {
    let Some(text) = headers.get_mut(TEXT).filter(|text| text.len() > MAX_TEXT_BYTES) else {
        return;
    };
    if let Ok(short) = HeaderValue::from_bytes(beginning(text.as_bytes())) {
        *text = short;
    }
}

/// The longest beginning of a percent-encoded text within the limit that ends with a whole character;
/// a last character beyond ASCII is left out.
fn beginning(text: &[u8]) -> &[u8] {
    let mut text = text.get(..MAX_TEXT_BYTES).unwrap_or(text);
    // An escape whose end was cut off.
    if let [rest @ .., b'%'] | [rest @ .., b'%', _] = text {
        text = rest;
    }
    // The octets of such a character, of which the first is 0xC0 or more.
    while let [rest @ .., b'%', high, _] = text {
        match high.to_ascii_uppercase() {
            b'8' | b'9' | b'A' | b'B' => text = rest,
            b'C'..=b'F' => return rest,
            _ => break,
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn text(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TEXT, HeaderValue::from_str(text).unwrap());
        headers
    }

    fn shortened(long: &str) -> String {
        let mut headers = text(long);
        shorten(&mut headers);
        headers[TEXT].to_str().unwrap().to_owned()
    }

    #[rstest]
    #[case::as_long_as_it_may_be(4096, "", 4096)]
    #[case::longer_by_one(4097, "", 4096)]
    #[case::escape_at_the_limit(4093, "%25", 4096)]
    #[case::escape_over_the_limit(4094, "%25", 4094)]
    #[case::escape_that_begins_last(4095, "%25", 4095)]
    #[case::character_at_the_limit(4090, "%C3%A4x", 4090)]
    #[case::character_over_the_limit(4093, "%C3%A4", 4093)]
    #[case::long_character_over_the_limit(4087, "%F0%9F%98%80", 4087)]
    fn texts_are_cut_at_their_limit_between_characters(
        #[case] plain: usize,
        #[case] rest: &str,
        #[case] want: usize,
    ) {
        let got = shortened(&("x".repeat(plain) + rest));
        assert_eq!(got.len(), want, "{}", &got[got.len() - 9..]);
    }

    #[test]
    fn what_is_asked_for_and_absent_is_no_refusal() {
        let with = |code: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CODE, HeaderValue::from_str(code).unwrap());
            headers
        };
        for code in ["0", "5", "6", "9", "10", "14"] {
            assert!(!is_refusal(StatusCode::OK, &with(code)), "{code}");
        }
        for code in REFUSALS {
            assert!(is_refusal(StatusCode::OK, &with(code)), "{code}");
        }
        assert!(is_refusal(StatusCode::PAYLOAD_TOO_LARGE, &HeaderMap::new()));
        assert!(!is_refusal(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new()));
    }
}

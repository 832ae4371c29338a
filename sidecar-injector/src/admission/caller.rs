//! Proof that a request comes from the API server.
//!
//! The port of the webhook is open to every pod. A request that does not come from the API server
//! must not create Events for objects that it names, count as a call of the API server, or read the
//! containers that Components of any namespace define.

use std::fmt;

/// Shortest token: 32 characters of 36 are 165 bits.
const MIN_TOKEN_CHARS: usize = 32;
/// Longest token: the API server accepts path segments that are DNS-1123 labels.
const MAX_TOKEN_CHARS: usize = 63;

/// How the API server proves its identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CallerProof {
    /// It does not: every request counts as verified.
    #[default]
    None,
    /// A client certificate. The TLS handshake rejects other clients.
    ClientCertificate,
    /// The token in the path `/mutate/<token>` of the webhook configuration.
    PathToken(PathToken),
}

/// A secret path segment. Its value is in no log.
#[derive(Clone, PartialEq, Eq)]
pub struct PathToken(String);

/// A path token with other characters or of another length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a path token: use {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} characters of a-z and 0-9, for example the output of `openssl rand -hex 20`"
)]
pub struct BadPathToken;

impl PathToken {
    /// # Errors
    /// The token is too short, too long, or not a segment of a webhook's path.
    pub(crate) fn parse(text: &str) -> Result<Self, BadPathToken> {
        let valid = (MIN_TOKEN_CHARS..=MAX_TOKEN_CHARS).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        valid.then(|| Self(text.to_owned())).ok_or(BadPathToken)
    }

    /// Compares in time that does not depend on the content.
    fn equals(&self, other: &str) -> bool {
        let (own, other) = (self.0.as_bytes(), other.as_bytes());
        own.len() == other.len() && own.iter().zip(other).fold(0, |d, (a, b)| d | (a ^ b)) == 0
    }
}

impl fmt::Debug for PathToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PathToken(…)")
    }
}

/// Whether a request comes from the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Verified,
    Unverified,
}

impl CallerProof {
    /// The caller of `/mutate`, or of `/mutate/<segment>`. `None` if that path does not exist.
    pub(crate) fn check(&self, segment: Option<&str>) -> Option<Caller> {
        match (self, segment) {
            (Self::None | Self::ClientCertificate, None) => Some(Caller::Verified),
            (Self::PathToken(token), Some(segment)) if token.equals(segment) => {
                Some(Caller::Verified)
            }
            (Self::PathToken(_), None) => Some(Caller::Unverified),
            (_, Some(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(MIN_TOKEN_CHARS - 1, false)]
    #[case(MIN_TOKEN_CHARS, true)]
    #[case(MAX_TOKEN_CHARS, true)]
    #[case(MAX_TOKEN_CHARS + 1, false)]
    fn bounds_the_length_of_a_token(#[case] length: usize, #[case] valid: bool) {
        assert_eq!(PathToken::parse(&"a".repeat(length)).is_ok(), valid);
        assert!(PathToken::parse(&"/".repeat(length)).is_err());
    }

    #[test]
    fn only_the_path_with_the_token_is_verified() {
        let text = "k".repeat(MIN_TOKEN_CHARS);
        let proof = CallerProof::PathToken(PathToken::parse(&text).unwrap());
        assert_eq!(proof.check(Some(&text)), Some(Caller::Verified));
        assert_eq!(proof.check(None), Some(Caller::Unverified));
        assert_eq!(proof.check(Some(&"x".repeat(MIN_TOKEN_CHARS))), None);
        assert_eq!(CallerProof::None.check(Some("x")), None);
        assert_eq!(CallerProof::ClientCertificate.check(None), Some(Caller::Verified));
        assert!(!format!("{proof:?}").contains(&text), "{proof:?}");
    }
}

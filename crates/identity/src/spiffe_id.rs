//! Trust domains and SPIFFE ids. Source: SPIFFE-ID standard §2; Dapr 1.18, sentry request checks.
//!
//! Upper case is rejected and not folded, as peers do.

use std::fmt;
use std::str::FromStr;

const SCHEME: &str = "spiffe://";

/// Maximum length of an id that peers accept, in bytes. Source: SPIFFE-ID standard §2.3.
const MAX_ID_BYTES: usize = 2048;

/// The default trust domain of applications. Source: Dapr 1.18.
const PUBLIC: &str = "public";

/// Why a text is not a trust domain or SPIFFE id. The texts are part of sentry's responses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// The text is empty.
    #[error("cannot be empty")]
    Empty,
    /// The scheme is not `spiffe`.
    #[error("scheme is missing or invalid")]
    Scheme,
    /// The trust domain is empty.
    #[error("trust domain is missing")]
    MissingTrustDomain,
    /// A character that is illegal in a trust domain.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    TrustDomainCharacter,
    /// A path segment is empty.
    #[error("path cannot contain empty segments")]
    EmptySegment,
    /// The path ends with a slash.
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
    /// A segment is `.` or `..`.
    #[error("path cannot contain dot segments")]
    DotSegment,
    /// A character that is illegal in a path segment.
    #[error(
        "path segment characters are limited to letters, numbers, dots, dashes, and underscores"
    )]
    SegmentCharacter,
    /// Longer than peers accept.
    #[error("SPIFFE ID is longer than {MAX_ID_BYTES} bytes")]
    TooLong,
}

/// A valid trust domain name, such as `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Parses a bare name, or a SPIFFE id whose path is ignored.
    ///
    /// # Errors
    /// [`SpiffeError`] names the rule that failed.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.is_empty() {
            return Err(SpiffeError::MissingTrustDomain);
        }
        if text.contains(":/") {
            return SpiffeId::parse(text).map(|id| id.trust_domain);
        }
        Self::bare(text)
    }

    /// The default trust domain of applications: `public`.
    pub fn public() -> Self {
        Self(PUBLIC.to_owned())
    }

    /// The name as text, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn bare(name: &str) -> Result<Self, SpiffeError> {
        let legal =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() {
            Err(SpiffeError::MissingTrustDomain)
        } else if name.bytes().all(legal) {
            Ok(Self(name.to_owned()))
        } else {
            Err(SpiffeError::TrustDomainCharacter)
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::parse(text)
    }
}

/// A valid SPIFFE id: `spiffe://<trust domain>[/<segment>]*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// Empty, or segments that each start with `/`.
    path: String,
}

impl SpiffeId {
    /// The id of a workload: `spiffe://<trust domain>/ns/<namespace>/<app id>`.
    /// Source: Dapr 1.18.
    ///
    /// # Errors
    /// [`SpiffeError`] if the namespace or the app id is not a legal path segment, or the id is too
    /// long.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        app: &str,
    ) -> Result<Self, SpiffeError> {
        check_segment(namespace)?;
        check_segment(app)?;
        Self::checked(trust_domain.clone(), format!("/ns/{namespace}/{app}"))
    }

    /// Parses an id.
    ///
    /// # Errors
    /// [`SpiffeError`] names the rule that failed.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.is_empty() {
            return Err(SpiffeError::Empty);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = TrustDomain::bare(name)?;
        let mut segments = path.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            if segment.is_empty() && segments.peek().is_none() {
                return Err(SpiffeError::TrailingSlash);
            }
            check_segment(segment)?;
        }
        Self::checked(trust_domain, path.to_owned())
    }

    /// The trust domain, which is the host of the URI.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash, or an empty string.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The namespace of a workload; `None` if the path is not `/ns/<namespace>/<app id>`. Further
    /// segments are ignored. Source: Dapr 1.18, servers.
    pub fn namespace(&self) -> Option<&str> {
        self.workload().map(|(namespace, _)| namespace)
    }

    /// The app id of a workload; `None` as for [`Self::namespace`].
    pub fn app_id(&self) -> Option<&str> {
        self.workload().map(|(_, app)| app)
    }

    fn workload(&self) -> Option<(&str, &str)> {
        let mut segments = self.path.split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some(""), Some("ns"), Some(namespace), Some(app))
                if !namespace.is_empty() && !app.is_empty() =>
            {
                Some((namespace, app))
            }
            _ => None,
        }
    }

    fn checked(trust_domain: TrustDomain, path: String) -> Result<Self, SpiffeError> {
        if SCHEME.len() + trust_domain.0.len() + path.len() > MAX_ID_BYTES {
            return Err(SpiffeError::TooLong);
        }
        Ok(Self { trust_domain, path })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::parse(text)
    }
}

fn check_segment(segment: &str) -> Result<(), SpiffeError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match segment {
        "" => Err(SpiffeError::EmptySegment),
        "." | ".." => Err(SpiffeError::DotSegment),
        _ if segment.bytes().all(legal) => Ok(()),
        _ => Err(SpiffeError::SegmentCharacter),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::name("cluster.local", Ok("cluster.local"))]
    #[case::underscore("a_b-c.9", Ok("a_b-c.9"))]
    #[case::id("spiffe://td/ns/a/b", Ok("td"))]
    #[case::upper("Cluster", Err(SpiffeError::TrustDomainCharacter))]
    #[case::port("td:80", Err(SpiffeError::TrustDomainCharacter))]
    #[case::space("a b", Err(SpiffeError::TrustDomainCharacter))]
    #[case::slash("a/b", Err(SpiffeError::TrustDomainCharacter))]
    #[case::non_ascii("dömain", Err(SpiffeError::TrustDomainCharacter))]
    #[case::http("http://a", Err(SpiffeError::Scheme))]
    #[case::no_name("spiffe://", Err(SpiffeError::MissingTrustDomain))]
    #[case::empty("", Err(SpiffeError::MissingTrustDomain))]
    fn parses_trust_domains(#[case] text: &str, #[case] want: Result<&str, SpiffeError>) {
        assert_eq!(TrustDomain::parse(text), want.map(|name| TrustDomain(name.to_owned())));
    }

    #[rstest]
    #[case("spiffe://td", Ok(()))]
    #[case("spiffe://td/", Err(SpiffeError::TrailingSlash))]
    #[case("spiffe://td/a/", Err(SpiffeError::TrailingSlash))]
    #[case("spiffe://td//a", Err(SpiffeError::EmptySegment))]
    #[case("spiffe://td/../a", Err(SpiffeError::DotSegment))]
    #[case("spiffe://td/ns/ü/a", Err(SpiffeError::SegmentCharacter))]
    #[case("SPIFFE://td/a", Err(SpiffeError::Scheme))]
    #[case("", Err(SpiffeError::Empty))]
    fn parses_ids(#[case] text: &str, #[case] want: Result<(), SpiffeError>) {
        assert_eq!(SpiffeId::parse(text).map(|id| assert_eq!(id.to_string(), text)), want);
    }

    #[rstest]
    #[case("spiffe://td/ns/shop/cart", Some(("shop", "cart")))]
    #[case("spiffe://td/ns/shop/cart/v2/x", Some(("shop", "cart")))]
    #[case("spiffe://td/ns/shop", None)]
    #[case("spiffe://td/sa/shop/cart", None)]
    #[case("spiffe://td", None)]
    fn parses_the_workload_of_an_id(#[case] text: &str, #[case] want: Option<(&str, &str)>) {
        let id = SpiffeId::parse(text).unwrap();
        assert_eq!(id.namespace().zip(id.app_id()), want);
    }

    #[rstest]
    #[case("a/b")]
    #[case("a:b")]
    #[case("ä")]
    #[case("")]
    #[case("..")]
    fn rejects_app_ids_that_are_not_a_segment(#[case] app: &str) {
        assert!(SpiffeId::new(&TrustDomain::public(), "default", app).is_err());
    }

    #[test]
    fn rejects_ids_that_are_too_long() {
        let long = "a".repeat(2100);
        assert_eq!(SpiffeId::new(&TrustDomain::public(), "n", &long), Err(SpiffeError::TooLong));
    }

    proptest! {
        #[test]
        fn parse_and_display_round_trip(text in "(spiffe://)?[a-zA-Z0-9._/:-]{0,40}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = SpiffeId::parse(&text);
            let _ = TrustDomain::parse(&text);
        }
    }
}

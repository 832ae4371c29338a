//! Decides whether the stored JWT key and key set are used, generated or rejected. Source: Dapr
//! 1.18, sentry. Deviation: one of the two alone is never replaced.

use identity::{JwkSet, JwksError, JwtSigner, KeyError, PrivateKey};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::svid::JwtConfig;

/// The stored key and key set.
#[derive(Clone, Default)]
pub(crate) struct StoredJwt {
    /// The private key, PEM.
    pub(crate) key: Option<Zeroizing<Vec<u8>>>,
    /// The key set, JSON.
    pub(crate) jwks: Option<Vec<u8>>,
}

/// The signing key and the key set that publishes it.
#[derive(Debug)]
pub(crate) struct JwtAuthority {
    pub(crate) signer: JwtSigner,
    /// The key set as it is served, JSON.
    pub(crate) jwks: String,
}

/// A generated key and key set.
pub(crate) struct GeneratedJwt {
    /// The private key, PEM.
    pub(crate) key: Zeroizing<String>,
    /// The key set, JSON.
    pub(crate) jwks: String,
}

/// The decision about the stored key.
#[derive(Debug)]
pub(crate) enum JwtPlan {
    /// Sign with this key.
    Use(Box<JwtAuthority>),
    /// Generate both: neither is stored.
    Generate,
}

/// Why the stored key or key set is rejected. It is never replaced.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoredKeyError {
    /// Only one of the two is stored.
    #[error("the {0} is missing; restore it, or remove the other part to let sentry generate both")]
    Incomplete(&'static str),
    /// The key does not parse.
    #[error("the JWT signing key cannot be used")]
    Key(#[source] KeyError),
    /// The key does not support the algorithm.
    #[error("the JWT signing key does not sign with {0}")]
    Algorithm(&'static str),
    /// The key set does not parse.
    #[error("the JWKS cannot be used")]
    Jwks(#[source] JwksError),
    /// The key set is empty.
    #[error("the JWKS holds no key")]
    Empty,
    /// The key set would publish a secret.
    #[error("the JWKS holds a private or symmetric key and must not be published")]
    Secret,
    /// The key set has no key with the key id of the flag.
    #[error("the JWKS has no key with the key ID {0:?}")]
    NoSuchKeyId(String),
    /// The key set has another key under the key id of the flag.
    #[error("the JWKS has another key under the key ID {0:?} than the signing key")]
    OtherKey(String),
    /// The key set does not publish the signing key.
    #[error("the JWKS does not hold the public half of the signing key")]
    NotPublished,
}

/// Decides whether the stored key and key set are used, generated or rejected.
///
/// # Errors
/// [`StoredKeyError`] if they are rejected.
pub(crate) fn plan(stored: &StoredJwt, config: &JwtConfig) -> Result<JwtPlan, StoredKeyError> {
    let (key, jwks) = match (&stored.key, &stored.jwks) {
        (None, None) => return Ok(JwtPlan::Generate),
        (None, Some(_)) => return Err(StoredKeyError::Incomplete("JWT signing key")),
        (Some(_), None) => return Err(StoredKeyError::Incomplete("JWKS")),
        (Some(key), Some(jwks)) => (key, jwks),
    };
    let set = JwkSet::parse(jwks).map_err(StoredKeyError::Jwks)?;
    if set.is_empty() {
        return Err(StoredKeyError::Empty);
    }
    if set.holds_secrets() {
        return Err(StoredKeyError::Secret);
    }
    let key = PrivateKey::from_pem(key).map_err(StoredKeyError::Key)?;
    let kid = config.key_id.as_deref();
    let signer = JwtSigner::new(&key, config.algorithm, kid)
        .map_err(|_| StoredKeyError::Algorithm(config.algorithm.name()))?;
    check_published(&set, &signer, kid)?;
    let jwks: Value =
        serde_json::from_slice(jwks).map_err(|_| StoredKeyError::Jwks(JwksError::Structure))?;
    Ok(JwtPlan::Use(Box::new(JwtAuthority { signer, jwks: jwks.to_string() })))
}

fn check_published(
    set: &JwkSet,
    signer: &JwtSigner,
    kid: Option<&str>,
) -> Result<(), StoredKeyError> {
    match kid {
        _ if set.publishes(signer.public(), kid) => Ok(()),
        None => Err(StoredKeyError::NotPublished),
        Some(kid) if set.names(kid) => Err(StoredKeyError::OtherKey(kid.to_owned())),
        Some(kid) => Err(StoredKeyError::NoSuchKeyId(kid.to_owned())),
    }
}

/// Generates a key for the algorithm, and a key set with its public half.
///
/// # Errors
/// The crypto library fails.
pub(crate) fn generate(config: &JwtConfig) -> Result<GeneratedJwt, KeyError> {
    let key = PrivateKey::generate_for(config.algorithm)?;
    let signer = JwtSigner::new(&key, config.algorithm, config.key_id.as_deref())?;
    let jwk = signer.public().to_jwk(signer.kid(), config.algorithm);
    Ok(GeneratedJwt { key: key.to_pem(), jwks: json!({"keys": [jwk]}).to_string() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use identity::JwtAlgorithm;
    use rstest::rstest;

    use super::*;

    fn config(algorithm: &str, key_id: Option<&str>) -> JwtConfig {
        JwtConfig {
            key: "jwt.key".into(),
            jwks: "jwks.json".into(),
            issuer: None,
            algorithm: JwtAlgorithm::parse(algorithm).unwrap(),
            key_id: key_id.map(str::to_owned),
            ttl: Duration::from_hours(1),
        }
    }

    fn stored(made: &GeneratedJwt) -> StoredJwt {
        StoredJwt {
            key: Some(Zeroizing::new(made.key.as_bytes().to_vec())),
            jwks: Some(made.jwks.clone().into_bytes()),
        }
    }

    #[rstest]
    fn generated_keys_are_used_by_the_next_start(
        #[values("RS256", "PS512", "ES256", "ES384", "ES512")] algorithm: &str,
        #[values(None, Some("mine"))] key_id: Option<&str>,
    ) {
        let config = config(algorithm, key_id);
        assert!(matches!(plan(&StoredJwt::default(), &config), Ok(JwtPlan::Generate)));
        let made = generate(&config).unwrap();
        let Ok(JwtPlan::Use(authority)) = plan(&stored(&made), &config) else { panic!() };
        assert_eq!(authority.jwks, made.jwks);
        assert!(authority.jwks.contains(&format!("\"alg\":\"{algorithm}\"")), "{}", authority.jwks);
        assert_eq!(key_id.unwrap_or(authority.signer.kid()), authority.signer.kid());
    }

    #[test]
    fn the_key_set_may_have_further_keys() {
        let config = config("RS256", None);
        let made = generate(&config).unwrap();
        let mut more = stored(&made);
        more.jwks =
            Some(made.jwks.replace("\"keys\":[", "\"keys\":[{\"kty\":\"x\"},").into_bytes());
        let Ok(JwtPlan::Use(authority)) = plan(&more, &config) else { panic!() };
        assert!(authority.jwks.contains("{\"kty\":\"x\"}"));
    }

    #[rstest]
    #[case::no_key(|s: &mut StoredJwt, _: &str| s.key = None, StoredKeyError::Incomplete("JWT signing key"))]
    #[case::no_jwks(|s: &mut StoredJwt, _: &str| s.jwks = None, StoredKeyError::Incomplete("JWKS"))]
    #[case::empty_file(|s: &mut StoredJwt, _: &str| s.jwks = Some(Vec::new()), StoredKeyError::Jwks(JwksError::Structure))]
    #[case::empty_set(|s: &mut StoredJwt, _: &str| s.jwks = Some(b"{\"keys\":[]}".to_vec()), StoredKeyError::Empty)]
    #[case::private(|s: &mut StoredJwt, _: &str| s.jwks = Some(b"{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}".to_vec()), StoredKeyError::Secret)]
    #[case::other_key(|s: &mut StoredJwt, other: &str| s.jwks = Some(other.into()), StoredKeyError::NotPublished)]
    #[case::no_pem(|s: &mut StoredJwt, _: &str| s.key = Some(Zeroizing::new(b"x".to_vec())), StoredKeyError::Key(KeyError::NoPem))]
    fn rejects_inconsistent_keys(
        #[case] change: impl FnOnce(&mut StoredJwt, &str),
        #[case] want: StoredKeyError,
    ) {
        let config = config("ES256", None);
        let (made, other) = (generate(&config).unwrap(), generate(&config).unwrap());
        let mut stored = stored(&made);
        change(&mut stored, &other.jwks);
        assert_eq!(plan(&stored, &config).unwrap_err(), want);
    }

    #[test]
    fn distinguishes_a_missing_key_id_from_another_key() {
        let (made, other) = (
            generate(&config("ES256", Some("a"))).unwrap(),
            generate(&config("ES256", Some("b"))).unwrap(),
        );
        let other_id = config("ES256", Some("b"));
        let refused = plan(&stored(&made), &other_id).unwrap_err();
        assert_eq!(refused, StoredKeyError::NoSuchKeyId("b".to_owned()));
        let mut mixed = stored(&made);
        mixed.jwks = Some(other.jwks.into_bytes());
        assert_eq!(plan(&mixed, &other_id).unwrap_err(), StoredKeyError::OtherKey("b".to_owned()));
        let refused = plan(&stored(&made), &config("RS256", Some("a"))).unwrap_err();
        assert_eq!(refused, StoredKeyError::Algorithm("RS256"));
    }
}

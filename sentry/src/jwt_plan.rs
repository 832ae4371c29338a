//! What to do about the stored JWT key and key set: use them, make them, or refuse to touch them.
//! Source: Dapr 1.18, sentry. Deviation: one of the two alone is never replaced.

use identity::{JwkSet, JwksError, JwtSigner, KeyError, PrivateKey};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::config::JwtConfig;

/// Key and key set as they are stored.
#[derive(Clone, Default)]
pub struct StoredJwt {
    /// The private key, PEM.
    pub key: Option<Zeroizing<Vec<u8>>>,
    /// The key set, JSON.
    pub jwks: Option<Vec<u8>>,
}

/// Signs tokens, and knows what is published about its key.
#[derive(Debug)]
pub struct JwtAuthority {
    /// The signer.
    pub signer: JwtSigner,
    /// The key set as it is served, JSON.
    pub jwks: String,
}

/// A key and a key set that were just made.
pub struct GeneratedJwt {
    /// The private key, PEM.
    pub key: Zeroizing<String>,
    /// The key set, JSON.
    pub jwks: String,
}

/// What to do.
#[derive(Debug)]
pub enum JwtPlan {
    /// Sign with this key.
    Use(Box<JwtAuthority>),
    /// Make both: there is neither.
    Generate,
}

/// Why what is stored is neither used nor replaced.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtRefused {
    /// One is there, the other one is not.
    #[error("the {0} is missing; restore it, or remove the other part to let sentry make both")]
    Incomplete(&'static str),
    /// The key is none.
    #[error("the JWT signing key cannot be used")]
    Key(#[source] KeyError),
    /// The key is of another kind than the algorithm.
    #[error("the JWT signing key does not sign with {0}")]
    Algorithm(&'static str),
    /// The key set is none.
    #[error("the JWKS cannot be used")]
    Jwks(#[source] JwksError),
    /// Nothing is in the key set.
    #[error("the JWKS holds no key")]
    Empty,
    /// The key set would publish what must stay private.
    #[error("the JWKS holds a private or symmetric key and must not be published")]
    Secret,
    /// The key set has no key of the id given by flag.
    #[error("the JWKS has no key with the key ID {0:?}")]
    NoSuchKeyId(String),
    /// It has one, but of another key.
    #[error("the JWKS has another key under the key ID {0:?} than the signing key")]
    OtherKey(String),
    /// The signing key is not in the set.
    #[error("the JWKS does not hold the public half of the signing key")]
    NotPublished,
}

/// Decides about what is stored.
///
/// # Errors
/// [`JwtRefused`] says why nothing may be done.
pub fn plan(stored: &StoredJwt, config: &JwtConfig) -> Result<JwtPlan, JwtRefused> {
    let (key, jwks) = match (&stored.key, &stored.jwks) {
        (None, None) => return Ok(JwtPlan::Generate),
        (None, Some(_)) => return Err(JwtRefused::Incomplete("JWT signing key")),
        (Some(_), None) => return Err(JwtRefused::Incomplete("JWKS")),
        (Some(key), Some(jwks)) => (key, jwks),
    };
    let set = JwkSet::parse(jwks).map_err(JwtRefused::Jwks)?;
    if set.is_empty() {
        return Err(JwtRefused::Empty);
    }
    if set.holds_secrets() {
        return Err(JwtRefused::Secret);
    }
    let key = PrivateKey::from_pem(key).map_err(JwtRefused::Key)?;
    let kid = config.key_id.as_deref();
    let signer = JwtSigner::new(&key, config.algorithm, kid)
        .map_err(|_| JwtRefused::Algorithm(config.algorithm.name()))?;
    check_published(&set, &signer, kid)?;
    let jwks: Value =
        serde_json::from_slice(jwks).map_err(|_| JwtRefused::Jwks(JwksError::Structure))?;
    Ok(JwtPlan::Use(Box::new(JwtAuthority { signer, jwks: jwks.to_string() })))
}

fn check_published(set: &JwkSet, signer: &JwtSigner, kid: Option<&str>) -> Result<(), JwtRefused> {
    match kid {
        _ if set.publishes(signer.public(), kid) => Ok(()),
        None => Err(JwtRefused::NotPublished),
        Some(kid) if set.names(kid) => Err(JwtRefused::OtherKey(kid.to_owned())),
        Some(kid) => Err(JwtRefused::NoSuchKeyId(kid.to_owned())),
    }
}

/// Makes a key that fits the algorithm, and a set with its public half.
///
/// # Errors
/// The crypto library fails.
pub fn generate(config: &JwtConfig) -> Result<GeneratedJwt, KeyError> {
    let key = PrivateKey::generate_for(config.algorithm)?;
    let signer = JwtSigner::new(&key, config.algorithm, config.key_id.as_deref())?;
    let jwk = signer.public().to_jwk(signer.kid(), config.algorithm);
    Ok(GeneratedJwt { key: key.to_pem(), jwks: json!({"keys": [jwk]}).to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::JwtAlgorithm;
    use rstest::rstest;
    use std::time::Duration;

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
    fn what_is_made_is_used_by_the_next_start(
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
    fn more_keys_may_be_published_than_sign() {
        let config = config("RS256", None);
        let made = generate(&config).unwrap();
        let mut more = stored(&made);
        more.jwks =
            Some(made.jwks.replace("\"keys\":[", "\"keys\":[{\"kty\":\"x\"},").into_bytes());
        let Ok(JwtPlan::Use(authority)) = plan(&more, &config) else { panic!() };
        assert!(authority.jwks.contains("{\"kty\":\"x\"}"));
    }

    #[rstest]
    #[case::no_key(|s: &mut StoredJwt, _: &str| s.key = None, JwtRefused::Incomplete("JWT signing key"))]
    #[case::no_jwks(|s: &mut StoredJwt, _: &str| s.jwks = None, JwtRefused::Incomplete("JWKS"))]
    #[case::empty_file(|s: &mut StoredJwt, _: &str| s.jwks = Some(Vec::new()), JwtRefused::Jwks(JwksError::Structure))]
    #[case::empty_set(|s: &mut StoredJwt, _: &str| s.jwks = Some(b"{\"keys\":[]}".to_vec()), JwtRefused::Empty)]
    #[case::private(|s: &mut StoredJwt, _: &str| s.jwks = Some(b"{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}".to_vec()), JwtRefused::Secret)]
    #[case::other_key(|s: &mut StoredJwt, other: &str| s.jwks = Some(other.into()), JwtRefused::NotPublished)]
    #[case::no_pem(|s: &mut StoredJwt, _: &str| s.key = Some(Zeroizing::new(b"x".to_vec())), JwtRefused::Key(KeyError::NoPem))]
    fn leaves_alone_what_is_inconsistent(
        #[case] change: impl FnOnce(&mut StoredJwt, &str),
        #[case] want: JwtRefused,
    ) {
        let config = config("ES256", None);
        let (made, other) = (generate(&config).unwrap(), generate(&config).unwrap());
        let mut stored = stored(&made);
        change(&mut stored, &other.jwks);
        assert_eq!(plan(&stored, &config).unwrap_err(), want);
    }

    #[test]
    fn tells_a_missing_key_id_from_another_key() {
        let (made, other) = (
            generate(&config("ES256", Some("a"))).unwrap(),
            generate(&config("ES256", Some("b"))).unwrap(),
        );
        let asked = config("ES256", Some("b"));
        let refused = plan(&stored(&made), &asked).unwrap_err();
        assert_eq!(refused, JwtRefused::NoSuchKeyId("b".to_owned()));
        let mut mixed = stored(&made);
        mixed.jwks = Some(other.jwks.into_bytes());
        assert_eq!(plan(&mixed, &asked).unwrap_err(), JwtRefused::OtherKey("b".to_owned()));
        let refused = plan(&stored(&made), &config("RS256", Some("a"))).unwrap_err();
        assert_eq!(refused, JwtRefused::Algorithm("RS256"));
    }
}

//! The JWT SVIDs of one response: one token for all audiences, and one for each audience.
//! Source: Dapr 1.18, sentry.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use identity::{JwtAlgorithm, JwtClaims, JwtSigner, KeyError, SpiffeId};
use jiff::Timestamp;

/// Limit of audiences in one request, its trust domain included: each costs one signature.
const MAX_AUDIENCES: usize = 32;

/// How JWT SVIDs are issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtConfig {
    /// File of the signing key; its name is the key of the Secret.
    pub key: PathBuf,
    /// File of the key set; its name is the key of the Secret and the `ConfigMap`.
    pub jwks: PathBuf,
    /// Claim `iss`; left out if `None`.
    pub issuer: Option<String>,
    /// Signing algorithm.
    pub algorithm: JwtAlgorithm,
    /// Key id of tokens; the key's thumbprint if `None`.
    pub key_id: Option<String>,
    /// Lifetime of tokens.
    pub ttl: Duration,
}

/// The validity of the tokens of one response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenTimes {
    /// The current time.
    pub(crate) now: Timestamp,
    /// Lifetime of the tokens.
    pub(crate) ttl: Duration,
    /// How far they are back-dated.
    pub(crate) clock_skew: Duration,
}

/// The tokens of one response.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct JwtSvids {
    /// The token for all audiences.
    pub(crate) all: String,
    /// One token per audience.
    pub(crate) each: HashMap<String, String>,
}

impl std::fmt::Debug for JwtSvids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JwtSvids({} audiences, redacted)", self.each.len())
    }
}

/// Why no tokens were issued. The texts reach the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwtSvidError {
    /// Too many audiences.
    #[error("failed to generate JWT: more than {MAX_AUDIENCES} audiences")]
    TooMany,
    /// Signing the token for all audiences failed.
    #[error("failed to generate JWT: {0}")]
    All(KeyError),
    /// Signing the token for one audience failed.
    #[error("failed to generate JWT for audience {audience}: {cause}")]
    Each { audience: String, cause: KeyError },
}

/// Issues tokens for `id`, with its trust domain and the `requested` ones as audiences; repeated
/// audiences count once. `unique` returns 128 bits that differ at each call.
///
/// # Errors
/// [`JwtSvidError`] if there are too many audiences or signing fails.
pub(crate) fn issue(
    signer: &JwtSigner,
    issuer: Option<&str>,
    id: &SpiffeId,
    requested: &[String],
    times: TokenTimes,
    unique: impl Fn() -> [u64; 2],
) -> Result<JwtSvids, JwtSvidError> {
    let mut audiences = vec![id.trust_domain().to_string()];
    for audience in requested {
        if !audiences.contains(audience) {
            audiences.push(audience.clone());
        }
        if audiences.len() > MAX_AUDIENCES {
            return Err(JwtSvidError::TooMany);
        }
    }
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let now = times.now.as_second();
    let sign = |audiences: Vec<String>| {
        let [high, low] = unique();
        signer.sign(&JwtClaims {
            subject: id.to_string(),
            audiences,
            issuer: issuer.map(str::to_owned),
            issued_at: now,
            not_before: now.saturating_sub(seconds(times.clock_skew)),
            expires: now.saturating_add(seconds(times.ttl)),
            id: format!("{high:016x}{low:016x}"),
            usage: "sig",
        })
    };
    let all = sign(audiences.clone()).map_err(JwtSvidError::All)?;
    let mut each = HashMap::with_capacity(audiences.len());
    for audience in audiences {
        let token = sign(vec![audience.clone()])
            .map_err(|cause| JwtSvidError::Each { audience: audience.clone(), cause })?;
        each.insert(audience, token);
    }
    Ok(JwtSvids { all, each })
}

#[cfg(test)]
mod tests {
    use identity::{Expected, JwkSet, JwtAlgorithm, PrivateKey, TrustDomain, verify_token};

    use super::*;

    fn signer() -> (JwtSigner, JwkSet) {
        let key = PrivateKey::generate_for(JwtAlgorithm::Es256).unwrap();
        let signer = JwtSigner::new(&key, JwtAlgorithm::Es256, Some("k")).unwrap();
        let jwk = signer.public().to_jwk("k", JwtAlgorithm::Es256);
        let set = serde_json::json!({"keys": [jwk]}).to_string();
        (signer, JwkSet::parse(set.as_bytes()).unwrap())
    }

    fn times() -> TokenTimes {
        TokenTimes {
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            ttl: Duration::from_hours(1),
            clock_skew: Duration::from_mins(15),
        }
    }

    fn id() -> SpiffeId {
        SpiffeId::new(&TrustDomain::public(), "shop", "cart").unwrap()
    }

    #[test]
    fn issues_one_token_for_all_audiences_and_one_for_each() {
        let (signer, set) = signer();
        let requested = ["public", "azure", "azure"].map(str::to_owned);
        let svids = issue(&signer, None, &id(), &requested, times(), || [1, 2]).unwrap();
        let mut audiences: Vec<&str> = svids.each.keys().map(String::as_str).collect();
        audiences.sort_unstable();
        assert_eq!(audiences, ["azure", "public"]);
        let accepted = |token: &str, audience: &str| {
            let subject = id().to_string();
            let (now, leeway) = (times().now, Duration::ZERO);
            let expected = Expected { audience, subject: &subject, now, leeway };
            verify_token(token, &set, &expected).is_ok()
        };
        for audience in ["public", "azure"] {
            assert!(accepted(&svids.all, audience));
            assert!(accepted(&svids.each[audience], audience));
        }
        assert!(!accepted(&svids.each["azure"], "public"), "one audience each");
        assert_eq!(format!("{svids:?}"), "JwtSvids(2 audiences, redacted)");
    }

    #[test]
    fn limits_audiences() {
        let (signer, _) = signer();
        let requested: Vec<String> = (0..MAX_AUDIENCES).map(|n| n.to_string()).collect();
        let refused = issue(&signer, None, &id(), &requested, times(), || [0, 0]).unwrap_err();
        assert_eq!(refused, JwtSvidError::TooMany);
    }
}

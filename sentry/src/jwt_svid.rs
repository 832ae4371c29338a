//! The JWT SVIDs of one answer: one for all audiences, and one for each. Source: Dapr 1.18, sentry.

use std::collections::HashMap;
use std::time::Duration;

use identity::{JwtClaims, JwtSigner, KeyError, SpiffeId};
use jiff::Timestamp;

/// Audiences of one request, its trust domain among them: each costs a signature.
const MAX_AUDIENCES: usize = 32;

/// What is the same in all tokens.
#[derive(Debug, Clone, Copy)]
pub struct TokenTimes {
    /// The time.
    pub now: Timestamp,
    /// How long tokens live.
    pub ttl: Duration,
    /// How far back they begin.
    pub clock_skew: Duration,
}

/// The tokens of one answer.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSvids {
    /// For all audiences.
    pub all: String,
    /// For one audience each.
    pub each: HashMap<String, String>,
}

impl std::fmt::Debug for JwtSvids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JwtSvids({} audiences, redacted)", self.each.len())
    }
}

/// Why there are no tokens. The texts reach the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtSvidError {
    /// More audiences than a request may have.
    #[error("failed to generate JWT: more than {MAX_AUDIENCES} audiences")]
    TooMany,
    /// The token for all audiences.
    #[error("failed to generate JWT: {0}")]
    All(KeyError),
    /// The token for one audience.
    #[error("failed to generate JWT for audience {audience}: {cause}")]
    Each {
        /// The audience.
        audience: String,
        /// What failed.
        cause: KeyError,
    },
}

/// Signs the tokens of `id`, for its trust domain and whoever else is `asked` for; an audience that
/// is asked for twice counts once. `unique` makes token ids: 128 bits that differ at each call.
///
/// # Errors
/// [`JwtSvidError`]: too many audiences, or signing fails.
pub fn issue(
    signer: &JwtSigner,
    issuer: Option<&str>,
    id: &SpiffeId,
    asked: &[String],
    times: TokenTimes,
    unique: impl Fn() -> [u64; 2],
) -> Result<JwtSvids, JwtSvidError> {
    let mut audiences = vec![id.trust_domain().to_string()];
    for audience in asked {
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
    use super::*;
    use identity::{Expected, JwkSet, JwtAlgorithm, PrivateKey, TrustDomain, verify_token};

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
    fn one_token_for_all_and_one_for_each() {
        let (signer, set) = signer();
        let asked = ["public", "azure", "azure"].map(str::to_owned);
        let svids = issue(&signer, None, &id(), &asked, times(), || [1, 2]).unwrap();
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
    fn audiences_are_bounded() {
        let (signer, _) = signer();
        let asked: Vec<String> = (0..MAX_AUDIENCES).map(|n| n.to_string()).collect();
        let refused = issue(&signer, None, &id(), &asked, times(), || [0, 0]).unwrap_err();
        assert_eq!(refused, JwtSvidError::TooMany);
    }
}

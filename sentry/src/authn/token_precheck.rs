//! Rejects service account tokens that the API server would reject for sure, without a call to it.
//!
//! The signature is not verified, so a token that passes proves nothing. The check keeps expired
//! and foreign tokens out of the queue. Claims that are absent are left to the API server.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::pod_identity::{self, Refusal};

/// Tolerated difference from the API server's clock.
const LEEWAY: SignedDuration = SignedDuration::from_mins(1);

/// The claims that are checked.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Audiences,
    sub: Option<String>,
    exp: Option<f64>,
}

/// One audience or several. Source: RFC 7519 §4.1.3.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Audiences {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// Checks the shape of a token and its claims `exp`, `aud` and `sub` against a request for
/// `namespace`. A bare JSON object is accepted in place of a JWS, without its `exp`. Source of both
/// forms: Dapr 1.18, sentry.
///
/// # Errors
/// [`Refusal`] names the claim.
pub(crate) fn precheck(
    token: &str,
    namespace: &str,
    audiences: &[String],
    now: Timestamp,
) -> Result<(), Refusal> {
    if token.is_empty() {
        // The API server's own answer.
        let cause = "token is required for TokenReview in authentication";
        return Err(Refusal::ReviewFailed(cause.to_owned()));
    }
    let invalid = |cause: &str| Refusal::InvalidToken(cause.to_owned());
    let is_jws = !token.trim_start().starts_with('{');
    let json = pod_identity::claims_json(token).ok_or_else(|| invalid("not a compact JWS"))?;
    let claims: Claims =
        serde_json::from_slice(&json).map_err(|_| invalid("claims are not JSON"))?;
    if is_jws && claims.exp.is_some_and(|exp| is_past(exp, now)) {
        return Err(invalid("token has expired"));
    }
    let named = claims.aud.as_slice();
    if !named.is_empty() && !named.iter().any(|audience| audiences.contains(audience)) {
        return Err(invalid("token audiences do not include sentry"));
    }
    let Some(subject) = claims.sub else { return Ok(()) };
    match subject.split(':').collect::<Vec<_>>().as_slice() {
        ["system", "serviceaccount", owner, _] if *owner == namespace => Ok(()),
        ["system", "serviceaccount", ..] => Err(Refusal::Namespace(namespace.to_owned())),
        _ => Err(Refusal::NotServiceAccount),
    }
}

fn is_past(exp: f64, now: Timestamp) -> bool {
    let earliest = now.checked_sub(LEEWAY).unwrap_or(Timestamp::MIN);
    exp <= earliest.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn audiences() -> [String; 2] {
        ["dapr.io/sentry", "spiffe://td/ns/dapr-system/dapr-sentry"].map(str::to_owned)
    }

    fn check(token: &str) -> Result<(), Refusal> {
        precheck(token, "shop", &audiences(), Timestamp::from_second(NOW).unwrap())
    }

    fn jws(claims: &Value) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part("{}"), part(&claims.to_string()), part("signature"))
    }

    fn claims(change: &Value) -> Value {
        let mut claims = json!({
            "aud": ["dapr.io/sentry"], "sub": "system:serviceaccount:shop:default", "exp": NOW + 60,
        });
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    #[rstest]
    #[case::service_account(claims(&json!({})))]
    #[case::one_audience(claims(&json!({"aud": "spiffe://td/ns/dapr-system/dapr-sentry"})))]
    #[case::leeway(claims(&json!({"exp": NOW - 59})))]
    #[case::absent_claims(json!({}))]
    fn accepts(#[case] claims: Value) {
        assert_eq!(check(&jws(&claims)), Ok(()));
        assert_eq!(check(&claims.to_string()), Ok(()), "a bare JSON object");
    }

    #[test]
    fn ignores_the_expiry_of_a_bare_json_object() {
        assert_eq!(check(&claims(&json!({"exp": 1})).to_string()), Ok(()));
    }

    #[rstest]
    #[case::expired(json!({"exp": NOW - 60}), "invalid token: token has expired")]
    #[case::audience(json!({"aud": ["x"]}), "invalid token: token audiences do not include sentry")]
    #[case::namespace(
        json!({"sub": "system:serviceaccount:other:default"}),
        "namespace mismatch; received namespace: shop"
    )]
    #[case::user(
        json!({"sub": "alice"}),
        "provided token is not a properly structured service account token"
    )]
    #[case::type_error(json!({"exp": "soon"}), "invalid token: claims are not JSON")]
    fn rejects_claims(#[case] change: Value, #[case] want: &str) {
        assert_eq!(check(&jws(&claims(&change))).unwrap_err().to_string(), want);
    }

    #[rstest]
    #[case::empty("", "token review failed: token is required for TokenReview in authentication")]
    #[case::no_jws("no-token", "invalid token: not a compact JWS")]
    #[case::two_parts("e30.e30", "invalid token: not a compact JWS")]
    #[case::no_json("e30.eA.e30", "invalid token: claims are not JSON")]
    fn rejects_shapes(#[case] token: &str, #[case] want: &str) {
        assert_eq!(check(token).unwrap_err().to_string(), want);
    }

    proptest! {
        #[test]
        fn no_token_panics(token in ".{0,80}", claims in ".{0,80}") {
            let _ = check(&token);
            let part = URL_SAFE_NO_PAD.encode(&claims);
            let _ = check(&format!("e30.{part}.e30"));
        }
    }
}

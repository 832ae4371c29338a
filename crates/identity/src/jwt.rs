//! JSON Web Tokens: signing JWT SVIDs, and verifying tokens with a key set. Source: RFC 7515, 7519;
//! SPIFFE JWT-SVID; Dapr 1.18, sentry (claims, tolerances and texts). `exp` is required here.
//!
//! No JWT library is used, because none supports ES512, which is part of the protocol, and because
//! the texts of errors are fixed. The cryptography is that of `aws-lc-rs`.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature as lc;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::keys::jwk::{JwkSet, JwtAlgorithm, KeyMaterial};
use crate::keys::key::{KeyError, PrivateKey};

/// The claims of a JWT SVID. Source: Dapr 1.18, sentry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JwtClaims {
    /// The subject, a SPIFFE id.
    #[serde(rename = "sub")]
    pub subject: String,
    /// The audiences; always an array.
    #[serde(rename = "aud")]
    pub audiences: Vec<String>,
    /// The issuer; left out if `None`.
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Time of issue, Unix seconds.
    #[serde(rename = "iat")]
    pub issued_at: i64,
    /// Start of validity, Unix seconds.
    #[serde(rename = "nbf")]
    pub not_before: i64,
    /// Expiry, Unix seconds.
    #[serde(rename = "exp")]
    pub expires: i64,
    /// `jti`, unique per token.
    #[serde(rename = "jti")]
    pub id: String,
    /// Always `sig`; Azure requires it.
    #[serde(rename = "use")]
    pub usage: &'static str,
}

/// Signs tokens with one key, one algorithm and one key id.
pub struct JwtSigner {
    pair: Pair,
    algorithm: JwtAlgorithm,
    kid: String,
    public: KeyMaterial,
}

enum Pair {
    Rsa(lc::RsaKeyPair, &'static lc::RsaSignatureEncoding),
    Ecdsa(lc::EcdsaKeyPair),
    Ed25519(lc::Ed25519KeyPair),
}

impl JwtSigner {
    /// Creates a signer. The key id is `kid`, or the key's thumbprint if `None`.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] if the key does not support `algorithm`.
    pub fn new(
        key: &PrivateKey,
        algorithm: JwtAlgorithm,
        kid: Option<&str>,
    ) -> Result<Self, KeyError> {
        let public =
            KeyMaterial::from_spki(key.public_key_der()).filter(|public| algorithm.fits(public));
        let public = public.ok_or(KeyError::Unsupported)?;
        let pair = pair(key.pkcs8_der(), algorithm).ok_or(KeyError::Unsupported)?;
        let kid = kid.map_or_else(|| public.thumbprint(), str::to_owned);
        Ok(Self { pair, algorithm, kid, public })
    }

    /// The public key that verifies its tokens.
    pub fn public(&self) -> &KeyMaterial {
        &self.public
    }

    /// The key id of its tokens.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The signing algorithm; the header `alg` of its tokens.
    pub fn algorithm(&self) -> JwtAlgorithm {
        self.algorithm
    }

    /// Signs a compact token.
    ///
    /// # Errors
    /// [`KeyError::Sign`] if the crypto library fails.
    pub fn sign(&self, claims: &JwtClaims) -> Result<String, KeyError> {
        let header = json!({"alg": self.algorithm.name(), "kid": self.kid, "typ": "JWT"});
        let claims = serde_json::to_vec(claims).map_err(|_| KeyError::Sign)?;
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(&claims));
        let value = self.signature(message.as_bytes()).ok_or(KeyError::Sign)?;
        Ok(format!("{message}.{}", encode(&value)))
    }

    fn signature(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut value = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut value).ok()?;
                Some(value)
            }
            Pair::Ecdsa(pair) => pair.sign(&random, message).ok().map(|s| s.as_ref().to_vec()),
            Pair::Ed25519(pair) => pair.try_sign(message).ok().map(|s| s.as_ref().to_vec()),
        }
    }
}

impl fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtSigner({}, kid {:?}, redacted)", self.algorithm.name(), self.kid)
    }
}

fn pair(pkcs8: &[u8], algorithm: JwtAlgorithm) -> Option<Pair> {
    let rsa = |encoding| Some(Pair::Rsa(lc::RsaKeyPair::from_pkcs8(pkcs8).ok()?, encoding));
    let ecdsa = |signing| lc::EcdsaKeyPair::from_pkcs8(signing, pkcs8).ok().map(Pair::Ecdsa);
    match algorithm {
        JwtAlgorithm::Rs256 => rsa(&lc::RSA_PKCS1_SHA256),
        JwtAlgorithm::Rs384 => rsa(&lc::RSA_PKCS1_SHA384),
        JwtAlgorithm::Rs512 => rsa(&lc::RSA_PKCS1_SHA512),
        JwtAlgorithm::Ps256 => rsa(&lc::RSA_PSS_SHA256),
        JwtAlgorithm::Ps384 => rsa(&lc::RSA_PSS_SHA384),
        JwtAlgorithm::Ps512 => rsa(&lc::RSA_PSS_SHA512),
        JwtAlgorithm::Es256 => ecdsa(&lc::ECDSA_P256_SHA256_FIXED_SIGNING),
        JwtAlgorithm::Es384 => ecdsa(&lc::ECDSA_P384_SHA384_FIXED_SIGNING),
        JwtAlgorithm::Es512 => ecdsa(&lc::ECDSA_P521_SHA512_FIXED_SIGNING),
        JwtAlgorithm::EdDsa => lc::Ed25519KeyPair::from_pkcs8(pkcs8).ok().map(Pair::Ed25519),
    }
}

/// The claims that [`verify_token`] requires.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The audience; the token may have others.
    pub audience: &'a str,
    /// Value of `sub`.
    pub subject: &'a str,
    /// Time of the check.
    pub now: Timestamp,
    /// Tolerated difference between clocks.
    pub leeway: Duration,
}

/// Why a token is rejected. The texts reach the client. Source: Dapr 1.18, sentry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64url, or not JSON.
    #[error("failed to parse token: not a compact JWS")]
    Structure,
    /// The header has no key id.
    #[error("failed to find matching key: no key ID (\"kid\") specified in token")]
    NoKeyId,
    /// The key set has no signing key with this id.
    #[error("failed to find key with key ID {0:?} in key set")]
    UnknownKeyId(String),
    /// The signature is wrong, or its algorithm does not belong to the key.
    #[error("could not verify message using any of the signatures or keys")]
    Signature,
    /// A claim is missing or wrong.
    #[error("\"{0}\" not satisfied")]
    Claim(&'static str),
}

/// Verifies the signature and the claims of a token.
///
/// The key is found by the token's key id. The algorithm is that of the key; if the key states none,
/// that of the token, if it fits the key. `exp` is required, `iat` and `nbf` are optional.
///
/// # Errors
/// [`TokenError`] with the first rule that fails.
pub fn verify_token(token: &str, keys: &JwkSet, expected: &Expected<'_>) -> Result<(), TokenError> {
    let claims = verified_claims(token, keys)?;
    let now = expected.now.as_second();
    let leeway = i64::try_from(expected.leeway.as_secs()).unwrap_or(i64::MAX);
    let time = |name| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(TokenError::Claim(name)),
    };
    #[expect(clippy::cast_precision_loss, reason = "seconds of this age fit an f64 exactly")]
    let (earliest, latest) = (now.saturating_sub(leeway) as f64, now.saturating_add(leeway) as f64);
    for name in ["iat", "nbf"] {
        if time(name)?.is_some_and(|time| time > latest) {
            return Err(TokenError::Claim(name));
        }
    }
    if time("exp")?.is_none_or(|time| time <= earliest) {
        return Err(TokenError::Claim("exp"));
    }
    if !audiences(&claims).any(|audience| audience == expected.audience) {
        return Err(TokenError::Claim("aud"));
    }
    if claims.get("sub").and_then(Value::as_str) != Some(expected.subject) {
        return Err(TokenError::Claim("sub"));
    }
    Ok(())
}

fn audiences(claims: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let named = claims.get("aud");
    let one = named.and_then(Value::as_str).into_iter();
    one.chain(named.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str))
}

fn verified_claims(token: &str, keys: &JwkSet) -> Result<Map<String, Value>, TokenError> {
    let (message, value) = token.rsplit_once('.').ok_or(TokenError::Structure)?;
    let (header, claims) = message.split_once('.').ok_or(TokenError::Structure)?;
    let header = json_part(header)?;
    let value = URL_SAFE_NO_PAD.decode(value).map_err(|_| TokenError::Structure)?;
    let kid = header.get("kid").and_then(Value::as_str).ok_or(TokenError::NoKeyId)?;
    let mut known = keys.signing(Some(kid)).peekable();
    if known.peek().is_none() {
        return Err(TokenError::UnknownKeyId(kid.chars().take(LONGEST_NAMED_KID).collect()));
    }
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(JwtAlgorithm::parse);
    // Critical extensions (RFC 7515 §4.1.11) are not supported.
    let algorithm = algorithm.filter(|_| !header.contains_key("crit"));
    let algorithm = algorithm.ok_or(TokenError::Signature)?;
    if !known.any(|key| key.verifies(algorithm, message.as_bytes(), &value)) {
        return Err(TokenError::Signature);
    }
    json_part(claims)
}

/// Maximum length of a key id in an error, in characters.
const LONGEST_NAMED_KID: usize = 128;

fn json_part(part: &str) -> Result<Map<String, Value>, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Structure)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Structure)
}

#[cfg(test)]
mod tests;

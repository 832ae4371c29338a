//! JSON Web Keys and key sets. Source: RFC 7517, 7518, 7638, 8037.

use aws_lc_rs::signature as lc;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::asn1::oid;
use crate::keys::signature;

/// Members of private and symmetric keys.
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// A signature algorithm of JWTs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of RFC 7518 §3.1 and RFC 8037 §3.1")]
pub enum JwtAlgorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl JwtAlgorithm {
    const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// Parses a name, case-sensitive. `none` and symmetric algorithms are not supported.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The value of the header `alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Whether a key of this kind supports the algorithm.
    pub fn fits(self, key: &KeyMaterial) -> bool {
        match key {
            KeyMaterial::Rsa { .. } => {
                !matches!(self, Self::Es256 | Self::Es384 | Self::Es512 | Self::EdDsa)
            }
            KeyMaterial::Ec { curve, .. } => self == curve.algorithm(),
            KeyMaterial::Ed25519(_) => self == Self::EdDsa,
        }
    }

    fn rsa(self) -> Option<&'static lc::RsaParameters> {
        match self {
            Self::Rs256 => Some(&lc::RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Some(&lc::RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Some(&lc::RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Some(&lc::RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Some(&lc::RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Some(&lc::RSA_PSS_2048_8192_SHA512),
            Self::Es256 | Self::Es384 | Self::Es512 | Self::EdDsa => None,
        }
    }
}

/// A curve of RFC 7518 §6.2.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwkCurve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

impl JwkCurve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn algorithm(self) -> JwtAlgorithm {
        match self {
            Self::P256 => JwtAlgorithm::Es256,
            Self::P384 => JwtAlgorithm::Es384,
            Self::P521 => JwtAlgorithm::Es512,
        }
    }

    fn verification(self) -> &'static lc::EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &lc::ECDSA_P256_SHA256_FIXED,
            Self::P384 => &lc::ECDSA_P384_SHA384_FIXED,
            Self::P521 => &lc::ECDSA_P521_SHA512_FIXED,
        }
    }
}

/// A public key in canonical form: equal keys compare equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyMaterial {
    /// RSA: modulus and exponent, big-endian, without leading zeros.
    Rsa {
        /// Modulus without leading zeros.
        n: Vec<u8>,
        /// Public exponent, usually 65537.
        e: Vec<u8>,
    },
    /// ECDSA.
    Ec {
        /// Curve of the point.
        curve: JwkCurve,
        /// `04`, x and y, each of the curve's length.
        point: Vec<u8>,
    },
    /// Ed25519, 32 bytes.
    Ed25519(Vec<u8>),
}

impl KeyMaterial {
    /// Parses a `SubjectPublicKeyInfo`; `None` for kinds that do not sign JWTs.
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
        if info.algorithm.algorithm.as_bytes() == oid::ED25519 {
            return Some(Self::Ed25519(info.subject_public_key.data.to_vec()));
        }
        match info.parsed().ok()? {
            PublicKey::RSA(key) => {
                Some(Self::Rsa { n: unpadded(key.modulus), e: unpadded(key.exponent) })
            }
            PublicKey::EC(point) => {
                let curve = match signature::curve(&info)?.as_slice() {
                    oid::P256 => JwkCurve::P256,
                    oid::P384 => JwkCurve::P384,
                    oid::P521 => JwkCurve::P521,
                    _ => return None,
                };
                Some(Self::Ec { curve, point: point.data().to_vec() })
            }
            _ => None,
        }
    }

    /// The SHA-256 thumbprint of RFC 7638, in base64 with padding, as in Dapr's key ids.
    pub fn thumbprint(&self) -> String {
        // The canonical form: members in lexical order, no white space.
        let canonical = match self {
            Self::Rsa { n, e } => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, url(e), url(n)),
            Self::Ec { curve, point } => {
                let (x, y) = coordinates(*curve, point);
                format!(r#"{{"crv":"{}","kty":"EC","x":"{x}","y":"{y}"}}"#, curve.name())
            }
            Self::Ed25519(x) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, url(x)),
        };
        STANDARD.encode(Sha256::digest(canonical.as_bytes()))
    }

    /// The key as a JSON web key for signatures.
    pub fn to_jwk(&self, kid: &str, algorithm: JwtAlgorithm) -> Value {
        let mut jwk = match self {
            Self::Rsa { n, e } => json!({"kty": "RSA", "n": url(n), "e": url(e)}),
            Self::Ec { curve, point } => {
                let (x, y) = coordinates(*curve, point);
                json!({"kty": "EC", "crv": curve.name(), "x": x, "y": y})
            }
            Self::Ed25519(x) => json!({"kty": "OKP", "crv": "Ed25519", "x": url(x)}),
        };
        for (name, value) in [("alg", algorithm.name()), ("kid", kid), ("use", "sig")] {
            if let Some(members) = jwk.as_object_mut() {
                members.insert(name.to_owned(), value.into());
            }
        }
        jwk
    }

    /// Whether `value` is a signature of `message` by this key.
    pub(crate) fn verifies(&self, algorithm: JwtAlgorithm, message: &[u8], value: &[u8]) -> bool {
        if !algorithm.fits(self) {
            return false;
        }
        match self {
            Self::Rsa { n, e } => algorithm.rsa().is_some_and(|parameters| {
                let key = lc::RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, value).is_ok()
            }),
            Self::Ec { curve, point } => {
                let key = lc::UnparsedPublicKey::new(curve.verification(), point);
                key.verify(message, value).is_ok()
            }
            Self::Ed25519(x) => {
                lc::UnparsedPublicKey::new(&lc::ED25519, x).verify(message, value).is_ok()
            }
        }
    }

    fn from_jwk(members: &Map<String, Value>) -> Option<Self> {
        let bytes = |name| URL_SAFE_NO_PAD.decode(text(members, name)?).ok();
        match text(members, "kty")? {
            "RSA" => Some(Self::Rsa { n: unpadded(&bytes("n")?), e: unpadded(&bytes("e")?) }),
            "EC" => {
                let name = text(members, "crv")?;
                let curve = JwkCurve::ALL.into_iter().find(|curve| curve.name() == name)?;
                let (x, y) = (bytes("x")?, bytes("y")?);
                let length = curve.coordinate_bytes();
                let whole = x.len() == length && y.len() == length;
                whole.then(|| Self::Ec { curve, point: [&[4], &*x, &*y].concat() })
            }
            "OKP" if text(members, "crv")? == "Ed25519" => Some(Self::Ed25519(bytes("x")?)),
            _ => None,
        }
    }
}

/// Why a key set does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Not a JSON object with an array `keys` of objects.
    #[error("not a JSON web key set")]
    Structure,
}

/// A set of public keys. Of a private key only the public members are parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwkSet {
    keys: Vec<Jwk>,
    holds_secrets: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Jwk {
    pub(crate) kid: Option<String>,
    /// The algorithm of this key; `None` permits each one that fits it.
    algorithm: Option<String>,
    signs: bool,
    /// `None` for unknown kinds, which verify no signature.
    key: Option<KeyMaterial>,
}

impl JwkSet {
    /// Parses a key set. Keys of an unknown kind are kept and verify no signature.
    ///
    /// # Errors
    /// [`JwksError::Structure`] if it is not a key set.
    pub fn parse(text: &[u8]) -> Result<Self, JwksError> {
        let set: Value = serde_json::from_slice(text).map_err(|_| JwksError::Structure)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(JwksError::Structure)?;
        let keys: Option<Vec<&Map<String, Value>>> = keys.iter().map(Value::as_object).collect();
        let keys = keys.ok_or(JwksError::Structure)?;
        let secret = |key: &&Map<String, Value>| {
            SECRET_MEMBERS.iter().any(|member| key.contains_key(*member))
        };
        let holds_secrets = keys.iter().any(secret);
        Ok(Self { keys: keys.into_iter().map(Jwk::read).collect(), holds_secrets })
    }

    /// Whether the set contains a private or symmetric key and must not be published.
    pub fn holds_secrets(&self) -> bool {
        self.holds_secrets
    }

    /// Whether the set has no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Number of keys, those of an unknown kind included.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The signing keys with a key id; all signing keys if `kid` is `None`.
    pub(crate) fn signing<'a>(&'a self, kid: Option<&'a str>) -> impl Iterator<Item = &'a Jwk> {
        let named = move |jwk: &&Jwk| kid.is_none() || jwk.kid.as_deref() == kid;
        self.keys.iter().filter(|jwk| jwk.signs).filter(named)
    }

    /// Whether the set contains `key`, under the key id `kid` or any.
    pub fn publishes(&self, key: &KeyMaterial, kid: Option<&str>) -> bool {
        self.signing(kid).any(|jwk| jwk.key.as_ref() == Some(key))
    }

    /// Whether the set has a key with this id.
    pub fn names(&self, kid: &str) -> bool {
        self.keys.iter().any(|jwk| jwk.kid.as_deref() == Some(kid))
    }
}

impl Jwk {
    fn read(members: &Map<String, Value>) -> Self {
        let owned = |name| text(members, name).filter(|text| !text.is_empty()).map(str::to_owned);
        Self {
            kid: owned("kid"),
            algorithm: owned("alg"),
            signs: matches!(text(members, "use"), None | Some("" | "sig")),
            key: KeyMaterial::from_jwk(members),
        }
    }

    /// Whether `value` is a signature of `message` by this key, with an algorithm that it permits.
    pub(crate) fn verifies(&self, algorithm: JwtAlgorithm, message: &[u8], value: &[u8]) -> bool {
        self.algorithm.as_deref().is_none_or(|only| only == algorithm.name())
            && self.key.as_ref().is_some_and(|key| key.verifies(algorithm, message, value))
    }
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    members.get(name)?.as_str()
}

fn unpadded(number: &[u8]) -> Vec<u8> {
    number.iter().copied().skip_while(|byte| *byte == 0).collect()
}

fn url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn coordinates(curve: JwkCurve, point: &[u8]) -> (String, String) {
    let coordinates = point.get(1..).unwrap_or_default();
    let (x, y) = coordinates.split_at_checked(curve.coordinate_bytes()).unwrap_or_default();
    (url(x), url(y))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// The example of RFC 7638 §3.1.
    #[test]
    fn computes_the_thumbprint_of_the_standard() {
        let set = r#"{"keys":[{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}]}"#;
        let set = JwkSet::parse(set.as_bytes()).unwrap();
        let thumbprint = set.keys[0].key.as_ref().unwrap().thumbprint();
        let standard = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
        assert_eq!(STANDARD.decode(thumbprint).unwrap(), URL_SAFE_NO_PAD.decode(standard).unwrap());
    }

    #[rstest]
    #[case::no_json("x", JwksError::Structure)]
    #[case::no_keys("{}", JwksError::Structure)]
    #[case::no_object(r#"{"keys":[1]}"#, JwksError::Structure)]
    fn rejects(#[case] text: &str, #[case] want: JwksError) {
        assert_eq!(JwkSet::parse(text.as_bytes()), Err(want));
    }

    #[rstest]
    #[case::unknown_kind(r#"{"kty":"x"}"#)]
    #[case::unknown_curve(r#"{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}"#)]
    #[case::short_coordinate(r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#)]
    #[case::other_okp(r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#)]
    fn unknown_keys_stay_in_the_set(#[case] key: &str) {
        let set = JwkSet::parse(format!(r#"{{"keys":[{key}]}}"#).as_bytes()).unwrap();
        assert_eq!((set.len(), &set.keys[0].key), (1, &None));
    }

    #[rstest]
    #[case::private(r#"{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}"#, true)]
    #[case::symmetric(r#"{"kty":"oct","k":"AA"}"#, true)]
    #[case::public(r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#, false)]
    fn detects_secrets(#[case] key: &str, #[case] want: bool) {
        let set = JwkSet::parse(format!(r#"{{"keys":[{{}},{key}]}}"#).as_bytes()).unwrap();
        assert_eq!(set.holds_secrets(), want);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = JwkSet::parse(text.as_bytes());
        }

        #[test]
        fn no_key_panics(kty in "RSA|EC|OKP|oct", crv in "P-256|P-521|Ed25519", a in "[A-Za-z0-9_-]{0,90}", b in "[A-Za-z0-9_-]{0,90}") {
            let key = json!({"keys": [{"kty": kty, "crv": crv, "n": a, "e": b, "x": a, "y": b}]});
            let set = JwkSet::parse(key.to_string().as_bytes()).unwrap();
            for algorithm in JwtAlgorithm::ALL {
                prop_assert!(!set.keys[0].verifies(algorithm, b"message", &[1; 64]));
            }
        }
    }
}

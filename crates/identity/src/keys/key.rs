//! Private keys: generation, parsing, signing. They are zeroized on drop and never printed.

use std::fmt;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use zeroize::Zeroizing;

use crate::asn1::{der, oid};
use crate::keys::jwk::JwtAlgorithm;
use crate::pem;

/// The kind of a generated key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519, RFC 8032; for leaves of services and sidecars.
    Ed25519,
    /// ECDSA on P-256; for roots and issuers, supported by every sentry and API server.
    EcdsaP256,
    /// RSA with 2048 bits; for leaves that serve webhooks to an API server.
    Rsa2048,
}

/// Why a key cannot be used. The texts contain nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text has no PEM block.
    #[error("no PEM block found")]
    NoPem,
    /// The first block is not a private key.
    #[error("the PEM block is not a private key")]
    Label,
    /// The key is encrypted, in PKCS#8 or in the older form with `Proc-Type`.
    #[error("the private key is encrypted")]
    Encrypted,
    /// Not RSA (2048 bits or more), ECDSA (P-256, P-384, P-521) or Ed25519, or invalid.
    #[error("unsupported or invalid private key")]
    Unsupported,
    /// The random source or the crypto library failed.
    #[error("generate a private key")]
    Generate,
    /// The crypto library failed to sign.
    #[error("sign with the private key")]
    Sign,
}

/// A private key. Zeroized on drop; `Debug` prints only its kind.
pub struct PrivateKey {
    pair: Pair,
    pkcs8: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair, Curve),
    Rsa(RsaKeyPair),
}

/// A curve and its signature algorithm.
#[derive(Debug, Clone, Copy)]
struct Curve {
    name: &'static str,
    signing: &'static EcdsaSigningAlgorithm,
    signature_oid: &'static [u8],
}

const P256: Curve = Curve {
    name: "ECDSA P-256",
    signing: &ECDSA_P256_SHA256_ASN1_SIGNING,
    signature_oid: oid::ECDSA_SHA256,
};
const P384: Curve = Curve {
    name: "ECDSA P-384",
    signing: &ECDSA_P384_SHA384_ASN1_SIGNING,
    signature_oid: oid::ECDSA_SHA384,
};
const P521: Curve = Curve {
    name: "ECDSA P-521",
    signing: &ECDSA_P521_SHA512_ASN1_SIGNING,
    signature_oid: oid::ECDSA_SHA512,
};

/// A signature and its `AlgorithmIdentifier`.
pub(crate) struct Signature {
    pub(crate) algorithm: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl PrivateKey {
    /// Generates a key.
    ///
    /// # Errors
    /// [`KeyError::Generate`] if the crypto library fails.
    pub fn generate(kind: KeyKind) -> Result<Self, KeyError> {
        let pair = match kind {
            KeyKind::Ed25519 => Ed25519KeyPair::generate().map(Pair::Ed25519),
            KeyKind::EcdsaP256 => {
                EcdsaKeyPair::generate(P256.signing).map(|pair| Pair::Ecdsa(pair, P256))
            }
            KeyKind::Rsa2048 => RsaKeyPair::generate(KeySize::Rsa2048).map(Pair::Rsa),
        };
        Self::from_pair(pair.map_err(|_| KeyError::Generate)?)
    }

    /// Generates a key that signs tokens with `algorithm`; RSA keys have 2048 bits.
    ///
    /// # Errors
    /// [`KeyError::Generate`] if the crypto library fails.
    pub fn generate_for(algorithm: JwtAlgorithm) -> Result<Self, KeyError> {
        let curve = match algorithm {
            JwtAlgorithm::Es256 => P256,
            JwtAlgorithm::Es384 => P384,
            JwtAlgorithm::Es512 => P521,
            JwtAlgorithm::EdDsa => return Self::generate(KeyKind::Ed25519),
            JwtAlgorithm::Rs256
            | JwtAlgorithm::Rs384
            | JwtAlgorithm::Rs512
            | JwtAlgorithm::Ps256
            | JwtAlgorithm::Ps384
            | JwtAlgorithm::Ps512 => return Self::generate(KeyKind::Rsa2048),
        };
        let pair = EcdsaKeyPair::generate(curve.signing).map_err(|_| KeyError::Generate)?;
        Self::from_pair(Pair::Ecdsa(pair, curve))
    }

    /// Parses the first PEM block: PKCS#8 (`PRIVATE KEY`), SEC1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA
    /// PRIVATE KEY`). A preceding `EC PARAMETERS` block is skipped.
    ///
    /// # Errors
    /// [`KeyError::NoPem`], [`KeyError::Label`], [`KeyError::Encrypted`] or
    /// [`KeyError::Unsupported`].
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let block = pem::blocks(text)
            .into_iter()
            .find(|block| block.label != "EC PARAMETERS")
            .ok_or(KeyError::NoPem)?;
        if block.encrypted || block.label == "ENCRYPTED PRIVATE KEY" {
            return Err(KeyError::Encrypted);
        }
        let pair = match block.label.as_str() {
            "PRIVATE KEY" => from_pkcs8(&block.der),
            "EC PRIVATE KEY" => from_sec1(&block.der),
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(&block.der).ok().map(Pair::Rsa),
            _ => return Err(KeyError::Label),
        };
        Self::from_pair(pair.ok_or(KeyError::Unsupported)?)
    }

    /// The key as unencrypted PKCS#8, version 1.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The key as one PEM block `PRIVATE KEY`, zeroized on drop.
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    /// The public key as `SubjectPublicKeyInfo`, DER.
    pub fn public_key_der(&self) -> &[u8] {
        &self.public
    }

    pub(crate) fn is_rsa(&self) -> bool {
        matches!(self.pair, Pair::Rsa(_))
    }

    /// Signs a message with the certificate signature algorithm of this kind of key.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Signature, KeyError> {
        let random = SystemRandom::new();
        let (algorithm, value) = match &self.pair {
            Pair::Ed25519(pair) => (
                der::sequence(&[&der::oid(oid::ED25519)]),
                pair.try_sign(message).map(|s| s.as_ref().to_vec()),
            ),
            Pair::Ecdsa(pair, curve) => (
                der::sequence(&[&der::oid(curve.signature_oid)]),
                pair.sign(&random, message).map(|s| s.as_ref().to_vec()),
            ),
            Pair::Rsa(pair) => {
                let mut value = vec![0; pair.public_modulus_len()];
                let outcome = pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut value);
                (
                    der::sequence(&[&der::oid(oid::RSA_SHA256), &der::null()]),
                    outcome.map(|()| value),
                )
            }
        };
        Ok(Signature { algorithm, value: value.map_err(|_| KeyError::Sign)? })
    }

    fn from_pair(pair: Pair) -> Result<Self, KeyError> {
        let zeroizing = |document: &[u8]| Zeroizing::new(document.to_vec());
        let (pkcs8, public) = match &pair {
            Pair::Ed25519(pair) => (
                pair.to_pkcs8v1().map(|d| zeroizing(d.as_ref())),
                pair.public_key().as_der().map(|d| d.as_ref().to_vec()),
            ),
            Pair::Ecdsa(pair, _) => (
                pair.to_pkcs8v1().map(|d| zeroizing(d.as_ref())),
                pair.public_key().as_der().map(|d| d.as_ref().to_vec()),
            ),
            Pair::Rsa(pair) => {
                let document: Result<Pkcs8V1Der<'_>, _> = pair.as_der();
                (
                    document.map(|d| zeroizing(d.as_ref())),
                    pair.public_key().as_der().map(|d| d.as_ref().to_vec()),
                )
            }
        };
        let public = public.map_err(|_| KeyError::Generate)?;
        Ok(Self { pair, pkcs8: pkcs8.map_err(|_| KeyError::Generate)?, public })
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.pair {
            Pair::Ed25519(_) => "Ed25519",
            Pair::Ecdsa(_, curve) => curve.name,
            Pair::Rsa(_) => "RSA",
        };
        write!(f, "PrivateKey({kind}, redacted)")
    }
}

fn from_pkcs8(der: &[u8]) -> Option<Pair> {
    let ed25519 = || Ed25519KeyPair::from_pkcs8(der).ok().map(Pair::Ed25519);
    let ecdsa = |curve: Curve| {
        EcdsaKeyPair::from_pkcs8(curve.signing, der).ok().map(|pair| Pair::Ecdsa(pair, curve))
    };
    ed25519()
        .or_else(|| [P256, P384, P521].into_iter().find_map(ecdsa))
        .or_else(|| RsaKeyPair::from_pkcs8(der).ok().map(Pair::Rsa))
}

fn from_sec1(der: &[u8]) -> Option<Pair> {
    [P256, P384, P521].into_iter().find_map(|curve| {
        let pair = EcdsaKeyPair::from_private_key_der(curve.signing, der).ok()?;
        Some(Pair::Ecdsa(pair, curve))
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(KeyKind::Ed25519)]
    #[case(KeyKind::EcdsaP256)]
    #[case(KeyKind::Rsa2048)]
    fn pem_round_trips(#[case] kind: KeyKind) {
        let key = PrivateKey::generate(kind).unwrap();
        let again = PrivateKey::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(key.pkcs8_der(), again.pkcs8_der());
        assert_eq!(key.public_key_der(), again.public_key_der());
    }

    #[test]
    fn debug_prints_the_kind_only() {
        let key = PrivateKey::generate(KeyKind::EcdsaP256).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(ECDSA P-256, redacted)");
    }

    #[rstest]
    #[case::no_pem("", KeyError::NoPem)]
    #[case::certificate(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        KeyError::Label
    )]
    #[case::garbage(
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        KeyError::Unsupported
    )]
    fn rejects_invalid_keys(#[case] text: &str, #[case] want: KeyError) {
        assert_eq!(PrivateKey::from_pem(text.as_bytes()).err(), Some(want));
    }
}

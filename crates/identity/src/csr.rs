//! Certificate signing requests: ours, and those that sentry gets. Source: RFC 2986; Dapr 1.18,
//! sentry `SignCertificate`.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::certificate::empty_name;
use crate::key::{KeyError, PrivateKey};
use crate::{der, oid, pem, signature};

const LABEL: &str = "CERTIFICATE REQUEST";

/// What daprd before 1.12 writes around its requests.
const OLD_LABEL: &str = "CERTIFICATE";

/// Shorter RSA keys are refused.
const MIN_RSA_BYTES: usize = 2048 / 8;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// No PEM block, or one of another kind.
    #[error("no PEM block of a certificate signing request")]
    Pem,
    /// The block is no PKCS#10 request.
    #[error("not a PKCS#10 structure")]
    Structure,
    /// Bytes follow the request inside the block.
    #[error("trailing data")]
    Trailing,
    /// An elliptic curve other than P-256, P-384 and P-521.
    #[error("unsupported elliptic curve")]
    Curve,
    /// An RSA key below 2048 bits.
    #[error("RSA key is shorter than 2048 bits")]
    ShortKey,
    /// The request is not signed by the key in it, or with an unsupported algorithm.
    #[error("invalid signature")]
    Signature,
}

/// A request whose sender has proven to hold the key. Everything else in it is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    public_key: Vec<u8>,
}

impl Csr {
    /// Reads the first PEM block and checks its signature.
    ///
    /// # Errors
    /// [`CsrError`]; the variants map to sentry's answers.
    pub fn parse_pem(text: &[u8]) -> Result<Self, CsrError> {
        let block = pem::blocks(text).into_iter().next().ok_or(CsrError::Pem)?;
        if ![LABEL, OLD_LABEL].contains(&block.label.as_str()) {
            return Err(CsrError::Pem);
        }
        let (rest, request) =
            X509CertificationRequest::from_der(&block.der).map_err(|_| CsrError::Structure)?;
        if !rest.is_empty() {
            return Err(CsrError::Trailing);
        }
        let info = &request.certification_request_info;
        check_key(&info.subject_pki)?;
        let signed = signature::verifies(
            &info.subject_pki,
            &request.signature_algorithm,
            &request.signature_value,
            info.raw,
        );
        if !signed {
            return Err(CsrError::Signature);
        }
        Ok(Self { public_key: info.subject_pki.raw.to_vec() })
    }

    /// The key to certify, as `SubjectPublicKeyInfo`.
    pub fn public_key_der(&self) -> &[u8] {
        &self.public_key
    }
}

fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), CsrError> {
    match key.algorithm.algorithm.as_bytes() {
        oid::EC_PUBLIC_KEY => match signature::curve(key).as_deref() {
            Some(oid::P256 | oid::P384 | oid::P521) => Ok(()),
            _ => Err(CsrError::Curve),
        },
        oid::RSA => match key.parsed() {
            Ok(x509_parser::public_key::PublicKey::RSA(rsa)) => {
                let significant = rsa.modulus.iter().skip_while(|b| **b == 0).count();
                if significant < MIN_RSA_BYTES { Err(CsrError::ShortKey) } else { Ok(()) }
            }
            _ => Err(CsrError::Structure),
        },
        _ => Ok(()),
    }
}

/// A signing request for the key: empty subject, no attributes, PEM.
///
/// # Errors
/// [`KeyError::Sign`] if the crypto library fails.
pub fn csr_pem(key: &PrivateKey) -> Result<String, KeyError> {
    let info = der::sequence(&[
        &der::unsigned(&[]),
        &empty_name(),
        key.public_key_der(),
        &der::explicit(0, &[]),
    ]);
    let signature = key.sign(&info)?;
    let request = der::sequence(&[&info, &signature.algorithm, &der::bit_string(&signature.value)]);
    Ok(pem::encode(LABEL, &request).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyKind;
    use proptest::prelude::*;
    use rstest::rstest;

    fn request(kind: KeyKind) -> (PrivateKey, String) {
        let key = PrivateKey::generate(kind).unwrap();
        let pem = csr_pem(&key).unwrap();
        (key, pem)
    }

    #[rstest]
    #[case(KeyKind::Ed25519)]
    #[case(KeyKind::EcdsaP256)]
    #[case(KeyKind::Rsa2048)]
    fn our_requests_are_read_back(#[case] kind: KeyKind) {
        let (key, pem) = request(kind);
        assert_eq!(Csr::parse_pem(pem.as_bytes()).unwrap().public_key_der(), key.public_key_der());
    }

    #[test]
    fn only_the_first_block_counts() {
        let (key, pem) = request(KeyKind::Ed25519);
        let behind = format!("text\n{pem}{}", *key.to_pem());
        assert!(Csr::parse_pem(behind.as_bytes()).is_ok());
        let in_front = format!("{}{pem}", *key.to_pem());
        assert_eq!(Csr::parse_pem(in_front.as_bytes()), Err(CsrError::Pem));
    }

    #[test]
    fn the_old_label_is_accepted() {
        let (_, pem) = request(KeyKind::Ed25519);
        let old = pem.replace(LABEL, OLD_LABEL);
        assert!(Csr::parse_pem(old.as_bytes()).is_ok());
    }

    #[test]
    fn bytes_behind_the_request_are_refused() {
        let (_, text) = request(KeyKind::Ed25519);
        let mut der = pem::blocks(text.as_bytes()).remove(0).der.to_vec();
        der.push(0);
        let longer = pem::encode(LABEL, &der);
        assert_eq!(Csr::parse_pem(longer.as_bytes()), Err(CsrError::Trailing));
    }

    #[test]
    fn a_request_for_a_foreign_key_is_refused() {
        let (_, text) = request(KeyKind::Ed25519);
        let mut der = pem::blocks(text.as_bytes()).remove(0).der.to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        let forged = pem::encode(LABEL, &der);
        assert_eq!(Csr::parse_pem(forged.as_bytes()), Err(CsrError::Signature));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(der in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Csr::parse_pem(pem::encode(LABEL, &der).as_bytes());
        }

        #[test]
        fn no_damage_smuggles_in_another_key(at in 0_usize..1000, bit in 0_u8..8) {
            let (key, text) = request(KeyKind::Ed25519);
            let mut der = pem::blocks(text.as_bytes()).remove(0).der.to_vec();
            let at = at % der.len();
            der[at] ^= 1 << bit;
            if let Ok(csr) = Csr::parse_pem(pem::encode(LABEL, &der).as_bytes()) {
                prop_assert_eq!(csr.public_key_der(), key.public_key_der());
            }
        }
    }
}

//! Certificate signing requests: generation and parsing. Source: RFC 2986; Dapr 1.18,
//! sentry `SignCertificate`.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::asn1::{der, oid};
use crate::keys::key::{KeyError, PrivateKey};
use crate::keys::signature;
use crate::pem;
use crate::x509::certificate::empty_name;

const LABEL: &str = "CERTIFICATE REQUEST";

/// The label that daprd before 1.12 uses.
const OLD_LABEL: &str = "CERTIFICATE";

/// Minimum length of RSA keys.
const MIN_RSA_BYTES: usize = 2048 / 8;

/// Why a signing request is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// No PEM block, or a block with another label.
    #[error("no PEM block of a certificate signing request")]
    Pem,
    /// The block is not a PKCS#10 request.
    #[error("not a PKCS#10 structure")]
    Structure,
    /// Data follows the request inside the block.
    #[error("trailing data")]
    Trailing,
    /// An elliptic curve other than P-256, P-384 and P-521.
    #[error("unsupported elliptic curve")]
    Curve,
    /// An RSA key below 2048 bits.
    #[error("RSA key is shorter than 2048 bits")]
    ShortKey,
    /// The request is not signed by its own key, or the algorithm is not supported.
    #[error("invalid signature")]
    Signature,
}

/// A signing request whose sender has proven possession of the key. Other contents are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    public_key: Vec<u8>,
}

impl Csr {
    /// Parses the first PEM block and verifies its signature.
    ///
    /// # Errors
    /// [`CsrError`]; each variant has its own response in sentry.
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

    /// The public key, `SubjectPublicKeyInfo`.
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

/// Creates a signing request for a key, PEM, with an empty subject and no attributes.
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
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::keys::key::KeyKind;

    fn request(kind: KeyKind) -> (PrivateKey, String) {
        let key = PrivateKey::generate(kind).unwrap();
        let pem = csr_pem(&key).unwrap();
        (key, pem)
    }

    #[rstest]
    #[case(KeyKind::Ed25519)]
    #[case(KeyKind::EcdsaP256)]
    #[case(KeyKind::Rsa2048)]
    fn generated_requests_parse(#[case] kind: KeyKind) {
        let (key, pem) = request(kind);
        assert_eq!(Csr::parse_pem(pem.as_bytes()).unwrap().public_key_der(), key.public_key_der());
    }

    #[test]
    fn parses_the_first_block_only() {
        let (key, pem) = request(KeyKind::Ed25519);
        let after = format!("text\n{pem}{}", *key.to_pem());
        assert!(Csr::parse_pem(after.as_bytes()).is_ok());
        let before = format!("{}{pem}", *key.to_pem());
        assert_eq!(Csr::parse_pem(before.as_bytes()), Err(CsrError::Pem));
    }

    #[test]
    fn accepts_the_old_label() {
        let (_, pem) = request(KeyKind::Ed25519);
        let old = pem.replace(LABEL, OLD_LABEL);
        assert!(Csr::parse_pem(old.as_bytes()).is_ok());
    }

    #[test]
    fn rejects_trailing_data() {
        let (_, text) = request(KeyKind::Ed25519);
        let mut der = pem::blocks(text.as_bytes()).remove(0).der.to_vec();
        der.push(0);
        let longer = pem::encode(LABEL, &der);
        assert_eq!(Csr::parse_pem(longer.as_bytes()), Err(CsrError::Trailing));
    }

    #[test]
    fn rejects_a_request_for_the_key_of_another() {
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
        fn a_changed_bit_certifies_no_other_key(at in 0_usize..1000, bit in 0_u8..8) {
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

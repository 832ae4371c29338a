//! Verifies signatures of certificates and signing requests. SHA-1, RSA below 2048 bits and curves
//! other than P-256, P-384 and P-521 are rejected.

use aws_lc_rs::signature as lc;
use x509_parser::asn1_rs::BitString;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use crate::asn1::oid;

/// Whether `value` is a signature of `message` by `key`.
pub(crate) fn verifies(
    key: &SubjectPublicKeyInfo<'_>,
    algorithm: &AlgorithmIdentifier<'_>,
    value: &BitString<'_>,
    message: &[u8],
) -> bool {
    let Some(checker) = checker(key, algorithm) else { return false };
    if value.unused_bits != 0 {
        return false;
    }
    lc::UnparsedPublicKey::new(checker, &key.subject_public_key.data)
        .verify(message, &value.data)
        .is_ok()
}

/// The curve of an elliptic-curve key, as the content bytes of its OID.
pub(crate) fn curve<'a>(key: &'a SubjectPublicKeyInfo<'_>) -> Option<Vec<u8>> {
    let parameters: &'a _ = key.algorithm.parameters.as_ref()?;
    Some(parameters.as_oid().ok()?.as_bytes().to_vec())
}

fn checker(
    key: &SubjectPublicKeyInfo<'_>,
    algorithm: &AlgorithmIdentifier<'_>,
) -> Option<&'static dyn lc::VerificationAlgorithm> {
    let signature = algorithm.algorithm.as_bytes();
    match key.algorithm.algorithm.as_bytes() {
        oid::ED25519 => (signature == oid::ED25519).then_some(&lc::ED25519),
        oid::RSA => rsa(signature, algorithm),
        oid::EC_PUBLIC_KEY => ecdsa(signature, curve(key)?.as_slice()),
        _ => None,
    }
}

fn rsa(
    signature: &[u8],
    algorithm: &AlgorithmIdentifier<'_>,
) -> Option<&'static dyn lc::VerificationAlgorithm> {
    match signature {
        oid::RSA_SHA256 => Some(&lc::RSA_PKCS1_2048_8192_SHA256),
        oid::RSA_SHA384 => Some(&lc::RSA_PKCS1_2048_8192_SHA384),
        oid::RSA_SHA512 => Some(&lc::RSA_PKCS1_2048_8192_SHA512),
        oid::RSA_PSS => {
            let parameters = RsaSsaPssParams::try_from(algorithm.parameters.as_ref()?).ok()?;
            match parameters.hash_algorithm_oid().as_bytes() {
                oid::SHA256 => Some(&lc::RSA_PSS_2048_8192_SHA256),
                oid::SHA384 => Some(&lc::RSA_PSS_2048_8192_SHA384),
                oid::SHA512 => Some(&lc::RSA_PSS_2048_8192_SHA512),
                _ => None,
            }
        }
        _ => None,
    }
}

fn ecdsa(signature: &[u8], curve: &[u8]) -> Option<&'static dyn lc::VerificationAlgorithm> {
    match (curve, signature) {
        (oid::P256, oid::ECDSA_SHA256) => Some(&lc::ECDSA_P256_SHA256_ASN1),
        (oid::P256, oid::ECDSA_SHA384) => Some(&lc::ECDSA_P256_SHA384_ASN1),
        (oid::P256, oid::ECDSA_SHA512) => Some(&lc::ECDSA_P256_SHA512_ASN1),
        (oid::P384, oid::ECDSA_SHA256) => Some(&lc::ECDSA_P384_SHA256_ASN1),
        (oid::P384, oid::ECDSA_SHA384) => Some(&lc::ECDSA_P384_SHA384_ASN1),
        (oid::P384, oid::ECDSA_SHA512) => Some(&lc::ECDSA_P384_SHA512_ASN1),
        (oid::P521, oid::ECDSA_SHA256) => Some(&lc::ECDSA_P521_SHA256_ASN1),
        (oid::P521, oid::ECDSA_SHA384) => Some(&lc::ECDSA_P521_SHA384_ASN1),
        (oid::P521, oid::ECDSA_SHA512) => Some(&lc::ECDSA_P521_SHA512_ASN1),
        _ => None,
    }
}

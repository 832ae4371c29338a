//! Object identifiers, as the content bytes of their DER form.

/// commonName, RFC 5280 appendix A.
pub(crate) const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// organizationName, RFC 5280 appendix A.
pub(crate) const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
/// keyUsage, RFC 5280 §4.2.1.3.
pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// subjectAltName, RFC 5280 §4.2.1.6.
pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// basicConstraints, RFC 5280 §4.2.1.9.
pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
/// subjectKeyIdentifier, RFC 5280 §4.2.1.2.
pub(crate) const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
/// nameConstraints, RFC 5280 §4.2.1.10.
pub(crate) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
/// authorityKeyIdentifier, RFC 5280 §4.2.1.1.
pub(crate) const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
/// extKeyUsage, RFC 5280 §4.2.1.12.
pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// id-kp-serverAuth.
pub(crate) const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
/// id-kp-clientAuth.
pub(crate) const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// Container images of a pod: 1.3.6.1.4.1.57683.100.1. Source: Dapr 1.19, sentry.
pub(crate) const CONTAINER_IMAGES: &[u8] =
    &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xc2, 0x53, 0x64, 0x01];

/// id-ecPublicKey, RFC 5480.
pub(crate) const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// secp256r1.
pub(crate) const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
/// secp384r1.
pub(crate) const P384: &[u8] = &[0x2b, 0x81, 4, 0, 34];
/// secp521r1.
pub(crate) const P521: &[u8] = &[0x2b, 0x81, 4, 0, 35];
/// rsaEncryption, RFC 8017.
pub(crate) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
/// id-Ed25519, RFC 8410: key and signature.
pub(crate) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// sha256WithRSAEncryption.
pub(crate) const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
/// sha384WithRSAEncryption.
pub(crate) const RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12];
/// sha512WithRSAEncryption.
pub(crate) const RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13];
/// id-RSASSA-PSS.
pub(crate) const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
/// ecdsa-with-SHA256.
pub(crate) const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// ecdsa-with-SHA384.
pub(crate) const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
/// ecdsa-with-SHA512.
pub(crate) const ECDSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
/// id-sha256.
pub(crate) const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
/// id-sha384.
pub(crate) const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
/// id-sha512.
pub(crate) const SHA512: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];

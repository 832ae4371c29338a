//! SPIFFE identities, X.509 and JWT: parsing, issuing and verifying. Pure: no I/O, and the current time
//! is an argument.
//!
//! ```text
//!  PEM ──► TrustAnchors ─┐
//!  PEM ──► CertChain ────┼──► verify_svid ──► SpiffeId          (every peer)
//!  PEM ──► Csr ──────────┼──► Bundle::issue ──► IssuedLeaf      (sentry)
//!  PEM ──► PrivateKey ───┴──► JwtSigner ──► JWT SVID           (sentry)
//!  JSON ─► JwkSet ───────────► verify_token                    (sentry)
//! ```
//! Start reading at [`SpiffeId`], then [`verify_svid`] (which chains a peer accepts) and [`Bundle`]
//! (the CA that sentry signs with; `cross_sign` rotates it, and [`stored`] decides whether a stored
//! one is used).
//!
//! Certificates are encoded by `der` and `certificate`, about 300 lines, and not by a library: a leaf
//! must carry the issuer's name byte for byte, or Go peers reject the certificates of a user's own CA
//! with "unknown authority". `x509-parser` parses, `aws-lc-rs` does the cryptography.

mod asn1;
mod ca;
mod expiry;
mod jwt;
mod keys;
mod pem;
mod spiffe_id;
mod trust;
mod verify;
mod x509;

pub use ca::bundle::{
    Bundle, BundleError, BundlePem, GenerateOptions, Part, SELF_SIGNED_LIFETIME, fingerprint,
};
pub use ca::cross_sign::{CrossSignError, CrossSignedCa};
pub use ca::issue::{IssueError, IssuedLeaf, LeafRequest};
pub use ca::stored;
pub use expiry::expiry_step;
pub use jwt::{Expected, JwtClaims, JwtSigner, TokenError, verify_token};
pub use keys::jwk::{JwkCurve, JwkSet, JwksError, JwtAlgorithm, KeyMaterial};
pub use keys::key::{KeyError, KeyKind, PrivateKey};
pub use rustls_pki_types::CertificateDer;
pub use spiffe_id::{SpiffeError, SpiffeId, TrustDomain};
pub use trust::{AnchorsError, CertChain, ChainError, TrustAnchors};
pub use verify::{VerifyError, verify_issuer, verify_svid};
pub use x509::csr::{Csr, CsrError, csr_pem};

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
//! (the CA that sentry signs with; `cross_sign` rotates it, and [`stored`] decides what happens to a
//! stored one).
//!
//! Certificates are encoded by `der` and `certificate`, about 300 lines, and not by a library: a leaf
//! must carry the issuer's name byte for byte, or Go peers reject the certificates of a user's own CA
//! with "unknown authority". `x509-parser` parses, `aws-lc-rs` does the cryptography.

mod bundle;
mod certificate;
mod constraints;
mod cross_sign;
mod csr;
mod der;
mod expiry;
mod issue;
mod jwk;
mod jwt;
mod key;
mod oid;
mod pem;
mod signature;
mod spiffe_id;
pub mod stored;
mod trust;
mod verify;
mod x509;

pub use bundle::{
    Bundle, BundleError, BundlePem, GenerateOptions, SELF_SIGNED_LIFETIME, fingerprint,
};
pub use cross_sign::{CrossSignError, CrossSignedCa};
pub use csr::{Csr, CsrError, csr_pem};
pub use expiry::expiry_step;
pub use issue::{IssueError, IssuedLeaf, LeafRequest};
pub use jwk::{JwkCurve, JwkSet, JwksError, JwtAlgorithm, KeyMaterial};
pub use jwt::{Expected, JwtClaims, JwtSigner, TokenError, verify_token};
pub use key::{KeyError, KeyKind, PrivateKey};
pub use rustls_pki_types::CertificateDer;
pub use spiffe_id::{SpiffeError, SpiffeId, TrustDomain};
pub use trust::{AnchorsError, CertChain, ChainError, TrustAnchors};
pub use verify::{VerifyError, verify_issuer, verify_svid};

//! SPIFFE identities, X.509 and JWT: parsing, issuing and verifying. Pure: no I/O, and the time is an
//! argument.
//!
//! ```text
//!  PEM ──► TrustAnchors ─┐
//!  PEM ──► CertChain ────┼──► verify_svid ──► SpiffeId          (every peer)
//!  PEM ──► Csr ──────────┼──► Bundle::issue ──► IssuedLeaf      (sentry)
//!  PEM ──► PrivateKey ───┴──► JwtSigner ──► JWT SVID           (sentry)
//!  JSON ─► JwkSet ───────────► verify_token                    (sentry)
//! ```
//! Start reading at [`SpiffeId`], then [`verify_svid`] (what a peer accepts) and [`Bundle`] (what
//! sentry signs with, in `succession` what takes its place, and in [`stored`] what is done about the
//! one that was found).
//!
//! Certificates are written by `der` and `certificate`, about 300 lines, and not by a library:
//! leaves must carry the issuer's name byte for byte as the issuer wrote it, or Go peers answer
//! "unknown authority" to the certificate of a user's own CA. Parsing and cryptography are
//! `x509-parser`'s and `aws-lc-rs`'s.

mod bundle;
mod certificate;
mod constraints;
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
mod succession;
mod trust;
mod verify;
mod view;

pub use bundle::{
    Bundle, BundleError, BundlePem, GenerateOptions, SELF_SIGNED_LIFETIME, fingerprint,
};
pub use csr::{Csr, CsrError, csr_pem};
pub use expiry::expiry_step;
pub use issue::{IssueError, IssuedLeaf, LeafRequest};
pub use jwk::{JwkCurve, JwkSet, JwksError, JwtAlgorithm, KeyMaterial};
pub use jwt::{Expected, JwtClaims, JwtSigner, TokenError, verify_token};
pub use key::{KeyError, KeyKind, PrivateKey};
pub use rustls_pki_types::CertificateDer;
pub use spiffe_id::{SpiffeError, SpiffeId, TrustDomain};
pub use succession::{Succession, SuccessionError};
pub use trust::{AnchorsError, CertChain, ChainError, TrustAnchors};
pub use verify::{VerifyError, verify_issuer, verify_svid};

//! Authentication of signing requests: which identity does the token of a request prove?
//!
//! ```text
//!  request ─► token_precheck ─► authenticator ─┬─► token_reviews, cluster ─► pod_identity
//!                                              └─► jwks_keys (keys of an identity provider)
//! ```
//! Start reading at [`authenticator`], then [`pod_identity`], the pure rules that compare a request
//! with its pod.

pub(crate) mod authenticator;
pub(crate) mod cache;
pub(crate) mod cluster;
pub(crate) mod container_images;
pub(crate) mod dns_names;
pub(crate) mod error;
pub(crate) mod jwks_keys;
pub(crate) mod jwks_options;
pub(crate) mod pod_identity;
pub(crate) mod request;
pub(crate) mod token_precheck;
pub(crate) mod token_reviews;

pub(crate) use authenticator::{
    Authenticator, Identity, JwksAuthenticator, KubernetesAuthenticator,
};
pub(crate) use error::AuthnError;
pub(crate) use request::{EnabledValidators, SignRequest, Validator};

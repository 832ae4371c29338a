//! The certificate authority of both ends of a connection: the sentry of a control plane, and how
//! its parts are named.

use anyhow::Result;
use identity::{SpiffeId, TrustDomain};

/// A control plane's certificate authority, as its clients know it.
#[derive(Clone, Debug)]
pub struct Authority {
    /// `host:port` of its sentry.
    pub sentry: String,
    /// Its trust anchors (PEM).
    pub anchors: String,
    /// The trust domain of the control plane, and of the apps.
    pub trust_domain: String,
    /// The namespace of the control plane.
    pub namespace: String,
}

impl Authority {
    /// The trust domain.
    ///
    /// # Errors
    /// When it is invalid.
    pub fn trust_domain(&self) -> Result<TrustDomain> {
        Ok(TrustDomain::parse(&self.trust_domain)?)
    }

    /// The id of a part of the control plane, for example `dapr-operator`.
    ///
    /// # Errors
    /// When the trust domain or the namespace is invalid.
    pub fn part(&self, name: &str) -> Result<SpiffeId> {
        Ok(SpiffeId::new(&self.trust_domain()?, &self.namespace, name)?)
    }
}

//! The flags about the identity of a service and where it gets its certificate. Source: Dapr 1.18,
//! flags of the control plane services.

use std::path::PathBuf;

use identity::{KeyKind, SpiffeError, TrustDomain};

use crate::anchors::AnchorSource;
use crate::svid::{self, Mode};

/// The flags of a service that requests its certificate from sentry.
#[derive(Debug, Clone, clap::Args)]
pub struct IdentityFlags {
    /// Trust domain of the control plane
    #[arg(long, default_value = "localhost", value_name = "DOMAIN")]
    pub trust_domain: String,
    /// Trust anchors; the file is watched
    #[arg(long, default_value = "/var/run/secrets/dapr.io/tls/ca.crt", value_name = "PATH")]
    pub trust_anchors_file: PathBuf,
    /// Address of sentry [default: dapr-sentry.$NAMESPACE.svc:443]
    #[arg(long, value_name = "HOST:PORT")]
    pub sentry_address: Option<String>,
    /// How to authenticate to sentry: standalone or kubernetes
    #[arg(long, default_value = "standalone", value_parser = mode, value_name = "MODE")]
    pub mode: Mode,
}

/// `--trust-domain` is not a trust domain.
#[derive(Debug, thiserror::Error)]
#[error("--trust-domain {text:?}")]
pub struct TrustDomainError {
    text: String,
    #[source]
    cause: SpiffeError,
}

impl IdentityFlags {
    /// How the service `app_id` of the control plane in `namespace` gets its certificate, with an
    /// Ed25519 key.
    ///
    /// # Errors
    /// [`TrustDomainError`]
    pub fn options(
        &self,
        app_id: &str,
        namespace: String,
    ) -> Result<svid::Options, TrustDomainError> {
        let trust_domain = TrustDomain::parse(&self.trust_domain)
            .map_err(|cause| TrustDomainError { text: self.trust_domain.clone(), cause })?;
        let sentry_address = self
            .sentry_address
            .clone()
            .unwrap_or_else(|| format!("dapr-sentry.{namespace}.svc:443"));
        Ok(svid::Options {
            app_id: app_id.to_owned(),
            control_plane_namespace: namespace.clone(),
            namespace,
            trust_domain,
            sentry_address,
            anchors: AnchorSource::File { path: self.trust_anchors_file.clone(), fallback: None },
            key_kind: KeyKind::Ed25519,
            mode: self.mode,
        })
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "standalone" => Ok(Mode::Standalone),
        "kubernetes" => Ok(Mode::Kubernetes),
        _ => Err("write standalone or kubernetes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        identity: IdentityFlags,
    }

    fn options(args: &[&str]) -> Result<svid::Options, TrustDomainError> {
        let flags = Flags::try_parse_from(std::iter::once("service").chain(args.iter().copied()));
        flags.unwrap().identity.options("dapr-service", "dapr-system".to_owned())
    }

    #[test]
    fn sentry_is_in_the_own_namespace_unless_a_flag_sets_it() {
        let default = options(&[]).unwrap();
        assert_eq!(default.sentry_address, "dapr-sentry.dapr-system.svc:443");
        assert_eq!((default.mode, default.trust_domain.as_str()), (Mode::Standalone, "localhost"));
        let given = options(&["--sentry-address=sentry:1", "--mode=kubernetes"]).unwrap();
        assert_eq!((given.sentry_address.as_str(), given.mode), ("sentry:1", Mode::Kubernetes));
    }

    #[test]
    fn rejects_what_is_no_trust_domain_or_mode() {
        let error = options(&["--trust-domain=Upper"]).unwrap_err();
        assert_eq!(error.to_string(), r#"--trust-domain "Upper""#);
        assert!(Flags::try_parse_from(["service", "--mode=podman"]).is_err());
    }
}

//! The programs of both sides.

use std::{collections::HashMap, path::Path, path::PathBuf};

use anyhow::{Context as _, Result};
use blackbox::{Service, Tool};

use crate::row::Side;

/// Where each side's programs are.
#[derive(Clone, Debug)]
pub struct Programs(HashMap<(Side, &'static str), PathBuf>);

impl Programs {
    /// Builds or finds them: ours static, as they are shipped, with cargo's `profile`; the
    /// reference's from its Go module.
    ///
    /// # Errors
    /// When one does not compile.
    pub fn build(profile: &str, services: &[Service]) -> Result<Self> {
        let mut found = HashMap::new();
        for &service in services {
            found.insert((Side::Trilby, service.binary()), service.build_static(profile)?);
            found.insert((Side::Reference, service.binary()), reference(service).path()?);
        }
        Ok(Self(found))
    }

    /// The program of a service.
    ///
    /// # Errors
    /// When the row did not name the service as one that it needs.
    pub fn path(&self, side: Side, service: Service) -> Result<&Path> {
        let found = self.0.get(&(side, service.binary()));
        found.map(PathBuf::as_path).with_context(|| format!("{} was not built", service.binary()))
    }
}

/// The reference's program of the same service.
const fn reference(service: Service) -> Tool {
    match service {
        Service::Operator => Tool::REFERENCE_OPERATOR,
        Service::Injector => Tool::REFERENCE_INJECTOR,
        Service::Sentry => Tool::REFERENCE_SENTRY,
        Service::Placement => Tool::REFERENCE_PLACEMENT,
    }
}

//! The programs of both sides.

use std::{collections::HashMap, path::Path, path::PathBuf};

use anyhow::{Context as _, Result};
use blackbox::Service;

use crate::scenario::Side;

/// Where each side's programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    profile: String,
    found: HashMap<(Side, &'static str), PathBuf>,
}

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
            found.insert((Side::Reference, service.binary()), service.reference().path()?);
        }
        Ok(Self { profile: profile.to_owned(), found })
    }

    /// Cargo's profile of our own.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// The program of a service.
    ///
    /// # Errors
    /// When the row did not name the service as one that it needs.
    pub fn path(&self, side: Side, service: Service) -> Result<&Path> {
        let found = self.found.get(&(side, service.binary()));
        found.map(PathBuf::as_path).with_context(|| format!("{} was not built", service.binary()))
    }
}

//! The programs of both sides.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use blackbox::Service;

use crate::side::Side;

/// Where each side's programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    profile: String,
    other: Side,
    found: HashMap<(Side, &'static str), PathBuf>,
}

impl Programs {
    /// Builds or finds them: ours statically linked, as shipped, with cargo's `profile`,
    /// and only these; of those `compared`, the other side's in the folder `baseline`, or those of
    /// the reference from its Go module.
    ///
    /// # Errors
    /// When one does not compile or is missing.
    pub fn build(
        profile: &str,
        services: &[Service],
        compared: &[Service],
        baseline: Option<&Path>,
    ) -> Result<Self> {
        let other = if baseline.is_some() { Side::Baseline } else { Side::Reference };
        let mut found = HashMap::new();
        for (&service, program) in services.iter().zip(Service::build_only(services, profile)?) {
            found.insert((Side::Trilby, service.binary()), program);
            if compared.contains(&service) {
                let theirs = match baseline {
                    Some(folder) => program_in(folder, service.binary())?,
                    None => service.reference().path()?,
                };
                found.insert((other, service.binary()), theirs);
            }
        }
        Ok(Self { profile: profile.to_owned(), other, found })
    }

    /// Both sides, ours last.
    pub fn sides(&self) -> [Side; 2] {
        [self.other, Side::Trilby]
    }

    /// Cargo's profile of our programs.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// The program of a service.
    ///
    /// # Errors
    /// When the row does not list the service in `services`.
    pub fn path(&self, side: Side, service: Service) -> Result<&Path> {
        let found = self.found.get(&(side, service.binary()));
        found.map(PathBuf::as_path).with_context(|| format!("{} was not built", service.binary()))
    }
}

fn program_in(folder: &Path, name: &str) -> Result<PathBuf> {
    let program = folder.join(name);
    ensure!(program.is_file(), "the baseline has no program {}", program.display());
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_the_baseline_lacks_is_named() {
        let folder = blackbox::Scratch::new("baseline").unwrap();
        let there = folder.write("sentry", "").unwrap();
        assert_eq!(program_in(folder.path(), "sentry").unwrap(), there);
        let missing = program_in(folder.path(), "operator").unwrap_err().to_string();
        assert!(missing.ends_with("/operator"), "{missing}");
    }
}

//! Our own services as the test cluster sees them, and their binaries built by cargo.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};

use crate::{Architecture, environment};

/// A service of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Serves resources to sidecars, owns the `<app-id>-dapr` Services.
    Operator,
    /// The mutating webhook.
    Injector,
    /// The certificate authority.
    Sentry,
    /// The actor tables.
    Placement,
    /// Jobs and actor reminders.
    Scheduler,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Operator, Self::Injector, Self::Sentry, Self::Placement, Self::Scheduler];

    /// The cargo package.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Injector => "sidecar-injector",
            Self::Sentry => "sentry",
            Self::Placement => "placement",
            Self::Scheduler => "scheduler",
        }
    }

    /// The program, also the entry point `/<name>` and the image name.
    pub const fn binary(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Injector => "injector",
            Self::Sentry => "sentry",
            Self::Placement => "placement",
            Self::Scheduler => "scheduler",
        }
    }

    /// The environment of its image. The allocator's huge pages of 2 MB cost an idle service more
    /// than all of its data. The operator holds large lists for a moment when sidecars start, and
    /// then nothing for hours, so what it frees goes back at once; the other services would pay for
    /// that with every request.
    pub const fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Operator => &[("MIMALLOC_ALLOW_THP", "0"), ("MIMALLOC_PURGE_DELAY", "0")],
            Self::Injector | Self::Sentry | Self::Placement | Self::Scheduler => {
                &[("MIMALLOC_ALLOW_THP", "0")]
            }
        }
    }

    /// The service whose package or program has that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|s| s.package() == name || s.binary() == name);
        found.with_context(|| {
            format!("no service {name:?}: operator, injector, sentry, placement, scheduler")
        })
    }

    /// The debug build of its program.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn build(self) -> Result<PathBuf> {
        build(self.binary(), Linking::Dynamic, DEVELOPMENT)
    }

    /// The program for an image of this machine's processor and whether it is static: what is
    /// shipped is, a development build needs the C library beside it.
    ///
    /// # Errors
    /// When it does not compile.
    pub(crate) fn build_for_image(
        self,
        architecture: Architecture,
        profile: &str,
    ) -> Result<(PathBuf, Linkage)> {
        if profile == DEVELOPMENT && architecture == Architecture::here()? {
            return Ok((self.build()?, Linkage::Dynamic));
        }
        Ok((self.build_for(architecture, profile)?, Linkage::Static))
    }

    /// A build that needs nothing else to run, not even a C library: for images. `profile` is
    /// cargo's, `release` for what is shipped.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn build_static(self, profile: &str) -> Result<PathBuf> {
        self.build_for(Architecture::here()?, profile)
    }

    /// The same for a processor of choice.
    ///
    /// # Errors
    /// When it does not compile, or what it takes to build for another processor is missing.
    pub fn build_for(self, architecture: Architecture, profile: &str) -> Result<PathBuf> {
        build(self.binary(), Linking::Static(architecture), profile)
    }
}

/// The debug build of one of our services by name, such as `"sentry"`.
///
/// # Errors
/// When there is no such service or it does not compile.
pub fn build_binary(name: &str) -> Result<PathBuf> {
    Service::parse(name)?.build()
}

/// Package and program of the command that no image carries.
const DAPRCTL: &str = "daprctl";

/// Package, program and image of the dashboard, which has a chart of its own.
pub(crate) const DASHBOARD: &str = "dashboard";

/// Cargo's profile for development.
const DEVELOPMENT: &str = "dev";

/// Whether a program needs shared libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linkage {
    /// It needs none.
    Static,
    /// It needs the C library.
    Dynamic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linking {
    Dynamic,
    Static(Architecture),
}

/// The debug build of `daprctl`, a person's command.
///
/// # Errors
/// When it does not compile.
pub fn build_daprctl() -> Result<PathBuf> {
    build(DAPRCTL, Linking::Dynamic, DEVELOPMENT)
}

/// The debug build of the dashboard.
///
/// # Errors
/// When it does not compile.
pub fn build_dashboard() -> Result<PathBuf> {
    build(DASHBOARD, Linking::Dynamic, DEVELOPMENT)
}

/// As [`Service::build_for_image`], of the dashboard.
///
/// # Errors
/// When it does not compile.
pub(crate) fn build_dashboard_for_image(
    architecture: Architecture,
    profile: &str,
) -> Result<(PathBuf, Linkage)> {
    if profile == DEVELOPMENT && architecture == Architecture::here()? {
        return Ok((build_dashboard()?, Linkage::Dynamic));
    }
    Ok((build(DASHBOARD, Linking::Static(architecture), profile)?, Linkage::Static))
}

/// Builds all programs with one call of cargo, so that they share its cores and one choice of
/// features, and returns one of them. Asked again, it answers from memory.
fn build(binary: &str, linking: Linking, profile: &str) -> Result<PathBuf> {
    static BUILT: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);
    if let (Linking::Dynamic, DEVELOPMENT, Some(folder)) =
        (linking, profile, environment::var(environment::PROGRAMS))
    {
        let program = PathBuf::from(folder).join(binary);
        ensure!(program.is_file(), "{} is missing in {}", binary, environment::PROGRAMS);
        return Ok(program);
    }
    let key = format!("{linking:?} {profile}");
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner); // one build at a time
    let built = built.get_or_insert_default();
    if !built.contains_key(&key) {
        built.insert(key.clone(), build_all(linking, profile)?);
    }
    let messages = built.get(&key).map(String::as_str).unwrap_or_default();
    executable(messages, binary).with_context(|| format!("cargo named no executable for {binary}"))
}

/// Cargo's messages about the build of every program; images need the services and the dashboard.
fn build_all(linking: Linking, profile: &str) -> Result<String> {
    let cargo = environment::var("CARGO").unwrap_or_else(|| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--profile", profile]);
    for service in Service::ALL {
        command.args(["--package", service.package()]);
    }
    command.args(["--package", DASHBOARD]);
    if linking == Linking::Dynamic {
        command.args(["--package", DAPRCTL]);
    }
    command.args(["--message-format", "json-render-diagnostics"]);
    if let Linking::Static(architecture) = linking {
        architecture.build_static_with(&mut command, &environment::workspace())?;
    }
    command.current_dir(environment::workspace());
    let done =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(done.status.success(), "the services do not compile, see above");
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Cargo's profile of the services in the images of tests: `dev` unless `TRILBY_PROFILE` names
/// another. Tests then use the programs that the other suites run, without a second build.
pub fn image_profile() -> String {
    environment::var("TRILBY_PROFILE").unwrap_or_else(|| DEVELOPMENT.to_owned())
}

/// The executable that cargo's messages name for a binary.
fn executable(messages: &str, binary: &str) -> Option<PathBuf> {
    messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let named = message.pointer("/target/name")?.as_str()? == binary;
        named.then(|| message.get("executable")?.as_str().map(PathBuf::from)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_executable_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"sentry","kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","target":{"name":"sentry","kind":["bin"]},"executable":"/t/sentry"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "sentry"), Some("/t/sentry".into()));
        assert_eq!(executable(messages, "operator"), None);
    }
}

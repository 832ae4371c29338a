//! Our services, and their programs built by cargo.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use crate::{Architecture, environment};

/// A service of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Serves resources to sidecars, reconciles the `<app-id>-dapr` Services.
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
    /// then little for hours, so it returns freed memory at once; the other services would pay for
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

    /// A static build, for images. `profile` is
    /// cargo's, `release` for what is shipped.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn build_static(self, profile: &str) -> Result<PathBuf> {
        self.build_for(Architecture::here()?, profile)
    }

    /// The same for some of them only, which saves minutes where few are needed; the
    /// development profile has its debug builds.
    ///
    /// # Errors
    /// When one does not compile.
    pub fn build_only(services: &[Self], profile: &str) -> Result<Vec<PathBuf>> {
        if profile == DEVELOPMENT {
            return services.iter().map(|service| service.build()).collect();
        }
        let packages: BTreeSet<_> = services.iter().map(|service| service.package()).collect();
        let packages: Vec<_> = packages.into_iter().collect();
        let messages = cargo_build(Linking::Static(Architecture::here()?), profile, &packages)?;
        let program = |service: &Self| executable_of(&messages, service.binary());
        services.iter().map(program).collect()
    }

    /// The same for an architecture.
    ///
    /// # Errors
    /// When it does not compile, or the tools for another architecture are missing.
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

/// Package and program of the command, which no image contains.
const DAPRCTL: &str = "daprctl";

/// Package, program and image of the dashboard, which has its own chart.
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
    Windows,
}

/// The debug build of `daprctl`.
///
/// # Errors
/// When it does not compile.
pub fn build_daprctl() -> Result<PathBuf> {
    build(DAPRCTL, Linking::Dynamic, DEVELOPMENT)
}

/// A static build of `daprctl` for a processor of choice.
///
/// # Errors
/// As [`Service::build_for`].
pub fn build_daprctl_static(architecture: Architecture, profile: &str) -> Result<PathBuf> {
    let messages = cargo_build(Linking::Static(architecture), profile, &[DAPRCTL])?;
    executable_of(&messages, DAPRCTL)
}

/// A build of `daprctl` for Windows, with Debian's C compiler for it.
///
/// # Errors
/// When it does not compile, or Rust's library or the compiler for it is missing.
pub fn build_daprctl_for_windows(profile: &str) -> Result<PathBuf> {
    let messages = cargo_build(Linking::Windows, profile, &[DAPRCTL])?;
    executable_of(&messages, DAPRCTL)
}

/// The debug build of the dashboard.
///
/// # Errors
/// When it does not compile.
pub fn build_dashboard() -> Result<PathBuf> {
    build(DASHBOARD, Linking::Dynamic, DEVELOPMENT)
}

/// A static build of the dashboard, as [`Service::build_static`].
///
/// # Errors
/// When it does not compile.
pub fn build_dashboard_static(profile: &str) -> Result<PathBuf> {
    build(DASHBOARD, Linking::Static(Architecture::here()?), profile)
}

/// As [`Service::build_only`], of the dashboard: static, or for the development profile its debug
/// build.
///
/// # Errors
/// When it does not compile.
pub fn build_dashboard_alone(profile: &str) -> Result<PathBuf> {
    if profile == DEVELOPMENT {
        return build_dashboard();
    }
    let linking = Linking::Static(Architecture::here()?);
    executable_of(&cargo_build(linking, profile, &[DASHBOARD])?, DASHBOARD)
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

/// Builds a program together with others by one call of cargo, so that they share its cores and one
/// choice of features. Later calls return cached results.
fn build(binary: &str, linking: Linking, profile: &str) -> Result<PathBuf> {
    static BUILT: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);
    if let (Linking::Dynamic, DEVELOPMENT, Some(folder)) =
        (linking, profile, environment::programs())
    {
        let program = folder.join(binary);
        ensure!(program.is_file(), "{} is missing in {}", binary, environment::PROGRAMS);
        return Ok(program);
    }
    let packages = packages_with(binary, linking);
    let key = format!("{linking:?} {profile} {packages:?}");
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner); // one build at a time
    let built = built.get_or_insert_default();
    if !built.contains_key(&key) {
        built.insert(key.clone(), cargo_build(linking, profile, &packages)?);
    }
    executable_of(built.get(&key).map(String::as_str).unwrap_or_default(), binary)
}

/// The packages that are built together with a program. Images need the services and the dashboard;
/// a cluster for development, the services alone.
fn packages_with(binary: &str, linking: Linking) -> Vec<&'static str> {
    let mut packages = Service::ALL.map(Service::package).to_vec();
    match linking {
        Linking::Static(_) | Linking::Windows => packages.push(DASHBOARD),
        Linking::Dynamic if [DASHBOARD, DAPRCTL].contains(&binary) => {
            packages.extend([DASHBOARD, DAPRCTL]);
        }
        Linking::Dynamic => {}
    }
    packages
}

/// Cargo's messages about the build of these packages.
fn cargo_build(linking: Linking, profile: &str, packages: &[&str]) -> Result<String> {
    let cargo = environment::var("CARGO").unwrap_or_else(|| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--profile", profile]);
    for package in packages {
        command.args(["--package", package]);
    }
    command.args(["--message-format", "json-render-diagnostics"]);
    match linking {
        Linking::Dynamic => {}
        Linking::Static(architecture) => {
            architecture.build_static_with(&mut command, &environment::workspace())?;
        }
        Linking::Windows => crate::images::architecture::build_for_windows_with(&mut command)?,
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

/// As [`executable`].
///
/// # Errors
/// When the messages name none.
fn executable_of(messages: &str, binary: &str) -> Result<PathBuf> {
    executable(messages, binary).with_context(|| format!("cargo named no executable for {binary}"))
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

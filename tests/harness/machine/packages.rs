//! Programs that come from the distribution's packages.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::progress::step;
use crate::{environment, process};

/// A file that has to be there, and the Debian package that brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needed {
    /// A program on `PATH`, or an absolute path.
    pub(crate) file: &'static str,
    package: &'static str,
}

const fn needed(file: &'static str, package: &'static str) -> Needed {
    Needed { file, package }
}

/// Packages of a node, in addition to the programs that are built.
pub(crate) const NODE: [Needed; 11] = [
    needed("containerd", "containerd"),
    needed("containerd-shim-runc-v2", "containerd"),
    needed("ctr", "containerd"),
    needed("runc", "runc"),
    needed("/usr/lib/cni/ptp", "containernetworking-plugins"),
    needed("/usr/lib/cni/host-local", "containernetworking-plugins"),
    needed("iptables", "iptables"),
    needed("conntrack", "conntrack"),
    needed("ip", "iproute2"),
    needed("nsenter", "util-linux"),
    needed("mount", "mount"),
];

/// Tools of Redis, which no service comes with.
pub(crate) const REDIS_TOOLS: [Needed; 1] = [needed("redis-check-rdb", "redis-tools")];
/// Node.js.
pub(crate) const NODE_JS: [Needed; 1] = [needed("node", "nodejs")];
/// The package manager of Node.js.
pub(crate) const NPM: [Needed; 1] = [needed("npm", "npm")];
/// Python.
pub(crate) const PYTHON: [Needed; 1] = [needed("python3", "python3")];
/// The runtime of Java programs.
pub(crate) const JAVA: [Needed; 1] = [needed("java", "default-jre-headless")];
/// Runs Java programs from their source.
pub(crate) const JDK: [Needed; 1] = [needed("javac", "default-jdk-headless")];
/// The package manager of Java.
pub(crate) const MAVEN: [Needed; 1] = [needed("mvn", "maven")];

/// The headless browser.
pub(crate) const CHROMIUM: [Needed; 1] = [needed("chromium", "chromium")];

/// Run a program as in a pod.
const POD: [Needed; 2] = [needed("unshare", "util-linux"), needed("mount", "mount")];
/// An independent check of certificates.
const OPENSSL: [Needed; 1] = [needed("openssl", "openssl")];

/// Installs what the tour of the building blocks uses beside the sample, or names it.
///
/// # Errors
/// When something is missing and cannot be installed.
pub(crate) fn require_for_tour() -> Result<()> {
    [&JAVA, &MAVEN].into_iter().try_for_each(|needed| require(needed))
}

/// Installs what the suites use beside the cluster's programs. Called once before the tests, so
/// that no two of them install at the same time.
///
/// # Errors
/// When something is missing and cannot be installed.
pub fn require_for_tests() -> Result<()> {
    let groups: [&[Needed]; 7] = [&REDIS_TOOLS, &NODE_JS, &NPM, &PYTHON, &CHROMIUM, &POD, &OPENSSL];
    groups.into_iter().try_for_each(require)
}

/// Ensures that all are installed: installs missing ones when root, names them otherwise.
///
/// # Errors
/// When something is missing and cannot be installed.
pub(crate) fn require(list: &[Needed]) -> Result<()> {
    let missing = missing(list);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !environment::is_root() || environment::find_program("apt-get").is_none() {
        bail!("install these packages (Debian's names): {names}");
    }
    step(&format!("install packages: {names}"), || {
        update()?;
        let mut args = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
        args.extend(&missing);
        apt_get(&args)
    })?;
    let still = self::missing(list);
    if still.is_empty() { Ok(()) } else { bail!("not in the packages: {}", still.join(" ")) }
}

/// Reads the lists of packages again.
///
/// # Errors
/// When the lists cannot be downloaded or written.
pub(crate) fn update() -> Result<()> {
    apt_get(&["update", "--quiet"])
}

fn missing(list: &[Needed]) -> Vec<&'static str> {
    let is_there = |file: &str| {
        if file.starts_with('/') {
            Path::new(file).exists()
        } else {
            environment::find_program(file).is_some()
        }
    };
    let mut packages: Vec<_> =
        list.iter().filter(|needed| !is_there(needed.file)).map(|needed| needed.package).collect();
    packages.dedup();
    packages
}

fn apt_get(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    process::output(&mut command).context("install packages").map(drop)
}

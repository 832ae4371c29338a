//! The programs of the test cluster: from this machine, from the cache of earlier builds, or by a
//! build of their Go module. Nothing is downloaded ready-made, no registry is needed.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use super::gobuild;
use crate::progress::{say, step};
use crate::{Architecture, environment, process};

/// The Kubernetes of the test cluster. 1.34, because kubelet 1.35 refuses cgroup v1 by default.
pub const KUBERNETES: &str = "v1.34.4";
/// The newest official daprd that the module proxy serves.
pub const DAPR: &str = "v1.18.3";
/// The oldest kubectl that works with our API server.
const KUBECTL_MIN_MINOR: u32 = 30;

/// `PATH` with a folder before it in which the etcd of the scheduler's image is, unless it has one
/// already.
///
/// # Errors
/// When etcd does not compile, or the folder cannot be written.
pub fn path_with_etcd(folder: &Path) -> Result<OsString> {
    let etcd = folder.join("etcd");
    if !etcd.exists() {
        symlink(Tool::ETCD_3_5.path()?, &etcd)?;
    }
    let path = environment::var("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(folders)?)
}

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// `k8s.io/kubernetes/cmd/<name>`.
    Kubernetes,
    /// A main package of a module that builds without replace lines.
    Plain { module: &'static str, package: &'static str },
    /// A main program of ours, with a module that builds without replace lines.
    Own { module: &'static str, main: &'static str },
    /// The same as `Plain`, with the sums of modules that the checksum database does not answer for.
    Summed { module: &'static str, package: &'static str, sums: &'static str },
    /// `github.com/dapr/dapr/cmd/<command>` with the components of a build tag.
    Dapr { command: &'static str, components: &'static str },
    /// `github.com/dapr/dapr/cmd/daprd` with a component for each building block.
    Daprd,
    /// `github.com/dapr/cli`, linked against that runtime version.
    DaprCli { runtime: &'static str },
}

/// A program of the test cluster at a fixed version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) recipe: Recipe,
    /// Duration of the first build on two cores.
    pub(crate) build_seconds: u32,
}

const fn kubernetes(name: &'static str, build_seconds: u32) -> Tool {
    Tool { name, version: KUBERNETES, recipe: Recipe::Kubernetes, build_seconds }
}

const fn dapr(name: &'static str, command: &'static str, version: &'static str) -> Tool {
    let recipe = Recipe::Dapr { command, components: "stablecomponents" };
    Tool { name, version, recipe, build_seconds: 170 }
}

impl Tool {
    /// The API server.
    pub const KUBE_APISERVER: Self = kubernetes("kube-apiserver", 150);
    /// The controllers that create Pods of Deployments.
    pub const KUBE_CONTROLLER_MANAGER: Self = kubernetes("kube-controller-manager", 60);
    /// Binds Pods to the node.
    pub const KUBE_SCHEDULER: Self = kubernetes("kube-scheduler", 25);
    /// Runs Pods.
    pub const KUBELET: Self = kubernetes("kubelet", 60);
    /// Implements Service addresses.
    pub const KUBE_PROXY: Self = kubernetes("kube-proxy", 25);
    /// The command line.
    pub const KUBECTL: Self = kubernetes("kubectl", 40);
    /// The store of the API server.
    pub const ETCD: Self = Self {
        name: "etcd",
        version: "v3.6.5",
        recipe: Recipe::Plain {
            module: "go.etcd.io/etcd/server/v3",
            package: "go.etcd.io/etcd/server/v3",
        },
        build_seconds: 20,
    };
    /// The etcd of the scheduler's image. Dapr's own scheduler has a 3.5 too, so either opens the
    /// data of the other.
    pub const ETCD_3_5: Self = Self {
        name: "etcd",
        version: "v3.5.27",
        recipe: Recipe::Summed {
            module: "go.etcd.io/etcd/server/v3",
            package: "go.etcd.io/etcd/server/v3",
            sums: include_str!("etcd/v3.5.27.sum"),
        },
        build_seconds: 20,
    };
    /// The official client of etcd, for the etcd API of the scheduler.
    pub const ETCDCTL: Self = Self {
        name: "etcdctl",
        version: "v3.6.5",
        recipe: Recipe::Plain {
            module: "go.etcd.io/etcd/etcdctl/v3",
            package: "go.etcd.io/etcd/etcdctl/v3",
        },
        build_seconds: 15,
    };
    /// Installs charts.
    pub const HELM: Self = Self {
        name: "helm",
        version: "v3.21.4",
        recipe: Recipe::Plain { module: "helm.sh/helm/v3", package: "helm.sh/helm/v3/cmd/helm" },
        build_seconds: 60,
    };
    /// Cluster DNS, with the plugins that it needs.
    pub const COREDNS: Self = Self {
        name: "coredns",
        version: "v1.12.4",
        recipe: Recipe::Own {
            module: "github.com/coredns/coredns",
            main: include_str!("coredns/main.go"),
        },
        build_seconds: 60,
    };
    /// The official sidecar with its stable components and one for each building block.
    pub const DAPRD: Self =
        Self { name: "daprd", version: DAPR, recipe: Recipe::Daprd, build_seconds: 170 };
    /// The official sidecar with all components, as in its image.
    pub const DAPRD_ALL_COMPONENTS: Self = Self {
        name: "daprd-all-components",
        version: DAPR,
        recipe: Recipe::Dapr { command: "daprd", components: "allcomponents" },
        build_seconds: 600,
    };
    /// The official sidecar 1.16.
    pub const DAPRD_1_16: Self = dapr("daprd", "daprd", "v1.16.0");
    /// The official sidecar 1.15.
    pub const DAPRD_1_15: Self = dapr("daprd", "daprd", "v1.15.0");
    /// The official sidecar 1.14.
    pub const DAPRD_1_14: Self = dapr("daprd", "daprd", "v1.14.4");
    /// The reference control plane, to compare with.
    pub const REFERENCE_OPERATOR: Self = dapr("dapr-operator", "operator", DAPR);
    /// See [`Tool::REFERENCE_OPERATOR`].
    pub const REFERENCE_SENTRY: Self = dapr("dapr-sentry", "sentry", DAPR);
    /// See [`Tool::REFERENCE_OPERATOR`].
    pub const REFERENCE_INJECTOR: Self = dapr("dapr-injector", "injector", DAPR);
    /// See [`Tool::REFERENCE_OPERATOR`].
    pub const REFERENCE_PLACEMENT: Self = dapr("dapr-placement", "placement", DAPR);
    /// See [`Tool::REFERENCE_OPERATOR`].
    pub const REFERENCE_SCHEDULER: Self = dapr("dapr-scheduler", "scheduler", DAPR);
    /// The official command line.
    pub const DAPR_CLI: Self = Self {
        name: "dapr",
        version: "v1.16.5",
        recipe: Recipe::DaprCli { runtime: "v1.16.0" },
        build_seconds: 180,
    };

    /// Pushes images to a registry without a container daemon.
    pub const CRANE: Self = Self {
        name: "crane",
        version: "v0.22.1",
        recipe: Recipe::Plain {
            module: "github.com/google/go-containerregistry",
            package: "github.com/google/go-containerregistry/cmd/crane",
        },
        build_seconds: 30,
    };

    /// Signs images and files, and verifies their signatures.
    pub const COSIGN: Self = Self {
        name: "cosign",
        version: "v3.1.3",
        recipe: Recipe::Plain {
            module: "github.com/sigstore/cosign/v3",
            package: "github.com/sigstore/cosign/v3/cmd/cosign",
        },
        build_seconds: 220,
    };

    /// Installs plugins of kubectl. The module proxy serves no newer version.
    pub const KREW: Self = Self {
        name: "krew",
        version: "v0.4.3",
        recipe: Recipe::Plain { module: "sigs.k8s.io/krew", package: "sigs.k8s.io/krew/cmd/krew" },
        build_seconds: 60,
    };

    /// Every tool, in the order in which an empty cache is filled.
    pub const ALL: [Self; 24] = [
        Self::ETCD,
        Self::KUBE_APISERVER,
        Self::KUBE_CONTROLLER_MANAGER,
        Self::KUBECTL,
        Self::DAPRD,
        Self::HELM,
        Self::KUBELET,
        Self::KUBE_SCHEDULER,
        Self::KUBE_PROXY,
        Self::COREDNS,
        Self::REFERENCE_SENTRY,
        Self::REFERENCE_OPERATOR,
        Self::REFERENCE_INJECTOR,
        Self::REFERENCE_PLACEMENT,
        Self::REFERENCE_SCHEDULER,
        Self::DAPR_CLI,
        Self::CRANE,
        Self::COSIGN,
        Self::KREW,
        Self::ETCDCTL,
        Self::ETCD_3_5,
        Self::DAPRD_1_16,
        Self::DAPRD_1_15,
        Self::DAPRD_1_14,
    ];

    /// The official sidecars that a suite about compatibility runs, the newest first: this version
    /// and 1.15; 1.16 and 1.14 too when [`EVERY_SIDECAR`] is set, for each is a build of minutes.
    pub fn sidecars() -> Vec<Self> {
        let mut sidecars = vec![Self::DAPRD, Self::DAPRD_1_15];
        if environment::var(EVERY_SIDECAR).is_some() {
            sidecars.extend([Self::DAPRD_1_16, Self::DAPRD_1_14]);
        }
        sidecars
    }

    /// The tools called `name`, or the one of `name@version`.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self> {
        let (wanted, version) = name.split_once('@').map_or((name, None), |(n, v)| (n, Some(v)));
        Self::ALL
            .into_iter()
            .find(|tool| tool.name == wanted && version.is_none_or(|v| v == tool.version))
            .with_context(|| {
                let names: Vec<_> = Self::ALL.iter().map(Self::to_string).collect();
                format!("no tool {name:?}; there are {}", names.join(", "))
            })
    }

    /// The name of the program.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its version with the leading `v`.
    pub const fn version(&self) -> &'static str {
        self.version
    }

    /// The path of the program: found on this machine, in the cache, or built now (minutes, with
    /// progress lines). Two callers never build the same program twice.
    ///
    /// # Errors
    /// When it must be built and Go is missing or the build fails.
    pub fn path(&self) -> Result<PathBuf> {
        static FOUND: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        let found = found.get_or_insert_default();
        let key = self.to_string();
        if let Some(path) = found.get(&key) {
            return Ok(path.clone());
        }
        let path = match self.on_this_machine() {
            Some(path) => path,
            None => self.cached_or_built(None).with_context(|| format!("no {self} to run"))?,
        };
        found.insert(key, path.clone());
        Ok(path)
    }

    /// The program for images of that architecture, in the cache or built now.
    ///
    /// # Errors
    /// As [`Tool::path`].
    pub fn path_for(&self, architecture: Architecture) -> Result<PathBuf> {
        let foreign = (architecture != Architecture::here()?).then_some(architecture);
        self.cached_or_built(foreign)
    }

    /// The program if no build is necessary.
    pub fn find(&self) -> Option<PathBuf> {
        self.on_this_machine().or_else(|| self.cache_file(None).ok().filter(|file| file.is_file()))
    }

    /// A program that the user installed and whose version is new enough.
    fn on_this_machine(&self) -> Option<PathBuf> {
        match *self {
            Self::ETCD | Self::KUBE_APISERVER => {
                let folder = environment::var("KUBEBUILDER_ASSETS")?;
                let both = [Self::ETCD.name, Self::KUBE_APISERVER.name];
                let complete = both.iter().all(|name| Path::new(&folder).join(name).is_file());
                complete.then(|| Path::new(&folder).join(self.name))
            }
            Self::KUBECTL => environment::find_program(self.name)
                .filter(|path| kubectl_minor(path).is_some_and(|minor| minor >= KUBECTL_MIN_MINOR)),
            _ => None,
        }
    }

    /// `foreign` is the architecture when it is not this machine's.
    fn cache_file(&self, foreign: Option<Architecture>) -> Result<PathBuf> {
        // A program that was built from other components stays where it is.
        let components = if self.recipe == Recipe::Daprd { "+lock.redis" } else { "" };
        let suffix = foreign.map(|architecture| format!("-{}", architecture.name()));
        let suffix = suffix.unwrap_or_default();
        let file = format!("{}-{}{components}{suffix}", self.name, self.version);
        Ok(environment::cache()?.join("bin").join(file))
    }

    fn cached_or_built(&self, foreign: Option<Architecture>) -> Result<PathBuf> {
        let file = self.cache_file(foreign)?;
        if file.is_file() {
            return Ok(file);
        }
        let (_lock, waited) = lock(&environment::cache()?.join("locks"), &self.to_string())?;
        if waited && file.is_file() {
            return Ok(file); // another process built it meanwhile
        }
        let what = format!("build {self} (first time only, about {} s)", self.build_seconds);
        step(&what, || gobuild::build(self, &file, foreign))?;
        Ok(file)
    }
}

impl std::fmt::Display for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// The variable that makes [`Tool::sidecars`] return all of them; `cargo xtask test
/// --every-sidecar` sets it.
pub const EVERY_SIDECAR: &str = "TRILBY_EVERY_SIDECAR";

/// Takes the lock of that name, held until the file is dropped; returns whether it had to wait.
pub(crate) fn lock(folder: &Path, name: &str) -> Result<(File, bool)> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let waited = file.try_lock().is_err();
    if waited {
        say(format_args!("another process builds {name}, waiting for it"));
        file.lock().with_context(|| format!("lock {}", path.display()))?;
    }
    Ok((file, waited))
}

/// The minor version of a kubectl, `None` when it does not report one.
fn kubectl_minor(kubectl: &Path) -> Option<u32> {
    let answer = process::output(Command::new(kubectl).args(["version", "--client", "-o", "json"]));
    let answer: serde_json::Value = serde_json::from_str(&answer.ok()?).ok()?;
    let minor = answer.pointer("/clientVersion/minor")?.as_str()?;
    minor.trim_end_matches('+').parse().ok()
}

/// Builds or finds each of the tools.
///
/// # Errors
/// As [`Tool::path`], after the others have been tried.
pub fn provide(tools: &[Tool]) -> Result<()> {
    let failed: Vec<String> = tools
        .iter()
        .filter_map(|tool| tool.path().err().map(|error| format!("{error:#}")))
        .collect();
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_found_by_name_and_version() {
        assert_eq!(Tool::parse("daprd").unwrap(), Tool::DAPRD);
        assert_eq!(Tool::parse("daprd@v1.14.4").unwrap(), Tool::DAPRD_1_14);
        let error = Tool::parse("minikube").unwrap_err().to_string();
        assert!(error.contains("etcd@v3.6.5"), "{error}");
    }

    #[test]
    fn no_two_tools_share_a_cache_file() {
        let mut names: Vec<_> = Tool::ALL.iter().map(Tool::to_string).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), Tool::ALL.len());
    }
}

//! Flags and the checked configuration.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use runtime::{ProcessFlags, environment};

/// Longest base path in bytes: proxies use a word or two.
const MAX_BASE_PATH_BYTES: usize = 256;

/// Default port of the health endpoint.
const HEALTH_PORT: u16 = 8081;
/// Name of the folder that `dapr init` creates (Dapr CLI 1.16).
const INSTALLATION: &str = ".dapr";

/// The command line.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "dashboard",
    about = "Shows applications, sidecars, resources and the control plane; changes nothing",
    args_override_self = true,
    mut_arg("healthz_port", |arg| arg.default_value("8081"))
)]
pub struct Flags {
    /// Logs, health, metrics.
    #[command(flatten)]
    process: ProcessFlags,
    /// Where applications run: kubernetes, or standalone for the processes of this machine, which
    /// `dapr dashboard` shows [default: kubernetes in a pod or with --kubeconfig, else standalone]
    #[arg(long, value_name = "MODE")]
    pub mode: Option<Mode>,
    /// Port of the pages
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub port: u16,
    /// Loopback address that the pages listen on. Others are refused: the pages have no login, and
    /// a port-forward is authorised by the API server
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub address: IpAddr,
    /// Namespace of the control plane [default: `$NAMESPACE`, else dapr-system]
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Path below which a proxy serves the pages, such as /dapr
    #[arg(long, default_value = "", value_name = "PATH", hide_default_value = true)]
    pub base_path: String,
    /// Host names that requests may ask for, beside localhost and loopback addresses, separated by
    /// commas: those of a proxy
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
    pub allowed_hosts: Vec<String>,
    /// Authorisation: none shows the same to all users of the pages; token requires a user's bearer
    /// token in each request, as a proxy with a login sends it, and shows what that user may list
    #[arg(long, default_value = "none", value_name = "MODE")]
    pub auth: Auth,
    /// Show logs of sidecars and of the control plane: needs the right to get pods/log, that of the
    /// user with --auth=token
    #[arg(long)]
    pub logs: bool,
    /// Path of a kubeconfig, for running outside of a cluster
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
}

/// Where applications run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// In a cluster.
    Kubernetes,
    /// As processes of this machine.
    Standalone,
}

/// How requests are authorised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Auth {
    /// Everyone who reaches the loopback of the pod.
    None,
    /// By the rights of the token in the header `Authorization`.
    Token,
}

/// Checked flags.
#[derive(Debug, Clone)]
pub struct Config {
    /// Port of the pages; 0 takes a free one.
    pub port: u16,
    /// A loopback address.
    pub address: IpAddr,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Empty, or a path that starts with a slash and does not end with one.
    pub base_path: String,
    /// Host names, in lower case, that requests may ask for beside those of the loopback.
    pub allowed_hosts: Vec<String>,
    /// How requests are authorised.
    pub auth: Auth,
    /// Whether logs of sidecars and of the control plane are shown.
    pub logs: bool,
    /// Where applications and objects come from.
    pub source: Source,
}

/// Where applications and objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From the API server.
    Kubernetes {
        /// Path of a kubeconfig; `None` for `KUBECONFIG`, the pod's own credentials or
        /// `$HOME/.kube/config`.
        kubeconfig: Option<PathBuf>,
    },
    /// From the processes of this machine.
    SelfHosted {
        /// Folder of the installation, `~/.dapr`.
        folder: PathBuf,
    },
}

/// Why flags cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The address is reachable from other machines.
    #[error(
        "--address {0} is not a loopback address: the pages have no login; listen on 127.0.0.1 and use `kubectl port-forward`, `dapr dashboard -k` or a proxy with a login in the same pod"
    )]
    NotLoopback(IpAddr),
    /// The base path is not a path.
    #[error(
        "--base-path {0:?} is no path: write segments of letters, digits, '-', '_' and '.', such as /dapr, of at most 256 bytes"
    )]
    BasePath(String),
    /// A flag has no meaning without a cluster.
    #[error("{0} needs a cluster: leave it out, or set --mode=kubernetes")]
    NeedsCluster(&'static str),
    /// A host name is not one.
    #[error("--allowed-hosts {0:?} is no host name: write it without scheme, port and path")]
    Host(String),
}

impl Flags {
    /// Flags of the process. Without a cluster the default ports of health and metrics are often
    /// those of other programs of this machine: health takes a free one, and there are no metrics.
    pub fn process(&self) -> ProcessFlags {
        let given = self.process.clone();
        match self.mode() {
            Mode::Kubernetes => given,
            Mode::Standalone => ProcessFlags {
                enable_metrics: false,
                healthz_port: if given.healthz_port == HEALTH_PORT {
                    0
                } else {
                    given.healthz_port
                },
                healthz_listen_address: Ipv4Addr::LOCALHOST.to_string(),
                ..given
            },
        }
    }

    fn mode(&self) -> Mode {
        let in_pod = environment::var("KUBERNETES_SERVICE_HOST").is_some();
        let by_default =
            if in_pod || self.kubeconfig.is_some() { Mode::Kubernetes } else { Mode::Standalone };
        self.mode.unwrap_or(by_default)
    }

    fn source(&self) -> Result<Source, ConfigError> {
        if self.mode() == Mode::Kubernetes {
            return Ok(Source::Kubernetes { kubeconfig: self.kubeconfig.clone() });
        }
        let needs_cluster = [
            ("--kubeconfig", self.kubeconfig.is_some()),
            ("--auth=token", self.auth == Auth::Token),
            ("--logs", self.logs),
        ];
        match needs_cluster.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(ConfigError::NeedsCluster(flag)),
            None => Ok(Source::SelfHosted { folder: installation() }),
        }
    }

    /// Checks the flags.
    ///
    /// # Errors
    /// A flag has a value that cannot be used; the text names it and what to write instead.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        if !self.address.is_loopback() {
            return Err(ConfigError::NotLoopback(self.address));
        }
        let base_path = base_path(&self.base_path)?;
        let source = self.source()?;
        let hosts = self.allowed_hosts.into_iter().filter(|host| !host.is_empty());
        let allowed_hosts = hosts.map(host).collect::<Result<_, _>>()?;
        let own = environment::var("NAMESPACE").filter(|name| !name.is_empty());
        let namespace = self.namespace.or(own).unwrap_or_else(|| "dapr-system".to_owned());
        Ok(Config {
            port: self.port,
            address: self.address,
            namespace,
            base_path,
            allowed_hosts,
            auth: self.auth,
            logs: self.logs,
            source,
        })
    }
}

/// The folder of the installation: that of this program if the CLI installed it, as
/// `FOLDER/bin/dashboard`, else `~/.dapr`.
fn installation() -> PathBuf {
    let program = std::env::current_exe().ok();
    let own = program.as_deref().and_then(|program| program.parent()?.parent());
    let own = own.filter(|folder| folder.ends_with(INSTALLATION));
    let home = || PathBuf::from(environment::var("HOME").unwrap_or_default()).join(INSTALLATION);
    own.map_or_else(home, PathBuf::from)
}

fn base_path(text: &str) -> Result<String, ConfigError> {
    let path = text.trim_end_matches('/');
    let is_segment = |segment: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !segment.is_empty() && segment.chars().all(plain) && !matches!(segment, "." | "..")
    };
    let mut segments = path.split('/');
    let usable = path.len() <= MAX_BASE_PATH_BYTES
        && (path.is_empty() || segments.next() == Some("") && segments.all(is_segment));
    if usable { Ok(path.to_owned()) } else { Err(ConfigError::BasePath(text.to_owned())) }
}

fn host(name: String) -> Result<String, ConfigError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    if name.chars().all(plain) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(ConfigError::Host(name))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use rstest::rstest;

    use super::*;

    fn config(args: &[&str]) -> Result<Config, ConfigError> {
        let words = ["dashboard"].into_iter().chain(args.iter().copied());
        Flags::try_parse_from(words).unwrap().into_config()
    }

    #[test]
    fn an_address_that_others_reach_is_refused() {
        assert!(config(&["--address", "::1"]).is_ok());
        let refused = config(&["--address", "0.0.0.0"]).unwrap_err();
        assert!(refused.to_string().contains("no login"), "{refused}");
    }

    #[rstest]
    #[case("", Some(""))]
    #[case("/", Some(""))]
    #[case("/dapr/", Some("/dapr"))]
    #[case("/a/b-1", Some("/a/b-1"))]
    #[case("dapr", None)]
    #[case("/../x", None)]
    #[case("/a//b", None)]
    #[case("/<script>", None)]
    fn a_base_path_is_a_plain_path(#[case] text: &str, #[case] want: Option<&str>) {
        assert_eq!(config(&["--base-path", text]).ok().map(|c| c.base_path).as_deref(), want);
    }

    #[test]
    fn a_base_path_has_a_limit() {
        let at = format!("/{}", "a".repeat(MAX_BASE_PATH_BYTES - 1));
        assert!(config(&["--base-path", &at]).is_ok());
        assert!(config(&["--base-path", &format!("{at}a")]).is_err());
    }

    #[test]
    fn without_a_cluster_flags_of_a_cluster_are_refused() {
        for flag in ["--logs", "--auth=token", "--kubeconfig=k"] {
            let error = config(&["--mode", "standalone", flag]).unwrap_err();
            assert!(error.to_string().contains("--mode=kubernetes"), "{error}");
        }
        let own = config(&["--mode", "standalone"]).unwrap().source;
        assert!(matches!(own, Source::SelfHosted { folder } if folder.ends_with(".dapr")));
    }

    #[test]
    fn a_kubeconfig_means_a_cluster() {
        let file = Some(PathBuf::from("k"));
        let source = config(&["--kubeconfig", "k"]).unwrap().source;
        assert_eq!(source, Source::Kubernetes { kubeconfig: file });
    }

    #[test]
    fn without_a_cluster_no_default_port_is_taken() {
        let process = |args: &[&str]| {
            let words = ["dashboard", "--mode=standalone"].into_iter().chain(args.iter().copied());
            Flags::try_parse_from(words).unwrap().process()
        };
        assert_eq!((process(&[]).healthz_port, process(&[]).enable_metrics), (0, false));
        assert_eq!(process(&["--healthz-port", "7"]).healthz_port, 7);
    }

    #[test]
    fn hosts_are_names_without_port() {
        let hosts = config(&["--allowed-hosts", "Dapr.example.com,b"]).unwrap().allowed_hosts;
        assert_eq!(hosts, ["dapr.example.com", "b"]);
        assert!(config(&["--allowed-hosts", "a:80"]).is_err());
    }

    #[test]
    fn health_does_not_take_the_port_of_the_pages() {
        let flags = Flags::try_parse_from(["dashboard"]).unwrap();
        assert_eq!((flags.port, flags.process.healthz_port), (8080, 8081));
    }
}

//! Flags as they are given, and the configuration that they mean.

use std::net::IpAddr;
use std::path::PathBuf;

use runtime::{ProcessFlags, environment};

/// Longest base path in bytes: proxies use a word or two.
const MAX_BASE_PATH_BYTES: usize = 256;

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
    pub process: ProcessFlags,
    /// Port of the pages
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub port: u16,
    /// Loopback address that the pages listen on. Others are refused: the pages have no login, and a
    /// port-forward is authorised by the API server
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
    /// Path of a kubeconfig, for running outside of a cluster
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
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
    /// Path of a kubeconfig; `None` for `KUBECONFIG`, the pod's own credentials or
    /// `$HOME/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
}

/// Why flags cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The address is reachable from other machines.
    #[error(
        "--address {0} is not a loopback address: the pages have no login; listen on 127.0.0.1 and use `kubectl port-forward`, `dapr dashboard -k` or a proxy with a login in the same pod"
    )]
    NotLoopback(IpAddr),
    /// The base path is no path.
    #[error(
        "--base-path {0:?} is no path: write segments of letters, digits, '-', '_' and '.', such as /dapr, of at most 256 bytes"
    )]
    BasePath(String),
    /// A host name is not one.
    #[error("--allowed-hosts {0:?} is no host name: write it without scheme, port and path")]
    Host(String),
}

impl Flags {
    /// Checks the flags.
    ///
    /// # Errors
    /// A flag has a value that cannot be used; the text names it and what to write instead.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        if !self.address.is_loopback() {
            return Err(ConfigError::NotLoopback(self.address));
        }
        let base_path = base_path(&self.base_path)?;
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
            kubeconfig: self.kubeconfig,
        })
    }
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

//! Command-line flags and the configuration made from them. Source: Dapr 1.18, `placement`.

use std::collections::BTreeMap;
use std::time::Duration;

use resources::annotations::is_truthy;
use runtime::flags::{go_bool, go_duration};
use runtime::{ProcessFlags, environment};
use transport::flags::{IdentityFlags, TrustDomainError};
use transport::{Keepalive, svid};

use crate::election::{Cluster, Elector};
use crate::rounds::event::Rules;

/// App id in placement's own SPIFFE id; sidecars expect it.
const APP_ID: &str = "dapr-placement";

/// Bounds of both keepalive flags.
const KEEPALIVE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// The flags of the placement process; defaults are those of Dapr 1.18.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "placement",
    about = "Distributes the tables of actor hosts to sidecars",
    args_override_self = true
)]
pub struct Flags {
    /// Logs, health, metrics.
    #[command(flatten)]
    pub process: ProcessFlags,
    /// Id of this replica; must be one of --initial-cluster
    #[arg(long, default_value = "dapr-placement-0", value_name = "ID")]
    pub id: String,
    /// All replicas, as id=host:port of their election port; more than one elect a leader
    #[arg(
        long,
        default_value = "dapr-placement-0=127.0.0.1:8201",
        value_delimiter = ',',
        value_name = "ID=ADDRESS"
    )]
    pub initial_cluster: Vec<String>,
    /// Who decides which of several replicas leads: peers, or lease for a Lease in $NAMESPACE. With
    /// lease an outage of the API server deactivates every actor
    #[arg(long, value_enum, default_value_t = LeaderElection::Peers, value_name = "WHO",
          hide_possible_values = true)]
    pub leader_election: LeaderElection,
    /// Accepted for compatibility; has no effect
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub inmem_store_enabled: bool,
    /// Accepted for compatibility; has no effect
    #[arg(long, default_value = "", value_name = "PATH", hide_default_value = true)]
    pub raft_logstore_path: String,
    /// Port that sidecars connect to
    #[arg(long, default_value_t = 50005, value_name = "PORT")]
    pub port: u16,
    /// Address that the port listens on; empty means all
    #[arg(long, default_value = "", value_name = "ADDRESS", hide_default_value = true)]
    pub listen_address: String,
    /// Serve with mTLS, with a certificate from sentry
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub tls_enabled: bool,
    /// Serve /placement/state on the health port [default: `$DAPR_PLACEMENT_METADATA_ENABLED`]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = go_bool, action = clap::ArgAction::Set)]
    pub metadata_enabled: Option<bool>,
    /// Virtual nodes per host on the ring; must be the same over the life of a cluster
    #[arg(long = "replicationFactor", default_value_t = 100, value_name = "NUMBER")]
    pub replication_factor: i64,
    /// Idle time after which a sidecar's connection is probed, 1s to 10s
    #[arg(long, default_value = "2s", value_parser = go_duration, value_name = "DURATION")]
    pub keepalive_time: Duration,
    /// Time after which a connection that does not answer is closed, 1s to 10s
    #[arg(long, default_value = "3s", value_parser = go_duration, value_name = "DURATION")]
    pub keepalive_timeout: Duration,
    /// Budget of a round; a sidecar that exceeds it is disconnected. Longer than the longest drain
    #[arg(long, default_value = "8s", value_parser = go_duration, value_name = "DURATION")]
    pub disseminate_timeout: Duration,
    /// Pause after a round that gathers changes for the next, longer while they go on, up to 500ms;
    /// 0s for none
    #[arg(long, default_value = "100ms", value_parser = go_duration, value_name = "DURATION")]
    pub disseminate_coalesce_window: Duration,
    /// Identity of this process: trust anchors, sentry's address, trust domain.
    #[command(flatten)]
    pub identity: IdentityFlags,
    /// Deprecated; accepted for the chart's sake
    #[arg(long, hide = true)]
    pub max_api_level: Option<i32>,
    /// Deprecated; accepted for the chart's sake
    #[arg(long, hide = true)]
    pub min_api_level: Option<i32>,
}

/// Value of `--leader-election`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LeaderElection {
    /// The replicas elect a leader by majority (default).
    Peers,
    /// The holder of a Lease in `$NAMESPACE` leads.
    Lease,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Id and addresses of all replicas.
    pub cluster: Cluster,
    /// gRPC bind address, empty for all.
    pub listen_address: String,
    /// gRPC port.
    pub port: u16,
    /// How to get a certificate; `None` for plain text.
    pub tls: Option<svid::Options>,
    /// Serve the state endpoint.
    pub metadata_enabled: bool,
    /// Virtual nodes per host on the hash ring, `--replicationFactor`.
    pub replication_factor: i64,
    /// HTTP/2 pings.
    pub keepalive: Keepalive,
    /// Durations of rounds.
    pub rules: Rules,
    /// Deprecated flags that were given.
    pub deprecated: Vec<&'static str>,
}

/// Why the flags are rejected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A duration of the keepalive is out of bounds.
    #[error(
        "invalid value for {flag}: value should be between 1s and 10s, got {}",
        runtime::go_duration::format(*value)
    )]
    Keepalive {
        /// Name of the flag with its dashes.
        flag: &'static str,
        /// The duration that was given.
        value: Duration,
    },
    /// `--id` is not a member of `--initial-cluster`.
    #[error("address for node {id} not found in raft peers [{}]", members.join(" "))]
    NotAMember {
        /// Value of `--id`.
        id: String,
        /// The members, as `ID=ADDRESS`.
        members: Vec<String>,
    },
    /// The trust domain is invalid.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
}

impl Flags {
    /// Process flags as placement uses them: metrics listen on `--listen-address` unless they have
    /// an address of their own.
    pub fn process(&self) -> ProcessFlags {
        let mut process = self.process.clone();
        if process.metrics_listen_address == "0.0.0.0" && !self.listen_address.is_empty() {
            process.metrics_listen_address.clone_from(&self.listen_address);
        }
        process
    }

    /// Checks the flags and adds what the environment sets.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn into_config(self) -> Result<Config, ConfigError> {
        for (flag, value) in
            [("keepalive-time", self.keepalive_time), ("keepalive-timeout", self.keepalive_timeout)]
        {
            if value < KEEPALIVE[0] || value > KEEPALIVE[1] {
                return Err(ConfigError::Keepalive { flag, value });
            }
        }
        let peers = peers(&self.initial_cluster);
        if !peers.contains_key(&self.id) {
            let members = peers.iter().map(|(id, at)| format!("{id}={at}")).collect();
            return Err(ConfigError::NotAMember { id: self.id, members });
        }
        let namespace = environment::namespace();
        let elector = match self.leader_election {
            LeaderElection::Peers => Elector::Peers,
            LeaderElection::Lease => Elector::Lease(namespace.clone()),
        };
        let deprecated =
            [("--max-api-level", self.max_api_level), ("--min-api-level", self.min_api_level)];
        Ok(Config {
            listen_address: self.listen_address.clone(),
            port: self.port,
            tls: self.tls_enabled.then(|| self.identity.options(APP_ID, namespace)).transpose()?,
            metadata_enabled: self.metadata_enabled.unwrap_or_else(|| {
                environment::var("DAPR_PLACEMENT_METADATA_ENABLED").is_some_and(|v| is_truthy(&v))
            }),
            replication_factor: self.replication_factor,
            keepalive: Keepalive { interval: self.keepalive_time, timeout: self.keepalive_timeout },
            rules: Rules {
                round_timeout: self.disseminate_timeout,
                hold_off: self.disseminate_coalesce_window,
            },
            deprecated: deprecated.iter().filter(|(_, v)| v.is_some()).map(|(n, _)| *n).collect(),
            cluster: Cluster { id: self.id, members: peers, elector },
        })
    }
}

/// The members of a cluster by id. Entries that are not `id=address` are dropped (Dapr 1.18).
fn peers(entries: &[String]) -> BTreeMap<String, String> {
    let member = |entry: &'_ String| -> Option<(usize, usize)> {
        (entry.matches('=').count() == 1).then(|| entry.find('='))?.map(|at| (at, at + 1))
    };
    entries
        .iter()
        .filter_map(|entry| {
            let (end, start) = member(entry)?;
            Some((entry.get(..end)?.trim().to_owned(), entry.get(start..)?.trim().to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use rstest::rstest;
    use transport::svid::Mode;

    use super::*;

    fn flags(args: &[&str]) -> Flags {
        Flags::try_parse_from(std::iter::once("placement").chain(args.iter().copied())).unwrap()
    }

    #[test]
    fn the_defaults_make_a_serving_replica() {
        let config = flags(&[]).into_config().unwrap();
        assert_eq!((config.cluster.id.as_str(), config.port), ("dapr-placement-0", 50005));
        assert_eq!(config.cluster.members["dapr-placement-0"], "127.0.0.1:8201");
        assert!(config.tls.is_none());
        assert_eq!(config.replication_factor, 100);
        assert_eq!(config.rules.round_timeout, Duration::from_secs(8));
        assert_eq!(config.rules.hold_off, Duration::from_millis(100));
    }

    #[rstest]
    #[case(&["--keepalive-time=999ms"],
        "invalid value for keepalive-time: value should be between 1s and 10s, got 999ms")]
    #[case(&["--keepalive-timeout=11s"],
        "invalid value for keepalive-timeout: value should be between 1s and 10s, got 11s")]
    #[case(&["--id=x"],
        "address for node x not found in raft peers [dapr-placement-0=127.0.0.1:8201]")]
    fn refuses(#[case] args: &[&str], #[case] want: &str) {
        assert_eq!(flags(args).into_config().unwrap_err().to_string(), want);
    }

    #[rstest]
    #[case(&[], Elector::Peers)]
    #[case(&["--leader-election=peers"], Elector::Peers)]
    #[case(&["--leader-election", "lease"], Elector::Lease(environment::namespace()))]
    fn leaders_are_elected_as_asked(#[case] args: &[&str], #[case] want: Elector) {
        assert_eq!(flags(args).into_config().unwrap().cluster.elector, want);
    }

    #[test]
    fn malformed_members_are_dropped() {
        let config = flags(&["--id=a", "--initial-cluster= a = h:1 ,b,c=d=e"]).into_config();
        let members = config.unwrap().cluster.members;
        assert_eq!(members, BTreeMap::from([("a".to_owned(), "h:1".to_owned())]));
    }

    #[test]
    fn members_add_up() {
        let config =
            flags(&["--id=a", "--initial-cluster=a=h:1,b=h:2", "--initial-cluster", "c=h:3"]);
        assert_eq!(config.into_config().unwrap().cluster.members.len(), 3);
    }

    #[rstest]
    #[case(&[], "0.0.0.0")]
    #[case(&["--listen-address=127.0.0.1"], "127.0.0.1")]
    #[case(&["--listen-address=127.0.0.1", "--metrics-listen-address=127.0.0.2"], "127.0.0.2")]
    fn metrics_follow_the_listen_address(#[case] args: &[&str], #[case] want: &str) {
        assert_eq!(flags(args).process().metrics_listen_address, want);
    }

    /// As the Helm chart calls it.
    #[test]
    fn takes_the_arguments_of_the_chart() {
        let config = flags(&[
            "--log-level",
            "info",
            "--metadata-enabled",
            "--replicationFactor=100",
            "--max-api-level=10",
            "--min-api-level=0",
            "--keepalive-time=2s",
            "--keepalive-timeout=3s",
            "--disseminate-timeout=8s",
            "--disseminate-coalesce-window=100ms",
            "--enable-metrics",
            "--metrics-port",
            "9090",
            "--tls-enabled",
            "--trust-domain=cluster.local",
            "--trust-anchors-file=/var/run/secrets/dapr.io/tls/ca.crt",
            "--sentry-address=dapr-sentry.dapr-system.svc.cluster.local:443",
            "--mode=kubernetes",
        ])
        .into_config()
        .unwrap();
        assert!(config.metadata_enabled);
        assert_eq!(config.deprecated, ["--max-api-level", "--min-api-level"]);
        let tls = config.tls.unwrap();
        assert_eq!((tls.app_id.as_str(), tls.mode), ("dapr-placement", Mode::Kubernetes));
        assert_eq!(tls.trust_domain.as_str(), "cluster.local");
    }

    #[test]
    fn help_and_defaults_are_as_committed() {
        let mut command = <Flags as clap::CommandFactory>::command().term_width(100);
        insta::assert_snapshot!(command.render_long_help().to_string());
    }
}

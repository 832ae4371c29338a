//! The command line of etcd.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use transport::svid::Mode;

use crate::config::{ChildEtcd, ClientPort, Config};

/// The name of the loopback addresses.
const LOCALHOST: &str = "localhost";

/// Settings of etcd in Dapr's own scheduler that have no flag.
const FIXED: [&str; 5] = [
    "--max-request-bytes=2147483647",
    "--experimental-warning-apply-duration=5s",
    "--logger=zap",
    "--log-outputs=stderr",
    "--log-level=info",
];

/// The kinds of addresses of this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    pub(super) ipv6: bool,
    pub(super) ipv6_loopback: bool,
}

/// Files for TLS between members.
#[derive(Debug, Clone, Copy)]
pub(super) struct TlsFiles<'a> {
    pub(super) certificate: &'a Path,
    pub(super) key: &'a Path,
    pub(super) anchors: &'a Path,
}

/// The inputs of etcd's arguments; etcd gets no environment.
#[derive(Debug, Clone, Copy)]
pub(super) struct CommandLine<'a> {
    pub(super) config: &'a Config,
    pub(super) child: &'a ChildEtcd,
    pub(super) machine: Machine,
}

impl CommandLine<'_> {
    pub(super) fn arguments(&self, tls: Option<TlsFiles<'_>>) -> Vec<String> {
        let own = &self.child.own;
        let cluster = self.child.peers.iter().map(|peer| format!("{}={}", peer.id, peer.url));
        let mut arguments = vec![
            format!("--name={}", own.id),
            format!("--data-dir={}", self.config.reference_dir.display()),
            format!("--initial-cluster={}", cluster.collect::<Vec<_>>().join(",")),
            format!("--initial-advertise-peer-urls={}", own.url),
            format!("--listen-peer-urls={}", self.listen_peer()),
            format!("--listen-client-urls={}", self.listen_clients()),
            format!("--advertise-client-urls={}", client_url(&self.config.client)),
        ];
        arguments.extend(self.child.tuning.iter().cloned());
        arguments.extend(FIXED.map(str::to_owned));
        if let Some(tls) = tls {
            arguments.extend([
                format!("--peer-cert-file={}", tls.certificate.display()),
                format!("--peer-key-file={}", tls.key.display()),
                format!("--peer-trusted-ca-file={}", tls.anchors.display()),
                "--peer-client-cert-auth=true".to_owned(),
                // The certificate of each member has the names of all, so the own one is in each.
                format!("--peer-cert-allowed-hostname={}", own.host()),
            ]);
        }
        arguments
    }

    /// The URL that etcd listens on for members: every address, unless the own URL names an address
    /// of this machine (Dapr 1.18).
    fn listen_peer(&self) -> String {
        let own = &self.child.own;
        let named = own.host() == LOCALHOST || address(own.host()).is_some();
        if named && self.child.mode == Mode::Standalone {
            return own.url.clone();
        }
        let scheme = if own.with_tls() { "https" } else { "http" };
        format!("{scheme}://{}:{}", every_address(self.machine), own.port())
    }

    /// Always plain text (Dapr 1.18).
    fn listen_clients(&self) -> String {
        let ClientPort { listen_address, port, .. } = &self.config.client;
        let (ipv4, ipv6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        match listen_address.as_str() {
            LOCALHOST if self.machine.ipv6_loopback => {
                format!("http://{ipv4}:{port},http://[{ipv6}]:{port}")
            }
            LOCALHOST => format!("http://{ipv4}:{port}"),
            "" | "0.0.0.0" => format!("http://{}:{port}", every_address(self.machine)),
            other => format!("http://{}:{port}", bracketed(other)),
        }
    }
}

fn every_address(machine: Machine) -> &'static str {
    if machine.ipv6 { "[::]" } else { "0.0.0.0" }
}

/// The URL of the client port on this machine.
pub(super) fn client_url(client: &ClientPort) -> String {
    let listen = address(&client.listen_address).filter(|address| !address.is_unspecified());
    let host = listen.map_or(LOCALHOST.to_owned(), |address| bracketed(&address.to_string()));
    format!("http://{host}:{}", client.port)
}

/// A host in the form of a URL.
fn bracketed(host: &str) -> String {
    match address(host) {
        Some(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    }
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use rstest::rstest;

    use super::*;
    use crate::config::{Flags, StoreConfig};

    const BOTH: Machine = Machine { ipv6: true, ipv6_loopback: true };
    const IPV4: Machine = Machine { ipv6: false, ipv6_loopback: false };

    fn config(args: &[&str]) -> Config {
        let flags = std::iter::once("scheduler").chain(args.iter().copied());
        Flags::try_parse_from(flags).unwrap().into_config().unwrap()
    }

    fn command_line(config: &Config, machine: Machine) -> CommandLine<'_> {
        match &config.store {
            StoreConfig::Own { child, .. } => CommandLine { config, child, machine },
            StoreConfig::External(_) => panic!("there is no child"),
        }
    }

    #[test]
    fn arguments_are_those_of_daprs_own_etcd() {
        let directory = Path::new("/id");
        let [certificate, key, anchors] =
            ["cert.pem", "key.pem", "ca.pem"].map(|f| directory.join(f));
        let tls = TlsFiles { certificate: &certificate, key: &key, anchors: &anchors };
        let config = config(&[
            "--id=dapr-scheduler-server-1",
            "--etcd-initial-cluster=dapr-scheduler-server-0=https://a.svc:2380,\
             dapr-scheduler-server-1=https://b.svc:2380,dapr-scheduler-server-2=https://c.svc:2380",
            "--etcd-data-dir=/data",
            "--mode=kubernetes",
            "--etcd-space-quota=16Mi",
        ]);
        insta::assert_snapshot!(command_line(&config, BOTH).arguments(Some(tls)).join("\n"));
    }

    #[rstest]
    #[case::localhost("localhost", BOTH, "http://127.0.0.1:2379,http://[::1]:2379")]
    #[case::no_ipv6("localhost", IPV4, "http://127.0.0.1:2379")]
    #[case::container("0.0.0.0", BOTH, "http://[::]:2379")]
    #[case::container_ipv4("0.0.0.0", IPV4, "http://0.0.0.0:2379")]
    #[case::empty("", BOTH, "http://[::]:2379")]
    #[case::ipv4("10.0.0.1", BOTH, "http://10.0.0.1:2379")]
    #[case::ipv6("[fd00::1]", BOTH, "http://[fd00::1]:2379")]
    fn clients(#[case] listen: &str, #[case] machine: Machine, #[case] want: &str) {
        let config = config(&["--etcd-client-listen-address", listen]);
        assert_eq!(command_line(&config, machine).listen_clients(), want);
    }

    #[rstest]
    #[case("localhost", "http://localhost:2379")]
    #[case("0.0.0.0", "http://localhost:2379")]
    #[case("::", "http://localhost:2379")]
    #[case("10.0.0.1", "http://10.0.0.1:2379")]
    #[case("fd00::1", "http://[fd00::1]:2379")]
    fn the_own_client_dials(#[case] listen: &str, #[case] want: &str) {
        assert_eq!(client_url(&config(&["--etcd-client-listen-address", listen]).client), want);
    }

    #[rstest]
    #[case("http://127.0.0.1:7", BOTH, "http://127.0.0.1:7")]
    #[case("http://localhost:7", BOTH, "http://localhost:7")]
    #[case("http://[::1]:7", BOTH, "http://[::1]:7")]
    #[case("http://host:7", BOTH, "http://[::]:7")]
    #[case("http://host:7", IPV4, "http://0.0.0.0:7")]
    fn members(#[case] url: &str, #[case] machine: Machine, #[case] want: &str) {
        let config = config(&["--id=a", &format!("--etcd-initial-cluster=a={url}")]);
        assert_eq!(command_line(&config, machine).listen_peer(), want);
    }
}

//! A simulated Internet for the CLI: a proxy that answers for every host from a folder, so that no
//! test depends on the real one or connects to it.

use std::fs;
use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use blackbox::{DaprCli, Scratch, chart_repo, environment, reference, web};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use testkit::ca::{Ca, SvidOptions};

/// Hosts of charts, definitions and version lists, which the CLI uses whatever its flags are.
const HOSTS: [&str; 4] =
    ["api.github.com", "charts.bitnami.com", "openzipkin.github.io", "raw.githubusercontent.com"];
/// The releases of Dapr's dashboard, of which the last is 0.15.0.
const DASHBOARDS: (&str, &str) =
    ("api.github.com/repos/dapr/dashboard/releases", r#"[{"tag_name": "v0.15.0"}]"#);

/// A running proxy; files of `https://<host>/<path>` are at `<folder>/<host>/<path>`.
pub(crate) struct Internet {
    proxy: String,
    authorities: PathBuf,
    folder: Scratch,
}

impl Internet {
    /// A proxy that serves only a dashboard, in that network namespace.
    pub(crate) fn start(network: Option<&Path>) -> Result<Self> {
        let folder = Scratch::new("internet")?;
        let ca = Ca::new();
        let names = HOSTS.map(str::to_owned).to_vec();
        let server = ca.svid_with(
            "web",
            "server",
            &SvidOptions { dns_names: names, ..SvidOptions::default() },
        );
        let chain = server.chain.certs().to_vec();
        let key = PrivatePkcs8KeyDer::from(server.key.pkcs8_der().to_vec());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key.into())?;
        let (config, root) = (Arc::new(config), folder.path().to_path_buf());
        let proxy = web::listen(network, move |client| tunnel(client, &config, &root))?;
        folder.write(DASHBOARDS.0, DASHBOARDS.1)?;
        let authorities = folder.write("authorities.pem", &ca.pem().anchors)?;
        Ok(Self { proxy: format!("http://{proxy}"), authorities, folder })
    }

    /// The CLI with this Internet only.
    pub(crate) fn seen_by(&self, cli: DaprCli) -> DaprCli {
        cli.env("HTTPS_PROXY", &self.proxy)
            .env("NO_PROXY", "10.89.0.1") // a node cluster's API server; loopback never has a proxy
            .env("SSL_CERT_FILE", self.authorities.to_string_lossy())
    }

    /// The charts that `dapr init -k --dev` installs besides the control plane: they have the names
    /// of the public ones, and the parts that the CLI and its Components need.
    pub(crate) fn with_development_charts(self) -> Result<Self> {
        let charts = environment::workspace().join("tests/fixtures/cli");
        chart_repo::add(&self.host("charts.bitnami.com/bitnami"), &charts.join("redis"))?;
        chart_repo::add(&self.host("openzipkin.github.io/zipkin"), &charts.join("zipkin"))?;
        Ok(self)
    }

    /// The reference's own definitions of the custom resources, at the address where the CLI
    /// fetches those of `version` (without the `v`).
    pub(crate) fn with_definitions(self, version: &str) -> Result<Self> {
        let target = format!("raw.githubusercontent.com/dapr/dapr/v{version}/charts/dapr/crds");
        let target = self.host(&target);
        fs::create_dir_all(&target)?;
        for file in fs::read_dir(reference::chart()?.join("crds"))? {
            let file = file?;
            fs::copy(file.path(), target.join(file.file_name()))?;
        }
        Ok(self)
    }

    fn host(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }
}

/// Serves one `CONNECT`: the client gets what that host would answer.
fn tunnel(client: TcpStream, config: &Arc<ServerConfig>, root: &Path) -> Result<()> {
    let mut reader = BufReader::new(client);
    let target = web::request_target(&mut reader)?;
    let (host, _) = target.split_once(':').context("CONNECT without a port")?;
    let mut client = reader.into_inner(); // the client waits for the answer
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let session = ServerConnection::new(config.clone())?;
    let mut stream = StreamOwned::new(session, client);
    web::answer(&mut stream, &root.join(host))?;
    stream.conn.send_close_notify();
    stream.flush().map_err(Into::into)
}

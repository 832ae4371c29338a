//! A standalone sentry in process, and its clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use identity::{KeyKind, PrivateKey, SpiffeId, TrustAnchors, TrustDomain};
use proto::sentry::ca_client::CaClient;
use proto::sentry::{SignCertificateRequest, SignCertificateResponse};
use runtime::Scope;
use sentry::{BundleNames, Config, ImageExtension, Mode};
use tempfile::TempDir;
use testkit::ca::Ca;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Channel;

/// A running sentry with its files.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) scope: Scope,
}

/// Runs a sentry in the scope.
pub(crate) fn spawn(listener: TcpListener, config: Config, scope: &Scope) {
    let inner = scope.clone();
    scope.spawn("sentry", async move { Ok(sentry::run_on(listener, config, inner).await?) });
}

impl Fixture {
    pub(crate) async fn start(settings: &str, ca: Option<&Ca>) -> Self {
        Self::start_with(settings, ca, |_| ()).await
    }

    /// As [`Self::start`], with a changed configuration.
    pub(crate) async fn start_with(
        settings: &str,
        ca: Option<&Ca>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.yaml"), settings).unwrap();
        if let Some(ca) = ca {
            write_ca(dir.path(), ca);
        }
        Self::run(dir, change).await
    }

    /// Stops it and starts another one on the same files.
    pub(crate) async fn restart(self, change: impl FnOnce(&mut Config)) -> Self {
        self.scope.shutdown().await.unwrap();
        Self::run(self.dir, change).await
    }

    async fn run(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let scope = Scope::for_test();
        let mut config = config(dir.path());
        change(&mut config);
        spawn(listener, config, &scope);
        let fixture = Self { dir, address, scope };
        testkit::until("sentry is ready", async || fixture.scope.is_ready()).await;
        fixture
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    pub(crate) fn anchors(&self) -> Arc<TrustAnchors> {
        Arc::new(TrustAnchors::parse_pem(self.read("ca.crt").as_bytes()).unwrap())
    }

    pub(crate) async fn client(&self) -> CaClient<Channel> {
        self.client_trusting(self.anchors()).await
    }

    pub(crate) async fn client_trusting(&self, anchors: Arc<TrustAnchors>) -> CaClient<Channel> {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/dapr-system/dapr-sentry").unwrap();
        let tls = transport::tls::anonymous_client(watch::channel(anchors).1, id).unwrap();
        CaClient::new(transport::dial(&self.address.to_string(), tls).await.unwrap())
    }

    pub(crate) async fn sign(
        &self,
        request: SignCertificateRequest,
    ) -> Result<SignCertificateResponse, tonic::Status> {
        self.client().await.sign_certificate(request).await.map(tonic::Response::into_inner)
    }

    /// The value of a metric, by the prefix of its line.
    pub(crate) fn metric(&self, line: &str) -> Option<f64> {
        let families = self.scope.metrics().gather();
        let mut text = Vec::new();
        prometheus::Encoder::encode(&prometheus::TextEncoder::new(), &families, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '))?;
        Some(found.parse().unwrap())
    }
}

pub(crate) fn config(dir: &Path) -> Config {
    Config {
        mode: Mode::Standalone { configuration: dir.join("config.yaml") },
        namespace: "dapr-system".to_owned(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        bundle: BundleNames {
            anchors: dir.join("ca.crt"),
            issuer_chain: dir.join("issuer.crt"),
            issuer_key: dir.join("issuer.key"),
        },
        ca_key_kind: KeyKind::EcdsaP256,
        ca_lifetime: identity::SELF_SIGNED_LIFETIME,
        ca_rotate_at: 33,
        ca_keep_retired: Duration::ZERO,
        listen_address: String::new(),
        port: 0,
        image_extension: ImageExtension::Enabled,
        jwt: None,
        oidc: None,
    }
}

pub(crate) fn write_ca(dir: &Path, ca: &Ca) {
    std::fs::write(dir.join("issuer.key"), ca.pem().issuer_key.as_bytes()).unwrap();
    std::fs::write(dir.join("issuer.crt"), &ca.pem().issuer_chain).unwrap();
    std::fs::write(dir.join("ca.crt"), &ca.pem().anchors).unwrap();
}

pub(crate) fn request(kind: KeyKind) -> SignCertificateRequest {
    let key = PrivateKey::generate(kind).unwrap();
    SignCertificateRequest {
        id: "cart".to_owned(),
        namespace: "shop".to_owned(),
        certificate_signing_request: identity::csr_pem(&key).unwrap().into_bytes(),
        ..SignCertificateRequest::default()
    }
}

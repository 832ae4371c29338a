//! Scenario `sentry-sign`: certificates for sidecars, with each of the three ways to prove an
//! identity.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use blackbox::Service;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use identity::{JwtAlgorithm, JwtClaims, JwtSigner, KeyKind, PrivateKey, SpiffeId, TrustAnchors};
use proto::sentry::SignCertificateRequest;
use proto::sentry::ca_client::CaClient;
use proto::sentry::sign_certificate_request::TokenValidator;
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Channel;

use crate::clients::cluster::ApiServer;
use crate::clients::load::{self, Caller, Outcome};
use crate::environment::authority::Authority;
use crate::environment::programs::Programs;
use crate::environment::test_env::{NAMESPACE, Running, TRUST_DOMAIN, TestEnv};
use crate::environment::usage::milliseconds;
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};
use crate::target::Target;

/// Namespaces that the sidecars are spread over.
const NAMESPACES: usize = 10;
/// Concurrent sidecars in the steady loads.
const CONCURRENT: usize = 8;
/// Rate at which the latency is reported, and its number of connections.
const PER_SECOND: f64 = 1000.0;
const CONNECTIONS: usize = 64;
/// Concurrent requests while pods and tokens are created.
const PARALLEL: usize = 32;
/// Time limit, number and pause of a sidecar's attempts (Dapr 1.18).
const ATTEMPT: Duration = Duration::from_secs(3);
const ATTEMPTS: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(50);

/// Settings of a sentry without token validators.
pub(super) const NO_VALIDATORS: &str = "kind: Configuration\n";

/// Latency and cost of certificates.
#[derive(Debug)]
pub struct SentrySign;

struct Signing {
    env: TestEnv,
    programs: Programs,
    /// One request of each sidecar of the cluster, with its own pod, token and key.
    sidecars: Vec<SignCertificateRequest>,
    provider: Provider,
    times: Times,
}

/// Durations of the steady loads.
#[derive(Clone, Copy)]
struct Times {
    warm_up: Duration,
    measured: Duration,
}

impl Times {
    fn of(size: Size) -> Self {
        Self {
            warm_up: size.pick(Duration::from_secs(2), Duration::from_millis(500)),
            measured: size.pick(Duration::from_secs(10), Duration::from_secs(2)),
        }
    }
}

impl Scenario for SentrySign {
    fn description(&self) -> Description {
        Description {
            name: "sentry-sign",
            about: "Certificates from a P-256 chain. Kubernetes: real pods, tokens and \
                 TokenReviews, 8 sidecars at a time and then 2,000 at once, each with its own key, \
                 token and connection, trying as daprd does. Insecure and jwks: 8 clients that \
                 keep their connections, as fast as they are answered after 2 s that do not count; \
                 then, without tokens, 1,000 requests/s whatever the answers do",
            services: &[Service::Sentry],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let env = TestEnv::start(programs)?;
        let count = size.pick(2000, 200);
        let sidecars = load::runtime()?.block_on(sidecars(&env, count))?;
        let provider = Provider::new(env.folder())?;
        let programs = programs.clone();
        Ok(Box::new(Signing { env, programs, sidecars, provider, times: Times::of(size) }))
    }

    /// Clients without a token: a self-hosted sentry without token validators answers them.
    fn load(&self, target: &Target) -> Result<Vec<Reading>> {
        let dial = Dial::new(target.address.clone(), &target.authority()?)?;
        let request = request("public", "bench", TokenValidator::Insecure)?;
        let times = Times::of(target.size());
        let outcome = load::runtime()?.block_on(async {
            load::closed(dial.kept(&request, CONCURRENT).await?, times.warm_up, times.measured)
                .await
        })?;
        report_errors("insecure", &outcome);
        Ok(outcome.readings("insecure"))
    }
}

impl Prepared for Signing {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let mut readings = self.kubernetes(side)?;
        for (what, settings, request) in [
            (
                "insecure",
                NO_VALIDATORS.to_owned(),
                self.provider.request(TokenValidator::Insecure)?,
            ),
            ("jwks", self.provider.settings(), self.provider.request(TokenValidator::Jwks)?),
        ] {
            let sentry = self.env.standalone_sentry(&self.programs, side, what, &settings)?;
            let dial = Dial::new(sentry.address(), &self.env.authority()?)?;
            let outcome = load::runtime()?.block_on(async {
                let callers = dial.kept(&request, CONCURRENT).await?;
                load::closed(callers, self.times.warm_up, Duration::ZERO).await?;
                let callers = dial.kept(&request, CONCURRENT).await?;
                let steady = async |time| load::closed(callers, Duration::ZERO, time).await;
                let mut readings = self.measure(&sentry, what, steady).await?;
                if what == "insecure" {
                    readings.extend(self.at_a_rate(&dial, &request).await?);
                }
                anyhow::Ok(readings)
            })?;
            readings.extend(outcome);
            sentry.stop()?;
        }
        Ok(readings)
    }
}

impl Signing {
    fn kubernetes(&self, side: Side) -> Result<Vec<Reading>> {
        let start = self.env.service(&self.programs, side, Service::Sentry, &[])?;
        let (sentry, _) = start.ready()?;
        let bundle = self.env.api().get(&["configmap", "dapr-trust-bundle", "-n", NAMESPACE])?;
        let anchors = bundle.pointer("/data/ca.crt").and_then(Value::as_str);
        let anchors = anchors.context("no published anchors")?.to_owned();
        let dial = Dial::new(sentry.address(), &Authority { anchors, ..self.env.authority()? })?;
        let readings = load::runtime()?.block_on(async {
            // Each caller has its share of the sidecars and takes one after the other.
            let share = self.sidecars.len() / CONCURRENT;
            let shares = self.sidecars.chunks(share.max(1)).take(CONCURRENT);
            let callers =
                shares.map(|sidecars| Cluster::new(&dial, sidecars, Attempts::One)).collect();
            let mut readings = self
                .measure(&sentry, "kubernetes", async |time| {
                    load::closed(callers, Duration::ZERO, time).await
                })
                .await?;
            let cold =
                |request| Cluster::new(&dial, std::slice::from_ref(request), Attempts::Daprd);
            let outcome = load::once(self.sidecars.iter().map(cold).collect()).await?;
            let what = format!("cold start of {}", self.sidecars.len());
            let reading =
                |metric: &str, unit, value| Reading::new(format!("{what}: {metric}"), unit, value);
            readings.push(reading("refused", Unit::Count, count(outcome.failed())));
            readings.push(reading(
                "all answered",
                Unit::Milliseconds,
                milliseconds(outcome.elapsed()),
            ));
            anyhow::Ok(readings)
        })?;
        sentry.stop()?;
        Ok(readings)
    }

    /// Latencies and errors of requests at a given rate.
    async fn at_a_rate(
        &self,
        dial: &Dial,
        request: &SignCertificateRequest,
    ) -> Result<Vec<Reading>> {
        let callers = dial.kept(request, CONNECTIONS).await?;
        let outcome = load::open(callers, PER_SECOND, self.times.measured).await?;
        let what = format!("{PER_SECOND} requests/s");
        report_errors(&what, &outcome);
        Ok(outcome.readings(&what).into_iter().skip(1).collect()) // its rate is given
    }

    /// Rate, latencies and errors of a load, and what it cost the sentry.
    async fn measure(
        &self,
        sentry: &Running,
        what: &str,
        load: impl AsyncFnOnce(Duration) -> Result<Outcome>,
    ) -> Result<Vec<Reading>> {
        let before = sentry.cpu()?;
        let outcome = load(self.times.measured).await?;
        let used = sentry.cpu()?.saturating_sub(before);
        let mut readings = outcome.readings(what);
        let each = milliseconds(used) / count(outcome.answered()).max(1.0);
        readings.push(Reading::new(
            format!("{what}: each certificate"),
            Unit::CpuMilliseconds,
            each,
        ));
        report_errors(what, &outcome);
        Ok(readings)
    }
}

fn report_errors(what: &str, outcome: &Outcome) {
    for (reason, times) in outcome.errors() {
        eprintln!("{what}: {times} x {reason}");
    }
}

#[expect(clippy::cast_precision_loss, reason = "thousands")]
fn count(number: u64) -> f64 {
    number as f64
}

/// How to connect to a sentry.
#[derive(Clone)]
pub(super) struct Dial {
    address: String,
    id: SpiffeId,
    anchors: Arc<TrustAnchors>,
}

impl Dial {
    pub(super) fn new(address: String, authority: &Authority) -> Result<Self> {
        let anchors = Arc::new(TrustAnchors::parse_pem(authority.anchors.as_bytes())?);
        Ok(Self { address, id: authority.part("dapr-sentry")?, anchors })
    }

    /// Clients that keep their connections.
    pub(super) async fn kept(
        &self,
        request: &SignCertificateRequest,
        count: usize,
    ) -> Result<Vec<Kept>> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(Kept { client: self.connect().await?, request: request.clone() });
        }
        Ok(clients)
    }

    /// A new connection with a whole handshake: nothing is resumed.
    async fn connect(&self) -> Result<CaClient<Channel>> {
        Ok(CaClient::new(transport::dial(&self.address, self.tls()?).await?))
    }

    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>> {
        let anchors = watch::channel(self.anchors.clone()).1;
        Ok(transport::tls::anonymous_client(anchors, self.id.clone())?)
    }
}

/// A client that keeps its connection.
pub(super) struct Kept {
    client: CaClient<Channel>,
    request: SignCertificateRequest,
}

impl Caller for Kept {
    async fn call(&mut self) -> Result<(), String> {
        let answer = self.client.sign_certificate(self.request.clone()).await;
        answer.map(drop).map_err(|status| format!("{:?}", status.code()))
    }
}

/// How often a sidecar tries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempts {
    /// Once.
    One,
    /// As daprd does.
    Daprd,
}

/// Sidecars of the cluster, one after the other, each once and with a connection of its own: a
/// token that is used again may be cached.
pub(super) struct Cluster {
    dial: Dial,
    sidecars: Vec<SignCertificateRequest>,
    next: usize,
    attempts: Attempts,
}

impl Cluster {
    pub(super) fn new(
        dial: &Dial,
        sidecars: &[SignCertificateRequest],
        attempts: Attempts,
    ) -> Self {
        Self { dial: dial.clone(), sidecars: sidecars.to_vec(), next: 0, attempts }
    }

    async fn sign(&self, request: &SignCertificateRequest) -> Result<(), String> {
        let mut client = loop {
            match self.dial.connect().await {
                Ok(client) => break client,
                // daprd never stops dialling.
                Err(_) if self.attempts == Attempts::Daprd => tokio::time::sleep(BETWEEN).await,
                Err(e) => return Err(format!("connect: {e:#}")),
            }
        };
        let attempts = if self.attempts == Attempts::Daprd { ATTEMPTS } else { 1 };
        let mut code = Code::Unknown;
        for _ in 0..attempts {
            let call = client.sign_certificate(request.clone());
            code = match tokio::time::timeout(ATTEMPT, call).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(status)) => status.code(),
                Err(_) => Code::DeadlineExceeded,
            };
            let again = [Code::Unavailable, Code::ResourceExhausted, Code::DeadlineExceeded];
            if !again.contains(&code) {
                break;
            }
            tokio::time::sleep(BETWEEN).await;
        }
        Err(format!("{code:?}"))
    }
}

impl Caller for Cluster {
    async fn call(&mut self) -> Result<(), String> {
        let request = self.sidecars.get(self.next).ok_or("no sidecars left")?;
        self.next += 1;
        self.sign(request).await
    }

    fn is_exhausted(&self) -> bool {
        self.next >= self.sidecars.len()
    }
}

/// An identity provider: its key set is a file, its tokens are of one subject.
struct Provider {
    signer: JwtSigner,
    keys: String,
}

impl Provider {
    fn new(folder: &Path) -> Result<Self> {
        let algorithm = JwtAlgorithm::Rs256;
        let key = PrivateKey::generate_for(algorithm)?;
        let signer = JwtSigner::new(&key, algorithm, Some("bench"))?;
        let keys = folder.join("provider.json");
        let set = json!({"keys": [signer.public().to_jwk("bench", algorithm)]});
        fs::write(&keys, set.to_string())?;
        Ok(Self { signer, keys: keys.to_string_lossy().into_owned() })
    }

    fn settings(&self) -> String {
        let validator = json!({"name": "jwks", "options": {"source": self.keys}});
        json!({"spec": {"mtls": {"tokenValidators": [validator]}}}).to_string()
    }

    fn request(&self, validator: TokenValidator) -> Result<SignCertificateRequest> {
        let now = runtime::clock::now().as_second();
        let claims = JwtClaims {
            subject: "spiffe://public/ns/shop/cart".to_owned(),
            audiences: vec![format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/dapr-sentry")],
            issuer: None,
            issued_at: now,
            not_before: now,
            expires: now + 24 * 3600,
            id: "bench".to_owned(),
            usage: "sig",
        };
        let token = self.signer.sign(&claims)?;
        Ok(SignCertificateRequest { token, ..request("shop", "cart", validator)? })
    }
}

/// A request without a token, with a key of its own.
pub(super) fn request(
    namespace: &str,
    id: &str,
    validator: TokenValidator,
) -> Result<SignCertificateRequest> {
    let key = PrivateKey::generate(KeyKind::Ed25519)?;
    Ok(SignCertificateRequest {
        id: id.to_owned(),
        namespace: namespace.to_owned(),
        certificate_signing_request: identity::csr_pem(&key)?.into_bytes(),
        token_validator: validator.into(),
        ..SignCertificateRequest::default()
    })
}

/// Creates `count` pods, and the request of each with a token that is bound to it.
pub(super) async fn sidecars(env: &TestEnv, count: usize) -> Result<Vec<SignCertificateRequest>> {
    let api = ApiServer::connect(env.api().kubeconfig()).await?;
    let mut namespaces = Vec::new();
    for _ in 0..NAMESPACES {
        namespaces.push(env.api().namespace("shop")?);
    }
    let pods = (0..count).zip(namespaces.iter().cycle());
    stream::iter(pods.map(|(n, namespace)| sidecar(&api, namespace, format!("pod-{n}"))))
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

async fn sidecar(api: &ApiServer, namespace: &str, pod: String) -> Result<SignCertificateRequest> {
    let core = format!("/api/v1/namespaces/{namespace}");
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod, "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": pod}},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "app", "image": "none"}]},
    });
    api.ask(Method::POST, &format!("{core}/pods"), object).await?;
    let wanted = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": [format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/dapr-sentry")],
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod},
            "expirationSeconds": 24 * 3600,
        },
    });
    let answer =
        api.ask(Method::POST, &format!("{core}/serviceaccounts/default/token"), wanted).await?;
    let token = answer.pointer("/status/token").and_then(Value::as_str).context("no token")?;
    let token = token.to_owned();
    Ok(SignCertificateRequest { token, ..request(namespace, &pod, TokenValidator::Kubernetes)? })
}

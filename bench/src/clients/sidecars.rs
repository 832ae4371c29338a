//! Many sidecars of an operator: each with its own connection and the certificate of its app,
//! making the requests of daprd.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use identity::KeyKind;
use proto::operator::operator_client::OperatorClient;
use proto::operator::{
    ComponentUpdateRequest, ConfigurationUpdateRequest, ListComponentsRequest,
    ListResiliencyRequest,
};
use runtime::Scope;
use runtime::clock::monotonic;
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};
use tonic::transport::Channel;
use transport::anchors::AnchorSource;
use transport::svid::{self, Svid};

use crate::clients::load::Caller;
use crate::environment::authority::Authority;

/// Concurrent requests while sidecars connect or list.
const PARALLEL: usize = 8;
/// A requested stream counts as open after this time: the reference sends nothing
/// until the first event.
const OPENED: Duration = Duration::from_secs(2);
/// The limit of daprd's client (Dapr 1.18).
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Sidecars of one namespace.
pub struct Sidecars {
    /// The TLS of a connection of one of them to the operator.
    tls: Arc<ClientConfig>,
    clients: Vec<OperatorClient<Channel>>,
    namespace: String,
    scope: Scope,
}

impl Sidecars {
    /// `count` sidecars of `apps` apps, with certificates of the authority, each about to
    /// connect to the operator at `address`.
    ///
    /// # Errors
    /// When the authority gives no certificate.
    pub async fn new(
        authority: &Authority,
        address: &str,
        namespace: &str,
        apps: usize,
        count: usize,
    ) -> Result<Self> {
        let operator = authority.part("dapr-operator")?;
        let scope = Scope::for_test();
        let mut svids = Vec::new();
        for app in 0..apps {
            svids.push(certificate(authority, namespace, &app_id(app), &scope).await?);
        }
        let client = |svid: &Svid| {
            let channel = transport::channel(svid, address, operator.clone())?;
            let client = OperatorClient::new(channel);
            anyhow::Ok(client.max_decoding_message_size(MAX_ANSWER_BYTES))
        };
        let clients = svids.iter().cycle().take(count).map(client).collect::<Result<_>>()?;
        let tls = transport::tls::client(svids.first().context("no apps")?, operator.clone())?;
        Ok(Self { tls, clients, namespace: namespace.to_owned(), scope })
    }

    /// How one of them speaks TLS to the operator.
    pub fn tls(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    /// Callers that list their components again and again, one for each sidecar.
    pub fn callers(&self) -> Vec<Listing> {
        let caller = |client: &OperatorClient<Channel>| Listing {
            client: client.clone(),
            namespace: self.namespace.clone(),
        };
        self.clients.iter().map(caller).collect()
    }

    /// Number of sidecars.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The first `count` sidecars list their components, a few at a time. Returns how many
    /// components one of them got.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn list(&self, count: usize) -> Result<usize> {
        let one = |mut client: OperatorClient<Channel>| async move {
            let request = ListComponentsRequest { namespace: self.namespace.clone() };
            let answer = client.list_components(request).await.context("list components")?;
            anyhow::Ok(answer.into_inner().components.len())
        };
        let lists = stream::iter(self.clients.iter().take(count).cloned()).map(one);
        let counts: Vec<usize> = lists.buffer_unordered(PARALLEL).try_collect().await?;
        Ok(counts.into_iter().max().unwrap_or_default())
    }

    /// One sidecar watches its Configuration while the returned value lives.
    ///
    /// # Errors
    /// When there are no sidecars.
    pub async fn watch_configuration(&self) -> Result<impl Sized + use<>> {
        let mut client = self.clients.first().context("no sidecars")?.clone();
        let request = ConfigurationUpdateRequest { namespace: self.namespace.clone() };
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Ok(answer) = client.configuration_update(request).await {
                let mut events = answer.into_inner();
                while let Ok(Some(_)) = events.message().await {}
            }
        });
        sleep(OPENED).await;
        Ok(task)
    }

    /// The first `count` sidecars connect, a few at a time, and make a request that is cheap to
    /// answer.
    async fn connect(&self, count: usize) -> Result<()> {
        let one = |mut client: OperatorClient<Channel>| async move {
            let request = ListResiliencyRequest { namespace: self.namespace.clone() };
            client.list_resiliency(request).await.map(drop).context("list resiliencies")
        };
        let asked = stream::iter(self.clients.iter().take(count).cloned()).map(one);
        asked.buffer_unordered(PARALLEL).try_collect().await
    }

    /// The first `count` sidecars open their streams of component changes, each on a connection
    /// that is already in use.
    ///
    /// # Errors
    /// When one cannot connect.
    pub async fn watch_components(&self, count: usize) -> Result<Heard> {
        self.connect(count).await?;
        let (say, events) = mpsc::unbounded_channel(); // one entry per stream and change, read at once
        let mut tasks = JoinSet::new();
        for mut client in self.clients.iter().take(count).cloned() {
            let request = ComponentUpdateRequest { namespace: self.namespace.clone() };
            let say = say.clone();
            tasks.spawn(async move {
                // The reference sends not even headers before the first event.
                let Ok(answer) = client.component_update(request).await else { return };
                let mut stream = answer.into_inner();
                while let Ok(Some(event)) = stream.message().await {
                    let heard = monotonic();
                    drop(event);
                    if say.send(heard).is_err() {
                        return;
                    }
                }
            });
        }
        sleep(OPENED).await;
        Ok(Heard { events, _streams: tasks })
    }

    /// Ends the renewal of their certificates.
    ///
    /// # Errors
    /// When a task of theirs had failed.
    pub async fn close(self) -> Result<()> {
        drop(self.clients);
        Ok(self.scope.shutdown().await?)
    }
}

/// A sidecar that lists its components.
pub struct Listing {
    client: OperatorClient<Channel>,
    namespace: String,
}

impl Caller for Listing {
    async fn call(&mut self) -> Result<(), String> {
        let request = ListComponentsRequest { namespace: self.namespace.clone() };
        let answer = self.client.list_components(request).await;
        answer.map(drop).map_err(|status| format!("{:?}", status.code()))
    }
}

/// When events arrived, of all streams together.
pub struct Heard {
    events: mpsc::UnboundedReceiver<Instant>,
    _streams: JoinSet<()>,
}

impl Heard {
    /// The arrival of the next `count` events, in order of time.
    ///
    /// # Errors
    /// When they have not all arrived by `deadline`.
    pub async fn next(&mut self, count: usize, deadline: Instant) -> Result<Vec<Instant>> {
        let mut heard = Vec::with_capacity(count);
        while heard.len() < count {
            match timeout_at(deadline.into(), self.events.recv()).await {
                Ok(Some(at)) => heard.push(at),
                Ok(None) => bail!("every stream has ended"),
                Err(_) => bail!("only {} of {count} streams had the change in time", heard.len()),
            }
        }
        heard.sort_unstable();
        Ok(heard)
    }
}

/// The name of the n-th app.
pub fn app_id(app: usize) -> String {
    format!("app-{app}")
}

async fn certificate(
    authority: &Authority,
    namespace: &str,
    app: &str,
    scope: &Scope,
) -> Result<Svid> {
    let options = svid::Options {
        app_id: app.to_owned(),
        namespace: namespace.to_owned(),
        trust_domain: authority.trust_domain()?,
        control_plane_namespace: authority.namespace.clone(),
        sentry_address: authority.sentry.clone(),
        anchors: AnchorSource::Pem(authority.anchors.clone()),
        key_kind: KeyKind::Ed25519,
        mode: svid::Mode::Standalone,
    };
    Ok(svid::start(options, scope).await?)
}

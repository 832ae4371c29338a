//! Many sidecars of an operator: each with a connection of its own and the certificate of its app,
//! asking what daprd asks.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use identity::KeyKind;
use proto::operator::{
    ComponentUpdateRequest, ConfigurationUpdateRequest, ListComponentsRequest,
    ListResiliencyRequest, operator_client::OperatorClient,
};
use runtime::{Scope, clock::monotonic};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout_at},
};
use tonic::transport::Channel;
use transport::{
    anchors::AnchorSource,
    svid::{self, Svid},
};

use crate::environment::authority::Authority;

/// Requests under way at once while sidecars connect or list, as in the first figures.
const PARALLEL: usize = 8;
/// A stream that was asked for is open after this time. Nothing tells: the reference is silent
/// until the first event.
const OPENED: Duration = Duration::from_secs(2);
/// daprd raises the limit of its client no further (Dapr 1.18).
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Sidecars of one namespace.
pub struct Sidecars {
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
        Ok(Self { clients, namespace: namespace.to_owned(), scope })
    }

    /// How many there are.
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

    /// One sidecar asks for changes of its Configuration, for as long as the answer lives.
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

    /// The first `count` sidecars connect, a few at a time, and ask for something that is cheap to
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
    /// that it has used.
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
                // The reference answers not even with headers before there is an event.
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

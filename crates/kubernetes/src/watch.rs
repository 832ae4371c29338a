//! Watches that never end: they retry with back-off, wait for kinds that are installed later, and
//! list again whenever events may have been missed.
//!
//! A thin layer over `kube::runtime::watcher`, which lists, watches, handles bookmarks and lists
//! again after `410 Gone`. This layer adds:
//!
//! - A new list after an outage. An API server that broke a connection or did not answer may have
//!   been restored from a backup, and a watch from a resource version that its history does not
//!   contain yet stays silent. See [`FailureKind::Expired`].
//! - A new list after a watch that ended at once (`connection`), and after one whose resource
//!   version the API server does not confirm.
//! - Kinds that are not served yet, see [`FailureKind::NotServed`].
//! - Streamed lists where the API server supports them, pages where it does not.
//!
//! What a failure calls for is decided in `state`, without I/O.

mod connection;
mod state;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::{BoxStream, Stream, StreamExt as _};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher::{self, DefaultBackoff, watcher};
use kube::{Api, Client, Resource};
use runtime::random;
use serde::de::DeserializeOwned;

pub use state::{FailureKind, Verb, WatchFailure};
use state::{Retry, WatchState};

/// Objects per page of a list, where the API server does not stream lists.
const PAGE: u32 = 500;

/// What a watch observes. The first five variants are those of `kube::runtime::watcher::Event`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent<T> {
    /// A list begins: the first, or one that replaces everything seen so far.
    Init,
    /// An object of the list.
    InitApply(T),
    /// The list is complete. An object that it did not contain has been deleted.
    InitDone,
    /// An object was created or changed.
    Apply(T),
    /// An object was deleted. This is its last state.
    Delete(T),
    /// The list or the watch failed. It is retried when the stream is polled again.
    Failed(WatchFailure),
}

impl<T> WatchEvent<T> {
    /// Replaces the object of an event.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> WatchEvent<U> {
        match self {
            Self::Init => WatchEvent::Init,
            Self::InitApply(object) => WatchEvent::InitApply(map(object)),
            Self::InitDone => WatchEvent::InitDone,
            Self::Apply(object) => WatchEvent::Apply(map(object)),
            Self::Delete(object) => WatchEvent::Delete(map(object)),
            Self::Failed(failure) => WatchEvent::Failed(failure),
        }
    }

    /// The event with a reference to its object.
    pub fn as_ref(&self) -> WatchEvent<&T> {
        match self {
            Self::Init => WatchEvent::Init,
            Self::InitApply(object) => WatchEvent::InitApply(object),
            Self::InitDone => WatchEvent::InitDone,
            Self::Apply(object) => WatchEvent::Apply(object),
            Self::Delete(object) => WatchEvent::Delete(object),
            Self::Failed(failure) => WatchEvent::Failed(failure.clone()),
        }
    }
}

impl<K> WatchEvent<PartialObjectMeta<K>> {
    /// The event of a metadata-only watch with the bare metadata.
    pub fn metadata(self) -> WatchEvent<ObjectMeta> {
        self.map(|object| object.metadata)
    }
}

impl<T> From<watcher::Event<T>> for WatchEvent<T> {
    fn from(event: watcher::Event<T>) -> Self {
        match event {
            watcher::Event::Init => Self::Init,
            watcher::Event::InitApply(object) => Self::InitApply(object),
            watcher::Event::InitDone => Self::InitDone,
            watcher::Event::Apply(object) => Self::Apply(object),
            watcher::Event::Delete(object) => Self::Delete(object),
        }
    }
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    kind: &'static str,
    fields: Option<String>,
}

impl WatchOptions {
    /// All objects of the `Api`. `kind` names the watch in logs.
    pub fn new(kind: &'static str) -> Self {
        Self { kind, fields: None }
    }

    /// The object with this name alone. A right that is limited to the name is sufficient.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.fields = Some(format!("metadata.name={name}"));
        self
    }
}

/// How lists are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    /// Object by object (Kubernetes, streaming lists), so that memory does not grow with the list.
    Streamed,
    /// In pages of [`PAGE`] objects. Needs the right to list before that to watch.
    Paged,
}

/// Opens watches. Cheap to clone.
#[derive(Clone)]
pub struct Watcher {
    client: Client,
    lists: Lists,
    /// Cleared when the API server rejects a streamed list, as it does before Kubernetes 1.32.
    streaming: Arc<AtomicBool>,
}

impl Watcher {
    /// Watches through `client`, with streamed lists where the API server supports them.
    pub fn new(client: Client) -> Self {
        Self { client, lists: Lists::Streamed, streaming: Arc::new(AtomicBool::new(true)) }
    }

    /// As [`Watcher::new`], but always with lists in pages: for a service that may have the right
    /// to list without that to watch, and handles [`Verb::List`] and [`Verb::Watch`] differently.
    pub fn paged(client: Client) -> Self {
        Self { lists: Lists::Paged, ..Self::new(client) }
    }

    /// The client that the watches use.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Watches the objects of the `Api` that `api` makes from a client, for as long as the stream
    /// is polled. `Api<PartialObjectMeta<K>>` watches metadata alone. The stream never ends;
    /// dropping it is safe.
    pub fn watch<K, F>(
        &self,
        options: WatchOptions,
        api: F,
    ) -> impl Stream<Item = WatchEvent<K>> + Send + use<K, F>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        F: Fn(Client) -> Api<K> + Send + 'static,
    {
        let state = WatchState::new(DefaultBackoff::default());
        let running =
            Running { watcher: self.clone(), options, api, events: None, state, retry: None };
        futures::stream::unfold(running, async |mut running| {
            let event = running.next().await;
            Some((event, running))
        })
    }

    fn config(&self, options: &WatchOptions) -> watcher::Config {
        let streamed = self.lists == Lists::Streamed && self.streaming.load(Ordering::Relaxed);
        let mut config = watcher::Config::default();
        config = if streamed { config.streaming_lists() } else { config.page_size(PAGE) };
        if let Some(fields) = &options.fields {
            config = config.fields(fields);
        }
        config
    }
}

/// One watch.
struct Running<K, F> {
    watcher: Watcher,
    options: WatchOptions,
    api: F,
    /// `None` before a list.
    events: Option<BoxStream<'static, watcher::Result<watcher::Event<K>>>>,
    state: WatchState<DefaultBackoff>,
    /// What follows the failure that was returned last.
    retry: Option<Retry>,
}

impl<K, F> Running<K, F>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    F: Fn(Client) -> Api<K> + Send + 'static,
{
    async fn next(&mut self) -> WatchEvent<K> {
        if let Some(retry) = self.retry.take() {
            retry.log(self.options.kind);
            tokio::time::sleep(retry.pause).await;
            if retry.list_again {
                self.events = None;
            }
        }
        loop {
            let events = match &mut self.events {
                Some(events) => events,
                closed => closed.insert(self.watcher.open(&self.options, &self.api)),
            };
            match events.next().await {
                Some(Ok(event)) => {
                    if self.state.succeeded(matches!(event, watcher::Event::Init)) {
                        tracing::info!(kind = self.options.kind, "watch recovered");
                    }
                    return event.into();
                }
                Some(Err(error)) => {
                    let now = connection::now();
                    let retry = self.state.failed(&error, now, random::fraction());
                    return WatchEvent::Failed(self.retry.insert(retry).failure.clone());
                }
                // Not with the current library.
                None => self.events = None,
            }
        }
    }
}

impl Watcher {
    fn open<K, F>(
        &self,
        options: &WatchOptions,
        api: &F,
    ) -> BoxStream<'static, watcher::Result<watcher::Event<K>>>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        F: Fn(Client) -> Api<K>,
    {
        let client = connection::watching(&self.client, self.streaming.clone());
        watcher(api(client), self.config(options)).boxed()
    }
}

//! A channel to etcd with the user's token, and the calls made on it.

use proto::etcd::etcdserverpb::kv_client::KvClient;
use proto::etcd::etcdserverpb::watch_client::WatchClient;
use proto::etcd::etcdserverpb::{WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// Largest message in either direction. etcd limits requests itself.
const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;

/// A channel with the token that its calls carry.
#[derive(Clone)]
pub(super) struct Session {
    /// Counts sessions, so that one failure replaces a session once.
    pub(super) number: u64,
    pub(super) channel: Channel,
    pub(super) token: Option<AsciiMetadataValue>,
    /// The user has been authenticated, or etcd has no users.
    pub(super) authenticated: bool,
}

impl Session {
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    pub(super) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A stream of watches.
    pub(super) async fn watch(
        &self,
        requests: mpsc::Receiver<WatchRequest>,
    ) -> Result<Streaming<WatchResponse>, Status> {
        let mut request = self.request(ReceiverStream::new(requests));
        request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
        let client = WatchClient::new(self.channel.clone());
        let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(client.watch(request).await?.into_inner())
    }
}

//! A stream of placement orders like that of an official sidecar: on its own connection, whose
//! bytes are counted. Tables are not decoded on receipt: to decompress and decode each of thousands
//! would cost more than the measured server.

use std::convert::Infallible;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use anyhow::{Result, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use flate2::read::GzDecoder;
use futures::StreamExt as _;
use http::{Request, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::placement::{Host, PlacementTables};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use crate::clients::grpc::{FRAME_HEAD, frame};

/// Dapr 1.18, `dapr.proto.placement.v1.Placement`.
pub const METHOD: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";
/// A first message and the acknowledgements of a round.
const QUEUE: usize = 8;

/// The head of an order; the rest is not decoded.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(bytes = "bytes", tag = "1")]
    tables: Bytes,
    #[prost(string, tag = "2")]
    operation: String,
    #[prost(uint64, tag = "3")]
    version: u64,
}

/// An order of placement to a sidecar.
#[derive(Clone, Debug)]
pub enum Order {
    /// Prepare for a table of this version.
    Lock(u64),
    /// Take this table.
    Update(RawTable),
    /// Use the table.
    Unlock,
}

/// A table as received.
#[derive(Clone, Debug, Default)]
pub struct RawTable {
    message: Bytes,
    compressed: bool,
}

impl RawTable {
    /// Decodes it.
    ///
    /// # Errors
    /// When it is no table.
    pub fn decode(&self) -> Result<PlacementTables> {
        if !self.compressed {
            return Ok(PlacementTables::decode(self.message.clone())?);
        }
        let mut plain = Vec::new();
        GzDecoder::new(self.message.clone().reader()).read_to_end(&mut plain)?;
        Ok(PlacementTables::decode(Head::decode(Bytes::from(plain))?.tables)?)
    }
}

/// An open stream; its connection is closed when it is dropped.
#[derive(Debug)]
pub struct OrderStream {
    orders: Incoming,
    buffer: BytesMut,
    send: mpsc::Sender<Host>,
    // Keeps the connection usable while it lives.
    _sender: SendRequest<BoxBody<Bytes, Infallible>>,
    driver: JoinHandle<()>,
}

impl OrderStream {
    /// A stream that begins with the message `first`, or `None` if the replica at `address` refuses
    /// it. It comes from the address `source`, if there is one. `received` counts the bytes that
    /// come on the connection.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn open(
        address: &str,
        source: Option<Ipv4Addr>,
        first: Host,
        received: Arc<AtomicU64>,
    ) -> Result<Option<Self>> {
        let stream = match source {
            None => TcpStream::connect(address).await?,
            Some(source) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind((source, 0).into())?;
                socket.connect(address.parse()?).await?
            }
        };
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(Counted { stream, received });
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        #[expect(clippy::disallowed_methods, reason = "a client of the benchmark has no scope")]
        let driver = tokio::spawn(async move { drop(connection.await) });
        let (send, receive) = mpsc::channel(QUEUE);
        send.send(first).await?;
        let messages = ReceiverStream::new(receive).map(|host| Ok(Frame::data(frame(&host))));
        let request = Request::post(format!("http://{address}{METHOD}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            // Official sidecars take gzip. Source: Dapr 1.15 and 1.18, what they send.
            .header("grpc-accept-encoding", "gzip")
            .body(BodyExt::boxed(StreamBody::new(messages)))?;
        let answer = sender.send_request(request).await?;
        let refused = answer.headers().contains_key("grpc-status");
        let (orders, buffer) = (answer.into_body(), BytesMut::new());
        let stream = Self { orders, buffer, send, _sender: sender, driver };
        Ok((!refused).then_some(stream))
    }

    /// The next order; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Order> {
        loop {
            if let Some(order) = self.take().ok()? {
                return Some(order);
            }
            let frame = self.orders.frame().await?.ok()?;
            self.buffer.extend_from_slice(frame.data_ref()?);
        }
    }

    /// The first order of the buffer, if it is complete.
    fn take(&mut self) -> Result<Option<Order>> {
        let mut head = self.buffer.as_ref();
        if head.remaining() < FRAME_HEAD {
            return Ok(None);
        }
        let (compressed, length) = (head.get_u8() == 1, head.get_u32() as usize);
        if head.remaining() < length {
            return Ok(None);
        }
        let message = self.buffer.split_to(FRAME_HEAD + length).freeze().slice(FRAME_HEAD..);
        if compressed {
            // Nothing else is long enough.
            return Ok(Some(Order::Update(RawTable { message, compressed })));
        }
        let head = Head::decode(message)?;
        let known = matches!(head.operation.as_str(), "lock" | "update" | "unlock");
        ensure!(known, "unknown order {:?}", head.operation);
        Ok(Some(match head.operation.as_str() {
            "lock" => Order::Lock(head.version),
            "update" => Order::Update(RawTable { message: head.tables, compressed }),
            _ => Order::Unlock,
        }))
    }

    /// Sends a message; false when the stream has ended.
    pub async fn send(&self, message: Host) -> bool {
        self.send.send(message).await.is_ok()
    }
}

impl Drop for OrderStream {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A connection that counts what it receives.
struct Counted {
    stream: TcpStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let received = u64::try_from(buffer.filled().len() - before).unwrap_or(u64::MAX);
        self.received.fetch_add(received, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! The outgoing side of one stream: the membership task queues orders, the connection takes frames
//! when its peer has room for them. Queueing never waits, so a peer that does not read delays no other.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::rounds::encoding::Encoding;
use crate::rounds::message::Step;
use crate::rounds::outbox::{Order, Outbox};
use crate::streams::wire::{self, Format};

/// One stream's orders and its end. Shared by the membership task, the stream's task and the connection.
#[derive(Debug)]
pub(crate) struct Mailbox {
    format: Format,
    inner: Mutex<Inner>,
    written: watch::Sender<Option<(Step, u64)>>,
    ended: CancellationToken,
    gone: CancellationToken,
}

#[derive(Debug)]
struct Inner {
    outbox: Outbox,
    end: Option<Status>,
    reader: Option<Waker>,
}

impl Mailbox {
    /// An open stream; `paired` as in [`Outbox::new`].
    pub(crate) fn new(paired: bool, format: Format) -> Arc<Self> {
        Arc::new(Self {
            format,
            inner: Mutex::new(Inner { outbox: Outbox::new(paired), end: None, reader: None }),
            written: watch::Sender::new(None),
            ended: CancellationToken::new(),
            gone: CancellationToken::new(),
        })
    }

    /// Queues an order.
    pub(crate) fn push(&self, order: Order) {
        self.change(|inner| inner.outbox.push(order));
    }

    /// Ends the stream and drops its queued orders. The first reason wins.
    pub(crate) fn end(&self, status: Status) {
        self.change(|inner| {
            inner.end.get_or_insert(status);
        });
        self.ended.cancel();
    }

    fn frame(&self, order: &Order) -> Bytes {
        wire::frame(order, self.format)
    }

    /// Whether encoding the order takes little time.
    fn is_cheap(&self, order: &Order) -> bool {
        match order {
            Order::Update(table) => table.is_cheap(self.format.encoding),
            Order::Lock(_) | Order::Unlock(_) => true,
        }
    }

    /// The encoding of tables on this stream.
    pub(crate) fn encoding(&self) -> Encoding {
        self.format.encoding
    }

    /// Waits for [`Self::end`]; returns its reason.
    pub(crate) async fn ended(&self) -> Status {
        self.ended.cancelled().await;
        self.lock().end.clone().unwrap_or_else(|| Status::unknown("ended"))
    }

    /// Waits until the connection has taken everything or was dropped.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// The last order that the connection took.
    pub(crate) fn written(&self) -> watch::Receiver<Option<(Step, u64)>> {
        self.written.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        change(&mut inner);
        let waker = inner.reader.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Result<Order, Status>> {
        let mut inner = self.lock();
        if let Some(status) = &inner.end {
            return Poll::Ready(Err(status.clone()));
        }
        let Some(order) = inner.outbox.pop() else {
            inner.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        drop(inner);
        self.written.send_replace(Some((order.step(), order.version())));
        Poll::Ready(Ok(order))
    }
}

/// The response body of a stream: a frame per order, then the status as trailers.
#[derive(Debug)]
pub(crate) struct Frames {
    mailbox: Arc<Mailbox>,
    /// A table that is being encoded in another thread.
    encoding: Option<JoinHandle<Bytes>>,
    done: bool,
}

impl Frames {
    pub(crate) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self { mailbox, encoding: None, done: false }
    }
}

impl Frames {
    fn trailers(&mut self, status: &Status) -> Frame<Bytes> {
        self.done = true;
        let mut trailers = HeaderMap::new();
        // Fails only for a text that is not a header value; gRPC escapes those.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.done {
            return Poll::Ready(None);
        }
        if self.encoding.is_none() {
            match ready!(self.mailbox.poll(cx)) {
                Ok(order) if self.mailbox.is_cheap(&order) => {
                    return Poll::Ready(Some(Ok(Frame::data(self.mailbox.frame(&order)))));
                }
                Ok(order) => {
                    // Encoding a large table takes longer than an I/O thread may be kept.
                    let mailbox = self.mailbox.clone();
                    let encoding = tokio::task::spawn_blocking(move || mailbox.frame(&order));
                    self.encoding = Some(encoding);
                }
                Err(status) => return Poll::Ready(Some(Ok(self.trailers(&status)))),
            }
        }
        let Some(encoding) = &mut self.encoding else { return Poll::Pending };
        let encoded = ready!(Pin::new(encoding).poll(cx));
        self.encoding = None;
        Poll::Ready(Some(Ok(match encoded {
            Ok(frame) => Frame::data(frame),
            Err(_) => self.trailers(&Status::internal("the actor table could not be encoded")),
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.mailbox.gone.cancel();
    }
}

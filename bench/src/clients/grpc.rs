//! A minimal gRPC client in plain text: the load generator competes with the measured service for
//! the cores of the machine. Messages are encoded by the caller's types, and only
//! requested fields are decoded.

use std::convert::Infallible;

use anyhow::{Context as _, Result};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use http::{HeaderMap, Request, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// A gRPC frame begins with the compression flag and the length of its message.
pub(crate) const FRAME_HEAD: usize = 5;
/// Flow control window of a stream and of a connection, so that the peer never waits for this
/// client.
const WINDOW: u32 = 16 * 1024 * 1024;

type Body = BoxBody<Bytes, Infallible>;

/// One connection; closed on drop.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Body>,
    base: String,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nothing listens there.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        #[expect(clippy::disallowed_methods, reason = "a client of the benchmark has no scope")]
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, base: format!("http://{address}"), driver })
    }

    /// Makes a unary call of `/package.Service/Method`.
    ///
    /// # Errors
    /// The status if it is not OK, or why there is none.
    pub async fn call<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, String> {
        let body = Full::new(frame(request)).boxed();
        let answer = self.send(method, body).await.map_err(|error| error.to_string())?;
        status(answer.headers())?;
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        if let Some(trailers) = body.trailers() {
            status(trailers)?;
        }
        let mut bytes = BytesMut::from(body.to_bytes());
        let message = take_frame(&mut bytes).ok_or("no message")?;
        A::decode(message).map_err(|error| error.to_string())
    }

    /// Opens a bidirectional stream. The peer may send nothing, not even headers, before it has a
    /// message, so this returns before the peer answers.
    pub fn stream(&self, method: &str, first: &impl Message) -> Stream {
        let (send, receive) = mpsc::unbounded_channel();
        let _ = send.send(frame(first));
        let frames = UnboundedReceiverStream::new(receive).map(|bytes| Ok(Frame::data(bytes)));
        self.open_stream(method, BodyExt::boxed(StreamBody::new(frames)), send)
    }

    /// Opens a stream of answers to one request.
    pub fn answers(&self, method: &str, request: &impl Message) -> Stream {
        let (send, _) = mpsc::unbounded_channel();
        self.open_stream(method, Full::new(frame(request)).boxed(), send)
    }

    fn open_stream(&self, method: &str, body: Body, send: mpsc::UnboundedSender<Bytes>) -> Stream {
        let (mut sender, request) = (self.sender.clone(), self.request(method, body));
        let answer = async move { sender.send_request(request?).await.context("open the stream") };
        #[expect(clippy::disallowed_methods, reason = "a client of the benchmark has no scope")]
        let answer = tokio::spawn(answer);
        Stream { answer: Some(answer), body: None, buffer: BytesMut::new(), send }
    }

    async fn send(&self, method: &str, body: Body) -> Result<Response<Incoming>> {
        Ok(self.sender.clone().send_request(self.request(method, body)?).await?)
    }

    fn request(&self, method: &str, body: Body) -> Result<Request<Body>> {
        let request = Request::post(format!("{}{method}", self.base))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers");
        request.body(body).context("a request")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A bidirectional stream.
#[derive(Debug)]
pub struct Stream {
    answer: Option<JoinHandle<Result<Response<Incoming>>>>,
    body: Option<Incoming>,
    buffer: BytesMut,
    send: mpsc::UnboundedSender<Bytes>,
}

impl Stream {
    /// Waits for data and appends every complete message to `messages`; false when the stream has
    /// ended.
    pub async fn next(&mut self, messages: &mut Vec<Bytes>) -> bool {
        loop {
            while let Some(message) = take_frame(&mut self.buffer) {
                messages.push(message);
            }
            if !messages.is_empty() {
                return true;
            }
            if let Some(answer) = self.answer.take() {
                self.body = answer.await.ok().and_then(Result::ok).map(Response::into_body);
            }
            let Some(body) = &mut self.body else { return false };
            let Some(Ok(part)) = body.frame().await else { return false };
            let Some(data) = part.data_ref() else { return false };
            self.buffer.extend_from_slice(data);
        }
    }

    /// Sends frames that [`put_frame`] encoded; false when the stream has ended.
    pub fn send(&self, frames: Bytes) -> bool {
        self.send.send(frames).is_ok()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(answer) = &self.answer {
            answer.abort();
        }
    }
}

/// A message as a gRPC frame.
pub fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_HEAD + message.encoded_len());
    put_frame(message, &mut frame);
    frame.freeze()
}

/// Appends a message as a gRPC frame.
pub fn put_frame(message: &impl Message, buffer: &mut BytesMut) {
    let length = message.encoded_len();
    buffer.reserve(FRAME_HEAD + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(buffer);
}

/// The first message of the buffer, if it is complete.
fn take_frame(buffer: &mut BytesMut) -> Option<Bytes> {
    let mut head = buffer.as_ref();
    if head.remaining() < FRAME_HEAD {
        return None;
    }
    let (_compressed, length) = (head.get_u8(), head.get_u32() as usize);
    if head.remaining() < length {
        return None;
    }
    let mut message = buffer.split_to(FRAME_HEAD + length);
    message.advance(FRAME_HEAD);
    Some(message.freeze())
}

/// Fails with the status of headers or trailers if it is not OK.
fn status(headers: &HeaderMap) -> Result<(), String> {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => Err(format!("status {code} {}", text("grpc-message").unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use proto::scheduler::{DeleteByNamePrefixRequest, WatchJobsRequestResult};

    use super::*;

    #[test]
    fn frames_come_out_whole_and_in_order_however_they_are_cut() {
        let mut sent = BytesMut::new();
        for id in 1..=3 {
            put_frame(&WatchJobsRequestResult { id, status: 0 }, &mut sent);
        }
        put_frame(&DeleteByNamePrefixRequest::default(), &mut sent); // of no bytes
        let (mut buffer, mut ids) = (BytesMut::new(), Vec::new());
        for byte in sent {
            buffer.put_u8(byte);
            while let Some(message) = take_frame(&mut buffer) {
                ids.push(WatchJobsRequestResult::decode(message).unwrap().id);
            }
        }
        assert_eq!((ids, buffer.len()), (vec![1, 2, 3, 0], 0));
    }

    #[test]
    fn a_status_other_than_ok_is_an_error_with_its_text() {
        let mut headers = HeaderMap::new();
        assert_eq!(status(&headers), Ok(()));
        headers.insert("grpc-status", "0".parse().unwrap());
        assert_eq!(status(&headers), Ok(()));
        headers.insert("grpc-status", "6".parse().unwrap());
        headers.insert("grpc-message", "job already exists".parse().unwrap());
        assert_eq!(status(&headers), Err("status 6 job already exists".to_owned()));
    }
}

//! Clients that misbehave on many connections from an address of their own, and connect again when
//! they are disconnected. In a cluster they have machines of their own: here they use what service and
//! victims leave of the cores, once all connections were opened.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::{StreamExt as _, future, stream};
use http::{Request, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use runtime::random;
use rustix::process::{Pid, setpriority_process};
use rustix::thread::gettid;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;

/// The address of all attackers; victims have another.
const FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Pause before a connection is opened again, half of it more or less.
const PAUSE: Duration = Duration::from_secs(1);
/// Time until requests on opened connections have their effect.
const EFFECT: Duration = Duration::from_secs(3);
/// Interval between counts of open connections.
const POLL: Duration = Duration::from_millis(50);
/// The lowest priority of a thread. Source: setpriority(2).
const LOWEST: i32 = 19;

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// The attacked port.
#[derive(Clone)]
pub struct Door {
    /// `host:port`.
    pub address: String,
    /// How TLS is spoken, and the name of the server.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// What each connection does.
#[derive(Clone)]
pub enum Attack {
    /// Sends nothing.
    Silent,
    /// Finishes the TLS handshake and sends nothing.
    Idle,
    /// Makes requests over HTTP/2.
    Requests(Requests),
}

/// Requests over HTTP/2.
#[derive(Clone)]
pub struct Requests {
    /// The path of all.
    pub path: &'static str,
    /// The content type of all.
    pub content_type: &'static str,
    /// What is sent of the body.
    pub body: Bytes,
    /// What is not done.
    pub lacks: Lacks,
    /// Open requests of each connection.
    pub streams: usize,
}

/// What an attacker does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacks {
    /// The request never ends.
    TheEnd,
    /// The answer is not read, and the server may not send its body.
    Reading,
    /// Nothing: requests follow each other.
    Nothing,
}

/// Running attacks; they end when this is dropped.
pub struct Running {
    runtime: Option<Runtime>,
    threads: Arc<Mutex<Vec<Pid>>>,
    /// Connections that were opened, with TLS if the door has it.
    opened: Arc<AtomicUsize>,
    wanted: usize,
}

impl Running {
    /// Waits until as many connections were opened as there are attackers, or for `limit`, and then
    /// until they have their effect. From then on the attackers use what service and victims leave of
    /// the cores. Returns how many connections were opened.
    pub async fn rise(&self, limit: Duration) -> usize {
        let risen = async {
            while self.opened() < self.wanted {
                tokio::time::sleep(POLL).await;
            }
        };
        let _ = tokio::time::timeout(limit, risen).await;
        tokio::time::sleep(EFFECT).await;
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = setpriority_process(Some(*thread), LOWEST); // a thread in Linux
        }
        self.opened()
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Makes attacks on a port, each with this number of connections.
///
/// # Errors
/// When the threads cannot be started.
pub fn start(door: &Door, attacks: &[Attack], connections: usize) -> Result<Running> {
    let (threads, opened) = (Arc::<Mutex<Vec<Pid>>>::default(), Arc::<AtomicUsize>::default());
    let started = threads.clone();
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(move || {
            started.lock().unwrap_or_else(PoisonError::into_inner).push(gettid());
        })
        .build()
        .context("start the attackers")?;
    for attack in attacks.iter().flat_map(|attack| std::iter::repeat_n(attack, connections)) {
        runtime.spawn(repeat(door.clone(), attack.clone(), opened.clone()));
    }
    let wanted = attacks.len() * connections;
    Ok(Running { runtime: Some(runtime), threads, opened, wanted })
}

async fn repeat(door: Door, attack: Attack, opened: Arc<AtomicUsize>) {
    loop {
        // Disconnected or refused: that is what the server is for.
        drop(connection(&door, &attack, &opened).await);
        tokio::time::sleep(random::jittered(PAUSE, 0.5)).await;
    }
}

async fn connection(door: &Door, attack: &Attack, opened: &AtomicUsize) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((FROM, 0)))?;
    let tcp = socket.connect(door.address.parse()?).await?;
    match &door.tls {
        Some((tls, name)) if !matches!(attack, Attack::Silent) => {
            let stream = TlsConnector::from(tls.clone()).connect(name.clone(), tcp).await?;
            misbehave(&door.address, attack, stream, opened).await
        }
        _ => misbehave(&door.address, attack, tcp, opened).await,
    }
}

async fn misbehave<S>(
    address: &str,
    attack: &Attack,
    mut stream: S,
    opened: &AtomicUsize,
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    opened.fetch_add(1, Ordering::Relaxed);
    match attack {
        Attack::Silent | Attack::Idle => until_closed(&mut stream).await,
        Attack::Requests(requests) => requests.send(address, stream).await,
    }
}

async fn until_closed(stream: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

impl Requests {
    /// Makes them until the connection ends.
    async fn send<S>(&self, address: &str, stream: S) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        if self.lacks == Lacks::Reading {
            builder.initial_stream_window_size(0);
        }
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await?;
        let requests = (0..self.streams).map(|_| self.again_and_again(address, sender.clone()));
        tokio::select! {
            ended = driver => ended.context("the connection broke"),
            _ = future::join_all(requests) => Ok(()),
        }
    }

    async fn again_and_again(&self, address: &str, mut sender: SendRequest<Body>) -> Result<()> {
        loop {
            let request = Request::post(format!("https://{address}{}", self.path))
                .header(header::CONTENT_TYPE, self.content_type)
                .header(header::TE, "trailers")
                .body(self.body())?;
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            if self.lacks == Lacks::Reading {
                future::pending::<()>().await;
            }
            answer.into_body().collect().await?;
        }
    }

    fn body(&self) -> Body {
        let sent = stream::iter([Ok(Frame::data(self.body.clone()))]);
        if self.lacks == Lacks::TheEnd {
            return BodyExt::boxed(StreamBody::new(sent.chain(stream::pending())));
        }
        BodyExt::boxed(StreamBody::new(sent))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_closed_connection_is_opened_again_from_the_address_ofattackers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let attack = start(&Door { address, tls: None }, &[Attack::Silent], 1).unwrap();
        assert!(attack.rise(Duration::from_mins(1)).await >= 1);
        for _ in 0..2 {
            let (mut stream, peer) = listener.accept().await.unwrap();
            assert_eq!(peer.ip(), FROM);
            stream.shutdown().await.unwrap();
        }
    }
}

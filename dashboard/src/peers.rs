//! Asks sidecars and services of the control plane over plain HTTP, and sidecars for their
//! certificate.
//!
//! Addresses come from Pods of the API server, ports and paths are fixed: no request of a browser
//! chooses where the dashboard connects to. [`answers`] parses answers.

pub(crate) mod answers;
pub(crate) mod samples;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt as _, stream};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Collected, Empty, Limited};
use hyper_util::rt::TokioIo;
use identity::CertChain;
use runtime::clock;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Time of one question, from the connect to the last byte.
const LIMIT: Duration = Duration::from_secs(2);
/// Time of all questions about applications of a page: a sidecar that does not answer takes
/// [`LIMIT`], and there may be hundreds.
const PAGE_LIMIT: Duration = Duration::from_secs(3);
/// Questions at the same time.
const CONCURRENT: usize = 32;
/// Bytes of one answer.
const MAX_BYTES: usize = 1024 * 1024;
/// How long an answer is kept, so that a page that many users watch asks once.
const FRESH: Duration = Duration::from_secs(5);
/// Answers that are kept.
const MAX_KEPT: usize = 1_024;
/// Bytes of the answers that are kept together.
const MAX_KEPT_BYTES: usize = 8 * 1024 * 1024;

/// What an address is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// The answer to a GET of this path over plain HTTP.
    Get(&'static str),
    /// The certificate chain that the port presents in a TLS handshake: PEM, leaf first, not verified.
    Svid,
}

/// A question to an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Question {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) wanted: Wanted,
}

impl Question {
    /// For the answer to a GET of this path, to each of these addresses.
    pub(crate) fn to_each(
        addresses: impl Iterator<Item = IpAddr>,
        port: u16,
        path: &'static str,
    ) -> Vec<Self> {
        addresses.map(|address| Self { address, port, wanted: Wanted::Get(path) }).collect()
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// An address where no sidecar can be: in a cluster one of this machine, else one of another.
    #[error("{0} is no address of a sidecar")]
    Address(IpAddr),
    #[error("{address}:{port} does not answer within {} s: {reason}", LIMIT.as_secs())]
    Silent { address: IpAddr, port: u16, reason: String },
    #[error("{address}:{port} does not answer within the {} s of a page", PAGE_LIMIT.as_secs())]
    Late { address: IpAddr, port: u16 },
    #[error("{address}:{port}{path} answers {status}")]
    Status { address: IpAddr, port: u16, path: &'static str, status: u16 },
    #[error("{address}:{port}{path} answers with more than {MAX_BYTES} bytes, or breaks off")]
    Body { address: IpAddr, port: u16, path: &'static str },
}

impl AskError {
    /// Whether something answers that does not serve the path.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

/// Bodies of answers.
pub(crate) type Answer = Result<Bytes, AskError>;

/// Asks, and keeps answers for five seconds. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    slots: Arc<Semaphore>,
    kept: Arc<Mutex<Kept>>,
    reach: Reach,
}

/// Addresses that may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Addresses that a pod can have.
    Pods,
    /// Loopback addresses.
    Loopback,
}

impl Reach {
    fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Pods => is_pod_address(address),
            Self::Loopback => address.is_loopback(),
        }
    }
}

impl Peers {
    pub(crate) fn new(reach: Reach) -> Self {
        Self { slots: Arc::new(Semaphore::new(CONCURRENT)), kept: Arc::default(), reach }
    }

    /// Asks all questions at once, as far as [`CONCURRENT`] allows. Dropping the future is safe.
    pub(crate) async fn ask_all(&self, questions: Vec<Question>) -> Vec<Answer> {
        join_all(questions.into_iter().map(|question| self.ask(question))).await
    }

    /// Asks the questions of a page, [`CONCURRENT`] at once and at most for [`PAGE_LIMIT`], and
    /// reads each body as it arrives. The answers are by the same keys.
    pub(crate) async fn ask_by<K: Ord + Clone, T>(
        &self,
        questions: Vec<(K, Question)>,
        read: impl Fn(&K, Bytes) -> T,
    ) -> BTreeMap<K, Result<T, AskError>> {
        ask_in_time(questions, |question| self.ask(question), read).await
    }

    /// Asks one question, unless its answer is kept.
    pub(crate) async fn ask(&self, question: Question) -> Answer {
        if let Some(answer) = self.lock().get(&question, clock::monotonic()) {
            return answer;
        }
        let _slot = self.slots.acquire().await; // never closed
        // Another page may have asked while this one waited.
        if let Some(answer) = self.lock().get(&question, clock::monotonic()) {
            return answer;
        }
        let answer = self.fetch(&question).await;
        self.lock().put(question, answer.clone(), clock::monotonic());
        answer
    }

    async fn fetch(&self, question: &Question) -> Answer {
        let Question { address, port, wanted } = *question;
        if !self.reach.admits(address) {
            return Err(AskError::Address(address));
        }
        let silent = |reason: String| AskError::Silent { address, port, reason };
        let call = async {
            let stream = TcpStream::connect(SocketAddr::new(address, port)).await;
            let stream = stream.map_err(|e| silent(e.to_string()))?;
            let path = match wanted {
                Wanted::Get(path) => path,
                Wanted::Svid => {
                    let chain = transport::presented(stream).await;
                    let chain = CertChain::from_der(chain.map_err(|e| silent(e.to_string()))?);
                    return Ok(chain.map_err(|e| silent(e.to_string()))?.to_pem().into());
                }
            };
            let stream = TokioIo::new(stream);
            let connected = hyper::client::conn::http1::handshake(stream).await;
            let (mut sender, connection) = connected.map_err(|e| silent(e.to_string()))?;
            let host = SocketAddr::new(address, port).to_string();
            let request = Request::get(path).header(http::header::HOST, host);
            let request = request.body(Empty::<Bytes>::new()).map_err(|e| silent(e.to_string()))?;
            let answered = async {
                let answer =
                    sender.send_request(request).await.map_err(|e| silent(e.to_string()))?;
                if answer.status() != StatusCode::OK {
                    let status = answer.status().as_u16();
                    return Err(AskError::Status { address, port, path, status });
                }
                let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
                body.map(Collected::to_bytes).map_err(|_| AskError::Body { address, port, path })
            };
            // The connection makes progress only while it is polled; it ends with the answer.
            tokio::pin!(connection, answered);
            tokio::select! {
                answer = &mut answered => answer,
                _ = &mut connection => answered.await,
            }
        };
        let answer = tokio::time::timeout(LIMIT, call).await;
        answer.unwrap_or_else(|_| Err(silent("timeout".to_owned())))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Questions without an answer at [`PAGE_LIMIT`] are [`AskError::Late`]. Dropping the future is safe.
async fn ask_in_time<K: Ord + Clone, T, F: Future<Output = Answer>>(
    questions: Vec<(K, Question)>,
    ask: impl Fn(Question) -> F,
    read: impl Fn(&K, Bytes) -> T,
) -> BTreeMap<K, Result<T, AskError>> {
    let late = |&Question { address, port, .. }: &Question| AskError::Late { address, port };
    let unanswered = questions.iter().map(|(key, question)| (key.clone(), Err(late(question))));
    let mut answers: BTreeMap<_, _> = unanswered.collect();
    let asked = questions.into_iter().map(|(key, question)| {
        let answer = ask(question);
        async move { (key, answer.await) }
    });
    // A page waits for a slot with few questions, so that the next page is not behind all of them.
    let asked = stream::iter(asked).buffer_unordered(CONCURRENT);
    let mut asked = pin!(asked.take_until(tokio::time::sleep(PAGE_LIMIT)));
    while let Some((key, answer)) = asked.next().await {
        let answer = answer.map(|body| read(&key, body));
        answers.insert(key, answer);
    }
    answers
}

/// Whether a pod can have this address; the others belong to this machine or to no host.
fn is_pod_address(address: IpAddr) -> bool {
    let link_local = match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let address = address.to_canonical();
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}

/// Answers of the last five seconds.
#[derive(Debug, Default)]
struct Kept {
    answers: BTreeMap<Question, (Instant, Answer)>,
    bytes: usize,
}

impl Kept {
    fn get(&self, question: &Question, now: Instant) -> Option<Answer> {
        let (at, answer) = self.answers.get(question)?;
        (now.saturating_duration_since(*at) < FRESH).then(|| answer.clone())
    }

    /// Keeps an answer if there is room beside those that are still fresh.
    fn put(&mut self, question: Question, answer: Answer, now: Instant) {
        self.answers.retain(|_, (at, _)| now.saturating_duration_since(*at) < FRESH);
        self.answers.remove(&question);
        self.bytes = self.answers.values().map(|(_, answer)| size(answer)).sum();
        let bytes = self.bytes + size(&answer);
        if self.answers.len() < MAX_KEPT && bytes <= MAX_KEPT_BYTES {
            self.answers.insert(question, (now, answer));
            self.bytes = bytes;
        }
    }
}

fn size(answer: &Answer) -> usize {
    answer.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[rstest]
    #[case("10.0.0.1", true)]
    #[case("fd00::1", true)]
    #[case("127.0.0.1", false)]
    #[case("::1", false)]
    #[case("::ffff:127.0.0.1", false)]
    #[case("169.254.169.254", false)]
    #[case("fe80::1", false)]
    #[case("0.0.0.0", false)]
    #[case("224.0.0.1", false)]
    fn metadata_services_and_this_machine_are_never_asked(
        #[case] address: IpAddr,
        #[case] want: bool,
    ) {
        assert_eq!(is_pod_address(address), want);
    }

    fn question(port: u16) -> Question {
        Question { address: [127, 0, 0, 1].into(), port, wanted: Wanted::Get("/v1.0/metadata") }
    }

    /// Asks this many sidecars that take this long: how many answered, and after how long the page
    /// goes on, by a clock that stands while anything runs.
    async fn page(sidecars: u16, each: Duration) -> (usize, Duration) {
        let started = tokio::time::Instant::now();
        let ask = async |_| {
            tokio::time::sleep(each).await;
            Ok(Bytes::new())
        };
        let questions = (0..sidecars).map(|port| (port, question(port))).collect();
        let answers = ask_in_time(questions, ask, |_, _| ()).await;
        assert_eq!(answers.len(), usize::from(sidecars));
        let late = |answer: &Result<(), AskError>| matches!(answer, Err(AskError::Late { .. }));
        let answered = answers.values().filter(|answer| !late(answer)).count();
        (answered, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn sidecars_that_do_not_answer_hold_a_page_no_longer_than_its_limit() {
        let (tenth, moment) = (Duration::from_millis(100), Duration::from_millis(1));
        assert_eq!(page(512, tenth).await, (512, tenth * 16));
        assert_eq!(page(512, LIMIT).await, (CONCURRENT, PAGE_LIMIT));
        let in_time = PAGE_LIMIT.saturating_sub(moment);
        assert_eq!(page(1, in_time).await, (1, in_time));
        assert_eq!(page(1, PAGE_LIMIT + moment).await, (0, PAGE_LIMIT));
    }

    #[test]
    fn answers_are_kept_five_seconds() {
        let (mut kept, now) = (Kept::default(), clock::monotonic());
        kept.put(question(1), Ok(Bytes::from_static(b"a")), now);
        assert!(kept.get(&question(1), now + FRESH / 2).is_some());
        assert!(kept.get(&question(1), now + FRESH).is_none());
        kept.put(question(2), Ok(Bytes::from_static(b"b")), now + FRESH);
        assert_eq!((kept.answers.len(), kept.bytes), (1, 1));
    }

    #[test]
    fn no_more_answers_are_kept_than_the_limits_say() {
        let (mut kept, now) = (Kept::default(), clock::monotonic());
        for port in 0..=MAX_KEPT {
            kept.put(question(u16::try_from(port).unwrap()), Ok(Bytes::new()), now);
        }
        assert_eq!(kept.answers.len(), MAX_KEPT);
        let mut kept = Kept::default();
        kept.put(question(1), Ok(Bytes::from(vec![0; MAX_KEPT_BYTES])), now);
        kept.put(question(2), Ok(Bytes::from_static(b"b")), now);
        assert_eq!((kept.answers.len(), kept.bytes), (1, MAX_KEPT_BYTES));
    }

    /// Answers one request with this many bytes.
    async fn serve(head: &'static str, bytes: usize) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scope = runtime::Scope::for_test();
        scope.spawn_detached("server", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            let head = format!("HTTP/1.1 {head}\r\nContent-Length: {bytes}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let _ = stream.write_all(&vec![b'a'; bytes]).await; // it may stop reading
        });
        port
    }

    #[tokio::test]
    async fn an_answer_of_the_limit_is_read_and_one_byte_more_is_not() {
        let peers = Peers::new(Reach::Loopback);
        let at = serve("200 OK", MAX_BYTES).await;
        assert_eq!(peers.ask(question(at)).await.unwrap().len(), MAX_BYTES);
        let past = serve("200 OK", MAX_BYTES + 1).await;
        assert!(matches!(peers.ask(question(past)).await, Err(AskError::Body { .. })));
    }

    #[tokio::test]
    async fn a_failure_says_who_failed_how() {
        let peers = Peers::new(Reach::Loopback);
        let port = serve("404 Not Found", 0).await;
        let error = peers.ask(question(port)).await.unwrap_err().to_string();
        assert_eq!(error, format!("127.0.0.1:{port}/v1.0/metadata answers 404"));
        let closed = Peers::new(Reach::Pods).ask(question(port)).await.unwrap_err();
        assert_eq!(closed, AskError::Address([127, 0, 0, 1].into()));
        let far = Question { address: [10, 0, 0, 1].into(), ..question(port) };
        let error = peers.ask(far).await.unwrap_err();
        assert_eq!(error, AskError::Address([10, 0, 0, 1].into()));
    }
}

//! Connections to pods through the API server: a port of this machine that leads to the dashboard, and
//! streams to the scheduler's client port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use http::Uri;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kubernetes::api_text;
use runtime::BoxError;
use serde_json::Value;
use tokio::io::{DuplexStream, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Cluster;
use crate::facts::ReadError;
use crate::pods::text;

/// Port of the pages in the pod (chart dapr-dashboard).
const PORT: u16 = 8080;
/// Connections at the same time; a browser opens six. More wait.
const MAX_CONNECTIONS: usize = 64;

/// Why the dashboard cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum PortForwardError {
    /// Pods cannot be listed. Contains what the API server said and the remedy.
    #[error("{0}")]
    Pods(String),
    /// There is no pod of the dashboard. Contains the namespace.
    #[error(
        "no dashboard runs in namespace {0}: install it with `helm install dapr-dashboard charts/dapr-dashboard -n {0} --set global.controlPlane.registry=REGISTRY`, or name its namespace with --namespace"
    )]
    Missing(String),
    /// Its pods are not ready. Contains one of them.
    #[error("the dashboard is not ready: run `kubectl describe pod {name} -n {namespace}`")]
    NotReady {
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        name: String,
    },
    /// The local port is taken. Contains the port.
    #[error("listen on 127.0.0.1:{0}; choose another with --port")]
    Listen(u16, #[source] io::Error),
}

/// A listening port.
pub(crate) struct Forward {
    listener: TcpListener,
    address: SocketAddr,
    pods: Api<Pod>,
    pod: String,
}

impl Cluster {
    /// Finds the dashboard's pod and listens.
    pub(crate) async fn forward_to_dashboard(
        &self,
        port: u16,
    ) -> Result<Forward, PortForwardError> {
        let namespace = &self.namespace;
        let path =
            format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app%3Ddapr-dashboard");
        let listed = self.reader.list(&format!("list pods in {namespace}"), &path).await;
        let listed = listed.map_err(|error: ReadError| {
            PortForwardError::Pods(format!("{error}; {}", error.remedy()))
        })?;
        let pod = choose(namespace, &listed)?;
        let taken = |error| PortForwardError::Listen(port, error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let pods = Api::namespaced(self.reader.client(), namespace);
        Ok(Forward { listener, address, pods, pod })
    }
}

/// Pod whose client port every command of Dapr asks (Dapr 1.18).
const SCHEDULER: &str = "dapr-scheduler-server-0";
/// Port of its etcd API (Dapr 1.18).
const CLIENT_PORT: u16 = 2379;

impl Cluster {
    /// Connections to the scheduler's client port, each a port-forward of its own.
    pub(crate) fn scheduler_connector(
        &self,
    ) -> impl tower::Service<Uri, Response = TokioIo<DuplexStream>, Error = BoxError, Future: Send>
    + Send
    + 'static {
        let pods: Api<Pod> = Api::namespaced(self.reader.client(), &self.namespace);
        tower::service_fn(move |_| {
            let pods = pods.clone();
            async move {
                let answer = pods.portforward(SCHEDULER, &[CLIENT_PORT]).await;
                let mut forwarder = answer.map_err(|error| BoxError::from(api_text(&error)))?;
                let stream = forwarder.take_stream(CLIENT_PORT).ok_or("no stream")?;
                // The bytes move on without the forwarder.
                Ok(TokioIo::new(stream))
            }
        })
    }
}

/// The name of a pod that is ready.
fn choose(namespace: &str, pods: &[Value]) -> Result<String, PortForwardError> {
    let name = |pod: &Value| text(pod.pointer("/metadata/name"));
    let is_ready = |pod: &&Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        let mut conditions = conditions.into_iter().flatten();
        pod.pointer("/metadata/deletionTimestamp").is_none()
            && conditions.any(|c| text(c.get("type")) == "Ready" && text(c.get("status")) == "True")
    };
    match (pods.iter().find(is_ready), pods.first()) {
        (Some(ready), _) => Ok(name(ready)),
        (None, Some(pod)) => {
            Err(PortForwardError::NotReady { namespace: namespace.to_owned(), name: name(pod) })
        }
        (None, None) => Err(PortForwardError::Missing(namespace.to_owned())),
    }
}

impl Forward {
    /// Where a browser finds the dashboard.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards each connection; never ends by itself. A connection that fails is closed and named on
    /// standard error, and the browser opens another.
    pub(crate) async fn run(self) {
        accept(&self.listener, |stream| forward(self.pods.clone(), self.pod.clone(), stream)).await;
    }
}

/// Hands each connection to `each`, up to [`MAX_CONNECTIONS`] at the same time; never ends.
async fn accept<F>(listener: &TcpListener, each: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < MAX_CONNECTIONS => {
                if let Ok((stream, _)) = accepted {
                    open.spawn(each(stream));
                }
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn forward(pods: Api<Pod>, pod: String, mut local: TcpStream) {
    let mut forwarder = match pods.portforward(&pod, &[PORT]).await {
        Ok(forwarder) => forwarder,
        Err(error) => {
            eprintln!("daprctl: forward to pod {pod}: {}", api_text(&error));
            return;
        }
    };
    if let Some(mut remote) = forwarder.take_stream(PORT) {
        // Either side may close at any time.
        drop(copy_bidirectional(&mut local, &mut remote).await);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use tokio::io::AsyncReadExt as _;
    use tokio::sync::mpsc;

    use super::*;

    fn pod(name: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn a_pod_that_is_ready_is_chosen() {
        let pods = [pod("a", "False"), pod("b", "True")];
        assert_eq!(choose("dapr-system", &pods).unwrap(), "b");
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_for_one_to_end() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let (started, mut starts) = mpsc::unbounded_channel();
        let each = |mut stream: TcpStream| {
            let (open, started) = (open.clone(), started.clone());
            async move {
                started.send(open.fetch_add(1, Ordering::SeqCst) + 1).unwrap();
                let _ = stream.read(&mut [0]).await;
                open.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let clients = async {
            let mut clients = Vec::new();
            for _ in 0..=MAX_CONNECTIONS {
                clients.push(TcpStream::connect(address).await.unwrap());
            }
            for number in 1..=MAX_CONNECTIONS {
                assert_eq!(starts.recv().await, Some(number));
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(starts.try_recv().is_err(), "one more than the limit");
            drop(clients.swap_remove(0));
            assert_eq!(starts.recv().await, Some(MAX_CONNECTIONS), "the last one follows");
        };
        tokio::select! {
            () = accept(&listener, each) => unreachable!("it never ends"),
            () = clients => {}
        }
    }

    #[test]
    fn a_missing_dashboard_is_named_with_its_remedy() {
        let missing = choose("dapr-system", &[]).unwrap_err().to_string();
        assert!(missing.contains("helm install dapr-dashboard"), "{missing}");
        let waiting = choose("dapr-system", &[pod("a", "False")]).unwrap_err().to_string();
        assert!(waiting.contains("kubectl describe pod a -n dapr-system"), "{waiting}");
    }
}

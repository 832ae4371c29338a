//! A port of this machine that leads to the dashboard's pod, through the API server.

use std::net::{Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kubernetes::api_text;
use serde_json::Value;
use tokio::io::copy_bidirectional;
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
    Listen(u16, #[source] std::io::Error),
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
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if open.len() < MAX_CONNECTIONS => {
                    if let Ok((stream, _)) = accepted {
                        open.spawn(forward(self.pods.clone(), self.pod.clone(), stream));
                    }
                }
                Some(_) = open.join_next() => {}
            }
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
    use serde_json::json;

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

    #[test]
    fn a_missing_dashboard_is_named_with_its_remedy() {
        let missing = choose("dapr-system", &[]).unwrap_err().to_string();
        assert!(missing.contains("helm install dapr-dashboard"), "{missing}");
        let waiting = choose("dapr-system", &[pod("a", "False")]).unwrap_err().to_string();
        assert!(waiting.contains("kubectl describe pod a -n dapr-system"), "{waiting}");
    }
}

//! Reads the logs of the control plane.

use serde_json::Value;

use super::archive::Archive;
use super::contents;
use crate::cluster::Cluster;
use crate::facts::Fact;
use crate::output::words::count;

/// Lines of each log, the last ones.
const LINES: u32 = 2_000;
/// Longest line that a container runtime stores (CRI); it splits longer ones.
const LINE_BYTES: u32 = 16 << 10;
/// Upper limit of each log in the bundle.
const MAX_BYTES: usize = 1 << 20;
/// Containers whose logs are read.
const MAX_LOGS: usize = 50;

/// Adds the end of the log of each container of these pods, and says how many logs are left out.
pub(super) async fn add(cluster: &Cluster, pods: &[Value], archive: &mut Archive) {
    let containers: Vec<_> = pods.iter().flat_map(contents::containers).collect();
    for (pod, container) in containers.iter().take(MAX_LOGS) {
        let name = format!("control-plane/logs/{pod}-{container}.log");
        let about =
            format!("the last {LINES} lines of its log; lines that may hold a secret are left out");
        match cluster.log(pod, container).await {
            Ok(log) => archive.text(&name, &about, contents::log(&log, MAX_BYTES)),
            Err(error) => archive.missing(&name, &about, &error),
        }
    }
    if let Some((pod, container)) = containers.get(MAX_LOGS) {
        let about =
            format!("{} from {pod}-{container} on", count(containers.len() - MAX_LOGS, "more log"));
        let reason = format!("a bundle has {MAX_LOGS} logs; read others with `kubectl logs`");
        archive.missing("control-plane/logs", &about, &reason);
    }
}

impl Cluster {
    /// The end of a log. The API server counts the limit of bytes from the first of the lines, so it
    /// is that of whole lines: a lower one would take the newest away.
    async fn log(&self, pod: &str, container: &str) -> Fact<String> {
        let (namespace, bytes) = (self.namespace(), LINES * LINE_BYTES);
        let doing = format!("get the log of {pod}");
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods/{pod}/log?container={container}&tailLines={LINES}&limitBytes={bytes}"
        );
        self.reader().text(&doing, &path).await
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use jiff::Timestamp;
    use kube::client::Body;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// An API server whose containers all wrote this log, which it cuts as the kubelet does: first the
    /// lines, then the bytes.
    fn cluster(log: String) -> Cluster {
        let service = tower::service_fn(move |request: Request<Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let number = |name: &str| -> usize {
                let value = query.split('&').find_map(|pair| pair.strip_prefix(name));
                value.unwrap().parse().unwrap()
            };
            let lines: Vec<_> = log.split_inclusive('\n').collect();
            let end = lines.len().saturating_sub(number("tailLines="));
            let mut text = lines.get(end..).unwrap().concat();
            text.truncate(number("limitBytes="));
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::from(text.into_bytes()))))
        });
        Cluster::new(kube::Client::new(service, "default"), "dapr-system".to_owned())
    }

    fn pod(containers: usize) -> Value {
        let statuses: Vec<_> = (1..=containers).map(|n| json!({"name": format!("c{n}")})).collect();
        json!({"metadata": {"name": "p"}, "status": {"containerStatuses": statuses}})
    }

    #[tokio::test]
    async fn the_newest_lines_of_a_long_log_are_kept() {
        let mut log = format!("{}\n", "x".repeat(1023)).repeat(usize::try_from(LINES).unwrap());
        log += "the newest line\n";
        let mut archive = Archive::default();
        add(&cluster(log), &[pod(1)], &mut archive).await;
        let text = archive.get("control-plane/logs/p-c1.log").unwrap();
        assert!(text.ends_with("x\nthe newest line\n"));
        assert!(text.len() <= MAX_BYTES && text.len() > MAX_BYTES - 1024, "{}", text.len());
    }

    #[rstest]
    #[case(MAX_LOGS, None)]
    #[case(MAX_LOGS + 1, Some("1 more log from p-c51 on: a bundle has 50 logs"))]
    #[tokio::test]
    async fn logs_beyond_the_limit_are_named(
        #[case] containers: usize,
        #[case] left_out: Option<&str>,
    ) {
        let mut archive = Archive::default();
        add(&cluster("line\n".to_owned()), &[pod(containers)], &mut archive).await;
        let list = archive.contents(Timestamp::UNIX_EPOCH);
        assert_eq!(list.matches(".log (5 bytes)").count(), MAX_LOGS);
        assert_eq!(list.contains("are missing") || list.contains("is missing"), left_out.is_some());
        assert!(left_out.is_none_or(|words| list.contains(words)), "{list}");
    }
}

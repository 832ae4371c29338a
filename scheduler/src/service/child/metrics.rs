//! The metrics of etcd, through the metrics port of this process.

use std::time::Duration;

use axum::http::Uri;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use runtime::BoxError;
use runtime::metrics::MetricsSource;

/// Prefix of the families that are passed on; those about Go and gRPC are left out.
const PREFIX: &str = "etcd_";
/// Limit of an answer of etcd in bytes; one has about 100 KiB.
const MAX_BYTES: usize = 8 << 20;
/// How long a scrape waits for etcd.
const ANSWER: Duration = Duration::from_secs(3);

/// The metrics of the etcd at this address; none while it does not answer.
pub(super) fn source(client_url: &str) -> MetricsSource {
    let uri: Uri = format!("{client_url}/metrics").parse().expect("a URL with an address");
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    MetricsSource::new(move || {
        let (client, uri) = (client.clone(), uri.clone());
        let read = async move {
            let answer = client.get(uri).await?;
            let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await?;
            Ok::<_, BoxError>(String::from_utf8(body.to_bytes().into())?)
        };
        async move {
            match tokio::time::timeout(ANSWER, read).await {
                Ok(Ok(text)) => families(&text),
                Ok(Err(_)) | Err(_) => String::new(),
            }
        }
    })
}

/// The lines of the families with [`PREFIX`].
fn families(text: &str) -> String {
    let ours = |line: &&str| {
        let name = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        name.unwrap_or(line).starts_with(PREFIX)
    };
    text.lines().filter(ours).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_of_go_are_left_out() {
        let text = "# HELP go_threads etcd_\n# TYPE go_threads gauge\ngo_threads 3\n\
                    # HELP etcd_up Up\n# TYPE etcd_up gauge\netcd_up{a=\"b\"} 1\ngrpc_etcd_ 1\n";
        let want = "# HELP etcd_up Up\n# TYPE etcd_up gauge\netcd_up{a=\"b\"} 1\n";
        assert_eq!(families(text), want);
    }
}

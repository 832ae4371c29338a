//! A client of the API server: creates many objects, changes one, counts the requests it served.

use std::path::Path;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use kube::Client;
use kubernetes::Precedence;
use serde_json::{Value, json};

/// Concurrent requests while objects are created. More do not make the API server faster.
const PARALLEL: usize = 48;

/// A client of an API server, with the rights of its kubeconfig.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
}

impl ApiServer {
    /// Connects with a kubeconfig.
    ///
    /// # Errors
    /// When the file is unreadable.
    pub async fn connect(kubeconfig: &Path) -> Result<Self> {
        // Fails only if the same provider is installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = kubernetes::client(Some(kubeconfig), Precedence::Kubeconfig).await?;
        Ok(Self { client })
    }

    /// Creates all `objects` in the collection at `path`.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn create(&self, path: &str, objects: impl Iterator<Item = Value>) -> Result<()> {
        stream::iter(objects)
            .map(|object| self.send(Method::POST, path, "application/json", object))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await
    }

    /// Changes the object at `path` by JSON Merge Patch (RFC 7386).
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn merge(&self, path: &str, change: Value) -> Result<()> {
        self.send(Method::PATCH, path, "application/merge-patch+json", change).await
    }

    /// Removes the object at `path`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn remove(&self, path: &str) -> Result<()> {
        self.send(Method::DELETE, path, "application/json", json!({})).await
    }

    /// Number of requests so far that read one of `resources` (plural, in
    /// lower case); watches count when they end.
    ///
    /// # Errors
    /// When its metrics cannot be read.
    pub async fn reads(&self, resources: &[&str]) -> Result<f64> {
        self.requests(&["GET", "LIST", "WATCH"], resources).await
    }

    /// Number of requests so far of one of `verbs` about one of `resources`.
    ///
    /// # Errors
    /// When its metrics cannot be read.
    pub async fn requests(&self, verbs: &[&str], resources: &[&str]) -> Result<f64> {
        let request = Request::get("/metrics").body(Vec::new())?;
        let text = self.client.request_text(request).await.context("metrics of the API server")?;
        let wanted = |line: &&str| {
            line.starts_with("apiserver_request_total{")
                && verbs.iter().any(|v| has_label(line, "verb", v))
                && resources.iter().any(|r| has_label(line, "resource", r))
        };
        let values = text.lines().filter(wanted).filter_map(|line| line.rsplit(' ').next());
        Ok(values.filter_map(|value| value.parse::<f64>().ok()).sum())
    }

    /// Sends JSON and returns the answer.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn ask(&self, method: Method, path: &str, body: Value) -> Result<Value> {
        let text = self.request(method, path, "application/json", body).await?;
        serde_json::from_str(&text).with_context(|| path.to_owned())
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: Value) -> Result<()> {
        self.request(method, path, kind, body).await.map(drop)
    }

    async fn request(&self, method: Method, path: &str, kind: &str, body: Value) -> Result<String> {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind);
        let request = request.body(serde_json::to_vec(&body)?)?;
        self.client.request_text(request).await.with_context(|| path.to_owned())
    }
}

/// Whether a line of the Prometheus text format has a label of that value.
fn has_label(line: &str, name: &str, value: &str) -> bool {
    line.contains(&format!("{name}=\"{value}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_compared_whole() {
        let line = r#"apiserver_request_total{resource="secrets",verb="GET"} 3"#;
        assert!(has_label(line, "resource", "secrets") && has_label(line, "verb", "GET"));
        assert!(!has_label(line, "resource", "secret"));
    }
}

//! A port of the pages that another program has.
#![cfg(test)]

use std::net::TcpListener;
use std::path::Path;

use dashboard::{Auth, Config, RunError, Source};
use rstest::rstest;
use runtime::Scope;

fn config(port: u16, source: Source) -> Config {
    Config {
        port,
        address: [127, 0, 0, 1].into(),
        namespace: "dapr-system".to_owned(),
        base_path: String::new(),
        allowed_hosts: Vec::new(),
        auth: Auth::None,
        logs: false,
        source,
    }
}

/// Placement's health, which has the port that the CLI chooses, listens on all interfaces.
#[rstest]
#[case("127.0.0.1:0")]
#[case("0.0.0.0:0")]
#[tokio::test]
async fn without_a_cluster_a_port_in_use_is_passed_over(#[case] other: &str) {
    let folder = tempfile::tempdir().unwrap();
    let other = TcpListener::bind(other).unwrap();
    let port = other.local_addr().unwrap().port();
    let source = Source::SelfHosted { folder: folder.path().to_owned() };
    let own = dashboard::serve(config(port, source), Scope::for_test()).await.unwrap().port();
    assert!(own > port, "{own} after {port}");
}

#[tokio::test]
async fn in_a_cluster_a_port_in_use_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = kubeconfig(folder.path());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let source = Source::Kubernetes { kubeconfig: Some(kubeconfig) };
    let error = dashboard::serve(config(port, source), Scope::for_test()).await.unwrap_err();
    assert!(matches!(error, RunError::Listen(_)), "{error:?}");
}

/// One of an API server that does not answer.
fn kubeconfig(folder: &Path) -> std::path::PathBuf {
    let text = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "a", "user": {"token": "a"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]}"#;
    let file = folder.join("kubeconfig");
    std::fs::write(&file, text).unwrap();
    file
}

//! A command reaches the API server through the proxy of its kubeconfig.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail loudly, and own their tasks"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kubernetes::user_client;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;

/// A kubeconfig with this proxy, in a folder of this test.
fn kubeconfig(name: &str, proxy: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("kubernetes-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("kubeconfig");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, users: [{{name: c, user: {{}}}}],\n\
         contexts: [{{name: c, context: {{cluster: c, user: c}}}}],\n\
         clusters: [{{name: c, cluster: {{server: 'https://api.example:6443', proxy-url: '{proxy}'}}}}]}}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn remove(path: &Path) {
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn calls_go_through_the_proxy_of_the_kubeconfig() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let path = kubeconfig("proxy", &proxy);
    let client = user_client(Some(&path), None, Duration::from_secs(20)).await.unwrap();
    let call = tokio::spawn(async move { client.apiserver_version().await });
    let (stream, _) = listener.accept().await.unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.unwrap();
    assert_eq!(line, "CONNECT api.example:6443 HTTP/1.1\r\n");
    // The proxy closed the connection.
    assert!(call.await.unwrap().is_err());
    remove(&path);
}

#[tokio::test]
async fn a_socks_proxy_is_rejected_without_its_password() {
    let path = kubeconfig("socks", "socks5://me:secret@proxy.example:1080");
    let error = user_client(Some(&path), None, Duration::from_secs(1)).await.err().unwrap();
    let text = format!("{error} {error:?}");
    assert!(text.contains("proxy.example") && !text.contains("secret"), "{text}");
    remove(&path);
}

/// kubectl ignores entries that it does not understand, and a kubeconfig's proxy does not depend on any.
#[test]
fn any_text_in_no_proxy_is_accepted_as_by_kubectl() {
    let texts = [
        "a.example,,b.example",
        "a.example,",
        ",",
        " ",
        "10.0.0.0/33",
        "/x",
        "a b",
        "[::1",
        "a.example:port",
        "fe80::1%eth0",
        "https://",
        "a.example/b",
    ];
    let refused = texts.into_iter().filter(|text| {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "calls_go_through_the_proxy_of_the_kubeconfig"]);
        !test.env("NO_PROXY", text).output().unwrap().status.success()
    });
    assert_eq!(refused.collect::<Vec<_>>(), [""; 0]);
}

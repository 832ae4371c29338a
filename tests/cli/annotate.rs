//! `dapr annotate`: the injector supports every annotation that the CLI writes.

use std::process::Command;

use anyhow::{Result, ensure};
use blackbox::{DaprCli, Scratch, build_binary, process};
use rstest::rstest;

/// Flags of the CLI, each with a plausible value.
const FLAGS: [(&str, &str); 38] = [
    ("--app-id", "orders"),
    ("--app-port", "3000"),
    ("--config", "appconfig"),
    ("--app-protocol", "http"),
    ("--enable-profile", "true"),
    ("--log-level", "debug"),
    ("--api-token-secret", "api"),
    ("--app-token-secret", "app"),
    ("--log-as-json", "true"),
    ("--app-max-concurrency", "5"),
    ("--enable-metrics", "true"),
    ("--metrics-port", "9091"),
    ("--enable-debug", "true"),
    ("--env", "A=b"),
    ("--disable-builtin-k8s-secret-store", "true"),
    ("--cpu-limit", "1"),
    ("--memory-limit", "512Mi"),
    ("--cpu-request", "100m"),
    ("--memory-request", "64Mi"),
    ("--listen-addresses", "127.0.0.1"),
    ("--liveness-probe-delay", "3"),
    ("--liveness-probe-timeout", "3"),
    ("--liveness-probe-period", "6"),
    ("--liveness-probe-threshold", "3"),
    ("--readiness-probe-delay", "3"),
    ("--readiness-probe-timeout", "3"),
    ("--readiness-probe-period", "6"),
    ("--readiness-probe-threshold", "3"),
    ("--dapr-image", "ghcr.io/dapr/daprd:1.18.3"),
    ("--max-body-size", "8Mi"),
    ("--read-buffer-size", "8Ki"),
    ("--http-stream-request-body", "true"),
    ("--graceful-shutdown-seconds", "5"),
    ("--enable-api-logging", "true"),
    ("--unix-domain-socket-path", "/tmp/sockets"),
    ("--volume-mounts", "data:/data"),
    ("--volume-mounts-rw", "data:/data-rw"),
    ("--placement-host-address", "placement:50005"),
];

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  template:
    metadata: {labels: {app: orders}}
    spec:
      containers: [{name: app, image: 'app:1'}]
      volumes: [{name: data, emptyDir: {}}]
";

#[rstest]
#[case::nothing(&[], "dapr.io/app-id: shop-deployment-orders")]
#[case::everything(&FLAGS, "dapr.io/app-id: orders")]
fn what_annotate_writes_is_what_the_injector_knows(
    #[case] flags: &[(&str, &str)],
    #[case] wanted: &str,
) -> Result<()> {
    let cli = DaprCli::self_hosted()?;
    let files = Scratch::new("annotate")?;
    let plain = files.write("deployment.yaml", DEPLOYMENT)?;
    let mut command = cli.command()?;
    command.args(["annotate", "-k"]).arg(plain);
    command.args(flags.iter().map(|(flag, value)| format!("{flag}={value}")));
    let annotated = process::output(&mut command)?;
    ensure!(annotated.contains(wanted), "no {wanted} in:\n{annotated}");
    ensure!(annotated.matches("dapr.io/").count() >= flags.len(), "{annotated}");
    let file = files.write("annotated.yaml", &annotated)?;
    // Prints a warning for every annotation without effect, and for invalid values.
    process::output(Command::new(build_binary("injector")?).args(["lint", "-f"]).arg(file))
        .map(drop)
}

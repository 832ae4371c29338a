//! The environment variables of the process.

/// The value of a variable: `None` when it is unset or no UTF-8, `Some("")` when it is empty.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The namespace of this process: `NAMESPACE`, or `default` when it is unset (a set but empty
/// value stays empty). Source: Dapr 1.18, security module.
pub fn namespace() -> String {
    var("NAMESPACE").unwrap_or_else(|| "default".to_owned())
}

/// The host name, which is the pod's name in Kubernetes; `unknown` when the kernel has none.
pub fn hostname() -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    from_kernel
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .or_else(|| var("HOSTNAME"))
        .unwrap_or_else(|| "unknown".to_owned())
}

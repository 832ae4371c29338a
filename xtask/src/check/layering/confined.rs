//! Crates and types that only some files may name.

use super::paths::SourceFile;

/// Paths that belong in some files only.
struct Rule {
    paths: &'static [&'static str],
    is_allowed: fn(&str) -> bool,
    why: &'static str,
}

const RULES: [Rule; 5] = [
    Rule {
        paths: &["kube::Client", "kube::Api", "kube::client"],
        is_allowed: |file| {
            file.starts_with("crates/kubernetes/")
                || file.ends_with("/cluster.rs")
                || file.contains("/cluster/")
                // The API server that a test passes in.
                || file.ends_with("/in_process.rs")
        },
        why: "requests to the API server belong in crates/kubernetes and in modules named cluster",
    },
    Rule {
        paths: &["rustls", "tokio_rustls"],
        is_allowed: |file| {
            file.starts_with("crates/transport/")
                || file.starts_with("crates/kubernetes/src/client")
                || file == "crates/runtime/src/process.rs"
        },
        why: "TLS belongs in crates/transport, that of the API server in crates/kubernetes",
    },
    Rule {
        paths: &["std::env::var", "std::env::vars", "std::env::var_os"],
        is_allowed: |file| file == "crates/runtime/src/environment.rs",
        why: "runtime::environment reads the environment",
    },
    Rule {
        paths: &["anyhow"],
        is_allowed: |file| file.ends_with("/src/main.rs"),
        why: "library code returns its own error types; anyhow is for main, xtask and the tests",
    },
    Rule {
        paths: &["tokio", "tonic", "axum", "hyper"],
        is_allowed: |file| {
            let pure = ["crates/identity/", "crates/resources/", "crates/actor-ring/"];
            !pure.iter().any(|folder| file.starts_with(folder))
        },
        why: "the package is pure: no I/O",
    },
];

/// Paths of this file that belong elsewhere.
pub(super) fn offences(file: &SourceFile) -> Vec<String> {
    let mut offences = Vec::new();
    for rule in RULES.iter().filter(|rule| !(rule.is_allowed)(&file.name)) {
        for path in &file.paths {
            let crate_renamed = path.renamed
                && rule
                    .paths
                    .iter()
                    .any(|of| of.split("::").next() == path.segments.first().map(String::as_str))
                && path.segments.len() == 1;
            if crate_renamed || rule.paths.iter().any(|prefix| path.is_below(prefix)) {
                let (name, line) = (path.segments.join("::"), path.line);
                offences.push(format!("{}:{line} names {name}: {}", file.name, rule.why));
            }
        }
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> usize {
        offences(&SourceFile::parse(file, text).unwrap()).len()
    }

    #[test]
    fn a_client_of_the_api_server_in_a_core_file_is_found() {
        let core = "operator/src/services/plan.rs";
        assert_eq!(found(core, "use kube::{Resource, Client};"), 1);
        assert_eq!(found(core, "fn f(api: kube::Api<Pod>) {}"), 1);
        assert_eq!(found(core, "use kube as k;"), 1);
        assert_eq!(found(core, "use kube::{Resource, api::ObjectMeta};"), 0);
        assert_eq!(found("operator/src/services/cluster.rs", "use kube::Client;"), 0);
    }

    #[test]
    fn anyhow_in_a_core_file_is_found() {
        assert_eq!(found("sentry/src/ca/store.rs", "use anyhow::Result;"), 1);
        assert_eq!(found("sentry/src/ca/store.rs", "fn f() { anyhow::bail!(\"no\") }"), 1);
        assert_eq!(found("sentry/src/main.rs", "use anyhow::Result;"), 0);
    }

    #[test]
    fn tls_and_the_environment_have_their_places() {
        assert_eq!(found("placement/src/server.rs", "use rustls::ServerConfig;"), 1);
        assert_eq!(found("crates/transport/src/server.rs", "use rustls::ServerConfig;"), 0);
        assert_eq!(found("sentry/src/config.rs", "fn f() { std::env::var(\"A\"); }"), 1);
    }
}

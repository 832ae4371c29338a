//! Flags and environment: every default, every error.
#![cfg(test)]

use clap::{CommandFactory as _, Parser as _};
use rstest::rstest;
use sidecar_injector::{Actors, Config, Flags, HostEnvironment};

fn config(flags: &[&str], env: &[(&str, &str)], host: &HostEnvironment) -> Result<Config, String> {
    let needed = [("NAMESPACE", "dapr-system"), ("SIDECAR_IMAGE", "daprd:1")];
    let args = std::iter::once("injector").chain(flags.iter().copied());
    let all = env.iter().chain(&needed);
    let var = |name: &str| {
        all.clone().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    let flags = Flags::try_parse_from(args).map_err(|e| e.to_string())?;
    flags.into_config(var, host).map_err(|e| runtime::chain(&e))
}

fn with_env(env: &[(&str, &str)]) -> Config {
    config(&[], env, &HostEnvironment::default()).unwrap()
}

#[test]
fn the_help_text() {
    insta::assert_snapshot!(Flags::command().term_width(100).render_long_help());
}

#[test]
fn the_defaults() {
    let config = with_env(&[]);
    insta::assert_debug_snapshot!(config.settings);
    assert_eq!((config.port, config.listen_address.as_str()), (4000, ""));
    assert_eq!(config.anchors_file.to_str(), Some("/var/run/dapr.io/tls/ca.crt"));
    assert_eq!(config.app_id, "dapr-injector");
    assert!(config.warnings.is_empty() && !config.mark_skipped);
}

#[rstest]
#[case("NAMESPACE", "", "environment variable NAMESPACE is required")]
#[case("SIDECAR_IMAGE", "", "environment variable SIDECAR_IMAGE is required")]
#[case(
    "SIDECAR_RUN_AS_USER",
    "root",
    r#"environment variable SIDECAR_RUN_AS_USER: "root" is not an integer"#
)]
#[case("ALLOWED_SERVICE_ACCOUNTS", "abc", r#"environment variable ALLOWED_SERVICE_ACCOUNTS: allowed service account "abc": it contains no ':'; use namespace:name, where * ? [a-z] are wildcards"#)]
#[case(
    "WEBHOOK_PATH_TOKEN",
    "short",
    "environment variable WEBHOOK_PATH_TOKEN: not a path token: use 32 to 63 characters of a-z and 0-9, for example the output of `openssl rand -hex 20`"
)]
#[case("ACTORS_SERVICE_NAME", "other", r#"environment variable ACTORS_SERVICE_ADDRESS: "" is not <service>:<port> with a port from 1 to 65535"#)]
#[case("REMINDERS_SERVICE_NAME", "other", r#"environment variable REMINDERS_SERVICE_ADDRESS: "" is not <service>:<port> with a port from 1 to 65535"#)]
fn refuses_to_start(#[case] name: &str, #[case] value: &str, #[case] want: &str) {
    let error = config(&[], &[(name, value)], &HostEnvironment::default()).unwrap_err();
    assert_eq!(error, want);
}

#[test]
fn refuses_a_bad_trust_domain() {
    for bad in ["", "Not A Domain"] {
        let env = [("DAPR_CONTROL_PLANE_TRUST_DOMAIN", bad)];
        let error = config(&[], &env, &HostEnvironment::default()).unwrap_err();
        assert!(
            error.starts_with("environment variable DAPR_CONTROL_PLANE_TRUST_DOMAIN: "),
            "{error}"
        );
    }
}

#[rstest]
#[case(None, "Always")]
#[case(Some(""), "IfNotPresent")]
#[case(Some("Never"), "Never")]
#[case(Some("always"), "IfNotPresent")]
fn pull_policy(#[case] value: Option<&str>, #[case] want: &str) {
    let env: Vec<_> = value.map(|v| ("SIDECAR_IMAGE_PULL_POLICY", v)).into_iter().collect();
    assert_eq!(with_env(&env).settings.pull_policy, want);
}

#[rstest]
#[case("", true)]
#[case("false", false)]
#[case("yes", true)]
#[case("nonsense", false)]
fn switches_that_are_on_by_default(#[case] value: &str, #[case] want: bool) {
    let config = with_env(&[("SIDECAR_RUN_AS_NON_ROOT", value), ("ACTORS_ENABLED", value)]);
    assert_eq!(config.settings.security.run_as_non_root, want);
    assert_eq!(config.settings.actors != Actors::Off, want);
}

#[test]
fn the_cluster_domain_is_detected_unless_set() {
    let host =
        HostEnvironment { resolv_conf: "search x.svc.corp svc.corp corp".into(), has_token: true };
    let found = config(&[], &[], &host).unwrap().settings;
    assert_eq!(found.control_plane.sentry(), "dapr-sentry.dapr-system.svc.corp:443");
    assert!(found.identity_token);
    let given = config(&[], &[("KUBE_CLUSTER_DOMAIN", "given")], &host).unwrap().settings;
    assert_eq!(given.control_plane.sentry(), "dapr-sentry.dapr-system.svc.given:443");
}

#[test]
fn warns_of_deprecated_and_unreadable_variables() {
    let config = with_env(&[
        ("ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES", "a:b*"),
        ("IGNORE_ENTRYPOINT_TOLERATIONS", "not json"),
    ]);
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert!(config.settings.entrypoint_tolerations.is_empty());
}

#[test]
fn the_scheduler_can_be_switched_off() {
    assert!(with_env(&[]).settings.scheduler);
    let off = config(&["--scheduler-enabled=false"], &[], &HostEnvironment::default()).unwrap();
    assert!(!off.settings.scheduler);
}

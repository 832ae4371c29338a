//! Names of objects, containers, volumes and ports that Dapr's components share. Source: Dapr 1.18.3.

/// The sidecar's container.
pub const SIDECAR_CONTAINER: &str = "daprd";

/// Name of the sidecar's HTTP port.
pub const PORT_HTTP: &str = "dapr-http";
/// Name of the sidecar's gRPC port.
pub const PORT_GRPC: &str = "dapr-grpc";
/// Name of the port for calls between sidecars.
pub const PORT_INTERNAL_GRPC: &str = "dapr-internal";
/// Name of the sidecar's metrics port.
pub const PORT_METRICS: &str = "dapr-metrics";
/// Name of the debugger's port.
pub const PORT_DEBUG: &str = "dapr-debug";

/// Volume of the API's Unix domain sockets.
pub const VOLUME_UNIX_DOMAIN_SOCKET: &str = "dapr-unix-domain-socket";
/// Volume with the token that authenticates the pod to sentry.
pub const VOLUME_IDENTITY_TOKEN: &str = "dapr-identity-token";
/// Volume of the sockets of pluggable components.
pub const VOLUME_COMPONENTS_SOCKET: &str = "dapr-components-unix-domain-socket";

/// Service of the operator's API.
pub const SERVICE_OPERATOR: &str = "dapr-api";
/// Service of sentry, and its id.
pub const SERVICE_SENTRY: &str = "dapr-sentry";
/// Service of placement.
pub const SERVICE_PLACEMENT: &str = "dapr-placement-server";
/// Load-balanced Service of the scheduler (the one without `-a` is headless).
pub const SERVICE_SCHEDULER: &str = "dapr-scheduler-server-a";
/// Service and Deployment of the injector.
pub const SERVICE_INJECTOR: &str = "dapr-sidecar-injector";

/// Secret with the CA, and ConfigMap with its trust anchors.
pub const TRUST_BUNDLE: &str = "dapr-trust-bundle";
/// Key of the trust anchors in both.
pub const KEY_TRUST_ANCHORS: &str = "ca.crt";
/// Key of the issuer's chain in the Secret, unless a flag of sentry names another one.
pub const KEY_ISSUER_CHAIN: &str = "issuer.crt";
/// Key of the issuer's private key in the Secret, unless a flag of sentry names another one.
pub const KEY_ISSUER_KEY: &str = "issuer.key";

/// Key of the issuer's chain in a Secret `kubernetes.io/tls`, such as cert-manager writes.
pub const KEY_TLS_CHAIN: &str = "tls.crt";
/// Key of the private key in such a Secret.
pub const KEY_TLS_KEY: &str = "tls.key";

/// ServiceAccount of the operator.
pub const SERVICE_ACCOUNT_OPERATOR: &str = "dapr-operator";
/// Id with which the injector requests its identity from sentry.
pub const APP_ID_INJECTOR: &str = "dapr-injector";

/// The injector's MutatingWebhookConfiguration.
pub const WEBHOOK_CONFIGURATION: &str = "dapr-sidecar-injector";
/// The webhook inside it.
pub const WEBHOOK: &str = "sidecar-injector.dapr.io";
/// The Configuration of the control plane, in its namespace.
pub const CONTROL_PLANE_CONFIGURATION: &str = "daprsystem";

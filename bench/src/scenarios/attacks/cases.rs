//! The attacks and their budgets.

use anyhow::Result;
use blackbox::Service;
use bytes::{BufMut as _, BytesMut};
use proto::operator::ListComponentsRequest;
use proto::placement::Host;
use serde_json::json;

use crate::clients::attackers::{Attack, Lacks, Requests};
use crate::clients::{grpc, order_stream};
use crate::environment::test_env::TestEnv;

/// The content type of gRPC.
const GRPC: &str = "application/grpc";
/// Namespace of the attackers' objects, and of the victims'.
pub(super) const ATTACKERS: &str = "attackers";
pub(super) const VICTIMS: &str = "victims";
/// Components of the attackers: together nearly the largest list that the operator answers.
const COMPONENTS: usize = 9;
const COMPONENT_BYTES: usize = 400_000;
/// Largest message that sentry reads: it waits for the end of one. A larger one is refused as soon as
/// its length was read, and then the next follows at once: a flood.
const SENTRY_BYTES: u32 = 64 * 1024;
const REFUSED_BYTES: u32 = 4 * 1024 * 1024;
/// Hosts of the attackers, and actor types of each: ten times the largest table of a namespace.
const HOSTS: usize = 200;
const TYPES: usize = 1000;
const TYPE_BYTES: usize = 200;
/// Zeros of a review, each a node for a JSON tree: nearly 8 MiB.
const ZEROS: usize = 4_000_000;

/// An attack on a service.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) service: Service,
    pub(super) port: Port,
    pub(super) attacks: Vec<Attack>,
    /// Of each attack.
    pub(super) connections: usize,
    /// Megabytes beyond twice the idle memory: see docs/limits.md, "Memory under attack".
    pub(super) budget: f64,
}

/// The port that is attacked.
#[derive(Clone, Copy)]
pub(super) enum Port {
    Main,
    Metrics,
}

impl Case {
    fn new(name: &'static str, service: Service, attack: Attack) -> Self {
        let (attacks, connections) = (vec![attack], 2000);
        Self { name, service, port: Port::Main, attacks, connections, budget: 0.0 }
    }

    /// The name of one of its metrics.
    pub(super) fn metric(&self, what: &str) -> String {
        format!("{}: {what}", self.name)
    }
}

/// All attacks.
pub(super) fn all() -> Vec<Case> {
    let case = Case::new;
    vec![
        Case {
            budget: 42.0,
            ..case("sentry, silent connections", Service::Sentry, Attack::Silent)
        },
        Case { budget: 66.0, ..case("sentry, idle connections", Service::Sentry, Attack::Idle) },
        Case {
            connections: 64,
            budget: 42.0,
            ..case("sentry, unfinished requests", Service::Sentry, lacking_a_byte(SENTRY_BYTES))
        },
        Case {
            connections: 64,
            budget: 68.0,
            ..case("sentry, refused requests", Service::Sentry, lacking_a_byte(REFUSED_BYTES))
        },
        Case {
            port: Port::Metrics,
            budget: 2.0,
            ..case("sentry, silent metrics connections", Service::Sentry, Attack::Silent)
        },
        Case {
            budget: 66.0,
            ..case("injector, idle connections", Service::Injector, Attack::Idle)
        },
        Case {
            connections: 8,
            budget: 68.0,
            ..case("injector, large reviews", Service::Injector, large_review())
        },
        Case {
            connections: 64,
            budget: 68.0,
            ..case("operator, unread lists", Service::Operator, unread_list())
        },
        Case {
            attacks: (0..HOSTS).map(large_report).collect(),
            connections: 1,
            budget: 84.0,
            ..case("placement, large reports", Service::Placement, Attack::Silent)
        },
        Case {
            budget: 42.0,
            ..case("scheduler, silent connections", Service::Scheduler, Attack::Silent)
        },
    ]
}

/// As many streams as HTTP/2 has by default, each with a message of so many bytes that lacks one.
fn lacking_a_byte(message: u32) -> Attack {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message);
    body.put_bytes(0, message as usize - 1);
    Attack::Requests(Requests {
        path: "/dapr.proto.sentry.v1.CA/SignCertificate",
        content_type: GRPC,
        body: body.freeze(),
        lacks: Lacks::TheEnd,
        streams: 256,
    })
}

fn large_review() -> Attack {
    let body = format!(r#"{{"request":{{"object":[0{}]}}}}"#, ",0".repeat(ZEROS));
    Attack::Requests(Requests {
        path: "/mutate",
        content_type: "application/json",
        body: body.into(),
        lacks: Lacks::Nothing,
        streams: 1,
    })
}

fn unread_list() -> Attack {
    Attack::Requests(Requests {
        path: "/dapr.proto.operator.v1.Operator/ListComponents",
        content_type: GRPC,
        body: grpc::frame(&ListComponentsRequest { namespace: ATTACKERS.to_owned() }),
        lacks: Lacks::Reading,
        streams: 256,
    })
}

fn large_report(host: usize) -> Attack {
    let entity = |number| format!("{host}-{number}-{}", "x".repeat(TYPE_BYTES));
    let report = Host {
        name: format!("10.1.{}.{}:50002", host / 250, host % 250),
        id: "attacker".to_owned(),
        namespace: ATTACKERS.to_owned(),
        operation: 1,
        api_level: 20,
        entities: (0..TYPES).map(entity).collect(),
        ..Host::default()
    };
    Attack::Requests(Requests {
        path: order_stream::METHOD,
        content_type: GRPC,
        body: grpc::frame(&report),
        lacks: Lacks::TheEnd,
        streams: 1,
    })
}

/// Creates the Components of attackers and victims.
pub(super) fn prepare(env: &TestEnv) -> Result<()> {
    for (namespace, count, bytes) in [(ATTACKERS, COMPONENTS, COMPONENT_BYTES), (VICTIMS, 10, 100)]
    {
        env.api().kubectl(&["create", "namespace", namespace])?;
        for number in 0..count {
            let component = json!({
                "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
                "metadata": {"name": format!("store-{number}"), "namespace": namespace},
                "spec": {"type": "state.in-memory", "version": "v1",
                    "metadata": [{"name": "filling", "value": "x".repeat(bytes)}]},
            });
            env.api().apply(&component.to_string())?;
        }
    }
    Ok(())
}

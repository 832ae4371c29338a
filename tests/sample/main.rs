//! The sample `deploy/samples/hello-kubernetes` without a cluster: its unmodified applications,
//! each with an official sidecar, a real Redis with a password, and our placement.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use blackbox::{
    Daprd, Deadline, Process, Redis, Scratch, Spawn, build_binary, environment, http, until,
};
use serde_json::{Value, json};

const PASSWORD: &str = "a password with spaces";

fn sample(file: &str) -> PathBuf {
    environment::workspace().join("deploy/samples/hello-kubernetes/base").join(file)
}

/// The sample's own manifests, changed to use this Redis. A sidecar without Kubernetes has no store
/// for the password, so the text contains it.
fn resources(redis: &Redis, folder: &Scratch) -> Result<PathBuf> {
    let text = fs::read_to_string(sample("components.yaml"))?;
    let secret = "secretKeyRef:\n        name: redis\n        key: redis-password";
    ensure!(text.matches(secret).count() == 2, "components.yaml refers to the password otherwise");
    let text = text
        .replace("redis:6379", &redis.host())
        .replace(secret, &format!("value: {PASSWORD:?}"))
        .replace("auth:\n  secretStore: kubernetes\n", "");
    folder.write("components.yaml", text)?;
    Ok(folder.path().to_path_buf())
}

/// One application and its sidecar, as in a pod.
struct Pod {
    app: Process,
    app_port: u16,
    sidecar: Daprd,
}

/// Shared by all pods.
struct Fixture {
    placement_port: u16,
    resources: PathBuf,
    logs: Scratch,
    _placement: Process,
    _redis: Redis,
    _folder: Scratch,
}

impl Fixture {
    fn new() -> Result<Self> {
        let (logs, folder) = (Scratch::new("sample-logs")?, Scratch::new("sample")?);
        let redis = Redis::start(Some(PASSWORD))?;
        let resources = resources(&redis, &folder)?;
        let [placement_port, peers, healthz, metrics] = free_ports()?;
        let mut placement = Spawn::new("placement", build_binary("placement")?, logs.path())
            .arg(format!("--port={placement_port}"))
            .arg("--id=one")
            .arg(format!("--initial-cluster=one=127.0.0.1:{peers}"))
            .args([format!("--healthz-port={healthz}"), format!("--metrics-port={metrics}")])
            .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
            .start()?;
        placement.wait_for_http(healthz, "/healthz", Deadline::seconds(30))?;
        Ok(Self {
            placement_port,
            resources,
            logs,
            _placement: placement,
            _redis: redis,
            _folder: folder,
        })
    }

    /// Starts the sidecar first, because the application's environment names its port.
    fn pod(&self, app_id: &str, program: &str, file: &str) -> Result<Pod> {
        let [app_port] = free_ports()?;
        let mut sidecar = Daprd::builder(app_id)
            .arg(format!("--resources-path={}", self.resources.display()))
            .arg(format!("--placement-host-address=127.0.0.1:{}", self.placement_port))
            .arg("--scheduler-host-address=");
        if file != "apps/order-client.py" {
            sidecar = sidecar.arg(format!("--app-port={app_port}"));
        }
        let sidecar = sidecar.start()?;
        let app = self.app(program, file, app_port, &sidecar)?;
        Ok(Pod { app, app_port, sidecar })
    }

    fn app(&self, program: &str, file: &str, port: u16, sidecar: &Daprd) -> Result<Process> {
        let found = environment::find_program(program);
        let found = found.with_context(|| format!("{program} is missing: install it"))?;
        Spawn::new(&format!("{}-{port}", sidecar.app_id()), found, self.logs.path())
            .arg(sample(file))
            .env("APP_PORT", port.to_string())
            .env("DAPR_HTTP_PORT", sidecar.http_port.to_string())
            .start()
    }
}

fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    for port in &mut ports {
        *port = environment::free_port()?;
    }
    Ok(ports)
}

/// GET of an application's own port; `None` unless it answers with 200.
fn get(pod: &Pod, path: &str) -> Result<Option<Value>> {
    match http::get(pod.app_port, path) {
        Ok(answer) if answer.status == 200 => answer.json().map(Some),
        _ => Ok(None), // not yet
    }
}

/// Increments `Counter/<id>`; `None` while no host answers, as when actors move.
fn count(node: &Pod, id: u64) -> Result<Option<u64>> {
    let answer = http::post(node.app_port, &format!("/count/{id}"), &Value::Null)?;
    if answer.status != 200 {
        return Ok(None);
    }
    Ok(answer.json()?.get("count").and_then(Value::as_u64))
}

fn wait_for_count(node: &Pod, id: u64) -> Result<u64> {
    until(Deadline::seconds(60), &format!("Counter/{id}"), || count(node, id))
}

#[test]
fn orders_events_and_actors_work_and_survive_restarts() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut node = fixture.pod("nodeapp", "node", "apps/order-service.js")?;
    let mut first = fixture.pod("actorapp", "node", "apps/counter-actor.js")?;
    let mut second = fixture.pod("actorapp", "node", "apps/counter-actor.js")?;
    let mut python = fixture.pod("pythonapp", "python3", "apps/order-client.py")?;
    for pod in [&mut node, &mut first, &mut second] {
        pod.sidecar.wait_ready(Deadline::seconds(60))?;
    }

    // Orders: invoked by app id, stored, published, received.
    python.app.wait_for_log("accepted", Deadline::seconds(60))?;
    until(Deadline::seconds(30), "an event of an order", || {
        Ok(get(&node, "/events")?.filter(|events| events["received"].as_u64() > Some(0)))
    })?;
    let stop = python.app.terminate(Deadline::seconds(10))?;
    assert!(stop.success(), "the client must stop on SIGTERM: {stop:?}");

    // An order sent through the sidecar, as other applications send it.
    let path = "/v1.0/invoke/nodeapp/method/neworder";
    let order = json!({"data": {"orderId": "42"}});
    let answer = http::post(python.sidecar.http_port, path, &order)?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let nonsense = http::post(python.sidecar.http_port, path, &json!({"data": {}}))?;
    assert_eq!(nonsense.status, 400, "{}", nonsense.body);

    // A new process of the order service finds the order.
    node.app.terminate(Deadline::seconds(10))?;
    node.app = fixture.app("node", "apps/order-service.js", node.app_port, &node.sidecar)?;
    let order = until(Deadline::seconds(30), "the order", || get(&node, "/order"))?;
    assert_eq!(order, json!({"orderId": "42"}));

    // Actors: each has its own counter; the hosts share them.
    for id in 1..=20 {
        assert_eq!(wait_for_count(&node, id)?, 1, "Counter/{id}");
    }
    assert_eq!(wait_for_count(&node, 1)?, 2);
    let lives_in = |pod: &Pod| pod.app.log().matches("lives here now").count();
    let (in_first, in_second) = (lives_in(&first), lives_in(&second));
    assert_eq!(in_first + in_second, 20, "each actor lives in one place");
    assert!(in_first > 0 && in_second > 0, "placement divides them: {in_first}, {in_second}");

    // One host stops; its actors are activated on the other and continue.
    first.app.terminate(Deadline::seconds(10))?;
    first.sidecar.process().terminate(Deadline::seconds(30))?;
    assert_eq!(wait_for_count(&node, 1)?, 3);
    for id in 2..=20 {
        assert_eq!(wait_for_count(&node, id)?, 2, "Counter/{id}");
    }
    Ok(())
}

//! The services of Dapr's quickstarts with the official SDKs, behind official sidecars, on our
//! control plane.
//!
//! Each application calls the next one, which saves the order in its state, and publishes the order,
//! which all of them receive. They do so with their SDK alone.

mod mesh;

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use blackbox::{Daprd, Process, Scratch, Spawn, environment, http, process, sdks, soon, until};
use serde_json::{Value, json};

use self::mesh::Mesh;

/// An official SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sdk {
    Python,
    JavaScript,
    Go,
    Java,
}

impl Sdk {
    const ALL: [Self; 4] = [Self::Python, Self::JavaScript, Self::Go, Self::Java];

    const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::Go => "go",
            Self::Java => "java",
        }
    }

    /// The application as a program, in a folder.
    fn program(self, folder: &Scratch) -> Result<Spawn> {
        let program = |name: &str| {
            environment::find_program(name).with_context(|| format!("{name} is missing"))
        };
        let spawn = |program| Spawn::new(self.name(), program, folder.path());
        match self {
            Self::Python => {
                let source = folder.write("app.py", include_str!("app.py"))?;
                Ok(spawn(sdks::python()?).arg(source))
            }
            Self::JavaScript => {
                let source = folder.write("app.mjs", include_str!("app.mjs"))?;
                symlink(sdks::javascript()?, folder.path().join("node_modules"))?;
                Ok(spawn(program("node")?).arg(source))
            }
            Self::Go => {
                let built = folder.path().join("app");
                sdks::go(&Path::new(env!("CARGO_MANIFEST_DIR")).join("quickstarts/go"), &built)?;
                Ok(spawn(built))
            }
            Self::Java => {
                let source = folder.write("App.java", include_str!("App.java"))?;
                let jars = format!("{}/*", sdks::java()?.display());
                Ok(spawn(program("java")?).args(["--class-path", &jars]).arg(source))
            }
        }
    }
}

/// An application with its sidecar.
struct Service {
    sdk: Sdk,
    app_id: String,
    port: u16,
    process: Process,
    sidecar: Daprd,
    _folder: Scratch,
}

impl Service {
    /// Starts both; `caller` may call it, and it calls `next`.
    fn start(mesh: &Mesh, sdk: Sdk, caller: Sdk, next: Sdk) -> Result<Self> {
        let folder = Scratch::new(sdk.name())?;
        let app_id = mesh.app_id(sdk.name());
        let port = environment::free_port()?;
        let program = sdk.program(&folder)?;
        let sidecar = mesh.sidecar(&app_id, port, &mesh.app_id(caller.name()))?;
        let process = program
            .env("APP_ID", &app_id)
            .env("APP_PORT", port.to_string())
            .env("NEXT", mesh.app_id(next.name()))
            .env("DAPR_HTTP_PORT", sidecar.http_port.to_string())
            .env("DAPR_GRPC_PORT", sidecar.grpc_port.to_string())
            .start()?;
        Ok(Self { sdk, app_id, port, process, sidecar, _folder: folder })
    }

    fn order_id(&self) -> String {
        format!("order-of-{}", self.sdk.name())
    }

    /// The order that this application places.
    fn order(&self) -> Value {
        json!({"orderId": self.order_id()})
    }

    /// Waits until the sidecar has its application, its components, placement and scheduler.
    fn wait_ready(&mut self) -> Result<()> {
        self.sidecar.wait_ready(soon()).with_context(|| self.process.log())
    }

    fn check_out(&self) -> Result<Value> {
        let answer = http::post(self.port, "/checkout", &self.order())?;
        ensure!(answer.is_success(), "checkout: {} {}", answer.status, answer.body);
        answer.json()
    }

    /// What is in the application's state.
    fn state(&self, key: &str) -> Result<Option<Value>> {
        let path = format!("/v1.0/state/statestore/{key}");
        let answer = http::get(self.sidecar.http_port, &path)?;
        if answer.status == 204 { Ok(None) } else { answer.json().map(Some) }
    }

    /// Waits until the application has received what `other` published.
    fn wait_received(&self, other: &Self) -> Result<()> {
        let order = other.order();
        let key = format!("received-{}", other.order_id());
        let what = format!("{} to receive {order}", self.sdk.name());
        let received = until(soon(), &what, || self.state(&key))?;
        ensure!(received == order, "{what}: it received {received}");
        Ok(())
    }

    fn logs(&self) -> String {
        let [own, sidecar] =
            [self.process.log(), self.sidecar.log()].map(|log| process::tail(&log));
        format!("{:?}:\n{own}\n{sidecar}", self.sdk)
    }
}

/// One service of each SDK; each calls the next, the last calls the first.
fn start_all(mesh: &Mesh) -> Result<Vec<Service>> {
    let ring = |at: usize| Sdk::ALL.into_iter().cycle().nth(at).context("no SDK");
    let count = Sdk::ALL.len();
    let mut services = (0..count)
        .map(|at| Service::start(mesh, ring(at)?, ring(at + count - 1)?, ring(at + 1)?))
        .collect::<Result<Vec<_>>>()?;
    services.iter_mut().try_for_each(Service::wait_ready)?;
    Ok(services)
}

#[test]
fn services_of_every_sdk_call_each_other_keep_state_and_receive_messages() -> Result<()> {
    let mesh = Mesh::start()?;
    let services = start_all(&mesh)?;
    let ring = || services.iter().zip(services.iter().cycle().skip(1));
    for (service, next) in ring() {
        let mut want = service.order();
        let answer = service.check_out().with_context(|| service.logs() + &next.logs())?;
        let key = service.order_id();
        ensure!(next.state(&key)?.as_ref() == Some(&want), "{key} is not in the state");
        want["savedBy"] = next.app_id.clone().into();
        ensure!(answer == want, "{:?} answers {answer}", next.sdk);
        let identity = format!("spiffe://public/ns/default/{}", service.app_id);
        ensure!(mesh.sentry.log().contains(&identity), "{}", mesh.sentry.log());
    }
    for receiver in &services {
        for publisher in &services {
            receiver.wait_received(publisher).with_context(|| receiver.logs())?;
        }
    }
    for (service, next) in ring() {
        let path = format!("/v1.0/invoke/{}/method/orders", service.app_id);
        let answer = http::post(next.sidecar.http_port, &path, &next.order())?;
        ensure!(answer.status == 403, "another than the caller of {:?}: {answer:?}", service.sdk);
    }
    Ok(())
}

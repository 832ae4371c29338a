//! The attacked services and their victims.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use blackbox::{Service, admission, environment};
use proto::placement::Host;
use proto::sentry::sign_certificate_request::TokenValidator;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::cases::{ATTACKERS, Case, Port, VICTIMS};
use super::{Attacked, COUNT};
use crate::clients::attackers::Door;
use crate::clients::https::Server;
use crate::clients::jobs::{Calls, Due, Load, Record};
use crate::clients::load::Caller;
use crate::clients::order_stream::{Order, OrderStream};
use crate::clients::sidecars::Sidecars;
use crate::environment::scheduler::Scheduler;
use crate::environment::test_env::{NAMESPACE, Running, Start};
use crate::scenario::{Reading, Side};
use crate::scenarios::{injector, sentry_sign};

/// Requests per second; a join of placement takes a whole round.
const PER_SECOND: f64 = 50.0;
const JOINS_PER_SECOND: f64 = 20.0;
/// Jobs that the victims may schedule.
const JOBS: usize = 1_000_000;

/// The attacked port of a service whose main port speaks this TLS.
fn door(case: &Case, service: &Running, tls: Option<(Arc<ClientConfig>, &str)>) -> Result<Door> {
    Ok(match case.port {
        Port::Metrics => Door { address: format!("127.0.0.1:{}", service.metrics), tls: None },
        Port::Main => {
            let named =
                |(tls, name): (_, &str)| anyhow::Ok((tls, ServerName::try_from(name.to_owned())?));
            Door { address: service.address(), tls: tls.map(named).transpose()? }
        }
    })
}

impl Attacked {
    /// Starts the service of a case, attacks and measures it.
    pub(super) async fn attack(&self, side: Side, case: &Case) -> Result<Vec<Reading>> {
        match case.service {
            Service::Sentry => self.attack_sentry(side, case).await,
            Service::Injector => self.attack_injector(side, case).await,
            Service::Operator => self.attack_operator(side, case).await,
            Service::Placement => self.attack_placement(side, case).await,
            Service::Scheduler => self.attack_scheduler(side, case).await,
        }
    }

    async fn attack_sentry(&self, side: Side, case: &Case) -> Result<Vec<Reading>> {
        let settings = sentry_sign::NO_VALIDATORS;
        let sentry = self.env.standalone_sentry(&self.programs, side, "attacked", settings)?;
        let dial = sentry_sign::Dial::new(sentry.address(), &self.env.authority()?)?;
        let request = sentry_sign::request("public", "bench", TokenValidator::Insecure)?;
        let door = door(case, &sentry, Some((dial.tls()?, "sentry")))?;
        let victims = async || dial.kept(&request, COUNT).await;
        let readings = self.measure(case, &sentry, &door, PER_SECOND, victims).await?;
        sentry.stop()?;
        Ok(readings)
    }

    async fn attack_injector(&self, side: Side, case: &Case) -> Result<Vec<Reading>> {
        let (injector, _) = self.env.service(&self.programs, side, case.service, &[])?.ready()?;
        let name = format!("dapr-sidecar-injector.{NAMESPACE}.svc");
        let anchors = fs::read_to_string(self.env.anchors())?;
        let mut tls = (*admission::tls(&anchors)?).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let door = door(case, &injector, Some((Arc::new(tls), &name)))?;
        let server = Server::new(&injector.address(), &name, &anchors)?;
        let victims = async || injector::callers(&server, COUNT).await;
        let readings = self.measure(case, &injector, &door, PER_SECOND, victims).await?;
        injector.stop()?;
        Ok(readings)
    }

    async fn attack_operator(&self, side: Side, case: &Case) -> Result<Vec<Reading>> {
        let (operator, _) = self.env.service(&self.programs, side, case.service, &[])?.ready()?;
        let (authority, address) = (self.env.authority()?, operator.address());
        let attackers = Sidecars::new(&authority, &address, ATTACKERS, 1, 1).await?;
        let sidecars = Sidecars::new(&authority, &address, VICTIMS, 1, COUNT).await?;
        let door = door(case, &operator, Some((attackers.tls(), "operator")))?;
        let victims = async || Ok(sidecars.callers());
        let readings = self.measure(case, &operator, &door, PER_SECOND, victims).await?;
        sidecars.close().await?;
        attackers.close().await?;
        operator.stop()?;
        Ok(readings)
    }

    async fn attack_placement(&self, side: Side, case: &Case) -> Result<Vec<Reading>> {
        let program = self.programs.path(side, case.service)?;
        let name = format!("{}-attacked-placement", side.name());
        let peer = environment::free_port()?;
        let start = Start::new(&name, case.service, program, self.env.folder())?
            .args(&[&format!("--initial-cluster=dapr-placement-0=127.0.0.1:{peer}")]);
        let (placement, _) = start.ready()?;
        let address = placement.address();
        let joiner = |number| Joiner { address: address.clone(), number, joins: 0 };
        let victims = async || Ok((0..COUNT).map(joiner).collect());
        let door = door(case, &placement, None)?;
        let readings = self.measure(case, &placement, &door, JOINS_PER_SECOND, victims).await?;
        placement.stop()?;
        Ok(readings)
    }

    async fn attack_scheduler(&self, side: Side, case: &Case) -> Result<Vec<Reading>> {
        let mut scheduler = Scheduler::start(&self.programs, side)?;
        let running = scheduler.running()?;
        let door = door(case, running, None)?;
        let opened = AtomicUsize::new(0); // the same job may not be scheduled twice
        let victims = async || {
            let calls = Calls::open(&running.address()).await?;
            let app = format!("victim-{}", opened.fetch_add(1, Ordering::Relaxed));
            let load = Load::new(&app, 0..JOBS, Due::far(), Record::Nothing);
            Ok(calls.callers(COUNT, &load))
        };
        let readings = self.measure(case, running, &door, PER_SECOND, victims).await?;
        scheduler.stop()?;
        Ok(readings)
    }
}

/// A sidecar that joins, waits for its table and leaves, again and again.
struct Joiner {
    address: String,
    number: usize,
    joins: usize,
}

impl Caller for Joiner {
    async fn call(&mut self) -> Result<(), String> {
        self.joins += 1;
        self.join().await.map_err(|error| format!("{error:#}"))
    }
}

impl Joiner {
    async fn join(&self) -> Result<()> {
        let name = format!("10.0.{}.{}:{}", self.number, self.joins % 250, 50002);
        let first = Host { name, entities: vec!["cat".to_owned()], api_level: 20, ..message(1) };
        let orders = OrderStream::open(&self.address, None, first, Arc::default()).await?;
        let mut orders = orders.context("no leader")?;
        let mut version = None;
        while let Some(order) = orders.next().await {
            let operation = match order {
                Order::Lock(locked) => {
                    version = Some(locked);
                    2
                }
                Order::Update(_) => 3,
                Order::Unlock => return Ok(()),
            };
            orders.send(Host { version, ..message(operation) }).await;
        }
        bail!("the stream ended before its table")
    }
}

fn message(operation: i32) -> Host {
    let (id, namespace) = (VICTIMS.to_owned(), VICTIMS.to_owned());
    Host { id, namespace, operation, ..Host::default() }
}

//! Row `scale-sentry`: sidecars that ask for a certificate within a minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use blackbox::Service;
use proto::sentry::SignCertificateRequest;
use serde_json::Value;

use super::{Readings, number};
use crate::clients::load::{self, Caller};
use crate::environment::authority::Authority;
use crate::environment::programs::Programs;
use crate::environment::test_env::{NAMESPACE, TestEnv};
use crate::environment::usage::{Peak, megabytes};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};
use crate::scenarios::sentry_sign::{Attempts, Cluster, Dial, sidecars};

/// Requests that may be under way.
const CALLERS: usize = 128;

/// Certificates of a cluster that starts, up to ten thousand in a minute.
#[derive(Debug)]
pub struct ScaleSentry;

struct Signing {
    env: TestEnv,
    programs: Programs,
    requests: Arc<[SignCertificateRequest]>,
    sizes: [usize; 3],
    time: Duration,
}

impl Scenario for ScaleSentry {
    fn description(&self) -> Description {
        Description {
            name: "scale-sentry",
            about: "1,000, 3,000 and 10,000 sidecars ask for a certificate, evenly within a \
                 minute, in a cluster: each with a pod, a token, a key and a connection of its \
                 own, trying as daprd does; sentry asks a real API server for a TokenReview of \
                 each",
            services: &[Service::Sentry],
            is_only_named: true,
            ..Description::OURS
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let sizes = size.pick([1_000, 3_000, 10_000], [100, 300, 1_000]);
        let time = size.pick(Duration::from_mins(1), Duration::from_secs(6));
        let env = TestEnv::start(programs)?;
        let most = sizes.into_iter().max().unwrap_or_default();
        let requests = load::runtime()?.block_on(sidecars(&env, most))?.into();
        Ok(Box::new(Signing { env, programs: programs.clone(), requests, sizes, time }))
    }
}

impl Prepared for Signing {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        for count in self.sizes {
            readings.extend(self.certificates(side, count)?);
        }
        Ok(readings)
    }
}

impl Signing {
    fn certificates(&self, side: Side, count: usize) -> Result<Vec<Reading>> {
        let (sentry, _) = self.env.service(&self.programs, side, Service::Sentry, &[])?.ready()?;
        let bundle = self.env.api().get(&["configmap", "dapr-trust-bundle", "-n", NAMESPACE])?;
        let anchors = bundle.pointer("/data/ca.crt").and_then(Value::as_str);
        let anchors = anchors.context("no published anchors")?.to_owned();
        let dial = Dial::new(sentry.address(), &Authority { anchors, ..self.env.authority()? })?;
        let (idle, before) = (sentry.memory()?.rss, sentry.cpu()?);
        let peak = Peak::watch(sentry.pid());
        let next = Arc::new(AtomicUsize::new(0));
        let sidecar =
            || Starting { dial: dial.clone(), requests: self.requests.clone(), next: next.clone() };
        let callers = (0..CALLERS.min(count)).map(|_| sidecar()).collect();
        let per_second = number(u64::try_from(count)?) / self.time.as_secs_f64();
        let outcome = load::runtime()?.block_on(load::open(callers, per_second, self.time))?;
        for (reason, times) in outcome.errors() {
            eprintln!("{count} sidecars: {times} x {reason}");
        }
        let mut readings = Readings::new(count, "sidecars in a minute");
        readings.cpu("signed", sentry.cpu()?.saturating_sub(before));
        let peak = peak.finish().rss;
        readings.add("peak RSS", Unit::Megabytes, megabytes(peak));
        let more = megabytes(peak.saturating_sub(idle));
        readings.add("peak RSS, above idle", Unit::Megabytes, more);
        readings.add("p50", Unit::Milliseconds, outcome.quantile_ms(0.5));
        readings.add("p99", Unit::Milliseconds, outcome.quantile_ms(0.99));
        readings.add("refused", Unit::Count, number(outcome.failed()));
        sentry.stop()?;
        Ok(readings.all)
    }
}

/// One sidecar after the other, each of which starts and asks for its certificate.
struct Starting {
    dial: Dial,
    requests: Arc<[SignCertificateRequest]>,
    next: Arc<AtomicUsize>,
}

impl Caller for Starting {
    async fn call(&mut self) -> Result<(), String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let request = self.requests.get(number).ok_or("no sidecars left")?;
        Cluster::new(&self.dial, std::slice::from_ref(request), Attempts::Daprd).call().await
    }
}

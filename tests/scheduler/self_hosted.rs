//! The arguments that `dapr init` gives the scheduler's container.

use anyhow::{Result, ensure};
use blackbox::{Scratch, environment};

use crate::etcd::client_port::etcdctl;
use crate::processes::Scheduler;
use crate::processes::member::{Crowd, every, once};

#[test]
fn the_container_of_dapr_init_keeps_its_jobs_on_a_fresh_volume() -> Result<()> {
    let volume = Scratch::new("volume")?;
    let data = format!("--etcd-data-dir={}", volume.path().join("dapr/scheduler").display());
    let address = "localhost:50006";
    let broadcast = format!("--override-broadcast-host-port={address}");
    let flags = [data.as_str(), &broadcast, "--etcd-client-listen-address=0.0.0.0"];
    let mut scheduler = Scheduler::start_with(environment::free_port()?, &flags);
    let crowd = Crowd::start(&[scheduler.port])?;
    ensure!(crowd.hosts(scheduler.port)? == [address]);
    crowd.schedule(scheduler.port, "far", once("24h"))?;
    crowd.schedule(scheduler.port, "tick", every("1s"))?;
    let tick = ["tick".to_owned()];
    crowd.wait_for(&tick, 1)?;
    scheduler.crash();
    crowd.wait_for_more(&tick, 2)?;
    let far = etcdctl(scheduler.client, &["get", "dapr/jobs/app||default||app||far"]);
    ensure!(far.contains(r#""count":1"#), "{far}");
    Ok(())
}

//! Row `scale-placement`: many hosts of actors, in many namespaces and in one.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use blackbox::{Scratch, Service, environment};
use futures::future::{join_all, try_join_all};
use runtime::clock::monotonic;

use super::{Readings, needs_descriptors, number};
use crate::clients::load;
use crate::clients::placement_hosts::Hosts;
use crate::environment::programs::Programs;
use crate::environment::test_env::{Running, Start};
use crate::environment::usage::{megabytes, milliseconds};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};

/// Time limit until all hosts of a namespace have one table.
const LIMIT: Duration = Duration::from_mins(5);
/// Time in which all hosts of a size join.
const JOINING: Duration = Duration::from_secs(20);
/// Pause before memory is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// Why placement ended streams. Others that are lost had a client that answered no ping of HTTP/2 in
/// time: it shares the cores with placement.
const ENDS: [(&str, &str); 2] = [
    ("streams that held up a round", "trilby_placement_streams_timed_out_total"),
    ("hits of limits", "trilby_server_limit_hits_total"),
];
/// Files that a process opens besides its connections.
const OTHER_FILES: u64 = 1_000;

/// Hosts of actors, up to twenty thousand.
#[derive(Debug)]
pub struct ScalePlacement;

struct Joining {
    programs: Programs,
    folder: Scratch,
    /// How many hosts, in namespaces of how many.
    spread: [usize; 3],
    namespace: usize,
    /// How many hosts in one namespace.
    together: [usize; 3],
    runtime: tokio::runtime::Runtime,
}

impl Scenario for ScalePlacement {
    fn description(&self) -> Description {
        Description {
            name: "scale-placement",
            about: "Hosts with 3 actor types join evenly within 20 s, acknowledge at once and \
                 stay, in plain text: 2,000, 6,000 and 20,000 in namespaces of 1,000, then 1,000, \
                 2,000 and 5,000 in one namespace. Each namespace connects from an address of its \
                 own, which may open 5,120 connections; 20,000 hosts need `ulimit -n 65536`",
            services: &[Service::Placement],
            is_only_named: true,
            ..Description::OURS
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let spread = size.pick([2_000, 6_000, 20_000], [200, 600, 2_000]);
        let most = spread.into_iter().max().unwrap_or_default();
        // Placement gives each of two listeners half of its descriptors.
        needs_descriptors(2 * (u64::try_from(most)? + OTHER_FILES))?;
        Ok(Box::new(Joining {
            programs: programs.clone(),
            folder: Scratch::new("bench")?,
            spread,
            namespace: size.pick(1_000, 100),
            together: size.pick([1_000, 2_000, 5_000], [100, 200, 500]),
            runtime: load::runtime()?,
        }))
    }
}

impl Prepared for Joining {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        for count in self.spread {
            readings.extend(self.hosts(side, "hosts", count, self.namespace)?);
        }
        for count in self.together {
            readings.extend(self.hosts(side, "hosts of one namespace", count, count)?);
        }
        Ok(readings)
    }
}

impl Joining {
    fn start(&self, side: Side) -> Result<Running> {
        let program = self.programs.path(side, Service::Placement)?;
        let port = environment::free_port()?;
        let alone = format!("--initial-cluster=dapr-placement-0=127.0.0.1:{port}");
        let start = Start::new(side.name(), Service::Placement, program, self.folder.path())?;
        Ok(start.args(&[&alone]).ready()?.0)
    }

    fn hosts(
        &self,
        side: Side,
        of: &'static str,
        count: usize,
        each: usize,
    ) -> Result<Vec<Reading>> {
        let server = self.start(side)?;
        let (idle, cpu) = (server.memory()?.rss, server.cpu()?);
        let mut spaces: Vec<Hosts> =
            (0..count / each).map(|number| space(&server, number)).collect::<Result<_>>()?;
        let mut readings = Readings::new(count, of);
        self.runtime.block_on(async {
            let begin = monotonic();
            join_all(spaces.iter_mut().map(|hosts| hosts.join(each, JOINING))).await;
            let joined = monotonic();
            let agreed = spaces.iter().map(|hosts| hosts.agreed(begin, LIMIT));
            let last = try_join_all(agreed).await?.into_iter().map(|agreed| agreed.at).max();
            let late = last.map(|at| at.saturating_duration_since(joined)).unwrap_or_default();
            readings.add("last table after the last join", Unit::Milliseconds, milliseconds(late));
            tokio::time::sleep(SETTLE).await;
            anyhow::Ok(())
        })?;
        readings.cpu("joined", server.cpu()?.saturating_sub(cpu));
        readings.memory("RSS", &server, idle)?;
        let sent: u64 = spaces.iter().map(Hosts::bytes).sum();
        readings.add("sent", Unit::Megabytes, megabytes(sent));
        let lost = spaces.iter().map(Hosts::lost).sum();
        readings.add("streams lost", Unit::Count, number(lost));
        for (what, series) in ENDS {
            readings.add(what, Unit::Count, server.metric(series)?);
        }
        drop(spaces);
        server.stop()?;
        Ok(readings.all)
    }
}

/// The hosts of a namespace, which come from an address of their own.
fn space(server: &Running, number: usize) -> Result<Hosts> {
    let source = Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1)?);
    Ok(Hosts::new(vec![server.address()]).of(&format!("bench-{number}"), source))
}

//! When a refused request is answered. Pure.
//!
//! A refusal needs less work of a peer than of the server: a peer that sends the next request as soon
//! as the last one is refused keeps the processor from all others. So an address has a burst of
//! answers at once, and further ones at a fixed rate; meanwhile each occupies one of the few requests
//! that its connections may have open.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The burst of an address, as a time of the rate.
const BURST: Duration = Duration::from_secs(4);
/// Addresses that are remembered before those without recent refusals are looked for.
const REMEMBERED: usize = 1_024;

/// The turns of all addresses.
#[derive(Debug)]
pub(super) struct Refusals {
    /// Between two turns.
    interval: Duration,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// The end of the last turn of an address, without its burst.
    ends: BTreeMap<IpAddr, Instant>,
    /// Number of addresses at which those of the past are removed.
    full: usize,
}

impl Refusals {
    /// That many of each address in a second, at least one, and [`BURST`] of it at once.
    pub(super) fn new(per_second: u32) -> Self {
        let table = Mutex::new(Table { ends: BTreeMap::new(), full: REMEMBERED });
        Self { interval: Duration::from_secs(1) / per_second.max(1), table }
    }

    /// When the next refusal of that address is answered, if not at once.
    pub(super) fn turn(&self, address: IpAddr, now: Instant) -> Option<Instant> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let end = table.ends.get(&address).map_or(now, |end| now.max(*end)) + self.interval;
        table.ends.insert(address, end);
        if table.ends.len() > table.full {
            table.ends.retain(|_, end| *end > now);
            table.full = REMEMBERED.max(2 * table.ends.len());
        }
        end.checked_sub(BURST).filter(|turn| *turn > now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn other(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number + 1).into()
    }

    #[test]
    fn an_address_gets_its_burst_at_once_and_then_its_rate() {
        let (refusals, now) = (Refusals::new(10), Instant::now());
        for _ in 0..40 {
            assert_eq!(refusals.turn(HOST, now), None);
        }
        for number in 1..=3 {
            let turn = refusals.turn(HOST, now).unwrap();
            assert_eq!(turn - now, number * Duration::from_millis(100));
        }
        assert_eq!(refusals.turn(other(1), now), None, "another address");
        let later = now + Duration::from_millis(400);
        assert_eq!(refusals.turn(HOST, later), None, "what has passed is free again");
        assert!(refusals.turn(HOST, later).is_some());
    }

    #[test]
    fn after_a_pause_there_is_one_burst_and_no_more() {
        let (refusals, now) = (Refusals::new(1), Instant::now());
        for _ in 0..8 {
            refusals.turn(HOST, now);
        }
        let later = now + Duration::from_hours(1);
        let at_once = (0..8).filter(|_| refusals.turn(HOST, later).is_none()).count();
        assert_eq!(at_once, 4);
    }

    #[test]
    fn addresses_are_forgotten_when_they_have_their_burst_again() {
        let (refusals, now) = (Refusals::new(1), Instant::now());
        let remembered = |count: u32, now| {
            for number in 0..count {
                refusals.turn(other(number), now);
            }
            refusals.table.lock().unwrap().ends.len()
        };
        let limit = u32::try_from(REMEMBERED).unwrap();
        assert_eq!(remembered(limit, now), REMEMBERED);
        let later = now + Duration::from_secs(2);
        refusals.turn(HOST, later);
        assert_eq!(remembered(1, later), 2, "the limit was passed by one");
        let (busy, much) = (Refusals::new(1), limit + 1);
        for number in 0..much {
            busy.turn(other(number), now);
        }
        assert_eq!(busy.table.lock().unwrap().ends.len(), REMEMBERED + 1, "none is free yet");
    }
}

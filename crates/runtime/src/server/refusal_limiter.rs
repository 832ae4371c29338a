//! Limits how fast an address gets refusals. Pure.
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

/// A token bucket for each address.
#[derive(Debug)]
pub(super) struct RefusalLimiter {
    /// Between two refusals beyond the burst.
    interval: Duration,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// When the refusals of an address so far would have taken place without a burst.
    reserved: BTreeMap<IpAddr, Instant>,
    /// Number of addresses at which those in the past are removed.
    prune_at: usize,
}

impl RefusalLimiter {
    /// That many of each address in a second, at least one, and [`BURST`] of it at once.
    pub(super) fn new(per_second: u32) -> Self {
        let table = Mutex::new(Table { reserved: BTreeMap::new(), prune_at: REMEMBERED });
        Self { interval: Duration::from_secs(1) / per_second.max(1), table }
    }

    /// Reserves a refusal; when it may be sent, if not at once.
    pub(super) fn reserve(&self, address: IpAddr, now: Instant) -> Option<Instant> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let last = table.reserved.get(&address).copied().unwrap_or(now);
        let reserved = last.max(now) + self.interval;
        table.reserved.insert(address, reserved);
        if table.reserved.len() > table.prune_at {
            table.reserved.retain(|_, at| *at > now);
            table.prune_at = REMEMBERED.max(2 * table.reserved.len());
        }
        reserved.checked_sub(BURST).filter(|at| *at > now)
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
        let (limiter, now) = (RefusalLimiter::new(10), Instant::now());
        for _ in 0..40 {
            assert_eq!(limiter.reserve(HOST, now), None);
        }
        for number in 1..=3 {
            let at = limiter.reserve(HOST, now).unwrap();
            assert_eq!(at - now, number * Duration::from_millis(100));
        }
        assert_eq!(limiter.reserve(other(1), now), None, "another address");
        let later = now + Duration::from_millis(400);
        assert_eq!(limiter.reserve(HOST, later), None, "what has passed is free again");
        assert!(limiter.reserve(HOST, later).is_some());
    }

    #[test]
    fn after_a_pause_there_is_one_burst_and_no_more() {
        let (limiter, now) = (RefusalLimiter::new(1), Instant::now());
        for _ in 0..8 {
            limiter.reserve(HOST, now);
        }
        let later = now + Duration::from_hours(1);
        let at_once = (0..8).filter(|_| limiter.reserve(HOST, later).is_none()).count();
        assert_eq!(at_once, 4);
    }

    #[test]
    fn addresses_are_forgotten_when_they_have_their_burst_again() {
        let (limiter, now) = (RefusalLimiter::new(1), Instant::now());
        let remembered = |count: u32, now| {
            for number in 0..count {
                limiter.reserve(other(number), now);
            }
            limiter.table.lock().unwrap().reserved.len()
        };
        let limit = u32::try_from(REMEMBERED).unwrap();
        assert_eq!(remembered(limit, now), REMEMBERED);
        let later = now + Duration::from_secs(2);
        limiter.reserve(HOST, later);
        assert_eq!(remembered(1, later), 2, "the limit was passed by one");
        let (busy, much) = (RefusalLimiter::new(1), limit + 1);
        for number in 0..much {
            busy.reserve(other(number), now);
        }
        assert_eq!(busy.table.lock().unwrap().reserved.len(), REMEMBERED + 1, "none is free yet");
    }
}

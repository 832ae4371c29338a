//! Entry point of the fuzz target for reports of sidecars.
use std::time::{Duration, Instant};

use prost::Message as _;
use proto::placement::{Host, PlacementOrder};

use crate::rounds::encoding::Encoding;
use crate::rounds::event::{Effect, Event, Rules};
use crate::rounds::membership::Membership;
use crate::rounds::message::{Message, StreamId};
use crate::rounds::table::{MAX_TABLE_BYTES, ORDER_OVERHEAD};
use crate::streams::admit::{Access, Admission};
use crate::streams::limits::MAX_MESSAGE_BYTES;
use crate::streams::wire::{self, Format};

/// Streams that take part.
const STREAMS: usize = 4;

/// Reports, each with the number of its stream and two bytes of length before it, and what all
/// sidecars are sent then.
pub fn reports(mut data: &[u8], start: Instant) {
    let rules = Rules { round_timeout: Duration::from_secs(8), hold_off: Duration::ZERO };
    let mut membership = Membership::taken_over(rules, 0, start);
    let mut streams: Vec<_> = (0..STREAMS).map(|_| None).collect();
    let (mut opened, mut now) = (0, start);
    while let [number, high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (report, rest) = rest.split_at(length);
        data = rest;
        now += Duration::from_millis(u64::from(*number));
        let Some(slot) = streams.get_mut(usize::from(*number) % STREAMS) else { continue };
        let Ok(host) = Host::decode(report) else { continue };
        if report.len() > MAX_MESSAGE_BYTES {
            continue;
        }
        let message = Message::from(host);
        let new = slot.is_none();
        let (stream, admission) = slot.get_or_insert_with(|| {
            opened += 1;
            (StreamId(opened), Admission::new(Access::Unproven))
        });
        let stream = *stream;
        if admission.check(&message).is_err() {
            *slot = None;
            apply(membership.step(Event::Closed { stream }, now));
            continue;
        }
        let event = if new {
            Event::Register { stream, message }
        } else {
            Event::Message { stream, message }
        };
        apply(membership.step(event, now));
        if membership.deadline().is_some_and(|deadline| deadline <= now) {
            apply(membership.step(Event::Tick, now));
        }
    }
}

/// Encodes what is sent, as the streams do.
fn apply(effects: Vec<Effect>) {
    for effect in effects {
        let Effect::Send { order, .. } = effect else { continue };
        for encoding in [Encoding::Identity, Encoding::Gzip] {
            let frame = wire::frame(&order, Format { replication_factor: 100, encoding });
            if encoding == Encoding::Identity {
                assert!(frame.len() <= MAX_TABLE_BYTES + ORDER_OVERHEAD, "{} bytes", frame.len());
                let order = PlacementOrder::decode(frame.get(5..).unwrap_or_default());
                assert!(order.is_ok(), "{order:?}");
            }
        }
    }
}

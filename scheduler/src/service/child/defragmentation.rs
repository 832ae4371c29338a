//! Defragmentation of the own etcd, which keeps the room of deleted records in its file. It answers
//! nothing meanwhile, so members do it in turn.

use std::time::Duration;

use jiff::Timestamp;
use runtime::clock;
use tokio_util::sync::CancellationToken;

use super::LOG;
use crate::store::StoreError;
use crate::store::etcd::Etcd;
use crate::store::etcd::maintenance::Usage;

/// The pause after a failure. Source: Dapr 1.18.
const RETRY: Duration = Duration::from_secs(5);
/// A file with this many times the bytes of its data is defragmented. Source: Dapr 1.18.
const FACTOR: i64 = 2;
/// A smaller gain is not worth the pause.
const MIN_GAIN_BYTES: i64 = 1 << 20;

/// When a member defragments its etcd.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defragmentation {
    /// Each member has one turn in it.
    pub(super) interval: Duration,
    /// The position of this member.
    pub(super) turn: u32,
    pub(super) members: u32,
}

impl Defragmentation {
    /// Defragments at each turn until `stop`.
    pub(crate) async fn run(self, store: Etcd, stop: CancellationToken) {
        let mut pause = self.until_turn(clock::now());
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let done = stop.run_until_cancelled(defragment(&store)).await;
            pause = match done {
                Some(Ok(())) => self.until_turn(clock::now()),
                Some(Err(error)) => {
                    tracing::warn!(target: LOG, "Cannot defragment etcd, retrying: {error}");
                    RETRY
                }
                None => return,
            };
        }
    }

    /// From now to the next turn: the interval has a part for each member, by the wall clock.
    fn until_turn(self, now: Timestamp) -> Duration {
        let interval = self.interval.as_nanos().max(1);
        let begin = interval * u128::from(self.turn) / u128::from(self.members.max(1));
        let since_epoch = now.as_nanosecond().unsigned_abs();
        let passed = (since_epoch % interval + interval - begin) % interval;
        Duration::from_nanos(u64::try_from(interval - passed).unwrap_or(u64::MAX))
    }
}

async fn defragment(store: &Etcd) -> Result<(), StoreError> {
    let usage = store.usage().await?;
    if !is_worthwhile(usage) {
        return Ok(());
    }
    let begun = clock::monotonic();
    store.defragment().await?;
    tracing::info!(target: LOG, "etcd was defragmented in {:?}: {} of {} bytes had data",
        begun.elapsed(), usage.live_bytes, usage.file_bytes);
    Ok(())
}

/// With an alarm, somebody repairs the store.
fn is_worthwhile(usage: Usage) -> bool {
    let gain = usage.file_bytes - usage.live_bytes;
    !usage.alarmed && gain >= MIN_GAIN_BYTES && usage.file_bytes / FACTOR >= usage.live_bytes
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const MB: i64 = 1 << 20;

    #[rstest]
    #[case::half_is_free(8 * MB, 4 * MB, false, true)]
    #[case::less_than_half(8 * MB, 4 * MB + 1, false, false)]
    #[case::smallest_gain(MB, 0, false, true)]
    #[case::too_small_a_gain(MB - 1, 0, false, false)]
    #[case::alarmed(8 * MB, 4 * MB, true, false)]
    fn a_file_is_defragmented(
        #[case] file_bytes: i64,
        #[case] live_bytes: i64,
        #[case] alarmed: bool,
        #[case] want: bool,
    ) {
        assert_eq!(is_worthwhile(Usage { file_bytes, live_bytes, alarmed }), want);
    }

    #[rstest]
    #[case(0, 0, 600)]
    #[case(0, 1, 599)]
    #[case(1, 0, 200)]
    #[case(1, 199, 1)]
    #[case(1, 200, 600)]
    #[case(2, 200, 200)]
    #[case(2, 500, 500)]
    fn members_take_turns(#[case] turn: u32, #[case] now: i64, #[case] want: u64) {
        let turns = Defragmentation { interval: Duration::from_mins(10), turn, members: 3 };
        let now = Timestamp::from_second(6_000_000 + now).unwrap();
        assert_eq!(turns.until_turn(now), Duration::from_secs(want));
    }
}

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use proptest::prelude::*;

use super::*;

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// Whether a waiting body was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A body that reads chunk after chunk.
struct Reader {
    account: Account,
    woken: Arc<Woken>,
    chunks: usize,
}

impl Reader {
    fn open(bodies: &Bodies, address: IpAddr) -> Self {
        Self { account: bodies.open(address), woken: Arc::default(), chunks: 0 }
    }

    fn reads(&mut self) -> bool {
        let waker = Waker::from(self.woken.clone());
        let room = self.account.poll_room(&Context::from_waker(&waker)).is_ready();
        self.chunks += usize::from(room);
        room
    }

    fn is_woken(&self) -> bool {
        self.woken.0.swap(false, Ordering::Relaxed)
    }

    fn is_evicted(&self) -> bool {
        self.account.evicted().is_cancelled()
    }
}

/// Room for so many chunks in all, and for an address.
fn bodies(chunks: usize, of_an_address: usize) -> Bodies {
    Bodies::new(chunks * CHUNK, of_an_address * CHUNK)
}

#[test]
fn an_address_holds_its_share_and_waits_for_more() {
    let bodies = bodies(10, 2);
    let [mut first, mut second, mut third] = [(); 3].map(|()| Reader::open(&bodies, A));
    assert!(first.reads() && second.reads());
    assert!(!third.reads(), "a chunk more than its share");
    assert!(Reader::open(&bodies, B).reads(), "another address is not affected");
    drop(second);
    assert!(third.is_woken() && third.reads());
}

#[test]
fn bodies_of_an_address_that_wait_for_each_other_end_one_after_the_other() {
    let bodies = bodies(10, 2);
    let [mut first, mut second] = [(); 2].map(|()| Reader::open(&bodies, A));
    assert!(first.reads() && second.reads());
    assert!(!second.reads());
    assert!(first.reads() && first.reads(), "the oldest goes on");
    drop(first);
    assert!(second.is_woken() && second.reads());
}

#[test]
fn the_address_with_most_makes_room_for_one_with_less() {
    let bodies = bodies(4, 4);
    let mut flood = [(); 4].map(|()| Reader::open(&bodies, A));
    assert!(flood.iter_mut().all(Reader::reads));
    let mut other = Reader::open(&bodies, B);
    assert!(other.reads());
    assert_eq!(flood.each_ref().map(Reader::is_evicted), [true, false, false, false]);
    assert!(!flood[0].reads(), "no room for a body that was ended");
    drop(flood);
    assert_eq!(bodies.lock().held, CHUNK);
}

#[test]
fn addresses_of_equal_size_do_not_displace_each_other() {
    let bodies = bodies(2, 2);
    let [mut a, mut b] = [A, B].map(|address| Reader::open(&bodies, address));
    assert!(a.reads() && b.reads());
    let mut more = Reader::open(&bodies, B);
    assert!(!more.reads() && !b.reads());
    assert!(a.reads(), "the oldest of all goes on");
    drop(a);
    assert!(b.is_woken() && more.is_woken());
    assert!(b.reads());
}

#[test]
fn nothing_is_left_of_bodies_that_ended() {
    let bodies = bodies(2, 1);
    let mut readers = [A, A, B, B].map(|address| Reader::open(&bodies, address));
    for reader in &mut readers {
        reader.reads();
    }
    drop(readers);
    let table = bodies.lock();
    assert_eq!(table.held, 0);
    assert!(table.all.is_empty() && table.addresses.is_empty());
    assert!(table.ranking.is_empty() && table.waiting.is_empty());
}

proptest! {
    /// Whatever comes and goes: the limits hold but for one body each, a body that was refused room
    /// is woken before it could have it, and somebody can always go on.
    #[test]
    fn no_order_of_steps_exceeds_a_limit_or_stops_all(
        steps in proptest::collection::vec((0_u8..4, 0_usize..8, any::<bool>()), 0..200),
    ) {
        const LARGEST: usize = 3;
        let bodies = bodies(6, 4);
        let mut readers: Vec<Reader> = Vec::new();
        for (address, which, ends) in steps {
            let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, address));
            if readers.len() < 8 && which % 2 == 0 {
                readers.push(Reader::open(&bodies, address));
            } else if !readers.is_empty() {
                let which = which % readers.len();
                if ends || readers[which].chunks == LARGEST {
                    readers.remove(which);
                } else {
                    readers[which].reads();
                }
            }
            readers.retain(|reader| !reader.is_evicted());
            let table = bodies.lock();
            let held: usize = readers.iter().map(|reader| reader.chunks * CHUNK).sum();
            prop_assert_eq!(table.held, held);
            prop_assert!(held <= (6 + LARGEST) * CHUNK);
            for (address, state) in &table.addresses {
                prop_assert!(state.held <= (4 + LARGEST) * CHUNK);
                prop_assert_eq!(state.held > 0, table.ranking.contains(&(state.held, *address)));
            }
        }
        while !readers.is_empty() {
            let goes_on = |reader: &mut Reader| reader.chunks == LARGEST || reader.reads();
            let found = readers.iter_mut().position(goes_on);
            let found = found.expect("all wait for each other");
            if readers[found].chunks >= LARGEST {
                readers.remove(found);
            }
            readers.retain(|reader| !reader.is_evicted());
        }
    }
}

//! Who is worked for next: a bounded number of requests at once, and a bounded queue in which
//! namespaces take turns, so that one that starts a thousand pods does not starve the others.
//!
//! [`Line`] is the pure core; [`Turns`] lets requests wait in it. The namespace is the one asked for
//! and not proven yet: a caller that invents namespaces gains turns, but no certificate, and the
//! bounds hold whatever it does.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// A queue in which namespaces take turns; within a namespace the first come is the first served.
#[derive(Debug)]
pub struct Line<T> {
    waiting: HashMap<String, VecDeque<T>>,
    /// The namespaces with somebody waiting, the next one first.
    order: VecDeque<String>,
    len: usize,
    capacity: usize,
}

/// What became of the line when somebody joined it.
#[derive(Debug, PartialEq, Eq)]
pub enum Joined<T> {
    /// There was room.
    Waiting,
    /// It was full: the last one of the longest queue had to go.
    InsteadOf(T),
    /// It was full, and no namespace has more waiting than this one.
    Refused(T),
}

impl<T> Line<T> {
    /// An empty line for at most `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new(), len: 0, capacity }
    }

    /// Joins the queue of a namespace.
    pub fn join(&mut self, namespace: &str, who: T) -> Joined<T> {
        if self.len < self.capacity {
            self.push(namespace, who);
            return Joined::Waiting;
        }
        let own = self.waiting.get(namespace).map_or(0, VecDeque::len);
        let longest = self.waiting.iter().max_by_key(|(_, queue)| queue.len());
        let Some(longest) = longest.filter(|(_, queue)| queue.len() > own + 1) else {
            return Joined::Refused(who);
        };
        let longest = longest.0.clone();
        let last = self.waiting.get_mut(&longest).and_then(VecDeque::pop_back);
        self.len -= usize::from(last.is_some());
        self.push(namespace, who);
        last.map_or(Joined::Waiting, Joined::InsteadOf)
    }

    /// Takes whose turn it is.
    pub fn call(&mut self) -> Option<T> {
        let namespace = self.order.pop_front()?;
        let queue = self.waiting.get_mut(&namespace)?;
        let who = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&namespace);
        } else {
            self.order.push_back(namespace);
        }
        self.len -= usize::from(who.is_some());
        who
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, namespace: &str, who: T) {
        if let Some(queue) = self.waiting.get_mut(namespace) {
            queue.push_back(who);
        } else {
            self.order.push_back(namespace.to_owned());
            self.waiting.insert(namespace.to_owned(), VecDeque::from([who]));
        }
        self.len += 1;
    }
}

/// Hands out turns. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Turns {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    free: usize,
    line: Line<oneshot::Sender<Turn>>,
}

/// There was no turn in time, or no room to wait for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTurn;

/// The right to be worked for. Whoever waits gets it when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Option<Turns>,
}

impl Turns {
    /// At most `at_once` turns at a time, and `waiting` requests in the line.
    pub fn new(at_once: usize, waiting: usize) -> Self {
        let state = State { free: at_once, line: Line::new(waiting) };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a turn, at most `limit`. Dropping the future gives up the place.
    ///
    /// # Errors
    /// [`NoTurn`] after `limit`, or at once when the line is full.
    pub async fn take(&self, namespace: &str, limit: Duration) -> Result<Turn, NoTurn> {
        let turn = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(self.turn());
            }
            let (called, turn) = oneshot::channel();
            // Whoever has to go learns of it by the end of its channel.
            if matches!(state.line.join(namespace, called), Joined::Refused(_)) {
                return Err(NoTurn);
            }
            turn
        };
        match tokio::time::timeout(limit, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(NoTurn),
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.lock().line.len()
    }

    fn turn(&self) -> Turn {
        Turn { turns: Some(self.clone()) }
    }

    /// Gives a turn to the next one who still waits.
    fn hand_on(&self) {
        loop {
            let called = {
                let mut state = self.lock();
                let Some(called) = state.line.call() else {
                    state.free += 1;
                    return;
                };
                called
            };
            match called.send(self.turn()) {
                Ok(()) => return,
                // It has given up. Its turn must not hand on by itself: that would recurse.
                Err(mut turn) => turn.turns = None,
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.hand_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn namespaces_take_turns() {
        let mut line = Line::new(10);
        for (namespace, who) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
            assert_eq!(line.join(namespace, who), Joined::Waiting);
        }
        let served: Vec<i32> = std::iter::from_fn(|| line.call()).collect();
        assert_eq!(served, [1, 4, 5, 2, 6, 3]);
    }

    #[test]
    fn a_full_line_takes_from_whoever_has_most() {
        let mut line = Line::new(3);
        for who in 1..=3 {
            line.join("greedy", who);
        }
        assert_eq!(line.join("greedy", 4), Joined::Refused(4));
        assert_eq!(line.join("modest", 5), Joined::InsteadOf(3));
        assert_eq!(line.join("modest", 6), Joined::Refused(6), "two against one is no gain");
        assert_eq!(line.len(), 3);
    }

    #[tokio::test]
    async fn a_turn_goes_to_whoever_waits() {
        let turns = Turns::new(1, 8);
        let first = turns.take("n", LONG).await.unwrap();
        let waits = turns.take("n", LONG);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        drop(first);
        let second = waits.await.unwrap();
        assert_eq!(turns.take("n", Duration::ZERO).await.unwrap_err(), NoTurn);
        drop(second);
        assert!(turns.take("n", Duration::ZERO).await.is_ok(), "nobody who gave up keeps a turn");
    }

    #[tokio::test]
    async fn a_full_line_refuses_at_once() {
        let turns = Turns::new(1, 1);
        let _held = turns.take("n", LONG).await.unwrap();
        let waits = turns.take("n", LONG);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        assert_eq!(turns.take("n", LONG).await.unwrap_err(), NoTurn);
        assert_eq!(turns.waiting(), 1);
    }

    /// What a test believes about a line.
    #[derive(Default)]
    struct Model {
        inside: BTreeSet<(usize, usize)>,
        /// Turns of others since a namespace that waits was served.
        passed_over: HashMap<usize, usize>,
    }

    impl Model {
        fn joined(&mut self, who: (usize, usize), joined: &Joined<(usize, usize)>) {
            match joined {
                Joined::Waiting => assert!(self.inside.insert(who)),
                Joined::InsteadOf(gone) => {
                    assert!(self.inside.remove(gone) && self.inside.insert(who));
                }
                Joined::Refused(same) => assert_eq!(*same, who),
            }
        }

        fn served(&mut self, who: Option<(usize, usize)>) {
            let Some(who) = who else { return assert!(self.inside.is_empty()) };
            assert!(self.inside.remove(&who));
            self.passed_over.remove(&who.0);
            let waiting: BTreeSet<usize> = self.inside.iter().map(|(n, _)| *n).collect();
            self.passed_over.retain(|namespace, _| waiting.contains(namespace));
            for namespace in waiting.into_iter().filter(|namespace| *namespace != who.0) {
                *self.passed_over.entry(namespace).or_default() += 1;
            }
            assert!(self.passed_over.values().all(|turns| *turns < NAMESPACES), "one starves");
        }
    }

    const NAMESPACES: usize = 5;

    proptest! {
        /// Whatever the order of joins and turns: nobody is lost or served twice, the line keeps
        /// its bound, and whoever waits is passed over at most once by each other namespace.
        #[test]
        fn the_line_is_fair_and_loses_nobody(
            steps in prop::collection::vec(prop::option::of(0..NAMESPACES), 1..200),
            capacity in 1_usize..20,
        ) {
            let (mut line, mut model) = (Line::new(capacity), Model::default());
            for (who, step) in steps.into_iter().enumerate() {
                if let Some(namespace) = step {
                    let who = (namespace, who);
                    model.joined(who, &line.join(&namespace.to_string(), who));
                } else {
                    model.served(line.call());
                }
                prop_assert!(line.len() <= capacity);
                prop_assert_eq!(line.len(), model.inside.len());
            }
        }
    }
}

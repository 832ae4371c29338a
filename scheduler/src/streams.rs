//! Open `WatchJobs` streams and the task that owns the engine. Start reading at [`dispatcher`].
//!
//! ```text
//!  store ──StoreEvent──► dispatcher ──Event──► Engine::step (pure)
//!                    │   ▲                   │
//!        Mailbox ◄───┘   │ Ack, Taken        └──Effect──► dispatcher ──► store
//!           │            │
//!           └─► Stream ──┘   one task per stream: loads a record when the transport takes it
//! ```
//! The dispatcher never waits for a stream: what a stream has not read is a list of keys in its
//! mailbox, whose length the engine limits.

pub(crate) mod dispatcher;
pub(crate) mod mailbox;
mod scan;
pub(crate) mod stream;
mod writes;

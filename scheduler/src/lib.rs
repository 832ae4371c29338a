//! Scheduler: stores jobs and actor reminders and delivers each one to a connected sidecar when it
//! is due, at least once for each tick and never early.
//!
//! ```text
//!  request ──► schedule (checks it, computes ticks) ──► store
//!                                                         │ Event
//!  sidecar ◄══stream══► shell ──────Event──────► engine::Engine::step (pure)
//!                         ▲                               │
//!                         └────── Effect: deliver, persist, finish, load
//! ```
//! Start reading at [`engine`]: all decisions are made there. The current time is an argument of
//! every decision.

#[expect(dead_code, reason = "no service drives the engine yet")]
pub(crate) mod engine;
#[cfg_attr(not(test), expect(dead_code, reason = "no service checks requests yet"))]
pub(crate) mod schedule;

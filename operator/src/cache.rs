//! The custom resources as last observed, and the streams that receive their changes.
//!
//! Start at [`store`]: one store per kind applies watch events to its [`objects`] and publishes the
//! resulting changes through its [`broadcaster`]. The room performs no I/O.
pub(crate) mod broadcaster;
pub(crate) mod objects;
pub(crate) mod store;

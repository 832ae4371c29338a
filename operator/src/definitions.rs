//! What the leader writes into custom resource definitions, and the conversion that one of them asks
//! for.
//!
//! Start at [`subscriptions`], whose objects have two versions; [`columns`] are what `kubectl get`
//! shows of every kind.
pub(crate) mod columns;
pub(crate) mod subscriptions;

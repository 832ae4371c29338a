//! The CA that sentry signs with. Start with [`bundle::Bundle`]; `issue` makes leaves, `cross_sign`
//! rotates the root, `stored` decides what happens to a stored one.

pub(crate) mod bundle;
pub(crate) mod cross_sign;
pub(crate) mod issue;
pub mod stored;

//! ASN.1: what is needed to write DER, and the object identifiers in use.

pub(crate) mod der;
pub(crate) mod oid;

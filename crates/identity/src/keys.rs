//! Keys and signatures. Start with [`key::PrivateKey`]; `jwk` reads key sets, `signature` verifies the
//! signatures of certificates and requests.

pub(crate) mod jwk;
pub(crate) mod key;
pub(crate) mod signature;

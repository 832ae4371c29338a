//! The benchmark against the reference control plane.

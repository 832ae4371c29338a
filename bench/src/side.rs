//! The two sides of a comparison.

use serde::{Deserialize, Serialize};

/// The control plane that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Dapr's own programs.
    Reference,
    /// Programs of an older commit of this repository, in place of the reference.
    Baseline,
    /// This repository.
    Trilby,
}

impl Side {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Baseline => "baseline",
            Self::Trilby => "trilby",
        }
    }
}

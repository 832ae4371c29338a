//! Full and cut runs.

/// Size of the loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As the descriptions of the rows say.
    Full,
    /// About a tenth, for a quick look.
    Quick,
}

impl Size {
    /// `full` or `quick`, by size.
    pub fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

//! Why the file of an export cannot be used.

/// Why a file is not imported, or not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Another program wrote it.
    #[error("it is no export of `daprctl jobs export` or `dapr scheduler export`")]
    Foreign,
    /// Bytes are missing or changed.
    #[error("it was cut off or changed")]
    Damaged,
    /// Contains the limit.
    #[error("it has more than {0} jobs and counters")]
    TooManyPairs(usize),
    /// Contains the limit in bytes.
    #[error("it has more than {0} bytes: delete jobs that are no longer needed and export again")]
    TooLarge(u64),
}

//! The process's limit of open file descriptors.

#[cfg(unix)]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit that a process raises itself to, where its hard limit allows that. It covers two
/// listeners with [`Limits::CONNECTIONS_OF_ALL_SIDECARS`](crate::server::Limits), and stays below the
/// limits at which walking over all descriptors becomes slow.
#[cfg(unix)]
pub(crate) const WANTED: u64 = 65_536;

/// Raises the soft limit to 65,536, or to the hard limit where that is lower, and returns the
/// resulting soft limit. A higher soft limit is kept. Newer container runtimes start processes with
/// a soft limit of 1,024.
#[cfg(unix)]
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = raised(limit);
    if wanted != limit && setrlimit(Resource::Nofile, wanted).is_err() {
        tracing::warn!("could not raise the limit of open files; it stays at {}", soft(limit));
    }
    available()
}

/// Windows has no such limit: `u64::MAX`.
#[cfg(not(unix))]
pub fn raise() -> u64 {
    available()
}

/// The current soft limit, in descriptors; `u64::MAX` without a limit.
pub fn available() -> u64 {
    #[cfg(unix)]
    return soft(getrlimit(Resource::Nofile));
    #[cfg(not(unix))]
    return u64::MAX;
}

#[cfg(unix)]
fn soft(limit: Rlimit) -> u64 {
    limit.current.unwrap_or(u64::MAX)
}

#[cfg(unix)]
fn raised(limit: Rlimit) -> Rlimit {
    let wanted = limit.maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    Rlimit { current: limit.current.map(|current| current.max(wanted)), ..limit }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_within_the_hard_limit_and_never_lowered() {
        for (current, maximum, want) in [
            (Some(1_024), Some(524_288), Some(WANTED)),
            (Some(1_024), Some(4_096), Some(4_096)),
            (Some(WANTED - 1), None, Some(WANTED)),
            (Some(WANTED + 1), None, Some(WANTED + 1)),
            (None, None, None),
        ] {
            let limit = raised(Rlimit { current, maximum });
            assert_eq!((limit.current, limit.maximum), (want, maximum), "{current:?} {maximum:?}");
        }
    }

    #[test]
    fn raising_is_in_force_for_this_process() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert!(raise() >= hard.min(WANTED));
    }
}

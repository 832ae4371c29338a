//! The process's limit of open file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit that a process raises itself to, where its hard limit allows that. It covers two
/// listeners at their default of 16,384 connections, and stays below the limits at which walking
/// over all descriptors becomes slow.
const WANTED: u64 = 65_536;

/// Raises the soft limit to 65,536, or to the hard limit where that is lower, and returns the
/// soft limit that holds. A higher soft limit is kept. Newer container runtimes start processes with
/// a soft limit of 1,024.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = raised(limit);
    if wanted != limit && setrlimit(Resource::Nofile, wanted).is_err() {
        tracing::warn!("could not raise the limit of open files; it stays at {}", soft(limit));
    }
    available()
}

/// The soft limit as it is now.
pub fn available() -> u64 {
    soft(getrlimit(Resource::Nofile))
}

fn soft(limit: Rlimit) -> u64 {
    limit.current.unwrap_or(u64::MAX)
}

fn raised(limit: Rlimit) -> Rlimit {
    let wanted = limit.maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    Rlimit { current: limit.current.map(|current| current.max(wanted)), ..limit }
}

#[cfg(test)]
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

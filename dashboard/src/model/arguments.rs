//! What pages show of the arguments of a program. They may hold secrets and are not kept.

use runtime::flags::go_bool;

/// Facts from the arguments of the containers of a pod, or of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Whether the sidecar uses mTLS (Dapr 1.18, `--enable-mtls`).
    pub has_mtls: bool,
    /// Whether the sidecar has an address of placement (Dapr 1.18, `--placement-host-address`,
    /// `--actors-service`).
    pub has_placement: bool,
    /// Whether the sidecar has an address of the scheduler (Dapr 1.18, `--scheduler-host-address`).
    pub has_scheduler: bool,
    /// Virtual nodes of each actor host, of placement (Dapr 1.18, `--replicationFactor`).
    pub(crate) virtual_nodes: Option<u32>,
}

impl Arguments {
    /// Reads words, without the name of the program.
    pub fn read<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of(&flags(words))
    }

    /// Reads flags and their values; of several the last counts.
    pub(crate) fn of(flags: &[(&str, &str)]) -> Self {
        let value = |name: &str| flags.iter().rfind(|(own, _)| *own == name).map(|(_, v)| *v);
        let is_on = |text: &str| go_bool(text) != Ok(false);
        let is_set = |name: &str| value(name).is_some_and(|text| !text.is_empty());
        Self {
            has_mtls: value("enable-mtls").is_some_and(is_on),
            has_placement: is_set("placement-host-address") || is_set("actors-service"),
            has_scheduler: is_set("scheduler-host-address"),
            virtual_nodes: value("replicationFactor").and_then(|text| text.parse().ok()),
        }
    }
}

/// Flags and their values. A flag may have one dash or two, and its value after `=` or in the next
/// word.
pub(crate) fn flags<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<(&'a str, &'a str)> {
    let mut flags = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix('-') else { continue };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        flags.push(match flag.split_once('=') {
            Some(pair) => pair,
            None => (flag, words.next_if(|next| is_value(next)).unwrap_or_default()),
        });
    }
    flags
}

/// Whether a word is the value of the flag before it: a flag that is a switch may have none.
fn is_value(word: &str) -> bool {
    let number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    word.strip_prefix('-').is_none_or(number)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", false, None)]
    #[case("--enable-mtls --mode kubernetes", true, None)]
    #[case("--mode kubernetes --enable-mtls", true, None)]
    #[case("--enable-mtls=true", true, None)]
    #[case("--enable-mtls=false", false, None)]
    #[case("--enable-mtls --enable-mtls=false", false, None)]
    #[case("--replicationFactor=250 --port 1", false, Some(250))]
    #[case("-replicationFactor 7", false, Some(7))]
    #[case("--replicationFactor=-1", false, None)]
    #[case("--replicationFactor=many", false, None)]
    fn flags_are_read_as_go_reads_them(
        #[case] words: &str,
        #[case] has_mtls: bool,
        #[case] virtual_nodes: Option<u32>,
    ) {
        let want = Arguments { has_mtls, virtual_nodes, ..Arguments::default() };
        assert_eq!(Arguments::read(words.split_whitespace()), want);
    }

    #[rstest]
    #[case(&["--mode", "kubernetes"], false, false)]
    #[case(&["--placement-host-address", "p:50005", "--scheduler-host-address", "s:50006"], true, true)]
    #[case(&["--actors-service=placement:p:50005"], true, false)]
    #[case(&["--placement-host-address", "", "--scheduler-host-address="], false, false)]
    fn an_empty_address_is_none(
        #[case] words: &[&str],
        #[case] has_placement: bool,
        #[case] has_scheduler: bool,
    ) {
        let want = Arguments { has_placement, has_scheduler, ..Arguments::default() };
        assert_eq!(Arguments::read(words.iter().copied()), want);
    }
}

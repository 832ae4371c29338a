//! Lines of logs: their level, without those that may hold a secret. Pure.

use jiff::Timestamp;
use serde::Serialize;

use super::redaction::is_secret_text;

/// Longest line that is shown, in bytes.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// Longest time of a line with the space behind it, in bytes: RFC 3339 with nanoseconds and an offset.
const MAX_TIME_BYTES: usize = 36;
/// Replacement of a line that may hold a secret.
const HIDDEN_LINE: &str = "(hidden: this line may hold a secret)";

/// Level of a line, as services and sidecars write it (Dapr 1.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Warning,
    Error,
}

impl LogLevel {
    pub(crate) const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warning, Self::Error];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// By the word of a log or of a filter.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "trace" | "debug" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warn" | "warning" => Some(Self::Warning),
            "error" | "fatal" | "panic" => Some(Self::Error),
            _ => None,
        }
    }

    /// Of a line in either format of Dapr's logs: `level=info`, or JSON with a member `level`.
    fn of(line: &str) -> Option<Self> {
        let keys = ["level=", "\"level\":"];
        let first = keys.iter().filter_map(|key| Some(line.find(key)? + key.len())).min()?;
        let word = line.get(first..)?.trim_start_matches([' ', '"']);
        let end = word.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word.len());
        Self::parse(word.get(..end)?)
    }
}

/// A log whose lines came with their times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Log {
    /// The lines without their times.
    pub(crate) text: String,
    /// Time of the last line; `None` without lines, and after words of the kubelet's.
    pub(crate) last: Option<String>,
}

impl Log {
    /// Reads what the API server answers with `timestamps=true`.
    pub(crate) fn read(log: &[u8]) -> Self {
        let mut read = Self::default();
        for line in String::from_utf8_lossy(log).lines() {
            let (time, rest) = split_time(line);
            read.text.push_str(rest);
            read.text.push('\n');
            read.last = time.map(str::to_owned);
        }
        read
    }
}

/// The time at the begin of a line, and the rest.
fn split_time(line: &str) -> (Option<&str>, &str) {
    let split = line.split_once(' ').filter(|(time, _)| time.parse::<Timestamp>().is_ok());
    split.map_or((None, line), |(time, rest)| (Some(time), rest))
}

/// Finds out whether a log that is followed from its last line on has lines that a page does not have.
#[derive(Debug)]
pub(crate) struct Following {
    /// Time of the last line that the page has.
    seen: Option<String>,
    state: FollowState,
}

#[derive(Debug)]
enum FollowState {
    /// In the time of the first line; its text until now.
    Time(Vec<u8>),
    /// In the rest of a line that the page has.
    SeenLine,
    /// Every further byte is new.
    New,
}

impl Following {
    /// `seen` is the time of the last line that the page has; a longer text is none.
    pub(crate) fn after(seen: Option<String>) -> Self {
        let seen = seen.filter(|time| time.len() < MAX_TIME_BYTES);
        Self { seen, state: FollowState::Time(Vec::new()) }
    }

    /// Takes the next bytes; whether they belong to a new line.
    pub(crate) fn has_new(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        if let FollowState::Time(start) = &mut self.state {
            let room = MAX_TIME_BYTES.saturating_sub(start.len());
            start.extend_from_slice(rest.get(..room).unwrap_or(rest));
            let is_whole = start.len() == MAX_TIME_BYTES || start.contains(&b'\n');
            if !is_whole {
                return false;
            }
            let text = String::from_utf8_lossy(start);
            let (time, _) = split_time(text.lines().next().unwrap_or_default());
            self.state =
                if time == self.seen.as_deref() { FollowState::SeenLine } else { FollowState::New };
        }
        if matches!(self.state, FollowState::SeenLine) {
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return false };
            rest = rest.get(end + 1..).unwrap_or_default();
            self.state = FollowState::New;
        }
        !rest.is_empty()
    }
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LogLine {
    /// Its own level, or that of the line that it continues.
    pub(crate) level: LogLevel,
    pub(crate) text: String,
}

/// The lines of a log whose level is at least `least` and that contain `q` in any case; hidden lines
/// by their replacement. Lines before the first level count as informational.
pub(crate) fn lines(log: &str, least: LogLevel, q: &str) -> Vec<LogLine> {
    let (wanted, mut level) = (q.to_lowercase(), LogLevel::Info);
    let lines = checked_lines(log).map(|(line, may_be_secret)| {
        level = LogLevel::of(line).unwrap_or(level);
        LogLine { level, text: if may_be_secret { HIDDEN_LINE.to_owned() } else { shown(line) } }
    });
    lines.filter(|line| line.level >= least && line.text.to_lowercase().contains(&wanted)).collect()
}

/// The lines of a log, each with whether it may hold a secret. A key in PEM ends with its last line, or
/// at a line with a level; the log may begin in the middle of one.
pub fn checked_lines(log: &str) -> impl Iterator<Item = (&str, bool)> {
    const BEGIN: &str = "-----BEGIN";
    const END: &str = "-----END";
    let (begin, end) = (log.find(BEGIN), log.find(END));
    let mut is_in_key = end.is_some_and(|end| begin.is_none_or(|begin| end < begin));
    log.lines().map(move |line| {
        let continues = is_in_key && LogLevel::of(line).is_none();
        is_in_key = (continues || line.contains(BEGIN)) && !line.contains(END);
        (line, continues || is_secret_text(line))
    })
}

fn shown(line: &str) -> String {
    match line.get(..line.floor_char_boundary(MAX_LINE_BYTES)) {
        Some(start) if start.len() < line.len() => format!("{start}…"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::LogLevel::{Debug, Error, Warning};
    use super::*;

    /// As daprd 1.18 writes it.
    const LOG: &str = "time=\"2026-11-29T10:00:00Z\" level=debug msg=a\n\
        time=\"2026-11-29T10:00:01Z\" level=warning msg=\"b\"\n  continued\n\
        {\"level\":\"error\",\"msg\":\"c\"}\n";

    fn shown_of(least: LogLevel, q: &str) -> usize {
        lines(LOG, least, q).len()
    }

    #[test]
    fn lines_are_chosen_by_level_and_text() {
        let levels: Vec<_> = lines(LOG, Debug, "").iter().map(|l| l.level).collect();
        assert_eq!(levels, [Debug, Warning, Warning, Error]);
        assert_eq!((shown_of(Warning, ""), shown_of(Error, "")), (3, 1));
        assert_eq!((shown_of(Debug, "CONTINUED"), shown_of(Error, "continued")), (1, 0));
    }

    #[rstest]
    #[case("level=info msg=\"redis://u:p4ss@host\"")]
    #[case("level=error msg=\"dial: password=p4ss\"")]
    #[case("{\"level\":\"info\",\"msg\":\"Authorization: Bearer p4ss\"}")]
    #[case("level=info msg=\"eyJhbGciOiJSUzI1NiJ9.p4ss\"")]
    fn a_line_that_may_hold_a_secret_is_hidden(#[case] line: &str) {
        let lines = lines(line, Debug, "");
        assert_eq!(lines.first().unwrap().text, HIDDEN_LINE);
        assert!(super::lines(line, Debug, "p4ss").is_empty());
    }

    #[test]
    fn the_first_level_of_a_line_counts() {
        let line = r#"{"level":"error","msg":"was level=info"}"#;
        assert_eq!(lines(line, Error, "").len(), 1);
    }

    #[test]
    fn every_line_of_a_key_is_hidden() {
        let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n";
        let whole = format!("level=info msg=a\nlevel=info msg={key}level=info msg=b\n");
        let (_, tail) = whole.split_once("KEY-----\n").unwrap();
        for (log, want) in [(whole.as_str(), "a|?|?|?|b"), (tail, "?|?|b")] {
            let line = |(line, is_secret): (&str, bool)| {
                if is_secret { "?".to_owned() } else { line.replace("level=info msg=", "") }
            };
            assert_eq!(checked_lines(log).map(line).collect::<Vec<_>>().join("|"), want);
        }
    }

    const TIME: &str = "2026-11-29T10:00:00.123456789Z";

    #[test]
    fn times_of_the_api_server_are_no_part_of_the_lines() {
        let log = Log::read(format!("{TIME} level=info msg=a\nunable to retrieve\n").as_bytes());
        assert_eq!(log.text, "level=info msg=a\nunable to retrieve\n");
        assert_eq!(log.last, None);
        assert_eq!(Log::read(format!("{TIME} a\n").as_bytes()).last.as_deref(), Some(TIME));
        assert_eq!(Log::read(b""), Log::default());
    }

    #[rstest]
    #[case(Some(TIME), "2026-11-29T10:00:00.123456789Z a\n", false)]
    #[case(Some(TIME), "2026-11-29T10:00:00.123456790Z a\n", true)]
    #[case(None, "2026-11-29T10:00:00.123456789Z a\n", true)]
    #[case(None, "unable to retrieve container logs\n", false)]
    #[case(Some(TIME), "", false)]
    fn lines_before_the_watch_are_found(
        #[case] seen: Option<&str>,
        #[case] log: &str,
        #[case] want: bool,
    ) {
        let mut following = Following::after(seen.map(str::to_owned));
        assert_eq!(following.has_new(log.as_bytes()), want);
    }

    #[test]
    fn a_time_has_a_limit() {
        let seen = |bytes: usize| Following::after(Some("1".repeat(bytes))).seen.is_some();
        assert!(seen(MAX_TIME_BYTES - 1));
        assert!(!seen(MAX_TIME_BYTES));
    }

    #[test]
    fn a_line_has_a_limit() {
        let of = |bytes: usize| shown(&"a".repeat(bytes));
        assert_eq!(of(MAX_LINE_BYTES).len(), MAX_LINE_BYTES);
        assert_eq!(of(MAX_LINE_BYTES + 1), format!("{}…", "a".repeat(MAX_LINE_BYTES)));
    }

    proptest! {
        #[test]
        fn no_log_panics(log in any::<Vec<u8>>()) {
            let _ = lines(&Log::read(&log).text, Debug, "");
        }

        #[test]
        fn new_lines_are_found_however_they_are_cut(cut in 0..=90_usize, with_new in any::<bool>()) {
            let log = format!("{TIME} level=info msg=a\n");
            let log = if with_new { log.clone() + &log.replace("msg=a", "msg=b") } else { log };
            let (first, second) = log.as_bytes().split_at(cut.min(log.len()));
            let mut following = Following::after(Some(TIME.to_owned()));
            let found = following.has_new(first) | following.has_new(second);
            prop_assert_eq!(found, with_new);
        }
    }
}

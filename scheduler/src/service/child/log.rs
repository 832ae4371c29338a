//! The log of etcd, line by line into the log of this process.

use serde_json::{Map, Value};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tracing::Level;

use super::LOG;

/// Bytes of a line; the rest becomes another line.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// Texts of etcd 3.5 when its files do not fit what the other members know of it: it was removed, or
/// files of an earlier time are in their place.
const UNFIT: [&str; 2] =
    ["the member has been permanently removed", "Was the raft log corrupted, truncated, or lost?"];

/// Logs each line until the pipe is closed.
pub(super) async fn repeat(pipe: impl AsyncRead + Unpin) {
    let mut reader = BufReader::new(pipe);
    while let Some(line) = next_line(&mut reader).await {
        write(&Line::parse(String::from_utf8_lossy(&line).trim_end()));
    }
}

async fn next_line(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let read = reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await;
    read.ok().filter(|bytes| *bytes > 0).map(|_| line)
}

fn write(Line { level, message, fields }: &Line) {
    match *level {
        Level::ERROR => tracing::error!(target: LOG, fields, "{message}"),
        Level::WARN => tracing::warn!(target: LOG, fields, "{message}"),
        Level::INFO => tracing::info!(target: LOG, fields, "{message}"),
        _ => tracing::debug!(target: LOG, fields, "{message}"),
    }
    let said = |text: &&str| {
        message.contains(*text) || fields.as_deref().is_some_and(|fields| fields.contains(*text))
    };
    if UNFIT.iter().any(said) {
        tracing::error!(target: LOG,
            "The files of this member do not fit those of the other members, which have all jobs and \
             fire them. Delete the directory dapr-0.1 of this member: the log then says how it joins \
             again");
    }
}

/// A line of etcd.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    level: Level,
    message: String,
    /// The other fields, as JSON.
    fields: Option<String>,
}

impl Line {
    /// Lines are JSON, except for those of Go's runtime when it ends the process.
    fn parse(text: &str) -> Self {
        let raw = || Self { level: Level::ERROR, message: text.to_owned(), fields: None };
        let Ok(mut fields) = serde_json::from_str::<Map<String, Value>>(text) else {
            return raw();
        };
        let mut take = |key: &str| match fields.shift_remove(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let (level, message) = (take("level"), take("msg"));
        let _unused = (take("ts"), take("caller"));
        let level = match level.as_deref() {
            Some("debug") => Level::DEBUG,
            Some("info") => Level::INFO,
            Some("warn") => Level::WARN,
            _ => Level::ERROR,
        };
        let fields = (!fields.is_empty()).then(|| Value::Object(fields).to_string());
        Self { level, message: message.unwrap_or_default(), fields }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        r#"{"level":"info","ts":"2026","caller":"a.go:1","msg":"ready"}"#,
        Level::INFO,
        "ready",
        None
    )]
    #[case(
        r#"{"level":"warn","msg":"slow","took":"5s"}"#,
        Level::WARN,
        "slow",
        Some(r#"{"took":"5s"}"#)
    )]
    #[case(r#"{"level":"fatal","msg":"full"}"#, Level::ERROR, "full", None)]
    #[case(r#"{"level":"debug","msg":""}"#, Level::DEBUG, "", None)]
    #[case("panic: no", Level::ERROR, "panic: no", None)]
    #[case("", Level::ERROR, "", None)]
    fn lines(
        #[case] text: &str,
        #[case] level: Level,
        #[case] message: &str,
        #[case] fields: Option<&str>,
    ) {
        let want = Line { level, message: message.to_owned(), fields: fields.map(str::to_owned) };
        assert_eq!(Line::parse(text), want);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_two() {
        let limit = usize::try_from(MAX_LINE_BYTES).unwrap();
        let text = [vec![b'a'; limit - 1], vec![b'\n'], vec![b'b'; limit], vec![b'\n']].concat();
        let mut reader = &text[..];
        let mut lengths = Vec::new();
        while let Some(line) = next_line(&mut reader).await {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [limit, limit, 1]);
    }
}

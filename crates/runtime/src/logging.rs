//! Log lines with the keys that the peers' tooling expects, as text or as JSON objects.
//!
//! Source: Dapr 1.18, log lines of every service: `time level msg scope type ver app_id instance`,
//! text lines with the remaining keys sorted, values quoted unless they are plain words. The
//! target of an event is its scope; its other fields follow under their own names.

mod fields;
mod file;
mod layout;
mod outputs;
mod repeats;
mod writer;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, Registry};
use serde_json::Value;
use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber, span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::util::SubscriberInitExt as _;

use self::fields::Fields;
use self::layout::Layout;
use self::outputs::Outputs;
use self::repeats::Repeats;
use self::writer::Writer;
use crate::flags::ProcessFlags;
use crate::version::VERSION;
use crate::{clock, environment};

/// Why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("--log-level {0:?} is unknown; use debug, info, warn, error or fatal")]
    Level(String),
    #[error("open log file {name}")]
    File {
        name: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("start the thread that writes the log")]
    Thread(#[source] std::io::Error),
    #[error("register the counters of the log")]
    Counters(#[from] prometheus::Error),
    #[error("install the logger")]
    Install(#[source] tracing_subscriber::util::TryInitError),
}

/// First parts of the targets that follow `--log-level`: the scopes of the services, and the crates
/// of this workspace that run in a service. All others are logged from `warn` on.
const OUR_TARGETS: [&str; 14] = [
    "actor_ring",
    "dapr",
    "dashboard",
    "identity",
    "kubernetes",
    "operator",
    "placement",
    "proto",
    "resources",
    "runtime",
    "scheduler",
    "sentry",
    "sidecar_injector",
    "transport",
];

/// Suffix of the targets of audit logs, which are never limited.
const AUDIT: &str = ".audit";
const DROPPED: &str = "trilby_log_lines_dropped_total";
const SUPPRESSED: &str = "trilby_log_lines_suppressed_total";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Text,
    Json,
}

/// Installs the process-wide subscriber.
///
/// # Errors
/// The level is none of `debug info warn error fatal` (any case), or the file cannot be opened.
pub(crate) fn start(scope: &'static str, flags: &ProcessFlags) -> Result<Logger, LogError> {
    let level = level(&flags.log_level)?;
    let outputs = Outputs::open(flags)?;
    let style = if flags.log_as_json { Style::Json } else { Style::Text };
    let format = Format {
        scope,
        style,
        app_id: scope.replacen('.', "-", 1),
        instance: environment::hostname(),
        layout: layout(&flags.log.log_timestamp_format),
    };
    let (lines, logger) = Lines::new(format, level, outputs)?;
    tracing_subscriber::registry().with(lines).try_init().map_err(LogError::Install)?;
    if outputs::never_rotates(&flags.log) {
        tracing::warn!(
            target: "dapr.log",
            "log files are not rotated: --log-file-max-backups, --log-file-max-age and \
             --log-file-compression have no effect without --log-file-max-size"
        );
    }
    Ok(logger)
}

/// The log of the process.
pub(crate) struct Logger {
    writer: Writer,
    dropped: IntCounter,
    suppressed: IntCounter,
}

impl Logger {
    /// Registers the counters of lines that are not written.
    ///
    /// # Errors
    /// A name is registered already.
    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.dropped.clone()))?;
        registry.register(Box::new(self.suppressed.clone()))
    }

    /// Waits until all lines are written, at most for two seconds.
    pub(crate) fn flush(&self) {
        self.writer.flush(Duration::from_secs(2));
    }
}

fn layout(text: &str) -> Option<Layout> {
    (!text.is_empty()).then(|| Layout::parse(text))
}

fn level(name: &str) -> Result<LevelFilter, LogError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        "error" | "fatal" => LevelFilter::ERROR,
        _ => return Err(LogError::Level(name.to_owned())),
    })
}

/// The format of a line.
#[derive(Clone)]
struct Format {
    scope: &'static str,
    style: Style,
    app_id: String,
    instance: String,
    /// `None` prints RFC 3339 with nanoseconds.
    layout: Option<Layout>,
}

struct Lines {
    format: Arc<Format>,
    level: LevelFilter,
    repeats: Mutex<Repeats<Identifier>>,
    suppressed: IntCounter,
    writer: Writer,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        let krate = metadata.target().split([':', '.']).next().unwrap_or_default();
        let limit = if OUR_TARGETS.contains(&krate) {
            self.level
        } else if krate == "openraft" && self.level < LevelFilter::DEBUG {
            // It logs every heartbeat that a stopped replica does not answer as an error. Placement
            // itself logs once which replica does not answer.
            LevelFilter::OFF
        } else {
            self.level.min(LevelFilter::WARN)
        };
        *metadata.level() <= limit
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let Some(suppressed) = self.admit(event.metadata()) else { return };
        let mut fields = Fields::default();
        for span in ctx.event_scope(event).into_iter().flat_map(Scope::from_root) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.0.extend(outer.0.iter().map(|(k, v)| (*k, v.clone())));
            }
        }
        event.record(&mut fields);
        if suppressed > 0 {
            fields.0.insert("suppressed", suppressed.into());
        }
        let now = clock::now();
        self.writer.write(self.format.line(event.metadata(), fields, now), now);
    }
}

impl Lines {
    fn new(
        format: Format,
        level: LevelFilter,
        outputs: Outputs,
    ) -> Result<(Self, Logger), LogError> {
        let help = "Log lines that were dropped because the log took them too slowly";
        let dropped = IntCounter::new(DROPPED, help)?;
        let help = "Log lines that were not written because one place logged too many in a second";
        let suppressed = IntCounter::new(SUPPRESSED, help)?;
        let format = Arc::new(format);
        let notices = format.clone();
        let notice = move |now, message| {
            notices.print(now, level_name(Level::WARN), "dapr.log", message, BTreeMap::new())
        };
        let writer = Writer::start(outputs, dropped.clone(), notice)?;
        let logger = Logger { writer: writer.clone(), dropped, suppressed: suppressed.clone() };
        Ok((Self { format, level, repeats: Mutex::default(), suppressed, writer }, logger))
    }

    /// The number of lines from this call site that were suppressed before this one; `None`
    /// suppresses it. At level debug none is suppressed.
    fn admit(&self, metadata: &'static tracing::Metadata<'static>) -> Option<u64> {
        if *metadata.level() >= Level::DEBUG || metadata.target().ends_with(AUDIT) {
            return Some(0);
        }
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = repeats.admit(metadata.callsite(), clock::monotonic());
        drop(repeats);
        if admitted.is_none() {
            self.suppressed.inc();
        }
        admitted
    }
}

impl Format {
    fn line(
        &self,
        metadata: &tracing::Metadata<'_>,
        fields: Fields,
        now: jiff::Timestamp,
    ) -> String {
        let mut fields = fields.0;
        let message = match fields.remove("message") {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let fatal = fields.remove("fatal").is_some();
        let scope =
            if metadata.target().starts_with("dapr") { metadata.target() } else { self.scope };
        let level = if fatal { "fatal" } else { level_name(*metadata.level()) };
        self.print(now, level, scope, message, fields)
    }

    /// The line of a message, with the keys that every line has.
    fn print(
        &self,
        now: jiff::Timestamp,
        level: &str,
        scope: &str,
        message: String,
        mut fields: BTreeMap<&'static str, Value>,
    ) -> String {
        fields.entry("app_id").or_insert_with(|| self.app_id.as_str().into());
        fields.insert("instance", self.instance.as_str().into());
        fields.insert("scope", scope.into());
        fields.insert("type", "log".into());
        fields.insert("ver", VERSION.into());
        let time = match &self.layout {
            Some(layout) => layout.format(now),
            None => format!("{now:.9}"),
        };
        match self.style {
            Style::Text => text_line(&time, level, &message, &fields),
            Style::Json => json_line(time, level, message, fields),
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

fn text_line(
    time: &str,
    level: &str,
    message: &str,
    fields: &BTreeMap<&'static str, Value>,
) -> String {
    let mut line = format!("time={time:?} level={level} msg={message:?}");
    for (key, value) in fields {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let plain = !text.is_empty()
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._/@^+".contains(c));
        // Writing to a String cannot fail.
        let _ = if plain { write!(line, " {key}={text}") } else { write!(line, " {key}={text:?}") };
    }
    line.push('\n');
    line
}

fn json_line(
    time: String,
    level: &str,
    message: String,
    mut fields: BTreeMap<&'static str, Value>,
) -> String {
    fields.insert("level", level.into());
    fields.insert("msg", message.into());
    fields.insert("time", time.into());
    let sorted: serde_json::Map<String, Value> =
        fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let mut line = Value::Object(sorted).to_string();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::fields::{MAX_FIELD_BYTES, MAX_MESSAGE_BYTES};
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(style: Style, work: impl FnOnce()) -> String {
        logged_with(style, "", work)
    }

    fn logged_with(style: Style, format: &str, work: impl FnOnce()) -> String {
        let sink = Sink::default();
        let format = Format {
            scope: "dapr.probe",
            style,
            app_id: "dapr-probe".into(),
            instance: "pod-0".into(),
            layout: layout(format),
        };
        let outputs = Outputs::to(sink.clone());
        let (lines, logger) = Lines::new(format, LevelFilter::INFO, outputs).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), work);
        logger.flush();
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn after_time(line: &str) -> &str {
        line.split_once("Z\" ").unwrap().1
    }

    #[test]
    fn text_lines_have_the_keys_of_the_peers() {
        let line = logged(Style::Text, || {
            tracing::info!(target: "dapr.probe.server", namespace = "a b", "Running \"now\"");
        });
        let want = format!(
            "level=info msg=\"Running \\\"now\\\"\" app_id=dapr-probe instance=pod-0 \
             namespace=\"a b\" scope=dapr.probe.server type=log ver={VERSION}\n"
        );
        assert_eq!(after_time(&line), want);
    }

    #[test]
    fn json_lines_carry_span_fields_and_the_fatal_level() {
        let line = logged(Style::Json, || {
            let _span = tracing::info_span!("request", app_id = "nodeapp").entered();
            tracing::error!(fatal = true, count = 3, "gone");
        });
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "fatal");
        assert_eq!(value["app_id"], "nodeapp");
        assert_eq!(value["scope"], "dapr.probe");
        assert_eq!(value["count"], 3);
        assert!(value["time"].as_str().unwrap().ends_with('Z'));
        assert!(value.get("fatal").is_none());
    }

    #[rstest::rstest]
    #[case::text(Style::Text, "time=\"at 20")]
    #[case::json(Style::Json, "\"time\":\"at 20")]
    fn the_time_has_the_wanted_layout(#[case] style: Style, #[case] says: &str) {
        let line = logged_with(style, "at 2006", || tracing::info!("now"));
        assert!(line.contains(says), "{line}");
    }

    #[test]
    fn texts_are_cut_at_their_limit_and_no_earlier() {
        let [exact, longer] = [0, 1].map(|more| "x".repeat(MAX_FIELD_BYTES + more));
        let two_bytes = "ä".repeat(MAX_FIELD_BYTES);
        let line = logged(Style::Json, || {
            tracing::info!(exact, longer, two_bytes, debug = ?longer, "{longer}");
        });
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["exact"], exact);
        assert_eq!(value["longer"], format!("{exact}…"));
        assert_eq!(value["two_bytes"], format!("{}…", "ä".repeat(MAX_FIELD_BYTES / 2)));
        assert_eq!(value["debug"].as_str().unwrap().len(), MAX_FIELD_BYTES + "…".len());
        assert_eq!(value["msg"], longer, "a message may be longer");
        let line = logged(Style::Json, || tracing::info!("{}", "x".repeat(4 * 1024 * 1024)));
        assert!(line.len() < 2 * MAX_MESSAGE_BYTES, "{} bytes", line.len());
    }

    #[test]
    fn a_flood_of_one_place_is_cut_short_and_counted_and_no_audit_line_is() {
        let text = logged(Style::Text, || {
            for number in 0..1_000 {
                tracing::warn!(number, "refused");
                tracing::info!(target: "dapr.probe.audit", "issued");
            }
            tracing::warn!("another place");
        });
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert!((50..1_000).contains(&count("refused")), "{}", count("refused"));
        assert_eq!((count("issued"), count("another place")), (1_000, 1));
    }

    #[test]
    fn libraries_are_logged_from_warn_on_and_debug_is_off() {
        let text = logged(Style::Text, || {
            tracing::info!(target: "hyper::proto", "chatter");
            tracing::debug!(target: "dapr.probe", "detail");
            tracing::warn!(target: "kube_client::client", "trouble");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("level=warning msg=\"trouble\""), "{text}");
    }

    /// Members of the workspace that run in no service.
    const NO_SERVICE: [&str; 7] =
        ["bench", "blackbox", "daprctl", "free_port", "fuzz", "testkit", "xtask"];

    #[test]
    fn every_crate_of_a_service_follows_the_log_level() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
        let workspace = read(&root.join("Cargo.toml"));
        let members = workspace.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
        let mut crates: Vec<String> = members
            .split(',')
            .map(|member| member.trim().trim_matches('"'))
            .filter(|member| !member.is_empty())
            .map(|member| {
                let manifest = read(&root.join(member).join("Cargo.toml"));
                let name = manifest.lines().find_map(|line| line.strip_prefix("name = ")).unwrap();
                name.trim_matches('"').replace('-', "_")
            })
            .filter(|name| !NO_SERVICE.contains(&name.as_str()))
            .collect();
        crates.push("dapr".to_owned());
        crates.sort();
        assert_eq!(crates, OUR_TARGETS);
    }

    #[test]
    fn unknown_levels_are_rejected_by_name() {
        assert!(level("loud").unwrap_err().to_string().contains("\"loud\""));
        assert_eq!(level("WARN").unwrap(), LevelFilter::WARN);
    }
}

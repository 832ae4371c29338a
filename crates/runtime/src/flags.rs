//! Command line flags in the syntax of the Go peers, and the group that every service has.
//! Source: Go 1.26, package `flag`; Dapr 1.18, flags of the control plane services.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use resources::go_duration;

/// The flags that every service of the control plane has.
#[derive(Debug, Clone, clap::Args)]
pub struct ProcessFlags {
    /// How much to log: debug, info, warn, error or fatal
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// Print log lines as JSON objects
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = false, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub log_as_json: bool,
    /// Append log lines to this file instead of standard output
    #[arg(long, value_name = "PATH")]
    pub log_file: Option<PathBuf>,
    /// Further flags about the log.
    #[command(flatten)]
    pub log: LogFlags,
    /// Serve Prometheus metrics
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value_t = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub enable_metrics: bool,
    /// Port of the Prometheus metrics
    #[arg(long, default_value = "9090", value_name = "PORT")]
    pub metrics_port: String,
    /// Address that the metrics port listens on
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    pub metrics_listen_address: String,
    /// Port of the health endpoint
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub healthz_port: u16,
    /// Address that the health port listens on; empty means all
    #[arg(long, default_value = "", value_name = "ADDRESS", hide_default_value = true)]
    pub healthz_listen_address: String,
}

/// Where log lines go and how log files are rotated (Dapr 1.19).
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LogFlags {
    /// Write log lines to each of these: stdout, stderr or paths of files, separated by commas. A
    /// file of --log-file is written too; without both, standard output
    #[arg(long, default_value = "", value_name = "LIST", hide_default_value = true)]
    pub log_outputs: String,
    /// Rotate a log file before it grows beyond this: a number of MiB, or with K, M or G. 0 never
    /// rotates
    #[arg(long, default_value = "0", value_name = "SIZE", value_parser = log_size)]
    pub log_file_max_size: u64,
    /// Keep so many rotated log files; 0 keeps all
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub log_file_max_backups: usize,
    /// Keep rotated log files so long: a number of days, or a duration such as 36h. 0 keeps them
    #[arg(long, default_value = "0", value_name = "AGE", value_parser = log_age)]
    pub log_file_max_age: LogAge,
    /// Compress rotated log files with gzip
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = log_compression, action = clap::ArgAction::Set)]
    pub log_file_compression: bool,
    /// Go time layout of the time in log lines, such as 2006-01-02T15:04:05.000Z07:00; empty means
    /// RFC 3339 with nanoseconds
    #[arg(long, default_value = "", value_name = "LAYOUT", hide_default_value = true)]
    pub log_timestamp_format: String,
}

/// How long rotated log files are kept; zero keeps them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogAge(pub Duration);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY: Duration = Duration::from_hours(24);

fn log_size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (text.get(..at), KIB),
        Some((at, 'M' | 'm')) => (text.get(..at), MIB),
        Some((at, 'G' | 'g')) => (text.get(..at), GIB),
        _ => (Some(text), MIB),
    };
    let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let bytes = number.and_then(|number| number.parse::<u64>().ok()?.checked_mul(unit));
    bytes.ok_or_else(|| {
        format!("{text:?} is not a size; write a number of MiB, or a number with K, M or G")
    })
}

fn log_age(text: &str) -> Result<LogAge, String> {
    let days =
        if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None };
    let age = match days {
        Some(days) => DAY.checked_mul(days),
        None => go_duration::parse(text).ok(),
    };
    age.map(LogAge).ok_or_else(|| {
        format!("{text:?} is not an age; write a number of days, or a duration such as 36h")
    })
}

fn log_compression(text: &str) -> Result<bool, String> {
    match text {
        "gzip" => Ok(true),
        "none" => Ok(false),
        other => go_bool(other).map_err(|_| {
            format!("{other:?} is not a compression; write true, false, gzip or none")
        }),
    }
}

/// Parses the command line. `-port=1` and `--port=1` are the same; a flag error prints the usage
/// on standard error and ends the process with exit code 2, `--help` with 0. Of a repeated flag the
/// last one wins, as in Go.
pub fn parse<F: clap::Parser>() -> F {
    let command = F::command().args_override_self(true);
    let matches = command.get_matches_from(double_dashes(std::env::args_os()));
    F::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Whether the first argument is one of these words: a command, where a service has any.
pub fn first_is_one_of(commands: &[&str]) -> bool {
    let first = std::env::args_os().nth(1);
    first.is_some_and(|first| commands.iter().any(|command| first == *command))
}

/// Turns `-name` into `--name`, up to the first `--`. One-letter flags and negative numbers stay.
pub fn double_dashes(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut done = false;
    args.into_iter()
        .enumerate()
        .map(|(position, arg)| {
            done |= arg == "--";
            let long = arg.to_str().filter(|_| position > 0 && !done).and_then(|text| {
                let name = text.strip_prefix('-')?;
                let letters = name.split('=').next().unwrap_or_default();
                let first = letters.chars().next()?;
                (letters.len() > 1 && first.is_ascii_alphabetic()).then(|| format!("--{name}"))
            });
            long.map_or(arg, OsString::from)
        })
        .collect()
}

/// A boolean as Go writes it.
///
/// # Errors
/// The text is none of `1 t T TRUE true True 0 f F FALSE false False`.
pub fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("{text:?} is not a boolean; write true or false")),
    }
}

/// A Go duration (`1h30m`) as a value parser for clap.
///
/// # Errors
/// The text is not a Go duration.
pub fn go_duration(text: &str) -> Result<Duration, go_duration::GoDurationError> {
    go_duration::parse(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use rstest::rstest;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Probe {
        #[command(flatten)]
        process: ProcessFlags,
        #[arg(long, default_value_t = 0)]
        port: i32,
    }

    fn probe(args: &[&str]) -> Result<Probe, clap::Error> {
        let line = std::iter::once("probe").chain(args.iter().copied()).map(OsString::from);
        Probe::try_parse_from(double_dashes(line))
    }

    #[rstest]
    #[case::double(&["--port", "7"])]
    #[case::double_equals(&["--port=7"])]
    #[case::single(&["-port", "7"])]
    #[case::single_equals(&["-port=7"])]
    fn reads_one_and_two_dashes_alike(#[case] args: &[&str]) {
        assert_eq!(probe(args).map(|p| p.port).map_err(|e| e.to_string()), Ok(7));
    }

    #[rstest]
    #[case(&["--log-as-json"], true)]
    #[case(&["--log-as-json=false"], false)]
    #[case(&["-log-as-json=T"], true)]
    #[case(&[], false)]
    fn reads_go_booleans(#[case] args: &[&str], #[case] want: bool) {
        assert_eq!(probe(args).map(|p| p.process.log_as_json).map_err(|e| e.to_string()), Ok(want));
    }

    #[rstest]
    #[case::off("0", 0)]
    #[case::mebibytes("100", 100 * MIB)]
    #[case::kibibytes("64K", 64 * KIB)]
    #[case::with_its_unit("5M", 5 * MIB)]
    #[case::gibibytes("2G", 2 * GIB)]
    #[case::largest("17592186044415", u64::MAX - (MIB - 1))]
    fn reads_sizes_of_log_files(#[case] text: &str, #[case] want: u64) {
        assert_eq!(log_size(text), Ok(want));
    }

    #[rstest]
    #[case::no_number("--log-file-max-size=big", "is not a size")]
    #[case::unit_alone("--log-file-max-size=M", "is not a size")]
    #[case::empty("--log-file-max-size=", "is not a size")]
    #[case::sign("--log-file-max-size=+5", "is not a size")]
    #[case::other_unit("--log-file-max-size=5T", "is not a size")]
    #[case::beyond("--log-file-max-size=17592186044416", "is not a size")]
    #[case::age("--log-file-max-age=long", "is not an age")]
    #[case::negative_age("--log-file-max-age=-1h", "is not an age")]
    #[case::no_age("--log-file-max-age=", "is not an age")]
    #[case::word("--log-file-compression=zstd", "is not a compression")]
    #[case::backups("--log-file-max-backups=few", "invalid value 'few'")]
    fn refuses_what_would_switch_rotation_off_silently(#[case] arg: &str, #[case] says: &str) {
        let error = probe(&[arg]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(says), "{error}");
    }

    #[rstest]
    #[case::days("7", DAY * 7)]
    #[case::duration("36h", Duration::from_hours(36))]
    #[case::off("0", Duration::ZERO)]
    fn reads_ages_of_log_files(#[case] text: &str, #[case] want: Duration) {
        assert_eq!(log_age(text), Ok(LogAge(want)));
    }

    #[rstest]
    #[case(&["--log-file-compression"], true)]
    #[case(&["--log-file-compression=gzip"], true)]
    #[case(&["--log-file-compression=none"], false)]
    #[case(&["--log-file-compression=false"], false)]
    #[case(&[], false)]
    fn reads_the_compression_of_log_files(#[case] args: &[&str], #[case] want: bool) {
        let compression = probe(args).map(|probe| probe.process.log.log_file_compression);
        assert_eq!(compression.map_err(|error| error.to_string()), Ok(want));
    }

    #[test]
    fn refuses_unknown_flags_with_exit_code_2() {
        assert_eq!(probe(&["--no-such-flag"]).map_err(|e| e.exit_code()).err(), Some(2));
    }
}

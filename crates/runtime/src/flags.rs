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
/// The text is no Go duration.
pub fn go_duration(text: &str) -> Result<Duration, go_duration::GoDurationError> {
    go_duration::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use rstest::rstest;

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

    #[test]
    fn refuses_unknown_flags_with_exit_code_2() {
        assert_eq!(probe(&["--no-such-flag"]).map_err(|e| e.exit_code()).err(), Some(2));
    }
}

//! Results of a run, as a table and as JSON.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::flags::Run;
use crate::report::aims::Aim;
use crate::report::machine::{Machine, Origin};
use crate::report::stats::{Figure, Spread, number};
use crate::scenario::Side;

/// A run, or several: then it describes the run that most rows are from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The machine of the run.
    pub machine: Machine,
    /// Rounds of each side.
    pub rounds: u32,
    /// Whether the loads were cut.
    pub quick: bool,
    /// Cargo's profile of our programs.
    #[serde(default)] // absent in older reports
    pub profile: String,
    /// One entry for each row that ran.
    #[serde(alias = "rows")] // so in older reports
    pub scenarios: Vec<ScenarioResults>,
}

/// The figures of one row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScenarioResults {
    /// Name of the row.
    pub name: String,
    /// Description of its load.
    pub about: String,
    /// Duration in seconds with set-up, without builds.
    #[serde(default)] // absent in older reports
    pub seconds: u64,
    /// The run that the row is from, if it is another than that of the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// One for each metric, in the order of its readings.
    pub figures: Vec<Figure>,
}

/// The folder of the pictures and of the run's JSON, beside the pages.
pub const PICTURES: &str = "performance";

impl ScenarioResults {
    /// The beginning of its section in a report of `report`: name, load, duration, the run if it is
    /// another, picture.
    pub fn head(&self, report: &Results) -> String {
        let (Self { name, about, .. }, took) = (self, minutes(self.seconds));
        let origin = self.origin.as_ref().map_or_else(String::new, |origin| {
            format!(" It is of another run: {}.", origin.beside(&report.origin()))
        });
        format!(
            "## {name}\n\n{about}. The row took {took}.{origin}\n\n![{name}]({PICTURES}/{name}.svg)\n\n"
        )
    }

    /// The aim of a figure.
    pub fn aim(&self, figure: &Figure, quick: bool) -> Option<Aim> {
        Aim::of(&self.name, figure).filter(|_| !quick)
    }
}

impl Results {
    /// Results without rows.
    pub fn new(machine: Machine, run: &Run) -> Self {
        let (rounds, profile) = (run.rounds(), run.profile.clone());
        Self { machine, rounds, quick: run.quick, profile, scenarios: Vec::new() }
    }

    /// Writes the JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))
    }
}

/// Reads what [`Results::write`] wrote.
///
/// # Errors
/// When the file is missing or has another format.
pub fn read(file: &Path) -> Result<Results> {
    let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no run", file.display()))
}

/// A row as a table of plain text; a cut run has no aims. Against a baseline the aim of every figure
/// is to be no worse.
pub fn table(scenario: &ScenarioResults, other: Side, quick: bool) -> String {
    let heads = [other.name(), Side::Trilby.name(), "ratio", "aim"].map(str::to_owned);
    let [theirs, ours, ratio, aim] = heads;
    let mut lines = vec![[scenario.name.clone(), theirs, ours, ratio, aim]];
    let aim = |figure| match other {
        Side::Baseline => Some(Aim::NO_WORSE).filter(|_| !quick),
        Side::Reference | Side::Trilby => scenario.aim(figure, quick),
    };
    lines.extend(scenario.figures.iter().map(|figure| cells(figure, aim(figure))));
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<_> = (0..5).map(|column| width(column).unwrap_or(0)).collect();
    let pad = |line: &[String; 5]| {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(pad).collect::<Vec<_>>().join("\n") + "\n"
}

/// The cells of one figure: metric, reference, ours, ratio, aim and whether it is reached.
pub fn cells(figure: &Figure, aim: Option<Aim>) -> [String; 5] {
    let ratio = figure.ratio().map_or_else(|| "-".to_owned(), |r| format!("{}x", number(r)));
    let aim = aim.map_or_else(String::new, |aim| {
        let reached = if aim.is_reached(figure) { "reached" } else { "missed" };
        format!("{}: {reached}", aim.words(figure.unit))
    });
    [label(figure), spread(figure.reference), spread(figure.trilby), ratio, aim]
}

/// What was measured, with its unit.
pub fn label(figure: &Figure) -> String {
    match figure.unit.symbol() {
        "" => figure.metric.clone(),
        unit => format!("{} ({unit})", figure.metric),
    }
}

/// Duration of each row, and of all.
pub fn times(scenarios: &[ScenarioResults]) -> String {
    let total = scenarios.iter().map(|scenario| scenario.seconds).sum();
    let each = scenarios.iter().map(|scenario| (scenario.name.as_str(), scenario.seconds));
    let line = |(name, seconds)| format!("{name:<24}{}\n", minutes(seconds));
    each.chain([("all rows", total)]).map(line).collect()
}

/// Seconds as minutes and seconds.
pub fn minutes(seconds: u64) -> String {
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

fn spread(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |Spread { median, min, max }| {
            format!("{} [{}-{}]", number(median), number(min), number(max))
        },
    )
}

/// Prints a line of results to standard output; progress goes to standard error.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}"); // a closed pipe is the reader's choice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Unit;

    #[test]
    fn a_table_lines_up_and_holds_the_spread() {
        let one = |median| Some(Spread { median, min: median / 2.0, max: median * 2.0 });
        let scenario = ScenarioResults {
            name: "start".into(),
            about: String::new(),
            seconds: 61,
            origin: None,
            figures: vec![
                Figure {
                    metric: "sentry: start to ready".into(),
                    unit: Unit::Milliseconds,
                    reference: one(400.0),
                    trilby: one(20.0),
                },
                Figure {
                    metric: "errors".into(),
                    unit: Unit::Count,
                    reference: None,
                    trilby: one(0.0),
                },
            ],
        };
        let want = "start reference trilby ratio aim \
                    sentry: start to ready (ms) 400 [200-800] 20.0 [10.0-40.0] 20.0x ≤ 300: reached \
                    errors - 0 [0-0] -";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&table(&scenario, Side::Reference, false)), want);
        let cut = table(&scenario, Side::Reference, true);
        assert!(!cut.contains("reached"), "a cut run has no aims");
        let baseline = squeeze(&table(&scenario, Side::Baseline, false));
        assert!(baseline.starts_with("start baseline trilby"), "{baseline}");
        assert!(baseline.contains("20.0x ≥ 0.95x: reached"), "{baseline}");
        assert_eq!(squeeze(&times(&[scenario])), "start 1 min 01 s all rows 1 min 01 s");
    }
}

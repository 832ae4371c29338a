//! A run: rows one after the other, sides taking turns, round by round.

use anyhow::{Context as _, Result, ensure};
use blackbox::progress::{say, step};
use runtime::clock::monotonic;

use crate::environment::programs::Programs;
use crate::flags::{Flags, Run, Task};
use crate::report::machine::Machine;
use crate::report::results::{self, Results, ScenarioResults};
use crate::report::text::{self, Rows};
use crate::report::{growth, merge, stats};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size};
use crate::scenarios::registry;
use crate::target::Target;

/// Runs the task of the command line.
///
/// # Errors
/// When a row cannot be set up or measured, or a file cannot be written.
pub fn run(flags: &Flags) -> Result<()> {
    match &flags.task {
        None => run_scenarios(&flags.run),
        Some(Task::List) => {
            list();
            Ok(())
        }
        Some(Task::Load(target)) => load(target),
        Some(Task::Report { json, docs, keep }) => {
            let rows = if *keep { Rows::WithStored } else { Rows::OfTheRun };
            text::write(&merge::read_all(json)?, docs, rows)
        }
    }
}

fn list() {
    for scenario in registry::all() {
        results::line(&format!(
            "{:<18} {}",
            scenario.description().name,
            scenario.description().about
        ));
    }
}

fn load(target: &Target) -> Result<()> {
    let scenario =
        registry::all().into_iter().find(|scenario| scenario.description().name == target.scenario);
    let scenario =
        scenario.with_context(|| format!("no row {:?}; see the list", target.scenario))?;
    for Reading { metric, unit, value } in scenario.load(target)? {
        results::line(&format!("{metric:<60} {} {}", stats::number(value), unit.symbol()));
    }
    Ok(())
}

fn run_scenarios(run: &Run) -> Result<()> {
    let scenarios = registry::chosen(&run.only)?;
    let has_part = run.only.iter().any(|word| word.contains(registry::PART));
    ensure!(!(run.report && has_part), "the report has whole rows only");
    let mut results = Results::new(Machine::of_this_run(run.baseline.as_deref()), run);
    let docs = blackbox::environment::workspace().join("docs");
    let rows = if run.only.is_empty() { Rows::OfTheRun } else { Rows::WithStored };
    if run.report && rows == Rows::WithStored {
        text::accepts(&results, &docs)?;
    }
    let services: Vec<_> = scenarios
        .iter()
        .flat_map(|scenario| scenario.description().services.iter().copied())
        .collect();
    let compared: Vec<_> = scenarios
        .iter()
        .filter(|scenario| {
            run.baseline.is_some() || scenario.description().sides.contains(&Side::Reference)
        })
        .flat_map(|scenario| scenario.description().services.iter().copied())
        .collect();
    let programs = step("programs of both sides", || {
        Programs::build(&run.profile, &services, &compared, run.baseline.as_deref())
    })?;
    let [other, _] = programs.sides();
    for scenario in scenarios {
        let measured = measure(scenario.as_ref(), &programs, run.rounds(), run.size());
        let measured = measured.with_context(|| format!("row {}", scenario.description().name))?;
        results::line(&results::table(&measured, other, run.quick));
        results::line(&growth::tables(&growth::series(&measured.figures)));
        results.scenarios.push(measured);
        if let Some(file) = &run.json {
            results.write(file)?; // after each scenario: an aborted run keeps its finished rows
        }
    }
    results::line(&results::times(&results.scenarios));
    if run.report {
        text::write(&results, &docs, rows)?;
    }
    Ok(())
}

fn measure(
    scenario: &dyn Scenario,
    programs: &Programs,
    rounds: u32,
    size: Size,
) -> Result<ScenarioResults> {
    let begin = monotonic();
    let Description { name, about, sides, .. } = scenario.description();
    let mut prepared = step(&format!("{name}: set up"), || scenario.prepare(programs, size))?;
    let sides: Vec<_> = programs.sides().into_iter().filter(|side| sides.contains(side)).collect();
    let readings = take_turns(prepared.as_mut(), name, &sides, rounds)?;
    drop(prepared);
    Ok(ScenarioResults {
        name: name.to_owned(),
        about: about.to_owned(),
        seconds: begin.elapsed().as_secs(),
        origin: None,
        figures: stats::figures(&readings),
    })
}

/// The side that starts alternates, so that neither always runs on the warmer machine.
fn take_turns(
    prepared: &mut dyn Prepared,
    name: &str,
    sides: &[Side],
    rounds: u32,
) -> Result<Vec<(Side, Reading)>> {
    let mut readings = Vec::new();
    for round in 1..=rounds {
        let mut sides = sides.to_vec();
        if round % 2 == 0 {
            sides.reverse();
        }
        for side in sides {
            say(format_args!("{name}: round {round} of {rounds}, {}", side.name()));
            let measured = prepared.round(side).with_context(|| side.name())?;
            readings.extend(measured.into_iter().map(|reading| (side, reading)));
        }
    }
    Ok(readings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Unit;

    struct Recorder(Vec<Side>);

    impl Prepared for Recorder {
        fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
            self.0.push(side);
            Ok(vec![Reading::new("turn", Unit::Count, 1.0)])
        }
    }

    #[test]
    fn sides_take_turns_in_starting() {
        let mut recorder = Recorder(Vec::new());
        let (r, t) = (Side::Reference, Side::Trilby);
        let readings = take_turns(&mut recorder, "test", &[r, t], 3).unwrap_or_default();
        assert_eq!(recorder.0, [r, t, t, r, r, t]);
        assert_eq!(readings.len(), 6);
    }
}

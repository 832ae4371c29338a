//! All rows, in the order they run.

use anyhow::{Result, ensure};

use crate::scenario::Scenario;
use crate::scenarios::attacks::Attacks;
use crate::scenarios::dashboard::Dashboard;
use crate::scenarios::injector::Injector;
use crate::scenarios::install::Install;
use crate::scenarios::operator_fanout::OperatorFanout;
use crate::scenarios::operator_memory::OperatorMemory;
use crate::scenarios::placement_join::PlacementJoin;
use crate::scenarios::scale::operator::ScaleOperator;
use crate::scenarios::scale::placement::ScalePlacement;
use crate::scenarios::scale::scheduler::ScaleScheduler;
use crate::scenarios::scale::sentry::ScaleSentry;
use crate::scenarios::scheduler::herd::SchedulerHerd;
use crate::scenarios::scheduler::members::SchedulerMembers;
use crate::scenarios::scheduler::oneshot::SchedulerOneshot;
use crate::scenarios::scheduler::restart::SchedulerRestart;
use crate::scenarios::scheduler::schedule::SchedulerSchedule;
use crate::scenarios::scheduler::ticks::SchedulerTicks;
use crate::scenarios::scheduler::workflow::SchedulerWorkflow;
use crate::scenarios::sentry_sign::SentrySign;
use crate::scenarios::start::Start;
use crate::scenarios::webhook_path::WebhookPath;

/// All rows, in this order.
pub fn all() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(Start),
        Box::new(SentrySign),
        Box::new(Injector),
        Box::new(WebhookPath),
        Box::new(OperatorMemory::FIRST),
        Box::new(OperatorMemory::LARGE),
        Box::new(OperatorFanout),
        Box::new(PlacementJoin),
        Box::new(Dashboard),
        Box::new(SchedulerSchedule),
        Box::new(SchedulerOneshot),
        Box::new(SchedulerHerd),
        Box::new(SchedulerTicks),
        Box::new(SchedulerRestart),
        Box::new(SchedulerMembers),
        Box::new(SchedulerWorkflow),
        Box::new(Attacks::all()),
        Box::new(ScaleOperator),
        Box::new(ScalePlacement),
        Box::new(ScaleSentry),
        Box::new(ScaleScheduler),
        // Last: building images reads every program into the page cache, which changes start times.
        Box::new(Install),
    ]
}

/// Between the name of a row and a part of it, in a word of [`chosen`].
pub const PART: char = '/';

/// The rows that a word names or, if it is no row's name, whose names contain it; without words
/// all that do not have to be named. Of these the name begins with the word. A row of which only
/// parts are named has no others.
///
/// # Errors
/// When a word fits no row, or no part of its row.
pub fn chosen(words: &[String]) -> Result<Vec<Box<dyn Scenario>>> {
    let scenarios = all();
    let names: Vec<_> = scenarios.iter().map(|scenario| scenario.description().name).collect();
    let words: Vec<_> = words.iter().map(|word| row_and_part(word)).collect();
    let fits = |scenario: &dyn Scenario, word: &str| {
        let name = scenario.description().name;
        match word {
            word if names.contains(&word) => name == word,
            word if scenario.description().is_only_named => name.starts_with(word),
            word => name.contains(word),
        }
    };
    for (row, part) in &words {
        let mut fitting =
            scenarios.iter().filter(|scenario| fits(scenario.as_ref(), row)).peekable();
        ensure!(fitting.peek().is_some(), "no row {row:?}: there are {}", names.join(", "));
        let has_part = |part| fitting.all(|scenario| scenario.parts(&[part]).is_some());
        ensure!(
            part.is_none_or(has_part),
            "row {row:?} has no part {:?}",
            part.unwrap_or_default()
        );
    }
    let mut wanted = Vec::new();
    for scenario in scenarios {
        let choices = words.iter().filter(|(row, _)| fits(scenario.as_ref(), row));
        let parts: Option<Vec<_>> = choices.clone().map(|(_, part)| *part).collect();
        let is_asked_for = match choices.count() {
            0 => words.is_empty() && !scenario.description().is_only_named,
            _ => true,
        };
        let cut = parts.and_then(|parts| scenario.parts(&parts));
        wanted.extend(is_asked_for.then(|| cut.unwrap_or(scenario)));
    }
    Ok(wanted)
}

fn row_and_part(word: &str) -> (&str, Option<&str>) {
    word.split_once(PART).map_or((word, None), |(row, part)| (row, Some(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_prefix_chooses_all_of_them() {
        let chosen = chosen(&["scheduler".to_owned()]).unwrap();
        assert!(chosen.len() > 4);
        assert!(
            chosen.iter().all(|scenario| scenario.description().name.starts_with("scheduler-"))
        );
    }

    #[test]
    fn rows_of_scale_run_only_when_they_are_named() {
        let scale = |words: &[String]| {
            let chosen = chosen(words).unwrap();
            chosen
                .iter()
                .filter(|scenario| scenario.description().name.starts_with("scale-"))
                .count()
        };
        assert_eq!((scale(&[]), scale(&["scale".to_owned()])), (0, 4));
    }

    #[test]
    fn a_whole_name_is_not_the_part_of_another() {
        let names = |word: &str| {
            let chosen = chosen(&[word.to_owned()]).unwrap();
            chosen.iter().map(|scenario| scenario.description().name).collect::<Vec<_>>()
        };
        assert_eq!(names("start"), ["start"]); // as in scheduler-restart
        assert_eq!(names("operator-memory"), ["operator-memory"]);
        assert_eq!(names("memory"), ["operator-memory", "operator-memory-large"]);
    }

    #[test]
    fn a_part_of_a_row_is_named_after_it() {
        let services = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            let rows = chosen(&words).unwrap();
            rows.iter().map(|row| row.description().services.len()).collect::<Vec<_>>()
        };
        assert_eq!(services(&["attacks"]), [5]);
        assert_eq!(services(&["attacks/unfinished"]), [1]);
        assert_eq!(services(&["attacks/unfinished", "attacks/placement"]), [5]);
        assert_eq!(services(&["attacks/unfinished", "attacks"]), [5], "the whole row");
        for (word, text) in [("attacks/nonsense", "no part"), ("start/any", "no part")] {
            let error = chosen(&[word.to_owned()]).err().map(|e| e.to_string());
            assert!(error.is_some_and(|error| error.contains(text)), "{word}");
        }
    }

    #[test]
    fn a_word_that_fits_no_row_is_an_error_that_names_them() {
        let error = chosen(&["nonsense".to_owned()]).err().map(|e| e.to_string());
        assert!(error.is_some_and(|text| text.contains("start")));
        assert_eq!(chosen(&["start".to_owned()]).map(|scenarios| scenarios.len()).ok(), Some(1));
    }
}

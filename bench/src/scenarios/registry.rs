//! All rows, in the order they run.

use anyhow::{Result, ensure};

use crate::{
    scenario::Scenario, scenarios::injector::Injector, scenarios::install::Install,
    scenarios::operator_fanout::OperatorFanout, scenarios::operator_memory::OperatorMemory,
    scenarios::placement_join::PlacementJoin, scenarios::sentry_sign::SentrySign,
    scenarios::start::Start, scenarios::webhook_path::WebhookPath,
};

/// All rows.
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
        // Last: making images reads every program, and the kernel then maps more of them at a start.
        Box::new(Install),
    ]
}

/// The rows whose name contains one of the words; all without a word.
///
/// # Errors
/// When a word fits no row.
pub fn chosen(words: &[String]) -> Result<Vec<Box<dyn Scenario>>> {
    let scenarios = all();
    let names: Vec<_> = scenarios.iter().map(|scenario| scenario.name()).collect();
    for word in words {
        let known = names.iter().any(|name| name.contains(word.as_str()));
        ensure!(known, "no row {word:?}: there are {}", names.join(", "));
    }
    let wanted =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    Ok(scenarios.into_iter().filter(|scenario| wanted(scenario.name())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_fits_no_row_is_an_error_that_names_them() {
        let error = chosen(&["nonsense".to_owned()]).err().map(|e| e.to_string());
        assert!(error.is_some_and(|text| text.contains("start")));
        assert_eq!(chosen(&["start".to_owned()]).map(|scenarios| scenarios.len()).ok(), Some(1));
    }
}

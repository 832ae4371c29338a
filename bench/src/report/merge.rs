//! Results of several runs as one: each row knows the run that it is from.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::report::machine::Origin;
use crate::report::results::{self, Results};

impl Results {
    /// The run that rows without an origin of their own are from.
    pub fn origin(&self) -> Origin {
        let Self { machine, rounds, profile, .. } = self;
        Origin { machine: machine.clone(), rounds: *rounds, profile: profile.clone() }
    }

    /// These results with the rows of another run: rows of the same name are replaced in their place,
    /// others are added.
    ///
    /// # Errors
    /// When one of both was cut: their figures are not of the same loads.
    pub fn with_rows_of(mut self, run: Self) -> Result<Self> {
        ensure!(
            self.quick == run.quick,
            "a cut run (--quick) and one of full length make no report"
        );
        let (old, new) = (self.origin(), run.origin());
        for row in &mut self.scenarios {
            row.origin.get_or_insert_with(|| old.clone());
        }
        for mut row in run.scenarios {
            row.origin.get_or_insert_with(|| new.clone());
            match self.scenarios.iter_mut().find(|known| known.name == row.name) {
                Some(known) => *known = row,
                None => self.scenarios.push(row),
            }
        }
        Ok(self.headed())
    }

    /// The same results, headed by the run that most rows are from, of two the later.
    #[must_use]
    pub fn headed(mut self) -> Self {
        let own = self.origin();
        let origins: Vec<_> =
            self.scenarios.iter().map(|row| row.origin.as_ref().unwrap_or(&own)).collect();
        let rows_of = |origin: &Origin| origins.iter().filter(|other| **other == origin).count();
        let by_rows_and_day = |one: &&&Origin, other: &&&Origin| {
            let of = |origin: &Origin| (rows_of(origin), origin.machine.date.clone());
            of(one).cmp(&of(other))
        };
        let head = origins
            .iter()
            .max_by(by_rows_and_day)
            .map_or_else(|| own.clone(), |head| (**head).clone());
        for row in &mut self.scenarios {
            let origin = row.origin.take().unwrap_or_else(|| own.clone());
            row.origin = (origin != head).then_some(origin);
        }
        let Origin { machine, rounds, profile } = head;
        Self { machine, rounds, profile, ..self }
    }
}

/// Reads several runs as one: a row is of the last file that has it.
///
/// # Errors
/// When a file is no run, or some were cut and others not.
pub fn read_all(files: &[impl AsRef<Path>]) -> Result<Results> {
    let mut runs = files.iter().map(AsRef::as_ref);
    let first = results::read(runs.next().context("no run")?)?;
    runs.try_fold(first, |all, file| {
        all.with_rows_of(results::read(file)?).with_context(|| file.display().to_string())
    })
}

/// Stored results with the rows of a run; the run alone where nothing is stored.
///
/// # Errors
/// As [`Results::with_rows_of`], and when the stored results cannot be read.
pub fn into_stored(file: &Path, run: Results) -> Result<Results> {
    if !fs::exists(file)? {
        return Ok(run);
    }
    let together = results::read(file)?.with_rows_of(run);
    together.with_context(|| format!("add rows to {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::machine::Machine;
    use crate::report::results::ScenarioResults;

    fn run(date: &str, commit: &str, rows: &[&str]) -> Results {
        let row = |name: &&str| ScenarioResults {
            name: (*name).to_owned(),
            about: format!("of {commit}"),
            ..ScenarioResults::default()
        };
        Results {
            machine: Machine { date: date.into(), commit: commit.into(), ..Machine::default() },
            rounds: 3,
            quick: false,
            profile: "release".into(),
            scenarios: rows.iter().map(row).collect(),
        }
    }

    fn rows(results: &Results) -> Vec<(&str, &str, Option<&str>)> {
        results
            .scenarios
            .iter()
            .map(|row| {
                let origin = row.origin.as_ref().map(|origin| origin.machine.commit.as_str());
                (row.name.as_str(), row.about.as_str(), origin)
            })
            .collect()
    }

    #[test]
    fn a_row_replaces_its_row_and_says_which_run_it_is_of() {
        let stored = run("2026-11-21", "old", &["start", "injector", "install"]);
        let new = run("2026-11-30", "new", &["injector", "jobs"]);
        let both = stored.with_rows_of(new).unwrap();
        // Two rows of each run: the later one heads the page.
        let want = [
            ("start", "of old", Some("old")),
            ("injector", "of new", None),
            ("install", "of old", Some("old")),
            ("jobs", "of new", None),
        ];
        assert_eq!(rows(&both), want);
        assert_eq!(both.machine.commit, "new");
        let third = run("2026-12-01", "third", &["jobs"]);
        let all = both.with_rows_of(third).unwrap();
        assert_eq!(all.machine.commit, "old", "most rows are of that run");
        let origins: Vec<_> = rows(&all).into_iter().map(|(_, _, origin)| origin).collect();
        assert_eq!(origins, [None, Some("new"), None, Some("third")]);
    }

    #[test]
    fn a_cut_run_replaces_no_row_of_a_full_one() {
        let stored = run("2026-11-21", "old", &["start"]);
        let cut = Results { quick: true, ..run("2026-11-30", "new", &["start"]) };
        assert!(stored.with_rows_of(cut).unwrap_err().to_string().contains("--quick"));
    }

    #[test]
    fn an_origin_says_what_differs() {
        let (old, new) =
            (run("2026-11-21", "", &[]).origin(), run("2026-11-30", "new", &[]).origin());
        assert_eq!(new.beside(&old), "2026-11-30, commit new");
        assert_eq!(old.beside(&new), "2026-11-21");
        let machine = Machine { cores: 8, reference: "1.18.3".into(), ..old.machine.clone() };
        let other = Origin { machine, rounds: 1, profile: "dev".into() };
        let words = other.beside(&old);
        assert!(words.starts_with("2026-11-21,") && words.contains("(8 cores)"), "{words}");
        assert!(words.ends_with("reference 1.18.3, profile dev, rounds: 1"), "{words}");
    }

    #[test]
    fn the_stored_results_of_this_repository_can_be_read() {
        let docs = blackbox::environment::workspace().join("docs/performance");
        let stored = results::read(&docs.join("results.json")).unwrap();
        assert!(!stored.scenarios.is_empty());
    }
}

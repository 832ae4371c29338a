//! `docs/performance-scale.md` and its pictures: the rows about size, which have no other side.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use blackbox::progress::say;

use crate::report::results::Results;
use crate::report::{growth, growth_picture};

/// The stored results of these rows, in the folder of pictures.
pub const STORED: &str = "scale.json";
/// The page, in the folder of the report.
const PAGE: &str = "performance-scale.md";
/// How the names of these rows begin.
const ROWS: &str = "scale-";
/// Cargo's profile of development builds.
const DEVELOPMENT: &str = "dev";
/// The method, which the page states before the figures.
const METHOD: &str = "\
The programs run alone: nothing is compared. The machine may be busy with other work meanwhile, so memory and CPU time count, and wall time only in proportion. An exponent is the slope of a line through the logarithms of size and value, by least squares: 1 is linear, 2 quadratic, below 1 a fixed part is visible. Memory is `VmRSS`, CPU time user and system of the process in steps of 10 ms. The clients are those of the [benchmark](performance.md); they run on the same cores and are not counted.

What an installation of a size needs: [sizing.md](sizing.md).

";

/// The results of rows about size, and those of the others.
pub fn apart(results: &Results) -> (Option<Results>, Option<Results>) {
    let part = |scale: bool| {
        let scenarios = results.scenarios.iter();
        let scenarios: Vec<_> =
            scenarios.filter(|one| one.name.starts_with(ROWS) == scale).cloned().collect();
        let wanted = !scenarios.is_empty() || (!scale && results.scenarios.is_empty());
        wanted.then(|| Results { scenarios, ..results.clone() })
    };
    (part(true), part(false))
}

/// Writes page, pictures and the results themselves.
///
/// # Errors
/// When they cannot be written.
pub fn write(results: &Results, docs: &Path, pictures: &Path) -> Result<()> {
    for scenario in &results.scenarios {
        let file = pictures.join(format!("{}.svg", scenario.name));
        let picture = growth_picture::svg(&scenario.name, &growth::series(&scenario.figures));
        fs::write(&file, picture).with_context(|| format!("write {}", file.display()))?;
    }
    results.write(&pictures.join(STORED))?;
    let file = docs.join(PAGE);
    fs::write(&file, page(results)).with_context(|| format!("write {}", file.display()))?;
    say(format_args!("wrote {}", file.display()));
    Ok(())
}

fn page(results: &Results) -> String {
    let mut out = String::from("# Growth with size\n\n");
    let _ = writeln!(
        out,
        "Written by `cargo xtask bench --only scale --rounds {} --report`.\n",
        results.rounds
    );
    if results.profile == DEVELOPMENT {
        out.push_str(
            "The programs were development builds (`--profile dev`): memory is somewhat larger and \
             CPU time many times that of a release. Compare sizes, not services.\n\n",
        );
    }
    if results.quick {
        out.push_str("This was a cut run (`--quick`): smaller sizes than the rows describe.\n\n");
    }
    let machine = &results.machine;
    let _ = writeln!(
        out,
        "{} Trilby {}, Kubernetes {}.\n",
        machine.words(),
        machine.trilby,
        machine.kubernetes
    );
    out.push_str(METHOD);
    for scenario in &results.scenarios {
        out.push_str(&scenario.head(results));
        out.push_str(&growth::tables(&growth::series(&scenario.figures)));
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::machine::Machine;
    use crate::report::results::{self, ScenarioResults};
    use crate::report::stats::{Figure, Spread};
    use crate::report::text::{self, Rows};
    use crate::scenario::Unit;

    fn scenario(name: &str) -> ScenarioResults {
        let spread = |value| Some(Spread { median: value, min: value, max: value });
        let figure = |size: u32| Figure {
            metric: format!("{size} jobs: RSS"),
            unit: Unit::Megabytes,
            reference: None,
            trilby: spread(f64::from(size)),
        };
        let figures = [10, 100, 1000].map(figure).to_vec();
        ScenarioResults {
            name: name.into(),
            about: "Jobs".into(),
            seconds: 61,
            origin: None,
            figures,
        }
    }

    #[test]
    fn rows_of_scale_have_a_page_of_their_own() {
        let results = |names: &[&str]| Results {
            machine: Machine::of_this_run(None),
            rounds: 1,
            quick: false,
            profile: "dev".into(),
            scenarios: names.iter().map(|name| scenario(name)).collect(),
        };
        let folder = blackbox::Scratch::new("scale").unwrap();
        text::write(&results(&["scale-scheduler"]), folder.path(), Rows::OfTheRun).unwrap();
        assert!(!folder.path().join("performance.md").exists(), "it has other rows");
        let page = fs::read_to_string(folder.path().join(PAGE)).unwrap();
        assert!(page.contains("development builds"), "{page}");
        assert!(page.contains("| RSS (MB) | 10.0 | 100 | 1000 | 1.00 |"), "{page}");
        let picture = folder.path().join("performance/scale-scheduler.svg");
        assert!(fs::read_to_string(picture).unwrap().contains(">exponent 1.00<"));

        let both = results(&["start", "scale-scheduler"]);
        text::write(&both, folder.path(), Rows::OfTheRun).unwrap();
        let page = fs::read_to_string(folder.path().join("performance.md")).unwrap();
        assert!(page.contains("## start") && !page.contains("scale-scheduler"), "{page}");
        let again = results::read(&folder.path().join("performance/scale.json")).unwrap();
        assert_eq!(again, results(&["scale-scheduler"]));
    }
}

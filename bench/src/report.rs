//! `docs/performance.md` and its pictures, from the results of a run.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use blackbox::progress::say;

use crate::{
    picture,
    results::{self, Results, RowResults},
};

/// The page, in the folder of the report.
const PAGE: &str = "performance.md";
/// The folder of the pictures and of the run's JSON, beside the page.
const PICTURES: &str = "performance";

/// Writes page, pictures and the results themselves into a folder.
///
/// # Errors
/// When they cannot be written.
pub fn write(results: &Results, docs: &Path) -> Result<()> {
    let pictures = docs.join(PICTURES);
    fs::create_dir_all(&pictures).with_context(|| format!("create {}", pictures.display()))?;
    for row in &results.rows {
        fs::write(pictures.join(format!("{}.svg", row.name)), picture::svg(row))?;
    }
    results.write(&pictures.join("results.json"))?;
    fs::write(docs.join(PAGE), page(results))?;
    say(format_args!("wrote {}", docs.join(PAGE).display()));
    Ok(())
}

fn page(results: &Results) -> String {
    let machine = &results.machine;
    let mut out = String::from("# Performance\n\n");
    let _ = writeln!(
        out,
        "Written by `cargo xtask bench --report`. Both sides run on the same machine in the same \
         run and take turns; each figure is the median of {} rounds with its smallest and largest \
         value. Absolute values belong to this machine; the ratio is the result (above 1: Trilby is \
         better, whichever direction is good).\n",
        results.rounds
    );
    if results.quick {
        out.push_str("This was a cut run (`--quick`): smaller loads than the rows describe.\n\n");
    }
    let _ = writeln!(
        out,
        "{}: {} ({} cores), {} GB, Linux {}. Trilby {}, reference {}, Kubernetes {}.\n",
        machine.date,
        machine.processor,
        machine.cores,
        machine.memory_gigabytes,
        machine.kernel,
        machine.trilby,
        machine.reference,
        machine.kubernetes
    );
    for row in &results.rows {
        section(&mut out, row);
    }
    out
}

fn section(out: &mut String, row: &RowResults) {
    let _ = write!(out, "## {}\n\n{}.\n\n", row.name, row.about);
    let _ = write!(out, "![{0}]({PICTURES}/{0}.svg)\n\n", row.name);
    out.push_str("| | reference | Trilby | ratio |\n|---|---|---|---|\n");
    for figure in &row.figures {
        let _ = writeln!(out, "| {} |", results::cells(figure).join(" | "));
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        machine::Machine,
        row::Unit,
        stats::{Figure, Spread},
    };

    #[test]
    fn a_report_can_be_written_again_from_its_own_json() {
        let spread = Some(Spread { median: 2.0, min: 1.0, max: 3.0 });
        let figure = Figure {
            metric: "rate".into(),
            unit: Unit::PerSecond,
            reference: spread,
            trilby: spread,
        };
        let row =
            RowResults { name: "a-row".into(), about: "A load".into(), figures: vec![figure] };
        let results =
            Results { machine: Machine::of_this_run(), rounds: 3, quick: false, rows: vec![row] };
        let folder = blackbox::Scratch::new("report").unwrap();
        write(&results, folder.path()).unwrap();
        let file = folder.path().join("performance/results.json");
        assert_eq!(results::read(&file).unwrap(), results);
        let twice = results::read_all(&[&file, &file]).unwrap_err().to_string();
        assert!(twice.contains("row a-row again"), "{twice}");
        let other = Results { rows: Vec::new(), ..results.clone() };
        let second = folder.path().join("other.json");
        other.write(&second).unwrap();
        assert_eq!(results::read_all(&[&second, &file]).unwrap(), results);
        Results { rounds: 5, ..other }.write(&second).unwrap();
        assert!(results::read_all(&[&file, &second]).is_err());
        let page = fs::read_to_string(folder.path().join(PAGE)).unwrap();
        assert!(
            page.contains("| rate (/s) | 2.00 [1.00-3.00] | 2.00 [1.00-3.00] | 1.00x |"),
            "{page}"
        );
        assert!(folder.path().join("performance/a-row.svg").is_file());
    }
}

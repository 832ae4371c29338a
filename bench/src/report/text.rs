//! `docs/performance.md` and its pictures, from the results of a run.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use blackbox::progress::say;

use crate::report::results::{self, PICTURES, Results, ScenarioResults};
use crate::report::{aims, merge, picture, scale_page};

/// The page, in the folder of the report.
const PAGE: &str = "performance.md";

/// The method, which the page states before the figures.
const METHOD: &str = "\
## How it is measured

- Both sides are built from source: Trilby's programs as they are shipped, the reference's from its published Go module of the version above.
- The same flags, see `TestEnv::service` in [test_env.rs](../bench/src/environment/test_env.rs), with one exception: Trilby's operator runs with `--watch-secrets`, which its chart sets and the reference lacks.
- The same API server and the same objects for both sides and all rounds; etcd does not wait for the disk. One sentry signs the certificates of both sides and of the load, so that a difference between two sentries shows only in `sentry-sign`, where each side has its own.
- The same client for both, ours, on the same cores as the service; its CPU time is not subtracted. Sidecars, reviews and certificate requests use TLS as in a cluster, with the handshakes that each row names; placement and the scheduler are measured in plain text.
- A rate and its latencies are of a closed loop: a fixed number of callers, each as fast as it is answered. Where a row names requests per second, the loop is open: requests are due at that rate regardless of answers, and waiting for a free connection counts. A failed request is an error and has no latency.
- Warm-up, not measured: 2 s of reviews (`injector`), 2 s of requests (`sentry-sign`, insecure and jwks), 20 pods (`webhook-path`), the first change of each component (`operator-fanout`). The other loads start when a service has just become ready, as after a restart.
- CPU time is that of the process, user and system, from `/proc/PID/stat` (in steps of 10 ms); memory is `VmRSS` and `RssAnon` from `/proc/PID/status`; a peak is the largest of samples every 50 ms.
- Pods change for 30 s in each round of `operator-memory` and `operator-memory-large`, 20 per second, so that three rounds of both sides end within ten minutes; ten minutes of changes cost twenty times the CPU time.
- `webhook-path` creates its pods at an API server without nodes: the work of a kubelet afterwards is not part of the webhook.
- Rows of the scheduler: one member with its own store on an empty directory, in plain text, both sides with the flags of [scheduler.rs](../bench/src/environment/scheduler.rs) and otherwise their defaults. Both write and sync before they answer; each round of `scheduler-schedule` and `scheduler-restart` checks that acknowledged jobs survive `kill -9`. The client of these rows decodes only needed fields, so that it uses little of the cores that it shares with the scheduler.
- The time of a row includes everything except builds. `cargo xtask bench --quick` cuts the loads to about a tenth and runs one round.

## How a change is measured

`cargo xtask bench --baseline DIR` puts programs of an older commit in the place of the reference. Each figure that is more than 5 % worse than the baseline is marked as missed. Build the programs in a worktree of that commit as the benchmark builds its own, statically and with the same profile:

```sh
git worktree add ../baseline COMMIT && cd ../baseline
RUSTFLAGS=-Ctarget-feature=+crt-static cargo build --release --target x86_64-unknown-linux-gnu \\
  -p operator -p sidecar-injector -p sentry -p placement -p scheduler
cd - && cargo xtask bench --baseline ../baseline/target/x86_64-unknown-linux-gnu/release \\
  --only injector --only sentry-sign --only operator-fanout --only operator-memory --only placement-join
```

";

/// The stored results of the rows with another side, in the folder of pictures.
const STORED: &str = "results.json";

/// Which rows a report has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Those of the run alone.
    OfTheRun,
    /// Those of the run, and from the stored results those that it lacks.
    WithStored,
}

/// Writes page, pictures and the results themselves into a folder; rows of scale have a page and a
/// file of their own.
///
/// # Errors
/// When they cannot be written, or stored results cannot be read or were cut and these not.
pub fn write(results: &Results, docs: &Path, rows: Rows) -> Result<()> {
    let pictures = docs.join(PICTURES);
    fs::create_dir_all(&pictures).with_context(|| format!("create {}", pictures.display()))?;
    let (scale, compared) = scale_page::apart(results);
    let complete = |part: Results, file: &str| match rows {
        Rows::OfTheRun => Ok(part.headed()),
        Rows::WithStored => merge::into_stored(&pictures.join(file), part),
    };
    if let Some(scale) = scale {
        scale_page::write(&complete(scale, scale_page::STORED)?, docs, &pictures)?;
    }
    compared
        .map_or(Ok(()), |compared| write_compared(&complete(compared, STORED)?, docs, &pictures))
}

/// Fails if a run of this length could not be added to the stored results, before it is measured.
///
/// # Errors
/// When the stored results cannot be read, or were cut and these will not be, or the reverse.
pub fn accepts(run: &Results, docs: &Path) -> Result<()> {
    [STORED, scale_page::STORED].into_iter().try_for_each(|file| {
        let file = docs.join(PICTURES).join(file);
        merge::into_stored(&file, Results { scenarios: Vec::new(), ..run.clone() }).map(drop)
    })
}

fn write_compared(results: &Results, docs: &Path, pictures: &Path) -> Result<()> {
    for scenario in &results.scenarios {
        for metric in aims::without_figure(&scenario.name, &scenario.figures)
            .iter()
            .filter(|_| !results.quick)
        {
            say(format_args!("{}: no figure {metric:?}, so its aim is not shown", scenario.name));
        }
        fs::write(
            pictures.join(format!("{}.svg", scenario.name)),
            picture::svg(scenario, results.quick),
        )?;
    }
    results.write(&pictures.join(STORED))?;
    fs::write(docs.join(PAGE), page(results))?;
    say(format_args!("wrote {}", docs.join(PAGE).display()));
    Ok(())
}

fn page(results: &Results) -> String {
    let machine = &results.machine;
    let mut out = String::from("# Performance\n\n");
    let _ = writeln!(
        out,
        "Written by `cargo xtask bench --report`; with `--only ROW` the other rows stay, and a row of \
         another run than most says so. Both sides run on the same machine in the same run and take \
         turns; each figure is the median of {} rounds with its smallest and largest \
         value. Absolute values belong to this machine; the ratio is the result (above 1: Trilby is \
         better, whichever direction is good).\n",
        results.rounds
    );
    if results.quick {
        out.push_str("This was a cut run (`--quick`): smaller loads than the rows describe.\n\n");
    }
    let _ = writeln!(
        out,
        "{} Trilby {}, reference {}, Kubernetes {}.\n",
        machine.words(),
        machine.trilby,
        machine.reference,
        machine.kubernetes
    );
    out.push_str(METHOD);
    for scenario in &results.scenarios {
        section(&mut out, scenario, results);
    }
    out
}

fn section(out: &mut String, scenario: &ScenarioResults, report: &Results) {
    out.push_str(&scenario.head(report));
    out.push_str("| | reference | Trilby | ratio | aim |\n|---|---|---|---|---|\n");
    for figure in &scenario.figures {
        let _ = writeln!(
            out,
            "| {} |",
            results::cells(figure, scenario.aim(figure, report.quick)).join(" | ")
        );
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::machine::Machine;
    use crate::report::stats::{Figure, Spread};
    use crate::scenario::Unit;

    #[test]
    fn a_report_can_be_written_again_from_its_own_json() {
        let spread = Some(Spread { median: 2.0, min: 1.0, max: 3.0 });
        let figure = Figure {
            metric: "rate".into(),
            unit: Unit::PerSecond,
            reference: spread,
            trilby: spread,
        };
        let scenario = ScenarioResults {
            name: "a-row".into(),
            about: "A load".into(),
            seconds: 384,
            origin: None,
            figures: vec![figure],
        };
        let results = Results {
            machine: Machine::of_this_run(None),
            rounds: 3,
            quick: false,
            profile: "release".into(),
            scenarios: vec![scenario],
        };
        let folder = blackbox::Scratch::new("report").unwrap();
        write(&results, folder.path(), Rows::OfTheRun).unwrap();
        let file = folder.path().join("performance/results.json");
        assert_eq!(results::read(&file).unwrap(), results);
        let page = fs::read_to_string(folder.path().join(PAGE)).unwrap();
        assert!(
            page.contains("| rate (/s) | 2.00 [1.00-3.00] | 2.00 [1.00-3.00] | 1.00x |  |"),
            "{page}"
        );
        assert!(folder.path().join("performance/a-row.svg").is_file());

        let mut later = results.clone();
        later.machine.date = "2100-01-01".into();
        later.rounds = 5;
        later.scenarios[0].name = "another-row".into();
        write(&later, folder.path(), Rows::WithStored).unwrap();
        let page = fs::read_to_string(folder.path().join(PAGE)).unwrap();
        let first = format!("It is of another run: {}, rounds: 3.", results.machine.date);
        assert!(page.contains(&first) && page.contains("2100-01-01"), "{page}");
        let both = results::read(&file).unwrap();
        write(&both, folder.path(), Rows::OfTheRun).unwrap();
        assert_eq!(results::read(&file).unwrap(), both, "it is written again from its own JSON");

        let cut = Results { quick: true, ..later.clone() };
        assert!(accepts(&cut, folder.path()).is_err() && accepts(&later, folder.path()).is_ok());
        write(&later, folder.path(), Rows::OfTheRun).unwrap();
        assert_eq!(results::read(&file).unwrap(), later);
    }
}

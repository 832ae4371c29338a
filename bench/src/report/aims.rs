//! The aims of the product, which the report and the pictures mark. Rows measure more
//! than there are aims for, and a cut run has none.

use crate::report::stats::{Figure, number};
use crate::scenario::Unit;

/// The bound of a figure of a row: a minimum where more is better, else a maximum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aim {
    scenario: &'static str,
    /// Whether the metric is that of each case: `<case>: <metric>`.
    of_cases: bool,
    metric: &'static str,
    bound: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    /// In the figure's unit.
    Value(f64),
    /// That many times better than the reference in the same run.
    Times(f64),
}

const fn aim(scenario: &'static str, metric: &'static str, value: f64) -> Aim {
    Aim { scenario, of_cases: false, metric, bound: Bound::Value(value) }
}

/// The bound of a figure of every case of a row.
const fn each(scenario: &'static str, metric: &'static str, value: f64) -> Aim {
    Aim { of_cases: true, ..aim(scenario, metric, value) }
}

const fn times(scenario: &'static str, metric: &'static str, factor: f64) -> Aim {
    Aim { scenario, of_cases: false, metric, bound: Bound::Times(factor) }
}

const AIMS: &[Aim] = &[
    aim("start", "operator: start to ready", 300.0),
    aim("start", "injector: start to ready", 300.0),
    aim("start", "sentry: start to ready", 300.0),
    aim("start", "placement: start to ready", 300.0),
    aim("start", "scheduler: start to ready", 300.0),
    aim("start", "scheduler: idle RSS", 12.0),
    aim("start", "all four: idle RSS", 24.0),
    aim("start", "all five: idle RSS", 40.0),
    aim("sentry-sign", "kubernetes: rate", 1000.0),
    aim("sentry-sign", "kubernetes: p99", 50.0),
    aim("sentry-sign", "cold start of 2000: refused", 0.0),
    aim("sentry-sign", "insecure: rate", 6000.0),
    aim("sentry-sign", "insecure: each certificate", 0.2),
    aim("injector", "8 at once: rate", 10_000.0),
    aim("injector", "8 at once: p99", 2.0),
    aim("injector", "8 at once: CPU per review", 0.08),
    aim("operator-memory", "all sidecars: RSS", 31.5), // 30 MiB
    aim("operator-memory-large", "after the changes: RSS", 80.0),
    aim("operator-fanout", "plain: last of 200 sidecars", 10.0),
    aim("operator-fanout", "secret: last of 200 sidecars", 10.0),
    aim("dashboard", "after the first list: RSS", 25.0),
    aim("dashboard", "at most while pages are read: RSS", 25.0),
    aim("dashboard", "first page: p99", 100.0),
    aim("dashboard", "API calls per page view", 0.0),
    aim("install", "helm install to all Ready", 3000.0),
    aim("install", "dashboard: image", 10.0),
    aim("placement-join", "500 hosts: rounds", 5.0),
    aim("placement-join", "500 hosts: table after the last join", 300.0),
    aim("placement-join", "500 hosts: sent", 20.0),
    aim("placement-join", "500 hosts: CPU", 300.0),
    aim("placement-join", "500 hosts: RSS", 40.0),
    aim("placement-join", "leader killed: first lock of the next", 1500.0),
    aim("placement-join", "leader stopped: first lock of the next", 500.0),
    times("scheduler-schedule", "1 callers: rate", 2.5),
    times("scheduler-schedule", "16 callers: rate", 4.0),
    times("scheduler-schedule", "64 callers: rate", 4.0),
    times("scheduler-schedule", "256 callers: rate", 5.0),
    times("scheduler-schedule", "1 callers: p99", 4.0),
    times("scheduler-schedule", "16 callers: p99", 4.0),
    times("scheduler-schedule", "64 callers: p99", 4.0),
    times("scheduler-schedule", "256 callers: p99", 4.0),
    aim("scheduler-schedule", "acknowledged, and lost by kill -9", 0.0),
    aim("scheduler-oneshot", "1000/s: p50", 1.0),
    aim("scheduler-oneshot", "1000/s: p99", 5.0),
    aim("scheduler-oneshot", "1000/s: lost", 0.0),
    aim("scheduler-herd", "10000 jobs: last delivered", 60.0),
    aim("scheduler-herd", "100000 jobs: lost", 0.0),
    aim("scheduler-ticks", "held", 60_000.0),
    aim("scheduler-ticks", "most held: CPU per tick", 0.03),
    aim("scheduler-ticks", "early", 0.0),
    times("scheduler-workflow", "steps", 1.5),
    aim("scheduler-workflow", "errors", 0.0),
    times("scheduler-members", "schedule: rate", 1.3),
    times("scheduler-members", "one-shot: p50", 1.43), // 0.7 of the reference
    times("scheduler-members", "one-shot: p99", 1.43),
    aim("scheduler-members", "one-shot: lost", 0.0),
    aim("scheduler-members", "restarted: lost", 0.0),
    aim("scheduler-members", "restarted: delivered twice", 0.0),
    aim("scheduler-members", "restarted: pause of its jobs", 1000.0),
    aim("scheduler-members", "restarted: pause of other jobs", 300.0),
    aim("scheduler-members", "killed: lost", 0.0),
    aim("scheduler-members", "killed: pause of its jobs", 6000.0),
    aim("scheduler-members", "killed: pause of other jobs", 300.0),
    aim("scheduler-restart", "100000 jobs: RSS before", 12.0),
    aim("scheduler-restart", "100000 jobs: RSS after scheduling", 80.0),
    aim("scheduler-restart", "100000 jobs: RSS after the restart", 80.0),
    aim("scheduler-restart", "100000 jobs: kill -9, start until a new job is delivered", 1000.0),
    aim("scheduler-restart", "100000 jobs: stop, start until a new job is delivered", 1000.0),
    aim("scheduler-restart", "100000 jobs: lost", 0.0),
    aim("scheduler-restart", "1000000 jobs: RSS after scheduling", 250.0),
    aim("scheduler-restart", "1000000 jobs: RSS after the restart", 250.0),
    aim("scheduler-restart", "1000000 jobs: kill -9, start until a new job is delivered", 2000.0),
    aim("scheduler-restart", "1000000 jobs: stop, start until a new job is delivered", 2000.0),
    each("attacks", "part of what it may use", 1.0),
    each("attacks", "victim p99, times quiet", 3.0),
    each("attacks", "victim errors", 0.0),
    each("attacks", "killed for memory", 0.0),
];

impl Aim {
    /// Against a baseline: within 5 %.
    pub const NO_WORSE: Self = times("", "", 0.95);

    /// The aim of a figure, if it has one.
    pub fn of(scenario: &str, figure: &Figure) -> Option<Self> {
        AIMS.iter().find(|aim| aim.scenario == scenario && aim.is_of(figure)).copied()
    }

    fn is_of(self, figure: &Figure) -> bool {
        let case = figure.metric.strip_suffix(self.metric);
        case.is_some_and(|case| if self.of_cases { case.ends_with(": ") } else { case.is_empty() })
    }

    /// The bound in the figure's unit; `None` when it depends on a reference that has no figure.
    pub fn value(self, figure: &Figure) -> Option<f64> {
        match self.bound {
            Bound::Value(value) => Some(value),
            Bound::Times(factor) => figure.reference.map(|reference| {
                let factor = if figure.unit.more_is_better() { factor } else { factor.recip() };
                reference.median * factor
            }),
        }
    }

    /// Whether our median reaches the aim. Without a figure of the reference every factor is
    /// reached.
    pub fn is_reached(self, figure: &Figure) -> bool {
        let Some(ours) = figure.trilby.map(|spread| spread.median) else { return false };
        let as_good = |value| {
            if figure.unit.more_is_better() { ours >= value } else { ours <= value }
        };
        self.value(figure).is_none_or(as_good)
    }

    /// The aim in words, such as `≤ 8.00` or `≥ 4.00x`.
    pub fn words(self, unit: Unit) -> String {
        match self.bound {
            Bound::Value(value) if unit.more_is_better() => format!("≥ {}", number(value)),
            Bound::Value(value) => format!("≤ {}", number(value)),
            Bound::Times(factor) => format!("≥ {}x", number(factor)),
        }
    }
}

/// The metrics of a row that have an aim and no figure: the row has renamed them.
pub fn without_figure(scenario: &str, figures: &[Figure]) -> Vec<&'static str> {
    let missing = |aim: &&Aim| !figures.iter().any(|figure| aim.is_of(figure));
    AIMS.iter()
        .filter(|aim| aim.scenario == scenario)
        .filter(missing)
        .map(|aim| aim.metric)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::stats::Spread;
    use crate::scenarios::registry;

    fn figure(unit: Unit, reference: Option<f64>, trilby: Option<f64>) -> Figure {
        let one = |median| Spread { median, min: median, max: median };
        let (reference, trilby) = (reference.map(one), trilby.map(one));
        Figure { metric: String::new(), unit, reference, trilby }
    }

    #[test]
    fn an_aim_is_a_lower_bound_where_more_is_better() {
        let is_reached = |unit, ours| aim("", "", 10.0).is_reached(&figure(unit, None, Some(ours)));
        assert!(is_reached(Unit::PerSecond, 11.0) && !is_reached(Unit::PerSecond, 9.0));
        assert!(is_reached(Unit::Milliseconds, 9.0) && !is_reached(Unit::Count, 11.0));
        assert!(!aim("", "", 10.0).is_reached(&figure(Unit::Count, Some(1.0), None)));
    }

    #[test]
    fn an_aim_may_be_a_factor_over_the_reference() {
        let four = times("", "", 4.0);
        let is_reached =
            |unit, reference, ours| four.is_reached(&figure(unit, reference, Some(ours)));
        assert!(is_reached(Unit::PerSecond, Some(10.0), 40.0));
        assert!(!is_reached(Unit::PerSecond, Some(10.0), 39.0));
        assert!(is_reached(Unit::Milliseconds, Some(40.0), 10.0));
        assert!(!is_reached(Unit::Milliseconds, Some(40.0), 11.0));
        assert!(is_reached(Unit::Amount, None, 1.0), "the reference has no figure");
        assert_eq!(four.words(Unit::Milliseconds), "≥ 4.00x");
        assert_eq!(aim("", "", 8.0).words(Unit::Milliseconds), "≤ 8.00");
    }

    #[test]
    fn every_aim_is_of_a_row() {
        for aim in AIMS {
            assert!(
                registry::all().iter().any(|scenario| scenario.description().name == aim.scenario),
                "{aim:?}"
            );
        }
    }

    #[test]
    fn an_aim_of_cases_is_that_of_each() {
        let named = |metric: &str| Figure {
            metric: metric.to_owned(),
            ..figure(Unit::Count, None, Some(2.0))
        };
        let aims = |metric: &str| Aim::of("attacks", &named(metric)).is_some();
        assert!(aims("sentry, idle connections: victim errors"));
        assert!(aims("operator, unread lists: victim errors"));
        assert!(!aims("victim errors") && !aims("sentry: not victim errors"));
        assert!(Aim::of("injector", &named("8 at once: victim errors")).is_none());
    }

    #[test]
    fn an_aim_without_its_figure_is_named() {
        let install = ["helm install to all Ready", "dashboard: image"];
        assert_eq!(without_figure("install", &[]), install);
        let figure = Figure {
            metric: "helm install to all Ready".into(),
            unit: Unit::Milliseconds,
            reference: None,
            trilby: None,
        };
        assert_eq!(without_figure("install", &[figure]), install[1..]);
    }
}

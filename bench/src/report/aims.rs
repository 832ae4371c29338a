//! What the product is to reach: the aims that the report and the pictures mark. Rows measure more
//! than there are aims for, and a cut run has none.

use crate::{report::stats::Figure, scenario::Unit};

/// A figure of a row and what it is to be: at least this where more is better, else at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aim {
    scenario: &'static str,
    metric: &'static str,
    value: f64,
}

const fn aim(scenario: &'static str, metric: &'static str, value: f64) -> Aim {
    Aim { scenario, metric, value }
}

const AIMS: &[Aim] = &[
    aim("start", "operator: start to ready", 300.0),
    aim("start", "injector: start to ready", 300.0),
    aim("start", "sentry: start to ready", 300.0),
    aim("start", "placement: start to ready", 300.0),
    aim("start", "operator: program", 8.0),
    aim("start", "injector: program", 8.0),
    aim("start", "sentry: program", 8.0),
    aim("start", "placement: program", 8.0),
    aim("start", "all four: idle RSS", 24.0),
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
    aim("install", "helm install to all Ready", 3000.0),
    aim("placement-join", "500 hosts: rounds", 5.0),
    aim("placement-join", "500 hosts: table after the last join", 300.0),
    aim("placement-join", "500 hosts: sent", 20.0),
    aim("placement-join", "500 hosts: CPU", 300.0),
    aim("placement-join", "500 hosts: RSS", 40.0),
    aim("placement-join", "leader killed: first lock of the next", 1500.0),
    aim("placement-join", "leader stopped: first lock of the next", 500.0),
];

impl Aim {
    /// The aim of a figure, if it has one.
    pub fn of(scenario: &str, figure: &Figure) -> Option<Self> {
        AIMS.iter()
            .find(|aim| (aim.scenario, aim.metric) == (scenario, figure.metric.as_str()))
            .copied()
    }

    /// In the figure's unit.
    pub fn value(self) -> f64 {
        self.value
    }

    /// Whether a median is as good as the aim.
    pub fn is_reached(self, unit: Unit, median: f64) -> bool {
        if unit.more_is_better() { median >= self.value } else { median <= self.value }
    }
}

/// The metrics of a row that have an aim and no figure: the row calls them something else now.
pub fn without_figure(scenario: &str, figures: &[Figure]) -> Vec<&'static str> {
    let missing = |aim: &&Aim| figures.iter().all(|figure| figure.metric != aim.metric);
    AIMS.iter()
        .filter(|aim| aim.scenario == scenario)
        .filter(missing)
        .map(|aim| aim.metric)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::registry;

    #[test]
    fn an_aim_is_a_lower_bound_where_more_is_better() {
        let aim = aim("", "", 10.0);
        assert!(aim.is_reached(Unit::PerSecond, 11.0) && !aim.is_reached(Unit::PerSecond, 9.0));
        assert!(aim.is_reached(Unit::Milliseconds, 9.0) && !aim.is_reached(Unit::Count, 11.0));
    }

    #[test]
    fn every_aim_is_of_a_row() {
        for aim in AIMS {
            assert!(
                registry::all().iter().any(|scenario| scenario.name() == aim.scenario),
                "{aim:?}"
            );
        }
    }

    #[test]
    fn an_aim_without_its_figure_is_named() {
        assert_eq!(without_figure("install", &[]), ["helm install to all Ready"]);
        let figure = Figure {
            metric: "helm install to all Ready".into(),
            unit: Unit::Milliseconds,
            reference: None,
            trilby: None,
        };
        assert!(without_figure("install", &[figure]).is_empty());
    }
}

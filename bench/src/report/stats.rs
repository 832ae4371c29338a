//! From the readings of all rounds to figures.

use serde::{Deserialize, Serialize};

use crate::scenario::{Reading, Side, Unit};

/// Median and spread of one side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle value; the mean of the two middle ones when their number is even.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of at least one value.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }
}

/// A value with three significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.0995 => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.3}"),
    }
}

/// One line of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Name of the metric.
    pub metric: String,
    /// Unit of the values.
    pub unit: Unit,
    /// The reference or the baseline; absent when it has no such reading.
    pub reference: Option<Spread>,
    /// Ours.
    pub trilby: Option<Spread>,
}

impl Figure {
    /// How many times better ours is: above 1 is better, whichever direction is good. Absent when
    /// a side is missing or a median is zero.
    pub fn ratio(&self) -> Option<f64> {
        let (theirs, ours) = (self.reference?.median, self.trilby?.median);
        if theirs <= 0.0 || ours <= 0.0 {
            return None;
        }
        Some(if self.unit.more_is_better() { ours / theirs } else { theirs / ours })
    }
}

/// The figures of a row, in the order in which its metrics first appeared; one that only a later
/// round has stands where that round has it.
pub fn figures(readings: &[(Side, Reading)]) -> Vec<Figure> {
    let mut order: Vec<(&str, Unit)> = Vec::new();
    let mut next = 0;
    for (_, reading) in readings {
        let known = order.iter().position(|(metric, _)| *metric == reading.metric);
        let place = known.unwrap_or(next);
        if known.is_none() {
            order.insert(place, (&reading.metric, reading.unit));
        }
        next = place + 1;
    }
    let spread = |ours: bool, metric: &str| {
        let of_side = readings
            .iter()
            .filter(|(side, reading)| (*side == Side::Trilby) == ours && reading.metric == metric);
        Spread::of(&of_side.map(|(_, reading)| reading.value).collect::<Vec<_>>())
    };
    let figure = |(metric, unit): (&str, Unit)| Figure {
        metric: metric.to_owned(),
        unit,
        reference: spread(false, metric),
        trilby: spread(true, metric),
    };
    order.into_iter().map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let spread = Spread::of(&[9.0, 1.0, 4.0]);
        assert_eq!(spread, Some(Spread { median: 4.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of(&[4.0, 2.0]).map(|s| s.median), Some(3.0));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_ratio_above_one_is_always_the_better_side_being_ours() {
        let one = |median| Some(Spread { median, min: median, max: median });
        let figure = |unit, reference, trilby| Figure {
            metric: String::new(),
            unit,
            reference: one(reference),
            trilby: one(trilby),
        };
        assert_eq!(figure(Unit::PerSecond, 10.0, 40.0).ratio(), Some(4.0));
        assert_eq!(figure(Unit::Milliseconds, 40.0, 10.0).ratio(), Some(4.0));
        assert_eq!(figure(Unit::Count, 0.0, 10.0).ratio(), None);
        assert_eq!(Figure { trilby: None, ..figure(Unit::Count, 1.0, 1.0) }.ratio(), None);
    }

    #[test]
    fn metrics_keep_the_order_of_their_first_appearance() {
        let reading = |metric: &str, value| Reading::new(metric, Unit::Count, value);
        let readings = [
            (Side::Trilby, reading("b", 1.0)),
            (Side::Trilby, reading("a", 2.0)),
            (Side::Reference, reading("a", 6.0)),
            (Side::Reference, reading("a", 8.0)),
        ];
        let figures = figures(&readings);
        let names: Vec<_> = figures.iter().map(|figure| figure.metric.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(figures.last().and_then(Figure::ratio), Some(3.5));
    }

    #[test]
    fn a_metric_that_one_side_lacks_stands_where_the_other_has_it() {
        let reading = |side, metric: &str| (side, Reading::new(metric, Unit::Count, 1.0));
        let (r, t) = (Side::Reference, Side::Trilby);
        let rounds = [(r, "small"), (r, "end"), (t, "small"), (t, "large"), (t, "end")];
        let figures = figures(&rounds.map(|(side, metric)| reading(side, metric)));
        let names: Vec<_> = figures.iter().map(|figure| figure.metric.as_str()).collect();
        assert_eq!(names, ["small", "large", "end"]);
    }

    #[test]
    fn numbers_have_three_significant_digits() {
        let shown = [1234.5, 100.0, 12.34, 1.234, 0.1234, 0.01234, 0.0].map(number);
        assert_eq!(shown, ["1234", "100", "12.3", "1.23", "0.12", "0.012", "0"]);
    }
}

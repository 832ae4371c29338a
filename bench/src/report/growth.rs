//! How a quantity grows with size: a line through the logarithms of both, by least squares. Its slope
//! is the exponent, so 1 is linear and 2 quadratic.

use std::cmp::Ordering;
use std::fmt::Write as _;

use crate::report::stats::{Figure, number};
use crate::scenario::{Reading, Unit};

/// A reading of a quantity at a size: `5000 sidecars: RSS`.
pub fn reading(size: usize, of: &str, quantity: &str, unit: Unit, value: f64) -> Reading {
    Reading::new(format!("{size} {of}: {quantity}"), unit, value)
}

/// A quantity at several sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What the sizes count.
    pub of: String,
    /// What was measured.
    pub quantity: String,
    /// Unit of the values.
    pub unit: Unit,
    /// Size and value, by size.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// Its quantity, with the unit.
    pub fn label(&self) -> String {
        match self.unit.symbol() {
            "" => self.quantity.clone(),
            unit => format!("{} ({unit})", self.quantity),
        }
    }
}

/// A power law: `factor * size ^ exponent`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerLaw {
    /// 1 for a cost that grows as the size does.
    pub exponent: f64,
    /// The value at size 1.
    pub factor: f64,
}

impl PowerLaw {
    /// The law that is nearest to the points by their logarithms. Points without a logarithm do not
    /// count; `None` when fewer than two sizes are left.
    pub fn fit(points: &[(f64, f64)]) -> Option<Self> {
        let logarithms: Vec<_> = points
            .iter()
            .filter(|(size, value)| *size > 0.0 && *value > 0.0)
            .map(|(size, value)| (size.ln(), value.ln()))
            .collect();
        let mean = |part: fn(&(f64, f64)) -> f64| mean(logarithms.iter().map(part));
        let (x, y) = (mean(|point| point.0)?, mean(|point| point.1)?);
        let spread: f64 = logarithms.iter().map(|point| (point.0 - x).powi(2)).sum();
        let slope: f64 = logarithms.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
        let exponent = slope / spread;
        exponent.is_finite().then(|| Self { exponent, factor: exponent.mul_add(-x, y).exp() })
    }

    /// Its value at a size.
    pub fn at(self, size: f64) -> f64 {
        self.factor * size.powf(self.exponent)
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

/// The series among the figures of a row, ours; figures without a size are left out.
pub fn series(figures: &[Figure]) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for figure in figures {
        let Some(spread) = figure.trilby else { continue };
        let Some((size, of, quantity)) = parse(&figure.metric) else { continue };
        let known = all.iter_mut().find(|known| known.of == of && known.quantity == quantity);
        match known {
            Some(known) => known.points.push((size, spread.median)),
            None => all.push(Series {
                of: of.to_owned(),
                quantity: quantity.to_owned(),
                unit: figure.unit,
                points: vec![(size, spread.median)],
            }),
        }
    }
    for one in &mut all {
        one.points.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal));
    }
    all.retain(|one| one.points.len() > 1);
    all
}

/// The parts of the name of a [`reading`].
fn parse(metric: &str) -> Option<(f64, &str, &str)> {
    let (size, quantity) = metric.split_once(": ")?;
    let (size, of) = size.split_once(' ')?;
    Some((size.parse().ok()?, of, quantity))
}

/// A table in Markdown for each thing that sizes count, empty without series.
pub fn tables(series: &[Series]) -> String {
    let mut out = String::new();
    let mut done: Vec<&str> = Vec::new();
    for first in series {
        if done.contains(&first.of.as_str()) {
            continue;
        }
        done.push(&first.of);
        let sizes: Vec<f64> = first.points.iter().map(|point| point.0).collect();
        let _ = write!(out, "| {} |", first.of);
        for size in &sizes {
            let _ = write!(out, " {} |", grouped(*size));
        }
        let _ = writeln!(out, " exponent |\n|---|{}---|", "---|".repeat(sizes.len()));
        for one in series.iter().filter(|one| one.of == first.of) {
            let _ = write!(out, "| {} |", one.label());
            for size in &sizes {
                let value = one.points.iter().find(|point| point.0.total_cmp(size).is_eq());
                let value = value.map_or_else(|| "-".to_owned(), |point| number(point.1));
                let _ = write!(out, " {value} |");
            }
            let _ = writeln!(out, " {} |", exponent(one));
        }
        out.push('\n');
    }
    out
}

/// The exponent of a series with two digits, or a dash.
pub fn exponent(series: &Series) -> String {
    let law = PowerLaw::fit(&series.points);
    law.map_or_else(|| "-".to_owned(), |law| format!("{:.2}", law.exponent))
}

/// A size with commas between thousands.
pub fn grouped(size: f64) -> String {
    let digits = format!("{size:.0}");
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::stats::Spread;

    fn figure(metric: &str, value: f64) -> Figure {
        let spread = Some(Spread { median: value, min: value, max: value });
        Figure { metric: metric.into(), unit: Unit::Megabytes, reference: None, trilby: spread }
    }

    fn law(points: &[(f64, f64)]) -> PowerLaw {
        PowerLaw::fit(points).unwrap()
    }

    #[test]
    fn a_power_law_is_found_in_its_own_points() {
        for exponent in [0.0_f64, 0.5, 1.0, 2.0] {
            let point = |size: f64| (size, 3.0 * size.powf(exponent));
            let found = law(&[10.0, 300.0, 20_000.0].map(point));
            assert!((found.exponent - exponent).abs() < 1e-9, "{found:?}");
            assert!((found.factor - 3.0).abs() < 1e-6, "{found:?}");
            assert!((found.at(100.0) - point(100.0).1).abs() < 1e-6, "{found:?}");
        }
    }

    #[test]
    fn the_nearest_line_lies_between_points_that_are_off() {
        // Twice too much and half of it, in turn: the logarithms are as far off on both sides.
        let found = law(&[(1.0, 2.0), (10.0, 5.0), (100.0, 50.0), (1000.0, 2000.0)]);
        assert!((found.exponent - 1.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn one_size_and_values_without_a_logarithm_have_no_law() {
        assert_eq!(PowerLaw::fit(&[]), None);
        assert_eq!(PowerLaw::fit(&[(5.0, 1.0), (5.0, 2.0)]), None);
        assert_eq!(PowerLaw::fit(&[(5.0, 1.0), (10.0, 0.0)]), None);
        let found = law(&[(1.0, 0.0), (10.0, 10.0), (100.0, 100.0)]);
        assert!((found.exponent - 1.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn series_are_read_from_the_names_of_figures() {
        let name = reading(500, "sidecars", "RSS", Unit::Megabytes, 9.0).metric;
        let figures = [
            figure("5000 sidecars: RSS", 90.0),
            figure(&name, 9.0),
            figure("500 hosts of one namespace: sent: all", 1.0),
            figure("1000 hosts of one namespace: sent: all", 4.0),
            figure("7 once: RSS", 1.0),
            figure("peak RSS", 1.0),
        ];
        let found = series(&figures);
        let names: Vec<_> =
            found.iter().map(|one| (one.of.as_str(), one.quantity.as_str())).collect();
        assert_eq!(names, [("sidecars", "RSS"), ("hosts of one namespace", "sent: all")]);
        assert_eq!(found[0].points, [(500.0, 9.0), (5000.0, 90.0)]);
    }

    #[test]
    fn a_table_has_a_column_for_each_size() {
        let figures = [
            figure("100 jobs: RSS", 1.0),
            figure("1000000 jobs: RSS", 10_000.0),
            figure("100 jobs: on disk", 2.0),
            figure("1000000 jobs: on disk", 0.0),
        ];
        let want = "| jobs | 100 | 1,000,000 | exponent |\n|---|---|---|---|\n\
            | RSS (MB) | 1.00 | 10000 | 1.00 |\n| on disk (MB) | 2.00 | 0 | - |\n\n";
        assert_eq!(tables(&series(&figures)), want);
        assert_eq!(tables(&[]), "");
    }
}

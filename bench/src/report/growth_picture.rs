//! The growth of a row as an SVG picture: a panel for each quantity, size and value both logarithmic,
//! so that a power law is a line and its exponent the slope.

use std::fmt::Write as _;

use crate::report::growth::{self, PowerLaw, Series, grouped};
use crate::report::picture::escaped;
use crate::report::stats::number;

const COLUMNS: usize = 3;
const PANEL_WIDTH: f64 = 300.0;
const PANEL_HEIGHT: f64 = 220.0;
const TOP: f64 = 40.0;
/// The area of the points within a panel: left, right, top, bottom.
const PLOT: [f64; 4] = [62.0, 284.0, 30.0, 180.0];
/// Part of the width that stays free on both sides of the points.
const MARGIN: f64 = 0.08;
const POINT_COLOUR: &str = "#b4552d";
const LINE_COLOUR: &str = "#8b95a5";
const AXIS_COLOUR: &str = "#222222";

/// The picture of all series of a row.
pub fn svg(name: &str, all: &[Series]) -> String {
    let places =
        (0..all.len().div_ceil(COLUMNS)).flat_map(|row| (0..COLUMNS).map(move |c| (c, row)));
    let width = PANEL_WIDTH * scaled(COLUMNS);
    let height = TOP + PANEL_HEIGHT * scaled(all.len().div_ceil(COLUMNS));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escaped(name)
    );
    for (series, (column, row)) in all.iter().zip(places) {
        let (x, y) = (PANEL_WIDTH * scaled(column), TOP + PANEL_HEIGHT * scaled(row));
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">");
        panel(&mut out, series);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

#[expect(clippy::cast_precision_loss, reason = "a handful of panels")]
fn scaled(count: usize) -> f64 {
    count as f64
}

fn panel(out: &mut String, series: &Series) {
    let [left, right, top, bottom] = PLOT;
    let _ = writeln!(
        out,
        "<text x=\"{left}\" y=\"18\" font-weight=\"bold\">{}</text>\
         <text x=\"{right}\" y=\"18\" text-anchor=\"end\" fill=\"{POINT_COLOUR}\">exponent {}</text>\n\
         <path d=\"M{left} {top}V{bottom}H{right}\" stroke=\"{AXIS_COLOUR}\" fill=\"none\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        escaped(&series.label()),
        growth::exponent(series),
        f64::midpoint(left, right),
        bottom + 32.0,
        escaped(&series.of),
    );
    let points: Vec<_> = series.points.iter().filter(|(_, value)| *value > 0.0).collect();
    let sizes = Axis::over(points.iter().map(|point| point.0), left, right);
    let values = Axis::over(points.iter().map(|point| point.1), bottom, top);
    let (Some(sizes), Some(values)) = (sizes, values) else { return };
    if let Some(law) = PowerLaw::fit(&series.points) {
        line(out, law, &points, &sizes, &values);
    }
    for (size, value) in points {
        let (x, y) = (sizes.place(*size), values.place(*value));
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{POINT_COLOUR}\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" font-size=\"10\">{}</text>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"10\">{}</text>",
            bottom + 14.0,
            grouped(*size),
            left - 5.0,
            y + 3.5,
            number(*value)
        );
    }
}

fn line(out: &mut String, law: PowerLaw, points: &[&(f64, f64)], sizes: &Axis, values: &Axis) {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
    let _ = writeln!(
        out,
        "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"{LINE_COLOUR}\" stroke-width=\"2\"/>",
        sizes.place(first.0),
        values.place(law.at(first.0)),
        sizes.place(last.0),
        values.place(law.at(last.0)),
    );
}

/// A logarithmic axis.
struct Axis {
    from: f64,
    scale: f64,
    start: f64,
}

impl Axis {
    /// An axis that has all values between two coordinates; equal ones are in the middle.
    fn over(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Option<Self> {
        let logarithms: Vec<f64> = values.map(f64::ln).collect();
        let from = logarithms.iter().copied().reduce(f64::min)?;
        let to = logarithms.iter().copied().reduce(f64::max)?;
        let free = ((to - from) * MARGIN).max(0.05);
        let (from, to) = (from - free, to + free);
        Some(Self { from, scale: (end - start) / (to - from), start })
    }

    fn place(&self, value: f64) -> f64 {
        (value.ln() - self.from).mul_add(self.scale, self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Unit;

    fn series(points: &[(f64, f64)]) -> Series {
        let (of, quantity) = ("hosts <all>".to_owned(), "RSS & more".to_owned());
        Series { of, quantity, unit: Unit::Megabytes, points: points.to_vec() }
    }

    #[test]
    fn a_panel_has_a_dot_for_each_value_and_the_exponent() {
        let picture = svg("scale-x", &[series(&[(10.0, 1.0), (100.0, 10.0), (1000.0, 100.0)])]);
        assert_eq!(picture.matches("<circle").count(), 3);
        assert!(picture.contains(">exponent 1.00<"), "{picture}");
        assert!(picture.contains("RSS &amp; more (MB)") && picture.contains("hosts &lt;all&gt;"));
    }

    #[test]
    fn values_of_zero_have_no_dot_and_panels_share_rows() {
        let one = series(&[(10.0, 0.0), (100.0, 10.0), (1000.0, 100.0)]);
        let rows = |count: usize| svg("x", &vec![one.clone(); count]);
        assert_eq!(rows(1).matches("<circle").count(), 2);
        assert!(rows(3).contains("height=\"260\"") && rows(4).contains("height=\"480\""));
        assert!(svg("x", &[series(&[(10.0, 0.0), (100.0, 0.0)])]).contains(">exponent -<"));
    }

    #[test]
    fn an_axis_is_logarithmic_and_equal_values_are_in_its_middle() {
        let axis = Axis::over([1.0, 100.0].into_iter(), 0.0, 100.0).unwrap();
        assert!((axis.place(10.0) - 50.0).abs() < 1e-9);
        let flat = Axis::over([7.0, 7.0].into_iter(), 100.0, 0.0).unwrap();
        assert!((flat.place(7.0) - 50.0).abs() < 1e-9);
        assert!(Axis::over(std::iter::empty(), 0.0, 1.0).is_none());
    }
}

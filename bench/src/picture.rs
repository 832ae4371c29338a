//! A row as an SVG picture: two bars for each figure, scaled to the larger of them, with the spread
//! as a whisker.

use std::fmt::Write as _;

use crate::{
    results::{self, RowResults},
    stats::{Figure, Spread},
};

const WIDTH: f64 = 860.0;
const LABELS: f64 = 330.0;
const BARS: f64 = 330.0;
const BAR: f64 = 11.0;
const FIGURE: f64 = 34.0;
const TOP: f64 = 40.0;
const REFERENCE_COLOUR: &str = "#8b95a5";
const TRILBY_COLOUR: &str = "#b4552d";

/// The picture of a row.
pub fn svg(row: &RowResults) -> String {
    let shown: Vec<_> = row.figures.iter().filter(|figure| largest(figure) > 0.0).collect();
    let height = TOP + shown.iter().map(|_| FIGURE).sum::<f64>() + 10.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escaped(&row.name)
    );
    legend(&mut out);
    let mut y = TOP;
    for figure in shown {
        draw(&mut out, figure, y);
        y += FIGURE;
    }
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String) {
    for (x, colour, name) in
        [(LABELS, REFERENCE_COLOUR, "reference"), (LABELS + 100.0, TRILBY_COLOUR, "trilby")]
    {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"12\" width=\"11\" height=\"11\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"22\">{name}</text>",
            x + 16.0
        );
    }
}

fn draw(out: &mut String, figure: &Figure, y: f64) {
    let [label, _, _, ratio] = results::cells(figure);
    let scale = BARS / largest(figure);
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        LABELS - 8.0,
        y + 16.0,
        escaped(&label)
    );
    bar(out, figure.reference, y, scale, REFERENCE_COLOUR);
    bar(out, figure.trilby, y + BAR + 2.0, scale, TRILBY_COLOUR);
    if figure.ratio().is_some() {
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-weight=\"bold\">{ratio}</text>",
            WIDTH - 8.0,
            y + 16.0
        );
    }
}

fn bar(out: &mut String, spread: Option<Spread>, y: f64, scale: f64, colour: &str) {
    let Some(Spread { median, min, max }) = spread else { return };
    let middle = y + BAR / 2.0;
    let (from, to) = (LABELS + min * scale, LABELS + max * scale);
    let _ = writeln!(
        out,
        "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
         <path d=\"M{from:.1} {middle}H{to:.1}\" stroke=\"#222222\"/>\
         <text x=\"{:.1}\" y=\"{}\" font-size=\"10\">{}</text>",
        median * scale,
        to + 6.0,
        y + BAR - 2.0,
        results::number(median)
    );
}

fn largest(figure: &Figure) -> f64 {
    let largest = |spread: Option<Spread>| spread.map_or(0.0, |s| s.max);
    largest(figure.reference).max(largest(figure.trilby))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Unit;

    fn row(reference: f64, trilby: f64) -> RowResults {
        let one = |median: f64| Some(Spread { median, min: median, max: median });
        RowResults {
            name: "a < b".into(),
            about: String::new(),
            figures: vec![Figure {
                metric: "rate".into(),
                unit: Unit::PerSecond,
                reference: one(reference),
                trilby: one(trilby),
            }],
        }
    }

    #[test]
    fn the_larger_side_fills_the_width() {
        let picture = svg(&row(50.0, 100.0));
        assert!(
            picture
                .contains(&format!("width=\"165.0\" height=\"{BAR}\" fill=\"{REFERENCE_COLOUR}\""))
        );
        assert!(
            picture.contains(&format!("width=\"330.0\" height=\"{BAR}\" fill=\"{TRILBY_COLOUR}\""))
        );
        assert!(picture.contains("2.00x") && picture.contains("a &lt; b"), "{picture}");
    }

    #[test]
    fn a_figure_of_zeros_has_no_bars() {
        assert!(!svg(&row(0.0, 0.0)).contains("<path"));
    }
}

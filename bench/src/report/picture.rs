//! A row as an SVG picture: two bars for each figure, scaled to the larger of them, with the spread
//! as a whisker and the aim as a dashed line.

use std::fmt::Write as _;

use crate::report::aims::Aim;
use crate::report::results::{self, ScenarioResults};
use crate::report::stats::{self, Figure, Spread};

const WIDTH: f64 = 900.0;
const LABELS: f64 = 330.0;
const BARS: f64 = 330.0;
const BAR: f64 = 11.0;
const FIGURE: f64 = 34.0;
const TOP: f64 = 44.0;
/// An aim further away than this many times the longest bar would make the bars too short to read:
/// it is given as text only.
const FAR: f64 = 1.5;
const REFERENCE_COLOUR: &str = "#8b95a5";
const TRILBY_COLOUR: &str = "#b4552d";
const REACHED_COLOUR: &str = "#2b7a3d";
const MISSED_COLOUR: &str = "#a3271f";
const WHISKER_COLOUR: &str = "#222222";

/// The picture of a row; a cut run has no aims.
pub fn svg(scenario: &ScenarioResults, quick: bool) -> String {
    let shown: Vec<_> = scenario.figures.iter().filter(|figure| largest(figure) > 0.0).collect();
    let height = TOP + shown.iter().map(|_| FIGURE).sum::<f64>() + 10.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escaped(&scenario.name)
    );
    legend(&mut out);
    let mut y = TOP;
    for figure in shown {
        draw(&mut out, figure, scenario.aim(figure, quick), y);
        y += FIGURE;
    }
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String) {
    for (x, colour, name) in
        [(LABELS, REFERENCE_COLOUR, "reference"), (LABELS + 90.0, TRILBY_COLOUR, "trilby")]
    {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"12\" width=\"11\" height=\"11\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"22\">{name}</text>",
            x + 16.0
        );
    }
    let x = LABELS + 165.0;
    let _ = writeln!(
        out,
        "<path d=\"M{x} 17.5H{}M{x} 14V21M{} 14V21\" stroke=\"{WHISKER_COLOUR}\"/>\
         <text x=\"{}\" y=\"22\">smallest to largest</text>",
        x + 20.0,
        x + 20.0,
        x + 26.0
    );
    let x = LABELS + 315.0;
    let _ = writeln!(
        out,
        "<path d=\"M{x} 10V26\" stroke=\"{REACHED_COLOUR}\" stroke-dasharray=\"3 2\" \
         stroke-width=\"1.5\"/><text x=\"{}\" y=\"22\">aim</text>\
         <text x=\"{}\" y=\"22\" text-anchor=\"end\">times better</text>",
        x + 6.0,
        WIDTH - 8.0
    );
}

fn draw(out: &mut String, figure: &Figure, aim: Option<Aim>, y: f64) {
    let [label, _, _, ratio, words] = results::cells(figure, aim);
    let longest = largest(figure);
    let near = aim
        .and_then(|aim| aim.value(figure))
        .filter(|value| *value > 0.0 && *value <= FAR * longest);
    let scale = BARS / longest.max(near.unwrap_or_default());
    let middle = y + 16.0;
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
        LABELS - 8.0,
        escaped(&label)
    );
    bar(out, figure.reference, y, scale, REFERENCE_COLOUR);
    bar(out, figure.trilby, y + BAR + 2.0, scale, TRILBY_COLOUR);
    let reached = aim.is_some_and(|aim| aim.is_reached(figure));
    let colour = if reached { REACHED_COLOUR } else { MISSED_COLOUR };
    if let Some(value) = near {
        let x = LABELS + value * scale;
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {}V{}\" stroke=\"{colour}\" stroke-dasharray=\"3 2\" \
             stroke-width=\"1.5\"/>",
            y - 3.0,
            y + 2.0 * BAR + 5.0
        );
    }
    let x = WIDTH - 8.0;
    if figure.ratio().is_some() {
        let y = if words.is_empty() { middle } else { y + 9.0 };
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\" font-weight=\"bold\">{ratio}</text>"
        );
    }
    if !words.is_empty() {
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"end\" font-size=\"10\" fill=\"{colour}\">aim \
             {words}</text>",
            y + 22.0
        );
    }
}

fn bar(out: &mut String, spread: Option<Spread>, y: f64, scale: f64, colour: &str) {
    let Some(Spread { median, min, max }) = spread else {
        let (x, y) = (LABELS + 4.0, y + BAR - 2.0);
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" font-size=\"10\">no figure</text>");
        return;
    };
    let (top, middle, bottom) = (y + 3.0, y + BAR / 2.0, y + BAR - 3.0);
    let (from, to) = (LABELS + min * scale, LABELS + max * scale);
    let _ = writeln!(
        out,
        "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
         <path d=\"M{from:.1} {middle}H{to:.1}M{from:.1} {top}V{bottom}M{to:.1} {top}V{bottom}\" \
         stroke=\"{WHISKER_COLOUR}\"/>\
         <text x=\"{:.1}\" y=\"{}\" font-size=\"10\">{}</text>",
        median * scale,
        to + 6.0,
        y + BAR - 2.0,
        stats::number(median)
    );
}

fn largest(figure: &Figure) -> f64 {
    let largest = |spread: Option<Spread>| spread.map_or(0.0, |s| s.max);
    largest(figure.reference).max(largest(figure.trilby))
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Unit;

    fn scenario(name: &str, metric: &str, reference: f64, trilby: f64) -> ScenarioResults {
        let one = |median: f64| Some(Spread { median, min: median, max: median });
        ScenarioResults {
            name: name.into(),
            about: String::new(),
            seconds: 0,
            origin: None,
            figures: vec![Figure {
                metric: metric.into(),
                unit: Unit::PerSecond,
                reference: one(reference),
                trilby: one(trilby),
            }],
        }
    }

    #[test]
    fn the_larger_side_fills_the_width() {
        let picture = svg(&scenario("a < b", "rate", 50.0, 100.0), false);
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
    fn an_aim_is_a_line_when_it_is_near_and_always_words() {
        let dashed = |picture: &str| picture.matches("stroke-dasharray").count() - 1; // the legend
        let near = svg(&scenario("injector", "8 at once: rate", 800.0, 9000.0), false);
        assert_eq!(dashed(&near), 1);
        assert!(near.contains("aim ≥ 10000: missed"), "{near}");
        let far = svg(&scenario("injector", "8 at once: rate", 80.0, 900.0), false);
        assert_eq!(dashed(&far), 0);
        assert!(far.contains("aim ≥ 10000: missed"), "{far}");
        let cut = svg(&scenario("injector", "8 at once: rate", 800.0, 9000.0), true);
        assert!(!cut.contains("missed"), "{cut}");
    }

    #[test]
    fn a_figure_of_zeros_is_left_out() {
        assert!(!svg(&scenario("a", "errors", 0.0, 0.0), false).contains("errors"));
    }

    #[test]
    fn a_side_without_a_figure_says_so() {
        let mut scenario = scenario("a", "rate", 1.0, 2.0);
        scenario.figures[0].reference = None;
        assert!(svg(&scenario, false).contains("no figure"));
    }
}

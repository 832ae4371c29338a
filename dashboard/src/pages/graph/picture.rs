//! The graph as a picture: applications and components on a circle, calls as curves. Pure.
//!
//! A small picture fits into the window. A large one has its natural size and scrolls.

use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::{PI, TAU};

use super::{Edge, Node};
use crate::html::{Html, el, leaf, text};
use crate::pages::parts::hint;
use crate::pages::words;

/// Drawn applications and components; the table lists the calls of all.
const MAX_NODES: usize = 1_000;
/// Drawn calls.
const MAX_CURVES: usize = 10_000;
/// Applications and components of a picture that fits into the window.
const MAX_FITTING: usize = 60;
/// Characters of a label; the title of its dot has the whole name.
const MAX_LABEL_CHARS: usize = 24;

/// Width, height and radius of a picture that fits into the window.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 620.0;
const RADIUS: f64 = 230.0;
/// Length of the circle for each dot of a large picture beyond [`MAX_FITTING`].
const ARC: f64 = 16.0;
/// Space around the circle of a large picture, for labels.
const MARGIN: f64 = 220.0;

/// The picture. The table has the same data, so screen readers skip the picture.
pub(super) fn picture(edges: &[Edge]) -> Html {
    let ends =
        edges.iter().flat_map(|edge| [(&edge.namespace, &edge.from), (&edge.namespace, &edge.to)]);
    let nodes: BTreeSet<_> = ends.collect();
    if nodes.is_empty() {
        return Html::default();
    }
    if nodes.len() > MAX_NODES || edges.len() > MAX_CURVES {
        return hint(format!(
            "{} applications and components with {} are too many to draw: filter by namespace or name.",
            nodes.len(),
            words::count(edges.len(), "connection")
        ));
    }
    let circle = Circle::of(nodes.len());
    let places: BTreeMap<_, _> =
        nodes.into_iter().enumerate().map(|(number, node)| (node, circle.place(number))).collect();
    let curves = edges.iter().filter_map(|edge| {
        let from = places.get(&(&edge.namespace, &edge.from))?;
        let to = places.get(&(&edge.namespace, &edge.to))?;
        Some(circle.curve(*from, *to, edge.errors > 0.0))
    });
    let dots = places.iter().map(|((_, node), place)| circle.dot(node, *place));
    circle.frame(std::iter::once(arrow()).chain(curves).chain(dots))
}

/// Where a dot is.
#[derive(Debug, Clone, Copy)]
struct Place {
    x: f64,
    y: f64,
    /// Clockwise from the right, in radians.
    angle: f64,
}

/// How labels stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Labels {
    Horizontal,
    /// Along the radius, so that neighbours do not cover each other.
    Radial,
}

/// The geometry of a picture.
#[derive(Debug)]
struct Circle {
    dots: f64,
    radius: f64,
    width: f64,
    height: f64,
    dot_radius: f64,
    labels: Labels,
}

impl Circle {
    fn of(dots: usize) -> Self {
        let more = float(dots.saturating_sub(MAX_FITTING));
        let radius = RADIUS + more * ARC / TAU;
        let size = 2.0 * (radius + MARGIN);
        let dots = float(dots);
        if more > 0.0 {
            let labels = Labels::Radial;
            return Self { dots, radius, width: size, height: size, dot_radius: 6.0, labels };
        }
        let labels = Labels::Horizontal;
        Self { dots, radius, width: WIDTH, height: HEIGHT, dot_radius: 10.0, labels }
    }

    fn place(&self, number: usize) -> Place {
        let angle = float(number) / self.dots * TAU;
        Place {
            x: self.width / 2.0 + self.radius * angle.cos(),
            y: self.height / 2.0 + self.radius * angle.sin(),
            angle,
        }
    }

    /// A curve that ends before the dot of its target, so that both directions are visible.
    fn curve(&self, from: Place, to: Place, has_errors: bool) -> Html {
        let (dx, dy) = (to.x - from.x, to.y - from.y);
        let length = (dx * dx + dy * dy).sqrt().max(1.0);
        let gap = self.dot_radius + 4.0;
        let end = (to.x - dx / length * gap, to.y - dy / length * gap);
        let bend =
            (f64::midpoint(from.x, to.x) - dy * 0.12, f64::midpoint(from.y, to.y) + dx * 0.12);
        let path = format!(
            "M{:.1} {:.1}Q{:.1} {:.1} {:.1} {:.1}",
            from.x, from.y, bend.0, bend.1, end.0, end.1
        );
        let class = if has_errors { "edge bad" } else { "edge" };
        el("path", &[("d", &path), ("class", class), ("marker-end", "url(#arrow)")], [])
    }

    fn dot(&self, node: &Node, place: Place) -> Html {
        let class = match node {
            Node::App(_) => "node app",
            Node::Component(_) => "node component",
        };
        let [cx, cy] = [place.x, place.y].map(|at| format!("{at:.1}"));
        let radius = self.dot_radius.to_string();
        let attributes = [("cx", cx.as_str()), ("cy", &cy), ("r", &radius), ("class", class)];
        let dot = el("circle", &attributes, []);
        el("g", &[], [dot, leaf("title", node.name()), self.label(node.name(), place)])
    }

    /// The label stands outside of the circle and is never upside down.
    fn label(&self, name: &str, place: Place) -> Html {
        let is_right = place.x >= self.width / 2.0;
        let (anchor, side) = if is_right { ("start", 1.0) } else { ("end", -1.0) };
        let away = side * (self.dot_radius + 6.0);
        let words = [text(shortened(name))];
        match self.labels {
            Labels::Horizontal => {
                let [x, y] = [place.x + away, place.y + 5.0].map(|at| format!("{at:.1}"));
                el("text", &[("x", &x), ("y", &y), ("text-anchor", anchor)], words)
            }
            Labels::Radial => {
                let turn = if is_right { place.angle } else { place.angle - PI }.to_degrees();
                let (x, y) = (place.x, place.y);
                let transform = format!("translate({x:.1} {y:.1})rotate({turn:.1})");
                let away = away.to_string();
                let attributes = [
                    ("x", away.as_str()),
                    ("y", "4"),
                    ("text-anchor", anchor),
                    ("transform", &transform),
                ];
                el("text", &attributes, words)
            }
        }
    }

    fn frame(&self, parts: impl IntoIterator<Item = Html>) -> Html {
        let [width, height] = [self.width, self.height].map(|size| format!("{size:.0}"));
        let view_box = format!("0 0 {width} {height}");
        let mut attributes = vec![("viewBox", view_box.as_str()), ("aria-hidden", "true")];
        match self.labels {
            Labels::Horizontal => {
                attributes.push(("class", "graph"));
                el("svg", &attributes, parts)
            }
            Labels::Radial => {
                attributes.extend([
                    ("class", "graph large"),
                    ("width", &width),
                    ("height", &height),
                ]);
                let picture = el("svg", &attributes, parts);
                let scrolls = [
                    ("class", "picture"),
                    ("tabindex", "0"),
                    ("role", "region"),
                    ("aria-label", "Picture of the calls"),
                ];
                el("div", &scrolls, [picture])
            }
        }
    }
}

fn arrow() -> Html {
    let path = el("path", &[("d", "M0 0 8 4 0 8z"), ("class", "arrow")], []);
    let attributes = [
        ("id", "arrow"),
        ("viewBox", "0 0 8 8"),
        ("refX", "8"),
        ("refY", "4"),
        ("markerWidth", "8"),
        ("markerHeight", "8"),
        ("orient", "auto"),
    ];
    el("defs", &[], [el("marker", &attributes, [path])])
}

/// A name as a label: its start and an ellipsis if it is longer than [`MAX_LABEL_CHARS`].
fn shortened(name: &str) -> String {
    if name.chars().count() <= MAX_LABEL_CHARS {
        return name.to_owned();
    }
    name.chars().take(MAX_LABEL_CHARS - 1).chain(['…']).collect()
}

fn float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn edge(from: &str, to: &str) -> Edge {
        Edge {
            namespace: "shop".to_owned(),
            from: Node::App(from.to_owned()),
            to: Node::App(to.to_owned()),
            calls: 1.0,
            errors: 0.0,
            calls_per_second: None,
        }
    }

    /// A picture of this many dots, all of which one application calls.
    fn star(dots: usize) -> String {
        let edges: Vec<_> = (1..dots).map(|number| edge("a", &format!("b{number}"))).collect();
        picture(&edges).into_document()
    }

    #[rstest]
    #[case(2)]
    #[case(MAX_FITTING)]
    #[case(MAX_FITTING + 1)]
    #[case(MAX_NODES)]
    fn the_picture_has_a_dot_for_each_end_and_a_curve_for_each_edge(#[case] dots: usize) {
        let drawn = star(dots);
        assert_eq!(drawn.matches("<circle").count(), dots, "{drawn}");
        assert_eq!(drawn.matches("class=\"edge").count(), dots - 1, "{drawn}");
        assert!(!drawn.contains("style="), "the policy of the pages refuses it: {drawn}");
    }

    #[test]
    fn more_dots_than_the_limit_are_not_drawn() {
        assert!(star(MAX_NODES + 1).contains("too many to draw"));
    }

    #[test]
    fn more_curves_than_the_limit_are_not_drawn() {
        let with = |curves: usize| {
            let edges: Vec<_> = (0..curves).map(|_| edge("a", "b")).collect();
            picture(&edges).into_document()
        };
        assert_eq!(with(MAX_CURVES).matches("class=\"edge").count(), MAX_CURVES);
        assert!(with(MAX_CURVES + 1).contains("too many to draw"));
    }

    #[test]
    fn a_small_picture_fits_and_a_large_one_scrolls() {
        let small = star(MAX_FITTING);
        assert!(small.contains("viewBox=\"0 0 900 620\""), "{small}");
        assert!(!small.contains("rotate(") && !small.contains(" width="), "{small}");
        let large = star(MAX_FITTING + 1);
        assert!(large.contains("<div class=\"picture\""), "{large}");
        assert!(large.contains("rotate(") && large.contains(" width=\"905\""), "{large}");
    }

    #[test]
    fn dots_of_a_large_picture_do_not_touch() {
        for dots in [MAX_FITTING + 1, 100, 500, MAX_NODES] {
            let circle = Circle::of(dots);
            let (one, next) = (circle.place(0), circle.place(1));
            let distance = (next.x - one.x).hypot(next.y - one.y);
            assert!(distance > 2.0 * circle.dot_radius, "{dots}: {distance}");
        }
    }

    #[test]
    fn no_label_is_upside_down() {
        let drawn = star(MAX_FITTING + 40);
        let turns = drawn.split("rotate(").skip(1);
        let turns = turns.map(|rest| rest.split_once(')').unwrap().0.parse::<f64>().unwrap());
        let upright = |turn: f64| (turn.to_radians().cos() * 1_000.0).round() >= 0.0;
        assert_eq!(turns.filter(|turn| upright(*turn)).count(), MAX_FITTING + 40, "{drawn}");
    }

    #[test]
    fn a_long_name_is_cut_off_in_the_label_and_whole_in_the_title() {
        let drawn = |chars: usize| {
            let name = "ä".repeat(chars);
            (picture(&[edge("a", &name)]).into_document(), name)
        };
        let (whole, name) = drawn(MAX_LABEL_CHARS);
        assert!(whole.contains(&format!(">{name}</text>")), "{whole}");
        let (cut, name) = drawn(MAX_LABEL_CHARS + 1);
        let label = format!(">{}…</text>", "ä".repeat(MAX_LABEL_CHARS - 1));
        assert!(cut.contains(&label) && cut.contains(&format!("<title>{name}</title>")), "{cut}");
    }
}

//! Shared parts of pages: tables, badges, filters.

use jiff::Timestamp;
use serde::Serialize;

use super::words;
use crate::html::{Html, el, leaf, text};
use crate::model::Snapshot;
use crate::model::event::Event;

/// Rows of one table; a filter shows the others.
pub(crate) const MAX_ROWS: usize = 1_000;
/// Events of one page.
const MAX_EVENTS: usize = 50;
/// Longest filter in bytes.
const MAX_FILTER_BYTES: usize = 256;

/// A table with a caption for screen readers. Without rows, `empty` says what to do next.
pub(crate) fn table(
    caption: &str,
    headings: &[&str],
    rows: impl IntoIterator<Item = Vec<Html>>,
    empty: &str,
) -> Html {
    let headings = headings.iter().map(|heading| el("th", &[("scope", "col")], [text(heading)]));
    headed_table(caption, headings, rows, empty)
}

/// A table whose headings are elements `th`.
pub(crate) fn headed_table(
    caption: &str,
    headings: impl IntoIterator<Item = Html>,
    rows: impl IntoIterator<Item = Vec<Html>>,
    empty: &str,
) -> Html {
    let mut rows = rows.into_iter();
    let shown: Vec<_> = rows.by_ref().take(MAX_ROWS).collect();
    if shown.is_empty() {
        return hint(empty);
    }
    let more = rows.count();
    let body = shown
        .into_iter()
        .map(|cells| el("tr", &[], cells.into_iter().map(|cell| el("td", &[], [cell]))));
    let table = el(
        "table",
        &[],
        [
            leaf("caption", caption),
            el("thead", &[], [el("tr", &[], headings)]),
            el("tbody", &[], body),
        ],
    );
    // Wide tables scroll by themselves, by keyboard too.
    let attributes =
        [("class", "scroll"), ("tabindex", "0"), ("role", "region"), ("aria-label", caption)];
    let table = el("div", &attributes, [table]);
    let rest = (more > 0)
        .then(|| hint(format!("{}: filter to see the others.", words::not_shown(more, "row"))));
    [Some(table), rest].into_iter().flatten().collect()
}

/// Words in place of a table, or below it.
pub(crate) fn hint(words: impl AsRef<str>) -> Html {
    el("p", &[("class", "empty")], [text(words)])
}

/// Something to know about the page.
pub(crate) fn notice(words: impl AsRef<str>) -> Html {
    el("p", &[("class", "notice"), ("role", "status")], [text(words)])
}

/// Why the page lacks something.
pub(crate) fn alert(words: impl AsRef<str>) -> Html {
    el("p", &[("class", "notice bad"), ("role", "alert")], [text(words)])
}

/// A filter of one choice, whose options have value and title, and a text; it works without
/// JavaScript. It keeps other parameters of the URL.
pub(crate) fn filter_form<'a>(
    (label, name, chosen): (&str, &str, &str),
    options: impl IntoIterator<Item = (&'a str, &'a str)>,
    q: &str,
    kept: Option<(&str, &str)>,
) -> Html {
    let select = el("select", &[("name", name)], self::options(options, chosen));
    let input = [("name", "q"), ("type", "search"), ("value", q)];
    let content = [
        el("label", &[], [text(label), text(" "), select]),
        el("label", &[], [text("Contains "), el("input", &input, [])]),
        el("button", &[("type", "submit")], [text("Filter")]),
    ];
    let kept = kept.map(|(name, value)| {
        el("input", &[("type", "hidden"), ("name", name), ("value", value)], [])
    });
    let content = content.into_iter().chain(kept);
    el("form", &[("method", "get"), ("role", "search")], content)
}

/// The options of a choice, which have value and title.
pub(crate) fn options<'a>(
    all: impl IntoIterator<Item = (&'a str, &'a str)>,
    chosen: &str,
) -> impl Iterator<Item = Html> {
    all.into_iter().map(move |(value, title)| {
        let mut attributes = vec![("value", value)];
        if value == chosen {
            attributes.push(("selected", ""));
        }
        el("option", &attributes, [text(title)])
    })
}

/// The text of a filter from the query of a URL, cut off at its limit.
pub(crate) fn filter_text(value: &str) -> &str {
    value.get(..value.floor_char_boundary(MAX_FILTER_BYTES)).unwrap_or_default()
}

/// Terms and their descriptions.
pub(crate) fn facts(rows: impl IntoIterator<Item = (&'static str, Html)>) -> Html {
    let rows = rows.into_iter().flat_map(|(term, fact)| [leaf("dt", term), el("dd", &[], [fact])]);
    el("dl", &[], rows)
}

/// A section with a heading.
pub(crate) fn section(heading: &str, content: Html) -> Html {
    el("section", &[], [leaf("h2", heading), content])
}

/// Severity of a badge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Does not work.
    Error,
    /// Works, but needs attention.
    Warning,
    Ok,
}

/// Coloured text, which is understandable without the colour.
pub(crate) fn badge(level: Level, words: &str) -> Html {
    let class = match level {
        Level::Error => "badge error",
        Level::Warning => "badge warning",
        Level::Ok => "badge ok",
    };
    el("span", &[("class", class)], [text(words)])
}

/// `2 of 3 ready`, coloured.
pub(crate) fn readiness(ready: usize, total: usize) -> Html {
    let level = if ready >= total { Level::Ok } else { Level::Error };
    badge(level, &format!("{ready} of {total} ready"))
}

/// The filter of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Filter {
    /// Namespace; empty for all.
    pub(crate) namespace: String,
    /// Part of a name or type, in any case; empty for all.
    pub(crate) q: String,
}

impl Filter {
    /// Reads the query of a URL. Unknown parameters are ignored, long values cut off.
    pub(crate) fn parse(query: &str) -> Self {
        let mut filter = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = filter_text(&value).trim().to_owned();
            match name.as_ref() {
                "namespace" => filter.namespace = value,
                "q" => filter.q = value,
                _ => {}
            }
        }
        filter
    }

    /// Whether a row of this namespace with these texts passes.
    pub(crate) fn admits(&self, namespace: &str, texts: &[&str]) -> bool {
        let wanted = self.q.to_lowercase();
        (self.namespace.is_empty() || self.namespace == namespace)
            && (wanted.is_empty() || texts.iter().any(|t| t.to_lowercase().contains(&wanted)))
    }

    /// The parameters of a URL with this filter, as [`Filter::parse`] reads them.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [("namespace", self.namespace.as_str()), ("q", self.q.as_str())];
        all.into_iter().filter(|(_, value)| !value.is_empty())
    }

    /// Fields by which a browser asks for the page again, with the values of this filter.
    pub(crate) fn form<'a>(&self, namespaces: impl IntoIterator<Item = &'a str>) -> Html {
        self.form_with(namespaces, None)
    }

    /// The form, which keeps another parameter of the URL.
    pub(crate) fn form_with<'a>(
        &self,
        namespaces: impl IntoIterator<Item = &'a str>,
        kept: Option<(&str, &str)>,
    ) -> Html {
        let mut names: Vec<_> = namespaces.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        let options =
            std::iter::once(("", "all")).chain(names.into_iter().map(|name| (name, name)));
        filter_form(("Namespace", "namespace", &self.namespace), options, &self.q, kept)
    }
}

/// An Event of a page.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EventRow {
    level: Level,
    reason: String,
    note: String,
    age: String,
}

/// The Events that `wanted` admits, newest first.
pub(crate) fn events(
    snapshot: &Snapshot,
    now: Timestamp,
    wanted: impl Fn(&Event) -> bool,
) -> Vec<EventRow> {
    let mut found: Vec<_> = snapshot.events.iter().filter(|event| wanted(event)).collect();
    found.sort_by_key(|event| std::cmp::Reverse(event.at));
    let rows = found.into_iter().take(MAX_EVENTS).map(|event| EventRow {
        level: if event.is_warning { Level::Warning } else { Level::Ok },
        reason: event.reason.clone(),
        note: event.note.clone(),
        age: words::age(event.at, now),
    });
    rows.collect()
}

/// A table of Events.
pub(crate) fn event_table(rows: &[EventRow]) -> Html {
    let rows = rows.iter().map(|row| {
        vec![badge(row.level, &row.reason), text(&row.note), text(format!("{} ago", row.age))]
    });
    let empty = "The control plane recorded no Events about it within the last hour.";
    table("Events", &["Reason", "Message", "When"], rows, empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_from_the_query() {
        let filter = Filter::parse("namespace=shop&q=Ca%72t+&x=1");
        assert_eq!((filter.namespace.as_str(), filter.q.as_str()), ("shop", "Cart"));
        assert!(filter.admits("shop", &["my-cart"]));
        assert!(!filter.admits("shop", &["other"]));
        assert!(!filter.admits("bank", &["cart"]));
    }

    #[test]
    fn events_have_a_limit_and_the_newest_are_shown() {
        let of = |number: usize| {
            let event = |second: usize| {
                let at = Timestamp::from_second(i64::try_from(second).unwrap()).unwrap();
                let event = Event::read(&serde_json::json!({
                    "involvedObject": {"apiVersion": "dapr.io/v1alpha1"},
                    "reason": format!("R{second}"), "lastTimestamp": at.to_string(),
                }));
                (("shop".to_owned(), second.to_string()), event.unwrap())
            };
            let events = (0..number).map(event).collect();
            let snapshot = Snapshot { events, ..Snapshot::default() };
            super::events(&snapshot, Timestamp::UNIX_EPOCH, |_| true)
        };
        assert_eq!(of(MAX_EVENTS).len(), MAX_EVENTS);
        let cut = of(MAX_EVENTS + 1);
        assert_eq!(cut.len(), MAX_EVENTS);
        assert_eq!(cut.first().unwrap().reason, format!("R{MAX_EVENTS}"));
        assert!(!cut.iter().any(|row| row.reason == "R0"), "the oldest is left out");
    }

    #[test]
    fn a_filter_has_a_limit() {
        let of = |bytes: usize| Filter::parse(&format!("q={}", "a".repeat(bytes))).q.len();
        assert_eq!(of(MAX_FILTER_BYTES), MAX_FILTER_BYTES);
        assert_eq!(of(MAX_FILTER_BYTES + 1), MAX_FILTER_BYTES);
    }

    #[test]
    fn a_table_has_a_limit_and_says_so() {
        let rows = |number: usize| {
            let html = table("t", &["a"], (0..number).map(|_| vec![text("x")]), "none");
            html.into_document()
        };
        assert!(!rows(MAX_ROWS).contains("not shown"));
        assert!(rows(MAX_ROWS + 1).contains("1 more row is not shown"));
        assert!(rows(0).contains("none"));
    }
}

//! The order of the list, which links in its headings choose: they work without JavaScript.

use serde::{Serialize, Serializer};

use crate::html::{Html, el, text};
use crate::pages::parts::Filter;

/// The parameter of the URL.
pub(crate) const PARAMETER: &str = "sort";

/// A column by which the list can be sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Column {
    AppId,
    /// Then by app id: the order without a choice.
    #[default]
    Namespace,
    Workload,
    /// By the number of pods that are not ready.
    Pods,
    Sidecar,
    Protocol,
    /// By the number of sidecars without mTLS.
    Mtls,
    Age,
}

impl Column {
    /// In the order of the table.
    pub(super) const ALL: [Self; 8] = [
        Self::AppId,
        Self::Namespace,
        Self::Workload,
        Self::Pods,
        Self::Sidecar,
        Self::Protocol,
        Self::Mtls,
        Self::Age,
    ];

    /// Its value in the URL.
    fn name(self) -> &'static str {
        match self {
            Self::AppId => "app",
            Self::Namespace => "namespace",
            Self::Workload => "workload",
            Self::Pods => "pods",
            Self::Sidecar => "sidecar",
            Self::Protocol => "protocol",
            Self::Mtls => "mtls",
            Self::Age => "age",
        }
    }
}

/// A column and a direction: `age` in the URL, `-age` for the reverse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Order {
    pub(super) column: Column,
    pub(super) is_descending: bool,
}

impl Order {
    /// Reads the query of a URL; an unknown column is the order without a choice.
    pub(crate) fn parse(query: &str) -> Self {
        let value = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == PARAMETER);
        let value = value.map(|(_, value)| value).unwrap_or_default();
        let (name, is_descending) = match value.strip_prefix('-') {
            Some(name) => (name, true),
            None => (value.as_ref(), false),
        };
        let column = Column::ALL.into_iter().find(|column| column.name() == name);
        column.map(|column| Self { column, is_descending }).unwrap_or_default()
    }

    /// Its value in the URL.
    pub(super) fn value(self) -> String {
        let sign = if self.is_descending { "-" } else { "" };
        format!("{sign}{}", self.column.name())
    }

    /// The heading of a column: a link to its order, or to the reverse of the current one.
    pub(super) fn heading(self, column: Column, title: &str, filter: &Filter) -> Html {
        let is_current = self.column == column;
        let next = Self { column, is_descending: is_current && !self.is_descending };
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(filter.parameters()).append_pair(PARAMETER, &next.value());
        let href = format!("?{}", query.finish());
        let link = el("a", &[("href", &href)], [text(title)]);
        let mut attributes = vec![("scope", "col")];
        if is_current {
            let direction = if self.is_descending { "descending" } else { "ascending" };
            attributes.push(("aria-sort", direction));
        }
        el("th", &attributes, [link])
    }
}

impl Serialize for Order {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.value())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("sort=age", "age")]
    #[case("q=x&sort=-mtls", "-mtls")]
    #[case("sort=%2Dage", "-age")]
    #[case("sort=other", "namespace")]
    #[case("sort=--age", "namespace")]
    #[case("", "namespace")]
    fn an_order_is_read_from_the_query(#[case] query: &str, #[case] want: &str) {
        assert_eq!(Order::parse(query).value(), want);
    }

    #[test]
    fn a_heading_keeps_the_filter_and_reverses_its_own_order() {
        let filter = Filter { namespace: "shop".to_owned(), q: "a&b".to_owned() };
        let of = |order: &str, column| {
            Order::parse(&format!("sort={order}")).heading(column, "x", &filter).into_document()
        };
        let other = of("app", Column::Age);
        assert!(other.contains("href=\"?namespace=shop&amp;q=a%26b&amp;sort=age\""), "{other}");
        assert!(!other.contains("aria-sort"), "{other}");
        let own = of("age", Column::Age);
        assert!(own.contains("sort=-age") && own.contains("aria-sort=\"ascending\""), "{own}");
        let reverse = of("-age", Column::Age);
        assert!(reverse.contains("sort=age\"") && reverse.contains("\"descending\""), "{reverse}");
    }
}

//! Filters, order and limit of a range request.

use std::cmp::Reverse;
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::range::KeyRange;
use super::{Entry, Revision};

/// The sort key of a range request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SortBy {
    Key,
    Version,
    Create,
    Mod,
    Value,
}

/// A range request.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) range: KeyRange,
    /// 0 for the current one.
    pub(crate) revision: Revision,
    /// `None` for all.
    pub(crate) limit: Option<usize>,
    /// `None` for the order of keys.
    pub(crate) sort: Option<(SortBy, Descending)>,
    pub(crate) keys_only: bool,
    pub(crate) count_only: bool,
    /// Revisions of the last and of the first put that are wanted.
    pub(crate) mod_revisions: RangeInclusive<Revision>,
    pub(crate) create_revisions: RangeInclusive<Revision>,
}

/// Whether the largest comes first.
pub(crate) type Descending = bool;

impl Query {
    /// Everything in a range as it is now.
    pub(crate) fn all(range: KeyRange) -> Self {
        Self {
            range,
            revision: 0,
            limit: None,
            sort: None,
            keys_only: false,
            count_only: false,
            mod_revisions: 0..=Revision::MAX,
            create_revisions: 0..=Revision::MAX,
        }
    }

    /// Whether sorting or filters need all keys before the limit applies.
    fn needs_all(&self) -> bool {
        let all = 0..=Revision::MAX;
        self.sort.is_some() || self.mod_revisions != all || self.create_revisions != all
    }
}

/// The answer of a range request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) entries: Vec<Entry>,
    /// Whether the limit left keys out.
    pub(crate) more: bool,
    /// Number of keys in the range, regardless of limit and filters.
    pub(crate) count: u64,
}

/// Collects found entries, which arrive in the order of keys.
pub(crate) struct Selection<'a> {
    query: &'a Query,
    found: Selected,
    needs_all: bool,
}

impl<'a> Selection<'a> {
    pub(crate) fn new(query: &'a Query) -> Self {
        Self { query, found: Selected::default(), needs_all: query.needs_all() }
    }

    pub(crate) fn push(&mut self, mut entry: Entry) {
        self.found.count += 1;
        if self.query.count_only {
            return;
        }
        let full = self.query.limit.is_some_and(|limit| self.found.entries.len() >= limit);
        if full && !self.needs_all {
            self.found.more = true;
            return;
        }
        let wanted = self.query.mod_revisions.contains(&entry.record.mod_revision)
            && self.query.create_revisions.contains(&entry.record.create_revision);
        if !wanted {
            return;
        }
        if self.query.keys_only && !matches!(self.query.sort, Some((SortBy::Value, _))) {
            entry.record.value = Bytes::new();
        }
        self.found.entries.push(entry);
    }

    pub(crate) fn finish(mut self) -> Selected {
        let entries = &mut self.found.entries;
        if let Some((by, descending)) = self.query.sort {
            sort(entries, by, descending);
        }
        if self.query.keys_only {
            for entry in entries.iter_mut() {
                entry.record.value = Bytes::new();
            }
        }
        if let Some(limit) = self.query.limit.filter(|limit| *limit < entries.len()) {
            entries.truncate(limit);
            self.found.more = true;
        }
        self.found
    }
}

fn sort(entries: &mut [Entry], by: SortBy, descending: Descending) {
    fn with<K: Ord>(entries: &mut [Entry], descending: bool, key: impl Fn(&Entry) -> K) {
        if descending {
            entries.sort_by_key(|entry| Reverse(key(entry)));
        } else {
            entries.sort_by_key(key);
        }
    }
    match by {
        SortBy::Key => with(entries, descending, |entry| entry.key.clone()),
        SortBy::Version => with(entries, descending, |entry| entry.record.version),
        SortBy::Create => with(entries, descending, |entry| entry.record.create_revision),
        SortBy::Mod => with(entries, descending, |entry| entry.record.mod_revision),
        SortBy::Value => with(entries, descending, |entry| entry.record.value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::store::Record;

    fn select(query: &Query) -> (Vec<String>, bool, u64) {
        let mut selection = Selection::new(query);
        for (key, create, modified, value) in [("a", 1, 9, "z"), ("b", 2, 8, "y"), ("c", 3, 7, "x")]
        {
            let record = Record {
                create_revision: create,
                mod_revision: modified,
                version: 1,
                lease: 0,
                value: value.into(),
            };
            selection.push(Entry { key: key.into(), record });
        }
        let found = selection.finish();
        let text = |entry: &Entry| format!("{}{}", str(&entry.key), str(&entry.record.value));
        (found.entries.iter().map(text).collect(), found.more, found.count)
    }

    fn str(bytes: &Bytes) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn all() -> Query {
        Query::all(KeyRange::From("\0".into()))
    }

    #[rstest]
    #[case(all(), &["az", "by", "cx"], false)]
    #[case(Query { limit: Some(3), ..all() }, &["az", "by", "cx"], false)]
    #[case(Query { limit: Some(2), ..all() }, &["az", "by"], true)]
    #[case(Query { keys_only: true, ..all() }, &["a", "b", "c"], false)]
    #[case(Query { count_only: true, limit: Some(1), ..all() }, &[], false)]
    #[case(Query { sort: Some((SortBy::Mod, false)), limit: Some(1), ..all() }, &["cx"], true)]
    #[case(Query { sort: Some((SortBy::Key, true)), ..all() }, &["cx", "by", "az"], false)]
    #[case(Query { sort: Some((SortBy::Value, false)), keys_only: true, ..all() },
        &["c", "b", "a"], false)]
    #[case(Query { create_revisions: 2..=Revision::MAX, limit: Some(2), ..all() },
        &["by", "cx"], false)]
    #[case(Query { mod_revisions: 0..=8, limit: Some(1), ..all() }, &["by"], true)]
    fn selects(#[case] query: Query, #[case] want: &[&str], #[case] more: bool) {
        let want: Vec<String> = want.iter().map(ToString::to_string).collect();
        assert_eq!(select(&query), (want, more, 3));
    }
}

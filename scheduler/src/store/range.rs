//! Sets of keys, as the etcd v3 API names them.

use std::ops::Bound;

use bytes::Bytes;

/// Keys by bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyRange {
    /// One key.
    One(Bytes),
    /// This key and all after it.
    From(Bytes),
    /// From the first key up to the second, which is not part of it. Empty when they are not in
    /// order.
    Between(Bytes, Bytes),
}

impl KeyRange {
    /// `key` and `range_end` of a request.
    pub(crate) fn new(key: Bytes, end: Bytes) -> Self {
        match end.as_ref() {
            [] => Self::One(key),
            [0] => Self::From(key),
            _ => Self::Between(key, end),
        }
    }

    /// All keys that begin with these bytes.
    pub(crate) fn prefix(prefix: Bytes) -> Self {
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if let Some(next) = last.checked_add(1) {
                end.push(next);
                return Self::Between(prefix, end.into());
            }
        }
        Self::From(prefix)
    }

    /// Whether the key is one of them.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::From(start) => key >= start.as_ref(),
            Self::Between(start, end) => key >= start.as_ref() && key < end.as_ref(),
        }
    }

    /// As bounds of an ordered map. Never out of order.
    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            Self::One(key) => (Bound::Included(key), Bound::Included(key)),
            Self::From(start) => (Bound::Included(start), Bound::Unbounded),
            Self::Between(start, end) if start < end => {
                (Bound::Included(start), Bound::Excluded(end))
            }
            Self::Between(start, _) => (Bound::Included(start), Bound::Excluded(start)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("b", "", &["b"])]
    #[case("b", "\0", &["b", "ba", "c"])]
    #[case("\0", "\0", &["a", "b", "ba", "c"])]
    #[case("b", "c", &["b", "ba"])]
    #[case("c", "b", &[])]
    fn requests_name_keys(
        #[case] key: &'static str,
        #[case] end: &'static str,
        #[case] want: &[&str],
    ) {
        let range = KeyRange::new(key.into(), end.into());
        let set: std::collections::BTreeSet<Vec<u8>> =
            ["a", "b", "ba", "c"].map(|key| key.as_bytes().to_vec()).into();
        let bounded: Vec<_> = set.range::<[u8], _>(range.bounds()).collect();
        assert_eq!(bounded, want.iter().map(|key| key.as_bytes()).collect::<Vec<_>>());
        for key in ["a", "b", "ba", "c"] {
            assert_eq!(range.contains(key.as_bytes()), want.contains(&key), "{key}");
        }
    }

    #[rstest]
    #[case(b"ab", Some(b"ac".as_slice()))]
    #[case(b"a\xff", Some(b"b".as_slice()))]
    #[case(b"\xff\xff", None)]
    #[case(b"", None)]
    fn a_prefix_ends_before_the_next_one(
        #[case] prefix: &'static [u8],
        #[case] end: Option<&'static [u8]>,
    ) {
        let prefix = Bytes::from_static(prefix);
        let want = match end {
            Some(end) => KeyRange::Between(prefix.clone(), Bytes::from_static(end)),
            None => KeyRange::From(prefix.clone()),
        };
        assert_eq!(KeyRange::prefix(prefix), want);
    }
}

//! Suggestions for misspelt names.

/// Largest edit distance of a suggestion.
const MAX_DISTANCE: usize = 2;

/// The known name with the smallest edit distance to `name`; `None` beyond a distance of 2. Two
/// swapped neighbours count as one edit. For messages only.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known = known.into_iter().filter(|known| known.len().abs_diff(name.len()) <= MAX_BYTES);
    let distances = known.map(|known| (strsim::osa_distance(name, known), known));
    distances.filter(|(distance, _)| *distance <= MAX_DISTANCE).min().map(|(_, known)| known)
}

/// Names whose lengths differ by more bytes are not compared: a character has at most four.
const MAX_BYTES: usize = 4 * MAX_DISTANCE;

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", "", 0)]
    #[case("abc", "abc", 0)]
    #[case("abc", "acb", 1)]
    #[case("abc", "abcd", 1)]
    #[case("kitten", "sitten", 1)]
    #[case("ab", "cd", 2)]
    #[case("äb", "cd", 2)]
    #[case("abc", "def", 3)]
    #[case("ab", "abcde", 3)]
    fn counts_edits(#[case] a: &str, #[case] b: &str, #[case] want: usize) {
        assert_eq!(nearest(a, [b]).is_some(), want <= MAX_DISTANCE, "{a} {b}");
    }

    #[test]
    fn a_name_far_from_all_others_has_no_suggestion() {
        let known = ["redisHost", "redisPassword"];
        assert_eq!(nearest("redisHots", known), Some("redisHost"));
        assert_eq!(nearest("brokers", known), None);
    }
}

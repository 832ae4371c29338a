//! Which known word somebody probably meant.

/// Two slips at most: with more, the guess is as likely wrong as right.
const MAX_SLIPS: usize = 2;

/// The known word with the fewest slips between it and `word`; `None` when all are too far away.
/// A guess is for people to read, never to act upon.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distances = known.into_iter().map(|known| (distance(word, known), known));
    distances.filter(|(slips, _)| *slips <= MAX_SLIPS).min().map(|(_, known)| known)
}

/// Edit distance in characters, two exchanged neighbours counting as one slip.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > MAX_SLIPS {
        return MAX_SLIPS + 1;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let change = at(&last, j) + usize::from(x != y);
            let mut best = change.min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let exchanged = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if exchanged {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

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
    fn counts_slips(#[case] a: &str, #[case] b: &str, #[case] want: usize) {
        assert_eq!(distance(a, b), want);
    }

    #[test]
    fn a_word_that_is_far_from_all_has_no_guess() {
        let known = ["redisHost", "redisPassword"];
        assert_eq!(nearest("redisHots", known), Some("redisHost"));
        assert_eq!(nearest("brokers", known), None);
    }
}

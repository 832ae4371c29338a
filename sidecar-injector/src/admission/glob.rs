//! Patterns of Go's `path.Match`, for allowed service accounts.
//! Source: Go 1.26, package `path`.

/// A valid pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Char(char),
    AnyOne,
    AnyRun,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// A pattern with an incomplete class, range or escape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub(crate) struct BadGlob;

impl Glob {
    /// Parses a pattern: `*`, `?`, `[a-z]`, `[^a-z]` and `\x`.
    ///
    /// # Errors
    /// A class, a range or an escape is incomplete.
    pub(crate) fn parse(pattern: &str) -> Result<Self, BadGlob> {
        let mut chars = pattern.chars().peekable();
        let mut pieces = Vec::new();
        while let Some(c) = chars.next() {
            pieces.push(match c {
                '*' => Piece::AnyRun,
                '?' => Piece::AnyOne,
                '\\' => Piece::Char(chars.next().ok_or(BadGlob)?),
                '[' => class(&mut chars)?,
                other => Piece::Char(other),
            });
        }
        Ok(Self(pieces))
    }

    /// Whether the whole text matches. Neither `*` nor `?` matches `/`.
    pub(crate) fn matches(&self, text: &str) -> bool {
        // Greedy, with backtracking to the last star only: linear per star.
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut piece) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(piece), text.get(at)) {
                (None, None) => return true,
                (Some(Piece::AnyRun), _) => {
                    star = Some((piece, at));
                    piece += 1;
                }
                (Some(wanted), Some(c)) if wanted.is(*c) => {
                    (at, piece) = (at + 1, piece + 1);
                }
                _ => match star {
                    Some((from, covered)) if text.get(covered).is_some_and(|c| *c != '/') => {
                        star = Some((from, covered + 1));
                        (at, piece) = (covered + 1, from + 1);
                    }
                    _ => return false,
                },
            }
        }
    }

    /// The pattern as text if it has no wildcard.
    pub(crate) fn literal(&self) -> Option<String> {
        let plain = |piece: &Piece| match piece {
            Piece::Char(c) => Some(*c),
            _ => None,
        };
        self.0.iter().map(plain).collect()
    }
}

impl Piece {
    fn is(&self, c: char) -> bool {
        match self {
            Self::Char(wanted) => *wanted == c,
            Self::AnyOne => c != '/',
            Self::AnyRun => false,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Piece, BadGlob> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Piece::Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { class_char(chars)? } else { low };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, BadGlob> {
    match chars.next() {
        None | Some('-' | ']') => Err(BadGlob),
        Some('\\') => chars.next().ok_or(BadGlob),
        Some(c) => Ok(c),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("sa", "sa", true)]
    #[case("sa", "sab", false)]
    #[case("sa-*", "sa-", true)]
    #[case("sa-*", "sa-build-7", true)]
    #[case("*-sa", "x-sa-sa", true)]
    #[case("a*b*c", "aXbXbYc", true)]
    #[case("a*b*c", "aXbXbY", false)]
    #[case("staging-?", "staging-A", true)]
    #[case("staging-?", "staging-10", false)]
    #[case("[a-c]x", "bx", true)]
    #[case("[^a-c]x", "bx", false)]
    #[case("[^a-c]x", "dx", true)]
    #[case(r"\*", "*", true)]
    #[case(r"\*", "x", false)]
    #[case("*", "a/b", false)]
    #[case("", "", true)]
    #[case("", "a", false)]
    fn matches_as_go_does(#[case] pattern: &str, #[case] text: &str, #[case] want: bool) {
        assert_eq!(Glob::parse(pattern).unwrap().matches(text), want);
    }

    #[rstest]
    fn rejects_incomplete_patterns(
        #[values("[", "[]", "[a", "[a-", "[^", r"\", "[-a]")] text: &str,
    ) {
        assert_eq!(Glob::parse(text), Err(BadGlob));
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_panics(pattern in ".{0,16}", text in ".{0,16}") {
            if let Ok(glob) = Glob::parse(&pattern) {
                let _ = glob.matches(&text);
            }
        }
    }
}

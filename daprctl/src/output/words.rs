//! Numbers with their nouns.

/// `1 job`, `2 jobs`: a regular noun in the form that the number takes.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// A span of seconds in its largest whole unit, as kubectl writes ages: `3d`, `23h`, `5m`, `0s`.
pub(crate) fn span(seconds: i64) -> String {
    match seconds {
        86_400.. => format!("{}d", seconds / 86_400),
        3_600.. => format!("{}h", seconds / 3_600),
        60.. => format!("{}m", seconds / 60),
        _ => format!("{}s", seconds.max(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_one_unit() {
        let texts = [-1, 59, 60, 3_599, 86_399, 172_800].map(span);
        assert_eq!(texts, ["0s", "59s", "1m", "59m", "23h", "2d"]);
    }

    #[test]
    fn one_is_singular() {
        let texts = [0, 1, 2].map(|number| count(number, "job"));
        assert_eq!(texts, ["0 jobs", "1 job", "2 jobs"]);
    }
}

//! Numbers with their nouns.

/// `1 job`, `2 jobs`: a regular noun in the form that the number takes.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        let texts = [0, 1, 2].map(|number| count(number, "job"));
        assert_eq!(texts, ["0 jobs", "1 job", "2 jobs"]);
    }
}

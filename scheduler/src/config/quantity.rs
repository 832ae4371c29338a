//! Kubernetes quantities of bytes: `16Mi`, `1.5G`, `9.2E`, `1e3`. Source: Kubernetes API, resource
//! quantities.

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a quantity is a number with one of the suffixes Ki Mi Gi Ti Pi Ei k M G T P E")]
pub struct NotAQuantity;

/// Suffixes and their factors. Those below one (`m`, `u`, `n`) make no sense for bytes.
const SUFFIXES: [(&str, i128); 13] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
    ("", 1),
];

/// Largest number of digits: more exceed any disk.
const MAX_DIGITS: usize = 18;

/// The bytes of a quantity, rounded up, at most those of an `i64`.
pub(super) fn parse(text: &str) -> Result<i64, NotAQuantity> {
    let unsigned = text.trim_start_matches(['+', '-']);
    if text.len() - unsigned.len() > 1 {
        return Err(NotAQuantity);
    }
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > MAX_DIGITS || fraction.contains('.') {
        return Err(NotAQuantity);
    }
    let digits: i128 = digits.parse().map_err(|_| NotAQuantity)?;
    let factor = factor(suffix)?;
    let places = u32::try_from(fraction.len()).map_err(|_| NotAQuantity)?;
    let divisor = 10_i128.pow(places);
    let product = digits.checked_mul(factor).ok_or(NotAQuantity)?;
    let bytes = (product + divisor - 1) / divisor;
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    Ok(if text.starts_with('-') { -bytes } else { bytes })
}

fn factor(suffix: &str) -> Result<i128, NotAQuantity> {
    if let Some((_, factor)) = SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        return Ok(*factor);
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(NotAQuantity)?;
    let exponent: u32 = exponent.parse().map_err(|_| NotAQuantity)?;
    10_i128.checked_pow(exponent).filter(|_| exponent <= 18).ok_or(NotAQuantity)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", Ok(0))]
    #[case("16Mi", Ok(16 << 20))]
    #[case("1.5Gi", Ok(3 << 29))]
    #[case("16Ti", Ok(16 << 40))]
    #[case("9.2E", Ok(9_200_000_000_000_000_000))]
    #[case("100E", Ok(i64::MAX))]
    #[case("1e3", Ok(1_000))]
    #[case("1E3", Ok(1_000))]
    #[case("0.1", Ok(1))]
    #[case("-1", Ok(-1))]
    #[case("+2k", Ok(2_000))]
    #[case("", Err(NotAQuantity))]
    #[case("Mi", Err(NotAQuantity))]
    #[case("1.2.3", Err(NotAQuantity))]
    #[case("1mb", Err(NotAQuantity))]
    #[case("--1", Err(NotAQuantity))]
    #[case("1e", Err(NotAQuantity))]
    #[case("1e99", Err(NotAQuantity))]
    #[case("1234567890123456789", Err(NotAQuantity))]
    fn reads_quantities(#[case] text: &str, #[case] want: Result<i64, NotAQuantity>) {
        assert_eq!(parse(text), want);
    }
}

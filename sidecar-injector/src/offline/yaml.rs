//! Parses YAML as kubectl does.

use serde_json::Value;

/// Parses one document. kubectl reads `0400` as octal (YAML 1.1), which manifests use for file
/// modes; YAML 1.2 reads it as decimal.
pub(crate) fn parse(text: &str) -> Result<Value, serde_saphyr::Error> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// The values are those of `kubectl apply --dry-run=client -o json`.
    #[rstest]
    #[case("0400", json!(256))]
    #[case("0755", json!(493))]
    #[case("0o400", json!(256))]
    #[case("0", json!(0))]
    #[case("0x10", json!(16))]
    #[case("420", json!(420))]
    #[case("-0400", json!(-256))]
    #[case("\"0400\"", json!("0400"))]
    #[case("yes", json!(true))]
    #[case("off", json!(false))]
    #[case("1.5", json!(1.5))]
    fn reads_scalars_as_kubectl_does(#[case] text: &str, #[case] want: Value) {
        assert_eq!(parse(&format!("v: {text}\n")).unwrap(), json!({ "v": want }));
    }
}

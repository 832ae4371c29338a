//! Entry point of the fuzz target for small texts in annotations and flags.
use crate::admission::glob::Glob;
use crate::pod::quantity::is_quantity;
use crate::pod::user_env;

/// Quantities, `dapr.io/env`, `dapr.io/env-from-secret` and globs.
pub fn texts(text: &str) {
    let _ = is_quantity(text);
    let _ = user_env::parse_plain(text);
    let _ = user_env::parse_from_secret(text);
    let (pattern, name) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(glob) = Glob::parse(pattern) {
        let matches = glob.matches(name);
        if let Some(literal) = glob.literal() {
            assert_eq!(matches, literal == name, "{pattern:?} and {name:?}");
        }
    }
}

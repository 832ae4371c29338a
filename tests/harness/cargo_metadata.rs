//! What cargo says about the packages of this workspace: JSON, read without types of its own.

use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use crate::{environment, process};

/// `cargo metadata` with these further arguments.
///
/// # Errors
/// When cargo does not know the packages.
pub fn read(more: &[&str]) -> Result<Value> {
    let cargo = environment::var("CARGO").unwrap_or_else(|| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.current_dir(environment::workspace()).args(["metadata", "--format-version", "1"]);
    Ok(serde_json::from_str(&process::output(command.args(more))?)?)
}

/// The items of a member; none when it is no list.
pub fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// The text of a member; empty when it is none.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

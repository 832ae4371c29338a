//! The fields of a log line, each up to a limit.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};

use serde_json::Value;
use tracing::field::{Field, Visit};

/// Bytes of one field of a line. Texts that peers send are shown up to here.
pub(super) const MAX_FIELD_BYTES: usize = 1024;
/// Bytes of the message of a line, which may hold several texts.
pub(super) const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// The fields of an event, by name.
#[derive(Debug, Default)]
pub(super) struct Fields(pub(super) BTreeMap<&'static str, Value>);

impl Fields {
    /// Keeps a text up to the limit of its field.
    fn put(&mut self, field: &Field, value: impl std::fmt::Display) {
        let message = field.name() == "message";
        let mut text = Bounded::new(if message { MAX_MESSAGE_BYTES } else { MAX_FIELD_BYTES });
        // An error ends a text that is longer than the limit.
        let _ = write!(text, "{value}");
        self.0.insert(field.name(), text.text.into());
    }
}

/// A text that ends at a number of bytes, with an ellipsis.
struct Bounded {
    text: String,
    limit: usize,
}

impl Bounded {
    fn new(limit: usize) -> Self {
        Self { text: String::new(), limit }
    }
}

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let room = self.limit - self.text.len();
        if part.len() <= room {
            self.text.push_str(part);
            return Ok(());
        }
        self.text.push_str(part.get(..part.floor_char_boundary(room)).unwrap_or_default());
        self.limit = self.text.len();
        self.text.push('…');
        Err(std::fmt::Error)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, crate::text::chain(value));
    }
}

//! What a person gets: text on the terminal, tables, numbers, files.

pub(crate) mod private_file;
pub(crate) mod table;
pub(crate) mod terminal;
pub(crate) mod words;

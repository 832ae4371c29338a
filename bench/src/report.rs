//! From readings to figures, and from figures to the table, the JSON and the pictures.

pub mod aims;
pub mod machine;
pub mod picture;
pub mod results;
pub mod stats;
pub mod text;

//! From readings to figures, and from figures to the table, the JSON and the pictures.

pub mod aims;
pub mod growth;
pub mod growth_picture;
pub mod machine;
pub mod merge;
pub mod picture;
pub mod results;
pub mod scale_page;
pub mod stats;
pub mod text;

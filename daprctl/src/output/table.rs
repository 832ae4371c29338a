//! Tables as kubectl prints them.

use std::fmt::Write as _;

use runtime::printable;

/// Aligned columns below their headings, without control characters.
pub(crate) fn columns<const N: usize>(
    headings: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let mut lines = vec![headings.map(str::to_owned)];
    lines.extend(rows.map(|row| row.map(|cell| printable(&cell))));
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut table = String::new();
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(text, "{cell:width$}   ");
        }
        let _ = writeln!(table, "{}", text.trim_end());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["ä", "b\u{1b}\nc"], ["long", ""]].map(|row| row.map(str::to_owned));
        let table = columns(["A", "B"], rows.into_iter());
        assert_eq!(table, "A      B\nä      b  c\nlong\n");
    }
}

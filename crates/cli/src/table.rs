//! Tables in the terminal.

use gptkit_data::printable::printable_line;

/// Rows of cells, the first of them the heads: columns of names on the left, the others, numbers, on the right of their
/// widths. A row is a line, whatever the names in it.
pub(crate) fn aligned(rows: &[Vec<String>], names: usize) -> String {
    let of_a_line = |row: &Vec<String>| row.iter().map(|cell| printable_line(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(of_a_line).collect();
    let wide = |text: &str| text.chars().count();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().filter_map(|row| row.get(c)).map(|cell| wide(cell)).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cell = |(c, cell): (usize, &String)| {
            if c < names {
                format!("{cell:<width$}", width = widths[c])
            } else {
                format!("{cell:>width$}", width = widths[c])
            }
        };
        row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

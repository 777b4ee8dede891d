//! Tables in the terminal.

/// Rows of cells, the first of them the heads: columns of names on the left, the others, numbers, on the right of their
/// widths.
pub(crate) fn aligned(rows: &[Vec<String>], names: usize) -> String {
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

//! Tables, for the terminal and in Markdown, and how many columns of a terminal a text takes.

use crate::printable::printable_line;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns of a terminal that `text` takes: CJK characters take two, combining ones none.
pub fn width(text: &str) -> usize {
    text.width()
}

/// `text` with spaces after it, `columns` wide.
pub fn left(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// `text` with spaces before it, `columns` wide.
pub fn right(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns.saturating_sub(width(text))))
}

/// As much of the beginning of `text` as fits into `columns`.
pub fn cut(text: &str, columns: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= columns
    };
    text.chars().take_while(fits).collect()
}

/// A table for the terminal, one line per row. The first `n_names` columns stand on the left of their widths, the others, which
/// are numbers, on the right. Cells are shown without control characters.
pub fn aligned(rows: &[Vec<String>], n_names: usize) -> String {
    let in_a_line = |row: &Vec<String>| row.iter().map(|cell| printable_line(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(in_a_line).collect();
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| width(cell)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n_columns).map(widest).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(c, (cell, &wide))| if c < n_names { left(cell, wide) } else { right(cell, wide) });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Alignment of the cells of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table in Markdown, under the heads of `columns`. Bars and line breaks in cells are written so that they stay in them.
pub fn markdown<H: AsRef<str>>(columns: &[(H, Align)], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', "<br>");
    let heads = columns.iter().map(|(head, _)| cell(head.as_ref())).collect();
    let rule = columns.iter().map(|(_, align)| if *align == Align::Left { "---" } else { "---:" }.to_owned()).collect();
    let rows = rows.into_iter().map(|row| line(row.iter().map(|text| cell(text)).collect()));
    line(heads) + &line(rule) + &rows.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect()
    }

    #[test]
    fn names_stand_left_and_numbers_right_whatever_their_width() {
        let table = aligned(&rows(&[&["", "n"], &["a", "10"], &["日本", "9"], &["e\u{301}", ""]]), 1);
        assert_eq!(table, "       n\na     10\n日本   9\ne\u{301}\n");
        assert_eq!(aligned(&rows(&[&["a\nb", "1"]]), 1), "a\\nb  1\n");
    }

    #[test]
    fn a_cell_of_markdown_stays_one() {
        let table = markdown(&[("name", Align::Left), ("n", Align::Right)], rows(&[&["a|b\nc", "1"]]));
        assert_eq!(table, "| name | n |\n| --- | ---: |\n| a\\|b<br>c | 1 |\n");
    }

    #[test]
    fn wide_characters_are_cut_where_they_no_longer_fit() {
        assert_eq!([cut("日本語", 5), cut("abc", 2), cut("abc", 9)], ["日本", "ab", "abc"]);
    }
}

//! The SVG writer.

use crate::{FIXED_STYLE, FIXED_STYLES, STYLE_SHEET, STYLES};
use std::fmt::Write;

/// Estimated width of a letter, in units: text is 17 units high.
pub(crate) const LETTER: f64 = 9.0;
/// The same of a bold letter, with room to spare.
pub(crate) const BOLD_LETTER: f64 = 11.2;

/// A drawing: elements from back to front, and its size.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Drawing {
    pub(crate) width: f64,
    pub(crate) height: f64,
    elements: String,
}

/// Class of a color of the style sheet.
pub(crate) fn color(style: usize) -> String {
    match style.checked_sub(FIXED_STYLE) {
        Some(n) => format!("m{}", n % FIXED_STYLES),
        None => format!("s{}", style % STYLES),
    }
}

impl Drawing {
    pub(crate) fn new(width: f64) -> Self {
        Self { width, ..Self::default() }
    }

    /// Writes to a string cannot fail.
    fn push(&mut self, element: std::fmt::Arguments) {
        let _ = self.elements.write_fmt(element);
        self.elements.push('\n');
    }

    /// Lines from point to point; nothing for no point.
    pub(crate) fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        self.faded_path(class, 1.0, points);
    }

    /// [`Self::path`] with an opacity from 0 to 1.
    pub(crate) fn faded_path(&mut self, class: &str, opacity: f64, points: &[(f64, f64)]) {
        if !points.is_empty() {
            self.push(format_args!("<path class=\"{class}\"{} d=\"{}\"/>", faded(opacity), outline(points)));
        }
    }

    /// The area that `points` enclose; nothing for fewer than three.
    pub(crate) fn area(&mut self, class: &str, points: &[(f64, f64)]) {
        if points.len() > 2 {
            self.push(format_args!("<path class=\"{class}\" d=\"{}Z\"/>", outline(points)));
        }
    }

    pub(crate) fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let [x, y, width, height] = [x, y, width, height].map(tenth);
        self.push(format_args!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>"));
    }

    /// A square with an opacity from 0 to 1 and a title that is shown when the pointer rests on it.
    pub(crate) fn square(&mut self, class: &str, (x, y): (f64, f64), side: f64, opacity: f64, title: &str) {
        let [x, y, side] = [x, y, side].map(tenth);
        self.push(format_args!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill-opacity=\"{opacity:.2}\">\
             <title>{}</title></rect>",
            escaped(title)
        ));
    }

    pub(crate) fn dot(&mut self, class: &str, opacity: f64, radius: f64, (x, y): (f64, f64)) {
        let (x, y) = (tenth(x), tenth(y));
        self.push(format_args!("<circle class=\"{class}\"{} cx=\"{x}\" cy=\"{y}\" r=\"{radius}\"/>", faded(opacity)));
    }

    /// Text on the base line `y`. It begins at `x`, unless `class` has `middle` or `end`.
    pub(crate) fn text(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let (x, y) = (tenth(x), tenth(y));
        self.push(format_args!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>", escaped(text)));
    }

    /// Text that is read from below and begins at the point.
    pub(crate) fn upward_text(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let (x, y) = (tenth(x), tenth(y));
        self.push(format_args!(
            "<text class=\"{class}\" transform=\"translate({x} {y}) rotate(-90)\">{}</text>",
            escaped(text)
        ));
    }

    /// Adds `other` below what is there.
    pub(crate) fn append(&mut self, other: &Self) {
        let y = tenth(self.height);
        self.push(format_args!("<g transform=\"translate(0 {y})\">\n{}</g>", other.elements));
        self.height += other.height;
        self.width = self.width.max(other.width);
    }

    /// An SVG file. `label` says what it shows to those who do not see it.
    pub(crate) fn file(&self, label: &str) -> String {
        let (width, height) = (tenth(self.width), tenth(self.height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n<style>\n{STYLE_SHEET}</style>\n\
             <rect class=\"back\" width=\"{width}\" height=\"{height}\"/>\n{}</svg>\n",
            escaped(label),
            self.elements
        )
    }

    /// An element for a page that has the style sheet.
    pub(crate) fn markup(&self, label: &str) -> String {
        let (width, height) = (tenth(self.width), tenth(self.height));
        format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n",
            escaped(label),
            self.elements
        )
    }
}

fn outline(points: &[(f64, f64)]) -> String {
    let point = |(i, (x, y)): (usize, &(f64, f64))| format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
    points.iter().enumerate().map(point).collect()
}

fn faded(opacity: f64) -> String {
    if opacity < 1.0 { format!(" opacity=\"{opacity:.2}\"") } else { String::new() }
}

fn tenth(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}

/// `text` as XML has it; characters that XML does not have become U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(' '),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_control_characters_are_replaced() {
        assert_eq!(escaped("<a & \"b\">\x1b\n"), "&lt;a &amp; &quot;b&quot;&gt;\u{fffd} ");
    }

    #[test]
    fn every_style_has_a_color_in_light_and_in_dark() {
        let (light, dark) = STYLE_SHEET.split_once("@media").unwrap();
        for style in (0..STYLES).chain(FIXED_STYLE..FIXED_STYLE + FIXED_STYLES) {
            let rule = format!("svg .{} {{ color:", color(style));
            assert!(light.contains(&rule) && dark.contains(&rule), "{rule}");
        }
        assert_eq!([color(STYLES), color(FIXED_STYLE)], ["s0", "m0"]);
    }

    #[test]
    fn a_file_brings_its_style_sheet_and_a_page_has_its_own() {
        let mut drawing = Drawing::new(10.0);
        drawing.append(&Drawing { height: 20.0, width: 30.0, elements: String::new() });
        let file = drawing.file("a \"label\"");
        assert!(file.starts_with("<svg xmlns=") && file.contains("<style>") && file.contains("a &quot;label&quot;"));
        assert!(file.contains("viewBox=\"0 0 30 20\""));
        let markup = drawing.markup("label");
        assert!(!markup.contains("<style>") && !markup.contains("http"));
        assert!(!STYLE_SHEET.contains(['<', '&']), "it stands in XML as it is");
    }
}

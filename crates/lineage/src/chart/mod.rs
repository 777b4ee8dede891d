//! Charts as shapes in a plane, which the page's template writes as SVG.
//!
//! Colors, dashes and fonts are classes of the page's style sheet, so that one chart is right in light, in dark and in print.
//! Lengths are in units of which a chart is [`WIDTH`] wide; a phone shows the width on 330 pixels.
//!
//! - [`lines`]    curves over a shared axis
//! - [`bars`]     shares with intervals
//! - [`heat_map`] attention weights

pub mod bars;
pub mod heat_map;
pub mod lines;

use serde::Serialize;

/// Of every chart.
pub const WIDTH: f64 = 560.0;
/// Of text, about: what a letter takes.
const LETTER: f64 = 11.2;

/// A chart.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Chart {
    /// What it shows, for those who do not see it.
    pub label: String,
    /// Units from top to bottom.
    pub height: f64,
    /// What it is made of, from back to front.
    pub elements: Vec<Element>,
}

/// Something drawn. `class` names what it looks like.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Element {
    /// Lines from point to point.
    Path {
        /// Looks.
        class: String,
        /// As SVG's attribute `d`.
        d: String,
    },
    /// A rectangle.
    Rect {
        /// Looks.
        class: String,
        /// Left side.
        x: f64,
        /// Upper side.
        y: f64,
        /// From left to right.
        width: f64,
        /// From top to bottom.
        height: f64,
        /// From 0 to 1.
        opacity: f64,
        /// Shown when it is pointed at; may be empty.
        title: String,
    },
    /// A dot.
    Dot {
        /// Looks.
        class: String,
        /// Middle.
        x: f64,
        /// Middle.
        y: f64,
    },
    /// Words.
    Text {
        /// Looks, and at which end it stands.
        class: String,
        /// Where that end is.
        x: f64,
        /// Base line.
        y: f64,
        /// Whether it is read from below.
        upward: bool,
        /// What it says.
        text: String,
    },
}

impl Chart {
    fn path(&mut self, class: impl Into<String>, points: &[(f64, f64)]) {
        let point = |(i, (x, y)): (usize, &(f64, f64))| format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        let d: String = points.iter().enumerate().map(point).collect();
        self.elements.push(Element::Path { class: class.into(), d });
    }

    fn text(&mut self, class: impl Into<String>, (x, y): (f64, f64), text: impl Into<String>) {
        self.elements.push(Element::Text {
            class: class.into(),
            x: tenth(x),
            y: tenth(y),
            upward: false,
            text: text.into(),
        });
    }

    fn rect(&mut self, class: impl Into<String>, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let [x, y, width, height] = [x, y, width, height].map(tenth);
        self.elements.push(Element::Rect {
            class: class.into(),
            x,
            y,
            width,
            height,
            opacity: 1.0,
            title: String::new(),
        });
    }
}

fn tenth(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}

/// 1500000 → 1.5M.
pub fn short(n: f64) -> String {
    let (value, unit) = match n.abs() {
        a if a >= 1e15 => return format!("{n:.0e}").replace('-', "−"),
        a if a >= 1e9 => (n / 1e9, "B"),
        a if a >= 1e6 => (n / 1e6, "M"),
        a if a >= 1e3 => (n / 1e3, "k"),
        _ => (n, ""),
    };
    // Three digits.
    let digits = if unit.is_empty() || value.abs() < 10.0 { 2 } else { usize::from(value.abs() < 100.0) };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{}{unit}", text.replace('-', "−"))
}

/// About `n` round numbers that lie between `low` and `high`.
fn ticks(low: f64, high: f64, n: usize) -> Vec<f64> {
    let rough = (high - low) / n as f64;
    if !rough.is_finite() || rough <= 0.0 {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&step| step >= rough * 0.999).unwrap_or(rough);
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0, 4), [0.0, 0.5, 1.0]);
        assert_eq!(ticks(-0.3, 0.31, 5), [-0.2, 0.0, 0.2]);
        assert_eq!(ticks(0.0, 1_843_200.0, 4), [0.0, 500_000.0, 1_000_000.0, 1_500_000.0]);
        assert_eq!(ticks(3.0, 3.0, 4), [3.0]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, -0.5, 999.0, 1500.0, 742_272.0, 2e6].map(short), ["0", "−0.5", "999", "1.5k", "742k", "2M"]);
    }
}

//! Charts as SVG: data in, text out. No other crate draws.
//!
//! We write the SVG ourselves rather than with a library because colors, dashes and fonts are classes of one style sheet
//! ([`STYLE_SHEET`]): the same chart is right in a light page, in a dark one, and in print.
//!
//! - [`line_chart`] lines, points, intervals, bands and histograms over linear, logarithmic or named places
//! - [`share_bars`] shares from 0 to 100% with an interval for every seed
//! - [`heat_map`]   attention weights, a panel for each head
//! - [`scale`]      which values are drawn, the ends of an axis, ticks and their labels
//!
//! Every chart has two forms. `svg` is a complete file that includes the style sheet. `markup` is an element for an
//! HTML page that has the style sheet in its head; it is [`PAGE_WIDTH`] units wide.

pub mod heat_map;
pub mod line_chart;
pub mod scale;
pub mod share_bars;
mod svg;

pub use heat_map::{HeatMap, HeatMapPanel};
pub use line_chart::{Axis, Extent, LineChart, Look, Names, Scale, Series, stacked};
pub use share_bars::{ShareBar, ShareBars};

/// Style sheet of all charts. Its selectors apply to elements inside `svg` alone.
pub const STYLE_SHEET: &str = include_str!("chart.css");

/// Width of a chart in a page, in units of the SVG; a phone shows it on 320 to 400 pixels, where text is 11 to 14 pixels high.
pub const PAGE_WIDTH: f64 = 480.0;

/// Number of colors of the style sheet; a style beyond them begins again with the first.
pub const STYLES: usize = 6;

/// First of the styles for pages in which a color stands for the same thing in every chart; they do not repeat.
pub const FIXED_STYLE: usize = 100;

/// Number of such styles.
pub const FIXED_STYLES: usize = 12;

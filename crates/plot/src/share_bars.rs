//! Shares as bars from 0 to 100%, with the interval of every seed.

use crate::PAGE_WIDTH;
use crate::scale::is_drawn;
use crate::svg::{Drawing, color};

/// A bar.
#[derive(Debug, Clone, PartialEq)]
pub struct ShareBar {
    /// Its name.
    pub name: String,
    /// Number of a color of the style sheet.
    pub style: usize,
    /// Value and ends of the interval of each seed, percent.
    pub seeds: Vec<(f64, f64, f64)>,
}

/// Bars below each other.
#[derive(Debug, Clone, PartialEq)]
pub struct ShareBars {
    /// What the chart shows, for those who do not see it.
    pub label: String,
    /// The bars.
    pub bars: Vec<ShareBar>,
    /// Whether a line marks 50%.
    pub half: bool,
}

const LEFT: f64 = 8.0;
const RIGHT: f64 = PAGE_WIDTH - 76.0;
/// Height of a name above its bar, and of a seed's interval in it.
const NAME: f64 = 24.0;
const SEED: f64 = 10.0;
const GAP: f64 = 14.0;

impl ShareBars {
    /// The chart as an element of a page; `None` when no bar has a value.
    pub fn markup(&self) -> Option<String> {
        let sound = |seed: &&(f64, f64, f64)| [seed.0, seed.1, seed.2].into_iter().all(is_drawn);
        let of_numbers =
            |bar: &ShareBar| ShareBar { seeds: bar.seeds.iter().filter(sound).copied().collect(), ..bar.clone() };
        let bars: Vec<ShareBar> = self.bars.iter().map(of_numbers).filter(|bar| !bar.seeds.is_empty()).collect();
        (!bars.is_empty()).then(|| self.draw(&bars).markup(&self.label))
    }

    fn draw(&self, bars: &[ShareBar]) -> Drawing {
        let thickness = |bar: &ShareBar| (SEED * bar.seeds.len() as f64).max(20.0);
        let bottom: f64 = bars.iter().map(|bar| NAME + thickness(bar) + GAP).sum();
        let mut drawing = Drawing::new(PAGE_WIDTH);
        drawing.height = bottom + 32.0;
        for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
            drawing.path("grid", &[(at(percent), 4.0), (at(percent), bottom)]);
            let (class, x) = if percent == 0.0 { ("tick", at(percent) - 6.0) } else { ("tick middle", at(percent)) };
            drawing.text(class, (x, bottom + 20.0), &format!("{percent}%"));
        }
        let mut top = 0.0;
        for bar in bars {
            draw_bar(&mut drawing, bar, top + NAME, thickness(bar));
            top += NAME + thickness(bar) + GAP;
        }
        if self.half {
            drawing.path("half", &[(at(50.0), 4.0), (at(50.0), bottom)]);
        }
        drawing
    }
}

fn at(percent: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * percent.clamp(0.0, 100.0) / 100.0
}

fn draw_bar(drawing: &mut Drawing, bar: &ShareBar, y: f64, thickness: f64) {
    let n = bar.seeds.len() as f64;
    let mean = bar.seeds.iter().map(|seed| seed.0).sum::<f64>() / n;
    drawing.rect(&format!("bar {}", color(bar.style)), (LEFT, y), (at(mean) - LEFT, thickness));
    drawing.text("label", (LEFT, y - 6.0), &bar.name);
    drawing.text("label", (RIGHT + 12.0, y + thickness / 2.0 + 6.0), &format!("{mean:.0}%"));
    for (i, &(value, low, high)) in bar.seeds.iter().enumerate() {
        let middle = y + (i as f64 + 0.5) * thickness / n;
        drawing.path("whisker", &[(at(low), middle), (at(high), middle)]);
        drawing.dot("whisker", 1.0, 4.5, (at(value), middle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_end_at_the_mean_and_have_each_seeds_interval() {
        let bar =
            |name: &str, seeds: &[(f64, f64, f64)]| ShareBar { name: name.to_owned(), style: 0, seeds: seeds.to_vec() };
        let three = [(60.0, 50.0, 70.0), (70.0, 60.0, 80.0), (80.0, 70.0, 90.0)];
        let bars = ShareBars { label: String::new(), bars: vec![bar("a", &three), bar("none", &[])], half: true };
        let svg = bars.markup().unwrap();
        let width = ((RIGHT - LEFT) * 7.0).round() / 10.0;
        assert!(svg.contains(&format!("class=\"bar s0\" x=\"8\" y=\"24\" width=\"{width}\"")), "{svg}");
        let of = |class: &str| svg.matches(&format!("<path class=\"{class}\"")).count();
        assert_eq!((of("whisker"), of("half"), svg.matches("<rect").count()), (3, 1, 1));
        assert!(svg.contains(">70%<"));
        let odd = [(f64::NAN, 0.0, 1.0), (1e300, -1e300, f64::INFINITY), (1e30, -1e30, 200.0)];
        let svg = ShareBars { bars: vec![bar("odd", &odd)], ..bars.clone() }.markup().unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.len() < 5000, "{svg}");
        assert!(ShareBars { bars: Vec::new(), ..bars }.markup().is_none());
    }
}

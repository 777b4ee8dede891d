//! Shares as bars from 0 to 100%, with the interval of every seed.

use super::{Chart, Element, WIDTH, tenth};
use gptkit_train::curves::is_drawn;

/// A bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What it is of.
    pub name: String,
    /// Which of the page's colors it has.
    pub style: usize,
    /// Of each seed the value and the ends of its interval, percent.
    pub seeds: Vec<(f64, f64, f64)>,
}

/// Bars below each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// What the chart shows, for those who do not see it.
    pub label: String,
    /// The bars.
    pub bars: Vec<Bar>,
    /// Whether a line marks 50%.
    pub half: bool,
}

const LEFT: f64 = 8.0;
const RIGHT: f64 = WIDTH - 76.0;
/// Of a name above its bar, and of a seed's interval in it.
const NAME: f64 = 24.0;
const SEED: f64 = 10.0;
const GAP: f64 = 14.0;

impl Bars {
    /// Draws them; nothing when there is none.
    pub fn draw(&self) -> Option<Chart> {
        let sound = |seed: &&(f64, f64, f64)| [seed.0, seed.1, seed.2].into_iter().all(is_drawn);
        let of_numbers = |bar: &Bar| Bar { seeds: bar.seeds.iter().filter(sound).copied().collect(), ..bar.clone() };
        let bars: Vec<Bar> = self.bars.iter().map(of_numbers).filter(|bar| !bar.seeds.is_empty()).collect();
        let thick = |bar: &Bar| (SEED * bar.seeds.len() as f64).max(20.0);
        let bottom: f64 = bars.iter().map(|bar| NAME + thick(bar) + GAP).sum();
        let mut chart = Chart { label: self.label.clone(), height: bottom + 32.0, elements: Vec::new() };
        let at = |percent: f64| LEFT + (RIGHT - LEFT) * percent.clamp(0.0, 100.0) / 100.0;
        for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
            chart.path("grid", &[(at(percent), 4.0), (at(percent), bottom)]);
            let class = if percent == 0.0 { "tick" } else { "tick middle" };
            chart.text(
                class,
                (at(percent) - if percent == 0.0 { 6.0 } else { 0.0 }, bottom + 20.0),
                format!("{percent}%"),
            );
        }
        let mut top = 0.0;
        for bar in &bars {
            let (y, thick) = (top + NAME, thick(bar));
            let mean = bar.seeds.iter().map(|seed| seed.0).sum::<f64>() / bar.seeds.len() as f64;
            chart.rect(format!("bar s{}", bar.style), (LEFT, y), (at(mean) - LEFT, thick));
            chart.text("label", (LEFT, y - 6.0), bar.name.clone());
            chart.text("label", (RIGHT + 12.0, y + thick / 2.0 + 6.0), format!("{mean:.0}%"));
            for (i, &(value, low, high)) in bar.seeds.iter().enumerate() {
                let middle = y + (i as f64 + 0.5) * thick / bar.seeds.len() as f64;
                chart.path("whisker", &[(at(low), middle), (at(high), middle)]);
                chart.elements.push(Element::Dot {
                    class: "whisker".to_owned(),
                    x: tenth(at(value)),
                    y: tenth(middle),
                });
            }
            top = y + thick + GAP;
        }
        if self.half {
            chart.path("half", &[(at(50.0), 4.0), (at(50.0), bottom)]);
        }
        (!bars.is_empty()).then_some(chart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_end_at_the_mean_and_have_each_seeds_interval() {
        let bar =
            |name: &str, seeds: &[(f64, f64, f64)]| Bar { name: name.to_owned(), style: 0, seeds: seeds.to_vec() };
        let three = [(60.0, 50.0, 70.0), (70.0, 60.0, 80.0), (80.0, 70.0, 90.0)];
        let bars = Bars { label: String::new(), bars: vec![bar("a", &three), bar("none", &[])], half: true };
        let chart = bars.draw().unwrap();
        let widths: Vec<f64> = chart
            .elements
            .iter()
            .filter_map(|e| match e {
                &Element::Rect { width, .. } => Some(width),
                _ => None,
            })
            .collect();
        assert_eq!(widths, [tenth((RIGHT - LEFT) * 0.7)]);
        let of = |name: &str| {
            chart.elements.iter().filter(|e| matches!(e, Element::Path { class, .. } if class == name)).count()
        };
        assert_eq!((of("whisker"), of("half")), (3, 1));
        assert!(chart.elements.iter().any(|e| matches!(e, Element::Text { text, .. } if text == "70%")));
        let odd = [(f64::NAN, 0.0, 1.0), (1e300, -1e300, f64::INFINITY), (1e30, -1e30, 200.0)];
        let chart = Bars { bars: vec![bar("odd", &odd)], ..bars.clone() }.draw().unwrap();
        let text = format!("{chart:?}");
        assert!(!text.contains("NaN") && !text.contains("inf") && text.len() < 5000, "{text}");
        assert!(Bars { bars: Vec::new(), ..bars }.draw().is_none());
    }
}

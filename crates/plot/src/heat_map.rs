//! Attention weights: a panel for each head, layers below each other.

use crate::PAGE_WIDTH;
use crate::svg::{Drawing, LETTER};

/// A map of weights between tokens, in panels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeatMap {
    /// What the chart shows, for those who do not see it.
    pub label: String,
    /// Rows and columns of every panel.
    pub tokens: Vec<String>,
    /// One for each head, layer by layer.
    pub panels: Vec<HeatMapPanel>,
}

/// The weights of one head.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeatMapPanel {
    /// Number of its layer, from 0.
    pub layer: usize,
    /// Number of the head in its layer, from 0.
    pub head: usize,
    /// From 0 to 1: a row for each token, with a weight for each token that it attends to.
    pub weights: Vec<Vec<f64>>,
}

const GAP: f64 = 12.0;
/// Height of a panel's name.
const NAME: f64 = 22.0;
/// Least side of a square beside which a word can stand, and sides in a file and at most in a page.
const WORD: f64 = 17.0;
const FILE_SIDE: f64 = 20.0;
const LARGEST: f64 = 26.0;
/// Letters of a word that the margin has room for.
const LONGEST: usize = 10;

/// Number of panels per row, and the side length of the square of a weight.
struct Layout {
    columns: usize,
    side: f64,
}

impl HeatMap {
    /// The map as a file, with all heads of a layer in one row.
    pub fn svg(&self) -> String {
        let layout = Layout { columns: self.widest_layer(), side: FILE_SIDE };
        self.draw(&layout).file(&self.label)
    }

    /// The map as an element of a page; `None` when there is no weight.
    pub fn markup(&self) -> Option<String> {
        let n = self.tokens.len() as f64;
        // As many heads beside each other as leave room for words.
        let side = |columns: usize| ((PAGE_WIDTH - self.margin()) / columns as f64 - GAP) / n;
        let fits = |columns: usize| side(columns) >= WORD && side(columns) * n >= self.longest_name();
        let columns = (1..=self.widest_layer()).rev().find(|&columns| fits(columns)).unwrap_or(1);
        let mut drawing = self.draw(&Layout { columns, side: side(columns).min(LARGEST) });
        drawing.width = PAGE_WIDTH;
        (!self.tokens.is_empty() && !self.panels.is_empty()).then(|| drawing.markup(&self.label))
    }

    fn layers(&self) -> impl Iterator<Item = &[HeatMapPanel]> {
        self.panels.chunk_by(|a, b| a.layer == b.layer)
    }

    fn widest_layer(&self) -> usize {
        self.layers().map(<[HeatMapPanel]>::len).max().unwrap_or(1)
    }

    /// Room for words at the left and above.
    fn margin(&self) -> f64 {
        let longest = self.tokens.iter().map(|token| token.trim().chars().count()).max().unwrap_or(0);
        longest.min(LONGEST) as f64 * LETTER + 14.0
    }

    fn longest_name(&self) -> f64 {
        self.panels.iter().map(|panel| name(panel).len()).max().unwrap_or(0) as f64 * LETTER
    }

    fn draw(&self, &Layout { columns, side }: &Layout) -> Drawing {
        let (n, margin) = (self.tokens.len() as f64, self.margin());
        let pitch = (side * n).max(self.longest_name()) + GAP;
        let mut drawing = Drawing::new(margin + columns as f64 * pitch);
        let words: Vec<String> = self.tokens.iter().map(|token| token.trim().chars().take(LONGEST).collect()).collect();
        let has_words = side >= WORD;
        if has_words {
            for left in (0..columns).map(|column| margin + column as f64 * pitch) {
                for (j, word) in words.iter().enumerate() {
                    drawing.upward_text("tick", (left + (j as f64 + 0.5) * side + 5.0, margin - 4.0), word);
                }
            }
        }
        let mut top = margin;
        for row in self.layers().flat_map(|layer| layer.chunks(columns)) {
            top += NAME;
            if has_words {
                for (i, word) in words.iter().enumerate() {
                    drawing.text("tick end", (margin - 6.0, top + (i as f64 + 0.5) * side + 5.0), word);
                }
            }
            for (column, panel) in row.iter().enumerate() {
                let left = margin + column as f64 * pitch;
                drawing.text("tick", (left, top - 5.0), &name(panel));
                self.squares(&mut drawing, panel, (left, top), side);
            }
            top += side * n + GAP;
        }
        drawing.height = top;
        drawing
    }

    /// The darker, the larger the weight; the root lets small weights be seen.
    fn squares(&self, drawing: &mut Drawing, panel: &HeatMapPanel, (left, top): (f64, f64), side: f64) {
        let whole = side * self.tokens.len() as f64;
        drawing.rect("wash", (left, top), (whole, whole));
        let word = |n: usize| self.tokens.get(n).map_or("", |token| token.trim());
        for (i, weights) in panel.weights.iter().enumerate() {
            for (j, &weight) in weights.iter().enumerate() {
                let opacity = if weight.is_nan() { 0.0 } else { weight.clamp(0.0, 1.0).sqrt() };
                let title = format!("{} → {}: {weight:.2}", word(i), word(j));
                let corner = (left + j as f64 * side, top + i as f64 * side);
                drawing.square("weight s0", corner, side - 1.0, opacity, &title);
            }
        }
    }
}

/// Numbered as `gptkit attention --layer N --head N` counts.
fn name(panel: &HeatMapPanel) -> String {
    format!("layer {} head {}", panel.layer, panel.head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(n_heads: usize, tokens: &[&str]) -> HeatMap {
        let weights: Vec<Vec<f64>> = (0..tokens.len()).map(|i| vec![1.0 / (i + 1) as f64; i + 1]).collect();
        let panels = (0..n_heads).map(|i| HeatMapPanel { layer: i / 2, head: i % 2, weights: weights.clone() });
        let tokens = tokens.iter().map(|&token| token.to_owned()).collect();
        HeatMap { label: "weights".to_owned(), tokens, panels: panels.collect() }
    }

    fn attribute(element: &str, name: &str) -> f64 {
        let rest = element.split_once(&format!(" {name}=\"")).unwrap().1;
        rest.split_once('"').unwrap().0.parse().unwrap()
    }

    #[test]
    fn every_weight_is_a_square_inside_the_chart() {
        for tokens in [&["You", " are", " good"][..], &["word"; 40]] {
            let map = map(4, tokens);
            let n = tokens.len();
            for svg in [map.svg(), map.markup().unwrap()] {
                let (_, view) = svg.split_once("viewBox=\"0 0 ").unwrap();
                let (width, height) = view.split_once('"').unwrap().0.split_once(' ').unwrap();
                let (width, height): (f64, f64) = (width.parse().unwrap(), height.parse().unwrap());
                let squares: Vec<&str> = svg.lines().filter(|line| line.contains("class=\"weight")).collect();
                assert_eq!(squares.len(), 4 * n * (n + 1) / 2);
                for square in squares {
                    assert!(attribute(square, "x") + attribute(square, "width") <= width, "{n} tokens: {square}");
                    assert!(attribute(square, "y") + attribute(square, "height") <= height, "{n} tokens: {square}");
                }
            }
        }
        assert!(HeatMap::default().markup().is_none());
    }

    #[test]
    fn heads_are_numbered_from_0_and_tokens_are_text() {
        let svg = map(2, &["You", " are", " <b>"]).svg();
        assert!(svg.contains("layer 0 head 1") && svg.contains("&lt;b&gt;") && !svg.contains("<b>"));
    }

    #[test]
    fn a_weight_that_is_no_number_has_no_color() {
        let mut map = map(1, &["a"]);
        map.panels[0].weights = vec![vec![f64::NAN]];
        assert!(map.svg().contains("fill-opacity=\"0.00\""));
    }
}

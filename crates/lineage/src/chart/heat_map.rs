//! Attention weights: a panel a head, layers below each other.

use super::{Chart, Element, LETTER, WIDTH, tenth};
use crate::measured::{AttentionMaps, HeadWeights};

const GAP: f64 = 12.0;
/// Of a panel's name.
const NAME: f64 = 22.0;
/// Least side of a square beside which a word can stand.
const WORD: f64 = 17.0;
const LARGEST: f64 = 26.0;

/// Draws them; nothing when there is no weight.
pub fn draw(attention: &AttentionMaps, label: String) -> Option<Chart> {
    let words: Vec<String> = attention.tokens.iter().map(|token| token.trim().to_owned()).collect();
    let n = words.len();
    if n == 0 || attention.heads.is_empty() {
        return None;
    }
    let longest = words.iter().map(|word| word.chars().count()).max().unwrap_or(0).min(10) as f64;
    let margin = longest * LETTER + 14.0;
    let layers: Vec<&[HeadWeights]> = attention.heads.chunk_by(|a, b| a.layer == b.layer).collect();
    let most = layers.iter().map(|layer| layer.len()).max().unwrap_or(1);
    // As many heads beside each other as leave room for words.
    let side = |columns: usize| ((WIDTH - margin) / columns as f64 - GAP) / n as f64;
    let columns = (1..=most).rev().find(|&columns| side(columns) >= WORD).unwrap_or(1);
    let cell = side(columns).min(LARGEST);
    let mut chart = Chart { label, height: 0.0, elements: Vec::new() };
    let panel = cell * n as f64;
    let mut top = margin;
    if cell >= WORD {
        for column in 0..columns {
            for (j, word) in words.iter().enumerate() {
                let x = margin + column as f64 * (panel + GAP) + (j as f64 + 0.5) * cell + 5.0;
                let (x, y) = (tenth(x), tenth(margin - 4.0));
                chart.elements.push(Element::Text { class: "tick".to_owned(), x, y, upward: true, text: word.clone() });
            }
        }
    }
    for row in layers.iter().flat_map(|layer| layer.chunks(columns)) {
        top += NAME;
        if cell >= WORD {
            for (i, word) in words.iter().enumerate() {
                chart.text("tick end", (margin - 6.0, top + (i as f64 + 0.5) * cell + 5.0), word.clone());
            }
        }
        for (column, head) in row.iter().enumerate() {
            let left = margin + column as f64 * (panel + GAP);
            chart.text("tick", (left, top - 5.0), format!("layer {}, {}", head.layer + 1, head.head + 1));
            squares(&mut chart, head, &words, (left, top), cell);
        }
        top += panel + GAP;
    }
    chart.height = tenth(top);
    Some(chart)
}

/// The darker, the more; the root lets small weights be seen.
fn squares(chart: &mut Chart, head: &HeadWeights, words: &[String], (left, top): (f64, f64), cell: f64) {
    chart.rect("paper", (left, top), (cell * words.len() as f64, cell * words.len() as f64));
    for (i, weights) in head.weights.iter().enumerate() {
        for (j, &weight) in weights.iter().enumerate() {
            let [x, y, side] = [left + j as f64 * cell, top + i as f64 * cell, cell - 1.0].map(tenth);
            let word = |n: usize| words.get(n).map_or("", String::as_str);
            chart.elements.push(Element::Rect {
                class: "weight".to_owned(),
                x,
                y,
                width: side,
                height: side,
                // A value that is not a number has no color.
                opacity: if weight.is_nan() { 0.0 } else { (weight.clamp(0.0, 1.0).sqrt() * 100.0).round() / 100.0 },
                title: format!("{} → {}: {weight:.2}", word(i), word(j)),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attention(n_heads: usize, tokens: &[&str]) -> AttentionMaps {
        let weights: Vec<Vec<f64>> = (0..tokens.len()).map(|i| vec![1.0 / (i + 1) as f64; i + 1]).collect();
        let heads = (0..n_heads)
            .map(|head| HeadWeights { layer: head / 2, head: head % 2, weights: weights.clone() })
            .collect();
        AttentionMaps { tokens: tokens.iter().map(|&token| token.to_owned()).collect(), heads }
    }

    #[test]
    fn every_weight_is_a_square_inside_the_chart() {
        for tokens in [&["You", " are", " good"][..], &["word"; 40]] {
            let chart = draw(&attention(4, tokens), String::new()).unwrap();
            let n = tokens.len();
            let weights: Vec<(f64, f64)> = chart
                .elements
                .iter()
                .filter_map(|e| match e {
                    Element::Rect { class, x, y, width, height, .. } if class == "weight" => {
                        Some((x + width, y + height))
                    }
                    _ => None,
                })
                .collect();
            assert_eq!(weights.len(), 4 * n * (n + 1) / 2);
            assert!(weights.iter().all(|&(x, y)| x <= WIDTH && y <= chart.height), "{n} tokens");
        }
        assert!(draw(&AttentionMaps::default(), String::new()).is_none());
    }
}

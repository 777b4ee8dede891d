//! Attention weights as a picture: a panel a head, heads beside and layers below each other.

use crate::attention::AttentionHead;
use anyhow::{Result, anyhow, ensure};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Side of a weight's square.
const CELL: i32 = 14;
/// Room for the words at the left and the top.
const LABELS: i32 = 90;
const GAP: i32 = 10;
/// Squares of a picture that a browser still shows at once.
const MOST_CELLS: usize = 250_000;

type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The picture of `heads`, whose rows and columns stand for `tokens`: the darker, the more.
///
/// # Errors
/// When there are too many weights for one picture.
pub(crate) fn svg(heads: &[AttentionHead], tokens: &[String]) -> Result<String> {
    let cells = heads.len() * tokens.len() * (tokens.len() + 1) / 2;
    ensure!(
        cells <= MOST_CELLS,
        "{cells} weights are too many for one picture, {MOST_CELLS} are not: choose --layer or --head, or a shorter text"
    );
    let mut text = String::new();
    draw(heads, tokens, &mut text).map_err(|e| anyhow!("the heat map cannot be drawn: {e}"))?;
    Ok(text)
}

fn draw(heads: &[AttentionHead], tokens: &[String], text: &mut String) -> Drawn<()> {
    let panel = CELL * tokens.len() as i32 + GAP;
    let layers: Vec<&[AttentionHead]> = heads.chunk_by(|a, b| a.layer == b.layer).collect();
    let columns = layers.iter().map(|layer| layer.len()).max().unwrap_or(0) as i32;
    let title = 18;
    let size = (LABELS + columns * panel + GAP, LABELS + layers.len() as i32 * (panel + title) + GAP);
    let area = SVGBackend::with_string(text, (size.0 as u32, size.1 as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let word = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    let right = word(11).pos(Pos::new(HPos::Right, VPos::Center));
    let upward = ("sans-serif", 11).into_font().transform(FontTransform::Rotate270).color(&BLACK);
    for column in 0..columns {
        for (j, token) in tokens.iter().enumerate() {
            let x = LABELS + column * panel + CELL * j as i32 + CELL / 2;
            area.draw(&Text::new(token.trim_start(), (x - 5, LABELS - 4), upward.clone()))?;
        }
    }
    for (row, layer) in layers.iter().enumerate() {
        let top = LABELS + title + row as i32 * (panel + title);
        for (i, token) in tokens.iter().enumerate() {
            area.draw(&Text::new(token.trim_start(), (LABELS - 6, top + CELL * i as i32 + CELL / 2), right.clone()))?;
        }
        for (column, head) in layer.iter().enumerate() {
            let left = LABELS + column as i32 * panel;
            let name = format!("layer {} head {}", head.layer, head.head);
            area.draw(&Text::new(name, (left, top - 14), word(11)))?;
            for (i, weights) in head.rows.iter().enumerate() {
                for (j, &weight) in weights.iter().enumerate() {
                    let (x, y) = (left + CELL * j as i32, top + CELL * i as i32);
                    let square = [(x, y), (x + CELL - 1, y + CELL - 1)];
                    area.draw(&Rectangle::new(square, shade(weight).filled()))?;
                }
            }
        }
    }
    area.present()?;
    Ok(())
}

/// From almost white to dark blue; the root lets small weights be seen.
fn shade(weight: f32) -> RGBColor {
    let depth = weight.clamp(0.0, 1.0).sqrt();
    let mix = |from: f32, to: f32| (from + (to - from) * depth) as u8;
    RGBColor(mix(240.0, 8.0), mix(243.0, 48.0), mix(248.0, 107.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(n: usize) -> AttentionHead {
        AttentionHead { layer: 0, head: 1, rows: (0..n).map(|i| vec![1.0 / (i + 1) as f32; i + 1]).collect() }
    }

    #[test]
    fn every_weight_is_a_square_and_every_token_a_word() {
        let tokens = ["You", " are", " <b>"].map(str::to_owned);
        let text = svg(&[head(3)], &tokens).unwrap();
        assert_eq!(text.matches("<rect").count(), 6 + 1, "six weights and the background");
        assert!(text.contains("layer 0 head 1") && text.contains("&lt;b&gt;") && !text.contains("<b>"));
    }

    #[test]
    fn too_many_weights_are_refused_with_the_way_out() {
        let tokens = vec!["a".to_owned(); 800];
        assert!(svg(&[head(800)], &tokens).unwrap_err().to_string().contains("choose --layer or --head"));
    }
}

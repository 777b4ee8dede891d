//! Reward against the distance from the reference, as a picture: over-optimization is where gold falls while the score rises
//! (Gao et al. 2022, fig. 1).

use anyhow::{Context, Result, anyhow};
use gptkit_train::curves::{Drawn, axis, axis_label, is_drawn, labels};
use gptkit_train::metrics::records;
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (720, 480);
/// Colors that differ in brightness too.
const SCORE: RGBColor = RGBColor(31, 95, 191);
const GOLD: RGBColor = RGBColor(226, 154, 38);

/// A point an iteration: √KL, and what the answers' reward was.
type Points = Vec<(f64, f64)>;

/// What the run in `folder` recorded: the reward model's score, and the truth behind it where it is known, over the square
/// root of the KL divergence.
///
/// # Errors
/// When it recorded nothing, or it cannot be drawn.
pub(crate) fn reward_over_kl(folder: &Path) -> Result<String> {
    let (mut score, mut gold) = (Points::new(), Points::new());
    for record in records(folder)? {
        let figure = |name: &str| record.figures.get(name).copied();
        let Some(kl) = figure("objective/kl").filter(|kl| is_drawn(*kl)) else { continue };
        let x = kl.max(0.0).sqrt();
        score.extend(figure("objective/score").map(|y| (x, y)));
        gold.extend(figure("objective/gold").map(|y| (x, y)));
    }
    let mut text = String::new();
    draw(&score, &gold, &mut text).map_err(|e| anyhow!("{e}")).context("the rewards cannot be drawn")?;
    Ok(text)
}

fn draw(score: &Points, gold: &Points, text: &mut String) -> Drawn<()> {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let all = || score.iter().chain(gold).filter(|p| is_drawn(p.1));
    let far = all().fold(0.1, |far: f64, p| far.max(p.0));
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..far * 1.03, axis(all().map(|p| p.1)))?;
    let label = |x: &f64| axis_label(*x);
    chart
        .configure_mesh()
        .x_desc("√KL from the reference, nats an answer")
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .y_desc("mean over the answers of an iteration")
        .label_style(("sans-serif", 14))
        .draw()?;
    for (points, color, name) in [(score, SCORE, "reward model's score"), (gold, GOLD, "gold")] {
        if points.is_empty() {
            continue;
        }
        let drawn = points.iter().filter(|p| is_drawn(p.1));
        chart
            .draw_series(drawn.map(|&point| Circle::new(point, 3, color.filled())))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 9, y), 4, color.filled()));
    }
    labels(&mut chart, SeriesLabelPosition::LowerRight)?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_drawn() {
        let mut text = String::new();
        draw(&vec![(0.1, 0.2), (1.0, 0.9)], &vec![(0.1, 2.0)], &mut text).unwrap();
        assert!(text.contains("gold") && text.contains("score") && text.matches("<circle").count() >= 3);
        let mut text = String::new();
        draw(&Points::new(), &Points::new(), &mut text).unwrap();
        assert!(!text.contains("gold"));
        for value in [0.0, 1e15 + 0.125, 1e30, 1e300, f64::MAX, f64::NEG_INFINITY, f64::NAN] {
            let mut text = String::new();
            draw(&vec![(1.0, value), (1e15, 1.0)], &vec![(1.0, value)], &mut text).unwrap();
            assert!(!text.contains("NaN") && !text.contains("inf") && text.len() < 40_000, "{value}: {text}");
        }
    }
}

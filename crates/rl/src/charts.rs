//! Reward against the distance from the reference, as a picture: over-optimization is where gold falls while the score rises
//! (Gao et al. 2022, fig. 1).

use anyhow::Result;
use gptkit_plot::scale::is_drawn;
use gptkit_plot::{Axis, LineChart, Look, Names, Series};
use gptkit_train::metrics::records;
use std::path::Path;

/// √KL and mean reward of each iteration.
type RewardsByKl = Vec<(f64, f64)>;

/// What the run in `folder` recorded: the reward model's score, and the truth behind it where it is known, over the square
/// root of the KL divergence.
///
/// # Errors
/// When it recorded nothing.
pub(crate) fn reward_over_kl(folder: &Path) -> Result<String> {
    let (mut score, mut gold) = (RewardsByKl::new(), RewardsByKl::new());
    for record in records(folder)? {
        let figure = |name: &str| record.figures.get(name).copied();
        let Some(kl) = figure("objective/kl").filter(|kl| is_drawn(*kl)) else { continue };
        let x = kl.max(0.0).sqrt();
        score.extend(figure("objective/score").map(|y| (x, y)));
        gold.extend(figure("objective/gold").map(|y| (x, y)));
    }
    Ok(draw(score, gold))
}

fn draw(score: RewardsByKl, gold: RewardsByKl) -> String {
    let series = [("reward model score", 0, score), ("gold", 1, gold)].map(|(name, style, points)| Series {
        name: name.to_owned(),
        style,
        look: Look::Points,
        points,
        ..Series::default()
    });
    let chart = LineChart {
        label: "reward by KL divergence from the reference model".to_owned(),
        x: Axis {
            includes: vec![0.0, 0.1],
            ..Axis::linear("√KL divergence from the reference model (nats per answer)")
        },
        y: Axis::linear("mean over the answers of an iteration"),
        series: series.to_vec(),
        names: Names::Legend,
        size: (720.0, 480.0),
        ..LineChart::default()
    };
    chart.svg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_drawn() {
        let text = draw(vec![(0.1, 0.2), (1.0, 0.9)], vec![(0.1, 2.0)]);
        assert!(text.contains(">gold<") && text.contains("score<") && text.matches("<circle").count() >= 3);
        assert!(!draw(Vec::new(), Vec::new()).contains(">gold<"));
        for value in [0.0, 1e15 + 0.125, 1e30, 1e300, f64::MAX, f64::NEG_INFINITY, f64::NAN] {
            let text = draw(vec![(1.0, value), (1e15, 1.0)], vec![(1.0, value)]);
            assert!(!text.contains("NaN") && !text.contains("inf") && text.len() < 40_000, "{value}: {text}");
        }
    }
}

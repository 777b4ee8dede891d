//! Reports as pictures.

use crate::report::{RankedPrompt, RewardReport};
use gptkit_plot::scale::{axis, is_drawn};
use gptkit_plot::{Axis, Extent, LineChart, Look, Names, Series};

const SIZE: (f64, f64) = (640.0, 480.0);
/// Columns of a histogram.
const COLUMNS: usize = 40;
/// Number of a gray of the style sheet.
const GRAY: usize = 5;

/// How often the preferred completion is the better, over how sure the model is: on the diagonal when calibrated.
pub(crate) fn calibration(report: &RewardReport) -> String {
    let bins = || {
        report.calibration.iter().filter(|bin| {
            let share = bin.accuracy;
            [bin.predicted, share.low, share.value, share.high].into_iter().all(is_drawn)
        })
    };
    let diagonal = Series {
        name: "calibrated".to_owned(),
        style: GRAY,
        points: vec![(0.5, 0.5), (1.0, 1.0)],
        ..Series::default()
    };
    let measured = Series {
        name: "measured (95% interval)".to_owned(),
        look: Look::Points,
        points: bins().map(|bin| (bin.predicted, bin.accuracy.value)).collect(),
        extent: Extent::Intervals(bins().map(|bin| (bin.predicted, bin.accuracy.low, bin.accuracy.high)).collect()),
        ..Series::default()
    };
    let chart = LineChart {
        label: "calibration of the reward model".to_owned(),
        x: Axis::linear("predicted probability that the preferred completion is better"),
        y: Axis::linear("share of comparisons in which labelers prefer it"),
        series: vec![diagonal, measured],
        names: Names::Legend,
        size: SIZE,
        ..LineChart::default()
    };
    chart.svg()
}

/// Rewards of the better and of the worse completions, as histograms.
pub(crate) fn rewards(judged: &[RankedPrompt]) -> String {
    let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
    for one in judged {
        for (w, l) in gptkit_data::comparison::pairs(&one.places) {
            chosen.extend([f64::from(one.rewards[w])].into_iter().filter(|r| is_drawn(*r)));
            rejected.extend([f64::from(one.rewards[l])].into_iter().filter(|r| is_drawn(*r)));
        }
    }
    let ends = axis(chosen.iter().chain(&rejected).copied());
    let (low, width) = (*ends.start(), (ends.end() - ends.start()) / COLUMNS as f64);
    let histogram = |name: &str, style: usize, rewards: &[f64]| {
        let mut shares = [0.0; COLUMNS];
        for reward in rewards {
            shares[(((reward - low) / width) as usize).min(COLUMNS - 1)] += 1.0 / rewards.len() as f64;
        }
        let points = shares.into_iter().enumerate().map(|(i, share)| (low + width * i as f64, share)).collect();
        Series { name: name.to_owned(), style, look: Look::Columns(width), points, ..Series::default() }
    };
    let chart = LineChart {
        label: "rewards of chosen and rejected completions".to_owned(),
        x: Axis::linear("reward"),
        y: Axis { includes: vec![0.0, 0.1], ..Axis::linear("share of pairs") },
        series: vec![histogram("rejected", 1, &rejected), histogram("chosen", 0, &chosen)],
        names: Names::Legend,
        size: SIZE,
        ..LineChart::default()
    };
    chart.svg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_rewards_are_drawn_in_few_bytes() {
        let all = [0.0, 1.0, 1.0 + f32::EPSILON, -3.0, 1e-40, 1e20, f32::MAX, f32::MIN, f32::INFINITY, f32::NAN];
        let judged = |rewards: [f32; 2]| RankedPrompt {
            places: vec![1, 2],
            rewards: rewards.to_vec(),
            lengths: vec![1, 1],
            gold: None,
        };
        assert!(rewards(&[]).contains("reward"));
        for a in all {
            for b in all {
                let text = rewards(&[judged([a, b]), judged([b, b])]);
                assert!(!text.contains("NaN") && !text.contains("inf") && text.len() < 60_000, "{a} {b}: {text}");
            }
        }
    }
}

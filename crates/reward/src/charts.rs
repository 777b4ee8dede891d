//! Reports as pictures.

use crate::report::{RankedPrompt, RewardReport};
use anyhow::{Result, anyhow};
use gptkit_train::curves::{Drawn, axis, axis_label, is_drawn, labels};
use plotters::prelude::*;

const SIZE: (u32, u32) = (640, 480);
/// Colors that differ in brightness too.
const CHOSEN: RGBColor = RGBColor(31, 95, 191);
const REJECTED: RGBColor = RGBColor(226, 154, 38);
const BARS: usize = 40;

/// How often the preferred completion is the better, over how sure the model is: on the diagonal when calibrated.
///
/// # Errors
/// When nothing can be drawn.
pub(crate) fn calibration(report: &RewardReport) -> Result<String> {
    let mut text = String::new();
    draw_calibration(report, &mut text).map_err(|e| anyhow!("the calibration cannot be drawn: {e}"))?;
    Ok(text)
}

/// Rewards of the better and of the worse completions, as histograms.
///
/// # Errors
/// When nothing can be drawn.
pub(crate) fn rewards(judged: &[RankedPrompt]) -> Result<String> {
    let mut text = String::new();
    draw_rewards(judged, &mut text).map_err(|e| anyhow!("the rewards cannot be drawn: {e}"))?;
    Ok(text)
}

fn draw_calibration(report: &RewardReport, text: &mut String) -> Drawn<()> {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let bins = report.calibration.iter().filter(|bin| {
        let share = bin.accuracy;
        [bin.predicted, share.low, share.value, share.high].into_iter().all(is_drawn)
    });
    let least = bins.clone().map(|bin| bin.accuracy.low).fold(0.5, f64::min);
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.5..1.0, (least - 0.02).max(0.0)..1.02)?;
    chart
        .configure_mesh()
        .x_desc("probability that the model gives what it prefers")
        .y_desc("how often labelers prefer it")
        .label_style(("sans-serif", 14))
        .draw()?;
    chart
        .draw_series(LineSeries::new([(0.5, 0.5), (1.0, 1.0)], BLACK.mix(0.4)))?
        .label("calibrated")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK.mix(0.4)));
    for bin in bins.clone() {
        let (x, share) = (bin.predicted, bin.accuracy);
        chart.draw_series([PathElement::new([(x, share.low), (x, share.high)], CHOSEN)])?;
    }
    let dots = bins.map(|bin| Circle::new((bin.predicted, bin.accuracy.value), 4, CHOSEN.filled()));
    chart.draw_series(dots)?.label("measured, 95%").legend(|(x, y)| Circle::new((x + 9, y), 4, CHOSEN.filled()));
    labels(&mut chart, SeriesLabelPosition::UpperLeft)?;
    area.present()?;
    Ok(())
}

fn draw_rewards(judged: &[RankedPrompt], text: &mut String) -> Drawn<()> {
    let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
    for one in judged {
        for (w, l) in gptkit_data::comparison::pairs(&one.places) {
            chosen.extend([f64::from(one.rewards[w])].into_iter().filter(|r| is_drawn(*r)));
            rejected.extend([f64::from(one.rewards[l])].into_iter().filter(|r| is_drawn(*r)));
        }
    }
    let across = axis(chosen.iter().chain(&rejected).copied());
    let (low, wide) = (across.start, (across.end - across.start) / BARS as f64);
    let shares = |rewards: &[f64]| {
        let mut bars = [0.0; BARS];
        rewards.iter().for_each(|r| bars[(((r - low) / wide) as usize).min(BARS - 1)] += 1.0 / rewards.len() as f64);
        bars
    };
    let (chosen, rejected) = (shares(&chosen), shares(&rejected));
    let highest = chosen.iter().chain(&rejected).copied().fold(0.0, f64::max);
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(across, 0.0..(highest * 1.1).max(0.1))?;
    let label = |x: &f64| axis_label(*x);
    chart
        .configure_mesh()
        .x_desc("reward")
        .x_label_formatter(&label)
        .y_desc("share of the pairs")
        .label_style(("sans-serif", 14))
        .draw()?;
    for (bars, color, name) in [(&rejected, REJECTED, "rejected"), (&chosen, CHOSEN, "chosen")] {
        let bar = |(i, &share): (usize, &f64)| {
            let from = low + wide * i as f64;
            Rectangle::new([(from, 0.0), (from + wide, share)], color.mix(0.5).filled())
        };
        chart
            .draw_series(bars.iter().enumerate().filter(|(_, share)| **share > 0.0).map(bar))?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], color.mix(0.5).filled()));
    }
    labels(&mut chart, SeriesLabelPosition::UpperLeft)?;
    area.present()?;
    Ok(())
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
        assert!(rewards(&[]).unwrap().contains("reward"));
        for a in all {
            for b in all {
                let text = rewards(&[judged([a, b]), judged([b, b])]).unwrap();
                assert!(!text.contains("NaN") && !text.contains("inf") && text.len() < 60_000, "{a} {b}: {text}");
            }
        }
    }
}

//! Loss and learning rate over tokens as pictures.

use crate::metrics::{METRICS, records};
use anyhow::{Result, ensure};
use gptkit_data::printable::printable_line;
use gptkit_plot::{Axis, LineChart, Look, Names, Series, stacked};
use std::path::Path;

/// What a run measured, as points over tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    /// The run's.
    pub name: String,
    /// Training loss, nats a token.
    pub train_loss: Vec<(f64, f64)>,
    /// Validation loss, nats a token.
    pub val_loss: Vec<(f64, f64)>,
    /// Learning rate.
    pub learning_rate: Vec<(f64, f64)>,
}

impl Curves {
    /// Reads what the run in `folder` recorded.
    ///
    /// # Errors
    /// When its `metrics.jsonl` cannot be read, or records no step.
    pub fn read(folder: &Path) -> Result<Self> {
        let recorded = records(folder)?;
        let absolute = folder.canonicalize()?;
        let name = printable_line(&absolute.file_name().unwrap_or_default().to_string_lossy()).into_owned();
        let mut curves = Self { name, train_loss: Vec::new(), val_loss: Vec::new(), learning_rate: Vec::new() };
        for record in recorded {
            let x = record.tokens as f64;
            curves.train_loss.push((x, record.train_loss));
            curves.val_loss.extend(record.val_loss.map(|loss| (x, loss)));
            curves.learning_rate.push((x, record.learning_rate));
        }
        ensure!(!curves.train_loss.is_empty(), "{} contains no training steps yet", folder.join(METRICS).display());
        Ok(curves)
    }
}

/// The curves of a run in its folder, the last file that it writes.
pub const CURVES: &str = "curves.svg";

/// Draws the curves of the run in `folder` into [`CURVES`].
///
/// # Errors
/// When its records cannot be read, or the file cannot be written.
pub fn draw(folder: &Path) -> Result<()> {
    let svg = svg(&[Curves::read(folder)?]);
    gptkit_data::disk::write(&folder.join(CURVES), svg.as_bytes())
}

/// The curves of several runs in one picture: losses above (validation as dots), learning rates below.
pub fn svg(runs: &[Curves]) -> String {
    let last = runs.iter().filter_map(|run| run.train_loss.last()).map(|point| point.0).fold(1.0, f64::max);
    let tokens = || Axis { includes: vec![0.0, last], ..Axis::linear("tokens") };
    let name = |run: &Curves, curve: &str| match runs {
        [_] => curve.to_owned(),
        _ => format!("{}, {curve}", run.name),
    };
    let losses = runs.iter().enumerate().flat_map(|(style, run)| {
        let training = Series {
            name: name(run, "training"),
            style,
            opacity: 0.6,
            points: run.train_loss.clone(),
            ..Series::default()
        };
        let validation = Series {
            name: name(run, "validation"),
            style,
            look: Look::Points,
            points: run.val_loss.clone(),
            ..Series::default()
        };
        [training, validation]
    });
    let losses = LineChart {
        x: tokens(),
        y: Axis::linear("loss (nats per token)"),
        series: losses.collect(),
        names: Names::Legend,
        size: (WIDTH, 430.0),
        ..LineChart::default()
    };
    let rates = runs.iter().enumerate().map(|(style, run)| Series {
        style,
        points: run.learning_rate.clone(),
        ..Series::default()
    });
    let rates = LineChart {
        x: tokens(),
        y: Axis { includes: vec![0.0], ..Axis::linear("learning rate") },
        series: rates.collect(),
        names: Names::Legend,
        size: (WIDTH, 210.0),
        ..LineChart::default()
    };
    stacked("loss and learning rate by tokens", &[losses, rates])
}

/// Width of the picture, in its units.
const WIDTH: f64 = 900.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn curves(name: &str, n: u64) -> Curves {
        let points = |f: fn(f64) -> f64| (1..=n).map(|i| (i as f64 * 100.0, f(i as f64))).collect::<Vec<_>>();
        Curves {
            name: name.to_owned(),
            train_loss: points(|i| 4.0 / i.sqrt()),
            val_loss: points(|i| 4.1 / i.sqrt()).into_iter().step_by(10).collect(),
            learning_rate: points(|i| 1e-3 / i),
        }
    }

    #[test]
    fn several_runs_are_drawn_and_named() {
        let text = svg(&[curves("one", 40), curves("two", 5000)]);
        for word in ["one, training", "two, validation", "loss (nats per token)", "learning rate", "400k"] {
            assert!(text.contains(word), "{word}");
        }
        assert!(text.len() < 300_000, "{} bytes", text.len());
    }

    #[test]
    fn a_run_of_one_step_or_of_no_number_is_drawn() {
        let mut odd = curves("odd", 1);
        assert!(svg(std::slice::from_ref(&odd)).contains("<circle"), "a line through a point would not be seen");
        odd.train_loss = vec![(100.0, f64::NAN), (200.0, f64::INFINITY)];
        odd.val_loss = vec![(100.0, f64::NAN)];
        assert!(!svg(&[odd]).contains("NaN"));
    }

    #[test]
    fn any_values_are_drawn_in_few_bytes() {
        let all = [0.0, 1.0 + f64::EPSILON, -3.5, 5e-324, 1e15 + 0.125, -1e30, f64::MAX, f64::INFINITY, f64::NAN];
        for a in all {
            for b in all {
                let points = vec![(100.0, a), (200.0, b), (1.8e19, a)];
                let odd = Curves {
                    name: "odd".to_owned(),
                    train_loss: points.clone(),
                    val_loss: points.clone(),
                    learning_rate: points,
                };
                let text = svg(&[odd]);
                assert!(!text.contains("NaN") && !text.contains("inf") && text.len() < 40_000, "{a} {b}: {text}");
            }
        }
    }
}

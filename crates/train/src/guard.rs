//! Protection of the weights from losses and gradients that are not finite, and from loss spikes.

use crate::config::{OnSpike, TrainConfig};
use crate::objective::Update;
use crate::schedule::Step;
use anyhow::{Result, ensure};
use gptkit_data::progress::Progress;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::Path;

/// Memory of the last losses; part of a run's state, since it decides which updates are made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// The newest finite losses, newest last; at most `train.spike_window`.
    recent: VecDeque<f64>,
    /// Steps since the last one whose loss and gradient were finite.
    not_finite_in_a_row: u32,
}

/// Steps in a row without a finite loss and gradient after which training ends: a batch may be bad, five are not.
const NOT_FINITE_AT_MOST: u32 = 5;

impl Guard {
    /// Steps since the last one whose loss and gradient were finite.
    pub(crate) fn not_finite_in_a_row(&self) -> u32 {
        self.not_finite_in_a_row
    }

    /// Takes the loss of the next batch. Returns how many standard deviations it lies above the mean of the window before
    /// it, if that is over `train.spike_z`. Until the window is full there is no spike.
    pub(crate) fn spike(&mut self, loss: f64, config: &TrainConfig) -> Option<f64> {
        if !loss.is_finite() {
            return None;
        }
        let n = self.recent.len();
        let mean = self.recent.iter().sum::<f64>() / n as f64;
        let variance = self.recent.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / n as f64;
        // It counts among the next ones' window, skipped or not: a loss that stays high is the new level.
        self.recent.push_back(loss);
        if n < config.spike_window {
            return None;
        }
        self.recent.pop_front();
        let z = (loss - mean) / variance.sqrt().max(f64::MIN_POSITIVE);
        (z > config.spike_z).then_some(z)
    }

    /// Warns of an update whose loss or gradient is not finite, and of a spike.
    ///
    /// # Errors
    /// When loss or gradient were not finite once too often in a row.
    pub(crate) fn check<M>(
        &mut self,
        update: &Update<M>,
        step: &Step,
        config: &TrainConfig,
        run: &Path,
        progress: &dyn Progress,
    ) -> Result<()> {
        if !update.is_finite() {
            self.not_finite_in_a_row += 1;
            let found =
                format!("step {}: the loss is {} and the gradient norm {}", step.number, update.loss, update.grad_norm);
            ensure!(
                self.not_finite_in_a_row < NOT_FINITE_AT_MOST,
                "{found}; this is the {NOT_FINITE_AT_MOST}th non-finite update in a row; lower train.lr (now {:.1e}) \
                 or set train.clip. The checkpoints in {} are from before",
                step.lr,
                run.join("checkpoints").display()
            );
            progress.warn(&format!("{found}; the update was skipped"));
            return Ok(());
        }
        self.not_finite_in_a_row = 0;
        if let Some(spike) = spike_message(update, "loss", config) {
            progress.warn(&format!("step {}: {spike}", step.number));
        }
        Ok(())
    }
}

/// The warning about `update` if its loss, named `loss`, was a spike.
pub fn spike_message<M>(update: &Update<M>, loss: &str, config: &TrainConfig) -> Option<String> {
    let z = update.spike?;
    let done = match config.on_spike {
        OnSpike::Report => "set train.on_spike = \"skip\" to skip such updates",
        OnSpike::Skip => "the update was skipped",
    };
    Some(format!(
        "the {loss} jumped to {:.3}, {z:.1} standard deviations above the mean of the last {}; {done}",
        update.loss, config.spike_window
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainConfig {
        let json =
            serde_json::json!({ "length": "1 step", "batch_size": 1, "lr": 1.0, "spike_window": 4, "spike_z": 3.0 });
        serde_json::from_value(json).unwrap()
    }

    fn spikes(losses: &[f64]) -> Vec<Option<f64>> {
        let mut guard = Guard::default();
        losses.iter().map(|&loss| guard.spike(loss, &config())).collect()
    }

    #[test]
    fn a_leap_over_the_window_is_a_spike() {
        // Mean 2, standard deviation 1: 4.9 is 2.9 of them above, 5.1 is 3.1.
        assert_eq!(spikes(&[1.0, 3.0, 1.0, 3.0, 4.9]), [None; 5]);
        let z = spikes(&[1.0, 3.0, 1.0, 3.0, 5.1])[4].unwrap();
        assert!((z - 3.1).abs() < 1e-9, "{z}");
    }

    #[test]
    fn falls_short_windows_and_what_is_no_number_are_none() {
        assert_eq!(spikes(&[1.0, 3.0, 1.0, 90.0]), [None; 4]);
        assert_eq!(spikes(&[1.0, 3.0, 1.0, 3.0, -90.0]), [None; 5]);
        assert_eq!(spikes(&[1.0, 3.0, 1.0, 3.0, f64::NAN, 2.0]), [None; 6]);
    }

    #[test]
    fn a_loss_that_stays_high_is_the_new_level() {
        let found = spikes(&[1.0, 3.0, 1.0, 3.0, 90.0, 90.0, 90.0]);
        assert!(found[4].is_some() && found[5..].iter().all(Option::is_none), "{found:?}");
    }
}

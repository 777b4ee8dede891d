//! The state of a run between two steps, as each checkpoint stores it.

use crate::config::TrainConfig;
use crate::guard::Guard;
use crate::objective::Validation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How far a run is and what decides its next steps; `state.json` of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps of the schedule that are done.
    pub step: u64,
    /// Steps of the whole schedule.
    pub n_steps: u64,
    /// Whether nothing is left to do: the schedule or patience is at its end.
    pub finished: bool,
    /// Updates of the optimizer.
    pub n_updates: u64,
    /// Validation loss of the best weights and the step it was measured after.
    pub best: Option<(f64, u64)>,
    /// The figure by which they were chosen, see [`Validation::chosen_by`].
    pub best_by: Option<f64>,
    /// Their further figures, see [`Validation::scores`].
    #[serde(default)]
    pub best_scores: BTreeMap<String, f64>,
    /// Step whose weights are the run's outcome so far: the best ones, or the newest without a validation part.
    #[serde(default)]
    pub saved: Option<u64>,
    /// Validations since the last improvement.
    pub without_gain: u32,
    /// Previous losses, by which the next one is a spike or not.
    pub guard: Guard,
    /// Seconds of training, over all processes that trained the run.
    pub elapsed_s: f64,
    /// The data that it is trained on.
    #[serde(rename = "text")]
    pub data: DataSeen,
}

impl State {
    /// Records a validation and returns whether its weights are the best so far. Without a validation set the newest weights
    /// are, if the last update `was_finite`.
    pub(crate) fn record_validation(&mut self, validation: Option<&Validation>, was_finite: bool) -> bool {
        let best = match validation.and_then(|validation| validation.chosen_by) {
            Some(chosen_by) => self.improves(chosen_by),
            None => was_finite,
        };
        if best {
            self.saved = Some(self.step);
            if let Some(Validation { loss: Some(loss), scores, .. }) = validation {
                self.best = Some((*loss, self.step));
                self.best_scores = scores.clone();
            }
        }
        best
    }

    /// Records the figure by which weights are chosen (the lowest is the best) and returns whether it is the best so far.
    pub fn improves(&mut self, chosen_by: f64) -> bool {
        let best = chosen_by < self.best_by.unwrap_or(f64::INFINITY);
        if best {
            self.best_by = Some(chosen_by);
        }
        self.without_gain = if best { 0 } else { self.without_gain + 1 };
        best
    }

    /// Whether `train.patience` is at its end.
    pub fn out_of_patience(&self, config: &TrainConfig) -> bool {
        config.patience.is_some_and(|patience| self.without_gain >= patience)
    }

    /// Whether nothing is left to do: the schedule or `train.patience` is at its end. A run goes on when one of them was made
    /// longer since.
    pub fn is_over(&self, config: &TrainConfig) -> bool {
        self.step >= self.n_steps || self.out_of_patience(config)
    }
}

/// The prepared data of a run when it began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataSeen {
    /// Absolute path of the shards, or of the run's own folder where that holds the encoded records.
    #[serde(rename = "shards")]
    pub folder: PathBuf,
    /// Fingerprint of the training part.
    pub fingerprint: String,
}

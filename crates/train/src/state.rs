//! The state of a run between two steps, as each checkpoint stores it.

use crate::config::TrainConfig;
use crate::guard::Guard;
use crate::objective::{LOSS, Validation};
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
    /// Its name, see [`Validation::criterion`]; empty before the first validation, and in checkpoints of earlier versions.
    #[serde(default)]
    pub criterion: String,
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
        let best = match validation {
            Some(Validation { chosen_by: Some(chosen_by), criterion, .. }) => self.improves(*chosen_by, criterion),
            _ => was_finite,
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

    /// Records the figure by which weights are chosen (the lowest is the best), whose name is `criterion`, and returns whether
    /// it is the best so far.
    pub fn improves(&mut self, chosen_by: f64, criterion: &str) -> bool {
        criterion.clone_into(&mut self.criterion);
        let best = chosen_by < self.best_by.unwrap_or(f64::INFINITY);
        if best {
            self.best_by = Some(chosen_by);
        }
        self.without_gain = if best { 0 } else { self.without_gain + 1 };
        best
    }

    /// The best validation so far; none without one.
    pub fn best_validation(&self) -> Option<BestValidation> {
        let loss = self.best.map(|(loss, _)| loss);
        // Checkpoints of earlier versions do not name the criterion.
        let (criterion, value) = match self.criterion.as_str() {
            "" | LOSS => (LOSS, loss?),
            name => (name, self.best_scores.get(name).copied().or(self.best_by.map(|best| -best))?),
        };
        Some(BestValidation { criterion: criterion.to_owned(), value, loss, step: self.best.map(|(_, step)| step) })
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

/// The validation of the weights that a run keeps. In PPO, which keeps the newest weights, the one of the highest reward.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BestValidation {
    /// What the weights are chosen by: `loss`, or the name of a score of which the highest is the best.
    pub criterion: String,
    /// Its value.
    pub value: f64,
    /// Validation loss of the same weights, which need not be the lowest of the run where a score chooses them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The step whose weights they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_validation_is_that_of_the_kept_weights_and_names_its_criterion() {
        let mut state = State::default();
        assert_eq!(state.best_validation(), None);
        for (step, loss, accuracy) in [(10, 0.6964, 0.80), (20, 0.7263, 0.85), (30, 0.7, 0.84)] {
            let scores = BTreeMap::from([("accuracy".to_owned(), accuracy)]);
            let validation = Validation { loss: Some(loss), scores, chosen_by: Some(-accuracy), criterion: "accuracy" };
            state.step = step;
            state.record_validation(Some(&validation), true);
        }
        let best = state.best_validation().unwrap();
        assert_eq!(
            (best.criterion.as_str(), best.value, best.loss, best.step),
            ("accuracy", 0.85, Some(0.7263), Some(20))
        );
        let mut state = State::default();
        state.record_validation(Some(&Validation::new(1.5, BTreeMap::new())), true);
        let best = state.best_validation().unwrap();
        assert_eq!((best.criterion.as_str(), best.value, best.loss), ("loss", 1.5, Some(1.5)));
        let mut ppo = State::default();
        ppo.improves(-2.5, "reward");
        let best = ppo.best_validation().unwrap();
        assert_eq!((best.criterion.as_str(), best.value, best.loss, best.step), ("reward", 2.5, None, None));
        let earlier = State { best: Some((0.7, 3)), best_by: Some(-0.9), ..State::default() };
        assert_eq!(earlier.best_validation().unwrap().criterion, "loss", "its file does not name the criterion");
    }
}

//! One update: loss → gradients → clipping → AdamW or Muon.

use crate::checkpoint;
use crate::config::{OnSpike, Recompute, TrainConfig};
use crate::guard::Guard;
use crate::objective::{BatchSums, Objective, Update};
use crate::optimizer::Optimizer;
use crate::schedule::Step;
use anyhow::{Context, Result};
use gptkit_data::progress::Progress;
use gptkit_model::{Pass, Weights};
use std::path::Path;

/// A model in training: an objective, its weights and the optimizer.
pub struct Trainer<O> {
    objective: O,
    weights: Weights,
    optimizer: Optimizer,
    config: TrainConfig,
    seed: u64,
    /// Recent losses, which decide whether the next one is a spike.
    pub guard: Guard,
}

impl<O: Objective> Trainer<O> {
    /// Trains `weights`, which must be those of the model in `objective`; dropout is drawn from `seed`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn new(objective: O, weights: impl Into<Weights>, config: &TrainConfig, seed: u64) -> Result<Self> {
        let weights = weights.into();
        if let Some((_, parameter)) = weights.params().iter().next() {
            config.dtype.apply(parameter.var().device()).context("train.dtype")?;
        }
        let optimizer = Optimizer::new(weights.trained(), config.optimizer)?;
        Ok(Self { objective, optimizer, weights, config: config.clone(), seed, guard: Guard::default() })
    }

    /// The weights, which each update changes in place.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The weights, to change them outside of an update.
    pub fn weights_mut(&mut self) -> &mut Weights {
        &mut self.weights
    }

    /// The objective.
    pub fn objective(&self) -> &O {
        &self.objective
    }

    /// Updates made so far.
    pub fn n_updates(&self) -> u64 {
        self.optimizer.n_updates()
    }

    /// Writes the optimizer's moments to the file `path`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_moments(&self, path: &Path) -> Result<()> {
        checkpoint::save_moments(path, &self.optimizer)
    }

    /// Reads the optimizer's moments from the file `path`, which was written after `n_updates` updates.
    ///
    /// # Errors
    /// When they do not fit the model.
    pub fn restore_moments(&mut self, path: &Path, n_updates: u64) -> Result<()> {
        checkpoint::restore_moments(path, &mut self.optimizer, n_updates)
    }

    /// The forward pass of the micro-batch that begins with row number `first_row` of the run.
    pub fn pass(&self, first_row: u64) -> Pass {
        pass(&self.config, self.seed, first_row)
    }

    /// One update from `batch`, whose first row is row number `first_row` of the run, with learning rate `lr`. The weights stay
    /// as they are when the loss or the gradient is not finite, or when the loss is a spike and `train.on_spike` is "skip".
    ///
    /// # Errors
    /// When the batch does not fit the model, or memory does not suffice.
    pub fn step(&mut self, batch: &O::Batch, first_row: u64, lr: f64) -> Result<Update<O::Metrics>> {
        let (n_rows, micro) = (self.objective.rows(batch), self.config.micro_batch());
        let (mut loss, mut metrics) = (0.0, O::Metrics::default());
        let mut update = self.weights.begin_update();
        for first in (0..n_rows).step_by(micro) {
            let pass = pass(&self.config, self.seed, first_row + first as u64);
            let micro_loss = update.backward(|| {
                let (loss, of_rows) = self.objective.loss(batch, first..(first + micro).min(n_rows), pass)?;
                metrics.add(of_rows);
                anyhow::Ok(loss)
            })?;
            loss += f64::from(micro_loss.to_scalar::<f32>()?);
        }
        let spike = self.guard.spike(loss, &self.config);
        let skip = !loss.is_finite() || (spike.is_some() && self.config.on_spike == OnSpike::Skip);
        let grad_norm = update.apply(|_| match skip {
            false => Ok(self.optimizer.update(lr, &self.config)?),
            true => Ok(self.optimizer.gradient_norm()?),
        })?;
        Ok(Update { loss, grad_norm, spike, made: !skip && grad_norm.is_finite(), metrics })
    }

    /// Warns `progress` when `update` of `step` was not finite or a spike.
    ///
    /// # Errors
    /// When loss or gradient were not finite too often in a row; the message names the checkpoints in the folder `run`.
    pub fn check(
        &mut self,
        update: &Update<O::Metrics>,
        step: &Step,
        run: &Path,
        progress: &dyn Progress,
    ) -> Result<()> {
        self.guard.check(update, step, &self.config, run, progress)
    }
}

fn pass(config: &TrainConfig, seed: u64, first_row: u64) -> Pass {
    Pass::Train { seed, first_row, recompute: config.recompute == Recompute::Blocks }
}

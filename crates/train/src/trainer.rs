//! One update: loss → gradients → clipping → AdamW or Muon.

use crate::checkpoint;
use crate::config::{OnSpike, Recompute, TrainConfig};
use crate::gradient_sums::PartSums;
use crate::guard::Guard;
use crate::objective::{BatchSums, Objective, Update, Validate, Validation};
use crate::optimizer::Optimizer;
use crate::schedule::Step;
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use gptkit_data::progress::Progress;
use gptkit_model::{Pass, Weights};
use gptkit_ranks::Ranks;
use std::path::Path;

/// A model in training: an objective, its weights and the optimizer.
pub struct Trainer<O> {
    objective: O,
    weights: Weights,
    optimizer: Optimizer,
    config: TrainConfig,
    seed: u64,
    ranks: Ranks,
    /// Moments of all ranks, from [`Trainer::gather`] until they are written.
    moments: Vec<(String, Tensor)>,
    /// Recent losses, which decide whether the next one is a spike.
    pub guard: Guard,
}

impl<O: Objective> Trainer<O> {
    /// Trains `weights`, which must be those of the model in `objective`, on `ranks`, which share out each batch; dropout is
    /// drawn from `seed`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn new(
        objective: O,
        weights: impl Into<Weights>,
        config: &TrainConfig,
        seed: u64,
        ranks: &Ranks,
    ) -> Result<Self> {
        let weights = weights.into();
        if let Some((_, parameter)) = weights.params().iter().next() {
            let device = parameter.var().device();
            config.dtype.apply(device).context("train.dtype")?;
            ensure!(
                config.shards() == 1 || !device.is_metal(),
                "train.shards and ranks do not work on Apple GPUs; use --device cpu"
            );
        }
        let optimizer = Optimizer::new(weights.trained(), config, ranks)?;
        Ok(Self {
            objective,
            optimizer,
            weights,
            config: config.clone(),
            seed,
            ranks: ranks.clone(),
            moments: Vec::new(),
            guard: Guard::default(),
        })
    }

    /// The weights, which each update changes in place.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The weights, to change them outside of an update.
    pub fn weights_mut(&mut self) -> &mut Weights {
        &mut self.weights
    }

    /// The processes that train together.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// The objective.
    pub fn objective(&self) -> &O {
        &self.objective
    }

    /// Updates made so far.
    pub fn n_updates(&self) -> u64 {
        self.optimizer.n_updates()
    }

    /// Has the first rank gather the optimizer's moments, which [`Trainer::save_moments`] writes. Every rank must call it.
    ///
    /// # Errors
    /// When a rank has ended or does not answer.
    pub fn gather(&mut self) -> Result<()> {
        self.moments = self.optimizer.moments()?;
        Ok(())
    }

    /// Writes the moments that [`Trainer::gather`] gathered to the file `path`, and frees them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_moments(&mut self, path: &Path) -> Result<()> {
        checkpoint::save_moments(path, &std::mem::take(&mut self.moments))
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
        let (n_rows, n_parts, n_ranks) = (self.objective.rows(batch), self.config.shards(), self.ranks.size());
        let micro = self.config.micro_batch_of(n_rows).max(1);
        let firsts: Vec<usize> = (0..n_rows).step_by(micro).collect();
        let part = |number: usize| number * firsts.len() / n_parts;
        let (mut losses, mut metrics, mut sums) = (Vec::new(), Vec::new(), PartSums::default());
        let mut update = self.weights.begin_update();
        let own = self.ranks.rank() * n_parts / n_ranks..(self.ranks.rank() + 1) * n_parts / n_ranks;
        let exchange = self.optimizer.exchange();
        for number in own.clone() {
            let mut of_part = O::Metrics::default();
            let mut backward = |first: usize| {
                let pass = pass(&self.config, self.seed, first_row + first as u64);
                let loss = update.backward(|| {
                    let (loss, of_rows) = self.objective.loss(batch, first..(first + micro).min(n_rows), pass)?;
                    of_part.add(of_rows);
                    anyhow::Ok(loss)
                })?;
                anyhow::Ok(f64::from(loss.to_scalar::<f32>()?))
            };
            let (micro_batches, is_last) = (&firsts[part(number)..part(number + 1)], number + 1 == own.end);
            // During the last one of a rank the gradients of all ranks are added.
            let (before, last) = micro_batches.split_at(micro_batches.len().saturating_sub(is_last.into()));
            let mut loss = before.iter().try_fold(0.0, |sum, &first| anyhow::Ok(sum + backward(first)?))?;
            if is_last {
                let last = || last.iter().map(|&first| backward(first)).sum::<Result<f64>>();
                loss += exchange.sum_gradients(std::mem::take(&mut sums), last)?;
            } else {
                sums.add(exchange.parameters())?;
            }
            losses.push(loss);
            metrics.push(of_part);
        }
        let loss: f64 = self.ranks.gather(&losses)?.iter().flatten().sum();
        let metrics = all_sums(metrics, &self.ranks)?;
        let spike = self.guard.spike(loss, &self.config);
        let skip = !loss.is_finite() || (spike.is_some() && self.config.on_spike == OnSpike::Skip);
        let grad_norm = update.apply(|_| match skip {
            false => Ok(self.optimizer.update(lr, &self.config)?),
            true => Ok(self.optimizer.gradient_norm()?),
        })?;
        Ok(Update { loss, grad_norm, spike, made: !skip && grad_norm.is_finite(), metrics })
    }

    /// Validates the model on `batches`, which the ranks share out.
    ///
    /// # Errors
    /// As [`Validate::validate`].
    pub fn validate(&self, batches: &[O::Batch]) -> Result<Validation>
    where
        O: Validate,
    {
        self.objective.validate(batches, &self.ranks)
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

/// The sum of what all ranks have as `own`, in the order of the ranks.
fn all_sums<M: BatchSums>(own: Vec<M>, ranks: &Ranks) -> Result<M> {
    let numbers: Vec<f64> = own.iter().flat_map(|sums| sums.numbers()).collect();
    let width = M::default().numbers().len();
    let mut sum = M::default();
    let all = ranks.gather(&numbers)?.concat();
    all.chunks_exact(width.max(1)).for_each(|numbers| sum.add(M::of_numbers(numbers)));
    Ok(sum)
}

fn pass(config: &TrainConfig, seed: u64, first_row: u64) -> Pass {
    Pass::Train { seed, first_row, recompute: config.recompute == Recompute::Blocks }
}

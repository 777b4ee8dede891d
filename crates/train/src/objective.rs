//! The objective of a stage: the loss of its batches, and the validation of a model on held-out batches.

use anyhow::Result;
use candle_core::Tensor;
use gptkit_model::{Gpt, Pass};
use gptkit_ranks::Ranks;
use std::collections::BTreeMap;
use std::ops::Range;

/// A loss over batches.
pub trait Objective {
    /// The examples of one update.
    type Batch;
    /// Further figures of an update, summed over its micro-batches; `()` where there are none.
    type Metrics: BatchSums;

    /// Number of rows in a batch; micro-batches are ranges of rows.
    fn rows(&self, batch: &Self::Batch) -> usize;

    /// The contribution of `rows` to the loss of a batch, a scalar in nats, and to its metrics. The contributions of all rows
    /// add up to the loss of the batch. The scalar must be differentiated without scaling it when `pass` trains.
    ///
    /// # Errors
    /// When the batch does not fit the model, or memory does not suffice.
    fn loss(&self, batch: &Self::Batch, rows: Range<usize>, pass: Pass) -> Result<(Tensor, Self::Metrics)>;
}

/// Sums over the micro-batches of an update.
pub trait BatchSums: Default {
    /// Adds the sums of another micro-batch.
    fn add(&mut self, other: Self);

    /// The sums as numbers, always as many, for other ranks.
    fn numbers(&self) -> Vec<f64>;

    /// The sums that [`BatchSums::numbers`] gave.
    fn of_numbers(numbers: &[f64]) -> Self;
}

impl BatchSums for () {
    fn add(&mut self, (): ()) {}

    fn numbers(&self) -> Vec<f64> {
        Vec::new()
    }

    fn of_numbers(_: &[f64]) -> Self {}
}

/// The result of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update<M = ()> {
    /// Loss of the batch, nats.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// How many standard deviations the loss lies above the previous ones, if that makes it a spike.
    pub spike: Option<f64>,
    /// Whether the weights were changed.
    pub made: bool,
    /// Sums over the batch.
    pub metrics: M,
}

impl<M> Update<M> {
    /// Whether loss and gradient are finite.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// An objective with a validation, as [`crate::learner::Supervised`] needs it.
pub trait Validate: Objective {
    /// Tokens of a batch that the model reads, for the rate in tokens per second.
    fn n_tokens(&self, batch: &Self::Batch) -> u64;

    /// The model's results for a held-out batch, without dropout: the numbers that [`Validate::conclude`] needs of it, so that
    /// ranks can share out the batches.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn outputs(&self, batch: &Self::Batch) -> Result<Vec<f32>>;

    /// The validation of `batches`, from the [outputs](Validate::outputs) of each.
    ///
    /// # Errors
    /// When there is nothing to measure.
    fn conclude(&self, batches: &[Self::Batch], outputs: &[Vec<f32>]) -> Result<Validation>;

    /// Validates the model on `batches`, each of which one of `ranks` reads.
    ///
    /// # Errors
    /// As [`Validate::outputs`] and [`Validate::conclude`], or when a rank has ended or does not answer.
    fn validate(&self, batches: &[Self::Batch], ranks: &Ranks) -> Result<Validation> {
        self.conclude(batches, &ranks.share_out(batches.len(), |i| self.outputs(&batches[i]))?)
    }

    /// The language model, where the objective trains one that writes text.
    fn writer(&self) -> Option<&Gpt> {
        None
    }
}

/// The result of a validation.
#[derive(Debug, Clone, PartialEq)]
pub struct Validation {
    /// Mean loss, nats; none for PPO.
    pub loss: Option<f64>,
    /// Further figures by name.
    pub scores: BTreeMap<String, f64>,
    /// The figure that decides which weights are the best (the lowest) and when patience ends; none where there was nothing
    /// to measure it on.
    pub chosen_by: Option<f64>,
    /// The name of that figure: [`LOSS`], or that of a score whose negative it is.
    pub criterion: &'static str,
}

/// The criterion of stages that keep the weights of the lowest validation loss.
pub const LOSS: &str = "loss";

impl Validation {
    /// A validation that chooses the weights of the lowest loss.
    pub fn new(loss: f64, scores: BTreeMap<String, f64>) -> Self {
        Self { loss: Some(loss), scores, chosen_by: Some(loss), criterion: LOSS }
    }
}

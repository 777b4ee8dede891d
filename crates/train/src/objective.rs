//! What a stage trains for: its batches, their loss, and how good a model is on batches held out.

use anyhow::{Result, bail};
use candle_core::Tensor;
use data::batch::{Batch, IGNORE};
use model::{Gpt, Input, Pass, Predictor};
use ops::Sequences;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What an update is made from, and how its loss is found.
pub trait Objective {
    /// What an update is made from.
    type Batch;

    /// Rows of a batch, of which micro-batches are made.
    fn rows(&self, batch: &Self::Batch) -> usize;

    /// The part of a batch's loss that `rows` make, nats: the parts of a batch add up to its loss. To be differentiated as
    /// it is, when `pass` trains.
    ///
    /// # Errors
    /// When the batch does not fit the model, or memory does not suffice.
    fn loss(&self, batch: &Self::Batch, rows: Range<usize>, pass: Pass) -> Result<Tensor>;
}

/// What the loop in [`mod@crate::fit`] must know of a stage besides.
pub trait Validate: Objective {
    /// Tokens that the model reads of a batch, for the rate.
    fn n_tokens(&self, batch: &Self::Batch) -> u64;

    /// How good the model is on `batches`, without dropout.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn validate(&self, batches: &[Self::Batch]) -> Result<Validation>;
}

/// What a validation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Validation {
    /// Mean loss, nats.
    pub loss: f64,
    /// Further figures by name.
    pub scores: BTreeMap<String, f64>,
    /// What the best weights are chosen by: the lowest.
    pub chosen_by: f64,
}

/// Prediction of each next token, or of those that [`crate::masked`] asks for: mean loss over the targets that count.
#[derive(Debug)]
pub struct LanguageModeling<M = Gpt>(pub M);

impl<M: Predictor> Objective for LanguageModeling<M> {
    type Batch = Batch;

    fn rows(&self, batch: &Batch) -> usize {
        batch.rows
    }

    fn loss(&self, batch: &Batch, rows: Range<usize>, pass: Pass) -> Result<Tensor> {
        self.weighted(batch, rows, pass, 1.0)
    }
}

impl<M: Predictor> LanguageModeling<M> {
    /// `coef` times the part of a batch's loss that `rows` make, as [`Objective::loss`] is.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    pub fn weighted(&self, batch: &Batch, rows: Range<usize>, pass: Pass, coef: f64) -> Result<Tensor> {
        // A micro-batch weighs as much as it has targets, so that the mean is the whole batch's.
        let range = rows.start * batch.context..rows.end * batch.context;
        let weight = counted(&batch.targets[range]) as f64 / counted(&batch.targets).max(1) as f64;
        let (input, targets) = tensors(batch, rows, &self.0)?;
        Ok(self.0.loss(&input, &targets, pass, coef * weight)?)
    }
}

impl<M: Predictor> Validate for LanguageModeling<M> {
    fn n_tokens(&self, batch: &Batch) -> u64 {
        batch.tokens.len() as u64
    }

    fn validate(&self, batches: &[Batch]) -> Result<Validation> {
        let (mut sum, mut n) = (0.0, 0);
        for batch in batches {
            let here = counted(&batch.targets);
            let loss = self.loss(batch, 0..batch.rows, Pass::Eval)?.to_scalar::<f32>()?;
            sum += f64::from(loss) * here as f64;
            n += here;
        }
        let loss = sum / n.max(1) as f64;
        Ok(Validation { loss, scores: BTreeMap::new(), chosen_by: loss })
    }
}

/// Targets that count in the loss.
fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|&&t| t != IGNORE).count()
}

/// `rows` of a batch, as input and targets of `model`, `[rows, T]` each.
fn tensors(batch: &Batch, rows: Range<usize>, model: &impl Predictor) -> Result<(Input, Tensor)> {
    let range = rows.start * batch.context..rows.end * batch.context;
    check_tokens(&batch.tokens[range.clone()], model)?;
    let tensor = |ids: &[u32]| Tensor::from_slice(&ids[range.clone()], (rows.len(), batch.context), model.device());
    let starts = batch.starts[rows.clone()].iter().map(Vec::as_slice);
    let sequences = Arc::new(Sequences::packed(batch.context, starts)?);
    Ok((Input { tokens: tensor(&batch.tokens)?, sequences }, tensor(&batch.targets)?))
}

/// Whether the vocabulary of `model` has all of `tokens`.
///
/// # Errors
/// When it has not.
pub fn check_tokens(tokens: &[u32], model: &impl Predictor) -> Result<()> {
    let entries = model.config().vocab_size;
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= entries) {
        bail!(
            "the text has token {id}, and the vocabulary {entries} entries: it is damaged; run `gptkit prepare` again"
        );
    }
    Ok(())
}

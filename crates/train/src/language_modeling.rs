//! The objective of language models: the loss of each next token, or of masked ones.

use crate::objective::{Objective, Validate, Validation};
use anyhow::{Result, bail};
use candle_core::Tensor;
use gptkit_data::batch::{Batch, IGNORE};
use gptkit_model::{Gpt, Input, Pass};
use gptkit_ops::Sequences;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Prediction of each next token, or of the tokens that [`crate::masked`] masks: mean loss over the targets that count.
#[derive(Debug)]
pub struct LanguageModeling {
    /// The language model.
    pub model: Gpt,
}

impl Objective for LanguageModeling {
    type Batch = Batch;
    type Metrics = ();

    fn rows(&self, batch: &Batch) -> usize {
        batch.rows
    }

    fn loss(&self, batch: &Batch, rows: Range<usize>, pass: Pass) -> Result<(Tensor, ())> {
        Ok((self.weighted(batch, rows, pass, 1.0)?, ()))
    }
}

impl LanguageModeling {
    /// `coef` times the contribution of `rows` to the loss of a batch, see [`Objective::loss`].
    ///
    /// # Errors
    /// As [`Objective::loss`].
    pub fn weighted(&self, batch: &Batch, rows: Range<usize>, pass: Pass, coef: f64) -> Result<Tensor> {
        // A micro-batch weighs as much as it has targets, so that the mean is the whole batch's.
        let range = rows.start * batch.context..rows.end * batch.context;
        let weight = counted(&batch.targets[range]) as f64 / counted(&batch.targets).max(1) as f64;
        let (input, targets) = tensors(batch, rows, &self.model)?;
        Ok(self.model.loss(&input, &targets, pass, coef * weight)?)
    }
}

impl Validate for LanguageModeling {
    fn n_tokens(&self, batch: &Batch) -> u64 {
        batch.tokens.len() as u64
    }

    /// The mean loss over the targets.
    fn outputs(&self, batch: &Batch) -> Result<Vec<f32>> {
        Ok(vec![self.weighted(batch, 0..batch.rows, Pass::Eval, 1.0)?.to_scalar()?])
    }

    fn conclude(&self, batches: &[Batch], outputs: &[Vec<f32>]) -> Result<Validation> {
        Ok(Validation::new(mean_loss(batches, outputs), BTreeMap::new()))
    }
}

/// Mean loss over the targets of `batches`, nats a token, from the losses of each.
pub fn mean_loss<'a>(batches: impl IntoIterator<Item = &'a Batch>, losses: &[Vec<f32>]) -> f64 {
    let (mut sum, mut n) = (0.0, 0);
    for (batch, loss) in batches.into_iter().zip(losses) {
        let here = counted(&batch.targets);
        sum += loss.iter().map(|&loss| f64::from(loss)).sum::<f64>() * here as f64;
        n += here;
    }
    sum / n.max(1) as f64
}

/// Language modeling of a mixture of sources: the validation loss is the mean of the sources' losses by their weights in the
/// mixture, however much validation text each has.
#[derive(Debug)]
pub struct Mixture {
    objective: LanguageModeling,
    sources: Vec<HeldOutSource>,
}

/// A source of the validation batches, which come source by source.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOutSource {
    /// Its path.
    pub name: String,
    /// Its share, relative to the others'.
    pub weight: f64,
    /// How many batches it has.
    pub n_batches: usize,
}

impl Mixture {
    /// The validation batches of `sources` follow each other in this order.
    pub fn new(model: Gpt, sources: Vec<HeldOutSource>) -> Self {
        Self { objective: LanguageModeling { model }, sources }
    }
}

impl Objective for Mixture {
    type Batch = Batch;
    type Metrics = ();

    fn rows(&self, batch: &Batch) -> usize {
        self.objective.rows(batch)
    }

    fn loss(&self, batch: &Batch, rows: Range<usize>, pass: Pass) -> Result<(Tensor, ())> {
        self.objective.loss(batch, rows, pass)
    }
}

impl Validate for Mixture {
    fn n_tokens(&self, batch: &Batch) -> u64 {
        self.objective.n_tokens(batch)
    }

    fn outputs(&self, batch: &Batch) -> Result<Vec<f32>> {
        self.objective.outputs(batch)
    }

    /// The loss of each source is a separate score if there are several.
    fn conclude(&self, batches: &[Batch], outputs: &[Vec<f32>]) -> Result<Validation> {
        let mut left = (batches, outputs);
        let mut losses = Vec::new();
        for source in &self.sources {
            let n = source.n_batches.min(left.0.len());
            let ((own, batches), (own_outputs, outputs)) = (left.0.split_at(n), left.1.split_at(n));
            left = (batches, outputs);
            losses.push((source, mean_loss(own, own_outputs)));
        }
        let loss = weighted_mean(losses.iter().map(|(source, loss)| (source.weight, *loss)));
        let scores = match losses.len() {
            0 | 1 => BTreeMap::new(),
            _ => losses.into_iter().map(|(source, loss)| (format!("{SOURCE_LOSS}{}", source.name), loss)).collect(),
        };
        Ok(Validation::new(loss, scores))
    }

    /// None for a masked language model.
    fn writer(&self) -> Option<&Gpt> {
        let model = &self.objective.model;
        model.config().must_write().is_ok().then_some(model)
    }
}

/// What the name of a source's validation loss begins with among the scores.
pub const SOURCE_LOSS: &str = "loss/";

/// The mean of values, each with its weight.
fn weighted_mean(values: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (weights, sum) = values.fold((0.0, 0.0), |(weights, sum), (weight, x)| (weights + weight, sum + weight * x));
    sum / weights
}

/// Targets that count in the loss.
fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|&&t| t != IGNORE).count()
}

/// `rows` of a batch, as input and targets of `model`, `[rows, T]` each.
fn tensors(batch: &Batch, rows: Range<usize>, model: &Gpt) -> Result<(Input, Tensor)> {
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
pub fn check_tokens(tokens: &[u32], model: &Gpt) -> Result<()> {
    let entries = model.config().vocab_size;
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= entries) {
        bail!(
            "the text contains token id {id}, but the vocabulary has {entries} entries: the text is damaged; run \
             `gptkit prepare` again"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use gptkit_model::{ModelConfig, Params};
    use gptkit_ranks::ALONE;

    #[test]
    fn a_mixture_is_validated_by_its_weights_and_by_source() {
        let shape = serde_json::json!({
            "kind": "gpt2", "n_layer": 1, "n_head": 1, "d_model": 8, "context": 4, "vocab_size": 7,
        });
        let shape: ModelConfig = serde_json::from_value(shape).unwrap();
        let params = Params::init(&shape, 1, &Device::Cpu).unwrap();
        for (name, parameter) in params.iter() {
            if name.ends_with("wte.weight") {
                parameter.set(&(parameter.tensor(false) * 30.0).unwrap()).unwrap(); // losses that differ
            }
        }
        let model = || Gpt::reader(&shape, &params, gptkit_ops::Precision::F32).unwrap();
        let batch = |token: u32, rows: usize| Batch::windows(4, vec![token; 4 * rows], vec![(token + 1) % 7; 4 * rows]);
        // Three batches of the first source, one of the second.
        let batches = [batch(1, 2), batch(1, 2), batch(2, 1), batch(5, 1)];
        let alone = |range: Range<usize>| {
            LanguageModeling { model: model() }.validate(&batches[range], &ALONE).unwrap().loss.unwrap()
        };
        let (a, b) = (alone(0..3), alone(3..4));
        assert!((a - b).abs() > 0.1, "{a} {b}");
        let source = |name: &str, weight, n_batches| HeldOutSource { name: name.to_owned(), weight, n_batches };
        let mixture = Mixture::new(model(), vec![source("a", 1.0, 3), source("b", 3.0, 1)]);
        let found = mixture.validate(&batches, &ALONE).unwrap();
        assert!((found.loss.unwrap() - (0.25 * a + 0.75 * b)).abs() < 1e-9, "{found:?}");
        assert_eq!(found.chosen_by, found.loss);
        assert_eq!(found.scores, BTreeMap::from([("loss/a".to_owned(), a), ("loss/b".to_owned(), b)]));
        let one = Mixture::new(model(), vec![source("a", 1.0, 4)]).validate(&batches, &ALONE).unwrap();
        assert_eq!((one.loss, one.scores.len()), (Some(alone(0..4)), 0));
    }
}

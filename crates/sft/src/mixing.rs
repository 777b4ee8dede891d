//! The loss of demonstrations and of the pretraining text that is mixed in.

use crate::dialogues::DemonstrationBatch;
use anyhow::Result;
use candle_core::Tensor;
use gptkit_data::batch::Batch;
use gptkit_model::{Gpt, Pass};
use gptkit_train::language_modeling::{LanguageModeling, mean_loss};
use gptkit_train::objective::{Objective, Validate, Validation};
use std::collections::BTreeMap;
use std::ops::Range;

/// (1 − share) · the mean loss over the trained tokens of the demonstrations + share · the mean loss over the tokens of the
/// text, nats. Without text, the first mean alone.
#[derive(Debug)]
pub struct Mixing {
    pub(crate) language: LanguageModeling,
    /// The text's share of the loss, from 0 to 1.
    pub(crate) share: f64,
}

/// Dropout masks belong to rows. Those of the text are counted from here, so that no demonstration has the same.
const TEXT_ROWS: u64 = 1 << 32;

impl Mixing {
    /// The language model.
    pub(crate) fn gpt(&self) -> &Gpt {
        &self.language.model
    }
}

impl Objective for Mixing {
    type Batch = DemonstrationBatch;
    type Metrics = ();

    fn rows(&self, batch: &DemonstrationBatch) -> usize {
        batch.dialogues.rows
    }

    fn loss(&self, batch: &DemonstrationBatch, rows: Range<usize>, pass: Pass) -> Result<(Tensor, ())> {
        let DemonstrationBatch { dialogues, text: Some(text) } = batch else {
            return self.language.loss(&batch.dialogues, rows, pass);
        };
        // Each micro-batch takes its part of the text.
        let part = |row: usize| row * text.rows / dialogues.rows.max(1);
        let texts = part(rows.start)..part(rows.end);
        let beside = match pass {
            Pass::Train { seed, first_row, recompute } => {
                let first_row = TEXT_ROWS + first_row - rows.start as u64 + texts.start as u64;
                Pass::Train { seed, first_row, recompute }
            }
            Pass::Eval => pass,
        };
        let loss = self.language.weighted(dialogues, rows, pass, 1.0 - self.share)?;
        if texts.is_empty() {
            return Ok((loss, ()));
        }
        Ok(((loss + self.language.weighted(text, texts, beside, self.share)?)?, ()))
    }
}

impl Validate for Mixing {
    fn n_tokens(&self, batch: &DemonstrationBatch) -> u64 {
        let tokens = |batch: &Batch| batch.tokens.len() as u64;
        tokens(&batch.dialogues) + batch.text.as_ref().map_or(0, tokens)
    }

    /// Of the demonstrations alone.
    fn outputs(&self, batch: &DemonstrationBatch) -> Result<Vec<f32>> {
        self.language.outputs(&batch.dialogues)
    }

    fn conclude(&self, batches: &[DemonstrationBatch], outputs: &[Vec<f32>]) -> Result<Validation> {
        let loss = mean_loss(batches.iter().map(|batch| &batch.dialogues), outputs);
        Ok(Validation::new(loss, BTreeMap::new()))
    }

    fn writer(&self) -> Option<&Gpt> {
        Some(&self.language.model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use gptkit_data::batch::IGNORE;
    use gptkit_model::{Gpt, ModelConfig, Params};
    use gptkit_ops::Precision;

    fn mixing(share: f64) -> Mixing {
        let shape = serde_json::json!({
            "kind": "gpt2", "n_layer": 2, "n_head": 2, "d_model": 8, "context": 12, "vocab_size": 17,
            "embedding_dropout": 0.2, "attention_dropout": 0.2, "residual_dropout": 0.2,
        });
        let config: ModelConfig = serde_json::from_value(shape).unwrap();
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        let model = Gpt::new(&config, &params, Precision::F32).unwrap();
        Mixing { language: LanguageModeling { model }, share }
    }

    fn windows(rows: u32, context: u32, trained: bool) -> Batch {
        let token = |i: u32| (i * 7 + i / 5) % 17;
        let n = rows * context;
        let target = |i: u32| if trained || i.is_multiple_of(4) { token(i + 1) } else { IGNORE };
        Batch::windows(context as usize, (0..n).map(token).collect(), (0..n).map(target).collect())
    }

    fn batch() -> DemonstrationBatch {
        DemonstrationBatch { dialogues: windows(4, 6, false), text: Some(windows(3, 12, true)) }
    }

    fn value(loss: Result<(Tensor, ())>) -> f64 {
        f64::from(loss.unwrap().0.to_scalar::<f32>().unwrap())
    }

    /// However many tokens each has: here 6 of the demonstrations are trained on, and 36 of the text.
    #[test]
    fn the_loss_is_shared_as_the_configuration_says() {
        let (mixing, batch) = (mixing(0.1), batch());
        let mean = |batch: &Batch| value(mixing.language.loss(batch, 0..batch.rows, Pass::Eval));
        let expected = 0.9 * mean(&batch.dialogues) + 0.1 * mean(batch.text.as_ref().unwrap());
        assert!((value(mixing.loss(&batch, 0..4, Pass::Eval)) - expected).abs() < 1e-5);
        let alone = DemonstrationBatch { text: None, ..batch.clone() };
        assert!((value(mixing.loss(&alone, 0..4, Pass::Eval)) - mean(&batch.dialogues)).abs() < 1e-6);
    }

    #[test]
    fn micro_batches_add_up_to_the_loss_of_the_batch_with_dropout() {
        let (mixing, batch) = (mixing(0.3), batch());
        let pass = |first_row: u64| Pass::Train { seed: 1, first_row: 40 + first_row, recompute: false };
        let whole = value(mixing.loss(&batch, 0..4, pass(0)));
        for micro in [1, 2, 3] {
            let part = |first: usize| value(mixing.loss(&batch, first..(first + micro).min(4), pass(first as u64)));
            let parts: f64 = (0..4).step_by(micro).map(part).sum();
            assert!((whole - parts).abs() < 1e-5, "{micro}: {whole}, in parts {parts}");
        }
        assert!((whole - value(mixing.loss(&batch, 0..4, Pass::Eval))).abs() > 1e-4, "dropout acts");
    }
}

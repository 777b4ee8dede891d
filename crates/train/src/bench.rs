//! Cases for `gptkit bench` to time: a training step, reading a prompt, decoding. Text and weights are made up; only the
//! sizes matter.

use crate::config::TrainConfig;
use crate::language_modeling::LanguageModeling;
use crate::plan::Flops;
use crate::trainer::Trainer;
use anyhow::Result;
use candle_core::{Device, Tensor};
use gptkit_data::batch::Batch;
use gptkit_data::progress::{Progress, Unit};
use gptkit_model::{Gpt, Input, ModelConfig, Params, Pass, predictor};
use std::time::{Duration, Instant};

/// The time that one case takes.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseTime {
    /// Name of the case.
    pub case: &'static str,
    /// Rows of its batch.
    pub batch: usize,
    /// Tokens of each row.
    pub seq: usize,
    /// Median seconds of a run.
    pub seconds: f64,
    /// Tokens of a run.
    pub tokens: usize,
    /// Floating-point operations of a run; 0 where they are not counted.
    pub flops: f64,
}

/// A case is measured for at least this long …
const MIN_TIME: Duration = Duration::from_secs(2);
/// … and at least this often.
pub const MIN_RUNS: usize = 5;
/// Longest prompt that is continued, in tokens.
const PROMPT: usize = 32;

/// Median seconds of `run`, which is called until both minimums are reached. The first call, in which memory is taken from
/// the system, does not count.
///
/// # Errors
/// The first of `run`.
pub fn median_seconds(name: &str, progress: &dyn Progress, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let task = progress.task(name, None, Unit::Items);
    run()?;
    let (begun, mut seconds) = (Instant::now(), Vec::new());
    while begun.elapsed() < MIN_TIME || seconds.len() < MIN_RUNS {
        let one = Instant::now();
        run()?;
        seconds.push(one.elapsed().as_secs_f64());
        task.advance(1);
    }
    Ok(median(seconds))
}

/// The upper of the two values in the middle where there are two; `values` must not be empty.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One training step on a batch of `train.batch_size` windows of `seq` tokens.
///
/// # Errors
/// When memory does not suffice.
pub fn train_step(
    model: &ModelConfig,
    train: &TrainConfig,
    seq: usize,
    device: &Device,
    progress: &dyn Progress,
) -> Result<CaseTime> {
    let (case, batch) = ("train_step", train.batch_size);
    let params = Params::init(model, 1, device)?;
    let objective = LanguageModeling { model: predictor(model, &params, train.dtype.precision())? };
    let mut trainer = Trainer::new(objective, params, train, 1)?;
    let ids = |shift: usize| (0..batch * seq).map(|i| ((i * 7919 + shift) % model.vocab_size) as u32).collect();
    let windows = Batch::windows(seq, ids(0), ids(7919));
    let seconds = median_seconds(case, progress, || trainer.step(&windows, 0, train.lr).map(|_| ()))?;
    let shape = ModelConfig { context: seq, ..model.clone() };
    let flops = Flops::of(&shape, train).total() * (batch * seq) as f64;
    Ok(CaseTime { case, batch, seq, seconds, tokens: batch * seq, flops })
}

/// Floating-point operations of the forward pass of a token, of which training takes three times as many.
fn forward_flops(gpt: &Gpt, train: &TrainConfig) -> f64 {
    Flops::of(gpt.config(), train).total() / 3.0
}

/// The forward pass without the head over `batch` prompts of `seq` tokens.
///
/// # Errors
/// When memory does not suffice.
pub fn prompt(gpt: &Gpt, train: &TrainConfig, batch: usize, seq: usize, progress: &dyn Progress) -> Result<CaseTime> {
    let (case, config) = ("prompt", gpt.config());
    let ids = Input::windows(&ids(batch, seq, gpt)?)?;
    let seconds = median_seconds(case, progress, || Ok(gpt.hidden(&ids, Pass::Eval).map(|_| ())?))?;
    let head = 2.0 * (config.vocab_size * config.d_model) as f64;
    let flops = (forward_flops(gpt, train) - head) * (batch * seq) as f64;
    Ok(CaseTime { case, batch, seq, seconds, tokens: batch * seq, flops })
}

/// The next token of each of `rows` texts, of at most `seq` tokens, from the cache.
///
/// # Errors
/// When memory does not suffice.
pub fn decode(gpt: &Gpt, train: &TrainConfig, rows: usize, seq: usize, progress: &dyn Progress) -> Result<CaseTime> {
    let case = "decode";
    let (prompt, one) = (ids(rows, PROMPT.min(seq / 2), gpt)?, ids(rows, 1, gpt)?);
    let (prompt, one) = (Input::windows(&prompt)?, Input::windows(&one)?);
    let mut cache = gpt.cache();
    gpt.next_logits(&prompt, &mut cache)?;
    let seconds = median_seconds(case, progress, || {
        if cache.lens()[0] == gpt.config().context {
            cache = gpt.cache();
            gpt.next_logits(&prompt, &mut cache)?;
        }
        Ok(gpt.next_logits(&one, &mut cache).map(|_| ())?)
    })?;
    let flops = forward_flops(gpt, train) * rows as f64;
    Ok(CaseTime { case, batch: rows, seq: 1, seconds, tokens: rows, flops })
}

/// `[rows, len]`.
fn ids(rows: usize, len: usize, gpt: &Gpt) -> Result<Tensor> {
    let ids: Vec<u32> = (0..rows * len).map(|i| (i * 7919 % gpt.config().vocab_size) as u32).collect();
    Ok(Tensor::from_vec(ids, (rows, len), gpt.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!([median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0, 3.0, 2.0])], [2.0, 3.0]);
    }
}

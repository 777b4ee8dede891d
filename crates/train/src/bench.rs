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
use gptkit_model::{Gpt, Input, ModelConfig, Params, Pass};
use gptkit_ranks::ALONE;
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

/// Time of one of two training steps that are measured alternately.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnTime {
    /// By the clock.
    pub elapsed: CaseTime,
    /// Median processor time of a run, all threads together, seconds: what other processes do does not count.
    pub cpu_seconds: f64,
}

/// A case is measured for at least this long …
const MIN_TIME: Duration = Duration::from_secs(2);
/// … and at least this often.
pub const MIN_RUNS: usize = 5;
/// Fewest turns of each of two models.
const MIN_TURNS: usize = 15;
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
    let mut step = TrainStep::new(model, train, seq, device)?;
    let seconds = median_seconds(TRAIN_STEP, progress, || step.run())?;
    Ok(step.time(seconds))
}

/// A training step of each of two models, alternately, so that both meet the same load of the machine.
///
/// # Errors
/// When memory does not suffice.
pub fn train_steps_by_turns(
    models: [(&ModelConfig, &TrainConfig); 2],
    seq: usize,
    device: &Device,
    progress: &dyn Progress,
) -> Result<[TurnTime; 2]> {
    let [one, other] = models.map(|(model, train)| TrainStep::new(model, train, seq, device));
    let mut steps = [one?, other?];
    let task = progress.task(TRAIN_STEP, None, Unit::Items);
    steps.iter_mut().try_for_each(TrainStep::run)?;
    let (begun, mut elapsed, mut cpu) = (Instant::now(), [Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    while begun.elapsed() < 2 * MIN_TIME || elapsed[0].len() < MIN_TURNS {
        for (n, step) in steps.iter_mut().enumerate() {
            let (before, cpu_before) = (Instant::now(), cpu_time());
            step.run()?;
            elapsed[n].push(before.elapsed().as_secs_f64());
            cpu[n].push(cpu_time() - cpu_before);
        }
        task.advance(1);
    }
    let [first, second] = steps.each_ref();
    let ([elapsed, other_elapsed], [cpu, other_cpu]) = (elapsed.map(median), cpu.map(median));
    Ok([
        TurnTime { elapsed: first.time(elapsed), cpu_seconds: cpu },
        TurnTime { elapsed: second.time(other_elapsed), cpu_seconds: other_cpu },
    ])
}

/// Seconds that all threads of this process have computed.
fn cpu_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

const TRAIN_STEP: &str = "train_step";

/// A training step that can be repeated.
struct TrainStep {
    trainer: Trainer<LanguageModeling>,
    windows: Batch,
    lr: f64,
    flops: f64,
}

impl TrainStep {
    fn new(model: &ModelConfig, train: &TrainConfig, seq: usize, device: &Device) -> Result<Self> {
        let batch = train.batch_size;
        let params = Params::init(model, 1, device)?;
        let objective = LanguageModeling { model: Gpt::reader(model, &params, train.dtype.precision())? };
        let ids = |shift: usize| (0..batch * seq).map(|i| ((i * 7919 + shift) % model.vocab_size) as u32).collect();
        let shape = ModelConfig { context: seq, ..model.clone() };
        Ok(Self {
            trainer: Trainer::new(objective, params, train, 1, &ALONE)?,
            windows: Batch::windows(seq, ids(0), ids(7919)),
            lr: train.lr,
            flops: Flops::of(&shape, train).total() * (batch * seq) as f64,
        })
    }

    fn run(&mut self) -> Result<()> {
        self.trainer.step(&self.windows, 0, self.lr).map(drop)
    }

    fn time(&self, seconds: f64) -> CaseTime {
        let (batch, seq) = (self.windows.rows, self.windows.context);
        CaseTime { case: TRAIN_STEP, batch, seq, seconds, tokens: batch * seq, flops: self.flops }
    }
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

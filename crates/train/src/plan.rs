//! Memory, work and time of a run before any of it is spent.

use crate::config::{Recompute, TrainConfig};
use crate::language_modeling::LanguageModeling;
use crate::machine;
use crate::memory::{Memory, Place, matrices};
use crate::schedule::Schedule;
use crate::trainer::Trainer;
use anyhow::{Result, ensure};
use candle_core::Device;
use gptkit_data::batch::Batch;
use gptkit_data::format::{estimated_duration, needed_bytes};
use gptkit_data::progress::grouped;
use gptkit_model::{Dtype, Gpt, Kind, ModelConfig, Params};
use gptkit_ranks::ALONE;
use std::time::Instant;

/// What a run will take.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingPlan {
    /// At the peak of a step.
    pub memory: Memory,
    /// Work of training on one token.
    pub flops: Flops,
    /// Tokens predicted in the whole run.
    pub n_tokens: u64,
    /// Updates of the whole run.
    pub n_steps: u64,
    /// Tokens that validations read.
    pub n_validation_tokens: u64,
}

/// Floating-point operations for one token, forward and backward, a multiplication and an addition being two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flops {
    /// Six for each weight that is multiplied with (Kaplan et al. 2020, §2.1).
    pub weights: f64,
    /// Scores and mixed values.
    pub attention: f64,
    /// What `train.recompute` does again.
    pub recomputed: f64,
}

impl Flops {
    /// All parts.
    pub fn total(&self) -> f64 {
        self.weights + self.attention + self.recomputed
    }

    /// Of `model` in a run with `train`, at windows of its whole context.
    pub fn of(model: &ModelConfig, train: &TrainConfig) -> Self {
        let (d, blocks) = (model.d_model as f64, matrices(model));
        let seen = |layer| {
            let visible = |position| model.mask(layer).visible(position);
            let n: usize = (0..model.context).map(visible).map(|keys| keys.end.min(model.context) - keys.start).sum();
            if model.kind == Kind::Lstm { 0.0 } else { n as f64 / model.context as f64 }
        };
        // Forward two products of D for each token seen, backward twice that.
        // Layers alternate between two kinds at most.
        let attention = 12.0 * d * (model.n_layer.div_ceil(2) as f64 * seen(0) + (model.n_layer / 2) as f64 * seen(1));
        Self {
            weights: 6.0 * (blocks + model.vocab_size as f64 * d),
            attention,
            recomputed: match train.recompute {
                Recompute::Blocks if model.kind != Kind::Lstm => 2.0 * blocks + attention / 3.0,
                _ => 0.0,
            },
        }
    }
}

impl TrainingPlan {
    /// The plan of a run of `train` at `place` on `model`, whose vocabulary is known, and on text with `rows_per_epoch` windows.
    pub fn new(model: &ModelConfig, train: &TrainConfig, rows_per_epoch: u64, place: Place) -> Self {
        let schedule = Schedule::new(train, model.context, rows_per_epoch);
        let n_steps = schedule.n_steps();
        let validation = (train.eval_windows * model.context) as u64;
        Self {
            memory: Memory::of(model, train, place),
            flops: Flops::of(model, train),
            n_tokens: schedule.n_tokens(),
            n_steps,
            n_validation_tokens: n_steps.div_ceil(train.eval_every()) * validation,
        }
    }

    /// Work of the whole run. Validation goes forward only.
    pub fn total_flops(&self) -> f64 {
        let forward = (self.flops.weights + self.flops.attention) / 3.0;
        self.flops.total() * self.n_tokens as f64 + forward * self.n_validation_tokens as f64
    }
}

/// Estimate of a run.
#[derive(Debug, Clone, Copy)]
pub struct RunEstimate {
    /// Updates of the whole run.
    pub n_steps: u64,
    /// Passes over the data.
    pub epochs: f64,
    /// Bytes at the peak of a step.
    pub memory: u64,
    /// Floating-point operations of the whole run, if they are known before it.
    pub flops: Option<f64>,
}

/// Share of the processor's peak that training reaches at best.
const HIGHEST_EFFICIENCY: f64 = 0.5;

impl RunEstimate {
    /// All of it in a line; of a run of an hour or more, the least time as well, from the processor's peak, which is measured
    /// in some milliseconds. `gptkit plan` measures steps.
    pub fn describe(&self, dtype: Dtype, device: &Device) -> String {
        let Self { n_steps, epochs, memory, flops } = *self;
        let epochs = if epochs < 10.0 { format!("{epochs:.1}") } else { grouped(epochs.round() as u64) };
        let mut text = format!("{} steps · {epochs} epochs", grouped(n_steps));
        if device.is_cpu() {
            text += &format!(" · about {} of memory", needed_bytes(memory));
            let peak = || gptkit_ops::bench::rough_peak(dtype.precision());
            let seconds = flops.map(|flops| flops / (HIGHEST_EFFICIENCY * peak()));
            // Small models reach a fraction of it, and their first steps show the time at once.
            if let Some(seconds) = seconds.filter(|&seconds| seconds >= 3600.0) {
                text += &format!(" · at least {}", estimated_duration(seconds));
            }
        }
        text
    }
}

/// The settings, as `--set` takes them, with which a step of `train` on `model` fits into `limit` bytes of `place` at the least
/// cost: a smaller micro-batch costs little, recomputed blocks a third more time. `None` when no settings fit.
pub fn settings_that_fit(
    model: &ModelConfig,
    train: &TrainConfig,
    (limit, place): (u64, Place),
) -> Option<Vec<String>> {
    let batch = train.batch_size;
    let micros: Vec<usize> = (1..=train.micro_batch()).rev().filter(|&m| batch.is_multiple_of(m)).collect();
    for recompute in [train.recompute, Recompute::Blocks] {
        for &micro in &micros {
            let smaller = TrainConfig { micro_batch: Some(micro), recompute, ..train.clone() };
            if Memory::of(model, &smaller, place).total() <= limit {
                let mut set = vec![format!("train.micro_batch={micro}")];
                if recompute != train.recompute {
                    set.push("train.recompute=blocks".to_owned());
                }
                return Some(set);
            }
        }
    }
    None
}

/// Refuses a run that takes more than twice the memory of this machine, before anything is allocated. `needed`: bytes.
///
/// # Errors
/// When it does, on the CPU.
pub fn must_fit(needed: u64, device: &Device) -> Result<()> {
    let here = machine::memory();
    ensure!(
        !device.is_cpu() || needed / 2 <= here,
        "training needs about {:.1} GB of memory, but this machine has {:.1} GB; use a smaller model, context or \
         train.micro_batch",
        needed as f64 / 1e9,
        here as f64 / 1e9
    );
    Ok(())
}

/// How fast a device trains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingSpeed {
    /// Seconds of work on one token.
    pub s_per_token: f64,
    /// Whether a narrower model stood in for one that is too large to be tried, at equal operations a second.
    pub by_stand_in: bool,
}

/// Operations of one measured step at most: some seconds on a slow processor.
const MEASURED_FLOPS: f64 = 4e11;

/// Measures a few steps of `train`: of the model `config` itself where they take seconds, else of its embeddings alone and of two layers, from
/// which the others follow; of a narrower one where even these are too many.
///
/// # Errors
/// When a step fails.
pub fn measure(config: &ModelConfig, train: &TrainConfig, device: &Device) -> Result<TrainingSpeed> {
    let step = |model: &ModelConfig, rows: usize| Flops::of(model, train).total() * (rows * model.context) as f64;
    let with_layers = |model: &ModelConfig, n: usize| ModelConfig { n_layer: n, ..model.clone() };
    if step(config, train.micro_batch()) <= MEASURED_FLOPS {
        let [whole] = seconds([config], train, train.micro_batch(), device)?;
        return Ok(TrainingSpeed { s_per_token: whole, by_stand_in: false });
    }
    // None and two, so that a dense layer and a banded one are measured.
    let (few, more) = (0, 2);
    let mut model = config.clone();
    while step(&with_layers(&model, more), 1) > 2.0 * MEASURED_FLOPS && model.d_model.is_multiple_of(2 * model.n_head) {
        // Half the width, in heads of half the size.
        model.d_model /= 2;
    }
    while step(&with_layers(&model, more), 1) > 2.0 * MEASURED_FLOPS && model.n_head > 1 {
        let size = model.d_model / model.n_head;
        model.n_head = model.n_head.div_ceil(2);
        model.d_model = model.n_head * size;
    }
    let rows = (1..=train.micro_batch())
        .rev()
        .find(|&rows| step(&with_layers(&model, few), rows) <= MEASURED_FLOPS)
        .unwrap_or(1);
    let [at_few, at_more] = seconds([&with_layers(&model, few), &with_layers(&model, more)], train, rows, device)?;
    let a_layer = (at_more - at_few).max(0.0) / (more - few) as f64;
    let s_per_token = at_few + a_layer * (config.n_layer - few) as f64;
    let scale = Flops::of(config, train).total() / Flops::of(&with_layers(&model, config.n_layer), train).total();
    Ok(TrainingSpeed { s_per_token: s_per_token * scale, by_stand_in: model.d_model != config.d_model })
}

/// Rounds in which steps are measured; of each model the fastest counts, since nothing makes a step too fast.
const ROUNDS: usize = 3;

/// Seconds a token of training each of `models` on batches of `rows` windows. They take turns, so that a machine that is
/// slow for some seconds is so for all of them.
fn seconds<const N: usize>(
    models: [&ModelConfig; N],
    train: &TrainConfig,
    rows: usize,
    device: &Device,
) -> Result<[f64; N]> {
    let train = TrainConfig { batch_size: rows, micro_batch: None, shards: None, ..train.clone() };
    let mut trainers = Vec::with_capacity(N);
    for model in models {
        let params = Params::init(model, 1, device)?;
        let objective = LanguageModeling { model: Gpt::reader(model, &params, train.dtype.precision())? };
        trainers.push(Trainer::new(objective, params, &train, 1, &ALONE)?);
    }
    let n = rows * models[0].context;
    let ids = |shift: usize| (0..n).map(|i| ((i * 7919 + shift) % models[0].vocab_size) as u32).collect();
    let batch = Batch::windows(models[0].context, ids(0), ids(7919));
    let mut fastest = [f64::INFINITY; N];
    // The first round takes its memory from the system and does not count.
    for round in 0..=ROUNDS {
        for (trainer, fastest) in trainers.iter_mut().zip(&mut fastest) {
            let begun = Instant::now();
            trainer.step(&batch, 0, train.lr)?;
            if round > 0 {
                *fastest = fastest.min(begun.elapsed().as_secs_f64());
            }
        }
    }
    Ok(fastest.map(|seconds| seconds / n as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Config {
        model: ModelConfig,
        train: TrainConfig,
    }

    fn config(json: serde_json::Value) -> Config {
        serde_json::from_value(json).unwrap()
    }

    fn gpt3_175b() -> Config {
        config(serde_json::json!({
            "model": { "kind": "gpt3", "n_layer": 96, "n_head": 96, "d_model": 12288, "context": 2048, "vocab_size": 50257, "band": 256 },
            "train": { "length": "300B tokens", "batch_size": 1600, "micro_batch": 1, "lr": 6e-5 },
        }))
    }

    /// Brown et al. 2020, table D.1: 3.14e23 operations, 3,640 petaflop/s-days, which count six a parameter and token.
    #[test]
    fn the_work_of_gpt3_is_the_papers() {
        let gpt3 = gpt3_175b();
        let plan = TrainingPlan::new(&gpt3.model, &gpt3.train, 1, Place::Processor);
        let weights = plan.flops.weights * plan.n_tokens as f64;
        assert!((weights / 3.14e23 - 1.0).abs() < 0.01, "{weights:e}");
        assert!((weights / (1e15 * 86400.0) / 3640.0 - 1.0).abs() < 0.01);
        assert!(plan.flops.attention < 0.02 * plan.flops.weights);
    }

    #[test]
    fn banded_layers_take_less_attention() {
        let gpt3 = gpt3_175b();
        let dense = ModelConfig { kind: gptkit_model::Kind::Gpt2, band: None, ..gpt3.model.clone() };
        let (banded, dense) = (Flops::of(&gpt3.model, &gpt3.train), Flops::of(&dense, &gpt3.train));
        assert_eq!(dense.attention, 12.0 * 12288.0 * 96.0 * 1024.5);
        assert!(banded.attention < 0.65 * dense.attention, "{} {}", banded.attention, dense.attention);
    }

    #[test]
    fn baselines_take_the_work_of_their_formulas() {
        let gpt3 = gpt3_175b();
        let of = |kind| Flops::of(&ModelConfig { kind, band: None, ..gpt3.model.clone() }, &gpt3.train);
        // Of both sides: every token of the window.
        assert_eq!(of(Kind::Bert).attention, 12.0 * 12288.0 * 96.0 * 2048.0);
        assert_eq!(of(Kind::Bert).weights, of(Kind::Gpt1).weights);
        let n = 96.0 * 8.0 * 12288.0 * 12288.0 + 50257.0 * 12288.0;
        assert_eq!(of(Kind::Lstm), Flops { weights: 6.0 * n, attention: 0.0, recomputed: 0.0 });
    }

    #[test]
    fn the_cheapest_setting_that_fits_is_named() {
        let mut config = config(serde_json::json!({
            "model": { "kind": "gpt2", "n_layer": 12, "n_head": 12, "d_model": 768, "context": 1024, "vocab_size": 50257 },
            "train": { "length": "1B tokens", "batch_size": 12, "lr": 6e-4, "dtype": "f32" },
        }));
        assert!(Memory::of(&config.model, &config.train, Place::Processor).total() > 7 << 30);
        assert_eq!(
            settings_that_fit(&config.model, &config.train, (6 << 30, Place::Processor)).unwrap(),
            ["train.micro_batch=6"]
        );
        let tight = settings_that_fit(&config.model, &config.train, (3_500 << 20, Place::Processor)).unwrap();
        assert_eq!(tight, ["train.micro_batch=1", "train.recompute=blocks"]);
        assert_eq!(settings_that_fit(&config.model, &config.train, (1 << 30, Place::Processor)), None);
        config.train.micro_batch = Some(1);
        assert_eq!(
            settings_that_fit(&config.model, &config.train, (6 << 30, Place::Processor)).unwrap(),
            ["train.micro_batch=1"]
        );
    }

    #[test]
    fn a_speed_is_measured() {
        let config = config(serde_json::json!({
            "model": { "kind": "gpt2", "n_layer": 2, "n_head": 2, "d_model": 16, "context": 16, "vocab_size": 50 },
            "train": { "length": "10 steps", "batch_size": 4, "lr": 1e-3 },
        }));
        let speed = measure(&config.model, &config.train, &Device::Cpu).unwrap();
        assert!(speed.s_per_token > 0.0 && speed.s_per_token < 1.0 && !speed.by_stand_in, "{speed:?}");
    }
}

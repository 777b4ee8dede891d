//! The first stage: raw text → language model (Radford et al. 2018, §3.1).

use crate::checkpoint::{self, State};
use crate::config::TrainConfig;
use crate::fit::{Summary, Trainer, fit};
use crate::run::{Run, locked};
use crate::schedule::Schedule;
use ::config::{Check, Problems};
use anyhow::{Context, Result, ensure};
use candle_core::Device;
use data::batch::{Batch, Prefetch, Windows, validation};
use data::prepare::prepare;
use data::progress::Progress;
use data::shard::Corpus;
use data::source::DataConfig;
use data::tokenizer::{Tokenizer, TokenizerConfig};
use model::folder::load_model;
use model::{ModelConfig, Params};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// All that a pretraining run is told; a file of `configs/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PretrainConfig {
    /// What it is, in a line.
    #[serde(default)]
    pub description: String,
    /// Seed of everything that is drawn.
    #[serde(default = "seed")]
    pub seed: u64,
    /// The model.
    pub model: ModelConfig,
    /// Its tokens.
    #[serde(default)]
    pub tokenizer: TokenizerConfig,
    /// The text.
    #[serde(default)]
    pub data: DataConfig,
    /// The training.
    pub train: TrainConfig,
}

fn seed() -> u64 {
    1
}

impl Check for PretrainConfig {
    fn check(&self, problems: &mut Problems) {
        problems.section("model", &self.model);
        problems.section("tokenizer", &self.tokenizer);
        problems.section("data", &self.data);
        problems.section("train", &self.train);
    }
}

/// What a run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// Its folder, which is the model's folder too.
    pub folder: PathBuf,
    /// How it ended.
    pub summary: Summary,
}

/// Prepares the text, trains a model on it from first values or from the model folder `init`, and leaves it in `out`.
///
/// # Errors
/// When the text, the tokenizer and the model do not fit together, or the run fails.
pub fn pretrain(
    mut config: PretrainConfig,
    init: Option<&Path>,
    out: &Path,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let params = match init {
        Some(folder) => {
            let (shape, params) = load_model(folder, device)?;
            config.model = shape;
            config.tokenizer = TokenizerConfig::load_from(folder);
            Some(params)
        }
        None => None,
    };
    let prepared = prepare(&config.data, &config.tokenizer, None, progress)?;
    fit_vocabulary(&mut config.model, prepared.tokenizer.vocab_size(), progress)?;
    let text = Text::new(&config, prepared.corpus)?;
    let resolved = ::config::resolved(&config).context("the configuration cannot be written")?;
    let run = Run::create(out, &resolved, &config.model, &prepared.tokenizer)?;
    let params = match params {
        Some(params) => params,
        None => Params::init(&config.model, config.seed, device)?,
    };
    progress.note(&format!(
        "{} parameters · {} tokens a step · {} tokens an epoch · to {}",
        grouped(config.model.n_params()),
        grouped((config.train.batch_size * config.model.context) as u64),
        grouped(text.windows.rows_per_epoch() * config.model.context as u64),
        out.display()
    ));
    let trainer = Trainer::new(&config.model, params, &config.train, config.seed)?;
    go_on(&config, trainer, State::default(), &text, run, progress)
}

/// Goes on with the run in `folder` from its newest whole checkpoint, to the weights that it would have had without the
/// interruption. `config` is the run's own `config.toml`.
///
/// # Errors
/// When there is no checkpoint, the text is another, or the run fails.
pub fn resume(config: &PretrainConfig, folder: &Path, device: &Device, progress: &dyn Progress) -> Result<Outcome> {
    let lock = locked(folder)?; // before a checkpoint is read that another process may be about to remove
    let (checkpoint, state) = checkpoint::newest(folder, progress)?;
    let prepared = prepare(&config.data, &config.tokenizer, None, progress)?;
    ensure!(
        prepared.tokenizer.fingerprint()? == Tokenizer::load(&checkpoint)?.fingerprint()?,
        "the text in data.sources gives another tokenizer than that of {}: it has changed since the run began",
        checkpoint.display()
    );
    let text = Text::new(config, prepared.corpus)?;
    let (_, params) = load_model(&checkpoint, device)?;
    let mut trainer = Trainer::new(&config.model, params, &config.train, config.seed)?;
    trainer.restore(&checkpoint, &state)?;
    progress.note(&format!("resumed {} after step {}", folder.display(), state.step));
    let run = Run::resume(folder, lock, state.step)?;
    go_on(config, trainer, state, &text, run, progress)
}

/// What a run reads.
struct Text {
    windows: Arc<Windows>,
    validation: Vec<Batch>,
}

impl Text {
    fn new(config: &PretrainConfig, corpus: Corpus) -> Result<Self> {
        let (corpus, context) = (Arc::new(corpus), config.model.context);
        Ok(Self {
            windows: Arc::new(Windows::new(Arc::clone(&corpus), context, config.seed)?),
            validation: validation(&corpus, context, config.train.micro_batch(), config.train.eval_windows),
        })
    }
}

fn go_on(
    config: &PretrainConfig,
    mut trainer: Trainer,
    state: State,
    text: &Text,
    mut run: Run,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let schedule = Schedule::new(&config.train, config.model.context, text.windows.rows_per_epoch());
    let plan = schedule.steps().skip(state.step as usize).map(|step| (step.first_row, step.rows));
    let batches = Prefetch::new(Arc::clone(&text.windows), plan);
    let summary = fit(&mut trainer, state, &schedule, batches, &text.validation, &mut run, progress)?;
    Ok(Outcome { folder: run.folder().to_owned(), summary })
}

/// The model has as many tokens as the tokenizer where the configuration leaves it open, and never fewer.
fn fit_vocabulary(model: &mut ModelConfig, entries: usize, progress: &dyn Progress) -> Result<()> {
    if model.vocab_size == 0 {
        model.vocab_size = entries;
    }
    let size = model.vocab_size;
    ensure!(
        entries <= size,
        "the tokenizer has {entries} entries, more than model.vocab_size = {size}; set model.vocab_size = {entries}, \
         or leave it out"
    );
    if entries < size {
        progress.note(&format!(
            "the tokenizer has {} entries; {} rows of the model's vocabulary of {} stand for no token",
            grouped(entries as u64),
            grouped((size - entries) as u64),
            grouped(size as u64)
        ));
    }
    Ok(())
}

/// 1234567 → 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}

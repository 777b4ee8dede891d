//! The first stage: raw text → language model (Radford et al. 2018, §3.1), or one of the baselines beside it.

use crate::checkpoint::{State, TextSeen};
use crate::config::TrainConfig;
use crate::fit::{Sitting, Summary, Trainer, fit};
use crate::machine;
use crate::masked::{Masking, rows_of_vocabulary};
use crate::objective::{HeldOutSource, Mixture};
use crate::plan::{Memory, must_fit, settings_that_fit};
use crate::request::RunRequest;
use crate::resume::Resumable;
use crate::run::Run;
use crate::schedule::Schedule;
use anyhow::{Context, Result, bail, ensure};
use gptkit_config::{Check, Problems};
use gptkit_data::batch::{Batch, Prefetch, Windows, validation};
use gptkit_data::disk::Claim;
use gptkit_data::prepare::{Prepared, changed_since, prepare};
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::source::DataConfig;
use gptkit_data::tokenizer::{Tokenizer, TokenizerConfig};
use gptkit_model::load::{load_config, load_model};
use gptkit_model::{Kind, ModelConfig, Params, Predictor, predictor};
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

/// Prepares the text, trains a model on it from first values or from the model folder `init`, and leaves it in the folder
/// of `claim`.
///
/// # Errors
/// When the text, the tokenizer and the model do not fit together, or the run fails.
pub fn pretrain(mut config: PretrainConfig, init: Option<&Path>, claim: Claim, sitting: &Sitting) -> Result<Outcome> {
    config.train.settle();
    let params = match init {
        Some(folder) => {
            let (shape, params) = load_model(folder, sitting.device)?;
            config.model = shape;
            config.tokenizer = TokenizerConfig::load_from(folder);
            Some(params)
        }
        None => None,
    };
    let prepared = prepare(&config.data, &config.tokenizer, None, sitting.progress)?;
    if params.is_some() {
        add_rows(&mut config.model, &prepared.tokenizer)?;
    }
    fit_vocabulary(&mut config.model, prepared.tokenizer.vocab_size(), sitting.progress)?;
    let text = Text::new(&config, &prepared)?;
    config.train.check_validation(!text.validation.is_empty())?;
    let resolved = gptkit_config::resolved(&config).context("the configuration cannot be written")?;
    must_fit(&config.model, &config.train, sitting.device)?;
    let run = Run::create(claim, &resolved, &config.model, &prepared.tokenizer)?;
    let params = match params {
        Some(params) => params.extend_vocabulary(&config.model, config.seed)?,
        None => Params::init(&config.model, config.seed, sitting.device)?,
    };
    sitting.progress.note(&format!(
        "{} parameters · {} tokens a step · {} tokens an epoch · to {}",
        grouped(config.model.n_params()),
        grouped((config.train.batch_size * config.model.context) as u64),
        grouped(text.windows.rows_per_epoch() * config.model.context as u64),
        run.folder().display()
    ));
    warn_of_memory(&config, sitting);
    warn_of_data(&config, &prepared, &text, sitting.progress);
    let trainer = trainer(&config, params, &text)?;
    let state = State {
        text: TextSeen { shards: std::path::absolute(&prepared.folder)?, fingerprint: prepared.fingerprint },
        ..State::default()
    };
    go_on(&config, trainer, state, &text, run, sitting)
}

/// Fills in what `config` leaves open, as [`pretrain`] would from the text and the model folder `init`. Returns the windows
/// of an epoch. The text is prepared only where the vocabulary or a length depends on it; 0 otherwise.
///
/// # Errors
/// When text, tokenizer or folder cannot be used.
pub fn settle(config: &mut PretrainConfig, init: Option<&Path>, progress: &dyn Progress) -> Result<u64> {
    if let Some(folder) = init {
        config.model = load_config(folder)?;
        config.tokenizer = TokenizerConfig::load_from(folder);
        add_rows(&mut config.model, &Tokenizer::load(folder)?)?;
    }
    if config.model.vocab_size == 0 {
        let entries = match (&config.tokenizer.path, config.tokenizer.vocab_size) {
            (Some(path), _) => Tokenizer::load(path)?.vocab_size(),
            (None, entries) => entries.unwrap_or(0),
        };
        if entries > 0 {
            config.model.vocab_size = rows_of_vocabulary(config.model.kind, entries);
        }
    }
    if config.model.vocab_size > 0 && !config.train.depends_on_text() {
        return Ok(0);
    }
    let prepared = prepare(&config.data, &config.tokenizer, None, progress)?;
    fit_vocabulary(&mut config.model, prepared.tokenizer.vocab_size(), progress)?;
    Ok(windows(config, &prepared)?.rows_per_epoch())
}

/// Says before the first step that memory will not suffice.
fn warn_of_memory(config: &PretrainConfig, sitting: &Sitting) {
    let (needed, here) = (Memory::of(&config.model, &config.train).total(), machine::memory());
    if sitting.device.is_cpu() && needed > here {
        let way = settings_that_fit(&config.model, &config.train, here)
            .map(|set| format!(": use --set {}", set.join(" --set ")));
        sitting.progress.warn(&format!(
            "a step takes about {:.1} GB of memory, and there are {:.1}{}",
            needed as f64 / 1e9,
            here as f64 / 1e9,
            way.unwrap_or_default()
        ));
    }
}

/// Says before the first step which parts of the text are read otherwise than the settings seem to ask for.
fn warn_of_data(config: &PretrainConfig, prepared: &Prepared, text: &Text, progress: &dyn Progress) {
    for (name, asked, given) in text.windows.rounded_shares() {
        progress.warn(&format!(
            "{name} has {:.3}% of the weights and gets {:.1}% of the windows, the least that a source can get: give it more \
             weight, or leave it out",
            100.0 * asked,
            100.0 * given
        ));
    }
    let window = config.model.context + 1;
    let validated = |name: &str| text.held_out.iter().any(|source| source.name == name);
    for part in prepared.corpus.val.iter().filter(|part| config.data.val_fraction > 0.0 && !validated(&part.name)) {
        progress.warn(&format!(
            "the validation part of {} has {} tokens, and a window takes {window}: it has no validation loss; raise \
             data.val_fraction, or give more text",
            part.name,
            grouped(part.tokens.len())
        ));
    }
    let n_steps = Schedule::new(&config.train, config.model.context, text.windows.rows_per_epoch()).n_steps();
    if let Some(every) = config.train.eval_every.filter(|&every| every > n_steps && !text.validation.is_empty()) {
        progress.warn(&format!(
            "train.eval_every = {every} is longer than the run of {n_steps} steps: it is validated at its end only"
        ));
    }
}

/// Says which of the text that a run was prepared from has changed since: it goes on with the tokens that it has.
fn warn_of_changed_text(folder: &Path, prepared: &Prepared, progress: &dyn Progress) -> Result<()> {
    let from = RunRequest::read(folder).map(|request| request.working_folder).unwrap_or_default();
    for path in changed_since(&prepared.folder, &from)? {
        progress.warn(&format!(
            "{path} has changed since it was prepared: this run resumes with the text as it was, from {}; to train on the new \
             text, start a new run with --init",
            prepared.folder.display()
        ));
    }
    Ok(())
}

/// The batch of step number `step` of a run of `config`, and the tokenizer that made it.
///
/// # Errors
/// When text or tokenizer cannot be used, or the run has fewer steps.
pub fn batch_of_step(config: &PretrainConfig, step: u64, progress: &dyn Progress) -> Result<(Tokenizer, Batch)> {
    if config.model.kind == Kind::Bert {
        bail!("a model of kind bert is asked for masked tokens, not for the next ones: its batches cannot be shown");
    }
    let prepared = prepare(&config.data, &config.tokenizer, None, progress)?;
    let windows = windows(config, &prepared)?;
    let schedule = Schedule::new(&config.train, config.model.context, windows.rows_per_epoch());
    let found = schedule.steps().nth(step as usize - 1);
    let found = found.with_context(|| format!("the run has {} steps, and no step {step}", schedule.n_steps()))?;
    Ok((prepared.tokenizer, windows.batch(found.first_row, found.rows)))
}

/// Goes on with `run` to the weights that it would have had without the interruption. `config` is the run's own
/// `config.toml` with [`Resumable::settings`] on top.
///
/// # Errors
/// When the text is another, the checkpoint does not fit the configuration, or the run fails.
pub fn resume(config: &PretrainConfig, run: Resumable, sitting: &Sitting) -> Result<Outcome> {
    let Resumable { folder, checkpoint, state, lock, .. } = run;
    let prepared = prepare(&config.data, &config.tokenizer, None, sitting.progress)?;
    ensure!(
        prepared.tokenizer.fingerprint()? == Tokenizer::load(&checkpoint)?.fingerprint()?,
        "{} has another tokenizer than {}: they do not belong together",
        prepared.folder.display(),
        checkpoint.display()
    );
    ensure!(
        prepared.fingerprint == state.text.fingerprint,
        "the text of {} is not what the run began with: it has changed since. To train on it all the same, begin a new run \
         with --init {}",
        prepared.folder.display(),
        checkpoint.display()
    );
    warn_of_changed_text(&folder, &prepared, sitting.progress)?;
    let (shape, params) = load_model(&checkpoint, sitting.device)?;
    ensure!(
        shape == config.model,
        "{} holds a model of another shape than [model] in {} says",
        checkpoint.display(),
        folder.join("config.toml").display()
    );
    let text = Text::new(config, &prepared)?;
    let mut trainer = trainer(config, params, &text)?;
    trainer.restore(&checkpoint, &state)?;
    sitting.progress.note(&format!("resumed {} after step {}", folder.display(), state.step));
    let run = Run::resume(&folder, lock, &checkpoint, &state, sitting.progress)?;
    go_on(config, trainer, state, &text, run, sitting)
}

/// A model of any kind, in training.
type Pretraining = Trainer<Mixture<Box<dyn Predictor>>>;

fn trainer(config: &PretrainConfig, params: Params, text: &Text) -> Result<Pretraining> {
    let model = predictor(&config.model, &params, config.train.dtype.precision())?;
    Trainer::new(Mixture::new(model, text.held_out.clone()), params, &config.train, config.seed)
}

/// The same tokens are asked for in validations of all runs, so that their losses can be compared.
const VALIDATION_SEED: u64 = 0;

/// What a run reads.
struct Text {
    windows: Arc<Windows>,
    /// What of the windows a masked model is asked.
    masking: Option<Masking>,
    validation: Vec<Batch>,
    /// The sources that `validation` comes from.
    held_out: Vec<HeldOutSource>,
}

impl Text {
    fn new(config: &PretrainConfig, prepared: &Prepared) -> Result<Self> {
        let PretrainConfig { model, train, .. } = config;
        let masks = |seed| {
            (model.kind == Kind::Bert).then(|| Masking { seed, entries: prepared.tokenizer.vocab_size() as u32 })
        };
        let parts = validation(&prepared.corpus, model.context, train.micro_batch(), train.eval_windows);
        let held_out = parts
            .iter()
            .map(|part| HeldOutSource { name: part.name.clone(), weight: part.weight, n_batches: part.batches.len() })
            .collect();
        let mut validation: Vec<Batch> = parts.into_iter().flat_map(|part| part.batches).collect();
        if let Some(masking) = masks(VALIDATION_SEED) {
            let mut first_row = 0;
            for batch in &mut validation {
                masking.apply(batch, first_row);
                first_row += batch.rows as u64;
            }
        }
        Ok(Self { windows: Arc::new(windows(config, prepared)?), masking: masks(config.seed), validation, held_out })
    }
}

/// The training windows of `prepared` in the order in which a run of `config` sees them.
fn windows(config: &PretrainConfig, prepared: &Prepared) -> Result<Windows> {
    Windows::new(Arc::clone(&prepared.corpus), config.model.context, config.seed)
}

fn go_on(
    config: &PretrainConfig,
    mut trainer: Pretraining,
    state: State,
    text: &Text,
    mut run: Run,
    sitting: &Sitting,
) -> Result<Outcome> {
    let schedule = Schedule::new(&config.train, config.model.context, text.windows.rows_per_epoch());
    let plan = schedule.steps().skip(state.step as usize).map(|step| (step.first_row, step.rows));
    let (windows, masking) = (Arc::clone(&text.windows), text.masking);
    let next = move |first, rows| {
        let mut batch = windows.batch(first, rows);
        masking.iter().for_each(|masking| masking.apply(&mut batch, first));
        batch
    };
    let batches = Prefetch::new(next, plan);
    let summary = fit(&mut trainer, state, &schedule, batches, &text.validation, &mut run, sitting)?;
    run.draw()?;
    Ok(Outcome { folder: run.folder().to_owned(), summary })
}

/// Rows for special tokens that the tokenizer of a model folder has and its model lacks.
fn add_rows(model: &mut ModelConfig, tokenizer: &Tokenizer) -> Result<()> {
    tokenizer.must_fit(model.vocab_size)?;
    model.vocab_size = model.vocab_size.max(rows_of_vocabulary(model.kind, tokenizer.vocab_size()));
    Ok(())
}

/// The model has as many tokens as the tokenizer, and a masked one the mask token besides, where the configuration leaves it
/// open; and never fewer.
fn fit_vocabulary(model: &mut ModelConfig, entries: usize, progress: &dyn Progress) -> Result<()> {
    let needed = rows_of_vocabulary(model.kind, entries);
    if model.vocab_size == 0 {
        model.vocab_size = needed;
    }
    let size = model.vocab_size;
    let and_mask = if needed > entries { " and the mask token one" } else { "" };
    ensure!(
        needed <= size,
        "the tokenizer has {entries} entries{and_mask}, more than model.vocab_size = {size}; set model.vocab_size = {needed}, \
         or leave it out"
    );
    if needed < size {
        progress.note(&format!(
            "the tokenizer has {} entries{and_mask}; {} rows of the model's vocabulary of {} stand for no token",
            grouped(entries as u64),
            grouped((size - needed) as u64),
            grouped(size as u64)
        ));
    }
    Ok(())
}

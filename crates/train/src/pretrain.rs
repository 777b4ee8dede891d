//! The first stage: raw text → language model (GPT-1 to GPT-3, and the baselines).

use crate::config::{TrainConfig, default_seed};
use crate::context::RunContext;
use crate::language_modeling::{HeldOutSource, Mixture};
use crate::learner::{Learner, Supervised};
use crate::machine;
use crate::masked::{MASK_RATE, Masking, rows_of_vocabulary};
use crate::memory::{Memory, Place};
use crate::plan::{RunEstimate, settings_that_fit};
use crate::request::RunRequest;
use crate::resume::Resumable;
use crate::samples::{SamplePrompt, SamplesConfig, TextSampler};
use crate::schedule::Schedule;
use crate::stage::{self, Model, Stage, StageData};
use crate::state::State;
use crate::trainer::Trainer;
use crate::training_data::TrainingData;
use anyhow::{Context, Result, ensure};
use gptkit_config::{Check, Problems, Usage};
use gptkit_data::batch::{Batch, Windows, validation};
use gptkit_data::prepare::{Prepared, changed_since, prepare};
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::shard::Corpus;
use gptkit_data::source::DataConfig;
use gptkit_data::tokenizer::{Tokenizer, TokenizerConfig};
use gptkit_model::load::{load_config, load_model};
use gptkit_model::{Gpt, Kind, ModelConfig, Params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Configuration of `gptkit pretrain`; a preset of `gptkit pretrain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PretrainConfig {
    /// One line that says what the configuration is for.
    #[serde(default)]
    pub description: String,
    /// Seed of all random draws.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Share of the tokens that a model of kind `bert` must predict in training; 0.15 when left out. Validation always uses
    /// 0.15, so that losses can be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_rate: Option<f64>,
    /// Architecture of the model.
    pub model: ModelConfig,
    /// The tokenizer.
    #[serde(default)]
    pub tokenizer: TokenizerConfig,
    /// The training text.
    #[serde(default)]
    pub data: DataConfig,
    /// How the model is trained. A row is a window of text.
    pub train: TrainConfig,
    /// Samples of text during training; models of kind `bert` write none.
    #[serde(default)]
    pub samples: SamplesConfig,
}

impl Check for PretrainConfig {
    fn check(&self, problems: &mut Problems) {
        if let Some(rate) = self.mask_rate {
            problems.require(rate > 0.0 && rate < 1.0, "mask_rate", "must be between 0 and 1", "use 0.15");
            let is_masked = self.model.kind == Kind::Bert;
            problems.require(is_masked, "mask_rate", "is only for kind = \"bert\"", "remove it");
        }
        problems.section("model", &self.model);
        problems.section("tokenizer", &self.tokenizer);
        problems.section("data", &self.data);
        problems.section("train", &self.train);
        problems.section("samples", &self.samples);
    }
}

/// Pretraining from raw text.
pub struct Pretraining {
    config: PretrainConfig,
    /// Model folder that a new run starts from; random weights without one.
    init: Option<PathBuf>,
    /// What the run reads, once it is open.
    text: Option<PretrainData>,
    /// Whether a new run may read its text more than [`MOST_EPOCHS`] times.
    may_repeat: bool,
}

/// A run that reads its text more often is likely a mistake: a preset of a paper on a small file.
const MOST_EPOCHS: f64 = 10_000.0;

/// The text of a run.
struct PretrainData {
    windows: Arc<Windows>,
    corpus: Arc<Corpus>,
    /// The sources of the validation batches.
    held_out: Vec<HeldOutSource>,
}

impl Pretraining {
    /// A run of `config`, which starts from the model folder `init`; a resumed run needs none.
    pub fn new(config: PretrainConfig, init: Option<&Path>) -> Self {
        Self { config, init: init.map(Path::to_owned), text: None, may_repeat: false }
    }

    /// Allows a new run to read its text however often its length says.
    #[must_use]
    pub fn repeating(self) -> Self {
        Self { may_repeat: true, ..self }
    }
}

/// Text and weights of a run.
pub struct PretrainParts {
    /// None where random weights are drawn.
    params: Option<Params>,
    corpus: Arc<Corpus>,
    /// Folder of the shards.
    shards: PathBuf,
    /// Fingerprint of the shards.
    fingerprint: String,
}

impl Stage for Pretraining {
    type Config = PretrainConfig;
    type Learner = Supervised<Mixture>;
    type Parts = PretrainParts;
    type Report = ();

    const VALIDATES_EACH_EPOCH: bool = false;

    fn config(&self) -> &PretrainConfig {
        &self.config
    }

    fn train(&self) -> &TrainConfig {
        &self.config.train
    }

    fn train_mut(&mut self) -> &mut TrainConfig {
        &mut self.config.train
    }

    fn prepare(&mut self, _: &Path, context: &RunContext) -> Result<Model<PretrainParts>> {
        let config = &mut self.config;
        let params = match &self.init {
            Some(folder) => {
                let (shape, params) = load_model(folder, context.device)?;
                config.model = shape;
                config.tokenizer = TokenizerConfig::load_from(folder);
                Some(params)
            }
            None => None,
        };
        let prepared = prepare(&config.data, &config.tokenizer, None, context.progress)?;
        if params.is_some() {
            add_rows(&mut config.model, &prepared.tokenizer)?;
        }
        fit_vocabulary(&mut config.model, prepared.tokenizer.vocab_size(), context.progress)?;
        warn_of_memory(config, context);
        let params = params.map(|params| params.extend_vocabulary(&config.model, config.seed)).transpose()?;
        Ok(self.model(params, prepared))
    }

    fn load(&mut self, run: &Resumable, context: &RunContext) -> Result<Model<PretrainParts>> {
        let Resumable { folder, checkpoint, .. } = run;
        let config = &self.config;
        let prepared = prepare(&config.data, &config.tokenizer, None, context.progress)?;
        ensure!(
            prepared.tokenizer.fingerprint()? == Tokenizer::load(checkpoint)?.fingerprint()?,
            "{} and {} have different tokenizers",
            prepared.folder.display(),
            checkpoint.display()
        );
        ensure!(
            prepared.fingerprint == run.state.data.fingerprint,
            "the text of {} has changed since this run started; to train on the new text, start a new run with --init {}",
            prepared.folder.display(),
            checkpoint.display()
        );
        warn_of_changed_text(folder, &prepared, context.progress)?;
        let (shape, params) = load_model(checkpoint, context.device)?;
        ensure!(
            shape == config.model,
            "the model in {} does not match [model] in {}",
            checkpoint.display(),
            folder.join("config.toml").display()
        );
        Ok(self.model(Some(params), prepared))
    }

    fn open(&mut self, _: &Path, model: &Model<PretrainParts>, _: &RunContext) -> Result<StageData<Self>> {
        let (config, PretrainParts { corpus, shards, fingerprint, .. }) = (&self.config, &model.parts);
        let windows = Arc::new(Windows::new(Arc::clone(corpus), config.model.context, config.seed)?);
        let (validation, held_out) = validation_set(config, corpus, &model.tokenizer);
        self.text = Some(PretrainData { windows: Arc::clone(&windows), corpus: Arc::clone(corpus), held_out });
        let rate = config.mask_rate.unwrap_or(MASK_RATE);
        let masking = masking(config, &model.tokenizer, config.seed, rate);
        Ok(TrainingData {
            folder: shards.clone(),
            fingerprint: fingerprint.clone(),
            n_rows: windows.rows_per_epoch(),
            tokens_per_row: config.model.context,
            validation,
            batch: Box::new(move |first, rows| {
                let mut batch = windows.batch(first, rows);
                masking.iter().for_each(|masking| masking.apply(&mut batch, first));
                batch
            }),
        })
    }

    /// Refuses a run that would read its text more than [`MOST_EPOCHS`] times, unless that was allowed.
    fn check_estimate(&self, estimate: &RunEstimate, context: &RunContext) -> Result<()> {
        if self.may_repeat || estimate.epochs <= MOST_EPOCHS {
            return Ok(());
        }
        let train = &self.config.train;
        let what = format!(
            "train.length = \"{}\" would read the text {} times ({})",
            train.length,
            grouped(estimate.epochs as u64),
            estimate.describe(train.dtype, context.device)
        );
        let hint = "use --epochs 3, for instance, or more text; --yes starts the run as it is";
        Err(Usage::new(what).hint(hint).into())
    }

    fn learner(
        &mut self,
        model: Model<PretrainParts>,
        data: &mut StageData<Self>,
        context: &RunContext,
    ) -> Result<Self::Learner> {
        let config = &self.config;
        let params = match model.parts.params {
            Some(params) => params,
            None => Params::init(&config.model, config.seed, context.device)?,
        };
        let held_out = self.text.as_ref().map(|text| text.held_out.clone()).unwrap_or_default();
        let mixture = Mixture::new(Gpt::reader(&config.model, &params, config.train.dtype.precision())?, held_out);
        let sampler = self.sampler(model.tokenizer, data)?;
        let trainer = Trainer::new(mixture, params, &config.train, config.seed, context.ranks)?;
        let mut learner = Supervised::new(trainer, data);
        learner.write_samples(sampler);
        Ok(learner)
    }

    fn announce(&self, learner: &Self::Learner, run: &Path, context: &RunContext) {
        let Self { config, text: Some(text), .. } = self else { return };
        context.progress.note(&format!(
            "{} parameters · {} tokens per step · {} tokens per epoch · to {}",
            grouped(config.model.n_params()),
            grouped((config.train.batch_size * config.model.context) as u64),
            grouped(text.windows.rows_per_epoch() * config.model.context as u64),
            run.display()
        ));
        warn_of_data(config, text, learner.has_validation(), context.progress);
    }

    fn report(&mut self, _: &mut Self::Learner, _: &Path, _: &State, _: &RunContext) -> Result<()> {
        Ok(())
    }
}

impl Pretraining {
    /// Continues the prompts of the configuration, by default the beginning of the held-out text, or of the first window
    /// without one. None where samples are switched off, and for masked language models.
    fn sampler(&self, tokenizer: Tokenizer, data: &mut StageData<Self>) -> Result<Option<TextSampler>> {
        let PretrainConfig { samples, seed, model, .. } = &self.config;
        if !samples.is_on() || model.must_write().is_err() {
            return Ok(None);
        }
        let prompts = match &samples.prompts {
            Some(prompts) => prompts
                .iter()
                .enumerate()
                .map(|(n, text)| {
                    SamplePrompt::of_text(text, &tokenizer).with_context(|| format!("samples.prompts.{n} = {text:?}"))
                })
                .collect::<Result<_>>()?,
            None => {
                let window = data.validation.first().map(|batch| &batch.tokens[..batch.context]);
                let window = window.map_or_else(|| (data.batch)(0, 1).tokens, <[u32]>::to_vec);
                SamplePrompt::from_window(&window, &tokenizer)?.into_iter().collect::<Vec<_>>()
            }
        };
        let ends = tokenizer.end_of_text().into_iter().collect();
        let samples = samples.or_temperature(0.8);
        Ok((!prompts.is_empty()).then(|| TextSampler::new(&samples, prompts, Arc::new(tokenizer), ends, *seed)))
    }

    fn model(&self, params: Option<Params>, prepared: Prepared) -> Model<PretrainParts> {
        let Prepared { tokenizer, corpus, folder, fingerprint, .. } = prepared;
        let parts = PretrainParts { params, corpus, shards: folder, fingerprint };
        Model { config: self.config.model.clone(), tokenizer, parts }
    }
}

/// The batch of step number `step` of a run of `config`, and the tokenizer that made it.
///
/// # Errors
/// When text or tokenizer cannot be used, or the run has fewer steps.
pub fn batch_of_step(config: PretrainConfig, step: u64, context: &RunContext) -> Result<(Tokenizer, Batch)> {
    ensure!(
        config.model.kind != Kind::Bert,
        "`inspect` does not support kind = \"bert\" (masked language model): its tokens are masked during training"
    );
    stage::batch_of_step(Pretraining::new(config, None), step, context)
}

/// The same tokens are masked in the validations of all runs, so that their losses can be compared.
const VALIDATION_SEED: u64 = 0;

/// Which tokens of the windows are masked: none unless the model is a masked one.
fn masking(config: &PretrainConfig, tokenizer: &Tokenizer, seed: u64, rate: f64) -> Option<Masking> {
    let entries = tokenizer.vocab_size() as u32;
    (config.model.kind == Kind::Bert).then_some(Masking { seed, entries, rate })
}

/// The validation batches, source by source, and the sources.
fn validation_set(config: &PretrainConfig, corpus: &Corpus, tokenizer: &Tokenizer) -> (Vec<Batch>, Vec<HeldOutSource>) {
    let PretrainConfig { model, train, .. } = config;
    let parts = validation(corpus, model.context, train.micro_batch(), train.eval_windows);
    let held_out = parts
        .iter()
        .map(|part| HeldOutSource { name: part.name.clone(), weight: part.weight, n_batches: part.batches.len() })
        .collect();
    let mut validation: Vec<Batch> = parts.into_iter().flat_map(|part| part.batches).collect();
    if let Some(masking) = masking(config, tokenizer, VALIDATION_SEED, MASK_RATE) {
        let mut first_row = 0;
        for batch in &mut validation {
            masking.apply(batch, first_row);
            first_row += batch.rows as u64;
        }
    }
    (validation, held_out)
}

/// Fills in what `config` leaves open, as [`Pretraining`] would from the text and the model folder `init`. Returns the windows
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
    Ok(Windows::new(prepared.corpus, config.model.context, config.seed)?.rows_per_epoch())
}

/// Says before the first step that memory will not suffice.
fn warn_of_memory(config: &PretrainConfig, context: &RunContext) {
    let (needed, here) = (Memory::of(&config.model, &config.train, Place::Processor).total(), machine::memory());
    if context.device.is_cpu() && needed > here {
        let way = settings_that_fit(&config.model, &config.train, (here, Place::Processor))
            .map(|set| format!(": use --set {}", set.join(" --set ")));
        context.progress.warn(&format!(
            "a step needs about {:.1} GB of memory, but this machine has {:.1} GB{}",
            needed as f64 / 1e9,
            here as f64 / 1e9,
            way.unwrap_or_default()
        ));
    }
}

/// Says before the first step which parts of the text are read otherwise than the settings seem to ask for.
fn warn_of_data(config: &PretrainConfig, text: &PretrainData, has_validation: bool, progress: &dyn Progress) {
    for (name, asked, given) in text.windows.rounded_shares() {
        progress.warn(&format!(
            "{name} has {:.3}% of the weight but gets {:.1}% of the windows, the minimum for a source; increase its \
             weight or remove it",
            100.0 * asked,
            100.0 * given
        ));
    }
    let window = config.model.context + 1;
    let validated = |name: &str| text.held_out.iter().any(|source| source.name == name);
    for part in text.corpus.val.iter().filter(|part| config.data.val_fraction > 0.0 && !validated(&part.name)) {
        progress.warn(&format!(
            "the validation set of {} has {} tokens, but a window needs {window}, so there is no validation loss for \
             it; raise data.val_fraction or use more text",
            part.name,
            grouped(part.tokens.len())
        ));
    }
    let n_steps = Schedule::new(&config.train, config.model.context, text.windows.rows_per_epoch()).n_steps();
    if let Some(every) = config.train.eval_every.filter(|&every| every > n_steps && has_validation) {
        progress.warn(&format!(
            "train.eval_every = {every} is longer than the run of {n_steps} steps, so validation runs only at the end"
        ));
    }
}

/// Says which of the text that a run was prepared from has changed since: it goes on with the tokens that it has.
fn warn_of_changed_text(folder: &Path, prepared: &Prepared, progress: &dyn Progress) -> Result<()> {
    let from = RunRequest::read(folder).map(|request| request.working_folder).unwrap_or_default();
    for path in changed_since(&prepared.folder, &from)? {
        progress.warn(&format!(
            "{path} has changed since it was prepared; this run resumes with the old text from {}; to train on the new \
             text, start a new run with --init",
            prepared.folder.display()
        ));
    }
    Ok(())
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
    let and_mask = if needed > entries { " and the mask token 1" } else { "" };
    ensure!(
        needed <= size,
        "the tokenizer has {entries} entries{and_mask}, more than model.vocab_size = {size}; set model.vocab_size = \
         {needed}, or remove the key"
    );
    if needed < size {
        progress.note(&format!(
            "the tokenizer has {} entries{and_mask}; {} of the model's {} embedding rows are unused",
            grouped(entries as u64),
            grouped((size - needed) as u64),
            grouped(size as u64)
        ));
    }
    Ok(())
}

//! The stage: a model that answers becomes one that rewards (Ouyang et al. 2022, §3.5 and appendix C.2).

use crate::charts;
use crate::group::{Group, GroupEncoder};
use crate::groups::{ComparisonConfig, FILES as GROUPS, Groups, encode_all, say};
use crate::loss::{LossConfig, Pairs};
use crate::model::RewardModel;
use crate::normalization::{NormalizationConfig, REFERENCES, keep_references, normalize};
use crate::report::{RankedPrompt, RewardReport};
use anyhow::{Context, Result};
use candle_core::Tensor;
use gptkit_config::{Check, Problems};
use gptkit_data::progress::grouped;
use gptkit_data::template::Template;
use gptkit_data::tokenizer::{END_OF_TEXT, Tokenizer};
use gptkit_model::folder::{save_ends, save_weights};
use gptkit_model::load::load_model;
use gptkit_model::{ClassHead, Gpt, HeadDescription, Params, Pass};
use gptkit_train::Resumable;
use gptkit_train::RunContext;
use gptkit_train::checkpoint;
use gptkit_train::config::{TrainConfig, default_seed};
use gptkit_train::learner::Supervised;
use gptkit_train::objective::{Objective, Validate, Validation};
use gptkit_train::stage::{Model, Stage, StageData};
use gptkit_train::start::{DropoutConfig, Start};
use gptkit_train::state::State;
use gptkit_train::trainer::Trainer;
use gptkit_train::training_data::TrainingData;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Configuration of `gptkit train-rm`; a preset `rm-*`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RewardConfig {
    /// One line that says what the configuration is for.
    #[serde(default)]
    pub description: String,
    /// Seed of all random draws.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The comparisons to learn.
    #[serde(default)]
    pub data: ComparisonConfig,
    /// Terms added to the loss.
    #[serde(default)]
    pub loss: LossConfig,
    /// How rewards are normalized.
    #[serde(default)]
    pub normalization: NormalizationConfig,
    /// Dropout probabilities; 0 when left out, as in lm-human-preferences, whatever the model's own are.
    #[serde(default)]
    pub dropout: DropoutConfig,
    /// How the model is trained. A row is a prompt with all its completions.
    pub train: TrainConfig,
}

impl Check for RewardConfig {
    fn check(&self, problems: &mut Problems) {
        problems.section("data", &self.data);
        problems.section("loss", &self.loss);
        problems.section("normalization", &self.normalization);
        problems.section("dropout", &self.dropout);
        problems.section("train", &self.train);
    }
}

/// File below a run that says what its model is worth.
pub const SCORES: &str = "scores.json";
/// Pictures of the same.
const PICTURES: [&str; 2] = ["calibration.svg", "rewards.svg"];
/// What batches are padded with elsewhere, where answers end with the end of text.
const PAD: &str = "<|pad|>";

/// Training of a reward model.
pub struct RewardModeling {
    config: RewardConfig,
    /// Model folder that a new run starts from.
    init: PathBuf,
}

/// What was measured once training has ended.
#[derive(Debug)]
pub struct RewardModelingReport {
    /// Agreement with the comparisons of the validation set; `None` if all its pairs are ties.
    pub scores: Option<RewardReport>,
    /// Whether the validation part consists of completions that the embedded corpus wrote, rather than a model.
    pub synthetic: bool,
}

/// Weights, and what a new run says of them in its folder.
pub struct RewardParts {
    params: Params,
    head: ClassHead,
    /// Padding token, and tokens that end a text, of a new run.
    description: Option<(Option<u32>, Vec<u32>)>,
}

impl RewardModeling {
    /// A run of `config`, which starts from the model folder `init`; a resumed run needs none.
    pub fn new(config: RewardConfig, init: Option<&Path>) -> Self {
        Self { config, init: init.map(Path::to_owned).unwrap_or_default() }
    }
}

impl Stage for RewardModeling {
    type Config = RewardConfig;
    type Learner = Supervised<Comparing>;
    type Parts = RewardParts;
    type Report = RewardModelingReport;

    const FILES: &'static [&'static str] = &[GROUPS[0], GROUPS[1], REFERENCES];

    fn config(&self) -> &RewardConfig {
        &self.config
    }

    fn train(&self) -> &TrainConfig {
        &self.config.train
    }

    fn train_mut(&mut self) -> &mut TrainConfig {
        &mut self.config.train
    }

    fn prepare(&mut self, aside: &Path, context: &RunContext) -> Result<Model<RewardParts>> {
        let (config, progress) = (&self.config, context.progress);
        let mut start = Start::load_transformer(&self.init, context.device)?;
        config.dropout.or_zero().apply(&mut start.config);
        let template = start.template(config.seed)?;
        let pad = padding(&mut start, &template, config.seed)?;
        let Start { config: shape, mut params, tokenizer, end_of_text, .. } = start;
        let encoder = GroupEncoder { tokenizer, template, context: shape.context };
        let counts = encode_all(&config.data, &encoder, aside, progress)?;
        say(&counts, progress);
        encoder.tokenizer.check_losses("the comparisons", progress)?;
        let [train, val] = GROUPS.map(|name| Groups::open(&aside.join(name), config.seed, Group::of));
        let train = train?;
        config.train.check_validation(!val?.records.is_empty())?; // before completions are sampled
        let gpt = Gpt::new(&shape, &params, config.train.dtype.precision())?;
        keep_references((&config.normalization, config.seed), &encoder, (&gpt, &end_of_text), &train, aside, progress)?;
        let head = ClassHead::init_reward(&mut params, shape.d_model, config.seed)?;
        let parts = RewardParts { params, head, description: Some((pad, end_of_text)) };
        Ok(Model { config: shape, tokenizer: encoder.tokenizer, parts })
    }

    fn load(&mut self, run: &Resumable, context: &RunContext) -> Result<Model<RewardParts>> {
        let (mut config, mut params) = load_model(&run.checkpoint, context.device)?;
        self.config.dropout.apply(&mut config); // the checkpoint has the rest as the run began
        let head = ClassHead::load(&mut params, &run.checkpoint)?;
        let tokenizer = Tokenizer::load(&run.checkpoint)?;
        Ok(Model { config, tokenizer, parts: RewardParts { params, head, description: None } })
    }

    fn open(&mut self, folder: &Path, _: &Model<RewardParts>, _: &RunContext) -> Result<StageData<Self>> {
        let [train, val] = GROUPS.map(|name| folder.join(name));
        let Groups { records, mean_tokens, .. } = Groups::open(&train, self.config.seed, Group::of)?;
        let val = Groups::open(&val, 0, Group::of)?.records;
        Ok(TrainingData::of_records(folder, records, mean_tokens, &val, &self.config.train))
    }

    fn describe(&self, model: &Model<RewardParts>, run: &Path) -> Result<()> {
        let Some((pad, ends)) = &model.parts.description else { return Ok(()) };
        save_ends(run, ends)?;
        description(*pad).save(run, &model.tokenizer)
    }

    fn learner(
        &mut self,
        model: Model<RewardParts>,
        data: &mut StageData<Self>,
        context: &RunContext,
    ) -> Result<Self::Learner> {
        let (config, RewardParts { params, head, .. }) = (&self.config, model.parts);
        let gpt = Gpt::new(&model.config, &params, config.train.dtype.precision())?;
        params.freeze_output();
        let comparing = Comparing { model: RewardModel { gpt, head }, loss: config.loss.clone() };
        let trainer = Trainer::new(comparing, params, &config.train, config.seed, context.ranks)?;
        Ok(Supervised::new(trainer, data))
    }

    fn announce(&self, learner: &Self::Learner, run: &Path, context: &RunContext) {
        let shape = learner.trainer().objective().model.gpt.config();
        context.progress.note(&format!(
            "{} parameters, {} of them in the head · {} prompts per step · to {}",
            grouped(shape.n_params() + shape.d_model as u64),
            grouped(shape.d_model as u64),
            self.config.train.batch_size,
            run.display()
        ));
    }

    fn report(
        &mut self,
        _: &mut Self::Learner,
        run: &Path,
        state: &State,
        context: &RunContext,
    ) -> Result<RewardModelingReport> {
        let scores = self.normalize_and_measure(run, state, context)?;
        Ok(RewardModelingReport { scores, synthetic: self.config.data.is_synthetic() })
    }
}

impl RewardModeling {
    /// Normalizes the rewards of the best weights and measures them on the whole validation part.
    fn normalize_and_measure(&self, run: &Path, state: &State, context: &RunContext) -> Result<Option<RewardReport>> {
        let config = &self.config;
        // As they were trained: those in the run's folder may be normalized already, when this was interrupted before.
        let best = checkpoint::best(run, state).unwrap_or_else(|| run.to_owned());
        let (shape, mut params) = load_model(&best, context.device)?;
        let head = ClassHead::load(&mut params, &best)?;
        let gpt = Gpt::new(&shape, &params, config.train.dtype.precision())?;
        let model = RewardModel { gpt, head };
        if let Some(note) = normalize(config.normalization.recipe, &model, &params, run)? {
            save_weights(run, &params)?;
            context.progress.note(&note);
        }
        let [train, val] = GROUPS.map(|name| run.join(name));
        let longer_won = Groups::open(&train, config.seed, Group::of)?.longer_wins;
        let batches = Groups::open(&val, 0, Group::of)?.records.all(config.train.micro_batch(), usize::MAX);
        let judged = rewards_of(&model, batches.iter().map(Vec::as_slice))?;
        let Some(report) = RewardReport::of(&judged, longer_won) else { return Ok(None) };
        gptkit_data::disk::write_json(&run.join(SCORES), &report)?;
        for (name, picture) in PICTURES.into_iter().zip([charts::calibration(&report), charts::rewards(&judged)]) {
            gptkit_data::disk::write(&run.join(name), picture.as_bytes())?;
        }
        Ok(Some(report))
    }
}

/// A token for padding, for who reads the folder elsewhere: transformers reads the reward at the last other token, so that it
/// must not be the one that ends an answer.
fn padding(start: &mut Start, template: &Template, seed: u64) -> Result<Option<u32>> {
    if start.tokenizer.end_of_text().is_none() {
        start.add_tokens(&[END_OF_TEXT], seed)?;
    }
    let end = template.end_token(&start.tokenizer)?;
    let own = start.tokenizer.pad();
    if end.is_none() || own.is_some() && own != end {
        return Ok(own);
    }
    if end != start.tokenizer.end_of_text() {
        return Ok(start.tokenizer.end_of_text());
    }
    start.add_tokens(&[PAD], seed)?;
    Ok(start.tokenizer.token_id(PAD))
}

fn description(pad: Option<u32>) -> HeadDescription {
    let task = HeadDescription::REWARD.to_owned();
    HeadDescription { labels: vec![task.clone()], is_number: true, task, pad, more: json!({}) }
}

/// The objective of a reward model: the loss of all pairs of each group.
pub struct Comparing {
    model: RewardModel,
    loss: LossConfig,
}

impl Objective for Comparing {
    type Batch = Vec<Group>;
    type Metrics = ();

    fn rows(&self, batch: &Vec<Group>) -> usize {
        batch.len()
    }

    fn loss(&self, batch: &Vec<Group>, rows: Range<usize>, pass: Pass) -> Result<(Tensor, ())> {
        let groups = &batch[rows];
        let rewards = self.model.of_groups(groups, pass)?; // [N]
        let pairs = Pairs::of(groups.iter().map(|group| group.places.as_slice()), batch.len());
        Ok((pairs.loss(&rewards, &self.loss)?, ()))
    }
}

impl Validate for Comparing {
    fn n_tokens(&self, batch: &Vec<Group>) -> u64 {
        batch.iter().flat_map(|group| &group.sequences).map(|sequence| sequence.len() as u64).sum()
    }

    /// The rewards of the answers.
    fn outputs(&self, batch: &Vec<Group>) -> Result<Vec<f32>> {
        Ok(self.model.of_groups(batch, Pass::Eval)?.to_vec1()?)
    }

    fn conclude(&self, batches: &[Vec<Group>], outputs: &[Vec<f32>]) -> Result<Validation> {
        let judged: Vec<RankedPrompt> =
            batches.iter().zip(outputs).flat_map(|(batch, rewards)| ranked(batch, rewards)).collect();
        let report = RewardReport::of(&judged, 0.5).context("the validation set has no pairs")?;
        let scores = BTreeMap::from([("accuracy".to_owned(), report.accuracy.value)]);
        Ok(Validation::new(report.loss, scores))
    }
}

/// The rewards of the groups of `batches`.
fn rewards_of<'a>(model: &RewardModel, batches: impl IntoIterator<Item = &'a [Group]>) -> Result<Vec<RankedPrompt>> {
    let mut judged = Vec::new();
    for batch in batches {
        judged.extend(ranked(batch, &model.of_groups(batch, Pass::Eval)?.to_vec1()?));
    }
    Ok(judged)
}

/// The groups of `batch` with their `rewards`, which follow each other.
fn ranked(batch: &[Group], rewards: &[f32]) -> Vec<RankedPrompt> {
    let mut rewards = rewards.iter().copied();
    batch.iter().map(|group| RankedPrompt::new(group, rewards.by_ref().take(group.len()).collect())).collect()
}

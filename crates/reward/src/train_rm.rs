//! The stage: a model that answers becomes one that rewards (Ouyang et al. 2022, §3.5 and appendix C.2).

use crate::charts;
use crate::group::{Group, GroupEncoder};
use crate::groups::{ComparisonConfig, FILES, Groups, encode_all, say};
use crate::loss::{LossConfig, Pairs};
use crate::model::RewardModel;
use crate::normalization::{NormalizationConfig, REFERENCES, keep_references, normalize};
use crate::report::{RankedPrompt, RewardReport};
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use gptkit_config::{Check, Problems};
use gptkit_data::batch::Prefetch;
use gptkit_data::disk::{Claim, Scratch};
use gptkit_data::progress::grouped;
use gptkit_data::template::Template;
use gptkit_data::tokenizer::END_OF_TEXT;
use gptkit_model::folder::{load_model, save_ends, save_weights};
use gptkit_model::{ClassHead, Gpt, HeadDescription, ModelConfig, Params, Pass};
use gptkit_sft::start::{DropoutConfig, Start};
use gptkit_train::Resumable;
use gptkit_train::checkpoint::{self, State, TextSeen};
use gptkit_train::config::TrainConfig;
use gptkit_train::fit::{Sitting, Summary, Trainer, fit};
use gptkit_train::objective::{Objective, Validate, Validation};
use gptkit_train::run::Run;
use gptkit_train::schedule::Schedule;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// All that a run of `gptkit train-rm` is told; a file `configs/rm-*.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardConfig {
    /// What it is, in a line.
    #[serde(default)]
    pub description: String,
    /// Seed of everything that is drawn.
    #[serde(default = "seed")]
    pub seed: u64,
    /// The comparisons.
    #[serde(default)]
    pub data: ComparisonConfig,
    /// What is added to the loss.
    #[serde(default)]
    pub loss: LossConfig,
    /// Where rewards are 0.
    #[serde(default)]
    pub normalization: NormalizationConfig,
    /// None where nothing is said, whatever the model was trained with before, as lm-human-preferences has it.
    #[serde(default)]
    pub dropout: DropoutConfig,
    /// The training; a row is a prompt with all its completions.
    pub train: TrainConfig,
}

fn seed() -> u64 {
    1
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

/// What a run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// Its folder: the reward model.
    pub folder: PathBuf,
    /// How it ended.
    pub summary: Summary,
    /// What it is worth on the validation part, once the run has ended.
    pub report: Option<RewardReport>,
    /// Whether the validation part is of answers that the embedded world wrote, rather than a model.
    pub synthetic: bool,
}

/// File below a run that says what its model is worth.
pub const SCORES: &str = "scores.json";
/// Pictures of the same.
const PICTURES: [&str; 2] = ["calibration.svg", "rewards.svg"];
/// What batches are padded with elsewhere, where answers end with the end of text.
const PAD: &str = "<|pad|>";

/// Trains the model in `init` on the comparisons of `config`, and leaves it in the folder of `claim`.
///
/// # Errors
/// When comparisons and model do not fit together, or the run fails.
pub fn train_rm(mut config: RewardConfig, init: &Path, claim: Claim, sitting: &Sitting) -> Result<Outcome> {
    config.train.settle();
    let out = &claim.folder().to_owned();
    let mut start = Start::load(init, sitting.device)?;
    config.dropout.or_none().apply(&mut start.config);
    let template = start.template(config.seed)?;
    let pad = padding(&mut start, &template, config.seed)?;
    let Start { config: shape, mut params, tokenizer, end_of_text, .. } = start;
    let encoder = GroupEncoder { tokenizer, template, context: shape.context };
    let aside = Scratch::beside(claim.folder())?;
    let counts = encode_all(&config.data, &encoder, aside.path(), sitting.progress)?;
    let data = Data::open(&config, aside.path())?;
    config.train.validate_each_epoch(data.train.records.len());
    config.train.check_validation(!data.val.records.is_empty())?;
    say(&counts, sitting.progress);
    encoder.tokenizer.check_losses("the comparisons", sitting.progress)?;
    let gpt = Gpt::new(&shape, &params, config.train.dtype.precision())?;
    let normalization = (&config.normalization, config.seed);
    keep_references(normalization, &encoder, (&gpt, &end_of_text), &data.train, aside.path(), sitting.progress)?;

    let resolved = gptkit_config::resolved(&config).context("the configuration cannot be written")?;
    gptkit_train::plan::must_fit(&shape, &config.train, sitting.device)?;
    let run = Run::create(claim, &resolved, &shape, &encoder.tokenizer)?;
    save_ends(out, &end_of_text)?;
    description(pad).save(out, &encoder.tokenizer)?;
    run.take_in(aside.path(), &[FILES[0], FILES[1], REFERENCES])?;
    drop(aside); // nothing of it is left when training is killed
    let head = ClassHead::init_reward(&mut params, shape.d_model, config.seed)?;
    sitting.progress.note(&format!(
        "{} parameters, {} of them in the head · {} prompts a step · to {}",
        grouped(shape.n_params() + shape.d_model as u64),
        grouped(shape.d_model as u64),
        config.train.batch_size,
        out.display()
    ));
    let trainer = trainer(&config, &shape, params, head)?;
    let text = TextSeen { shards: std::path::absolute(out)?, fingerprint: data.train.records.fingerprint() };
    go_on(&config, trainer, State { text, ..State::default() }, data, run, sitting)
}

/// Goes on with `run` as if it had not been interrupted. `config` is the run's own `config.toml`.
///
/// # Errors
/// When the comparisons or the checkpoint are damaged, or the run fails.
pub fn resume(config: &RewardConfig, run: Resumable, sitting: &Sitting) -> Result<Outcome> {
    let Resumable { folder, checkpoint, state, lock, .. } = run;
    let (mut shape, mut params) = load_model(&checkpoint, sitting.device)?;
    config.dropout.apply(&mut shape); // the checkpoint has the rest as the run began
    let head = ClassHead::load(&mut params, &checkpoint)?;
    let data = Data::open(config, &folder)?;
    ensure!(
        data.train.records.fingerprint() == state.text.fingerprint,
        "{} is not what the run began with: it was changed since",
        folder.join(FILES[0]).display()
    );
    let mut trainer = trainer(config, &shape, params, head)?;
    trainer.restore(&checkpoint, &state)?;
    sitting.progress.note(&format!("resumed {} after step {}", folder.display(), state.step));
    let run = Run::resume(&folder, lock, &checkpoint, &state, sitting.progress)?;
    go_on(config, trainer, state, data, run, sitting)
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

/// What a run reads.
struct Data {
    train: Groups,
    val: Groups,
}

impl Data {
    fn open(config: &RewardConfig, folder: &Path) -> Result<Self> {
        let [train, val] = FILES.map(|name| folder.join(name));
        Ok(Self { train: Groups::open(&train, config.seed, Group::of)?, val: Groups::open(&val, 0, Group::of)? })
    }
}

/// Comparisons as the loop sees them.
struct Comparing {
    model: RewardModel,
    loss: LossConfig,
}

impl Objective for Comparing {
    type Batch = Vec<Group>;

    fn rows(&self, batch: &Vec<Group>) -> usize {
        batch.len()
    }

    fn loss(&self, batch: &Vec<Group>, rows: Range<usize>, pass: Pass) -> Result<Tensor> {
        let groups = &batch[rows];
        let rewards = self.model.of_groups(groups, pass)?; // [N]
        Pairs::of(groups.iter().map(|group| group.places.as_slice()), batch.len()).loss(&rewards, &self.loss)
    }
}

impl Validate for Comparing {
    fn n_tokens(&self, batch: &Vec<Group>) -> u64 {
        batch.iter().flat_map(|group| &group.sequences).map(|sequence| sequence.len() as u64).sum()
    }

    fn validate(&self, batches: &[Vec<Group>]) -> Result<Validation> {
        let judged = judge(&self.model, batches.iter().map(Vec::as_slice))?;
        let report = RewardReport::of(&judged, 0.5).context("there is no pair to validate on")?;
        let scores = BTreeMap::from([("accuracy".to_owned(), report.accuracy.value)]);
        Ok(Validation { loss: report.loss, scores, chosen_by: report.loss })
    }
}

/// The rewards of the groups of `batches`.
fn judge<'a>(model: &RewardModel, batches: impl IntoIterator<Item = &'a [Group]>) -> Result<Vec<RankedPrompt>> {
    let mut judged = Vec::new();
    for batch in batches {
        let mut rewards = model.of_groups(batch, Pass::Eval)?.to_vec1::<f32>()?.into_iter();
        judged.extend(batch.iter().map(|group| RankedPrompt {
            places: group.places.clone(),
            rewards: rewards.by_ref().take(group.len()).collect(),
            lengths: (0..group.len()).map(|i| group.length(i)).collect(),
            gold: group.gold.clone(),
        }));
    }
    Ok(judged)
}

fn trainer(config: &RewardConfig, shape: &ModelConfig, params: Params, head: ClassHead) -> Result<Trainer<Comparing>> {
    let gpt = Gpt::new(shape, &params, config.train.dtype.precision())?;
    params.freeze_output();
    let comparing = Comparing { model: RewardModel { gpt, head }, loss: config.loss.clone() };
    Trainer::new(comparing, params, &config.train, config.seed)
}

fn go_on(
    config: &RewardConfig,
    mut trainer: Trainer<Comparing>,
    state: State,
    data: Data,
    mut run: Run,
    sitting: &Sitting,
) -> Result<Outcome> {
    let Data { train, val } = data;
    let TrainConfig { eval_windows, .. } = config.train;
    let validation = val.records.all(config.train.micro_batch(), eval_windows);
    let (longer_won, records) = (train.longer_wins, train.records);
    // Rows are prompts of about so many tokens.
    let schedule = Schedule::new(&config.train, train.mean_tokens, records.len());
    let plan = schedule.steps().skip(state.step as usize).map(|step| (step.first_row, step.rows));
    let batches = Prefetch::new(move |first, rows| records.batch(first, rows), plan);
    let summary = fit(&mut trainer, state, &schedule, batches, &validation, &mut run, sitting)?;
    run.draw()?;
    let folder = run.folder().to_owned();
    let mut outcome = Outcome { folder, summary, report: None, synthetic: config.data.is_synthetic() };
    if outcome.summary.stop.is_none() {
        outcome.report = finish(config, &outcome, &val, longer_won, sitting)?;
    }
    Ok(outcome)
}

/// Once training has ended: sets where the best weights' rewards are 0, and measures them on the whole validation part.
fn finish(
    config: &RewardConfig,
    Outcome { folder, summary, .. }: &Outcome,
    val: &Groups,
    longer_won: f64,
    sitting: &Sitting,
) -> Result<Option<RewardReport>> {
    // As they were trained: those in the run's folder may be normalized already, when this was interrupted before.
    let best = checkpoint::best(folder, &summary.state).unwrap_or_else(|| folder.clone());
    let (shape, mut params) = load_model(&best, sitting.device)?;
    let head = ClassHead::load(&mut params, &best)?;
    let gpt = Gpt::new(&shape, &params, config.train.dtype.precision())?;
    let model = RewardModel { gpt, head };
    if let Some(found) = normalize(config.normalization.recipe, &model, &params, folder)? {
        save_weights(folder, &params)?;
        sitting.progress.note(&found);
    }
    let batches = val.records.all(config.train.micro_batch(), usize::MAX);
    let judged = judge(&model, batches.iter().map(Vec::as_slice))?;
    let Some(report) = RewardReport::of(&judged, longer_won) else { return Ok(None) };
    gptkit_data::disk::write(&folder.join(SCORES), (serde_json::to_string_pretty(&report)? + "\n").as_bytes())?;
    for (name, picture) in PICTURES.into_iter().zip([charts::calibration(&report), charts::rewards(&judged)]) {
        gptkit_data::disk::write(&folder.join(name), picture.as_bytes())?;
    }
    Ok(Some(report))
}

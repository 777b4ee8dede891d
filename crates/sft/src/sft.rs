//! InstructGPT's first step: a language model learns to answer from demonstrations (Ouyang et al. 2022, §3.5).

use crate::answers::{Answerer, Asked, ask_after, ask_before};
use crate::dialogues::{Counts, Demonstrations, DialogueConfig, FILES, Mixed, encode_all};
use crate::mixing::Mixing;
use crate::start::{DropoutConfig, Start};
use anyhow::{Context, Result, ensure};
use gptkit_config::{Check, Problems};
use gptkit_data::batch::{Batch, Prefetch, Windows};
use gptkit_data::disk::{Claim, Scratch};
use gptkit_data::prepare::{Prepared, prepare};
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::source::{DataConfig, SourceLocation};
use gptkit_data::synthetic::InstructionKind;
use gptkit_data::template::Template;
use gptkit_data::tokenizer::{Tokenizer, TokenizerConfig};
use gptkit_model::folder::{ModelFolder, load_config, load_model, save_description, save_ends};
use gptkit_model::{Gpt, LoraConfig, Weights};
use gptkit_train::Resumable;
use gptkit_train::checkpoint::{State, TextSeen};
use gptkit_train::config::TrainConfig;
use gptkit_train::fit::{Sitting, Summary, Trainer, fit};
use gptkit_train::objective::{LanguageModeling, Validate};
use gptkit_train::run::Run;
use gptkit_train::schedule::Schedule;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// All that a run of `gptkit sft` is told; a file `configs/sft-*.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SftConfig {
    /// What it is, in a line.
    #[serde(default)]
    pub description: String,
    /// Seed of everything that is drawn.
    #[serde(default = "seed")]
    pub seed: u64,
    /// The dialogues.
    #[serde(default)]
    pub data: DialogueConfig,
    /// Pretraining text that is mixed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretraining: Option<MixConfig>,
    /// In the place of the model's own.
    #[serde(default)]
    pub dropout: DropoutConfig,
    /// Adapters, when only they are trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// The training; a row is a demonstration.
    pub train: TrainConfig,
}

fn seed() -> u64 {
    1
}

/// Text that is read beside the dialogues; TOML section `[pretraining]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixConfig {
    /// Its share of the loss, which is (1 − share) · mean over the trained tokens of the demonstrations + share · mean over
    /// the tokens of the text. About the same share of the tokens that are read is text, and at least a window a batch. A
    /// tenth for the models that PPO starts from (Ouyang et al. 2022, appendix C.3).
    pub share: f64,
    /// The text, as in `[data]` of pretraining.
    #[serde(flatten)]
    pub text: DataConfig,
}

impl Check for SftConfig {
    fn check(&self, problems: &mut Problems) {
        problems.section("data", &self.data);
        problems.section("dropout", &self.dropout);
        problems.section("train", &self.train);
        if let Some(lora) = &self.lora {
            problems.section("lora", lora);
        }
        if let Some(mix) = &self.pretraining {
            let share = (0.0..1.0).contains(&mix.share);
            problems.require(share, "pretraining.share", "is not a share below 1", "use 0.1");
            problems.section("pretraining", &mix.text);
        }
    }
}

/// What a run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// Its folder: the model, or the adapters, with the lowest validation loss.
    pub folder: PathBuf,
    /// How it ended.
    pub summary: Summary,
    /// Validation loss of what it started from, when this sitting began the run.
    pub loss_before: Option<f64>,
    /// The fixed prompts with their answers, once the run has ended.
    pub answers: Vec<Asked>,
    /// Held-out instructions of the embedded world that the model follows, of how many, by kind, where they were learned.
    pub world: Option<BTreeMap<InstructionKind, (u32, u32)>>,
}

/// The newest weights, which may answer better than those of the lowest loss: the paper went on past it, and chose by
/// reward.
pub const LAST: &str = "last";

/// Trains the model in `init` on the dialogues of `config`, and leaves it in the folder of
/// `claim`.
///
/// # Errors
/// When dialogues and model do not fit together, or the run fails.
pub fn sft(mut config: SftConfig, init: &Path, claim: Claim, sitting: &Sitting) -> Result<Outcome> {
    config.train.settle();
    let out = &claim.folder().to_owned();
    let (start, template) = begin(&config, init, sitting)?;
    let aside = Scratch::beside(claim.folder())?;
    let context = start.config.context;
    let counts = encode_all(&config.data, &template, &start.tokenizer, context, aside.path(), sitting.progress)?;
    let data = Data::open(&config, &start.tokenizer, context, aside.path(), sitting.progress)?;
    config.train.validate_each_epoch(data.train.len());
    config.train.check_validation(!data.validation.is_empty())?;
    say(&counts, sitting.progress);
    start.tokenizer.check_losses("the dialogues", sitting.progress)?;

    let resolved = gptkit_config::resolved(&config).context("the configuration cannot be written")?;
    gptkit_train::plan::must_fit(&start.config, &config.train, sitting.device)?;
    let run = Run::create(claim, &resolved, &start.config, &start.tokenizer)?;
    let ends = start.ends(&template)?;
    save_ends(out, &ends)?;
    run.take_in(aside.path(), &FILES)?;
    drop(aside); // nothing of it is left when training is killed
    let weights = start.weights(config.lora.as_ref(), config.seed, sitting.progress)?;
    let n_trained: u64 = weights.trained().iter().map(|(_, p)| p.var().elem_count() as u64).sum();
    let n_params = start.config.n_params();
    sitting.progress.note(&format!(
        "{} of {} parameters are trained ({:.1}%) · {} demonstrations a step · to {}",
        grouped(n_trained),
        grouped(n_params),
        100.0 * n_trained as f64 / n_params as f64,
        config.train.batch_size,
        out.display()
    ));
    let gpt = Gpt::new(&start.config, weights.params(), config.train.dtype.precision())?;
    let answerer = Answerer { model: &gpt, tokenizer: &start.tokenizer, template: &template, ends: &ends };
    ask_before(out, &config.data, &answerer, sitting.progress)?;
    let trainer = trainer(&config, gpt, weights)?;
    let loss_before = match data.validation.is_empty() {
        true => None,
        false => Some(trainer.objective().validate(&data.validation)?.loss),
    };
    let text = TextSeen { shards: std::path::absolute(out)?, fingerprint: data.train.fingerprint() };
    let mut outcome = go_on(&config, trainer, State { text, ..State::default() }, data, run, sitting)?;
    outcome.loss_before = loss_before;
    Ok(outcome)
}

/// Goes on with `run` as if it had not been interrupted. `config` is the run's own `config.toml`.
///
/// # Errors
/// When the dialogues or the checkpoint are damaged, or the run fails.
pub fn resume(config: &SftConfig, run: Resumable, sitting: &Sitting) -> Result<Outcome> {
    let Resumable { folder, checkpoint, state, lock, .. } = run;
    let mut shape = load_config(&checkpoint)?;
    config.dropout.apply(&mut shape); // adapters know their base's
    let weights = match &config.lora {
        None => load_model(&checkpoint, sitting.device)?.1.into(),
        Some(_) => Weights::load_adapted(&checkpoint, sitting.device)?,
    };
    let tokenizer = Tokenizer::load(&checkpoint)?;
    let data = Data::open(config, &tokenizer, shape.context, &folder, sitting.progress)?;
    ensure!(
        !data.train.was_packed(&state.text.fingerprint),
        "{} was started by an earlier version, which counted train.batch_size in windows instead of demonstrations; start a \
         new run",
        folder.display()
    );
    ensure!(
        data.train.fingerprint() == state.text.fingerprint,
        "{} is not what the run began with: it was changed since",
        folder.join(FILES[0]).display()
    );
    let gpt = Gpt::new(&shape, weights.params(), config.train.dtype.precision())?;
    let mut trainer = trainer(config, gpt, weights)?;
    trainer.restore(&checkpoint, &state)?;
    sitting.progress.note(&format!("resumed {} after step {}", folder.display(), state.step));
    let run = Run::resume(&folder, lock, &checkpoint, &state, sitting.progress)?;
    go_on(config, trainer, state, data, run, sitting)
}

/// The batch of step number `step` of a run of `config` from the model in `init`, and the tokenizer that made it:
/// demonstrations, then pretraining text if some is mixed in.
///
/// # Errors
/// As [`sft`].
pub fn batch_of_step(config: SftConfig, init: &Path, step: u64, sitting: &Sitting) -> Result<(Tokenizer, Vec<Batch>)> {
    let (start, template) = begin(&config, init, sitting)?;
    let aside = tempfile::tempdir()?;
    let context = start.config.context;
    encode_all(&config.data, &template, &start.tokenizer, context, aside.path(), sitting.progress)?;
    let data = Data::open(&config, &start.tokenizer, context, aside.path(), sitting.progress)?;
    let schedule = schedule(&config, &data.train);
    let found = schedule.steps().nth(step as usize - 1);
    let found = found.with_context(|| format!("the run has {} steps, and no step {step}", schedule.n_steps()))?;
    let Mixed { dialogues, text } = data.train.batch(found.first_row, found.rows);
    Ok((start.tokenizer, std::iter::once(dialogues).chain(text).collect()))
}

/// The plan of a run: rows are demonstrations of about so many tokens.
fn schedule(config: &SftConfig, train: &Demonstrations) -> Schedule {
    Schedule::new(&config.train, train.mean_tokens(), train.len())
}

fn trainer(config: &SftConfig, gpt: Gpt, weights: Weights) -> Result<Trainer<Mixing>> {
    let share = config.pretraining.as_ref().map_or(0.0, |mix| mix.share);
    Trainer::new(Mixing { model: LanguageModeling(gpt), share }, weights, &config.train, config.seed)
}

/// The model in `init` as the stage begins with it, and its template; the default when it brings none.
fn begin(config: &SftConfig, init: &Path, sitting: &Sitting) -> Result<(Start, Template)> {
    let mut start = Start::load(init, sitting.device)?;
    config.dropout.apply(&mut start.config);
    let template = start.template(config.seed)?;
    // What the template refuses is said of the records.
    if matches!(template.is_endless(), Ok(true)) {
        sitting.progress.warn(&format!(
            "the chat template of {} writes nothing after an answer, so that the model will not learn where to stop",
            init.display()
        ));
    }
    Ok((start, template))
}

/// What a run reads.
struct Data {
    train: Demonstrations,
    validation: Vec<Mixed>,
}

impl Data {
    fn open(
        config: &SftConfig,
        tokenizer: &Tokenizer,
        context: usize,
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let [train, val] = FILES.map(|name| folder.join(name));
        let mut train = Demonstrations::open(&train, context, config.seed)?;
        if let Some(mix) = config.pretraining.as_ref().filter(|mix| mix.share > 0.0) {
            let corpus = prepared_text(&mix.text, tokenizer, progress)?.corpus;
            train.mix_in(Windows::new(corpus, context, config.seed)?, mix.share, config.train.batch_size);
        }
        let TrainConfig { eval_windows, .. } = config.train;
        let validation = Demonstrations::open(&val, context, 0)?.all(config.train.micro_batch(), eval_windows);
        Ok(Self { train, validation })
    }
}

/// Pretraining text in the tokens of `tokenizer`.
///
/// # Errors
/// When it cannot be read or prepared.
pub fn prepared_text(text: &DataConfig, tokenizer: &Tokenizer, progress: &dyn Progress) -> Result<Prepared> {
    let aside = tempfile::tempdir()?;
    tokenizer.save(aside.path())?;
    prepare(text, &TokenizerConfig::load_from(aside.path()), None, progress)
}

fn say(counts: &Counts, progress: &dyn Progress) {
    let Counts { train: n, val, truncated, dropped, trained_tokens, masked_tokens, rewritten, .. } = *counts;
    progress.note(&format!(
        "{} dialogues to learn, {} to validate · tokens: {} trained on, {} masked",
        grouped(n as u64),
        grouped(val as u64),
        grouped(trained_tokens),
        grouped(masked_tokens)
    ));
    if val == 0 {
        progress.warn("no dialogues are held out for validation, so the last weights are kept");
    }
    if rewritten > 0 {
        progress.warn(&format!(
            "{} answers that are not the last of their dialogue are not learned: the chat template writes them in another way \
             once the dialogue goes on, for instance without thoughts",
            grouped(rewritten as u64)
        ));
    }
    if counts.unmarked > 0 {
        let n = grouped(counts.unmarked as u64);
        progress.warn(&format!("{n} dialogues are left out: none of their messages is to be learned, by their marks"));
    }
    if truncated > 0 {
        progress.warn(&format!(
            "{} dialogues are longer than the window and were cut; of {} of them nothing to learn was left",
            grouped(truncated as u64),
            grouped(dropped as u64)
        ));
    }
}

fn go_on(
    config: &SftConfig,
    mut trainer: Trainer<Mixing>,
    state: State,
    data: Data,
    mut run: Run,
    sitting: &Sitting,
) -> Result<Outcome> {
    let Data { train, validation } = data;
    let schedule = schedule(config, &train);
    let plan = schedule.steps().skip(state.step as usize).map(|step| (step.first_row, step.rows));
    let batches = Prefetch::new(move |first, rows| train.batch(first, rows), plan);
    let summary = fit(&mut trainer, state, &schedule, batches, &validation, &mut run, sitting)?;
    run.draw()?;
    let folder = run.folder().to_owned();
    let mut outcome = Outcome { folder, summary, loss_before: None, answers: Vec::new(), world: None };
    if outcome.summary.stop.is_none() {
        finish(config, &trainer, &mut outcome, sitting)?;
    }
    Ok(outcome)
}

/// Once training has ended: keeps the last weights, and asks the best ones.
fn finish(config: &SftConfig, trainer: &Trainer<Mixing>, outcome: &mut Outcome, sitting: &Sitting) -> Result<()> {
    let folder = &outcome.folder;
    let last = folder.join(LAST);
    let best = ModelFolder::load(folder, sitting.device)?;
    save_description(&last, &best.config, &best.tokenizer)?;
    save_ends(&last, &best.end_of_text)?;
    trainer.weights().save(&last)?;
    let template = Template::of(&best.tokenizer)?.context("the run's folder has lost its chat template")?;
    let gpt = Gpt::new(&best.config, &best.params, config.train.dtype.precision())?;
    let answerer = Answerer { model: &gpt, tokenizer: &best.tokenizer, template: &template, ends: &best.end_of_text };
    outcome.answers = ask_after(folder, &answerer, sitting.progress)?;
    let worlds = config.data.sources.iter().filter_map(|source| match SourceLocation::of_records(source) {
        Ok(SourceLocation::World { seed, .. }) => Some(seed),
        _ => None,
    });
    if let Some(seed) = worlds.into_iter().next() {
        outcome.world = Some(answerer.grade_world(seed, GRADED, sitting.progress)?);
    }
    Ok(())
}

/// Held-out instructions that are graded.
const GRADED: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_train::Span;

    /// Ouyang et al. 2022: some 13,000 demonstrations, 16 epochs, 32 a batch.
    #[test]
    fn the_papers_preset_makes_the_papers_number_of_updates_at_any_length() {
        let text = include_str!("../../../configs/sft-instructgpt.toml");
        let config: SftConfig = gptkit_config::load("sft-instructgpt", text, &[]).unwrap();
        for mean_tokens in [40, 128, 700, 2000] {
            assert_eq!(Schedule::new(&config.train, mean_tokens, 13_000).n_steps(), 6_500);
        }
    }

    #[test]
    fn an_epoch_is_validated_once() {
        let text = r#"{ "train": { "length": "3 epochs", "batch_size": 8, "lr": 1e-3 } }"#;
        let mut config: SftConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.train.length, Span::Epochs(3.0));
        config.train.validate_each_epoch(81);
        assert_eq!(config.train.eval_every, Some(11));
        config.train.validate_each_epoch(5);
        assert_eq!(config.train.eval_every, Some(11), "what was said stays");
    }
}

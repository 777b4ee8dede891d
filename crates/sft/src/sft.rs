//! InstructGPT's first step: a language model learns to answer from demonstrations (Ouyang et al. 2022, §3.5).

use crate::answers::{Answerer, Asked, ask_after, ask_before, first_question};
use crate::dialogues::{DemonstrationBatch, Demonstrations, DialogueConfig, DialogueCounts, FILES, encode_all};
use crate::mixing::Mixing;
use anyhow::{Context, Result, ensure};
use gptkit_config::{Check, Problems};
use gptkit_data::batch::{Batch, Windows};
use gptkit_data::dialogue::{Message, Role};
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::source::{DataConfig, SourceLocation};
use gptkit_data::synthetic::InstructionKind;
use gptkit_data::template::{Template, encode};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::folder::{save_description, save_ends};
use gptkit_model::load::{ModelFolder, end_tokens, load_config, load_trained_weights};
use gptkit_model::{Gpt, LoraConfig, Weights};
use gptkit_train::Resumable;
use gptkit_train::RunContext;
use gptkit_train::config::{TrainConfig, default_seed};
use gptkit_train::language_modeling::LanguageModeling;
use gptkit_train::learner::Supervised;
use gptkit_train::run::Run;
use gptkit_train::samples::{SamplePrompt, SamplesConfig, TextSampler};
use gptkit_train::stage::{self, Model, Stage, StageData};
use gptkit_train::start::{DropoutConfig, Start, prepared_text};
use gptkit_train::state::{DataSeen, State};
use gptkit_train::trainer::Trainer;
use gptkit_train::training_data::TrainingData;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Configuration of `gptkit sft`; a preset `sft-*`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SftConfig {
    /// One line that says what the configuration is for.
    #[serde(default)]
    pub description: String,
    /// Seed of all random draws.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The dialogues to learn.
    #[serde(default)]
    pub data: DialogueConfig,
    /// Pretraining text mixed into the training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretraining: Option<MixConfig>,
    /// Dropout probabilities that replace the model's own.
    #[serde(default)]
    pub dropout: DropoutConfig,
    /// LoRA adapters; all weights are trained when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// How the model is trained. A row is a dialogue.
    pub train: TrainConfig,
    /// Answers to questions during training.
    #[serde(default)]
    pub samples: SamplesConfig,
}

/// Pretraining text mixed into the training; TOML section `[pretraining]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MixConfig {
    /// Weight of the text in the loss: (1 − share) · mean loss over the trained tokens of the dialogues + share · mean loss
    /// over the tokens of the text. About this share of the tokens in a batch is text, and at least one window. Ouyang et
    /// al. 2022 (appendix C.3) use 0.1 for the models that PPO starts from.
    pub share: f64,
    /// The text, with the keys of `[data]` of `gptkit pretrain`.
    #[serde(flatten)]
    pub text: DataConfig,
}

impl Check for SftConfig {
    fn check(&self, problems: &mut Problems) {
        problems.section("data", &self.data);
        problems.section("dropout", &self.dropout);
        problems.section("train", &self.train);
        problems.section("samples", &self.samples);
        if let Some(lora) = &self.lora {
            problems.section("lora", lora);
        }
        if let Some(mix) = &self.pretraining {
            let share = (0.0..1.0).contains(&mix.share);
            problems.require(share, "pretraining.share", "must be at least 0 and below 1", "use 0.1");
            problems.section("pretraining", &mix.text);
        }
    }
}

/// Supervised fine-tuning on dialogues.
pub struct Sft {
    config: SftConfig,
    /// Model folder that a new run starts from.
    init: PathBuf,
    /// Fingerprint of the records as earlier versions took it, who packed them into windows; once they are open.
    packed_fingerprint: String,
    /// How the model answers, once it is loaded.
    dialogue: Option<DialogueSetup>,
    /// The first dialogue of the fixed prompts of a resumed run.
    question: Option<Vec<Message>>,
    /// Validation loss before the first step of a new run.
    loss_before: Option<f64>,
}

/// What it takes to ask a model.
struct DialogueSetup {
    tokenizer: Arc<Tokenizer>,
    template: Template,
    ends: Vec<u32>,
}

/// What was measured once training has ended.
#[derive(Debug)]
pub struct SftReport {
    /// Validation loss of the model that training started from, if this process began the run.
    pub loss_before: Option<f64>,
    /// The fixed prompts with their answers.
    pub answers: Vec<Asked>,
    /// How many held-out instructions of the embedded corpus the model follows, of how many, by kind; where it learned from
    /// that corpus.
    pub world: Option<BTreeMap<InstructionKind, (u32, u32)>>,
}

/// Folder with the newest weights below a run, which may answer better than those of the lowest loss: the paper trained past
/// the lowest loss, and chose by reward.
pub const LAST: &str = "last";

/// Weights, and how the model answers.
pub struct SftParts {
    weights: Weights,
    template: Template,
    /// Tokens that end an answer.
    ends: Vec<u32>,
}

impl Sft {
    /// A run of `config`, which starts from the model folder `init`; a resumed run needs none.
    pub fn new(config: SftConfig, init: Option<&Path>) -> Self {
        let init = init.map(Path::to_owned).unwrap_or_default();
        Self { config, init, packed_fingerprint: String::new(), dialogue: None, question: None, loss_before: None }
    }

    /// Has `learner` answer the prompts of the configuration, by default the last message of `question`.
    fn write_samples(&self, learner: &mut Supervised<Mixing>, question: Option<Vec<Message>>) -> Result<()> {
        let (SftConfig { samples, seed, .. }, Some(dialogue)) = (&self.config, &self.dialogue) else { return Ok(()) };
        let asked: Vec<Vec<Message>> = match &samples.prompts {
            Some(prompts) => prompts.iter().map(|text| vec![Message::new(Role::User, text)]).collect(),
            None => question.into_iter().collect(),
        };
        if asked.is_empty() {
            return Ok(());
        }
        let prompt = |messages: &Vec<Message>| {
            let text = messages.last().map(|message| message.content.clone()).unwrap_or_default();
            let tokens = encode(&dialogue.template.prompt(messages)?, &dialogue.tokenizer)?;
            anyhow::Ok(SamplePrompt { text, tokens: tokens.into_iter().map(|(id, _)| id).collect() })
        };
        let prompts = asked.iter().map(prompt).collect::<Result<_>>()?;
        let (tokenizer, ends) = (Arc::clone(&dialogue.tokenizer), dialogue.ends.clone());
        learner.write_samples(Some(TextSampler::new(samples, prompts, tokenizer, ends, *seed)));
        Ok(())
    }
}

impl Stage for Sft {
    type Config = SftConfig;
    type Learner = Supervised<Mixing>;
    type Parts = SftParts;
    type Report = SftReport;

    const FILES: &'static [&'static str] = &FILES;

    fn config(&self) -> &SftConfig {
        &self.config
    }

    fn train(&self) -> &TrainConfig {
        &self.config.train
    }

    fn train_mut(&mut self) -> &mut TrainConfig {
        &mut self.config.train
    }

    fn prepare(&mut self, aside: &Path, context: &RunContext) -> Result<Model<SftParts>> {
        let (config, progress) = (&self.config, context.progress);
        let mut start = match self.config.lora {
            None => Start::load(&self.init, context.device)?,
            Some(_) => Start::load_transformer(&self.init, context.device)?,
        };
        config.dropout.apply(&mut start.config);
        let template = start.template(config.seed)?;
        // What the template refuses is reported with the record.
        if matches!(template.is_endless(), Ok(true)) {
            progress.warn(&format!(
                "the chat template of {} has no end token after an answer, so the model cannot learn when to stop",
                self.init.display()
            ));
        }
        let counts = encode_all(&config.data, &template, &start.tokenizer, start.config.context, aside, progress)?;
        report_counts(&counts, progress);
        start.tokenizer.check_losses("the dialogues", progress)?;
        let ends = start.ends(&template)?;
        let weights = start.weights(config.lora.as_ref(), config.seed, progress)?;
        let parts = SftParts { weights, template, ends };
        Ok(Model { config: start.config, tokenizer: start.tokenizer, parts })
    }

    fn load(&mut self, run: &Resumable, context: &RunContext) -> Result<Model<SftParts>> {
        let mut shape = load_config(&run.checkpoint)?;
        self.config.dropout.apply(&mut shape); // adapters know their base's
        let weights = load_trained_weights(&run.checkpoint, context.device)?;
        let tokenizer = Tokenizer::load(&run.checkpoint)?;
        let template = Template::required(&tokenizer, &run.checkpoint)?;
        let ends = end_tokens(&run.checkpoint, &tokenizer)?;
        self.question = first_question(&run.folder)?;
        Ok(Model { config: shape, tokenizer, parts: SftParts { weights, template, ends } })
    }

    fn open(&mut self, folder: &Path, model: &Model<SftParts>, context: &RunContext) -> Result<StageData<Self>> {
        let config = &self.config;
        let window = model.config.context;
        let [train, val] = FILES.map(|name| folder.join(name));
        let mut train = Demonstrations::open(&train, window, config.seed)?;
        self.packed_fingerprint = train.packed_fingerprint();
        if let Some(mix) = config.pretraining.as_ref().filter(|mix| mix.share > 0.0) {
            let corpus = prepared_text(&mix.text, &model.tokenizer, context.progress)?.corpus;
            train.mix_in(Windows::new(corpus, window, config.seed)?, mix.share, config.train.batch_size);
        }
        let TrainConfig { eval_windows, .. } = config.train;
        Ok(TrainingData {
            folder: folder.to_owned(),
            fingerprint: train.fingerprint(),
            n_rows: train.len(),
            tokens_per_row: train.mean_tokens(),
            validation: Demonstrations::open(&val, window, 0)?.all(config.train.micro_batch(), eval_windows),
            batch: Box::new(move |first, rows| train.batch(first, rows)),
        })
    }

    fn check_unchanged(&self, data: &StageData<Self>, seen: &DataSeen, run: &Path) -> Result<()> {
        ensure!(
            self.packed_fingerprint != seen.fingerprint,
            "{} was started by an earlier version, which counted train.batch_size in windows instead of demonstrations; start a \
             new run",
            run.display()
        );
        data.check_unchanged(seen, &run.join(FILES[0]))
    }

    fn describe(&self, model: &Model<SftParts>, run: &Path) -> Result<()> {
        save_ends(run, &model.parts.ends)
    }

    fn learner(
        &mut self,
        model: Model<SftParts>,
        data: &mut StageData<Self>,
        context: &RunContext,
    ) -> Result<Self::Learner> {
        let SftParts { weights, template, ends } = model.parts;
        self.dialogue = Some(DialogueSetup { tokenizer: Arc::new(model.tokenizer), template, ends });
        let config = &self.config;
        let gpt = Gpt::new(&model.config, weights.params(), config.train.dtype.precision())?;
        let share = config.pretraining.as_ref().map_or(0.0, |mix| mix.share);
        let mixing = Mixing { language: LanguageModeling { model: gpt }, share };
        let trainer = Trainer::new(mixing, weights, &config.train, config.seed, context.ranks)?;
        let mut learner = Supervised::new(trainer, data);
        self.write_samples(&mut learner, self.question.clone())?;
        Ok(learner)
    }

    fn announce(&self, learner: &Self::Learner, run: &Path, context: &RunContext) {
        let n_trained = learner.trainer().weights().trained().n_elements();
        let n_params = learner.trainer().objective().gpt().config().n_params();
        context.progress.note(&format!(
            "{} of {} parameters are trained ({:.1}%) · {} demonstrations per step · to {}",
            grouped(n_trained),
            grouped(n_params),
            100.0 * n_trained as f64 / n_params as f64,
            self.config.train.batch_size,
            run.display()
        ));
    }

    fn before(&mut self, learner: &mut Self::Learner, run: &Run, _: &mut State, context: &RunContext) -> Result<()> {
        if let Some(DialogueSetup { tokenizer, template, ends }) = &self.dialogue {
            let model = learner.trainer().objective().gpt();
            let answerer = Answerer { model, tokenizer, template, ends };
            let asked = ask_before(run.folder(), &self.config.data, &answerer, context.progress)?;
            self.write_samples(learner, asked.into_iter().next().map(|one| one.messages))?;
        }
        self.loss_before = learner.validation_loss()?;
        Ok(())
    }

    /// Keeps the last weights, and asks the best ones.
    fn report(
        &mut self,
        learner: &mut Self::Learner,
        run: &Path,
        _: &State,
        context: &RunContext,
    ) -> Result<SftReport> {
        let last = run.join(LAST);
        let best = ModelFolder::load(run, context.device)?;
        save_description(&last, &best.config, &best.tokenizer)?;
        save_ends(&last, &best.end_of_text)?;
        learner.trainer().weights().save(&last)?;
        let template =
            Template::of(&best.tokenizer)?.context("the chat template of the run is missing from its folder")?;
        let gpt = Gpt::new(&best.config, &best.params, self.config.train.dtype.precision())?;
        let (tokenizer, ends) = (&best.tokenizer, &best.end_of_text[..]);
        let answerer = Answerer { model: &gpt, tokenizer, template: &template, ends };
        let answers = ask_after(run, &answerer, context.progress)?;
        let world = self.config.data.sources.iter().find_map(|source| match SourceLocation::of_records(source) {
            Ok(SourceLocation::World { seed, .. }) => Some(seed),
            _ => None,
        });
        let world = world.map(|seed| answerer.grade_world(seed, GRADED, context.progress)).transpose()?;
        Ok(SftReport { loss_before: self.loss_before, answers, world })
    }
}

/// Held-out instructions that are graded.
const GRADED: u64 = 300;

/// The batches of step number `step` of a run of `config` from the model in `init`, and the tokenizer that made them:
/// demonstrations, then pretraining text if some is mixed in.
///
/// # Errors
/// When dialogues and model do not fit together, or the run has fewer steps.
pub fn batch_of_step(
    config: SftConfig,
    init: &Path,
    step: u64,
    context: &RunContext,
) -> Result<(Tokenizer, Vec<Batch>)> {
    let (tokenizer, DemonstrationBatch { dialogues, text }) =
        stage::batch_of_step(Sft::new(config, Some(init)), step, context)?;
    Ok((tokenizer, std::iter::once(dialogues).chain(text).collect()))
}

fn report_counts(counts: &DialogueCounts, progress: &dyn Progress) {
    let DialogueCounts { train: n, val, truncated, dropped, trained_tokens, masked_tokens, rewritten, .. } = *counts;
    progress.note(&format!(
        "{} training dialogues, {} validation dialogues · tokens: {} trained on, {} masked",
        grouped(n as u64),
        grouped(val as u64),
        grouped(trained_tokens),
        grouped(masked_tokens)
    ));
    if val == 0 {
        progress.warn("there is no validation set, so the last weights are kept");
    }
    if rewritten > 0 {
        progress.warn(&format!(
            "{} earlier answers are not trained on, because the chat template formats an answer differently when the \
             dialogue continues (for instance without its reasoning)",
            grouped(rewritten as u64)
        ));
    }
    if counts.unmarked > 0 {
        let n = grouped(counts.unmarked as u64);
        progress.warn(&format!("skipped {n} dialogues whose messages are all marked as not trained on"));
    }
    if truncated > 0 {
        progress.warn(&format!(
            "{} dialogues were longer than the context and were truncated; {} of them had nothing left to train on",
            grouped(truncated as u64),
            grouped(dropped as u64)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_train::Span;
    use gptkit_train::schedule::Schedule;

    /// Ouyang et al. 2022: some 13,000 demonstrations, 16 epochs, 32 a batch.
    #[test]
    fn the_papers_preset_makes_the_papers_number_of_updates_at_any_length() {
        let text = include_str!("../../cli/presets/sft-instructgpt.toml");
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

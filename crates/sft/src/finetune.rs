//! GPT-1's second step: a language model learns a task from labeled records (Radford et al. 2018, §3.2 and figure 1).

use crate::classifier::{Classifier, Report};
use crate::columns::Columns;
use crate::labeled::{Encoded, Example, FILES, Framer, Labeled, LabeledConfig, LabeledCounts, encode_all};
use anyhow::{Context, Result, bail, ensure};
use gptkit_config::{Check, Problems};
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::task::TaskKind;
use gptkit_data::tokenizer::{END_OF_TEXT, FRAME, Tokenizer};
use gptkit_model::load::{load_config, load_model};
use gptkit_model::{ClassHead, Gpt, HeadDescription, Kind, Params};
use gptkit_train::Resumable;
use gptkit_train::RunContext;
use gptkit_train::config::{TrainConfig, default_seed};
use gptkit_train::learner::Supervised;
use gptkit_train::stage::{Model, Stage, StageData};
use gptkit_train::start::{DropoutConfig, Start};
use gptkit_train::state::State;
use gptkit_train::trainer::Trainer;
use gptkit_train::training_data::TrainingData;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Configuration of `gptkit finetune`; a preset `finetune-*`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FinetuneConfig {
    /// One line that says what the configuration is for.
    #[serde(default)]
    pub description: String,
    /// Seed of all random draws.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Weight λ of the language-modeling loss relative to the task's loss; 0 leaves it out, as kind bert requires.
    #[serde(default = "lm_coef")]
    pub lm_coef: f64,
    /// Dropout probability of the input of the classification head.
    #[serde(default = "head_dropout")]
    pub head_dropout: f64,
    /// The labeled records.
    #[serde(default)]
    pub data: LabeledConfig,
    /// Dropout probabilities that replace the model's own.
    #[serde(default)]
    pub dropout: DropoutConfig,
    /// How the model is trained. A row is a record.
    pub train: TrainConfig,
}

fn lm_coef() -> f64 {
    0.5
}
fn head_dropout() -> f64 {
    0.1
}

impl Check for FinetuneConfig {
    fn check(&self, problems: &mut Problems) {
        let weight = self.lm_coef.is_finite() && self.lm_coef >= 0.0;
        problems.require(
            weight,
            "lm_coef",
            "must not be negative",
            "use 0.5, or 0 to turn off the language-modeling loss",
        );
        let p = (0.0..1.0).contains(&self.head_dropout);
        problems.require(p, "head_dropout", "must be at least 0 and below 1", "use 0.1");
        problems.section("data", &self.data);
        problems.section("dropout", &self.dropout);
        problems.section("train", &self.train);
    }
}

/// File below a run that says what its model is worth.
pub const SCORES: &str = "scores.json";

/// What a model labels, as its folder says it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Labeling {
    pub(crate) task: TaskKind,
    /// Names of the classes; none for choices and numbers.
    pub(crate) labels: Vec<String>,
    pub(crate) columns: Columns,
}

/// The one score of a choice or a number.
const SCORE: &str = "score";

impl Labeling {
    fn is_class(&self) -> bool {
        !matches!(self.task, TaskKind::MultipleChoice | TaskKind::Regression)
    }

    fn n_out(&self) -> usize {
        if self.is_class() { self.labels.len() } else { 1 }
    }

    fn save(&self, folder: &Path, tokenizer: &Tokenizer) -> Result<()> {
        let description = HeadDescription {
            labels: if self.is_class() { self.labels.clone() } else { vec![SCORE.to_owned()] },
            is_number: !self.is_class(),
            task: self.task.to_string(),
            pad: None,
            more: json!({ "columns": self.columns }),
        };
        description.save(folder, tokenizer)
    }

    /// Reads it from `folder`.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let HeadDescription { labels, task, more, .. } = HeadDescription::load(folder)?;
        let path = folder.join("config.json");
        let task: TaskKind = task.parse().map_err(|way| {
            anyhow::anyhow!("finetuning_task \"{task}\" in {} is not supported: {way}", path.display())
        })?;
        let columns = serde_json::from_value(more["columns"].clone());
        let columns = columns.with_context(|| format!("{} does not list the input columns", path.display()))?;
        let labeling = Self { task, labels, columns };
        Ok(if labeling.is_class() { labeling } else { Self { labels: Vec::new(), ..labeling } })
    }
}

/// Fine-tuning of a classifier.
pub struct Finetuning {
    config: FinetuneConfig,
    /// Model folder that a new run starts from.
    init: PathBuf,
    /// Most sequences of an example to learn; once the data is open.
    most_sequences: usize,
}

/// What was measured once training has ended.
#[derive(Debug)]
pub struct FinetuneReport {
    /// Scores of the best weights on the test part, or on the validation part where there is no test part; none without either.
    pub scores: Option<Report>,
    /// Whether they are of the test part.
    pub tested: bool,
}

/// Weights, and what the head means.
pub struct FinetuneParts {
    params: Params,
    head: ClassHead,
    labeling: Labeling,
}

impl Finetuning {
    /// A run of `config`, which starts from the model folder `init`; a resumed run needs none.
    pub fn new(config: FinetuneConfig, init: Option<&Path>) -> Self {
        Self { config, init: init.map(Path::to_owned).unwrap_or_default(), most_sequences: 0 }
    }
}

impl Stage for Finetuning {
    type Config = FinetuneConfig;
    type Learner = Supervised<Classifier>;
    type Parts = FinetuneParts;
    type Report = FinetuneReport;

    const FILES: &'static [&'static str] = &FILES;

    fn config(&self) -> &FinetuneConfig {
        &self.config
    }

    fn train(&self) -> &TrainConfig {
        &self.config.train
    }

    fn train_mut(&mut self) -> &mut TrainConfig {
        &mut self.config.train
    }

    fn prepare(&mut self, aside: &Path, context: &RunContext) -> Result<Model<FinetuneParts>> {
        let (config, init) = (&self.config, &self.init);
        let mut start = Start::load_reader(init, context.device)?;
        ensure!(
            start.config.kind != Kind::Bert || config.lm_coef == 0.0,
            "{} is a masked language model (kind = \"bert\") and has no next-token loss, so lm_coef = {} cannot be \
             used\n  hint: --set lm_coef=0",
            init.display(),
            config.lm_coef
        );
        config.dropout.apply(&mut start.config);
        if start.tokenizer.end_of_text().is_none() {
            start.add_tokens(&[END_OF_TEXT], config.seed)?; // padding, for who reads the folder elsewhere
        }
        start.add_tokens(&FRAME, config.seed)?;
        start.tokenizer.set_frame()?;
        let framer = Framer::new(&start.tokenizer, start.config.context)?;
        let Encoded { labels, columns, counts } = encode_all(&config.data, &framer, aside, context.progress)?;
        report_counts(&counts, start.config.context, context.progress);
        start.tokenizer.check_losses("the records", context.progress)?;
        let labeling = Labeling { task: config.data.task, labels, columns };
        let mut params = start.params;
        let head = ClassHead::init(&mut params, labeling.n_out(), start.config.d_model, config.seed)?;
        let parts = FinetuneParts { params, head, labeling };
        Ok(Model { config: start.config, tokenizer: start.tokenizer, parts })
    }

    fn load(&mut self, run: &Resumable, context: &RunContext) -> Result<Model<FinetuneParts>> {
        let (config, mut params) = load_model(&run.checkpoint, context.device)?;
        let head = ClassHead::load(&mut params, &run.checkpoint)?;
        let labeling = Labeling::load(&run.checkpoint)?;
        let tokenizer = Tokenizer::load(&run.checkpoint)?;
        Ok(Model { config, tokenizer, parts: FinetuneParts { params, head, labeling } })
    }

    fn open(&mut self, folder: &Path, _: &Model<FinetuneParts>, _: &RunContext) -> Result<StageData<Self>> {
        let config = &self.config;
        let [train, val, _] = parts_of(folder, config)?;
        self.most_sequences = train.most_sequences;
        let tokens_per_row = train.mean_tokens();
        Ok(TrainingData::of_records(folder, train.records, tokens_per_row, &val.records, &config.train))
    }

    fn describe(&self, model: &Model<FinetuneParts>, run: &Path) -> Result<()> {
        model.parts.labeling.save(run, &model.tokenizer)
    }

    fn learner(
        &mut self,
        model: Model<FinetuneParts>,
        data: &mut StageData<Self>,
        context: &RunContext,
    ) -> Result<Self::Learner> {
        let (config, FinetuneParts { params, head, labeling }) = (&self.config, model.parts);
        if config.lm_coef == 0.0 {
            params.freeze_output();
        }
        let classifier = Classifier {
            gpt: Gpt::reader(&model.config, &params, config.train.dtype.precision())?,
            head,
            task: labeling.task,
            labels: labeling.labels,
            most_sequences: self.most_sequences,
            lm_coef: config.lm_coef,
            dropout: config.head_dropout,
        };
        let trainer = Trainer::new(classifier, params, &config.train, config.seed, context.ranks)?;
        Ok(Supervised::new(trainer, data))
    }

    fn announce(&self, learner: &Self::Learner, run: &Path, context: &RunContext) {
        let classifier = learner.trainer().objective();
        let config = classifier.gpt.config();
        let n_head = (classifier.n_out() * config.d_model) as u64;
        context.progress.note(&format!(
            "{} parameters, {} of them in the head · {} records per step · to {}",
            grouped(config.n_params() + n_head),
            grouped(n_head),
            self.config.train.batch_size,
            run.display()
        ));
    }

    fn report(&mut self, _: &mut Self::Learner, run: &Path, _: &State, context: &RunContext) -> Result<FinetuneReport> {
        let [_, val, test] = parts_of(run, &self.config)?;
        let tested = !test.records.is_empty();
        let scores = match tested || !val.records.is_empty() {
            true => Some(measure_best(&self.config, run, [&val, &test], context)?),
            false => None,
        };
        Ok(FinetuneReport { scores, tested })
    }
}

/// The records to learn from, to validate on and to test on, in `folder`.
fn parts_of(folder: &Path, config: &FinetuneConfig) -> Result<[Labeled; 3]> {
    let [train, val, test] = FILES.map(|name| folder.join(name));
    ensure!(
        test.exists(),
        "{} is missing: the file was deleted, or the run was started by an earlier version, which averaged the \
         language-modeling loss differently; start a new run",
        test.display()
    );
    Ok([Labeled::open(&train, config.seed)?, Labeled::open(&val, 0)?, Labeled::open(&test, 0)?])
}

fn report_counts(counts: &LabeledCounts, context: usize, progress: &dyn Progress) {
    let LabeledCounts { train, val, test, balance, numbers, truncated, sequences, tokens, longest } = counts;
    let tested = if *test > 0 { format!(", {} test records", grouped(*test as u64)) } else { String::new() };
    let [learned, validated] = [train, val].map(|n| grouped(*n as u64));
    progress.note(&format!("{learned} training records, {validated} validation records{tested}"));
    let share = |(label, n): &(String, u64)| format!("{label} {:.1}%", 100.0 * *n as f64 / *train as f64);
    let mut classes: Vec<String> = balance.iter().take(10).map(share).collect();
    classes.extend((balance.len() > 10).then(|| format!("{} more", balance.len() - 10)));
    if let Some((least, most, mean)) = numbers {
        progress.note(&format!("numbers from {least} to {most}, mean {mean:.3}"));
    } else {
        progress.note(&format!("labels: {}", classes.join(", ")));
    }
    let n = (train + val + test).max(1);
    progress.note(&format!(
        "tokens per text: mean {:.1}, longest {longest} of {context}; {:.1}% of the records were truncated",
        *tokens as f64 / (*sequences).max(1) as f64,
        100.0 * *truncated as f64 / n as f64
    ));
    if *truncated > 0 {
        progress.warn(&format!(
            "{} of {} records are longer than the context of {context} tokens; the longest text of each was truncated",
            grouped(*truncated as u64),
            grouped(n as u64)
        ));
    }
    if *val == 0 {
        progress.warn("there is no validation set, so the last weights are kept without measuring them");
    }
}

/// What [`SCORES`] holds.
#[derive(Serialize)]
struct Scores<'a> {
    /// The part that the scores are of.
    part: &'static str,
    #[serde(flatten)]
    report: &'a Report,
    /// Scores on the validation set, which the weights were chosen by, in addition to those on the test set.
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<&'a Report>,
}

/// Once training has ended: what the best weights say of the whole test part, or of the whole validation part when there is
/// no test part.
fn measure_best(
    config: &FinetuneConfig,
    folder: &Path,
    [val, test]: [&Labeled; 2],
    context: &RunContext,
) -> Result<Report> {
    let best = load(folder, config, context)?;
    let measured = |part: &Labeled| -> Result<Option<Report>> {
        if part.records.is_empty() {
            return Ok(None);
        }
        let batches: Vec<Vec<Example>> = part.records.all(config.train.micro_batch(), usize::MAX);
        best.measure(batches.iter().map(Vec::as_slice)).map(Some)
    };
    let (part, report, validation) = match (measured(test)?, measured(val)?) {
        (Some(report), validation) => ("test", report, validation),
        (None, Some(report)) => ("validation", report, None),
        (None, None) => bail!("there are no held-out records to evaluate the model on"),
    };
    let scores = Scores { part, report: &report, validation: validation.as_ref() };
    gptkit_data::disk::write_json(&folder.join(SCORES), &scores)?;
    Ok(report)
}

fn load(folder: &Path, config: &FinetuneConfig, context: &RunContext) -> Result<Classifier> {
    let shape = load_config(folder)?;
    let (_, mut params) = load_model(folder, context.device)?;
    let head = ClassHead::load(&mut params, folder)?;
    let Labeling { task, labels, .. } = Labeling::load(folder)?;
    let gpt = Gpt::reader(&shape, &params, config.train.dtype.precision())?;
    Ok(Classifier { gpt, head, task, labels, most_sequences: 1, lm_coef: 0.0, dropout: 0.0 })
}

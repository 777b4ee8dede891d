//! GPT-1's second step: a language model learns a task from labeled records (Radford et al. 2018, §3.2 and figure 1).

use crate::classifier::{Classifier, Report};
use crate::columns::Columns;
use crate::labeled::{Counts, Encoded, Example, FILES, Framer, Labeled, LabeledConfig, encode_all};
use crate::start::{DropoutConfig, Start};
use anyhow::{Context, Result, bail, ensure};
use gptkit_config::{Check, Problems};
use gptkit_data::batch::Prefetch;
use gptkit_data::disk::{Claim, Scratch};
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::task::TaskKind;
use gptkit_data::tokenizer::{END_OF_TEXT, FRAME, Tokenizer};
use gptkit_model::folder::{load_config, load_model};
use gptkit_model::{ClassHead, Gpt, HeadDescription, Kind, ModelConfig, Params};
use gptkit_train::Resumable;
use gptkit_train::checkpoint::{State, TextSeen};
use gptkit_train::config::TrainConfig;
use gptkit_train::fit::{Sitting, Summary, Trainer, fit};
use gptkit_train::run::Run;
use gptkit_train::schedule::Schedule;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};

/// All that a run of `gptkit finetune` is told; a file `configs/finetune-*.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinetuneConfig {
    /// What it is, in a line.
    #[serde(default)]
    pub description: String,
    /// Seed of everything that is drawn.
    #[serde(default = "seed")]
    pub seed: u64,
    /// λ: weight of the language model's loss beside the task's; 0 leaves it out, as it must be for kind bert.
    #[serde(default = "lm_coef")]
    pub lm_coef: f64,
    /// Probability of dropping an element of what the head reads.
    #[serde(default = "head_dropout")]
    pub head_dropout: f64,
    /// The records.
    #[serde(default)]
    pub data: LabeledConfig,
    /// In the place of the model's own.
    #[serde(default)]
    pub dropout: DropoutConfig,
    /// The training.
    pub train: TrainConfig,
}

fn seed() -> u64 {
    1
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
        problems.require(weight, "lm_coef", "is negative", "use 0.5, or 0 to leave the language model's loss out");
        let p = (0.0..1.0).contains(&self.head_dropout);
        problems.require(p, "head_dropout", "is not a probability below 1", "use 0.1");
        problems.section("data", &self.data);
        problems.section("dropout", &self.dropout);
        problems.section("train", &self.train);
    }
}

/// What a run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// Its folder: the model that labels best.
    pub folder: PathBuf,
    /// How it ended.
    pub summary: Summary,
    /// What that model's labels are worth, once the run has ended: of the test part, or of the validation part when there is
    /// no test part.
    pub report: Option<Report>,
    /// Whether `report` is of the test part.
    pub tested: bool,
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
            anyhow::anyhow!("finetuning_task \"{task}\" in {} is none that gptkit knows: {way}", path.display())
        })?;
        let columns = serde_json::from_value(more["columns"].clone());
        let columns = columns.with_context(|| format!("{} does not say which columns it reads", path.display()))?;
        let labeling = Self { task, labels, columns };
        Ok(if labeling.is_class() { labeling } else { Self { labels: Vec::new(), ..labeling } })
    }
}

/// Trains the model in `init` on the records of `config`, and leaves it in the folder of
/// `claim`.
///
/// # Errors
/// When records and model do not fit together, or the run fails.
pub fn finetune(mut config: FinetuneConfig, init: &Path, claim: Claim, sitting: &Sitting) -> Result<Outcome> {
    config.train.settle();
    let out = &claim.folder().to_owned();
    let mut start = Start::load_reader(init, sitting.device)?;
    ensure!(
        start.config.kind != Kind::Bert || config.lm_coef == 0.0,
        "{} is a masked model (kind bert): it predicts no next token, whose loss lm_coef = {} would add\n  hint: --set lm_coef=0",
        init.display(),
        config.lm_coef
    );
    config.dropout.apply(&mut start.config);
    if start.tokenizer.end_of_text().is_none() {
        start.add_tokens(&[END_OF_TEXT], config.seed)?; // padding, for who reads the folder elsewhere
    }
    start.add_tokens(&FRAME, config.seed)?;
    start.tokenizer.set_frame()?;
    let aside = Scratch::beside(claim.folder())?;
    let framer = Framer::new(&start.tokenizer, start.config.context)?;
    let Encoded { labels, columns, counts } = encode_all(&config.data, &framer, aside.path(), sitting.progress)?;
    let labeling = Labeling { task: config.data.task, labels, columns };
    let data = Data::open(&config, aside.path())?;
    config.train.validate_each_epoch(data.train.records.len());
    config.train.check_validation(!data.val.records.is_empty())?;
    say(&counts, start.config.context, sitting.progress);
    start.tokenizer.check_losses("the records", sitting.progress)?;

    let resolved = gptkit_config::resolved(&config).context("the configuration cannot be written")?;
    gptkit_train::plan::must_fit(&start.config, &config.train, sitting.device)?;
    let run = Run::create(claim, &resolved, &start.config, &start.tokenizer)?;
    labeling.save(out, &start.tokenizer)?;
    run.take_in(aside.path(), &FILES)?;
    drop(aside); // nothing of it is left when training is killed
    let mut params = start.params;
    let head = ClassHead::init(&mut params, labeling.n_out(), start.config.d_model, config.seed)?;
    sitting.progress.note(&format!(
        "{} parameters, {} of them in the head · {} records a step · to {}",
        grouped(start.config.n_params() + (labeling.n_out() * start.config.d_model) as u64),
        grouped((labeling.n_out() * start.config.d_model) as u64),
        config.train.batch_size,
        out.display()
    ));
    let trainer = trainer(&config, &start.config, params, head, labeling, &data)?;
    let text = TextSeen { shards: std::path::absolute(out)?, fingerprint: data.train.records.fingerprint() };
    go_on(&config, trainer, State { text, ..State::default() }, data, run, sitting)
}

/// Goes on with `run` as if it had not been interrupted. `config` is the run's own `config.toml`.
///
/// # Errors
/// When the records or the checkpoint are damaged, or the run fails.
pub fn resume(config: &FinetuneConfig, run: Resumable, sitting: &Sitting) -> Result<Outcome> {
    let Resumable { folder, checkpoint, state, lock, .. } = run;
    let (shape, mut params) = load_model(&checkpoint, sitting.device)?;
    let head = ClassHead::load(&mut params, &checkpoint)?;
    let labeling = Labeling::load(&checkpoint)?;
    let data = Data::open(config, &folder)?;
    ensure!(
        data.train.records.fingerprint() == state.text.fingerprint,
        "{} is not what the run began with: it was changed since",
        folder.join(FILES[0]).display()
    );
    let mut trainer = trainer(config, &shape, params, head, labeling, &data)?;
    trainer.restore(&checkpoint, &state)?;
    sitting.progress.note(&format!("resumed {} after step {}", folder.display(), state.step));
    let run = Run::resume(&folder, lock, &checkpoint, &state, sitting.progress)?;
    go_on(config, trainer, state, data, run, sitting)
}

/// What a run reads.
struct Data {
    train: Labeled,
    val: Labeled,
    test: Labeled,
}

impl Data {
    fn open(config: &FinetuneConfig, folder: &Path) -> Result<Self> {
        let [train, val, test] = FILES.map(|name| folder.join(name));
        ensure!(
            test.exists(),
            "{} is missing: the run was started by an earlier version, which averaged the language model's loss differently, or \
             the file was removed; start a new run",
            test.display()
        );
        Ok(Self {
            train: Labeled::open(&train, config.seed)?,
            val: Labeled::open(&val, 0)?,
            test: Labeled::open(&test, 0)?,
        })
    }
}

fn say(counts: &Counts, context: usize, progress: &dyn Progress) {
    let Counts { train, val, test, balance, numbers, truncated, sequences, tokens, longest } = counts;
    let tested = if *test > 0 { format!(", {} to test", grouped(*test as u64)) } else { String::new() };
    let [learned, validated] = [train, val].map(|n| grouped(*n as u64));
    progress.note(&format!("{learned} records to learn, {validated} to validate{tested}"));
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
        "tokens of a text: mean {:.1}, longest {longest} of {context}; {:.1}% of the records cut",
        *tokens as f64 / (*sequences).max(1) as f64,
        100.0 * *truncated as f64 / n as f64
    ));
    if *truncated > 0 {
        progress.warn(&format!(
            "{} of {} records do not fit into the window of {context} tokens: the longest text of each was cut at its end",
            grouped(*truncated as u64),
            grouped(n as u64)
        ));
    }
    if *val == 0 {
        progress.warn("there is nothing to validate on: the last weights are kept, whatever they are worth");
    }
}

fn trainer(
    config: &FinetuneConfig,
    shape: &ModelConfig,
    params: Params,
    head: ClassHead,
    labeling: Labeling,
    data: &Data,
) -> Result<Trainer<Classifier>> {
    if config.lm_coef == 0.0 {
        params.freeze_output();
    }
    let classifier = Classifier {
        gpt: Gpt::reader(shape, &params, config.train.dtype.precision())?,
        head,
        task: labeling.task,
        labels: labeling.labels,
        most_sequences: data.train.most_sequences,
        lm_coef: config.lm_coef,
        dropout: config.head_dropout,
    };
    Trainer::new(classifier, params, &config.train, config.seed)
}

fn go_on(
    config: &FinetuneConfig,
    mut trainer: Trainer<Classifier>,
    state: State,
    data: Data,
    mut run: Run,
    sitting: &Sitting,
) -> Result<Outcome> {
    let Data { train, val, test } = data;
    let TrainConfig { eval_windows, .. } = config.train;
    let validation = val.records.all(config.train.micro_batch(), eval_windows);
    // Rows are records of about so many tokens.
    let schedule = Schedule::new(&config.train, train.mean_tokens(), train.records.len());
    let plan = schedule.steps().skip(state.step as usize).map(|step| (step.first_row, step.rows));
    let batches = Prefetch::new(move |first, rows| train.records.batch(first, rows), plan);
    let summary = fit(&mut trainer, state, &schedule, batches, &validation, &mut run, sitting)?;
    run.draw()?;
    let tested = !test.records.is_empty();
    let folder = run.folder().to_owned();
    let mut outcome = Outcome { folder, summary, report: None, tested };
    if outcome.summary.stop.is_none() && (tested || !val.records.is_empty()) {
        outcome.report = Some(measure_best(config, &outcome.folder, [&val, &test], sitting)?);
    }
    Ok(outcome)
}

/// What [`SCORES`] holds.
#[derive(Serialize)]
struct Scores<'a> {
    /// The part that the scores are of.
    part: &'static str,
    #[serde(flatten)]
    report: &'a Report,
    /// Scores of the part by which the weights were chosen, beside those of the test part.
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<&'a Report>,
}

/// Once training has ended: what the best weights say of the whole test part, or of the whole validation part when there is
/// no test part.
fn measure_best(
    config: &FinetuneConfig,
    folder: &Path,
    [val, test]: [&Labeled; 2],
    sitting: &Sitting,
) -> Result<Report> {
    let best = load(folder, config, sitting)?;
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
        (None, None) => bail!("there is nothing to measure the model on"),
    };
    let scores = Scores { part, report: &report, validation: validation.as_ref() };
    let text = serde_json::to_string_pretty(&scores)? + "\n";
    gptkit_data::disk::write(&folder.join(SCORES), text.as_bytes())?;
    Ok(report)
}

fn load(folder: &Path, config: &FinetuneConfig, sitting: &Sitting) -> Result<Classifier> {
    let shape = load_config(folder)?;
    let (_, mut params) = load_model(folder, sitting.device)?;
    let head = ClassHead::load(&mut params, folder)?;
    let Labeling { task, labels, .. } = Labeling::load(folder)?;
    let gpt = Gpt::reader(&shape, &params, config.train.dtype.precision())?;
    Ok(Classifier { gpt, head, task, labels, most_sequences: 1, lm_coef: 0.0, dropout: 0.0 })
}

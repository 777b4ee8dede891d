//! Direct preference optimization: what PPO does with a reward model, from the comparisons alone (Rafailov et al. 2023).

use crate::compared::{self, Compared, log_probs};
use crate::provenance::Origin;
use ::config::{Check, Problems};
use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use data::batch::Prefetch;
use data::progress::grouped;
use data::source::Place;
use data::template::Template;
use model::folder::{ModelFolder, load_config, load_model, save_ends};
use model::{Gpt, LoraConfig, Pass, Weights};
use reward::group::{Encoder, Group};
use reward::groups::{self, ComparisonConfig, Groups, encode_all, say};
use reward::loss::{LossConfig, Pairs};
use reward::report::{Judged, Report};
use serde::{Deserialize, Serialize};
use sft::start::{DropoutConfig, Start};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use train::Resumable;
use train::checkpoint::{State, TextSeen};
use train::config::TrainConfig;
use train::fit::{Sitting, Summary, Trainer, fit};
use train::objective::{Objective, Validate, Validation};
use train::run::{Run, folder_beside};
use train::schedule::Schedule;

/// All that a run of `gptkit dpo` is told; a file `configs/dpo-*.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DpoConfig {
    /// What it is, in a line.
    #[serde(default)]
    pub description: String,
    /// Seed of everything that is drawn.
    #[serde(default = "seed")]
    pub seed: u64,
    /// The comparisons.
    #[serde(default)]
    pub data: ComparisonConfig,
    /// The loss.
    #[serde(default)]
    pub dpo: PreferenceConfig,
    /// In the place of the model's own; none where nothing is said.
    #[serde(default)]
    pub dropout: DropoutConfig,
    /// Adapters, when only they are trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// The training; a row is a prompt with all its completions.
    pub train: TrainConfig,
}

fn seed() -> u64 {
    1
}

/// The loss; TOML section `[dpo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreferenceConfig {
    /// β: the larger, the nearer the model stays to the reference (Rafailov et al. 2023, eq. 3).
    pub beta: f64,
}

impl Default for PreferenceConfig {
    /// The paper's, appendix B.
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Check for PreferenceConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(self.beta > 0.0 && self.beta.is_finite(), "beta", "is not positive and finite", "use 0.1");
    }
}

impl Check for DpoConfig {
    fn check(&self, problems: &mut Problems) {
        problems.section("data", &self.data);
        problems.section("dpo", &self.dpo);
        problems.section("dropout", &self.dropout);
        problems.section("train", &self.train);
        if let Some(lora) = &self.lora {
            problems.section("lora", lora);
        }
    }
}

impl DpoConfig {
    /// Whether comparisons are those of the embedded world, whose judges can then say what was learned.
    pub fn is_of_world(&self) -> bool {
        self.data.sources.iter().any(|source| matches!(Place::of(source), Ok(Place::World { .. })))
    }
}

/// What a run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// Its folder: the model, or the adapters, with the lowest validation loss.
    pub folder: PathBuf,
    /// How it ended.
    pub summary: Summary,
    /// Folder of the model that it started from.
    pub reference: PathBuf,
    /// What it is worth on the validation part, once the run has ended.
    pub learned: Option<Learned>,
}

/// What a model has learned of comparisons that were held out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Learned {
    /// The reward that the model implies, β·log(π/π_ref) (Rafailov et al. 2023, eq. 5 without the prompt's term, which
    /// differences do not have), as a reward model's.
    #[serde(flatten)]
    pub report: Report,
    /// How far the better completion's reward lies above the worse one's, on average over pairs.
    pub margin: f64,
    /// log(π/π_ref) of the better completion, nats, on average over pairs.
    pub chosen_log_ratio: f64,
    /// The same of the worse.
    pub rejected_log_ratio: f64,
}

/// File below a run that says what its model is worth.
pub const SCORES: &str = "scores.json";
/// File below a run that says which model it started from.
const REFERENCE: &str = "reference.json";
/// File of the training part below a run, and of the validation part, with what the reference gives each completion.
pub const FILES: [&str; 2] = ["train.compared", "val.compared"];

/// Trains the model in `init`, from which it is kept by β, on the comparisons of `config`, and leaves it in `out`.
///
/// # Errors
/// When comparisons and model do not fit together, the model has no chat template, or the run fails.
pub fn dpo(mut config: DpoConfig, init: &Path, out: &Path, sitting: &Sitting) -> Result<Outcome> {
    let mut start = Start::load(init, sitting.device)?;
    if Template::load(init)?.is_none() {
        let what = format!("{} has no chat template, so that it is not known how it is asked", init.display());
        bail!("{what}\n  hint: teach it to answer first, with `gptkit sft --init {}`", init.display());
    }
    config.dropout.or_none().apply(&mut start.config);
    let template = start.template(init, config.seed)?;
    let ends = start.ends(&template)?;
    let weights = start.weights(config.lora.as_ref(), config.seed)?;
    let Start { config: shape, tokenizer, .. } = start;
    let encoder = Encoder { tokenizer, template, context: shape.context };
    let aside = folder_beside(out)?;
    let counts = encode_all(&config.data, &encoder, aside.path(), sitting.progress)?;
    say(&counts, sitting.progress);
    // Adapters change nothing at first: it is the reference, too.
    let policy = Gpt::new(&shape, weights.params(), config.train.dtype.precision())?;
    for (plain, compared) in groups::FILES.into_iter().zip(FILES) {
        let plain = Groups::open(&aside.path().join(plain), 0, Group::of)?;
        compared::keep(&plain, &policy, &aside.path().join(compared), sitting.progress)?;
    }
    let data = Data::open(&config, aside.path())?;
    config.train.validate_each_epoch(data.train.records.len());

    let resolved = ::config::resolved(&config).context("the configuration cannot be written")?;
    let run = Run::create(out, &resolved, &shape, &encoder.tokenizer)?;
    save_ends(out, &ends)?;
    data::disk::write(&out.join(REFERENCE), (serde_json::to_string_pretty(&Origin::of(init)?)? + "\n").as_bytes())?;
    run.take_in(aside.path(), &FILES)?;
    let n_trained: u64 = weights.trained().iter().map(|(_, p)| p.var().elem_count() as u64).sum();
    sitting.progress.note(&format!(
        "{} of {} parameters are trained · β {} · {} prompts a step · to {}",
        grouped(n_trained),
        grouped(shape.n_params()),
        config.dpo.beta,
        config.train.batch_size,
        out.display()
    ));
    let trainer = Trainer::new(Preferring { policy, beta: config.dpo.beta }, weights, &config.train, config.seed)?;
    let text = TextSeen { shards: std::path::absolute(out)?, fingerprint: data.train.records.fingerprint() };
    go_on(&config, trainer, State { text, ..State::default() }, data, run, sitting)
}

/// Goes on with `run` as if it had not been interrupted. `config` is the run's own `config.toml`.
///
/// # Errors
/// When the comparisons or the checkpoint are damaged, or the run fails.
pub fn resume(config: &DpoConfig, run: Resumable, sitting: &Sitting) -> Result<Outcome> {
    let Resumable { folder, checkpoint, state, lock } = run;
    let mut shape = load_config(&checkpoint)?;
    config.dropout.or_none().apply(&mut shape); // adapters know their base's
    let weights = match &config.lora {
        None => load_model(&checkpoint, sitting.device)?.1.into(),
        Some(_) => Weights::load_adapted(&checkpoint, sitting.device)?,
    };
    let data = Data::open(config, &folder)?;
    ensure!(
        data.train.records.fingerprint() == state.text.fingerprint,
        "{} is not what the run began with: it was changed since",
        folder.join(FILES[0]).display()
    );
    let policy = Gpt::new(&shape, weights.params(), config.train.dtype.precision())?;
    let mut trainer = Trainer::new(Preferring { policy, beta: config.dpo.beta }, weights, &config.train, config.seed)?;
    trainer.restore(&checkpoint, &state)?;
    sitting.progress.note(&format!("resumed {} after step {}", folder.display(), state.step));
    let run = Run::resume(&folder, lock, state.step)?;
    go_on(config, trainer, state, data, run, sitting)
}

/// What a run reads.
struct Data {
    train: Groups<Compared>,
    val: Groups<Compared>,
}

impl Data {
    fn open(config: &DpoConfig, folder: &Path) -> Result<Self> {
        let [train, val] = FILES.map(|name| folder.join(name));
        Ok(Self { train: Groups::open(&train, config.seed, Compared::of)?, val: Groups::open(&val, 0, Compared::of)? })
    }
}

/// A policy that is to prefer what labelers do.
struct Preferring {
    policy: Gpt,
    beta: f64,
}

impl Preferring {
    /// β·log(π/π_ref) of each completion of `batch`, `[M]`, as part of a graph when `pass` trains.
    fn rewards(&self, batch: &[Compared], pass: Pass) -> Result<Tensor> {
        let groups: Vec<&Group> = batch.iter().map(|compared| &compared.group).collect();
        let policy = log_probs(&self.policy, &groups, pass)?;
        let reference: Vec<f32> = batch.iter().flat_map(|compared| compared.reference.iter().copied()).collect();
        Ok(((policy - Tensor::new(reference, self.policy.device())?)? * self.beta)?)
    }

    /// What is learned of `batches`, when `longer_won` is how often the longer of two was preferred in training; nothing
    /// when no pair is told apart.
    fn learned<'a>(
        &self,
        batches: impl IntoIterator<Item = &'a [Compared]>,
        longer_won: f64,
    ) -> Result<Option<Learned>> {
        let mut judged = Vec::new();
        for batch in batches {
            let mut rewards = self.rewards(batch, Pass::Eval)?.to_vec1::<f32>()?.into_iter();
            judged.extend(batch.iter().map(|Compared { group, .. }| Judged {
                places: group.places.clone(),
                rewards: rewards.by_ref().take(group.len()).collect(),
                lengths: (0..group.len()).map(|i| group.length(i)).collect(),
                gold: group.gold.clone(),
            }));
        }
        Ok(Report::of(&judged, longer_won).map(|report| {
            let (chosen, rejected) = (report.chosen.mean, report.rejected.mean);
            Learned {
                margin: chosen - rejected,
                chosen_log_ratio: chosen / self.beta,
                rejected_log_ratio: rejected / self.beta,
                report,
            }
        }))
    }
}

impl Objective for Preferring {
    type Batch = Vec<Compared>;

    fn rows(&self, batch: &Vec<Compared>) -> usize {
        batch.len()
    }

    /// Rafailov et al. 2023, eq. 7: the loss of a reward model whose rewards are β·log(π/π_ref).
    fn loss(&self, batch: &Vec<Compared>, rows: Range<usize>, pass: Pass) -> Result<Tensor> {
        let compared = &batch[rows];
        let rewards = self.rewards(compared, pass)?; // [M]
        Pairs::of(compared.iter().map(|one| one.group.places.as_slice()), batch.len())
            .loss(&rewards, &LossConfig::default())
    }
}

impl Validate for Preferring {
    fn n_tokens(&self, batch: &Vec<Compared>) -> u64 {
        batch.iter().flat_map(|one| &one.group.sequences).map(|sequence| sequence.len() as u64).sum()
    }

    fn validate(&self, batches: &[Vec<Compared>]) -> Result<Validation> {
        let learned = self.learned(batches.iter().map(Vec::as_slice), 0.5)?;
        let Learned { report, margin, chosen_log_ratio, rejected_log_ratio } =
            learned.context("there is no pair to validate on")?;
        let scores = [
            ("accuracy", report.accuracy.value),
            ("margin", margin),
            ("chosen_log_ratio", chosen_log_ratio),
            ("rejected_log_ratio", rejected_log_ratio),
        ];
        let scores = BTreeMap::from(scores.map(|(name, score)| (name.to_owned(), score)));
        Ok(Validation { loss: report.loss, scores, chosen_by: report.loss })
    }
}

fn go_on(
    config: &DpoConfig,
    mut trainer: Trainer<Preferring>,
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
    let origin = data::disk::read_description(&folder.join(REFERENCE))?;
    let Origin { folder: reference, .. } =
        serde_json::from_str(&origin).with_context(|| format!("{} is damaged", folder.join(REFERENCE).display()))?;
    let mut outcome = Outcome { folder, summary, reference, learned: None };
    if outcome.summary.stop.is_none() {
        outcome.learned = finish(config, &outcome.folder, &val, longer_won, sitting)?;
    }
    Ok(outcome)
}

/// Once training has ended: measures the best weights on the whole validation part.
fn finish(
    config: &DpoConfig,
    folder: &Path,
    val: &Groups<Compared>,
    longer_won: f64,
    sitting: &Sitting,
) -> Result<Option<Learned>> {
    let ModelFolder { config: shape, params, .. } = ModelFolder::load(folder, sitting.device)?;
    let policy = Gpt::new(&shape, &params, config.train.dtype.precision())?;
    let batches = val.records.all(config.train.micro_batch(), usize::MAX);
    let best = Preferring { policy, beta: config.dpo.beta };
    let Some(learned) = best.learned(batches.iter().map(Vec::as_slice), longer_won)? else { return Ok(None) };
    data::disk::write(&folder.join(SCORES), (serde_json::to_string_pretty(&learned)? + "\n").as_bytes())?;
    Ok(Some(learned))
}

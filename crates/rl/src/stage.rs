//! The stage: a policy and a reward model → a policy that is rewarded more.

use crate::charts;
use crate::config::{PpoConfig, ValueInit};
use crate::doctor::{Tolerance, act};
use crate::plan::Plan;
use crate::policy::{Policy, ValueHead, Values};
use crate::ppo::{Ppo, PpoEvaluation, PpoState, PretrainingText};
use crate::prompts::{self, FILES, Prompt};
use crate::provenance::Provenance;
use crate::rollout::Ends;
use anyhow::{Context, Result, ensure};
use gptkit_data::batch::{Windows, validation};
use gptkit_data::disk;
use gptkit_data::progress::{Progress, Unit, grouped};
use gptkit_data::template::Template;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::folder::{save_ends, save_tensors};
use gptkit_model::load::{ModelFolder, load_config, load_model, load_trained_weights};
use gptkit_model::{ClassHead, Gpt, ModelConfig, Params, Weights};
use gptkit_reward::model::Scorer;
use gptkit_train::Resumable;
use gptkit_train::RunContext;
use gptkit_train::checkpoint::{MOMENTS, load_into};
use gptkit_train::config::TrainConfig;
use gptkit_train::ema::Ema;
use gptkit_train::language_modeling::LanguageModeling;
use gptkit_train::learner::{Keep, Learner, Speed, StepContext, StepReport};
use gptkit_train::metric_charts;
use gptkit_train::metrics::{Record, records};
use gptkit_train::objective::Validation;
use gptkit_train::run::Run;
use gptkit_train::schedule::{Schedule, Step};
use gptkit_train::stage::{Model, Stage, StageData};
use gptkit_train::start::{DropoutConfig, Start, prepared_text};
use gptkit_train::state::State;
use gptkit_train::trainer::Trainer;
use gptkit_train::training_data::TrainingData;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Training of a policy with PPO.
pub struct PpoTraining {
    config: PpoConfig,
    /// Model folder of the policy that a new run starts from.
    init: PathBuf,
    /// Folder of the reward model of a new run.
    reward: PathBuf,
    /// Figures before the first iteration of a new run.
    before: BTreeMap<String, f64>,
}

/// What was measured once training has ended.
#[derive(Debug)]
pub struct PpoReport {
    /// Figures of the last evaluation, by name.
    pub figures: BTreeMap<String, f64>,
    /// The same before the first iteration, if this process began the run.
    pub before: BTreeMap<String, f64>,
}

/// Policy, reference and reward model.
pub struct PpoParts {
    weights: Weights,
    /// Weights of the policy that the run started from.
    frozen: Params,
    /// The folder of that policy.
    init: PathBuf,
    scorer: Scorer,
    /// The folder of the reward model.
    reward: PathBuf,
    ends: Ends,
    text: Option<PretrainingText>,
    /// Tokens that end a text and the rounds so far, of a new run.
    description: Option<(Vec<u32>, Provenance)>,
    /// The checkpoint of a resumed run.
    checkpoint: Option<PathBuf>,
}

/// Files of a checkpoint besides those of every stage.
const STATE: &str = "ppo.json";
const VALUE: &str = "value.safetensors";
const VALUE_MOMENTS: &str = "value-optimizer.safetensors";
const EMA: &str = "ema.safetensors";
/// What the fixed prompts were answered, in the run's folder.
const ANSWERS: &str = "answers.md";
/// Names what must rise for `train.patience` not to end a run: the reward on held-out prompts.
const REWARD: &str = "reward";
/// Reward against KL, in the run's folder.
const PICTURE: &str = "reward-kl.svg";

impl PpoTraining {
    /// A run of `config` from the policy in `init` against the reward model in `reward`; a resumed run needs neither.
    pub fn new(config: PpoConfig, init: Option<&Path>, reward: Option<&Path>) -> Self {
        let [init, reward] = [init, reward].map(|folder| folder.map(Path::to_owned).unwrap_or_default());
        Self { config, init, reward, before: BTreeMap::new() }
    }
}

impl Stage for PpoTraining {
    type Config = PpoConfig;
    type Learner = Ppo;
    type Parts = PpoParts;
    type Report = PpoReport;

    const FILES: &'static [&'static str] = &FILES;
    const VALIDATES_EACH_EPOCH: bool = false;

    fn config(&self) -> &PpoConfig {
        &self.config
    }

    fn train(&self) -> &TrainConfig {
        &self.config.train
    }

    fn train_mut(&mut self) -> &mut TrainConfig {
        &mut self.config.train
    }

    fn prepare(&mut self, aside: &Path, context: &RunContext) -> Result<Model<PpoParts>> {
        let (init, reward, progress) = (&self.init, &self.reward, context.progress);
        let PolicyAndReward { policy, template, scorer, ends } =
            PolicyAndReward::load(&self.config, init, reward, context)?;
        let window = policy.config.context.min(scorer.encoder.context);
        // The setting is the longest response that is wanted; the run's own is the longest that fits.
        self.config.rollout.max_new_tokens =
            prompts::encode_all(&self.config, &policy.tokenizer, &template, window, aside, progress)?;
        let config = &self.config;
        let provenance = Provenance::with_round(init, reward, &config.prompts.sources)?;
        let text = text(config, &policy.tokenizer, policy.config.context, progress)?;
        let weights = policy.weights(config.policy.lora.as_ref(), config.seed, progress)?;
        let Start { config: shape, params: frozen, tokenizer, folder: init, end_of_text, .. } = policy;
        let (reward, description) = (reward.clone(), Some((end_of_text, provenance)));
        let parts = PpoParts { weights, frozen, init, scorer, reward, ends, text, description, checkpoint: None };
        Ok(Model { config: shape, tokenizer, parts })
    }

    fn load(&mut self, run: &Resumable, context: &RunContext) -> Result<Model<PpoParts>> {
        let Resumable { folder, checkpoint, .. } = run;
        let provenance = Provenance::load(folder)?;
        let round =
            provenance.rounds.last().with_context(|| format!("{} is not a run of `gptkit ppo`", folder.display()))?;
        round.policy.check("initial policy")?;
        round.reward.check("reward model")?;
        let config = &self.config;
        let PolicyAndReward { policy, scorer, ends, .. } =
            PolicyAndReward::load(config, &round.policy.folder, &round.reward.folder, context)?;
        let text = text(config, &policy.tokenizer, policy.config.context, context.progress)?;
        let weights = load_trained_weights(checkpoint, context.device)?;
        let Start { config: shape, params: frozen, tokenizer, folder: init, .. } = policy;
        let (reward, checkpoint) = (round.reward.folder.clone(), Some(checkpoint.clone()));
        let parts = PpoParts { weights, frozen, init, scorer, reward, ends, text, description: None, checkpoint };
        Ok(Model { config: shape, tokenizer, parts })
    }

    fn open(&mut self, folder: &Path, _: &Model<PpoParts>, _: &RunContext) -> Result<StageData<Self>> {
        let [train, val] = FILES.map(|name| folder.join(name));
        let train = prompts::open(&train, self.config.seed)?;
        let most = self.config.train.eval_windows;
        let validation: Vec<Prompt> = prompts::open(&val, 0)?.all(1, most).into_iter().flatten().collect();
        Ok(TrainingData {
            folder: folder.to_owned(),
            fingerprint: train.fingerprint(),
            n_rows: train.len(),
            tokens_per_row: 1,
            validation: if validation.is_empty() { Vec::new() } else { vec![validation] },
            batch: Box::new(move |first, rows| train.batch(first, rows)),
        })
    }

    fn schedule(&self, data: &StageData<Self>) -> Schedule {
        Schedule::of_episodes(&self.config.train, data.n_rows, self.config.policy.minibatches)
    }

    fn memory(&self, model: &Model<PpoParts>, _: &StageData<Self>) -> u64 {
        let plan = Plan::new(&self.config, &model.config, model.parts.scorer.model.gpt.config());
        plan.phases.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0)
    }

    /// Most of the time is spent on sampling.
    fn flops(&self, _: &Model<PpoParts>, _: &StageData<Self>) -> Option<f64> {
        None
    }

    fn describe(&self, model: &Model<PpoParts>, run: &Path) -> Result<()> {
        let Some((end_of_text, provenance)) = &model.parts.description else { return Ok(()) };
        save_ends(run, end_of_text)?;
        provenance.save(run)
    }

    fn learner(&mut self, model: Model<PpoParts>, data: &mut StageData<Self>, context: &RunContext) -> Result<Ppo> {
        let (config, Model { config: shape, tokenizer, parts }) = (&self.config, model);
        let precision = config.train.dtype.precision();
        // Adapters lie on the frozen weights themselves; else the reference reads a copy that nothing changes.
        let reference = match config.policy.lora {
            Some(_) => None,
            None if parts.checkpoint.is_some() => Some(Gpt::new(&shape, &parts.frozen, precision)?),
            None => Some(Gpt::new(&shape, &load_model(&parts.init, context.device)?.1, precision)?),
        };
        let PpoParts { weights, init, scorer, reward, ends, text, checkpoint, .. } = parts;
        for model in reference.iter().chain([&scorer.model.gpt]) {
            model.keep_packed_only()?;
        }
        let ValueParts { head, values, weights } =
            value_parts(config, weights, (&shape, &init), &reward, checkpoint.as_deref(), context)?;
        let policy = Policy {
            language: LanguageModeling { model: Gpt::new(&shape, weights.params(), precision)? },
            temperature: config.rollout.temperature as f32,
            clip_range: config.policy.clip_range,
            values: head.map(|head| (head, config.value.coef)),
            ptx_coef: config.ptx.as_ref().map_or(0.0, |ptx| ptx.coef),
        };
        let ema = config.policy.ema.map(|decay| Ema::new(weights.trained(), decay)).transpose()?;
        Ok(Ppo {
            policy: Trainer::new(policy, weights, &config.train, config.seed, context.ranks)?,
            reference,
            values,
            rewarder: Box::new(scorer.model),
            ema,
            tokenizer,
            ends,
            validation: std::mem::take(&mut data.validation).into_iter().flatten().collect(),
            text,
            state: PpoState { kl_coef: config.reward.kl_coef, ..PpoState::default() },
            config: Arc::new(config.clone()),
        })
    }

    fn announce(&self, ppo: &Ppo, run: &Path, context: &RunContext) {
        context.progress.note(&format!(
            "{} policy parameters are trained · {} episodes per iteration, {} updates · to {}",
            grouped(ppo.policy.weights().trained().n_elements()),
            self.config.train.batch_size,
            self.config.policy.epochs * self.config.policy.minibatches,
            run.display()
        ));
    }

    fn before(&mut self, ppo: &mut Ppo, run: &Run, state: &mut State, context: &RunContext) -> Result<()> {
        let task = context.progress.task(Ppo::STEP, Some(state.n_steps), Unit::Items);
        let place = StepContext { folder: run.folder(), task: &*task, context };
        if let Some(Validation { scores, chosen_by, .. }) = ppo.validate(state, &place)? {
            self.before = scores;
            if let Some(chosen_by) = chosen_by {
                state.improves(chosen_by, REWARD);
            }
        }
        ppo.save_outcome(run)
    }

    fn draw(&self, run: &Path) -> Result<()> {
        metric_charts::draw(run)?;
        disk::write(&run.join(PICTURE), charts::reward_over_kl(run)?.as_bytes())
    }

    fn report(&mut self, ppo: &mut Ppo, run: &Path, _: &State, _: &RunContext) -> Result<PpoReport> {
        write_answers(ppo, run)?;
        let figures = records(run)?.pop().map(|record| record.scores).unwrap_or_default();
        Ok(PpoReport { figures, before: std::mem::take(&mut self.before) })
    }
}

impl Learner for Ppo {
    type Batch = Vec<Prompt>;

    const STEP: &'static str = "iteration";
    const KEEP: Keep = Keep::Newest;
    const GAIN: &'static str = "improvement of the reward on held-out prompts";

    fn has_validation(&self) -> bool {
        !self.validation.is_empty()
    }

    fn step(&mut self, prompts: &Vec<Prompt>, step: &Step, place: &StepContext) -> Result<StepReport> {
        let iteration = self.iterate(prompts, step, place.task);
        let iteration = iteration.map_err(|e| place.explain(e, Self::STEP, step.number))?;
        let (doctor, progress) = (&self.config.doctor, place.context.progress);
        for spike in &iteration.spikes {
            progress.warn(&format!("iteration {}: {spike}", step.number));
        }
        let is_bf16 = self.config.train.dtype.precision() == gptkit_ops::Precision::Bf16;
        let findings = self.state.doctor.examine(&iteration.health, doctor, Tolerance::of(is_bf16));
        Ok(StepReport {
            loss: iteration.figures["policy/loss"],
            grad_norm: iteration.update.grad_norm,
            made: iteration.update.made,
            n_tokens: iteration.n_tokens,
            n_processed: iteration.n_tokens,
            figures: iteration.figures,
            stop: act(&findings, step.number, doctor, progress).err(),
        })
    }

    /// Measures the outcome so far, and shows what it answers.
    fn validate(&mut self, state: &State, place: &StepContext) -> Result<Option<Validation>> {
        let PpoEvaluation { figures, reward } = self.with_outcome(|ppo| ppo.evaluate(state.step, place.task))?;
        write_answers(self, place.folder)?;
        let chosen_by = reward.map(|reward| -reward);
        Ok(Some(Validation { loss: None, scores: figures, chosen_by, criterion: REWARD }))
    }

    fn save_outcome(&mut self, run: &Run) -> Result<()> {
        self.with_outcome(|ppo| run.save_outcome(ppo.policy.weights()))
    }

    fn gather(&mut self) -> Result<()> {
        self.policy.gather()?;
        self.values.as_mut().map_or(Ok(()), Trainer::gather)
    }

    fn save(&mut self, folder: &Path, state: &mut State) -> Result<()> {
        state.n_updates = self.policy.n_updates();
        self.policy.weights().save(folder)?;
        self.policy.save_moments(&folder.join(MOMENTS))?;
        if let Some(values) = &mut self.values {
            let params = values.weights().params().iter();
            save_tensors(&folder.join(VALUE), params.map(|(name, p)| (name, p.var().as_tensor())))?;
            values.save_moments(&folder.join(VALUE_MOMENTS))?;
        }
        disk::write_json(&folder.join(STATE), &self.state_to_save())?;
        self.ema.as_ref().map_or(Ok(()), |ema| ema.save(&folder.join(EMA)))
    }

    fn restore(&mut self, folder: &Path, state: &State) -> Result<()> {
        let own = disk::read_description(&folder.join(STATE))?;
        self.state =
            serde_json::from_str(&own).with_context(|| format!("cannot read {STATE} in {}", folder.display()))?;
        self.policy.guard = self.state.policy_guard.clone();
        self.policy.restore_moments(&folder.join(MOMENTS), state.n_updates)?;
        if let Some(values) = &mut self.values {
            load_into(values.weights().params(), &folder.join(VALUE))?;
            values.guard = self.state.value_guard.clone();
            values.restore_moments(&folder.join(VALUE_MOMENTS), self.state.value_updates)?;
        }
        if let Some(ema) = &mut self.ema {
            ema.restore(&folder.join(EMA))?;
        }
        Ok(())
    }

    fn status(record: &Record, speed: &Speed) -> String {
        let figure = |name: &str| record.figures.get(name).copied().unwrap_or(f64::NAN);
        format!(
            "score {:.3}  kl {:.2}  entropy {:.2}  length {:.0}  {:.0} episodes/s",
            figure("objective/score"),
            figure("objective/kl"),
            figure("objective/entropy"),
            figure("answers/length"),
            speed.rows_per_s
        )
    }
}

/// Writes the responses to the fixed prompts so far into the folder of the run.
fn write_answers(ppo: &Ppo, folder: &Path) -> Result<()> {
    disk::write(&folder.join(ANSWERS), answers_table(&ppo.shown_prompts()?, &ppo.state.answers).as_bytes())
}

/// Policy and reward model, which must read texts alike.
struct PolicyAndReward {
    policy: Start,
    template: Template,
    scorer: Scorer,
    ends: Ends,
}

impl PolicyAndReward {
    fn load(config: &PpoConfig, init: &Path, reward: &Path, context: &RunContext) -> Result<Self> {
        let mut policy = Start::load_transformer(init, context.device)?;
        let template = Template::required(&policy.tokenizer, init)?;
        no_dropout(&mut policy.config);
        let precision = config.train.dtype.precision();
        let files = ModelFolder::load(reward, context.device)?;
        let gpt = Gpt::new(&files.config, &files.params, precision)?;
        let scorer = Scorer::new(reward, files, gpt)?;
        ensure!(
            scorer.reads_as(&policy.tokenizer, &template),
            "{} has a different tokenizer or chat template from {}, so its rewards would be computed on different \
             tokens\n  hint: train a reward model with `gptkit train-rm --init {}`",
            reward.display(),
            init.display(),
            init.display()
        );
        let mut ends = Ends { template: template.end_token(&policy.tokenizer)?, ..Ends::default() };
        ends.of_text = policy.ends(&template)?.into_iter().filter(|&id| Some(id) != ends.template).collect();
        if let Some(end) = &config.rollout.end {
            let tokens = policy.tokenizer.encode(end)?;
            let n = tokens.len();
            ensure!(
                n == 1,
                "rollout.end = {end:?} has {n} tokens in this tokenizer; it must be one token\n  hint: use \".\""
            );
            let known = ends.template.iter().chain(&ends.of_text).any(|id| *id == tokens[0]);
            ensure!(!known, "rollout.end = {end:?} is already an end token\n  hint: remove rollout.end");
            ends.configured = Some(tokens[0]);
        }
        Ok(Self { policy, template, scorer, ends })
    }
}

/// There is none while PPO runs: the policy that speaks must be the one that learns.
fn no_dropout(config: &mut ModelConfig) {
    DropoutConfig::default().or_zero().apply(config);
}

/// Windows of the text that must not be forgotten, in the policy's tokens.
fn text(
    config: &PpoConfig,
    tokenizer: &Tokenizer,
    context: usize,
    progress: &dyn Progress,
) -> Result<Option<PretrainingText>> {
    let Some(ptx) = &config.ptx else { return Ok(None) };
    let corpus = prepared_text(&ptx.text, tokenizer, progress)?.corpus;
    let parts = validation(&corpus, context, config.train.micro_batch(), config.train.eval_windows);
    let validation = parts.into_iter().flat_map(|part| part.batches).collect();
    Ok(Some(PretrainingText { windows: Windows::new(corpus, context, config.seed)?, validation }))
}

/// The policy's weights and what is to say its values.
struct ValueParts {
    head: Option<ValueHead>,
    values: Option<Trainer<Values>>,
    weights: Weights,
}

fn value_parts(
    config: &PpoConfig,
    weights: Weights,
    (shape, init): (&ModelConfig, &Path),
    reward: &Path,
    checkpoint: Option<&Path>,
    context: &RunContext,
) -> Result<ValueParts> {
    let clip_range = config.value.clip_range;
    if config.value.shared {
        let mut params = weights.merged()?;
        let head = match checkpoint {
            Some(folder) => ClassHead::load(&mut params, folder)?,
            None => ClassHead::init_value(&mut params, shape.d_model)?,
        };
        return Ok(ValueParts { head: Some(ValueHead { head, clip_range }), values: None, weights: params.into() });
    }
    let (mut shape, mut params) = match config.value.init {
        ValueInit::Reward => (load_config(reward)?, load_model(reward, context.device)?.1),
        ValueInit::Policy => (shape.clone(), load_model(init, context.device)?.1),
    };
    no_dropout(&mut shape);
    let head = match config.value.init {
        ValueInit::Reward => ClassHead::load(&mut params, reward)?,
        ValueInit::Policy => ClassHead::init_value(&mut params, shape.d_model)?,
    };
    let gpt = Gpt::new(&shape, &params, config.train.dtype.precision())?;
    params.freeze_output();
    let values = Values { gpt, head: ValueHead { head, clip_range } };
    let values = Trainer::new(values, params, &config.train, config.seed, context.ranks)?;
    Ok(ValueParts { head: None, values: Some(values), weights })
}

/// What each fixed prompt was answered after which iteration, in Markdown.
fn answers_table(prompts: &[String], answers: &[(u64, Vec<String>)]) -> String {
    let cell = |text: &str| text.trim().replace('|', "\\|").replace('\n', "<br>");
    let mut out = String::new();
    for (n, prompt) in prompts.iter().enumerate() {
        out += &format!("**{}**\n\n| iteration | answer |\n| --- | --- |\n", cell(prompt));
        for (step, said) in answers {
            out += &format!("| {step} | {} |\n", cell(said.get(n).map_or("", String::as_str)));
        }
        out += "\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_stand_below_each_other() {
        let table = answers_table(&["a|b".to_owned()], &[(0, vec!["x\ny".to_owned()]), (10, vec!["z".to_owned()])]);
        assert_eq!(table, "**a\\|b**\n\n| iteration | answer |\n| --- | --- |\n| 0 | x<br>y |\n| 10 | z |\n\n");
    }
}

//! A stage of training, written once: what [`Stage`] declares, [`run`] and [`resume`] carry out, the same for pretraining, SFT,
//! fine-tuning, reward models, DPO and PPO.
//!
//! A new run, in this order: the stage [prepares](Stage::prepare) its model and its records, [opens](Stage::open) the data, the
//! folder is written, the [learner](Stage::learner) is made, the loop in [`mod@crate::fit`] trains it, curves are drawn, and the
//! stage [reports](Stage::report) what was learned. A resumed run [loads](Stage::load) its model from the checkpoint in the place
//! of `prepare` and goes on from there.

use crate::checkpoint;
use crate::config::TrainConfig;
use crate::context::RunContext;
use crate::fit::{Fit, Summary};
use crate::learner::{Keep, Learner};
use crate::memory::{Memory, Place};
use crate::metric_charts;
use crate::plan::{self, Flops, RunEstimate};
use crate::resume::Resumable;
use crate::run::Run;
use crate::schedule::Schedule;
use crate::state::{DataSeen, State};
use crate::training_data::TrainingData;
use anyhow::{Context, Result};
use gptkit_data::batch::Prefetch;
use gptkit_data::disk::{Claim, Scratch};
use gptkit_data::progress::counted;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::ModelConfig;
use gptkit_model::folder::is_whole;
use gptkit_ranks::Ranks;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What is particular to a stage.
pub trait Stage {
    /// All settings, as `config.toml` of the run stores them.
    type Config: Serialize;
    /// What the loop trains.
    type Learner: Learner;
    /// The parts of which the learner is made: weights, heads, other models.
    type Parts;
    /// What is measured once training has ended.
    type Report;

    /// Files of encoded records that the run keeps in its folder; none where it reads shards.
    const FILES: &'static [&'static str] = &[];
    /// Whether a validation ends each epoch unless `train.eval_every` is set; else there is one every 250 steps.
    const VALIDATES_EACH_EPOCH: bool = true;

    /// The settings.
    fn config(&self) -> &Self::Config;

    /// The settings of the loop.
    fn train(&self) -> &TrainConfig;

    /// The same, to fill in what depends on the data or the machine.
    fn train_mut(&mut self) -> &mut TrainConfig;

    /// Loads the model that the run starts from and encodes the records into the folder `aside`.
    ///
    /// # Errors
    /// When model and records do not fit together, or cannot be read.
    fn prepare(&mut self, aside: &Path, context: &RunContext) -> Result<Model<Self::Parts>>;

    /// Loads the model of a resumed run from its newest checkpoint.
    ///
    /// # Errors
    /// When it is damaged.
    fn load(&mut self, run: &Resumable, context: &RunContext) -> Result<Model<Self::Parts>>;

    /// Opens the data: the files that `prepare` wrote, in `folder`.
    ///
    /// # Errors
    /// When it is damaged.
    fn open(&mut self, folder: &Path, model: &Model<Self::Parts>, context: &RunContext) -> Result<StageData<Self>>;

    /// The plan of all steps.
    fn schedule(&self, data: &StageData<Self>) -> Schedule {
        Schedule::new(self.train(), data.tokens_per_row, data.n_rows)
    }

    /// Compares the data of a resumed run with those that it began with.
    ///
    /// # Errors
    /// When they differ.
    fn check_unchanged(&self, data: &StageData<Self>, seen: &DataSeen, run: &Path) -> Result<()> {
        let records = Self::FILES.first().map_or_else(|| data.folder.clone(), |file| run.join(file));
        data.check_unchanged(seen, &records)
    }

    /// Writes further descriptions of the model into the folder of a new run.
    ///
    /// # Errors
    /// When one cannot be written.
    fn describe(&self, _model: &Model<Self::Parts>, _run: &Path) -> Result<()> {
        Ok(())
    }

    /// Memory of a step on one of `ranks` in bytes, by which a run that cannot fit is refused before it begins.
    fn memory(&self, model: &Model<Self::Parts>, data: &StageData<Self>, ranks: &Ranks) -> u64 {
        let context = model.config.context.min(data.tokens_per_row);
        Memory::of(&ModelConfig { context, ..model.config.clone() }, &self.train().of_rank(ranks), Place::Processor)
            .total()
    }

    /// Floating-point operations of the run, from which its time is estimated; `None` where they are not known before.
    fn flops(&self, model: &Model<Self::Parts>, data: &StageData<Self>) -> Option<f64> {
        let context = model.config.context.min(data.tokens_per_row);
        let of_token = Flops::of(&ModelConfig { context, ..model.config.clone() }, self.train()).total();
        Some(of_token * self.schedule(data).n_tokens() as f64)
    }

    /// Refuses a new run that is not worth its `estimate`, before it has a folder.
    ///
    /// # Errors
    /// When it is refused.
    fn check_estimate(&self, _estimate: &RunEstimate, _context: &RunContext) -> Result<()> {
        Ok(())
    }

    /// Makes the learner, which takes the validation set out of `data`.
    ///
    /// # Errors
    /// When memory does not suffice, or the parts do not fit together.
    fn learner(
        &mut self,
        model: Model<Self::Parts>,
        data: &mut StageData<Self>,
        context: &RunContext,
    ) -> Result<Self::Learner>;

    /// Reports the size of a new run before its first step: parameters, rows of a step, its folder.
    fn announce(&self, learner: &Self::Learner, run: &Path, context: &RunContext);

    /// Measures what there is to measure before the first step of a new run.
    ///
    /// # Errors
    /// When the model cannot be run.
    fn before(
        &mut self,
        _learner: &mut Self::Learner,
        _run: &Run,
        _state: &mut State,
        _context: &RunContext,
    ) -> Result<()> {
        Ok(())
    }

    /// Draws pictures of the run in the folder `run`, finished or not.
    ///
    /// # Errors
    /// When one cannot be written.
    fn draw(&self, run: &Path) -> Result<()> {
        metric_charts::draw(run)
    }

    /// Once training has ended: measures the model in the folder `run`, and writes what was measured there.
    ///
    /// # Errors
    /// When the model cannot be read or run, or a file cannot be written.
    fn report(
        &mut self,
        learner: &mut Self::Learner,
        run: &Path,
        state: &State,
        context: &RunContext,
    ) -> Result<Self::Report>;
}

/// A model in the form in which its stage trains it.
pub struct Model<P> {
    /// Its shape.
    pub config: ModelConfig,
    /// Its tokens.
    pub tokenizer: Tokenizer,
    /// Weights, heads and other models.
    pub parts: P,
}

/// The data of the stage `S`.
pub type StageData<S> = TrainingData<<<S as Stage>::Learner as Learner>::Batch>;

/// The outcome of a run.
#[derive(Debug)]
pub struct Outcome<R = ()> {
    /// Its folder, which is the folder of the trained model.
    pub folder: PathBuf,
    /// Its state after the last step, and what stopped it.
    pub summary: Summary,
    /// What was measured, once training has ended; on the first rank.
    pub report: Option<R>,
}

/// Runs `stage` in the folder of `claim`, which of other ranks than the first is one that nobody else reads.
///
/// # Errors
/// When model and data do not fit together, or the run fails.
pub fn run<S: Stage>(mut stage: S, claim: Claim, context: &RunContext) -> Result<Outcome<S::Report>> {
    stage.train_mut().settle(context.ranks);
    stage.train().check_ranks(context.ranks)?;
    let folder = claim.folder().to_owned();
    let aside = if S::FILES.is_empty() { None } else { Some(Scratch::beside(&folder)?) };
    let encoded = aside.as_ref().map_or(folder.as_path(), Scratch::path);
    let model = stage.prepare(encoded, context)?;
    let mut data = stage.open(encoded, &model, context)?;
    if S::VALIDATES_EACH_EPOCH {
        stage.train_mut().validate_each_epoch(data.n_rows);
    }
    stage.train().check_validation(!data.validation.is_empty())?;
    let resolved = gptkit_config::resolved(stage.config()).context("the configuration cannot be written")?;
    let estimate = estimate(&stage, &model, &data, context.ranks);
    plan::must_fit(estimate.memory, context.device)?;
    stage.check_estimate(&estimate, context)?;

    let run = Run::create(claim, &resolved, &model.config, &model.tokenizer)?;
    stage.describe(&model, &folder)?;
    run.take_in(encoded, S::FILES)?;
    drop(aside); // nothing of it is left when training is killed
    let kept = if S::FILES.is_empty() { &data.folder } else { &folder };
    let seen = DataSeen { folder: std::path::absolute(kept)?, fingerprint: data.fingerprint.clone() };
    let mut learner = stage.learner(model, &mut data, context)?;
    stage.announce(&learner, &folder, context);
    context.progress.note(&estimate.describe(stage.train().dtype, context.device));
    train(stage, &mut learner, data, State { data: seen, ..State::default() }, run, context)
}

/// Estimates a new run of `stage`.
fn estimate<S: Stage>(stage: &S, model: &Model<S::Parts>, data: &StageData<S>, ranks: &Ranks) -> RunEstimate {
    let schedule = stage.schedule(data);
    let of_epoch = (data.n_rows.max(1) * data.tokens_per_row.max(1) as u64) as f64;
    RunEstimate {
        n_steps: schedule.n_steps(),
        epochs: schedule.n_tokens() as f64 / of_epoch,
        memory: stage.memory(model, data, ranks),
        flops: stage.flops(model, data),
    }
}

/// Resumes a run of `stage`, whose settings are the run's own, as if it had not been interrupted.
///
/// # Errors
/// When data or checkpoint are damaged or do not belong to the run, or the run fails.
pub fn resume<S: Stage>(mut stage: S, resumable: Resumable, context: &RunContext) -> Result<Outcome<S::Report>> {
    stage.train().check_ranks(context.ranks)?;
    let model = stage.load(&resumable, context)?;
    let Resumable { folder, checkpoint, state, lock, .. } = resumable;
    let mut data = stage.open(&folder, &model, context)?;
    stage.check_unchanged(&data, &state.data, &folder)?;
    let mut learner = stage.learner(model, &mut data, context)?;
    learner.restore(&checkpoint, &state)?;
    context.progress.note(&format!("resumed {} after {} {}", folder.display(), S::Learner::STEP, state.step));
    let Some(lock) = lock else {
        let aside = tempfile::tempdir()?;
        let run = Run::follow(aside.path(), &checkpoint, state.step)?;
        return train(stage, &mut learner, data, state, run, context);
    };
    let run = Run::resume(&folder, lock, &checkpoint, state.step, context.progress)?;
    checkpoint::restore_outcome(&folder, &state, context.progress)?;
    if S::Learner::KEEP == Keep::Newest && !is_whole(&folder) {
        learner.save_outcome(&run)?;
    }
    train(stage, &mut learner, data, state, run, context)
}

/// Trains, draws, and reports.
fn train<S: Stage>(
    mut stage: S,
    learner: &mut S::Learner,
    data: StageData<S>,
    state: State,
    mut run: Run,
    context: &RunContext,
) -> Result<Outcome<S::Report>> {
    let (schedule, config, folder) = (stage.schedule(&data), stage.train().clone(), run.folder().to_owned());
    if !context.ranks.is_alone() {
        let (n, shards) = (context.ranks.size(), config.shards());
        let parts = counted(shards as u64 / n as u64, "part");
        context.progress.note(&format!("{n} ranks: each computes {parts} of the {shards} of a batch"));
    }
    let rows = schedule.steps().skip(state.step as usize).map(|step| (step.first_row, step.rows));
    let batches = Prefetch::new(data.batch, rows);
    let fit = Fit { learner, state, schedule: &schedule, config: &config, run: &mut run, context };
    let summary = fit.train(batches, |learner, run, state| stage.before(learner, run, state, context))?;
    if summary.state.finished {
        run.finished()?;
    }
    if !context.ranks.is_first() {
        return Ok(Outcome { folder, summary, report: None });
    }
    stage.draw(&folder)?;
    let report = match summary.stop {
        None => Some(stage.report(learner, &folder, &summary.state, context)?),
        Some(_) => None,
    };
    Ok(Outcome { folder, summary, report })
}

/// The batch of step number `step` of a run of `stage`, and the tokenizer that made it.
///
/// # Errors
/// As [`run`], or when the run has fewer steps.
pub fn batch_of_step<S: Stage>(
    mut stage: S,
    step: u64,
    context: &RunContext,
) -> Result<(Tokenizer, <S::Learner as Learner>::Batch)> {
    let aside = tempfile::tempdir()?;
    let model = stage.prepare(aside.path(), context)?;
    let mut data = stage.open(aside.path(), &model, context)?;
    let schedule = stage.schedule(&data);
    let found = schedule.steps().nth(step as usize - 1);
    let found =
        found.with_context(|| format!("the run has {} steps, so there is no step {step}", schedule.n_steps()))?;
    Ok((model.tokenizer, (data.batch)(found.first_row, found.rows)))
}

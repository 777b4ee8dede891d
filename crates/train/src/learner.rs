//! What the loop in [`mod@crate::fit`] trains.

use crate::checkpoint::MOMENTS;
use crate::context::RunContext;
use crate::metrics::Record;
use crate::objective::{Objective, Validate, Validation};
use crate::run::Run;
use crate::samples::{TextSample, TextSampler};
use crate::schedule::Step;
use crate::state::State;
use crate::trainer::Trainer;
use crate::training_data::TrainingData;
use anyhow::{Error, Result};
use gptkit_data::progress::ProgressTask;
use std::collections::BTreeMap;
use std::path::Path;

/// Which weights a run leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Those of the best validation.
    Best,
    /// Those of the last validation.
    Newest,
}

/// Something that is trained step by step: a model with an objective ([`Supervised`]), or PPO's policy, whose step is an
/// iteration of sampling, scoring and updates.
pub trait Learner {
    /// The examples of one step.
    type Batch: Send + 'static;

    /// The name of a step in messages.
    const STEP: &'static str;
    /// Which weights the run leaves.
    const KEEP: Keep;
    /// What must improve for `train.patience` not to end the run.
    const GAIN: &'static str;

    /// Whether there is a validation set.
    fn has_validation(&self) -> bool;

    /// Learns from `batch`.
    ///
    /// # Errors
    /// When nothing can be learned any more, or memory does not suffice.
    fn step(&mut self, batch: &Self::Batch, step: &Step, place: &StepContext) -> Result<StepReport>;

    /// Measures the model on the validation set; none where there is nothing to measure it on.
    ///
    /// # Errors
    /// When the model cannot be run.
    fn validate(&mut self, state: &State, place: &StepContext) -> Result<Option<Validation>>;

    /// What the model writes after step number `step`; nothing in stages that write no samples.
    ///
    /// # Errors
    /// When the model's outputs are not finite.
    fn samples(&self, _step: u64, _place: &StepContext) -> Result<Vec<TextSample>> {
        Ok(Vec::new())
    }

    /// Writes the weights as the outcome of the run so far.
    ///
    /// # Errors
    /// When they cannot be written; the older ones are then whole.
    fn save_outcome(&mut self, run: &Run) -> Result<()>;

    /// Has the first rank gather what [`Learner::save`] writes and other ranks have. Every rank must call it.
    ///
    /// # Errors
    /// When a rank has ended or does not answer.
    fn gather(&mut self) -> Result<()>;

    /// Writes weights, moments and whatever else the next step depends on into the checkpoint `folder`, and what of it belongs
    /// there into `state`. Frees what was gathered for it.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn save(&mut self, folder: &Path, state: &mut State) -> Result<()>;

    /// Reads what [`Learner::save`] wrote, but for the weights, with which the learner was made.
    ///
    /// # Errors
    /// When a file cannot be read or does not fit the model.
    fn restore(&mut self, folder: &Path, state: &State) -> Result<()>;

    /// The figures next to the progress bar.
    fn status(record: &Record, speed: &Speed) -> String;
}

/// Where a step is made.
#[derive(Clone, Copy)]
pub struct StepContext<'a> {
    /// The folder of the run.
    pub folder: &'a Path,
    /// The progress bar of the run.
    pub task: &'a dyn ProgressTask,
    /// The command's output.
    pub context: &'a RunContext<'a>,
}

impl StepContext<'_> {
    /// Adds to `error` of step number `step`, which the learner calls `name`, where the run was saved last.
    pub fn explain(&self, error: Error, name: &str, step: u64) -> Error {
        error.context(format!("{name} {step} failed; the last saved state is in {}", self.folder.display()))
    }
}

/// The result of a step.
#[derive(Debug, Default)]
pub struct StepReport {
    /// Training loss, nats.
    pub loss: f64,
    /// Norm of the gradient of the last update.
    pub grad_norm: f64,
    /// Whether the weights were changed.
    pub made: bool,
    /// Tokens by which `tokens` in metrics.jsonl grows.
    pub n_tokens: u64,
    /// Tokens that the model read or wrote, for the rate.
    pub n_processed: u64,
    /// Further figures by name.
    pub figures: BTreeMap<String, f64>,
    /// Why the run must end after this step has been saved.
    pub stop: Option<Error>,
}

/// What a status line says besides the record.
#[derive(Debug, Default)]
pub struct Speed {
    /// Running mean of tokens per second that forgets slowly.
    pub tokens_per_s: f64,
    /// Rows of the last step per second.
    pub rows_per_s: f64,
    /// Loss of the last validation, nats.
    pub val_loss: Option<f64>,
}

impl Speed {
    pub(crate) fn add(&mut self, tokens_per_s: f64, rows_per_s: f64) {
        let mean = self.tokens_per_s;
        self.tokens_per_s = if mean == 0.0 { tokens_per_s } else { 0.9 * mean + 0.1 * tokens_per_s };
        self.rows_per_s = rows_per_s;
    }
}

/// A trainer with its validation set, as every stage but PPO has it.
pub struct Supervised<O: Objective> {
    trainer: Trainer<O>,
    validation: Vec<O::Batch>,
    /// Tokens by which a row counts in metrics.jsonl.
    tokens_per_row: u64,
    sampler: Option<TextSampler>,
}

impl<O: Validate> Supervised<O> {
    /// Trains with `trainer`, and validates on the validation set of `data`, which is taken out of it.
    pub fn new(trainer: Trainer<O>, data: &mut TrainingData<O::Batch>) -> Self {
        let (validation, tokens_per_row) = (std::mem::take(&mut data.validation), data.tokens_per_row as u64);
        Self { trainer, validation, tokens_per_row, sampler: None }
    }

    /// Has `sampler`, if there is one, write samples from now on.
    pub fn write_samples(&mut self, sampler: Option<TextSampler>) {
        self.sampler = sampler;
    }

    /// The trainer.
    pub fn trainer(&self) -> &Trainer<O> {
        &self.trainer
    }

    /// Loss on the validation set; none where there is none.
    ///
    /// # Errors
    /// When the model cannot be run.
    pub fn validation_loss(&self) -> Result<Option<f64>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        Ok(self.trainer.validate(&self.validation)?.loss)
    }
}

impl<O: Validate<Batch: Send + 'static>> Learner for Supervised<O> {
    type Batch = O::Batch;

    const STEP: &'static str = "step";
    const KEEP: Keep = Keep::Best;
    const GAIN: &'static str = "improvement of the validation loss";

    fn has_validation(&self) -> bool {
        !self.validation.is_empty()
    }

    fn step(&mut self, batch: &O::Batch, step: &Step, place: &StepContext) -> Result<StepReport> {
        let update = self.trainer.step(batch, step.first_row, step.lr);
        let update = update.map_err(|e| place.explain(e, Self::STEP, step.number))?;
        self.trainer.check(&update, step, place.folder, place.context.progress)?;
        Ok(StepReport {
            loss: update.loss,
            grad_norm: update.grad_norm,
            made: update.made,
            n_tokens: step.rows as u64 * self.tokens_per_row,
            n_processed: self.trainer.objective().n_tokens(batch),
            ..StepReport::default()
        })
    }

    fn validate(&mut self, _: &State, place: &StepContext) -> Result<Option<Validation>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        place.task.show("validating");
        self.trainer.validate(&self.validation).map(Some)
    }

    fn samples(&self, step: u64, place: &StepContext) -> Result<Vec<TextSample>> {
        let (Some(sampler), Some(model)) = (&self.sampler, self.trainer.objective().writer()) else {
            return Ok(Vec::new());
        };
        place.task.show("writing samples");
        sampler.write(model, step)
    }

    fn save_outcome(&mut self, run: &Run) -> Result<()> {
        run.save_outcome(self.trainer.weights())
    }

    fn gather(&mut self) -> Result<()> {
        self.trainer.gather()
    }

    fn save(&mut self, folder: &Path, state: &mut State) -> Result<()> {
        state.n_updates = self.trainer.n_updates();
        state.guard = self.trainer.guard.clone();
        self.trainer.weights().save(folder)?;
        self.trainer.save_moments(&folder.join(MOMENTS))
    }

    fn restore(&mut self, folder: &Path, state: &State) -> Result<()> {
        self.trainer.guard = state.guard.clone();
        self.trainer.restore_moments(&folder.join(MOMENTS), state.n_updates)
    }

    fn status(record: &Record, speed: &Speed) -> String {
        let val = speed.val_loss.map(|loss| format!("  val {loss:.3}")).unwrap_or_default();
        format!(
            "loss {:.3}{val}  lr {:.1e}  norm {:.2}  {:.0} tok/s",
            record.train_loss, record.learning_rate, record.grad_norm, speed.tokens_per_s
        )
    }
}

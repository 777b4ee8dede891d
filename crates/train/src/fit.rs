//! The one step (loss → gradients → clip → update → log → save), and the loop around it.

use crate::checkpoint::{self, State};
use crate::config::TrainConfig;
use crate::interrupt::Interrupt;
use crate::optimizer::{Gradients, Optimizer};
use crate::run::{Record, Run};
use crate::schedule::{Schedule, Step};
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use data::batch::{Batch, IGNORE};
use data::progress::{Progress, Unit};
use model::{Gpt, ModelConfig, Params, Pass};
use std::path::Path;
use std::time::Instant;

/// A model in training.
pub struct Trainer {
    params: Params,
    trainable: Gpt,
    frozen: Gpt,
    optimizer: Optimizer,
    config: TrainConfig,
    seed: u64,
}

/// What one update found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Mean loss over the batch's targets, nats.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

impl Update {
    /// Whether the weights were changed: not when loss or gradient is NaN or infinite.
    pub fn made(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

impl Trainer {
    /// Begins to train `params`, the weights of a model of shape `model`; dropout is drawn from `seed`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn new(model: &ModelConfig, params: Params, config: &TrainConfig, seed: u64) -> Result<Self> {
        Ok(Self {
            trainable: Gpt::trainable(model, &params)?,
            frozen: Gpt::frozen(model, &params)?,
            optimizer: Optimizer::new(&params)?,
            params,
            config: config.clone(),
            seed,
        })
    }

    /// The weights, which later steps change.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Takes the optimizer's moments from the checkpoint in `folder`, which was written with `state`.
    ///
    /// # Errors
    /// When they do not fit the model.
    pub fn restore(&mut self, folder: &Path, state: &State) -> Result<()> {
        let moments = checkpoint::moments(folder, self.trainable.device())?;
        Ok(self.optimizer.restore(&moments, state.n_updates)?)
    }

    /// One update from `batch`, whose first row is number `first_row` of the run, with learning rate `lr`.
    ///
    /// # Errors
    /// When the batch does not fit the model, or memory does not suffice.
    pub fn step(&mut self, batch: &Batch, first_row: u64, lr: f64) -> Result<Update> {
        let total = counted(&batch.targets).max(1) as f64;
        let micro = self.config.micro_batch();
        let (mut gradients, mut loss) = (Gradients::default(), 0.0);
        for first in (0..batch.rows).step_by(micro) {
            let rows = micro.min(batch.rows - first);
            let (tokens, targets) = tensors(batch, first, rows, self.trainable.device())?;
            let pass = Pass::Train { seed: self.seed, first_row: first_row + first as u64 };
            // A micro-batch weighs as much as it has targets, so that the mean is the whole batch's.
            let range = first * batch.context..(first + rows) * batch.context;
            let weight = counted(&batch.targets[range]) as f64 / total;
            let micro_loss = (self.trainable.loss(&tokens, &targets, pass)? * weight)?;
            loss += f64::from(micro_loss.to_scalar::<f32>()?);
            gradients.add(&self.params, &micro_loss.backward()?)?;
        }
        let grad_norm = match loss.is_finite() {
            true => self.optimizer.update(&gradients, lr, &self.config)?,
            false => gradients.norm()?,
        };
        Ok(Update { loss, grad_norm })
    }

    /// Mean loss over the targets of `batches`, nats, without dropout.
    ///
    /// # Errors
    /// When a batch does not fit the model.
    pub fn validate(&self, batches: &[Batch]) -> Result<f64> {
        let (mut sum, mut n) = (0.0, 0);
        for batch in batches {
            let (tokens, targets) = tensors(batch, 0, batch.rows, self.frozen.device())?;
            let loss = self.frozen.loss(&tokens, &targets, Pass::Eval)?.to_scalar::<f32>()?;
            let here = counted(&batch.targets);
            sum += f64::from(loss) * here as f64;
            n += here;
        }
        Ok(sum / n.max(1) as f64)
    }
}

/// Targets that count in the loss.
fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|&&t| t != IGNORE).count()
}

/// Rows `first .. first + rows` of a batch, as tokens and targets, `[rows, T]` each.
fn tensors(batch: &Batch, first: usize, rows: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let range = first * batch.context..(first + rows) * batch.context;
    let tensor = |ids: &[u32]| Tensor::from_slice(&ids[range.clone()], (rows, batch.context), device);
    Ok((tensor(&batch.tokens)?, tensor(&batch.targets)?))
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Where it stands.
    pub state: State,
    /// The signal that ended it early.
    pub signal: Option<u8>,
}

/// Trains from `state` until the schedule ends, patience does, or a signal comes: takes a batch for each step of
/// `schedule` that is left, validates on `validation`, and keeps records, weights and checkpoints in `run`.
///
/// # Errors
/// When a step fails or a file cannot be written; what was saved before stays.
pub fn fit(
    trainer: &mut Trainer,
    mut state: State,
    schedule: &Schedule,
    batches: impl Iterator<Item = Batch>,
    validation: &[Batch],
    run: &mut Run,
    progress: &dyn Progress,
) -> Result<Summary> {
    let interrupt = Interrupt::watch()?;
    let (begun, elapsed_before) = (Instant::now(), state.elapsed_s);
    let n_steps = schedule.n_steps();
    if state.step == 0 {
        checkpoint::save(run.folder(), &trainer.params, &trainer.optimizer, &state)?;
    }
    let task = progress.task("step", Some(n_steps), Unit::Items);
    task.resume_at(state.step);
    let mut val_loss = None;
    let mut speed = Speed::default();
    let mut signal = None;
    for (step, batch) in schedule.steps().skip(state.step as usize).zip(batches) {
        let step_begun = Instant::now();
        let update = trainer.step(&batch, step.first_row, step.lr).map_err(|e| {
            e.context(format!("step {}; what was saved last is in {}", step.number, run.folder().display()))
        })?;
        state.skipped_in_a_row = if update.made() { 0 } else { state.skipped_in_a_row + 1 };
        if !update.made() {
            refuse_more(&state, &update, &step, run.folder(), progress)?;
        }
        let mut record = record(&step, &update, schedule.context(), step_begun.elapsed().as_secs_f64());
        state.step = step.number;
        speed.add(record.tokens_per_s);
        let due = step.number == n_steps || step.number.is_multiple_of(trainer.config.eval_every);
        if due {
            if !validation.is_empty() {
                task.show("validating");
                record.val_loss = Some(trainer.validate(validation)?);
                val_loss = record.val_loss;
            }
            // Without a validation part the newest weights count as the best.
            let lower = |loss: f64| loss < state.best.map_or(f64::INFINITY, |(lowest, _)| lowest);
            let better = record.val_loss.is_none_or(lower);
            if let (true, Some(loss)) = (better, record.val_loss) {
                state.best = Some((loss, step.number));
            }
            state.without_gain = if better { 0 } else { state.without_gain + 1 };
            if better {
                run.save_best(&trainer.params)?;
            }
        }
        run.record(&record)?;
        signal = interrupt.signal();
        if due || signal.is_some() {
            state.n_updates = trainer.optimizer.n_updates();
            state.elapsed_s = elapsed_before + begun.elapsed().as_secs_f64();
            checkpoint::save(run.folder(), &trainer.params, &trainer.optimizer, &state)?;
        }
        task.show(&figures(&record, val_loss, speed.mean));
        task.advance(1);
        if signal.is_some() {
            break;
        }
        if trainer.config.patience.is_some_and(|patience| state.without_gain >= patience) {
            progress.note(&format!(
                "no better validation loss {} times in a row: training ends at step {}",
                state.without_gain, state.step
            ));
            break;
        }
    }
    Ok(Summary { state, signal })
}

/// Steps without an update in a row after which training ends: a batch may be bad, five are not.
const SKIPPED_AT_MOST: u32 = 5;

/// Says that a step made no update.
///
/// # Errors
/// When it was one too many in a row.
fn refuse_more(state: &State, update: &Update, step: &Step, run: &Path, progress: &dyn Progress) -> Result<()> {
    let found = format!("step {}: the loss is {}, its gradient's norm {}", step.number, update.loss, update.grad_norm);
    ensure!(
        state.skipped_in_a_row < SKIPPED_AT_MOST,
        "{found}, not finite for the {SKIPPED_AT_MOST}th time in a row; lower train.lr (here {:.1e}) or set train.clip. \
         The checkpoints in {} are from before",
        step.lr,
        run.join("checkpoints").display()
    );
    progress.warn(&format!("{found}: no update is made"));
    Ok(())
}

/// A running mean of tokens a second that forgets slowly.
#[derive(Default)]
struct Speed {
    mean: f64,
}

impl Speed {
    fn add(&mut self, tokens_per_s: f64) {
        self.mean = if self.mean == 0.0 { tokens_per_s } else { 0.9 * self.mean + 0.1 * tokens_per_s };
    }
}

fn record(step: &Step, update: &Update, context: u64, seconds: f64) -> Record {
    let tokens = step.rows as u64 * context;
    Record {
        step: step.number,
        tokens: step.first_row * context + tokens,
        train_loss: update.loss,
        learning_rate: step.lr,
        grad_norm: update.grad_norm,
        tokens_per_s: tokens as f64 / seconds,
        val_loss: None,
    }
}

/// The figures beside the bar, with the newest validation loss; 56 characters, so that they fit into 80 columns.
fn figures(record: &Record, val_loss: Option<f64>, tokens_per_s: f64) -> String {
    let val = val_loss.map(|loss| format!("  val {loss:.3}")).unwrap_or_default();
    format!(
        "loss {:.3}{val}  lr {:.1e}  norm {:.2}  {tokens_per_s:.0} tok/s",
        record.train_loss, record.learning_rate, record.grad_norm
    )
}

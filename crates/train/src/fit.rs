//! The one step (loss → gradients → clip → update → log → save), and the loop around it.

use crate::checkpoint::{self, State};
use crate::config::{OnSpike, Recompute, TrainConfig};
use crate::guard::Guard;
use crate::interrupt::{Interrupt, Stop};
use crate::objective::{Objective, Validate};
use crate::optimizer::Optimizer;
use crate::run::{Record, Run};
use crate::schedule::{Schedule, Step};
use anyhow::{Result, ensure};
use candle_core::Device;
use gptkit_data::progress::{Progress, Unit};
use gptkit_model::{Pass, Weights};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// How a command has its stage run: where, before whose eyes, for how long.
#[derive(Clone, Copy)]
pub struct Sitting<'a> {
    /// Where tensors live.
    pub device: &'a Device,
    /// What is told.
    pub progress: &'a dyn Progress,
    /// When the step at hand is finished and saved, and training stops.
    pub deadline: Option<Instant>,
}

/// A model in training.
pub struct Trainer<O> {
    objective: O,
    weights: Weights,
    optimizer: Optimizer,
    config: TrainConfig,
    seed: u64,
}

/// What one update found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// The batch's loss, nats.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Standard deviations that the loss lies above the ones before, when they are too many.
    pub spike: Option<f64>,
    /// Whether the weights were changed.
    pub made: bool,
}

impl Update {
    /// Whether loss and gradient are numbers.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

impl<O: Objective> Trainer<O> {
    /// Begins to train `weights`, those that the model of `objective` was made of; dropout is drawn from `seed`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn new(objective: O, weights: impl Into<Weights>, config: &TrainConfig, seed: u64) -> Result<Self> {
        let weights = weights.into();
        Ok(Self { objective, optimizer: Optimizer::new(weights.trained())?, weights, config: config.clone(), seed })
    }

    /// The weights, which later steps change.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The weights, for a change that no step makes.
    pub fn weights_mut(&mut self) -> &mut Weights {
        &mut self.weights
    }

    /// What it trains for.
    pub fn objective(&self) -> &O {
        &self.objective
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Takes the optimizer's moments from the checkpoint in `folder`, which was written with `state`.
    ///
    /// # Errors
    /// When they do not fit the model.
    pub fn restore(&mut self, folder: &Path, state: &State) -> Result<()> {
        self.restore_from(&folder.join(checkpoint::OPTIMIZER), state.n_updates)
    }

    /// Takes the optimizer's moments from the file `path`, which was written after `n_updates`.
    ///
    /// # Errors
    /// When they do not fit the model.
    pub fn restore_from(&mut self, path: &Path, n_updates: u64) -> Result<()> {
        checkpoint::restore(path, &mut self.optimizer, n_updates)
    }

    /// One update from `batch`, whose first row is number `first_row` of the run, with learning rate `lr`. There is none
    /// when the loss or the gradient is not finite, or when `guard` finds a spike that the configuration skips.
    ///
    /// # Errors
    /// When the batch does not fit the model, or memory does not suffice.
    pub fn step(&mut self, batch: &O::Batch, first_row: u64, lr: f64, guard: &mut Guard) -> Result<Update> {
        let (n_rows, micro) = (self.objective.rows(batch), self.config.micro_batch());
        let mut loss = 0.0;
        let mut update = self.weights.begin_update();
        for first in (0..n_rows).step_by(micro) {
            let recompute = self.config.recompute == Recompute::Blocks;
            let pass = Pass::Train { seed: self.seed, first_row: first_row + first as u64, recompute };
            let micro_loss =
                update.backward(|| self.objective.loss(batch, first..(first + micro).min(n_rows), pass))?;
            loss += f64::from(micro_loss.to_scalar::<f32>()?);
        }
        let spike = guard.spike(loss, &self.config);
        let skip = !loss.is_finite() || (spike.is_some() && self.config.on_spike == OnSpike::Skip);
        let grad_norm = update.apply(|_| match skip {
            false => Ok(self.optimizer.update(lr, &self.config)?),
            true => Ok(self.optimizer.gradient_norm()?),
        })?;
        Ok(Update { loss, grad_norm, spike, made: !skip && grad_norm.is_finite() })
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Where it stands.
    pub state: State,
    /// What stopped it before its end.
    pub stop: Option<Stop>,
    /// Steps in a row at its end whose loss or gradient was not finite.
    pub not_finite: u32,
}

/// Trains from `state` until the schedule ends, patience does, or a signal or the deadline comes: takes a batch for each
/// step of `schedule` that is left, validates on `validation`, and keeps records, weights and checkpoints in `run`.
///
/// # Errors
/// When a step fails, a file cannot be written, or the run ends without a model that is worth keeping; what was saved before
/// stays.
pub fn fit<O: Validate>(
    trainer: &mut Trainer<O>,
    mut state: State,
    schedule: &Schedule,
    batches: impl Iterator<Item = O::Batch>,
    validation: &[O::Batch],
    run: &mut Run,
    sitting: &Sitting,
) -> Result<Summary> {
    let config = trainer.config.clone();
    schedule.check_done(state.step)?;
    state.n_steps = schedule.n_steps();
    if !run.is_new() {
        checkpoint::prune(run.folder(), &state, config.keep_checkpoints)?; // a killed process may not have come to it
    }
    if state.is_over(&config) {
        state.finished = true;
        return ended(state, None, &config);
    }
    config.check_validation(!validation.is_empty())?;
    schedule.warn(sitting.progress);
    state.finished = false; // a schedule or a patience that was made longer since then goes on
    let interrupt = Interrupt::watch(sitting.deadline)?;
    let (begun, elapsed_before) = (Instant::now(), state.elapsed_s);
    let save = |trainer: &Trainer<O>, run: &mut Run, state: &mut State| {
        state.n_updates = trainer.optimizer.n_updates();
        state.elapsed_s = elapsed_before + begun.elapsed().as_secs_f64();
        checkpoint::save(run, trainer, state, config.keep_checkpoints, |_| Ok(()))
    };
    if run.is_new() {
        save(trainer, run, &mut state)?;
    }
    let task = sitting.progress.task("step", Some(state.n_steps), Unit::Items);
    task.resume_at(state.step);
    let (mut val_loss, mut speed, mut longest) = (None, Speed::default(), Duration::ZERO);
    let mut stop = None;
    for (step, batch) in schedule.steps().skip(state.step as usize).zip(batches) {
        let step_begun = Instant::now();
        let update = trainer.step(&batch, step.first_row, step.lr, &mut state.guard).map_err(|e| {
            e.context(format!("step {}; what was saved last is in {}", step.number, run.folder().display()))
        })?;
        state.guard.judge(&update, &step, &config, run.folder(), sitting.progress)?;
        let n_tokens = trainer.objective.n_tokens(&batch);
        let mut record =
            record(&step, &update, schedule.context(), n_tokens as f64 / step_begun.elapsed().as_secs_f64());
        state.step = step.number;
        speed.add(record.tokens_per_s);
        let due = step.number == state.n_steps || step.number.is_multiple_of(config.eval_every());
        if due {
            let mut found = None;
            if !validation.is_empty() {
                task.show("validating");
                found = Some(trainer.objective.validate(validation)?);
            }
            if state.is_best(found.as_ref(), update.is_finite()) {
                run.save_best(&trainer.weights)?;
            }
            if let Some(found) = found {
                (record.val_loss, record.scores) = (Some(found.loss), found.scores);
                val_loss = record.val_loss;
            }
        }
        run.record(&record)?;
        longest = longest.max(step_begun.elapsed());
        state.finished = state.is_over(&config);
        stop = if state.finished { None } else { interrupt.reason(longest) };
        if due || stop.is_some() {
            save(trainer, run, &mut state)?;
        }
        task.show(&figures(&record, val_loss, speed.mean));
        task.advance(1);
        if state.finished && state.step < state.n_steps {
            sitting.progress.note(&format!(
                "no better validation loss {} times in a row: training ends at step {}",
                state.without_gain, state.step
            ));
        }
        if state.finished || stop.is_some() {
            break;
        }
    }
    ended(state, stop, &config)
}

/// What to say of a run that ends with `state`.
fn ended(state: State, stop: Option<Stop>, config: &TrainConfig) -> Result<Summary> {
    let not_finite = state.guard.not_finite_in_a_row();
    ensure!(
        !state.finished || state.saved.is_some(),
        "training diverged: no finite loss at any validation in {} steps, so no model was written\n  \
         hint: lower train.lr (here {:e}), or set train.clip",
        state.step,
        config.lr
    );
    Ok(Summary { state, stop, not_finite })
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

fn record(step: &Step, update: &Update, context: u64, tokens_per_s: f64) -> Record {
    let tokens = step.rows as u64 * context;
    Record {
        step: step.number,
        tokens: step.first_row * context + tokens,
        train_loss: update.loss,
        learning_rate: step.lr,
        grad_norm: update.grad_norm,
        tokens_per_s,
        val_loss: None,
        scores: BTreeMap::new(),
        figures: BTreeMap::new(),
        skipped: !update.made,
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

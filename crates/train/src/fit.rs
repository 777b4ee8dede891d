//! The one step (loss → gradients → clip → update → log → save), and the loop around it.

use crate::checkpoint::{self, State};
use crate::config::{OnSpike, Recompute, TrainConfig};
use crate::guard::Guard;
use crate::interrupt::{Interrupt, Stop};
use crate::optimizer::Optimizer;
use crate::run::{Record, Run};
use crate::schedule::{Schedule, Step};
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use data::batch::{Batch, IGNORE};
use data::progress::{Progress, Unit};
use model::{Gpt, ModelConfig, Params, Pass};
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
pub struct Trainer {
    params: Params,
    model: Gpt,
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

impl Trainer {
    /// Begins to train `params`, the weights of a model of shape `model`; dropout is drawn from `seed`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn new(model: &ModelConfig, params: Params, config: &TrainConfig, seed: u64) -> Result<Self> {
        Ok(Self {
            model: Gpt::new(model, &params, config.dtype.precision())?,
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
        checkpoint::restore(folder, &mut self.optimizer, state.n_updates)
    }

    /// One update from `batch`, whose first row is number `first_row` of the run, with learning rate `lr`. There is none
    /// when the loss or the gradient is not finite, or when `guard` finds a spike that the configuration skips.
    ///
    /// # Errors
    /// When the batch does not fit the model, or memory does not suffice.
    pub fn step(&mut self, batch: &Batch, first_row: u64, lr: f64, guard: &mut Guard) -> Result<Update> {
        let total = counted(&batch.targets).max(1) as f64;
        let micro = self.config.micro_batch();
        let mut loss = 0.0;
        self.params.clear_gradients();
        for first in (0..batch.rows).step_by(micro) {
            let rows = micro.min(batch.rows - first);
            let (tokens, targets) = tensors(batch, first, rows, &self.model)?;
            let recompute = self.config.recompute == Recompute::Blocks;
            let pass = Pass::Train { seed: self.seed, first_row: first_row + first as u64, recompute };
            // A micro-batch weighs as much as it has targets, so that the mean is the whole batch's.
            let range = first * batch.context..(first + rows) * batch.context;
            let weight = counted(&batch.targets[range]) as f64 / total;
            let micro_loss = self.model.loss(&tokens, &targets, pass, weight)?;
            self.params.collect(&mut micro_loss.backward()?)?;
            loss += f64::from(micro_loss.to_scalar::<f32>()?);
        }
        let spike = guard.spike(loss, &self.config);
        let skip = !loss.is_finite() || (spike.is_some() && self.config.on_spike == OnSpike::Skip);
        let grad_norm = match skip {
            false => self.optimizer.update(lr, &self.config)?,
            true => self.optimizer.gradient_norm()?,
        };
        Ok(Update { loss, grad_norm, spike, made: !skip && grad_norm.is_finite() })
    }

    /// Mean loss over the targets of `batches`, nats, without dropout.
    ///
    /// # Errors
    /// When a batch does not fit the model.
    pub fn validate(&self, batches: &[Batch]) -> Result<f64> {
        let (mut sum, mut n) = (0.0, 0);
        for batch in batches {
            let (tokens, targets) = tensors(batch, 0, batch.rows, &self.model)?;
            let loss = self.model.loss(&tokens, &targets, Pass::Eval, 1.0)?.to_scalar::<f32>()?;
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

/// Rows `first .. first + rows` of a batch, as tokens and targets of `model`, `[rows, T]` each.
fn tensors(batch: &Batch, first: usize, rows: usize, model: &Gpt) -> Result<(Tensor, Tensor)> {
    let range = first * batch.context..(first + rows) * batch.context;
    let entries = model.config().vocab_size;
    let known = |id: u32| (id as usize) < entries;
    if let Some(id) = batch.tokens[range.clone()].iter().find(|&&id| !known(id)) {
        bail!(
            "the text has token {id}, and the vocabulary {entries} entries: it is damaged; run `gptkit prepare` again"
        );
    }
    let tensor = |ids: &[u32]| Tensor::from_slice(&ids[range.clone()], (rows, batch.context), model.device());
    Ok((tensor(&batch.tokens)?, tensor(&batch.targets)?))
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Where it stands.
    pub state: State,
    /// What stopped it before its end.
    pub stop: Option<Stop>,
}

/// Trains from `state` until the schedule ends, patience does, or a signal or the deadline comes: takes a batch for each
/// step of `schedule` that is left, validates on `validation`, and keeps records, weights and checkpoints in `run`.
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
    sitting: &Sitting,
) -> Result<Summary> {
    if state.finished && schedule.n_steps() <= state.n_steps {
        return Ok(Summary { state, stop: None }); // a schedule made longer since then goes on
    }
    let interrupt = Interrupt::watch(sitting.deadline)?;
    let (begun, elapsed_before) = (Instant::now(), state.elapsed_s);
    let config = trainer.config.clone();
    state.n_steps = schedule.n_steps();
    let save = |trainer: &Trainer, run: &Run, state: &mut State| {
        state.n_updates = trainer.optimizer.n_updates();
        state.elapsed_s = elapsed_before + begun.elapsed().as_secs_f64();
        checkpoint::save(run.folder(), &trainer.params, &trainer.optimizer, state, config.keep_checkpoints)
    };
    if state.step == 0 {
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
        let mut record = record(&step, &update, schedule.context(), step_begun.elapsed().as_secs_f64());
        state.step = step.number;
        speed.add(record.tokens_per_s);
        let due = step.number == state.n_steps || step.number.is_multiple_of(config.eval_every);
        if due {
            if !validation.is_empty() {
                task.show("validating");
                record.val_loss = Some(trainer.validate(validation)?);
                val_loss = record.val_loss;
            }
            if state.is_best(record.val_loss) {
                run.save_best(&trainer.params)?;
            }
        }
        run.record(&record)?;
        longest = longest.max(step_begun.elapsed());
        let patient = config.patience.is_none_or(|patience| state.without_gain < patience);
        state.finished = step.number == state.n_steps || !patient;
        stop = if state.finished { None } else { interrupt.reason(longest) };
        if due || stop.is_some() {
            save(trainer, run, &mut state)?;
        }
        task.show(&figures(&record, val_loss, speed.mean));
        task.advance(1);
        if !patient {
            sitting.progress.note(&format!(
                "no better validation loss {} times in a row: training ends at step {}",
                state.without_gain, state.step
            ));
        }
        if state.finished || stop.is_some() {
            break;
        }
    }
    Ok(Summary { state, stop })
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

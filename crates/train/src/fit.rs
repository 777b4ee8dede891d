//! The loop of every stage: steps of a schedule, validations, records, checkpoints, interrupts.

use crate::checkpoint;
use crate::config::TrainConfig;
use crate::context::RunContext;
use crate::interrupt::{Interrupt, Stop};
use crate::learner::{Keep, Learner, Speed, StepContext, StepReport};
use crate::metrics::Record;
use crate::objective::Validation;
use crate::run::Run;
use crate::schedule::{Schedule, Step};
use crate::state::State;
use crate::stop_notice::StopNotice;
use anyhow::{Result, ensure};
use gptkit_data::progress::Unit;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Its state after the last step.
    pub state: State,
    /// What stopped it before its end.
    pub stop: Option<Stop>,
    /// Steps in a row at its end whose loss or gradient was not finite.
    pub not_finite: u32,
}

/// A run in training.
pub(crate) struct Fit<'a, L> {
    pub(crate) learner: &'a mut L,
    pub(crate) state: State,
    pub(crate) schedule: &'a Schedule,
    pub(crate) config: &'a TrainConfig,
    pub(crate) run: &'a mut Run,
    pub(crate) context: &'a RunContext<'a>,
}

impl<L: Learner> Fit<'_, L> {
    /// Trains until the schedule ends, patience does, or a signal or the deadline comes: takes one of `batches` for each step
    /// of the schedule that is left. `before` is called before the first step of a new run.
    ///
    /// # Errors
    /// When a step fails, a file cannot be written, or the run ends without a model that is worth keeping; what was saved
    /// before stays.
    pub(crate) fn train(
        mut self,
        batches: impl Iterator<Item = L::Batch>,
        before: impl FnOnce(&mut L, &Run, &mut State) -> Result<()>,
    ) -> Result<Summary> {
        self.schedule.check_done(self.state.step)?;
        self.state.n_steps = self.schedule.n_steps();
        let is_first = self.context.ranks.is_first();
        if !self.run.is_new() && is_first {
            // A process that was killed may not have removed the oldest checkpoint.
            checkpoint::prune(self.run.folder(), &self.state, self.config.keep_checkpoints)?;
        }
        let is_over = self.state.is_over(self.config);
        if is_over && self.state.finished {
            return self.end(None);
        }
        self.config.check_validation(self.learner.has_validation())?;
        self.schedule.warn(self.context.progress);
        self.state.finished = false; // the schedule or the patience may have been made longer since
        let interrupt = Interrupt::watch(self.context.deadline)?;
        if self.run.is_new() {
            before(self.learner, self.run, &mut self.state)?;
        }
        let clock = Clock { begun: Instant::now(), elapsed_before: self.state.elapsed_s };
        let waited_before = self.context.ranks.waited();
        if self.run.is_new() {
            self.save(&clock)?;
        }
        let folder = self.run.folder().to_owned();
        let task = self.context.progress.task(L::STEP, Some(self.state.n_steps), Unit::Items);
        let place = StepContext { folder: &folder, task: &*task, context: self.context };
        task.resume_at(self.state.step);
        if is_over {
            // train.length or train.patience was made shorter than what is done.
            self.validate(&mut Record::default(), &mut Speed::default(), &place)?;
            self.state.finished = true;
            self.save(&clock)?;
            return self.end(None);
        }
        let (mut n_tokens, mut speed, mut stop) = (self.run.tokens()?, Speed::default(), None);
        let (mut longest_step, mut longest_save) = (Duration::ZERO, Duration::ZERO);
        let notice = StopNotice::new(&interrupt, self.context.progress, L::STEP);
        std::thread::scope(|scope| -> Result<()> {
            let _watching = notice.watch(scope);
            for (step, batch) in self.schedule.steps().skip(self.state.step as usize).zip(batches) {
                let begun = Instant::now();
                notice.begins(step.number, longest_step);
                let report = self.learner.step(&batch, &step, &place)?;
                self.state.step = step.number;
                n_tokens += report.n_tokens;
                let (mut record, failure) = record(&step, report, n_tokens, begun.elapsed());
                speed.add(record.tokens_per_s, step.rows as f64 / begun.elapsed().as_secs_f64());
                let due = self.is_due();
                if due {
                    self.validate(&mut record, &mut speed, &place)?;
                }
                self.run.record(&record)?;
                if due && is_first {
                    self.sample(&place)?;
                }
                longest_step = longest_step.max(begun.elapsed());
                self.state.finished = self.state.is_over(self.config);
                stop = match self.state.finished {
                    true => None,
                    false => Stop::of_all(interrupt.reason(longest_step + longest_save), self.context.ranks)?,
                };
                if due || stop.is_some() || failure.is_some() {
                    let begun = Instant::now();
                    self.save(&clock)?;
                    longest_save = longest_save.max(begun.elapsed());
                }
                task.show(&L::status(&record, &speed));
                task.advance(1);
                if let Some(failure) = failure {
                    return Err(failure);
                }
                if self.state.finished || stop.is_some() {
                    break;
                }
            }
            Ok(())
        })?;
        drop(task);
        self.note_patience();
        self.note_waiting(self.context.ranks.waited() - waited_before, clock.begun.elapsed());
        self.end(stop)
    }

    /// Whether the current step ends with a validation and a checkpoint.
    fn is_due(&self) -> bool {
        let step = self.state.step;
        step == self.state.n_steps || step.is_multiple_of(self.config.eval_every())
    }

    /// Validates, keeps the weights if they are to be kept, and completes `record`.
    fn validate(&mut self, record: &mut Record, speed: &mut Speed, place: &StepContext) -> Result<()> {
        let validation = self.learner.validate(&self.state, place)?;
        let was_finite = record.train_loss.is_finite() && record.grad_norm.is_finite();
        let keep = match L::KEEP {
            Keep::Best => self.state.record_validation(validation.as_ref(), was_finite),
            Keep::Newest => {
                if let Some(Validation { chosen_by: Some(chosen_by), criterion, .. }) = validation {
                    self.state.improves(chosen_by, criterion);
                }
                true
            }
        };
        if keep && self.context.ranks.is_first() {
            self.learner.save_outcome(self.run)?;
        }
        if let Some(validation) = validation {
            (record.val_loss, record.scores) = (validation.loss, validation.scores);
            speed.val_loss = record.val_loss;
        }
        Ok(())
    }

    /// Records what the model writes now and shows the first sample, where the stage writes samples.
    fn sample(&mut self, place: &StepContext) -> Result<()> {
        match self.learner.samples(self.state.step, place) {
            Ok(samples) => {
                samples.first().iter().for_each(|sample| self.context.progress.note(&sample.line()));
                self.run.record_samples(&samples)
            }
            // A model without finite outputs writes nothing; whether the run ends is decided elsewhere.
            Err(e) => {
                self.context.progress.warn(&format!("{e:#}"));
                Ok(())
            }
        }
    }

    fn save(&mut self, clock: &Clock) -> Result<()> {
        self.learner.gather()?;
        if !self.context.ranks.is_first() {
            return Ok(());
        }
        self.state.elapsed_s = clock.elapsed_s();
        let learner = &mut *self.learner;
        let keep = self.config.keep_checkpoints;
        checkpoint::save(self.run, &mut self.state, keep, |folder, state| learner.save(folder, state))
    }

    /// Reports that `train.patience` ended the run.
    fn note_patience(&self) {
        if self.state.finished && self.state.step < self.state.n_steps {
            self.context.progress.note(&format!(
                "no {} for {} validations in a row; training stops at {} {}",
                L::GAIN,
                self.state.without_gain,
                L::STEP,
                self.state.step
            ));
        }
    }

    /// Reports how much of the time that training `took` this rank `waited` for others.
    fn note_waiting(&self, waited: Duration, took: Duration) {
        if !self.context.ranks.is_alone() {
            let share = 100.0 * waited.as_secs_f64() / took.as_secs_f64();
            self.context
                .progress
                .note(&format!("the first rank spent {share:.1}% of the time waiting for other ranks"));
        }
    }

    fn end(self, stop: Option<Stop>) -> Result<Summary> {
        let state = self.state;
        ensure!(
            !state.finished || state.saved.is_some() || L::KEEP == Keep::Newest,
            "training diverged: the loss was not finite at any validation in {} steps, so no model was written\n  \
             hint: lower train.lr (now {:e}) or set train.clip",
            state.step,
            self.config.lr
        );
        Ok(Summary { not_finite: state.guard.not_finite_in_a_row(), state, stop })
    }
}

/// The time that a run has taken.
struct Clock {
    begun: Instant,
    elapsed_before: f64,
}

impl Clock {
    fn elapsed_s(&self) -> f64 {
        self.elapsed_before + self.begun.elapsed().as_secs_f64()
    }
}

/// The record of `step`, and why the run must end after it.
fn record(step: &Step, report: StepReport, tokens: u64, took: Duration) -> (Record, Option<anyhow::Error>) {
    let record = Record {
        step: step.number,
        tokens,
        train_loss: report.loss,
        learning_rate: step.lr,
        grad_norm: report.grad_norm,
        tokens_per_s: report.n_processed as f64 / took.as_secs_f64(),
        val_loss: None,
        scores: BTreeMap::new(),
        figures: report.figures,
        skipped: !report.made,
    };
    (record, report.stop)
}

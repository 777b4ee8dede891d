//! Learning rate and batch size over tokens: pure functions of the step, so that a resumed run continues exactly.

mod warnings;

use crate::config::{Decay, TrainConfig};
use crate::span::Span;
use anyhow::{Result, ensure};

/// One update, before it is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Its number, from 1.
    pub number: u64,
    /// First of its windows among all windows of the run.
    pub first_row: u64,
    /// Its windows.
    pub rows: usize,
    /// Learning rate.
    pub lr: f64,
}

/// The plan of a whole run.
#[derive(Debug, Clone)]
pub struct Schedule {
    config: TrainConfig,
    /// Tokens of a window, or 1 where a row is an episode.
    context: u64,
    /// The batch grows by multiples of so many rows.
    granule: usize,
    ramp: Ramp,
    warmup_tokens: u64,
    decay_start_tokens: u64,
    decay_end_tokens: u64,
    total_tokens: u64,
}

/// How far the growth of the batch reaches, counted from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ramp {
    Tokens(u64),
    Steps(u64),
}

impl Ramp {
    /// The share of it that is done after `step` updates of `tokens` in all; 1 behind its end.
    fn done(self, step: u64, tokens: u64) -> f64 {
        let (done, all) = match self {
            Self::Tokens(all) => (tokens, all),
            Self::Steps(all) => (step, all),
        };
        if done < all { done as f64 / all as f64 } else { 1.0 }
    }
}

impl Schedule {
    /// The plan for windows of `context` tokens, `rows_per_epoch` of which are one pass over the training part.
    pub fn new(config: &TrainConfig, context: usize, rows_per_epoch: u64) -> Self {
        Self::of_rows(config, context, rows_per_epoch, config.micro_batch.unwrap_or(1))
    }

    /// The plan of a stage that counts episodes, `per_epoch` of which are one pass over the prompts. A batch is a multiple
    /// of `minibatches`.
    pub fn of_episodes(config: &TrainConfig, per_epoch: u64, minibatches: usize) -> Self {
        Self::of_rows(config, 1, per_epoch, minibatches.max(1))
    }

    fn of_rows(config: &TrainConfig, context: usize, rows_per_epoch: u64, granule: usize) -> Self {
        let schedule = Self {
            config: config.clone(),
            context: context as u64,
            granule: granule.min(config.batch_ramp_start.unwrap_or(granule)).max(1),
            ramp: Ramp::Tokens(0),
            warmup_tokens: 0,
            decay_start_tokens: 0,
            decay_end_tokens: 0,
            total_tokens: 0,
        };
        let ramp = match config.batch_ramp {
            None => Ramp::Tokens(0),
            Some(Span::Steps(n)) => Ramp::Steps(n),
            Some(span) => Ramp::Tokens(schedule.tokens(span, rows_per_epoch)),
        };
        let schedule = Self { ramp, ..schedule };
        let tokens = |span| schedule.tokens(span, rows_per_epoch);
        let total = tokens(config.length);
        let (warmup, decay_end) = (tokens(config.warmup), config.decay_end.map_or(total, tokens));
        let decay_start = config.decay_start.map_or(warmup, tokens).max(warmup);
        Self {
            warmup_tokens: warmup,
            decay_start_tokens: decay_start,
            decay_end_tokens: decay_end,
            total_tokens: total,
            ..schedule
        }
    }

    /// Every length in tokens, or in episodes where a row is one, so that one rule serves all. Steps are counted through
    /// the batch ramp. [`TrainConfig`] refuses the unit that a stage does not have.
    fn tokens(&self, span: Span, rows_per_epoch: u64) -> u64 {
        match span {
            Span::Tokens(n) => n,
            Span::Episodes(n) => n.saturating_mul(self.context),
            Span::Epochs(x) => (x * (rows_per_epoch * self.context) as f64).round() as u64,
            Span::Steps(n) => {
                let (mut tokens, mut step) = (0, 0);
                while step < n && self.ramp.done(step, tokens) < 1.0 {
                    tokens += self.rows(step, tokens) as u64 * self.context;
                    step += 1;
                }
                (self.config.batch_size as u64 * self.context).saturating_mul(n - step).saturating_add(tokens)
            }
        }
    }

    /// Rows of the update that is made after `step` others of `tokens` in all; on the ramp a multiple of the micro-batch or
    /// of the count of minibatches, unless the ramp begins below it.
    fn rows(&self, step: u64, tokens: u64) -> usize {
        let full = self.config.batch_size;
        let done = self.ramp.done(step, tokens);
        match self.config.batch_ramp_start {
            Some(start) if done < 1.0 => {
                let grown = start as f64 + full.saturating_sub(start) as f64 * done;
                (grown as usize / self.granule * self.granule).min(full)
            }
            _ => full,
        }
    }

    /// Learning rate of the update from `before` to `after` tokens.
    fn lr(&self, before: u64, after: u64) -> f64 {
        let TrainConfig { lr, min_lr, .. } = self.config;
        if before < self.warmup_tokens {
            return lr * (after as f64 / self.warmup_tokens as f64).min(1.0);
        }
        let way = self.decay_end_tokens.saturating_sub(self.decay_start_tokens).max(1) as f64;
        let gone = (before.saturating_sub(self.decay_start_tokens) as f64 / way).min(1.0);
        match self.config.decay {
            Decay::Cosine => min_lr + (lr - min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * gone).cos()),
            Decay::Linear => min_lr + (lr - min_lr) * (1.0 - gone),
            Decay::Constant => lr,
        }
    }

    /// All updates of the run, first to last.
    pub fn steps(&self) -> impl Iterator<Item = Step> + Send + use<> {
        let schedule = self.clone();
        let mut next = (1, 0); // number, first row
        std::iter::from_fn(move || {
            let (number, first_row) = next;
            let before = first_row * schedule.context;
            if before >= schedule.total_tokens {
                return None;
            }
            let rows = schedule.rows(number - 1, before);
            next = (number + 1, first_row + rows as u64);
            Some(Step { number, first_row, rows, lr: schedule.lr(before, next.1 * schedule.context) })
        })
    }

    /// Whether a run of this plan can be where it is after `done` steps.
    ///
    /// # Errors
    /// When the plan has no step, or fewer than are done.
    pub fn check_done(&self, done: u64) -> Result<()> {
        let (length, n) = (self.config.length, self.n_steps());
        ensure!(n > 0, "train.length = \"{length}\" is less than one step of this data; use \"1 step\" or more");
        ensure!(
            n >= done,
            "train.length = \"{length}\" is {n} steps, but the run has already done {done}; use at least that many"
        );
        Ok(())
    }

    /// Count of updates.
    pub fn n_steps(&self) -> u64 {
        // Off the ramp all batches are equal, and there may be millions of them.
        let full = self.config.batch_size as u64 * self.context;
        let (mut steps, mut tokens) = (0, 0);
        while tokens < self.total_tokens && self.ramp.done(steps, tokens) < 1.0 {
            tokens += self.rows(steps, tokens) as u64 * self.context;
            steps += 1;
        }
        steps + self.total_tokens.saturating_sub(tokens).div_ceil(full)
    }

    /// Tokens that all updates predict.
    pub fn n_tokens(&self) -> u64 {
        self.total_tokens
    }

    /// Tokens of a window.
    pub fn context(&self) -> u64 {
        self.context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn config(text: &str) -> TrainConfig {
        let text = format!("lr = 1.0\nmin_lr = 0.1\n{text}");
        serde_json::from_value(toml_like(&text)).unwrap()
    }

    /// `key = value` lines, each value JSON.
    fn toml_like(text: &str) -> serde_json::Value {
        let entry = |line: &str| {
            let (key, value) = line.split_once(" = ").unwrap();
            (key.trim().to_owned(), serde_json::from_str(value).unwrap())
        };
        serde_json::Value::Object(text.lines().map(entry).collect())
    }

    fn steps(text: &str) -> Vec<Step> {
        let schedule = Schedule::new(&config(text), 10, 7);
        let steps: Vec<Step> = schedule.steps().collect();
        assert_eq!(steps.len() as u64, schedule.n_steps());
        steps
    }

    #[track_caller]
    fn close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-9, "{actual}, expected {expected}");
    }

    #[test]
    fn the_rate_rises_linearly_then_falls_along_half_a_cosine() {
        let steps = steps("length = \"14 steps\"\nbatch_size = 2\nwarmup = \"4 steps\"");
        close(steps[0].lr, 0.25);
        close(steps[3].lr, 1.0);
        close(steps[4].lr, 1.0); // the decay starts here
        close(steps[9].lr, 0.55); // half-way from 4 to 14
        close(steps[13].lr, 0.1 + 0.9 * 0.5 * (1.0 + (0.9 * std::f64::consts::PI).cos()));
    }

    #[test]
    fn the_linear_and_the_constant_decay_are_what_they_say() {
        let linear = steps("length = \"10 steps\"\nbatch_size = 2\ndecay = \"linear\"");
        close(linear[5].lr, 0.55);
        let constant = steps("length = \"10 steps\"\nbatch_size = 2\ndecay = \"constant\"");
        assert!(constant.iter().all(|s| s.lr == 1.0));
    }

    #[test]
    fn a_decay_that_ends_early_leaves_the_lowest_rate() {
        let steps = steps("length = \"400 tokens\"\nbatch_size = 2\ndecay_end = \"200 tokens\"");
        close(steps[5].lr, 0.55);
        assert!(steps[10..].iter().all(|s| (s.lr - 0.1).abs() < 1e-12));
    }

    #[test]
    fn a_decay_that_begins_late_leaves_the_highest_rate_until_then() {
        let text = "length = \"400 tokens\"\nbatch_size = 2\nwarmup = \"40 tokens\"\ndecay = \"linear\"";
        let steps = steps(&format!("{text}\ndecay_start = \"300 tokens\""));
        assert!(steps[2..=15].iter().all(|s| s.lr == 1.0));
        close(steps[16].lr, 1.0 - 0.9 * 0.2);
        close(steps[19].lr, 1.0 - 0.9 * 0.8);
    }

    #[test]
    fn lengths_in_steps_tokens_and_epochs_agree() {
        let by = |length: &str| steps(&format!("length = \"{length}\"\nbatch_size = 2"));
        assert_eq!(by("7 steps"), by("140 tokens"));
        assert_eq!(by("7 steps"), by("2 epochs")); // 2 × 7 windows, 2 a step
        assert_eq!(by("135 tokens").len(), 7); // the last batch is whole
    }

    #[test]
    fn the_batch_grows_over_steps_and_epochs_as_over_tokens() {
        let rows = |ramp: &str| -> Vec<usize> {
            let text = format!("length = \"20 steps\"\nbatch_size = 8\nbatch_ramp_start = 2\nbatch_ramp = \"{ramp}\"");
            steps(&text).iter().map(|step| step.rows).collect()
        };
        assert_eq!(rows("6 steps")[..8], [2, 3, 4, 5, 6, 7, 8, 8]);
        assert_eq!(rows("2 epochs"), rows("140 tokens")); // 2 × 7 windows of 10
    }

    #[test]
    fn episodes_are_counted_one_by_one_and_batches_divide_into_minibatches() {
        let text = "length = \"1000 episodes\"\nbatch_size = 64\nbatch_ramp_start = 8\nbatch_ramp = \"320 episodes\"";
        let of = |text: &str| Schedule::of_episodes(&config(text), 100, 4);
        let schedule = of(text);
        let steps: Vec<Step> = schedule.steps().collect();
        assert_eq!((schedule.n_tokens(), steps.len() as u64), (1000, schedule.n_steps()));
        assert!(steps.iter().all(|step| step.rows.is_multiple_of(4)), "{steps:?}");
        assert!(steps[0].rows == 8 && steps.iter().any(|step| (9..64).contains(&step.rows)));
        let grown = steps.iter().find(|step| step.rows == 64).unwrap();
        assert!((250..=380).contains(&grown.first_row), "{grown:?}");
        assert_eq!(of("length = \"640 episodes\"\nbatch_size = 64").n_steps(), 10);
        assert_eq!(of("length = \"2 epochs\"\nbatch_size = 64").n_steps(), 4); // 200 episodes
    }

    #[test]
    fn every_window_is_taken_once_in_order() {
        let steps = steps(
            "length = \"20 steps\"\nbatch_size = 8\nmicro_batch = 2\nbatch_ramp_start = 2\nbatch_ramp = \"300 tokens\"",
        );
        let mut next = 0;
        for step in &steps {
            assert_eq!(step.first_row, next);
            assert_eq!(step.rows % 2, 0);
            next += step.rows as u64;
        }
        assert_eq!(steps.len(), 20);
    }

    #[test]
    fn the_batch_grows_without_a_micro_batch_and_from_below_it() {
        let ramp = "length = \"20 steps\"\nbatch_size = 8\nbatch_ramp_start = 2\nbatch_ramp = \"300 tokens\"";
        for micro in ["", "\nmicro_batch = 4"] {
            let rows: Vec<usize> = steps(&format!("{ramp}{micro}")).iter().map(|s| s.rows).collect();
            assert!(rows[0] == 2 && rows[19] == 8, "{micro}: {rows:?}");
            assert!(rows.iter().any(|&n| n > 2 && n < 8), "{micro}: {rows:?}");
        }
    }

    #[test]
    fn the_batch_grows_linearly_with_tokens() {
        let steps = steps(
            "length = \"20 steps\"\nbatch_size = 8\nmicro_batch = 1\nbatch_ramp_start = 2\nbatch_ramp = \"300 tokens\"",
        );
        let rows: Vec<usize> = steps.iter().map(|s| s.rows).collect();
        // 2 + 6·tokens/300 at 0, 20, 40, 60, 90, 120, 160, 210, 270 tokens; then full
        assert_eq!(rows[..11], [2, 2, 2, 3, 3, 4, 5, 6, 7, 8, 8]);
    }
}

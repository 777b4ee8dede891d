//! Settings of a schedule that have no effect, or another one than they seem to have.

use super::Schedule;
use crate::config::Decay;
use gptkit_data::progress::Progress;

impl Schedule {
    /// Warns, before the first step, of settings that the run does not come to.
    pub fn warn(&self, progress: &dyn Progress) {
        self.warnings().iter().for_each(|line| progress.warn(line));
    }

    /// What there is to warn of.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.total_tokens > 0 {
            self.warn_of_warmup(&mut found);
            self.warn_of_decay(&mut found);
            self.warn_of_ramp(&mut found);
        }
        found
    }

    fn warn_of_warmup(&self, found: &mut Vec<String>) {
        let (warmup, length, lr) = (self.config.warmup, self.config.length, self.config.lr);
        if self.warmup_tokens > self.total_tokens {
            let highest = lr * self.total_tokens as f64 / self.warmup_tokens as f64;
            found.push(format!(
                "train.warmup = \"{warmup}\" is longer than the run (train.length = \"{length}\"), so the learning \
                 rate rises to {highest:.1e} and never reaches train.lr = {lr:e}; use a warm-up of a tenth of the run"
            ));
        }
    }

    fn warn_of_decay(&self, found: &mut Vec<String>) {
        let config = &self.config;
        let spans = [("decay_start", config.decay_start), ("decay_end", config.decay_end)];
        if config.decay == Decay::Constant {
            let unused = spans.into_iter().filter_map(|(key, span)| Some(format!("train.{key} = \"{}\"", span?)));
            let lowest = (config.min_lr > 0.0).then(|| format!("train.min_lr = {:e}", config.min_lr));
            found.extend(unused.chain(lowest).map(|what| {
                format!("{what} has no effect with train.decay = \"constant\": the learning rate stays at train.lr")
            }));
            return;
        }
        if self.warmup_tokens > self.total_tokens {
            return; // there is no decay, and a warning already
        }
        let [start, end] = spans.map(|(key, span)| span.map(|span| format!("train.{key} = \"{span}\"")));
        let length = format!("the run (train.length = \"{}\")", config.length);
        if let Some(start) = start.filter(|_| self.decay_start_tokens >= self.total_tokens) {
            found.push(format!("{start} is not before the end of {length}, so the learning rate does not decay"));
        } else if let Some(end) = end {
            if self.decay_end_tokens <= self.decay_start_tokens {
                found.push(format!(
                    "{end} is not after the start of the decay, so the learning rate drops to train.min_lr at once"
                ));
            } else if self.decay_end_tokens > self.total_tokens {
                let step = self.config.batch_size as u64 * self.context;
                let last = self.lr(self.total_tokens.saturating_sub(step), self.total_tokens);
                found.push(format!(
                    "{end} is after the end of {length}, so the final learning rate is {last:.1e}, above train.min_lr \
                     = {:e}",
                    config.min_lr
                ));
            }
        }
    }

    fn warn_of_ramp(&self, found: &mut Vec<String>) {
        let (Some(ramp), Some(start)) = (self.config.batch_ramp, self.config.batch_ramp_start) else { return };
        let (mut tokens, mut step) = (0, 0);
        while tokens < self.total_tokens && self.ramp.done(step, tokens) < 1.0 {
            tokens += self.rows(step, tokens) as u64 * self.context;
            step += 1;
        }
        if self.ramp.done(step, tokens) < 1.0 {
            found.push(format!(
                "train.batch_ramp = \"{ramp}\" is longer than the run (train.length = \"{}\"), so the batch grows from \
                 {start} to {} and never reaches train.batch_size = {}",
                self.config.length,
                self.rows(step, tokens),
                self.config.batch_size
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    #[track_caller]
    fn warned(text: &str, expected: &[&str]) {
        let found = Schedule::new(&config(text), 10, 7).warnings();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn settings_that_the_run_does_not_come_to_are_named() {
        let run = "length = \"20 steps\"\nbatch_size = 2\n";
        warned(&format!("{run}warmup = \"5 steps\"\ndecay_end = \"15 steps\""), &[]);
        warned(
            &format!("{run}warmup = \"100 steps\""),
            &[
                "\"100 steps\" is longer than the run (train.length = \"20 steps\"), so the learning rate rises to 2.0e-1",
            ],
        );
        warned(
            &format!("{run}decay_end = \"40 steps\""),
            &["the final learning rate is 5.9e-1, above train.min_lr = 1e-1"],
        );
        warned(&format!("{run}decay_start = \"20 steps\""), &["the learning rate does not decay"]);
        warned(&format!("{run}warmup = \"5 steps\"\ndecay_end = \"5 steps\""), &["drops to train.min_lr at once"]);
        warned(
            &format!("{run}decay = \"constant\"\ndecay_start = \"2 steps\""),
            &["train.decay_start = \"2 steps\" has no effect", "train.min_lr = 1e-1 has no effect"],
        );
        let ramp = "batch_ramp_start = 1\nbatch_ramp = ";
        warned(&format!("{run}{ramp}\"900 steps\""), &["grows from 1 to 1 and never reaches train.batch_size = 2"]);
        warned(&format!("{run}{ramp}\"10 steps\""), &[]);
    }
}

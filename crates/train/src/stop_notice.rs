//! The line that is printed at once when Ctrl-C is pressed during a step.

use crate::interrupt::Interrupt;
use gptkit_data::progress::Progress;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

/// How often the thread looks for a signal.
const EVERY: Duration = Duration::from_millis(50);

/// Watches for a signal during training, and reports the step that is finished before the run stops.
pub(crate) struct StopNotice<'a> {
    interrupt: &'a Interrupt,
    progress: &'a dyn Progress,
    /// The noun for a step in messages: `step` or `iteration`.
    unit: &'static str,
    step: AtomicU64,
    longest_ms: AtomicU64,
    is_over: AtomicBool,
}

impl<'a> StopNotice<'a> {
    pub(crate) fn new(interrupt: &'a Interrupt, progress: &'a dyn Progress, unit: &'static str) -> Self {
        let (step, longest_ms, is_over) = <(AtomicU64, AtomicU64, AtomicBool)>::default();
        Self { interrupt, progress, unit, step, longest_ms, is_over }
    }

    /// Step number `step` begins; the longest so far took `longest`.
    pub(crate) fn begins(&self, step: u64, longest: Duration) {
        self.step.store(step, Ordering::Relaxed);
        self.longest_ms.store(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Starts the thread that watches, until what is returned is dropped.
    pub(crate) fn watch<'s>(&'s self, scope: &'s Scope<'s, '_>) -> Watching<'s> {
        let thread = scope.spawn(|| {
            while !self.is_over.load(Ordering::Relaxed) {
                if self.interrupt.is_signaled() {
                    return self.progress.note(&self.text());
                }
                thread::park_timeout(EVERY);
            }
        });
        Watching { is_over: &self.is_over, thread }
    }

    fn text(&self) -> String {
        let (unit, step) = (self.unit, self.step.load(Ordering::Relaxed));
        let takes = match self.longest_ms.load(Ordering::Relaxed) {
            0 => String::new(),
            ms => format!(" (steps take up to {:.1} s)", ms as f64 / 1e3),
        };
        format!(
            "finishing {unit} {step}{takes} and saving; press Ctrl-C again to stop now and keep the last checkpoint"
        )
    }
}

/// The thread of a [`StopNotice`], which ends with it.
pub(crate) struct Watching<'s> {
    is_over: &'s AtomicBool,
    thread: ScopedJoinHandle<'s, ()>,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_data::progress::Silent;

    #[test]
    fn the_notice_names_the_step_and_its_time() {
        let interrupt = Interrupt::default();
        let notice = StopNotice::new(&interrupt, &Silent, "step");
        notice.begins(1, Duration::ZERO);
        assert!(notice.text().starts_with("finishing step 1 and saving"), "{}", notice.text());
        notice.begins(2, Duration::from_millis(41_300));
        assert!(notice.text().starts_with("finishing step 2 (steps take up to 41.3 s)"), "{}", notice.text());
        // Else the end of the scope would wait for ever.
        thread::scope(|scope| drop(notice.watch(scope)));
    }
}

//! Long tasks as they are shown: as a bar on a terminal, as plain lines elsewhere, as events for another gptkit.

use crate::stderr::{send, write_line};
use gptkit_data::printable::printable_line;
use gptkit_data::progress::{ProgressTask, Unit};
use gptkit_lineage::event::ProgressEvent;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The bar on the screen, while there is one.
pub(crate) type ShownBar = Arc<Mutex<Option<ProgressBar>>>;

/// Fits any width: the figures after the count are truncated if necessary.
fn style(bounded: bool, unit: Unit) -> ProgressStyle {
    let count = match (bounded, unit) {
        (true, Unit::Bytes) => "{bytes}/{total_bytes} {percent:>3}%  {binary_bytes_per_sec}",
        (false, Unit::Bytes) => "{bytes}  {binary_bytes_per_sec}",
        (true, _) => "{pos}/{len}",
        (false, _) => "{pos}  {per_sec}",
    };
    let eta = if bounded { " ETA {eta}" } else { "" };
    ProgressStyle::with_template(&format!("{{prefix}} {count}  {{wide_msg}}{eta}"))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A task on a terminal.
pub(crate) struct BarTask {
    bar: ProgressBar,
    /// Where the bar is while lines are printed above it.
    shown: ShownBar,
}

impl BarTask {
    /// Shows a bar until the task is dropped, and says so in `shown`.
    pub(crate) fn begin(label: &str, total: Option<u64>, unit: Unit, shown: &ShownBar) -> Self {
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        bar.set_style(style(total.is_some(), unit));
        bar.set_prefix(printable_line(label).into_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        if let Ok(mut shown) = shown.lock() {
            *shown = Some(bar.clone());
        }
        Self { bar, shown: Arc::clone(shown) }
    }
}

impl ProgressTask for BarTask {
    fn resume_at(&self, n: u64) {
        self.bar.set_position(n);
        self.bar.reset_eta();
    }

    fn advance(&self, n: u64) {
        self.bar.inc(n);
    }

    fn show(&self, figures: &str) {
        self.bar.set_message(printable_line(figures).into_owned());
    }
}

impl Drop for BarTask {
    fn drop(&mut self) {
        if let Ok(mut shown) = self.shown.lock() {
            *shown = None; // later messages are printed below it
        }
        // The last state stays where the figures are worth keeping.
        if self.bar.message().is_empty() { self.bar.finish_and_clear() } else { self.bar.abandon() }
    }
}

/// A task whose progress another gptkit gets as events.
pub(crate) struct EventTask {
    state: Mutex<TaskProgress>,
}

/// Time between two events of a task.
const BETWEEN: Duration = Duration::from_millis(200);

impl EventTask {
    pub(crate) fn begin(label: &str, total: Option<u64>, unit: Unit) -> Self {
        send(&ProgressEvent::Began { label: label.to_owned(), total, unit });
        Self { state: Mutex::default() }
    }

    fn send(state: &mut TaskProgress) {
        state.reported_at = Some(Instant::now());
        send(&ProgressEvent::Reached { done: state.done, figures: state.figures.clone() });
    }
}

impl ProgressTask for EventTask {
    fn resume_at(&self, n: u64) {
        if let Ok(mut state) = self.state.lock() {
            state.done = n;
            send(&ProgressEvent::ResumedAt(n));
        }
    }

    fn advance(&self, n: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.done += n;
        if state.reported_at.is_none_or(|at| at.elapsed() >= BETWEEN) {
            Self::send(&mut state);
        }
    }

    fn show(&self, figures: &str) {
        if let Ok(mut state) = self.state.lock() {
            figures.clone_into(&mut state.figures);
        }
    }
}

impl Drop for EventTask {
    fn drop(&mut self) {
        if let Ok(mut state) = self.state.lock() {
            Self::send(&mut state);
            send(&ProgressEvent::Over);
        }
    }
}

/// A task where no terminal is: a plain line now and then, and at the end.
pub(crate) struct LineTask {
    label: String,
    total: Option<u64>,
    unit: Unit,
    begun: Instant,
    state: Mutex<TaskProgress>,
}

#[derive(Default)]
struct TaskProgress {
    /// Units that were done before this process.
    before: u64,
    done: u64,
    figures: String,
    /// When it was last reported …
    reported_at: Option<Instant>,
    /// … and how much was done then.
    reported: u64,
}

/// Seconds between plain lines.
const EVERY: Duration = Duration::from_secs(10);

impl LineTask {
    pub(crate) fn begin(label: &str, total: Option<u64>, unit: Unit) -> Self {
        Self { label: label.to_owned(), total, unit, begun: Instant::now(), state: Mutex::default() }
    }

    fn say(&self, state: &mut TaskProgress) {
        state.reported_at = Some(Instant::now());
        state.reported = state.done;
        let elapsed = self.begun.elapsed().as_secs_f64();
        let rate = (state.done - state.before) as f64 / elapsed.max(1e-9);
        let count = |n: u64| match self.unit {
            Unit::Bytes => format!("{:.1} MB", n as f64 / 1e6),
            Unit::Tokens | Unit::Items => n.to_string(),
        };
        let mut line = format!("{} {}", printable_line(&self.label), count(state.done));
        if let Some(total) = self.total.filter(|&t| t > 0) {
            line += &format!("/{} {:3}%", count(total), state.done * 100 / total);
        }
        if self.unit == Unit::Bytes {
            line += &format!("  {:.1} MB/s", rate / 1e6);
        }
        if !state.figures.is_empty() {
            line += &format!("  {}", state.figures);
        }
        match self.total {
            Some(total) if state.done < total && state.done > state.before => {
                line += &format!("  ETA {:.0} s", (total - state.done) as f64 / rate);
            }
            _ => line += &format!("  {elapsed:.1} s"),
        }
        write_line(&line);
    }
}

impl ProgressTask for LineTask {
    fn resume_at(&self, n: u64) {
        if let Ok(mut state) = self.state.lock() {
            (state.before, state.done, state.reported) = (n, n, n);
        }
    }

    fn advance(&self, n: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.done += n;
        let since = state.reported_at.map_or(self.begun.elapsed(), |at| at.elapsed());
        if since >= EVERY {
            self.say(&mut state);
        }
    }

    fn show(&self, figures: &str) {
        if let Ok(mut state) = self.state.lock() {
            figures.clone_into(&mut state.figures);
        }
    }
}

impl Drop for LineTask {
    fn drop(&mut self) {
        if let Ok(mut state) = self.state.lock()
            && state.done > state.reported
        {
            let mut last = std::mem::take(&mut *state);
            self.say(&mut last);
        }
    }
}

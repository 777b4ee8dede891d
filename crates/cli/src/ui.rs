//! All that is printed: messages and progress on stderr, results on stdout. A process that `gptkit lineage` runs writes
//! [`Event`]s to stderr instead.
//!
//! Whatever a name, a record or a model brings along passes through [`gptkit_data::printable`], so that none of it controls the
//! terminal.

use anyhow::Context;
pub(crate) use gptkit_config::Usage;
use gptkit_data::printable::{printable, printable_json, printable_line};
use gptkit_data::progress::{Progress, ProgressTask, Unit};
use gptkit_lineage::event::ProgressEvent;
use gptkit_train::interrupt::Stop;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A signal or the clock asked the command to stop, and it has said what is next; ends the process with the code that
/// says so.
#[derive(Debug)]
pub(crate) struct Stopped(pub(crate) Stop);

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stopped: {:?}", self.0)
    }
}

impl std::error::Error for Stopped {}

/// The terminal, or what stands in for it.
pub(crate) struct Ui {
    live: bool,
    /// Whether another gptkit reads events from stderr.
    events: bool,
    /// The bar on the screen, above which lines are printed.
    bar: Arc<Mutex<Option<ProgressBar>>>,
}

impl Ui {
    pub(crate) fn new(events: bool) -> Self {
        Self { live: io::stderr().is_terminal(), events, bar: Arc::default() }
    }

    /// Reports the end of the process as an event, where events are wanted.
    pub(crate) fn ended(&self) {
        if self.events {
            send(&ProgressEvent::Ended { peak_bytes: gptkit_train::memory::peak_of_process() });
        }
    }

    /// A result, on stdout, without control sequences.
    pub(crate) fn result(&self, text: &str) -> anyhow::Result<()> {
        self.raw(printable(text).as_bytes())
    }

    /// Text that a model wrote, on stdout: without control sequences, or byte for byte when `raw`.
    pub(crate) fn text(&self, text: &str, raw: bool) -> anyhow::Result<()> {
        if raw { self.raw(text.as_bytes()) } else { self.result(text) }
    }

    /// JSON, an object a line, on stdout.
    pub(crate) fn json(&self, lines: &str) -> anyhow::Result<()> {
        self.raw(printable_json(lines).as_bytes())
    }

    /// Bytes as they are, on stdout, flushed: text that gptkit itself has styled, and what a user asked for with `--raw`.
    pub(crate) fn raw(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).context("stdout cannot be written")
    }

    /// The command to run next.
    pub(crate) fn next(&self, command: &str) {
        self.say(&format!("next: {command}"));
    }

    /// Prints why the command failed and returns the exit code: 2 for usage, 1 for any other error. A reader of stdout that
    /// went away (`| head`) is no failure.
    pub(crate) fn fail(&self, error: &anyhow::Error) -> ExitCode {
        if reader_is_gone(error) {
            return ExitCode::SUCCESS;
        }
        if let Some(Stopped(stop)) = error.downcast_ref() {
            return ExitCode::from(stop.exit_code());
        }
        self.error(error);
        let usage = error.is::<gptkit_config::Invalid>() || error.is::<Usage>();
        ExitCode::from(if usage { 2 } else { 1 })
    }

    /// Prints an error and its causes.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.say(&format!("error: {}", message(error)));
    }

    /// A line on stderr.
    pub(crate) fn say(&self, line: &str) {
        if self.events {
            return send(&ProgressEvent::Said(line.to_owned()));
        }
        match self.bar.lock() {
            Ok(bar) if bar.is_some() => bar.iter().for_each(|bar| bar.suspend(|| write_line(line))),
            _ => write_line(line),
        }
    }
}

/// Whether it failed because nobody reads the results any more.
pub(crate) fn reader_is_gone(error: &anyhow::Error) -> bool {
    let gone = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(gone)
}

/// Columns of the terminal that results go to; 80 where there is none.
pub(crate) fn width() -> usize {
    console::Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns).max(20))
}

/// Writes to stderr, without control sequences; that it is closed is nobody's concern.
pub(crate) fn write_line(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(line));
}

/// Sends an event to the gptkit that runs this process. When that one is gone, the process ends: what is saved can be resumed.
fn send(event: &ProgressEvent) {
    let line = serde_json::json!(event).to_string();
    if writeln!(io::stderr().lock(), "{line}").is_err() {
        std::process::exit(1);
    }
}

/// An error and its causes, each once, without the backtraces that some libraries put into their messages.
fn message(error: &anyhow::Error) -> String {
    let mut messages: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.split("\n   0: ").next().unwrap_or_default().trim_end().to_owned();
        if !messages.iter().any(|s| s.contains(&text)) {
            messages.push(text);
        }
    }
    messages.join(": ")
}

impl Progress for Ui {
    fn note(&self, line: &str) {
        self.say(line);
    }

    fn warn(&self, line: &str) {
        self.say(&format!("warning: {line}"));
    }

    fn task(&self, label: &str, total: Option<u64>, unit: Unit) -> Box<dyn ProgressTask> {
        if self.events {
            send(&ProgressEvent::Began { label: label.to_owned(), total, unit });
            return Box::new(EventTask { state: Mutex::default() });
        }
        if !self.live {
            return Box::new(LineTask::new(label, total, unit));
        }
        let bar = match total {
            Some(n) => ProgressBar::new(n),
            None => ProgressBar::no_length(),
        };
        bar.set_style(style(total.is_some(), unit));
        bar.set_prefix(printable_line(label).into_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        if let Ok(mut shown) = self.bar.lock() {
            *shown = Some(bar.clone());
        }
        Box::new(BarTask { bar, shown: Arc::clone(&self.bar) })
    }
}

/// Fits any width: the figures beside the count are cut when they must be.
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
struct BarTask {
    bar: ProgressBar,
    /// Where it is while lines are printed above it.
    shown: Arc<Mutex<Option<ProgressBar>>>,
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
            *shown = None; // what is said from now on comes below it
        }
        // The last state stays where the figures are worth keeping.
        if self.bar.message().is_empty() { self.bar.finish_and_clear() } else { self.bar.abandon() }
    }
}

/// A task whose progress another gptkit gets as events.
struct EventTask {
    state: Mutex<TaskProgress>,
}

/// Time between two events of a task.
const BETWEEN: Duration = Duration::from_millis(200);

impl EventTask {
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
struct LineTask {
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
    fn new(label: &str, total: Option<u64>, unit: Unit) -> Self {
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

//! All that is printed: messages and progress on stderr, results on stdout. A process that `gptkit lineage` runs writes
//! [`ProgressEvent`]s to stderr instead.
//!
//! Whatever a name, a record or a model brings along passes through [`gptkit_data::printable`], so that none of it controls the
//! terminal.

use crate::progress::{BarTask, EventTask, LineTask};
use crate::stderr::{send, write_line};
use anyhow::Context;
pub(crate) use gptkit_config::Usage;
use gptkit_data::printable::{printable, printable_json};
use gptkit_data::progress::{Progress, ProgressTask, Silent, Unit};
use gptkit_lineage::event::ProgressEvent;
use gptkit_ranks::Ranks;
use gptkit_train::interrupt::Stop;
use indicatif::MultiProgress;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

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

/// The run has ended, and what is left to do is done by the first rank alone.
#[derive(Debug)]
pub(crate) struct RankEnds;

impl std::fmt::Display for RankEnds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the first rank completes the command")
    }
}

impl std::error::Error for RankEnds {}

/// The terminal, or what stands in for it.
pub(crate) struct Ui {
    live: bool,
    /// Whether another gptkit reads events from stderr.
    events: bool,
    /// The bars on the screen, above which lines are printed.
    bars: MultiProgress,
    /// The processes that run the command together, of which only the first one prints.
    ranks: Ranks,
}

impl Ui {
    pub(crate) fn new(events: bool, ranks: Ranks) -> Self {
        Self { live: io::stderr().is_terminal(), events, bars: MultiProgress::new(), ranks }
    }

    /// The processes that run the command together.
    pub(crate) fn ranks(&self) -> &Ranks {
        &self.ranks
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
        if !self.ranks.is_first() {
            return Ok(());
        }
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
        if error.is::<RankEnds>() {
            return ExitCode::SUCCESS;
        }
        match self.ranks.rank() {
            0 => self.error(error),
            rank => {
                // Most errors are those of all ranks: the first one prints them, and MPI's starter then ends the others.
                std::thread::sleep(Duration::from_secs(1));
                write_line(&format!("rank {rank}: error: {}", message(error)));
            }
        }
        ExitCode::from(if is_usage(error) { 2 } else { 1 })
    }

    /// Prints an error and its causes.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.say(&format!("error: {}", message(error)));
    }

    /// A line on stderr.
    pub(crate) fn say(&self, line: &str) {
        if !self.ranks.is_first() {
            return;
        }
        if self.events {
            return send(&ProgressEvent::Said(line.to_owned()));
        }
        match self.live {
            true => self.bars.suspend(|| write_line(line)),
            false => write_line(line),
        }
    }
}

/// Whether a request could not be obeyed, and nothing was done.
fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<gptkit_config::Invalid>() || error.is::<Usage>()
}

/// `error` as one of usage: what the command line names cannot be used, and nothing was done yet.
pub(crate) fn unusable(error: anyhow::Error) -> anyhow::Error {
    if is_usage(&error) { error } else { Usage::new(message(&error)).into() }
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
        if !self.ranks.is_first() {
            return Box::new(Silent);
        }
        if self.events {
            return Box::new(EventTask::begin(label, total, unit));
        }
        match self.live {
            true => Box::new(BarTask::begin(label, total, unit, &self.bars)),
            false => Box::new(LineTask::begin(label, total, unit)),
        }
    }
}

//! A stage's process: this program again, with the stage's command.

use crate::event::{EVENTS, ProgressEvent};
use crate::plan::command;
use anyhow::{Context, Result, bail};
use gptkit_data::progress::{Progress, ProgressTask};
use gptkit_train::interrupt::{Interrupt, Stop};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// What a process is given.
#[derive(Debug)]
pub(crate) struct StageProcess<'a> {
    /// This program.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) words: &'a [String],
    /// What it reads, if anything.
    pub(crate) stdin: Option<&'a str>,
    /// Where what it prints goes.
    pub(crate) stdout: &'a Path,
    /// Where what it says goes, after what is there.
    pub(crate) log: &'a Path,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    /// Well, with the most memory that it had, where that is known.
    Well(Option<u64>),
    /// As it was asked to.
    Stopped(Stop),
}

/// How long to wait for news before looking whether to stop.
const WAIT: Duration = Duration::from_millis(100);
/// Lines of a failed process that are repeated.
const LAST_WORDS: usize = 12;

impl StageProcess<'_> {
    /// Runs it to its end, showing its long work on `progress`. When `interrupt` says so it is asked to stop, and waited for.
    ///
    /// # Errors
    /// When it fails, with its last words.
    pub(crate) fn run(&self, interrupt: &Interrupt, progress: &dyn Progress) -> Result<ProcessEnd> {
        let mut log = open(self.log, true)?;
        let full = || format!("{} cannot be written", self.log.display());
        writeln!(log, "$ {}", command(self.words)).with_context(full)?;
        let mut child = self.spawn()?;
        if let (Some(text), Some(mut stdin)) = (self.stdin, child.stdin.take()) {
            // One that ends before it has read all says itself why.
            let _ = stdin.write_all(text.as_bytes());
        }
        let stderr = child.stderr.take().context("a stage has no stderr")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(|line| line.ok()).all(|line| send.send(line).is_ok())
        });
        let mut view = ProcessView { progress, task: None, done: 0, peak_bytes: None };
        let (mut said, mut stop): (Vec<String>, Option<Stop>) = (Vec::new(), None);
        loop {
            match lines.recv_timeout(WAIT) {
                Ok(line) => {
                    if let Some(words) = view.show(&line) {
                        writeln!(log, "{words}").with_context(full)?;
                        said.push(words);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if stop.is_none()
                && let Some(reason) = interrupt.reason(Duration::ZERO)
            {
                ask_to_stop(&mut child, reason)?;
                stop = Some(reason);
            }
        }
        let status = child.wait()?;
        match stop {
            _ if status.success() => Ok(ProcessEnd::Well(view.peak_bytes)),
            Some(stop) => Ok(ProcessEnd::Stopped(stop)),
            None => {
                let last = said[said.len().saturating_sub(LAST_WORDS)..].join("\n  ");
                bail!(
                    "`{}` failed ({status}):\n  {last}\nall that it said: {}",
                    command(self.words),
                    self.log.display()
                )
            }
        }
    }

    fn spawn(&self) -> Result<Child> {
        let mut command = Command::new(self.program);
        command.args(self.words).env(EVENTS, "1");
        command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(open(self.stdout, false)?).stderr(Stdio::piped());
        // Ctrl-C in a terminal reaches a whole group; it is passed on from here, once.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().with_context(|| format!("{} cannot be run", self.program.display()))
    }
}

fn open(path: &Path, append: bool) -> Result<File> {
    let file = OpenOptions::new().create(true).write(true).append(append).truncate(!append).open(path);
    file.with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(unix)]
fn ask_to_stop(child: &mut Child, stop: Stop) -> Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let passed_on = [Signal::INT, Signal::HUP, Signal::USR1];
    let signal =
        passed_on.into_iter().find(|signal| stop == Stop::Signal(signal.as_raw() as u8)).unwrap_or(Signal::TERM);
    if let Some(pid) = Pid::from_raw(child.id() as i32) {
        let _ = kill_process(pid, signal); // it may just have ended
    }
    Ok(())
}

#[cfg(not(unix))]
fn ask_to_stop(child: &mut Child, _: Stop) -> Result<()> {
    Ok(child.kill()?)
}

/// What is shown of a process.
struct ProcessView<'a> {
    progress: &'a dyn Progress,
    task: Option<Box<dyn ProgressTask>>,
    /// Units of the task that were shown.
    done: u64,
    peak_bytes: Option<u64>,
}

impl ProcessView<'_> {
    /// Shows what `line` tells; words are given back.
    fn show(&mut self, line: &str) -> Option<String> {
        match serde_json::from_str(line) {
            Ok(ProgressEvent::Said(words)) => return Some(words),
            Err(_) => return Some(line.to_owned()), // a panic's, for instance
            Ok(ProgressEvent::Began { label, total, unit }) => {
                self.task = None; // its bar goes before another comes
                (self.task, self.done) = (Some(self.progress.task(&label, total, unit)), 0);
            }
            Ok(ProgressEvent::ResumedAt(done)) => {
                self.task.iter().for_each(|task| task.resume_at(done));
                self.done = done;
            }
            Ok(ProgressEvent::Reached { done, figures }) => {
                if let Some(task) = &self.task {
                    task.show(&figures);
                    task.advance(done.saturating_sub(self.done));
                    self.done = done;
                }
            }
            Ok(ProgressEvent::Over) => self.task = None,
            Ok(ProgressEvent::Ended { peak_bytes }) => self.peak_bytes = peak_bytes,
        }
        None
    }
}

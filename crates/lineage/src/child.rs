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
    /// Threads that it computes with; `None` leaves that to the environment.
    pub(crate) threads: Option<usize>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    /// Well, with the most memory that it had, where that is known.
    Well(Option<u64>),
    /// It stopped after an interrupt.
    Stopped(Stop),
}

/// The environment variable that sets the number of threads.
const THREADS: &str = "RAYON_NUM_THREADS";
/// How long to wait for news before looking whether to stop.
const WAIT: Duration = Duration::from_millis(100);
/// Lines of a failed process that are repeated.
const LAST_LINES: usize = 12;

impl StageProcess<'_> {
    /// Runs the process to its end and shows its progress on `progress`. If `interrupt` has a reason, the process is
    /// told to stop, and this function waits for it.
    ///
    /// # Errors
    /// When it fails, with its last words.
    pub(crate) fn run(&self, interrupt: &Interrupt, progress: &dyn Progress) -> Result<ProcessEnd> {
        let mut log = open(self.log, true)?;
        self.write_log(&mut log, &format!("$ {}", command(self.words)))?;
        let mut child = self.spawn()?;
        if let (Some(text), Some(mut stdin)) = (self.stdin, child.stdin.take()) {
            // A process that ends before it has read all says itself why.
            let _ = stdin.write_all(text.as_bytes());
        }
        let mut view = ProcessView { progress, task: None, done: 0, peak_bytes: None, printed: Vec::new() };
        let stop = self.follow(&mut child, &mut log, &mut view, interrupt)?;
        let status = child.wait()?;
        match stop {
            _ if status.success() => Ok(ProcessEnd::Well(view.peak_bytes)),
            Some(stop) => Ok(ProcessEnd::Stopped(stop)),
            None => {
                let last = view.printed[view.printed.len().saturating_sub(LAST_LINES)..].join("\n  ");
                bail!(
                    "`{}` failed ({status}):\n  {last}\nits full output is in {}",
                    command(self.words),
                    self.log.display()
                )
            }
        }
    }

    /// Shows and logs what `child` writes until it ends. When `interrupt` has a reason the process is asked to stop, once;
    /// returns that reason.
    fn follow(
        &self,
        child: &mut Child,
        log: &mut File,
        view: &mut ProcessView,
        interrupt: &Interrupt,
    ) -> Result<Option<Stop>> {
        let stderr = child.stderr.take().context("a stage has no stderr")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(|line| line.ok()).all(|line| send.send(line).is_ok())
        });
        let mut stop = None;
        loop {
            match lines.recv_timeout(WAIT) {
                Ok(line) => {
                    if let Some(printed) = view.show(&line) {
                        self.write_log(log, &printed)?;
                        view.printed.push(printed);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(stop),
            }
            if stop.is_none()
                && let Some(reason) = interrupt.reason(Duration::ZERO)
            {
                ask_to_stop(child, reason)?;
                stop = Some(reason);
            }
        }
    }

    fn write_log(&self, log: &mut File, line: &str) -> Result<()> {
        writeln!(log, "{line}").with_context(|| format!("{} cannot be written", self.log.display()))
    }

    fn spawn(&self) -> Result<Child> {
        let mut command = Command::new(self.program);
        command.args(self.words).env(EVENTS, "1");
        if let Some(threads) = self.threads {
            command.env(THREADS, threads.to_string());
        }
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
    /// Lines that are no events.
    printed: Vec<String>,
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

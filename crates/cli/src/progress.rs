//! Long tasks as they are shown: as a bar on a terminal, as plain lines elsewhere, as events for another gptkit.

use crate::stderr::{send, write_line};
use gptkit_data::printable::printable_line;
use gptkit_data::progress::{ProgressTask, Unit};
use gptkit_lineage::event::ProgressEvent;
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Fits any width: the figures beside the count are cut when they must be.
fn style(bounded: bool, unit: Unit, pace: &SharedPace) -> ProgressStyle {
    let count = match (bounded, unit) {
        (true, Unit::Bytes) => "{bytes}/{total_bytes} {percent:>3}%  {binary_bytes_per_sec}",
        (false, Unit::Bytes) => "{bytes}  {binary_bytes_per_sec}",
        (true, _) => "{pos}/{len}",
        (false, _) => "{pos}  {per_sec}",
    };
    let time = if bounded { " {time_left}" } else { "" };
    let pace = Arc::clone(pace);
    ProgressStyle::with_template(&format!("{{prefix}} {count}  {{wide_msg}}{time}"))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("time_left", move |state: &ProgressState, out: &mut dyn Write| {
            let total = state.len().unwrap_or(0);
            let _ = match state.is_finished() || state.pos() >= total {
                true => write!(out, "{:#}", HumanDuration(state.elapsed())),
                false => {
                    let left = pace.lock().ok().and_then(|pace| pace.left(total, Instant::now()));
                    write!(out, "ETA {}", eta(left, |left| format!("{:#}", HumanDuration(left))))
                }
            };
        })
}

/// How fast a task is. The library's own estimate forgets what is older than some seconds, so that it rises by orders of
/// magnitude during a step that takes a minute.
struct Pace {
    begun: Instant,
    /// Units that were done before this process.
    before: u64,
    done: u64,
    /// When the last unit was done.
    last: Instant,
}

type SharedPace = Arc<Mutex<Pace>>;

impl Pace {
    fn begin() -> Self {
        Self { begun: Instant::now(), before: 0, done: 0, last: Instant::now() }
    }

    /// Time until `total` units are done, at the mean rate of those of this process; none before the first of them.
    fn left(&self, total: u64, now: Instant) -> Option<Duration> {
        let n = self.done.saturating_sub(self.before);
        let per_unit = (n > 0).then(|| self.last.duration_since(self.begun).as_secs_f64() / n as f64)?;
        let seconds = per_unit * total.saturating_sub(self.done) as f64;
        Some(Duration::from_secs_f64(seconds.min(LONGEST_ETA)).saturating_sub(now.duration_since(self.last)))
    }
}

/// The time `left`, at least one second; a dash while it is unknown, as before the first step of a run.
fn eta(left: Option<Duration>, text: impl FnOnce(Duration) -> String) -> String {
    left.map_or_else(|| "–".to_owned(), |left| text(left.max(Duration::from_secs(1))))
}

/// Seconds; longer estimates are not told apart.
const LONGEST_ETA: f64 = 1e12;

/// A task on a terminal.
pub(crate) struct BarTask {
    bar: ProgressBar,
    pace: SharedPace,
    /// The bars on the screen.
    bars: MultiProgress,
    /// What stays on the screen at the end, where the figures are worth keeping.
    line: LineTask,
}

impl BarTask {
    /// Shows a bar below the other `bars` until the task is dropped.
    pub(crate) fn begin(label: &str, total: Option<u64>, unit: Unit, bars: &MultiProgress) -> Self {
        let bar = bars.add(total.map_or_else(ProgressBar::no_length, ProgressBar::new));
        let pace = Arc::new(Mutex::new(Pace::begin()));
        bar.set_style(style(total.is_some(), unit, &pace));
        bar.set_prefix(printable_line(label).into_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, pace, bars: bars.clone(), line: LineTask::begin(label, total, unit) }
    }
}

impl ProgressTask for BarTask {
    fn resume_at(&self, n: u64) {
        if let Ok(mut pace) = self.pace.lock() {
            *pace = Pace { before: n, done: n, ..Pace::begin() };
        }
        self.bar.set_position(n);
        self.bar.reset_eta();
    }

    fn advance(&self, n: u64) {
        if let Ok(mut pace) = self.pace.lock() {
            (pace.done, pace.last) = (pace.done + n, Instant::now());
        }
        self.bar.inc(n);
    }

    fn show(&self, figures: &str) {
        self.bar.set_message(printable_line(figures).into_owned());
    }
}

impl Drop for BarTask {
    fn drop(&mut self) {
        let figures = self.bar.message();
        self.bar.finish_and_clear();
        self.bars.remove(&self.bar);
        let Ok(pace) = self.pace.lock() else { return };
        if !figures.is_empty() {
            let state = TaskProgress { before: pace.before, done: pace.done, figures, ..TaskProgress::default() };
            let line = self.line.text(&state, pace.begun.elapsed().as_secs_f64());
            self.bars.suspend(|| write_line(&line));
        }
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
        write_line(&self.text(state, self.begun.elapsed().as_secs_f64()));
    }

    /// The line after `elapsed` seconds.
    fn text(&self, state: &TaskProgress, elapsed: f64) -> String {
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
            Some(total) if state.done < total => {
                let seconds = (total - state.done) as f64 / rate;
                let left = (rate > 0.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST_ETA)));
                line += &format!("  ETA {}", eta(left, |left| format!("{:.0} s", left.as_secs_f64())));
            }
            _ => line += &format!("  {elapsed:.1} s"),
        }
        line
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

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::io;

    /// A terminal that keeps what is written to it.
    #[derive(Debug, Clone, Default)]
    struct KeptTerminal(Arc<Mutex<String>>);

    impl KeptTerminal {
        fn add(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
    }

    impl TermLike for KeptTerminal {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.add(&format!("{text}\n"))
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.add(text)
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Text of a bar of 400 steps after `change`.
    fn shown(change: impl FnOnce(&BarTask)) -> String {
        let terminal = KeptTerminal::default();
        let bar = ProgressBar::with_draw_target(Some(400), ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        let pace = Arc::new(Mutex::new(Pace::begin()));
        bar.set_style(style(true, Unit::Items, &pace));
        bar.set_prefix("step");
        let line = LineTask::begin("step", Some(400), Unit::Items);
        let task = BarTask { bar: bar.clone(), pace, bars: MultiProgress::new(), line };
        task.show("loss 2.3");
        change(&task);
        terminal.0.lock().unwrap().clear();
        bar.tick();
        terminal.0.lock().unwrap().trim().to_owned()
    }

    #[test]
    fn the_time_left_is_a_dash_before_the_first_step_of_a_process() {
        let first = shown(|_| {});
        assert!(first.starts_with("step 0/400  loss 2.3") && first.ends_with(" ETA –"), "{first}");
        let resumed = shown(|task| task.resume_at(300));
        assert!(resumed.starts_with("step 300/400") && resumed.ends_with(" ETA –"), "{resumed}");
        let later = shown(|task| {
            std::thread::sleep(Duration::from_millis(20));
            task.advance(1);
        });
        let seconds: u64 = later.rsplit_once(" ETA ").unwrap().1.trim_end_matches('s').parse().unwrap();
        assert!((7..100).contains(&seconds), "399 steps of 20 ms or a little more: {later}");
        let nearly = shown(|task| task.advance(399));
        assert!(nearly.ends_with(" ETA 1s"), "less than a second is one second: {nearly}");
    }

    #[test]
    fn a_bar_that_has_ended_shows_the_time_that_it_took() {
        for end in [400, 33] {
            let shown = shown(|task| {
                task.advance(end);
                task.bar.abandon();
            });
            assert!(shown.is_empty() || shown.ends_with(" 0s") && !shown.contains("ETA"), "{shown}");
        }
        assert!(shown(|task| task.advance(400)).ends_with(" 0s"));
    }

    #[test]
    fn the_time_left_falls_during_a_long_step() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let pace = Pace { begun, before: 100, done: 103, last: at(180) };
        let left = |total, now| pace.left(total, at(now)).map(|left| left.as_secs());
        assert_eq!(left(110, 180), Some(7 * 60));
        assert_eq!(left(110, 220), Some(7 * 60 - 40));
        assert_eq!(left(104, 900), Some(0), "longer than steps took so far");
        assert_eq!(Pace { done: 100, ..pace }.left(110, at(180)), None);
        assert_eq!(eta(Some(Duration::ZERO), |left| format!("{left:?}")), "1s");
    }

    #[test]
    fn a_plain_line_has_the_time_left_or_a_dash() {
        let task = LineTask::begin("step", Some(400), Unit::Items);
        let text = |before: u64, done: u64| {
            task.text(&TaskProgress { before, done, ..TaskProgress::default() }, 10.0)
                .rsplit_once("  ")
                .unwrap()
                .1
                .to_owned()
        };
        assert_eq!(text(0, 0), "ETA –");
        assert_eq!(text(300, 300), "ETA –", "steps of an earlier process give no rate");
        assert_eq!(text(300, 350), "ETA 10 s");
        assert_eq!(text(0, 399), "ETA 1 s");
        assert_eq!(text(0, 400), "10.0 s");
    }
}

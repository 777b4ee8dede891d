//! The story: the stages of every seed, run in order, with the time that they have taken and are expected to take.

use crate::config::LineageConfig;
use crate::own::OwnData;
use crate::plan::{LineageStep, folder_of_seed, steps};
use crate::schedule::{AT_A_TIME, CoreShare, NextStep, ScheduledStep, StageSchedule};
use crate::stages::{self, StageContext, StageEnd, StageRecord, StageState};
use anyhow::Result;
use gptkit_data::format::minutes;
use gptkit_data::progress::{Progress, ProgressTask, Unit};
use gptkit_train::interrupt::Stop;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// The stages of one seed.
#[derive(Debug, Clone, PartialEq)]
pub struct SeedPlan {
    /// The seed.
    pub seed: u64,
    /// Its stages, in order.
    pub steps: Vec<LineageStep>,
}

/// The stages of every seed, below one folder.
#[derive(Debug, Clone, PartialEq)]
pub struct LineageStory {
    /// The folder.
    pub out: PathBuf,
    /// The user's own data.
    pub own: OwnData,
    /// A plan for each seed.
    pub seeds: Vec<SeedPlan>,
    /// Names of the stages that run; all of them when empty.
    pub only: Vec<String>,
}

/// Where a story was stopped before its end.
#[derive(Debug, Clone, PartialEq)]
pub struct StoppedAt {
    /// Why.
    pub stop: Stop,
    /// Name of the stage.
    pub stage: String,
}

impl LineageStory {
    /// The stages of `config` for every one of `seeds`, each taken once, with `own` data below the folder `out`.
    ///
    /// # Errors
    /// As [`steps`].
    pub fn new(config: &LineageConfig, own: OwnData, out: &Path, seeds: &[u64], only: &[String]) -> Result<Self> {
        let mut plans: Vec<SeedPlan> = Vec::new();
        for &seed in seeds {
            if plans.iter().all(|plan| plan.seed != seed) {
                plans.push(SeedPlan { seed, steps: steps(config, &own, out, seed)? });
            }
        }
        Ok(Self { out: out.to_owned(), own, seeds: plans, only: only.to_vec() })
    }

    /// The seeds, in order.
    pub fn seeds(&self) -> Vec<u64> {
        self.seeds.iter().map(|plan| plan.seed).collect()
    }

    /// The stages of `plan` that run.
    pub fn chosen<'a>(&'a self, plan: &'a SeedPlan) -> impl Iterator<Item = &'a LineageStep> {
        plan.steps.iter().filter(|step| self.only.is_empty() || self.only.contains(&step.stage.name))
    }

    /// Puts aside what the stage `first`, and those that follow from it, have left, so that they run anew.
    ///
    /// # Errors
    /// When there is no such stage, or a folder cannot be moved.
    pub fn set_aside_from(&self, first: &str) -> Result<()> {
        for SeedPlan { steps, .. } in &self.seeds {
            let anew = stages::from(steps, first)?;
            steps.iter().filter(|step| anew.contains(&step.stage.name)).try_for_each(LineageStep::set_aside)?;
        }
        Ok(())
    }

    /// Runs the chosen stages that are not done, on `cores` cores. Returns where it was stopped, if it was.
    ///
    /// # Errors
    /// When a stage fails, or reads what is not there.
    pub fn run(&self, context: &StageContext, cores: usize) -> Result<Option<StoppedAt>> {
        let mut clock = StoryClock::new(self.seeds.iter().flat_map(|plan| self.chosen(plan)))?;
        let mut to_do = Vec::new();
        for plan in &self.seeds {
            self.own.divide(&folder_of_seed(&self.out, plan.seed), context.progress)?;
            let mut steps = Vec::new();
            for step in self.chosen(plan) {
                if !matches!(step.state()?, StageState::Done(_)) {
                    steps.push(step);
                }
            }
            to_do.push(steps);
        }
        let schedule = StageSchedule::new(to_do, cores);
        let stopped = std::thread::scope(|scope| {
            StoryRun { story: self, context, cores, scope, results: channel() }.run(schedule, &mut clock)
        })?;
        if stopped.is_none() && clock.n_done_before > 0 {
            context
                .progress
                .note(&format!("{} of {} stages were already finished", clock.n_done_before, clock.n_stages));
        }
        Ok(stopped)
    }
}

/// How a stage ended.
type StageResult<'a> = (ScheduledStep<'a>, Result<StageEnd>);

/// A story while its stages run, each on a thread that waits for its process.
struct StoryRun<'scope, 'env> {
    story: &'env LineageStory,
    context: &'env StageContext<'env>,
    cores: usize,
    scope: &'scope Scope<'scope, 'env>,
    results: (Sender<StageResult<'env>>, Receiver<StageResult<'env>>),
}

impl<'scope, 'env> StoryRun<'scope, 'env> {
    /// After a stage failed or was stopped, no other starts; those that run are stopped, and the function waits for them.
    fn run(&self, mut schedule: StageSchedule<'env>, clock: &mut StoryClock) -> Result<Option<StoppedAt>> {
        let mut outcome = Ok(None);
        let mut n_running = 0;
        loop {
            let goes_on = matches!(outcome, Ok(None)) && self.context.interrupt.reason(Duration::ZERO).is_none();
            match if goes_on { schedule.next() } else { NextStep::Wait } {
                NextStep::Start(one, share) => {
                    if let Err(e) = self.start(one, share, clock) {
                        (outcome, _) = (Err(e), self.context.interrupt.stop());
                        continue;
                    }
                    n_running += 1;
                }
                NextStep::End => return outcome,
                NextStep::Wait if n_running == 0 => return outcome,
                NextStep::Wait => {
                    let (one, ended) = self.results.1.recv()?;
                    n_running -= 1;
                    schedule.end(&one);
                    match ended {
                        Ok(StageEnd::Done(record)) => self.context.progress.note(&clock.end_of(one.step, &record)),
                        Ok(StageEnd::Stopped(stop)) if matches!(outcome, Ok(None)) => {
                            outcome = Ok(Some(StoppedAt { stop, stage: one.step.stage.name.clone() }));
                        }
                        Err(e) if outcome.is_ok() => (outcome, _) = (Err(e), self.context.interrupt.stop()),
                        Ok(StageEnd::Stopped(_)) | Err(_) => {}
                    }
                }
            }
        }
    }

    fn start(&self, one: ScheduledStep<'env>, share: CoreShare, clock: &mut StoryClock) -> Result<()> {
        let step = one.step;
        step.can_run(&self.story.seeds[one.seed].steps)?;
        let state = step.state()?;
        self.context.progress.note(&clock.beginning_of(step));
        let threads = match share {
            CoreShare::All => self.context.threads,
            CoreShare::Half => Some((self.cores / AT_A_TIME).max(1)),
        };
        let (context, send) = (self.context, self.results.0.clone());
        self.scope.spawn(move || {
            let progress = StageProgress { name: &step.stage.name, all: context.progress };
            let context = StageContext { progress: &progress, threads, ..*context };
            let _ = send.send((one, step.run(&state, &context))); // the receiver waits for every stage that began
        });
        Ok(())
    }
}

/// Prefixes the messages of a stage with its name, because two stages run at a time.
struct StageProgress<'a> {
    name: &'a str,
    all: &'a dyn Progress,
}

impl Progress for StageProgress<'_> {
    fn note(&self, line: &str) {
        self.all.note(&format!("{}: {line}", self.name));
    }

    fn warn(&self, line: &str) {
        self.all.warn(&format!("{}: {line}", self.name));
    }

    fn task(&self, label: &str, total: Option<u64>, unit: Unit) -> Box<dyn ProgressTask> {
        self.all.task(&format!("{} {label}", self.name), total, unit)
    }
}

/// The time that a story takes.
struct StoryClock {
    began: Instant,
    /// Stages that began in this run, or were done before.
    number: usize,
    n_stages: usize,
    /// Stages that were done before this run.
    n_done_before: usize,
    /// Seconds that the stages which are not done are expected to take.
    expected_to_go: f64,
    /// Seconds that the stages which were done in this run were expected to take.
    expected_so_far: f64,
    /// Stages that run: when each began, and how long it is expected to take.
    running: Vec<(String, Instant, f64)>,
}

/// The share of the expected seconds that a stage gets done in a second beside another one.
const PACE_BESIDE: f64 = 0.6;

impl StoryClock {
    fn new<'a>(steps: impl Iterator<Item = &'a LineageStep>) -> Result<Self> {
        let mut clock = Self {
            began: Instant::now(),
            number: 0,
            n_stages: 0,
            n_done_before: 0,
            expected_to_go: 0.0,
            expected_so_far: 0.0,
            running: Vec::new(),
        };
        for step in steps {
            clock.n_stages += 1;
            match step.state()? {
                StageState::Done(_) => clock.n_done_before += 1,
                StageState::Begun | StageState::New => clock.expected_to_go += step.stage.seconds,
            }
        }
        clock.number = clock.n_done_before;
        Ok(clock)
    }

    /// The line before a stage runs.
    fn beginning_of(&mut self, step: &LineageStep) -> String {
        self.number += 1;
        self.running.push((step.leaves.display().to_string(), Instant::now(), step.stage.seconds));
        let reads = if step.reads.is_empty() { String::new() } else { format!(" ← {}", step.reads.join(", ")) };
        let Self { number, n_stages, .. } = self;
        format!("[{number}/{n_stages}] {}{reads} → {}", step.stage.name, step.leaves.display())
    }

    /// The line after a stage has run.
    fn end_of(&mut self, step: &LineageStep, record: &StageRecord) -> String {
        self.running.retain(|(leaves, ..)| *leaves != step.leaves.display().to_string());
        self.expected_to_go -= step.stage.seconds;
        self.expected_so_far += step.stage.seconds;
        let half_done =
            self.running.iter().map(|(_, began, seconds)| (began.elapsed().as_secs_f64() * PACE_BESIDE).min(*seconds));
        let half_done: f64 = half_done.sum();
        let so_far = self.began.elapsed().as_secs_f64();
        let memory = record.peak_bytes.map(|bytes| format!(" · {} MB", bytes / 1_000_000)).unwrap_or_default();
        let to_go = (self.expected_to_go - half_done).max(0.0) * so_far / (self.expected_so_far + half_done);
        let (elapsed_s, so_far, to_go) = (record.elapsed_s, minutes(so_far), minutes(to_go));
        format!("{}: {elapsed_s:.1} s{memory} · {so_far} so far · about {to_go} to go", step.stage.name)
    }
}

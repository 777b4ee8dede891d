//! The story: the stages of every seed, run in order, with the time that they have taken and are expected to take.

use crate::config::LineageConfig;
use crate::own::OwnData;
use crate::plan::{LineageStep, folder_of_seed, steps};
use crate::stages::{self, StageContext, StageEnd, StageRecord, StageState};
use anyhow::Result;
use gptkit_data::format::minutes;
use gptkit_train::interrupt::Stop;
use std::path::{Path, PathBuf};
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

    /// Runs the chosen stages that are not done. Returns where it was stopped, if it was.
    ///
    /// # Errors
    /// When a stage fails, or reads what is not there.
    pub fn run(&self, context: &StageContext) -> Result<Option<StoppedAt>> {
        let mut clock = StoryClock::new(self.seeds.iter().flat_map(|plan| self.chosen(plan)))?;
        for plan in &self.seeds {
            self.own.divide(&folder_of_seed(&self.out, plan.seed), context.progress)?;
            for step in self.chosen(plan) {
                let state = step.state()?;
                clock.number += 1;
                if matches!(state, StageState::Done(_)) {
                    continue;
                }
                step.can_run(&plan.steps)?;
                context.progress.note(&clock.beginning_of(step));
                if let StageEnd::Done(record) = step.run(&state, context)? {
                    context.progress.note(&clock.end_of(step, &record));
                }
                if let Some(stop) = context.interrupt.reason(Duration::ZERO) {
                    return Ok(Some(StoppedAt { stop, stage: step.stage.name.clone() }));
                }
            }
        }
        if clock.n_done_before > 0 {
            context
                .progress
                .note(&format!("{} of {} stages were already finished", clock.n_done_before, clock.n_stages));
        }
        Ok(None)
    }
}

/// The time that a story takes.
struct StoryClock {
    began: Instant,
    /// Number of the stage that runs, from 1.
    number: usize,
    n_stages: usize,
    /// Stages that were done before this run.
    n_done_before: usize,
    /// Seconds that the stages which are not done are expected to take.
    expected_to_go: f64,
    /// Seconds that the stages which were done in this run were expected to take.
    expected_so_far: f64,
}

impl StoryClock {
    fn new<'a>(steps: impl Iterator<Item = &'a LineageStep>) -> Result<Self> {
        let mut clock = Self {
            began: Instant::now(),
            number: 0,
            n_stages: 0,
            n_done_before: 0,
            expected_to_go: 0.0,
            expected_so_far: 0.0,
        };
        for step in steps {
            clock.n_stages += 1;
            match step.state()? {
                StageState::Done(_) => clock.n_done_before += 1,
                StageState::Begun | StageState::New => clock.expected_to_go += step.stage.seconds,
            }
        }
        Ok(clock)
    }

    /// The line before a stage runs.
    fn beginning_of(&self, step: &LineageStep) -> String {
        let reads = if step.reads.is_empty() { String::new() } else { format!(" ← {}", step.reads.join(", ")) };
        let Self { number, n_stages, .. } = self;
        format!("[{number}/{n_stages}] {}{reads} → {}", step.stage.name, step.leaves.display())
    }

    /// The line after a stage has run.
    fn end_of(&mut self, step: &LineageStep, record: &StageRecord) -> String {
        self.expected_to_go -= step.stage.seconds;
        self.expected_so_far += step.stage.seconds;
        let so_far = self.began.elapsed().as_secs_f64();
        let memory = record.peak_bytes.map(|bytes| format!(" · {} MB", bytes / 1_000_000)).unwrap_or_default();
        let to_go = self.expected_to_go.max(0.0) * so_far / self.expected_so_far;
        let (elapsed_s, so_far, to_go) = (record.elapsed_s, minutes(so_far), minutes(to_go));
        format!("        {elapsed_s:.1} s{memory} · {so_far} so far · about {to_go} to go")
    }
}

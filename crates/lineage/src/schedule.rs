//! Which stage runs when. Two stages run at a time, each on half of the cores: models as small as these do not keep all
//! cores busy, and no result depends on the number of threads. A stage with nothing beside it has all cores.

use crate::plan::LineageStep;

/// Megabytes that the stages which run at a time take together.
const MEGABYTES: u32 = 1000;

/// How many stages run at a time.
pub(crate) const AT_A_TIME: usize = 2;

/// Stages of all seeds that are to run, and those that run.
pub(crate) struct StageSchedule<'a> {
    waiting: Vec<ScheduledStep<'a>>,
    running: Vec<ScheduledStep<'a>>,
    /// How many stages run at a time here.
    at_a_time: usize,
}

/// A stage of one seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScheduledStep<'a> {
    /// Number of the seed among the seeds.
    pub(crate) seed: usize,
    /// The stage.
    pub(crate) step: &'a LineageStep,
    /// Seconds that it, and the longest chain of stages that need it, are expected to take.
    chain_s: f64,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum NextStep<'a> {
    /// To start this stage, with all cores or with its part of them.
    Start(ScheduledStep<'a>, CoreShare),
    /// To wait until a stage has ended.
    Wait,
    /// Nothing: all stages have ended.
    End,
}

/// The cores that a stage gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CoreShare {
    All,
    Half,
}

impl<'a> StageSchedule<'a> {
    /// The stages `steps` of each seed, those that are done left out. On a single core, one stage runs at a time.
    pub(crate) fn new(seeds: impl IntoIterator<Item = Vec<&'a LineageStep>>, cores: usize) -> Self {
        let mut waiting = Vec::new();
        for (seed, steps) in seeds.into_iter().enumerate() {
            let begin = waiting.len();
            for &step in steps.iter().rev() {
                let needing = waiting[begin..].iter().filter(|later: &&ScheduledStep| later.reads(&step.stage.name));
                let after = needing.map(|later| later.chain_s).fold(0.0, f64::max);
                waiting.push(ScheduledStep { seed, step, chain_s: step.stage.seconds + after });
            }
            waiting[begin..].reverse();
        }
        Self { waiting, running: Vec::new(), at_a_time: AT_A_TIME.min(cores) }
    }

    /// The next stage is, of those of the first seed that have one, the one with the longest chain of stages after it.
    pub(crate) fn next(&mut self) -> NextStep<'a> {
        if self.waiting.is_empty() && self.running.is_empty() {
            return NextStep::End;
        }
        let alone = self.running.iter().any(|one| one.step.stage.alone);
        if alone || self.running.len() >= self.at_a_time {
            return NextStep::Wait;
        }
        let used: u32 = self.running.iter().map(|one| one.step.stage.megabytes).sum();
        let fits = |one: &ScheduledStep| self.running.is_empty() || used + one.step.stage.megabytes <= MEGABYTES;
        let ready: Vec<usize> = (0..self.waiting.len()).filter(|&i| self.is_ready(&self.waiting[i])).collect();
        let order = |&i: &usize| (std::cmp::Reverse(self.waiting[i].seed), self.waiting[i].chain_s);
        // Of equals, the last is taken: the first in the order of the stages.
        let fitting = ready.iter().rev().filter(|&&i| fits(&self.waiting[i]));
        let best = fitting.max_by(|a, b| order(a).partial_cmp(&order(b)).unwrap_or(std::cmp::Ordering::Equal));
        let Some(&best) = best else { return NextStep::Wait };
        let is_only = self.running.is_empty() && ready.len() == 1;
        if self.waiting[best].step.stage.alone && !self.running.is_empty() {
            return NextStep::Wait;
        }
        let one = self.waiting.remove(best);
        self.running.push(one);
        let whole = self.at_a_time == 1 || is_only || one.step.stage.alone;
        NextStep::Start(one, if whole { CoreShare::All } else { CoreShare::Half })
    }

    /// Takes note that a stage has ended.
    pub(crate) fn end(&mut self, ended: &ScheduledStep) {
        self.running.retain(|one| !std::ptr::eq(one.step, ended.step));
    }

    /// Whether nothing that it reads is still to come.
    fn is_ready(&self, one: &ScheduledStep) -> bool {
        let mut others = self.waiting.iter().chain(&self.running).filter(|other| other.seed == one.seed);
        !others.any(|other| one.reads(&other.step.stage.name))
    }
}

impl ScheduledStep<'_> {
    fn reads(&self, name: &str) -> bool {
        self.step.reads.iter().any(|read| read == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Chapter, LineageStage};

    fn step(name: &str, reads: &[&str], seconds: f64) -> LineageStep {
        let stage = LineageStage {
            name: name.to_owned(),
            chapter: Chapter::Gpt1,
            run: String::new(),
            out: None,
            stdout: None,
            asks: false,
            judged: false,
            alone: name == "speed",
            seconds,
            megabytes: if name.starts_with("ppo") { 800 } else { 150 },
        };
        let reads = reads.iter().map(|&read| read.to_owned()).collect();
        let (leaves, fingerprint) = (name.into(), String::new());
        LineageStep { stage, words: Vec::new(), reads, leaves, stdin: None, fingerprint }
    }

    /// The names of the stages in the order in which they start, with `+` where a stage gets all cores, when the stage that
    /// started first ends first.
    fn order(seeds: &[Vec<LineageStep>], cores: usize) -> String {
        let mut schedule = StageSchedule::new(seeds.iter().map(|steps| steps.iter().collect()), cores);
        let (mut running, mut told): (Vec<ScheduledStep>, _) = (Vec::new(), String::new());
        loop {
            match schedule.next() {
                NextStep::Start(one, share) => {
                    told += &format!("{}{} ", one.step.stage.name, if share == CoreShare::All { "+" } else { "" });
                    running.push(one);
                    assert!(running.len() <= AT_A_TIME);
                }
                NextStep::Wait => schedule.end(&running.remove(0)),
                NextStep::End => return told.trim_end().to_owned(),
            }
        }
    }

    fn steps() -> Vec<LineageStep> {
        vec![
            step("tokenizer", &[], 1.0),
            step("lstm", &["tokenizer"], 3.0),
            step("gpt2", &["tokenizer"], 5.0),
            step("gpt3", &["tokenizer"], 9.0),
            step("sft", &["gpt2"], 8.0),
            step("chat", &["lstm", "sft"], 1.0),
        ]
    }

    #[test]
    fn the_longest_chain_goes_first_and_a_stage_by_itself_has_all_cores() {
        assert_eq!(order(&[steps()], 2), "tokenizer+ gpt2 gpt3 sft lstm chat+");
        assert_eq!(order(&[steps()], 1), "tokenizer+ gpt2+ gpt3+ sft+ lstm+ chat+");
        assert_eq!(order(&[], 2), "");
    }

    #[test]
    fn a_stage_that_measures_speed_has_nothing_beside_it() {
        let mut steps = steps();
        steps.push(step("speed", &["lstm", "gpt2"], 100.0));
        assert_eq!(order(&[steps], 2), "tokenizer+ gpt2 lstm gpt3 speed+ sft+ chat+");
    }

    #[test]
    fn two_large_stages_do_not_run_at_a_time() {
        let steps = vec![
            step("ppo", &[], 9.0),
            step("ppo-2", &["ppo"], 9.0),
            step("ppo-pressed", &[], 8.0),
            step("bert", &[], 1.0),
            step("chat", &[], 1.0),
        ];
        assert_eq!(order(&[steps], 2), "ppo bert ppo-2 chat ppo-pressed");
    }

    #[test]
    fn the_next_seed_fills_what_the_first_leaves() {
        let seeds = [vec![step("a", &[], 1.0), step("b", &["a"], 1.0)], vec![step("c", &[], 9.0)]];
        assert_eq!(order(&seeds, 2), "a c b");
    }
}

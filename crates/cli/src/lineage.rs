//! `gptkit lineage`

use crate::data_args::shell;
use crate::presets;
use crate::table::aligned;
use crate::ui::{Stopped, Ui, Usage};
use crate::{Cli, Command};
use ::lineage::plan::{Step, folder_of_seed, steps};
use ::lineage::stages::{self, End, Sitting, State};
use ::lineage::{LineageConfig, Own};
use anyhow::{Context, Result, ensure};
use clap::{Args, Parser};
use data::disk;
use data::source::OnBadRecord;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use train::interrupt::Interrupt;

/// The whole story in one command: from raw text to a chatbot that learned from comparisons, and a report of it
///
/// Each stage is one of the other commands, and leaves what that command leaves; --dry-run shows them. What is done is left
/// alone, and what was interrupted goes on: the same command again is all it takes. The report is one HTML file.
#[derive(Debug, Args)]
pub(crate) struct Lineage {
    /// Preset or TOML file that names the stages
    #[arg(long, value_name = "NAME|FILE", default_value = "lineage")]
    config: String,
    /// Your own raw text: a file or a folder
    #[arg(long, value_name = "PATH")]
    text: Option<PathBuf>,
    /// Your own instructions with answers: a file of records
    #[arg(long, value_name = "FILE")]
    instructions: Option<PathBuf>,
    /// Your own comparisons: a file of records
    #[arg(long, value_name = "FILE")]
    comparisons: Option<PathBuf>,
    /// What to do with records and documents of yours that cannot be used
    #[arg(long, value_name = "fail|skip", default_value = "fail")]
    on_bad_record: OnBadRecord,
    /// Seed of everything that is drawn; with several, with commas, everything is done with each, and one report tells of all
    #[arg(long, value_name = "SEED,…", value_delimiter = ',', default_value = "1")]
    seed: Vec<u64>,
    /// Folder of the story
    #[arg(long, value_name = "DIR", default_value = "runs/lineage")]
    out: PathBuf,
    /// Do these stages alone; several with commas
    #[arg(long, value_name = "STAGE,…", value_delimiter = ',', conflicts_with = "from")]
    only: Vec<String>,
    /// Do this stage, and all that follow from it, anew
    #[arg(long, value_name = "STAGE")]
    from: Option<String>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// All stages of all seeds, and where they stand.
struct Story {
    seeds: Vec<u64>,
    /// Of each seed.
    steps: Vec<Vec<Step>>,
    began: Instant,
    /// Seconds that the stages were expected to take that are done in this sitting.
    expected: f64,
}

impl Lineage {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let (_, config) = presets::load::<LineageConfig>(&self.config, &[])?;
        let own = self.own()?;
        let mut seeds = self.seed.clone();
        seeds.dedup();
        let planned = seeds.iter().map(|&seed| steps(&config, &own, &self.out, seed)).collect::<Result<_>>()?;
        let story = Story { seeds, steps: planned, began: Instant::now(), expected: 0.0 };
        self.check(&story)?;
        for (name, path) in own.named() {
            ui.say(&format!("{name}: {}", path.display()));
        }
        if own.instructions.is_some() {
            ui.say("instructions of your own have no judge but the reward model: win rates are by it, and there is no second round");
        }
        if self.dry_run {
            return self.show(&story, ui);
        }
        disk::create_dir(&self.out)?;
        let lock = disk::lock(&self.out)?;
        let _lock = lock.with_context(|| format!("another process is at work in {}", self.out.display()))?;
        if let Some(first) = &self.from {
            for steps in &story.steps {
                let anew = stages::from(steps, first)?;
                steps.iter().filter(|step| anew.contains(&step.stage.name)).try_for_each(Step::set_aside)?;
            }
        }
        self.tell(story, &config, &own, ui)
    }

    fn own(&self) -> Result<Own> {
        for (name, path) in
            [("text", &self.text), ("instructions", &self.instructions), ("comparisons", &self.comparisons)]
        {
            if let Some(path) = path
                && !path.exists()
            {
                let hint = "name a file, or leave it out for the embedded world's";
                return Err(Usage(format!("--{name} {}: no such file\n  hint: {hint}", path.display())).into());
            }
        }
        Ok(Own {
            text: self.text.clone(),
            instructions: self.instructions.clone(),
            comparisons: self.comparisons.clone(),
            on_bad_record: self.on_bad_record,
        })
    }

    /// Refuses, before anything runs, commands that the command line would refuse, and names that are no stage's.
    fn check(&self, story: &Story) -> Result<()> {
        let steps = story.steps.first().context("no seed")?;
        let named = self.only.iter().chain(&self.from);
        named.map(|name| stages::known(steps, name).map_err(|e| Usage(e.to_string()))).collect::<Result<(), _>>()?;
        let mut wrong = Vec::new();
        for step in steps {
            let words = std::iter::once("gptkit").chain(step.words.iter().map(String::as_str));
            match Cli::try_parse_from(words) {
                Ok(Cli { command: Command::Lineage(_) }) => {
                    wrong.push(format!("  stage {}: a story has no story in it", step.stage.name));
                }
                Ok(_) => {}
                Err(e) => {
                    let what = e.to_string();
                    let line = what.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
                    wrong.push(format!("  stage {}: {line}\n           {}", step.stage.name, step.command()));
                }
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Usage(format!("{} has commands that cannot be obeyed\n{}", self.config, wrong.join("\n"))).into())
    }

    /// What would be done, as a table and as commands.
    fn show(&self, story: &Story, ui: &Ui) -> Result<()> {
        let mut rows = Vec::new();
        for (seed, steps) in story.seeds.iter().zip(&story.steps) {
            let anew = self.from.as_deref().map(|first| stages::from(steps, first)).transpose()?.unwrap_or_default();
            for step in steps.iter().filter(|step| self.chosen(step)) {
                let name = &step.stage.name;
                let state = if anew.contains(name) {
                    "anew"
                } else {
                    match step.state()? {
                        State::Done(_) => "done",
                        State::Begun => "begun",
                        State::New => "",
                    }
                };
                rows.push(vec![seed.to_string(), name.clone(), state.to_owned(), step.command()]);
            }
        }
        if story.seeds.len() == 1 {
            rows.iter_mut().for_each(|row| drop(row.remove(0)));
        }
        ui.result(&aligned(&rows, rows.first().map_or(0, Vec::len)))
    }

    fn chosen(&self, step: &Step) -> bool {
        self.only.is_empty() || self.only.contains(&step.stage.name)
    }

    /// Runs what is left, and writes the report.
    fn tell(&self, mut story: Story, config: &LineageConfig, own: &Own, ui: &Ui) -> Result<()> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let interrupt = Interrupt::watch(None)?;
        let sitting = Sitting { program: &program, interrupt: &interrupt, progress: ui };
        let all: Vec<(u64, Vec<Step>)> = story.seeds.iter().copied().zip(std::mem::take(&mut story.steps)).collect();
        let n = all.iter().flat_map(|(_, steps)| steps).filter(|step| self.chosen(step)).count();
        let states = |steps: &[Step]| steps.iter().map(Step::state).collect::<Result<Vec<_>>>();
        let mut left: f64 = 0.0;
        for (_, steps) in &all {
            let states = states(steps)?;
            let open =
                steps.iter().zip(states).filter(|(step, state)| self.chosen(step) && !matches!(state, State::Done(_)));
            left += open.map(|(step, _)| step.stage.seconds).sum::<f64>();
        }
        let (mut number, mut skipped) = (0, 0);
        for (seed, steps) in &all {
            own.divide(&folder_of_seed(&self.out, *seed), ui)?;
            for step in steps.iter().filter(|step| self.chosen(step)) {
                number += 1;
                let state = step.state()?;
                if matches!(state, State::Done(_)) {
                    skipped += 1;
                    continue;
                }
                for read in &step.reads {
                    let before = steps.iter().find(|other| other.stage.name == *read).context("no such stage")?;
                    ensure!(
                        matches!(before.state()?, State::Done(_)),
                        "stage {} reads what {read} leaves, which is not done\n  hint: leave out --only, or add {read} to it",
                        step.stage.name
                    );
                }
                let reads =
                    if step.reads.is_empty() { String::new() } else { format!(" ← {}", step.reads.join(", ")) };
                ui.say(&format!("[{number}/{n}] {}{reads} → {}", step.stage.name, step.leaves.display()));
                left -= step.stage.seconds;
                match step.run(&state, &sitting)? {
                    End::Done(record) => {
                        story.expected += step.stage.seconds;
                        let so_far = story.began.elapsed().as_secs_f64();
                        let rest = left * so_far / story.expected;
                        ui.say(&format!(
                            "        {:.1} s{} · {} so far · {} to go",
                            record.elapsed_s,
                            record.peak_bytes.map(|bytes| format!(" · {} MB", bytes / 1_000_000)).unwrap_or_default(),
                            minutes(so_far),
                            minutes(rest)
                        ));
                    }
                    End::Stopped(stop) => {
                        ui.say(&format!(
                            "stopped in stage {}; what is done is kept in {}",
                            step.stage.name,
                            self.out.display()
                        ));
                        ui.next(&self.again());
                        return Err(Stopped(stop).into());
                    }
                }
                if let Some(stop) = interrupt.reason(Duration::ZERO) {
                    ui.say(&format!(
                        "stopped after stage {}; what is done is kept in {}",
                        step.stage.name,
                        self.out.display()
                    ));
                    ui.next(&self.again());
                    return Err(Stopped(stop).into());
                }
            }
        }
        if skipped > 0 {
            ui.say(&format!("{skipped} of {n} stages were done before"));
        }
        let _ = config;
        Ok(())
    }

    /// The command that goes on.
    fn again(&self) -> String {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let from = words.iter().position(|word| word == "--from" || word.starts_with("--from="));
        let mut words = words;
        if let Some(at) = from {
            // What was put aside is not put aside again.
            words.drain(at..(at + if words[at] == "--from" { 2 } else { 1 }).min(words.len()));
        }
        let words: Vec<String> = words.iter().map(|word| shell(Path::new(word))).collect();
        format!("gptkit {}", words.join(" "))
    }
}

/// 247.3 → 4 min 07 s.
fn minutes(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    if whole < 60 { format!("{whole} s") } else { format!("{} min {:02} s", whole / 60, whole % 60) }
}

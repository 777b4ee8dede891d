//! `gptkit lineage`

use crate::data_args::shell;
use crate::presets;
use crate::ui::{Stopped, Ui, Usage};
use crate::{Cli, Command};
use anyhow::{Context, Result};
use clap::{Args, Parser};
use gptkit_data::disk;
use gptkit_data::source::OnBadRecord;
use gptkit_data::text_table::aligned;
use gptkit_lineage::plan::{PlannedStage, folder_of_seed, steps};
use gptkit_lineage::report::{self, WrittenReport};
use gptkit_lineage::stages::{self, StageContext, StageEnd, StageRecord, StageState};
use gptkit_lineage::{LineageConfig, OwnData};
use gptkit_train::interrupt::Interrupt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The whole story in one command: from raw text to a chatbot that learned from comparisons, and a report of it
///
/// Each stage is one of the other commands, and leaves what that command leaves; --dry-run shows them. What is done is left
/// alone, and what was interrupted goes on: the same command again is all it takes. The report is one HTML file.
#[derive(Debug, Args)]
pub(crate) struct LineageCommand {
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

/// All stages of a seed.
struct OfSeed {
    seed: u64,
    steps: Vec<PlannedStage>,
}

impl LineageCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let (_, config) = presets::load::<LineageConfig>(&self.config, &[])?;
        let own = self.own()?;
        let mut seeds: Vec<u64> = Vec::new();
        self.seed.iter().for_each(|seed| {
            if !seeds.contains(seed) {
                seeds.push(*seed)
            }
        });
        let of_seed = |&seed: &u64| Ok(OfSeed { seed, steps: steps(&config, &own, &self.out, seed)? });
        let story = seeds.iter().map(of_seed).collect::<Result<Vec<_>>>()?;
        self.check(&story)?;
        for (name, path) in own.named() {
            ui.say(&format!("{name}: {}", path.display()));
        }
        if own.instructions.is_some() {
            ui.say("nobody but the reward model judges answers to instructions of your own: there is no second round");
        }
        if self.dry_run {
            return self.show(&story, ui);
        }
        disk::create_dir(&self.out)?;
        let lock = disk::lock(&self.out)?;
        let _lock = lock.with_context(|| format!("another process is at work in {}", self.out.display()))?;
        if let Some(first) = &self.from {
            for OfSeed { steps, .. } in &story {
                let anew = stages::from(steps, first)?;
                steps.iter().filter(|step| anew.contains(&step.stage.name)).try_for_each(PlannedStage::set_aside)?;
            }
        }
        self.tell(&story, &own, ui)?;
        self.report(&config, &seeds, &own, ui)
    }

    /// Writes the report of what is there, and says what it found.
    fn report(&self, config: &LineageConfig, seeds: &[u64], own: &OwnData, ui: &Ui) -> Result<()> {
        let own: Vec<(&str, String)> = own.named().map(|(name, path)| (name, path.display().to_string())).collect();
        let WrittenReport { page, shapes } = report::write(config, &self.out, seeds, &own)?;
        let rows: Vec<Vec<String>> = shapes.iter().map(|shape| vec![shape.words(), shape.claim.clone()]).collect();
        ui.result(&aligned(&rows, 2))?;
        ui.say(&format!("the report: {}", page.display()));
        let chats = ["ppo-2", "ppo", "sft"].map(|name| folder_of_seed(&self.out, seeds[0]).join(name));
        if let Some(chats) = chats.iter().find(|folder| folder.is_dir()) {
            ui.next(&format!("gptkit chat --model {}", shell(chats)));
        }
        Ok(())
    }

    fn own(&self) -> Result<OwnData> {
        for (name, path) in
            [("text", &self.text), ("instructions", &self.instructions), ("comparisons", &self.comparisons)]
        {
            if let Some(path) = path
                && !path.exists()
            {
                let hint = "name a file, or leave it out for the embedded world's";
                return Err(Usage::new(format!("--{name} {}: no such file", path.display())).hint(hint).into());
            }
        }
        Ok(OwnData {
            text: self.text.clone(),
            instructions: self.instructions.clone(),
            comparisons: self.comparisons.clone(),
            on_bad_record: self.on_bad_record,
        })
    }

    /// Refuses, before anything runs, commands that the command line would refuse, and names that are no stage's.
    fn check(&self, story: &[OfSeed]) -> Result<()> {
        let OfSeed { steps, .. } = story.first().context("no seed")?;
        let mut named = self.only.iter().chain(&self.from);
        named.try_for_each(|name| stages::known(steps, name).map_err(|e| Usage::new(e.to_string())))?;
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
                    let lines: Vec<&str> = what.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
                    let what = lines.join(" ");
                    let what = what.trim_start_matches("error: ");
                    wrong.push(format!("  stage {}: {what}\n    {}", step.stage.name, step.command()));
                }
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Usage::new(format!("{} has commands that cannot be obeyed\n{}", self.config, wrong.join("\n"))).into())
    }

    /// What would be done, as a table and as commands.
    fn show(&self, story: &[OfSeed], ui: &Ui) -> Result<()> {
        let mut rows = Vec::new();
        for OfSeed { seed, steps } in story {
            let anew = self.from.as_deref().map(|first| stages::from(steps, first)).transpose()?.unwrap_or_default();
            for step in self.chosen(steps) {
                let state = match step.state() {
                    _ if anew.contains(&step.stage.name) => "anew",
                    Ok(StageState::Done(_)) => "done",
                    Ok(StageState::Begun) => "begun",
                    Ok(StageState::New) => "to do",
                    Err(_) => "changed",
                };
                rows.push(vec![seed.to_string(), step.stage.name.clone(), state.to_owned(), step.command()]);
            }
        }
        if story.len() == 1 {
            rows.iter_mut().for_each(|row| drop(row.remove(0)));
        }
        ui.result(&aligned(&rows, rows.first().map_or(0, Vec::len)))
    }

    /// The stages of `steps` that are asked for.
    fn chosen<'a>(&'a self, steps: &'a [PlannedStage]) -> impl Iterator<Item = &'a PlannedStage> {
        steps.iter().filter(|step| self.only.is_empty() || self.only.contains(&step.stage.name))
    }

    /// Runs what is left.
    fn tell(&self, story: &[OfSeed], own: &OwnData, ui: &Ui) -> Result<()> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let interrupt = Interrupt::watch(None)?;
        let sitting = StageContext { program: &program, interrupt: &interrupt, progress: ui };
        let mut clock = Clock::new(story.iter().flat_map(|of_seed| self.chosen(&of_seed.steps)))?;
        for OfSeed { seed, steps } in story {
            own.divide(&folder_of_seed(&self.out, *seed), ui)?;
            for step in self.chosen(steps) {
                let state = step.state()?;
                clock.number += 1;
                if matches!(state, StageState::Done(_)) {
                    continue;
                }
                step.can_run(steps)?;
                let reads =
                    if step.reads.is_empty() { String::new() } else { format!(" ← {}", step.reads.join(", ")) };
                let (number, all) = (clock.number, clock.all);
                ui.say(&format!("[{number}/{all}] {}{reads} → {}", step.stage.name, step.leaves.display()));
                if let StageEnd::Done(record) = step.run(&state, &sitting)? {
                    ui.say(&format!("        {}", clock.after(step, &record)));
                }
                if let Some(stop) = interrupt.reason(Duration::ZERO) {
                    let (name, out) = (&step.stage.name, self.out.display());
                    ui.say(&format!("stopped at stage {name}; what is done is kept in {out}"));
                    ui.next(&self.again());
                    return Err(Stopped(stop).into());
                }
            }
        }
        if clock.before > 0 {
            ui.say(&format!("{} of {} stages were done before", clock.before, clock.all));
        }
        Ok(())
    }

    /// The command that goes on: this one, but that what was put aside is not put aside again.
    fn again(&self) -> String {
        let mut words: Vec<String> = std::env::args().skip(1).collect();
        if let Some(at) = words.iter().position(|word| word == "--from" || word.starts_with("--from=")) {
            words.drain(at..at + if words[at] == "--from" { 2 } else { 1 });
        }
        let words: Vec<String> = words.iter().map(|word| shell(Path::new(word))).collect();
        format!("gptkit {}", words.join(" "))
    }
}

/// What time the story takes.
struct Clock {
    began: Instant,
    /// Of the stage that runs.
    number: usize,
    all: usize,
    /// Stages that were done before this sitting.
    before: usize,
    /// Seconds that the stages which are not done are expected to take.
    left: f64,
    /// The same of those that were done in this sitting.
    expected: f64,
}

impl Clock {
    fn new<'a>(steps: impl Iterator<Item = &'a PlannedStage>) -> Result<Self> {
        let mut clock = Self { began: Instant::now(), number: 0, all: 0, before: 0, left: 0.0, expected: 0.0 };
        for step in steps {
            clock.all += 1;
            match step.state()? {
                StageState::Done(_) => clock.before += 1,
                StageState::Begun | StageState::New => clock.left += step.stage.seconds,
            }
        }
        Ok(clock)
    }

    /// What there is to say when `step` has ended.
    fn after(&mut self, step: &PlannedStage, record: &StageRecord) -> String {
        self.left -= step.stage.seconds;
        self.expected += step.stage.seconds;
        let so_far = self.began.elapsed().as_secs_f64();
        let memory = record.peak_bytes.map(|bytes| format!(" · {} MB", bytes / 1_000_000)).unwrap_or_default();
        let to_go = self.left.max(0.0) * so_far / self.expected;
        format!("{:.1} s{memory} · {} so far · about {} to go", record.elapsed_s, minutes(so_far), minutes(to_go))
    }
}

/// 247.3 → 4 min 07 s.
fn minutes(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    if whole < 60 { format!("{whole} s") } else { format!("{} min {:02} s", whole / 60, whole % 60) }
}

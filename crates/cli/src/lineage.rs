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
use gptkit_lineage::plan::folder_of_seed;
use gptkit_lineage::report::{self, WrittenReport};
use gptkit_lineage::stages::{self, StageContext, StageState};
use gptkit_lineage::story::{LineageStory, SeedPlan, StoppedAt};
use gptkit_lineage::{LineageConfig, OwnData};
use gptkit_train::interrupt::Interrupt;
use std::path::{Path, PathBuf};

/// Run every stage, from raw text to a chatbot, and write a report
///
/// Each stage is one of the other commands, with the same output; --dry-run lists them. To continue after an interruption,
/// repeat the command: finished stages are kept. The report is one HTML file.
#[derive(Debug, Args)]
pub(crate) struct LineageCommand {
    /// Preset or TOML file that defines the stages
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
    /// What to do with invalid records and documents in your data
    #[arg(long, value_name = "fail|skip", default_value = "fail")]
    on_bad_record: OnBadRecord,
    /// Random seed; several with commas: all stages run with each, and one report covers all
    #[arg(long, value_name = "SEED,…", value_delimiter = ',', default_value = "1", value_parser = seed)]
    seed: Vec<u64>,
    /// Folder to write all runs and the report to
    #[arg(long, value_name = "DIR", default_value = "runs/lineage")]
    out: PathBuf,
    /// Run only these stages; several with commas
    #[arg(long, value_name = "STAGE,…", value_delimiter = ',', conflicts_with = "from")]
    only: Vec<String>,
    /// Run this stage, and all stages that depend on it, again
    #[arg(long, value_name = "STAGE")]
    from: Option<String>,
    /// List the stages and exit
    #[arg(long)]
    dry_run: bool,
}

fn seed(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("\"{text}\" is not a seed; separate several seeds with commas: 1,2,3"))
}

impl LineageCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let (_, config) = presets::load::<LineageConfig>(&self.config, &[], ui)?;
        let own = self.own()?;
        let story = LineageStory::new(&config, own, &self.out, &self.seed, &self.only)?;
        self.check(&story)?;
        for (name, path) in story.own.named() {
            ui.say(&format!("{name}: {}", path.display()));
        }
        if story.own.instructions.is_some() {
            ui.say("only the reward model can judge answers to your own instructions, so the second round is skipped");
        }
        if self.dry_run {
            return self.show(&story, ui);
        }
        disk::create_dir(&self.out)?;
        let lock = disk::lock(&self.out)?;
        let _lock = lock.with_context(|| format!("another process is using {}", self.out.display()))?;
        if let Some(first) = &self.from {
            story.set_aside_from(first)?;
        }
        self.run_stages(&story, ui)?;
        self.report(&config, &story, ui)
    }

    /// Writes the report of what is there, and says what it found.
    fn report(&self, config: &LineageConfig, story: &LineageStory, ui: &Ui) -> Result<()> {
        let seeds = story.seeds();
        let own: Vec<(&str, String)> =
            story.own.named().map(|(name, path)| (name, path.display().to_string())).collect();
        let WrittenReport { page, shapes, answered } = report::write(config, &self.out, &seeds, &own)?;
        let rows: Vec<Vec<String>> = shapes.iter().map(|shape| vec![shape.words(), shape.claim.clone()]).collect();
        ui.result(&aligned(&rows, 2))?;
        ui.say(&format!("report: {}", page.display()));
        let folder = folder_of_seed(&self.out, seeds[0]);
        if let Some(name) = ["ppo-2", "ppo", "sft"].into_iter().find(|name| folder.join(name).is_dir()) {
            ui.next(&format!("gptkit chat --model {}", shell(&folder.join(name))));
            if let Some(known) = answered.get(&format!("chat-{name}")).filter(|known| !known.is_empty()) {
                ui.say("try Hello!, or one of these held-out questions, which it answers correctly:");
                known.iter().for_each(|question| ui.say(&format!("  {question}")));
            }
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
                let hint = "name a file, or omit the option to use the built-in world";
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
    fn check(&self, story: &LineageStory) -> Result<()> {
        let SeedPlan { steps, .. } = story.seeds.first().context("no seed")?;
        let mut named = self.only.iter().chain(&self.from);
        named.try_for_each(|name| stages::known(steps, name).map_err(|e| Usage::new(e.to_string())))?;
        let mut wrong = Vec::new();
        for step in steps {
            let words = std::iter::once("gptkit").chain(step.words.iter().map(String::as_str));
            match Cli::try_parse_from(words) {
                Ok(Cli { command: Command::Lineage(_) }) => {
                    wrong.push(format!("  stage {}: a stage cannot run `gptkit lineage`", step.stage.name));
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
        Err(Usage::new(format!("{} contains invalid commands\n{}", self.config, wrong.join("\n"))).into())
    }

    /// What would be done, as a table and as commands.
    fn show(&self, story: &LineageStory, ui: &Ui) -> Result<()> {
        let mut rows = Vec::new();
        for plan in &story.seeds {
            let anew =
                self.from.as_deref().map(|first| stages::from(&plan.steps, first)).transpose()?.unwrap_or_default();
            for step in story.chosen(plan) {
                let state = match step.state() {
                    _ if anew.contains(&step.stage.name) => "rerun",
                    Ok(StageState::Done(_)) => "done",
                    Ok(StageState::Begun) => "started",
                    Ok(StageState::New) => "to do",
                    Err(_) => "changed",
                };
                rows.push(vec![plan.seed.to_string(), step.stage.name.clone(), state.to_owned(), step.command()]);
            }
        }
        if story.seeds.len() == 1 {
            rows.iter_mut().for_each(|row| drop(row.remove(0)));
        }
        ui.result(&aligned(&rows, rows.first().map_or(0, Vec::len)))
    }

    /// Runs what is left.
    fn run_stages(&self, story: &LineageStory, ui: &Ui) -> Result<()> {
        let program = std::env::current_exe().context("the path of the gptkit program cannot be determined")?;
        let interrupt = Interrupt::watch(None)?;
        let context = StageContext { program: &program, interrupt: &interrupt, progress: ui, threads: None };
        let stopped = story.run(&context, rayon::current_num_threads())?;
        let Some(StoppedAt { stop, stage }) = stopped else { return Ok(()) };
        ui.say(&format!("stopped at stage {stage}; finished stages are kept in {}", self.out.display()));
        ui.next(&self.again());
        Err(Stopped(stop).into())
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

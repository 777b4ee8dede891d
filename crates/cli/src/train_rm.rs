//! `gptkit train-rm`

use crate::comparison_args::ComparisonArgs;
use crate::data_args::shell;
use crate::presets;
use crate::run_args::{RunArgs, Stage, Todo, model_named, model_to_start_from, reopen, say_end};
use crate::ui::Ui;
use anyhow::Result;
use clap::Args;
use gptkit_reward::groups::FILES;
use gptkit_reward::train_rm::{Outcome, SCORES};
use std::path::PathBuf;

/// Teach a model what people prefer, from comparisons
#[derive(Debug, Args)]
pub(crate) struct TrainRmCommand {
    /// Model folder to start from: a run of `sft`
    #[arg(long, value_name = "DIR", required_unless_present = "resume", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Preset or TOML file, for instance rm-instructgpt
    #[arg(long, value_name = "NAME|FILE", default_value = "rm-small")]
    config: String,
    #[command(flatten)]
    comparisons: ComparisonArgs,
    #[command(flatten)]
    run: RunArgs,
}

const STAGE: Stage =
    Stage { command: "train-rm", records: Some(("data", FILES[0])), gone: &["normalization.references=[]"] };

impl TrainRmCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let device = self.run.device()?;
        let mut set = self.comparisons.settings();
        let todo = match self.run.resumes(&set)? {
            Some(folder) => reopen(&STAGE, folder, ui)?,
            None => {
                let init = model_to_start_from(self.init.as_deref())?;
                set.extend(self.run.settings());
                let (name, config) = presets::load(&self.config, &set)?;
                self.run.begin(&STAGE, &name, config, &[("init", init)], ui)?
            }
        };
        let sitting = self.run.sitting(&device, ui);
        let outcome = match todo {
            Todo::Begin { config, request, claim } => {
                gptkit_reward::train_rm(config, model_named(self.init.as_deref(), &request, "init")?, claim, &sitting)?
            }
            Todo::Resume { config, run } => gptkit_reward::train_rm::resume(&config, run, &sitting)?,
        };
        finish(&outcome, ui)
    }
}

/// Says what the run came to and what is next.
fn finish(outcome: &Outcome, ui: &Ui) -> Result<()> {
    let Outcome { folder, summary, report, synthetic } = outcome;
    say_end("train-rm", folder, summary, ui)?;
    if let Some(report) = report {
        ui.say(report.to_string().trim_end());
        ui.say(&format!("{} · {}", report.line(), folder.join(SCORES).display()));
        if *synthetic {
            ui.say("accuracy is measured on answers from the embedded world; it may be lower on a policy's own (collect those with `gptkit compare --k`)");
        }
    }
    ui.next(&format!("gptkit rank --model {} --data COMPLETIONS.jsonl", shell(folder)));
    Ok(())
}

//! `gptkit train-rm`

use crate::data_args::{quoted, shell};
use crate::presets;
use crate::run_args::{RunArgs, model_to_start_from, say_end};
use crate::ui::Ui;
use anyhow::Result;
use clap::Args;
use data::source::OnBadRecord;
use reward::RewardConfig;
use reward::train_rm::{Outcome, SCORES};
use std::path::PathBuf;
use train::Resumable;

/// Teach a model what people prefer, from comparisons
#[derive(Debug, Args)]
pub(crate) struct TrainRm {
    /// Model folder to start from: a run of `sft`
    #[arg(long, value_name = "DIR", required_unless_present = "resume")]
    init: Option<PathBuf>,
    #[command(flatten)]
    config: RewardConfigArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Settings, and short ways to write them
#[derive(Debug, Args)]
struct RewardConfigArgs {
    /// Preset or TOML file, for instance rm-instructgpt
    #[arg(long, value_name = "NAME|FILE", default_value = "rm-small")]
    config: String,
    /// Change one setting, for instance train.lr=1e-4 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Comparisons: JSONL, CSV or TSV (each may be .gz or .zst), Parquet, or `world` for the embedded ones; repeatable
    #[arg(long, value_name = "PATH")]
    data: Vec<String>,
    /// Comparisons to validate on [default: a share of the others' prompts]
    #[arg(long, value_name = "PATH")]
    val: Vec<String>,
    /// What to do with records that are no sound comparison
    #[arg(long, value_name = "fail|skip")]
    on_bad_record: Option<OnBadRecord>,
}

impl RewardConfigArgs {
    /// As `--set` would say it.
    fn settings(&self) -> Vec<String> {
        let list = |paths: &[String]| paths.iter().map(|path| quoted(path)).collect::<Vec<_>>().join(", ");
        let mut set = self.set.clone();
        for (key, paths) in [("sources", &self.data), ("validation", &self.val)] {
            if !paths.is_empty() {
                set.push(format!("data.{key}=[{}]", list(paths)));
            }
        }
        set.extend(self.on_bad_record.map(|choice| format!("data.on_bad_record={}", serde_json::json!(choice))));
        set
    }
}

impl TrainRm {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let device = self.run.device()?;
        let mut set = self.config.settings();
        let outcome = match self.run.resumes(&set)? {
            Some(folder) => {
                let run = Resumable::open(folder, ui)?;
                let path = folder.join("config.toml");
                // The comparisons are in the run's folder; that their sources may be gone is no problem.
                let set = ["data.sources=[\"world\"]", "data.validation=[]", "normalization.references=[]"];
                let (_, config) = presets::load::<RewardConfig>(&path.to_string_lossy(), &set.map(str::to_owned))?;
                reward::train_rm::resume(&config, run, &self.run.sitting(&device, ui))?
            }
            None => {
                let init = model_to_start_from(self.init.as_deref())?;
                set.extend(self.run.settings());
                let (name, config) = presets::load(&self.config.config, &set)?;
                reward::train_rm(config, init, &self.run.out(&name), &self.run.sitting(&device, ui))?
            }
        };
        finish(&outcome, ui)
    }
}

/// Says what the run came to and what is next.
fn finish(outcome: &Outcome, ui: &Ui) -> Result<()> {
    let Outcome { folder, summary, report } = outcome;
    say_end("train-rm", folder, summary, ui)?;
    if let Some(report) = report {
        ui.say(report.to_string().trim_end());
        ui.say(&format!("{} · {}", report.line(), folder.join(SCORES).display()));
    }
    ui.next(&format!("gptkit rank --model {} --data COMPLETIONS.jsonl", shell(folder)));
    Ok(())
}

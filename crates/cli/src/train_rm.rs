//! `gptkit train-rm`

use crate::data_args::shell;
use crate::run_args::{RunArgs, RunModels, model_to_start_from, say_end};
use crate::stage_args::StageArgs;
use crate::stage_names::StageNames;
use crate::ui::Ui;
use anyhow::Result;
use clap::Args;
use gptkit_reward::RewardModeling;
use gptkit_reward::groups::FILES;
use gptkit_reward::train_rm::{RewardModelingReport, SCORES};
use gptkit_rl::provenance::Provenance;
use gptkit_train::learning_rates::Purpose;
use gptkit_train::request::RunRequest;
use gptkit_train::stage::Outcome;
use std::path::{Path, PathBuf};

/// Train a reward model from comparisons
#[derive(Debug, Args)]
#[command(
    mut_arg("data", |arg| arg.help("Comparisons: JSONL, JSON, CSV or TSV (each may be .gz or .zst), Parquet, or `world` for the \
                                    built-in ones; repeatable")),
    mut_arg("val", |arg| arg.help("Comparisons for validation [default: those of a share of the prompts]")),
    mut_arg("on_bad_record", |arg| arg.help("What to do with invalid records")),
)]
pub(crate) struct TrainRmCommand {
    /// Start from this model: a run of `sft`, or of `ppo` for another round
    #[arg(long, value_name = "DIR", required_unless_present = "resume", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Preset or TOML file, for instance rm-instructgpt
    #[arg(long, value_name = "NAME|FILE", default_value = NAMES.preset)]
    config: String,
    #[command(flatten)]
    comparisons: StageArgs,
    #[command(flatten)]
    run: RunArgs,
}

const NAMES: StageNames = StageNames {
    preset: "rm-small",
    command: "train-rm",
    records: Some(("data", FILES[0])),
    gone: &["normalization.references=[]"],
    purpose: Purpose::Comparisons,
    mixed: None,
};

impl TrainRmCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let models = || Ok(vec![("init", model_to_start_from(self.init.as_deref())?)]);
        let stage = |config, models: &RunModels| Ok(RewardModeling::new(config, models.required("init")?));
        let outcome = self.run.train(&NAMES, (&self.config, self.comparisons.settings("data")?), models, stage, ui)?;
        finish(&outcome, self.init.as_deref(), ui)
    }
}

/// Prints the results of the run, which started from `init` or is resumed, and the next command.
fn finish(outcome: &Outcome<RewardModelingReport>, init: Option<&Path>, ui: &Ui) -> Result<()> {
    let Outcome { folder, summary, report } = outcome;
    say_end("train-rm", folder, summary, ui)?;
    if let Some(RewardModelingReport { scores: Some(report), synthetic }) = report {
        ui.say(report.to_string().trim_end());
        ui.say(&format!("{} · {}", report.line(), folder.join(SCORES).display()));
        if *synthetic {
            ui.say(
                "the accuracy is measured on answers of the built-in world; it can be lower on a policy's answers \
                    (`gptkit compare --k` collects comparisons of them)",
            );
        }
    }
    let recorded = || Some(RunRequest::read(folder)?.models.remove("init")?.folder);
    if let Some(policy) = init.map(Path::to_owned).or_else(recorded) {
        let reward = shell(folder);
        let round = match Provenance::load(&policy)?.rounds.len() {
            0 => String::new(),
            before => format!(" --round {}", before + 1),
        };
        ui.next(&format!("gptkit ppo --init {} --reward {reward}{round}", shell(&policy)));
    }
    Ok(())
}

//! `gptkit finetune`

use crate::data_args::{quoted, shell};
use crate::run_args::{RunArgs, RunModels, model_to_start_from, say_end};
use crate::stage_args::{StageArgs, list};
use crate::stage_names::StageNames;
use crate::ui::{Ui, Usage};
use anyhow::Result;
use clap::Args;
use gptkit_data::task::TaskKind;
use gptkit_sft::Finetuning;
use gptkit_sft::finetune::{FinetuneReport, SCORES};
use gptkit_sft::labeled::FILES;
use gptkit_train::learning_rates::Purpose;
use gptkit_train::stage::Outcome;
use std::path::PathBuf;

/// Fine-tune a model to classify texts, from labeled records
#[derive(Debug, Args)]
pub(crate) struct FinetuneCommand {
    /// Start from this model
    #[arg(long, value_name = "DIR", required_unless_present = "resume", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Task: classification, entailment, similarity, multiple-choice, regression
    #[arg(long, value_name = "NAME", required_unless_present = "resume", conflicts_with = "resume")]
    task: Option<TaskKind>,
    #[command(flatten)]
    config: FinetuneConfigArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Settings and the flags for common ones
#[derive(Debug, Args)]
#[command(
    mut_arg("data", |arg| arg.help("Records: JSONL, JSON, CSV or TSV (each may be .gz or .zst), Parquet, or `world` for the \
                                    built-in tasks; repeatable")),
    mut_arg("val", |arg| {
        arg.help("Records for validation, which select the best weights [default: a share of --data]")
    }),
)]
struct FinetuneConfigArgs {
    /// Preset or TOML file, for instance finetune-gpt1
    #[arg(long, value_name = "NAME|FILE", default_value = NAMES.preset)]
    config: String,
    #[command(flatten)]
    records: StageArgs,
    /// Test records: evaluate the best weights on these instead of the validation records; repeatable
    #[arg(long, value_name = "PATH")]
    test: Vec<String>,
    /// Column of the text, or of the first of two [default: a column with a known name]
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// Column of the second text
    #[arg(long, value_name = "NAME")]
    text_b_column: Option<String>,
    /// Column with lists of choices, or several columns separated by commas, each with one choice
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    choices_column: Vec<String>,
    /// Column of the label
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
}

impl FinetuneConfigArgs {
    /// The flags as settings in the form of `--set`.
    fn settings(&self) -> Result<Vec<String>, Usage> {
        let mut set = self.records.settings("data")?;
        set.extend(list("data.test", &self.test));
        set.extend(list("data.columns.choices", &self.choices_column));
        for (key, name) in [("text", &self.text_column), ("text_b", &self.text_b_column), ("label", &self.label_column)]
        {
            set.extend(name.as_ref().map(|name| format!("data.columns.{key}={}", quoted(name))));
        }
        Ok(set)
    }
}

const NAMES: StageNames = StageNames {
    preset: "finetune-small",
    command: "finetune",
    records: Some(("data", FILES[0])),
    gone: &["data.test=[]"],
    purpose: Purpose::Classification,
    mixed: None,
};

impl FinetuneCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let mut set = self.config.settings()?;
        set.extend(self.task.map(|task| format!("data.task={}", serde_json::json!(task))));
        let models = || Ok(vec![("init", model_to_start_from(self.init.as_deref())?)]);
        let stage = |config, models: &RunModels| Ok(Finetuning::new(config, models.required("init")?));
        finish(&self.run.train(&NAMES, (&self.config.config, set), models, stage, ui)?, ui)
    }
}

/// Prints the results of the run and the next command.
fn finish(outcome: &Outcome<FinetuneReport>, ui: &Ui) -> Result<()> {
    let Outcome { folder, summary, report } = outcome;
    say_end("finetune", folder, summary, ui)?;
    if let Some(FinetuneReport { scores: Some(report), tested }) = report {
        if let Some(confusion) = &report.confusion
            && confusion.labels().len() <= 20
        {
            ui.say(confusion.to_string().trim_end());
        }
        let part = if *tested { "test records" } else { "records" };
        ui.say(&format!("{} · {} {part} · {}", report.line(), report.n, folder.join(SCORES).display()));
    }
    ui.next(&format!("gptkit predict --model {}", shell(folder)));
    Ok(())
}

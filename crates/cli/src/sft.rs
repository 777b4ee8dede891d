//! `gptkit sft`

use crate::data_args::shell;
use crate::run_args::{RunArgs, RunModels, model_to_start_from, say_end};
use crate::stage_args::StageArgs;
use crate::stage_names::StageNames;
use crate::ui::{Ui, Usage};
use anyhow::Result;
use clap::Args;
use gptkit_data::dialogue::Message;
use gptkit_sft::Sft;
use gptkit_sft::answers::Asked;
use gptkit_sft::dialogues::FILES;
use gptkit_sft::sft::SftReport;
use gptkit_train::learning_rates::Purpose;
use gptkit_train::stage::Outcome;
use std::path::PathBuf;

/// Fine-tune a model to follow instructions, from demonstrations (SFT)
#[derive(Debug, Args)]
pub(crate) struct SftCommand {
    /// Start from this model
    #[arg(long, value_name = "DIR", required_unless_present = "resume", conflicts_with = "resume")]
    init: Option<PathBuf>,
    #[command(flatten)]
    config: SftConfigArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Settings and the flags for common ones
#[derive(Debug, Args)]
#[command(
    mut_arg("data", |arg| arg.help("Dialogues: JSONL, JSON, CSV or TSV (each may be .gz or .zst), Parquet, or `world` for the \
                                    built-in instructions; repeatable")),
    mut_arg("val", |arg| arg.help("Dialogues for validation [default: a share of --data]")),
    mut_arg("on_bad_record", |arg| arg.help("What to do with invalid records")),
)]
pub(crate) struct SftConfigArgs {
    /// Preset or TOML file, for instance sft-instructgpt
    #[arg(long, value_name = "NAME|FILE", default_value = NAMES.preset)]
    pub(crate) config: String,
    #[command(flatten)]
    records: StageArgs,
    /// Compute the loss on all messages, not only on the assistant's
    #[arg(long)]
    train_on_prompt: bool,
    /// Train LoRA adapters of this rank instead of all weights; the optimizer is then AdamW
    #[arg(long, value_name = "R")]
    lora_rank: Option<usize>,
}

impl SftConfigArgs {
    /// The flags as settings in the form of `--set`.
    pub(crate) fn settings(&self) -> Result<Vec<String>, Usage> {
        let mut set = self.records.settings("data")?;
        if self.train_on_prompt {
            set.push("data.train_on_prompt=true".to_owned());
        }
        if let Some(rank) = self.lora_rank {
            set.extend([format!("lora.rank={rank}"), "train.optimizer=adamw".to_owned()]);
        }
        Ok(set)
    }
}

const NAMES: StageNames = StageNames {
    preset: "sft-small",
    command: "sft",
    records: Some(("data", FILES[0])),
    gone: &[],
    purpose: Purpose::Demonstrations,
    mixed: Some("pretraining"),
};

impl SftCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let settings = (self.config.config.as_str(), self.config.settings()?);
        let models = || Ok(vec![("init", model_to_start_from(self.init.as_deref())?)]);
        let stage = |config, models: &RunModels| Ok(Sft::new(config, models.required("init")?));
        finish(&self.run.train(&NAMES, settings, models, stage, ui)?, ui)
    }
}

/// Prints the results of the run and the next command.
fn finish(outcome: &Outcome<SftReport>, ui: &Ui) -> Result<()> {
    let Outcome { folder, summary, report } = outcome;
    say_end("sft", folder, summary, ui)?;
    let Some(SftReport { loss_before, answers, world }) = report else { return Ok(()) };
    if let (Some(before), Some((after, _))) = (loss_before, summary.state.best) {
        ui.say(&format!("validation loss {before:.4} before, {after:.4} after"));
    }
    for Asked { messages, before, after, .. } in answers.iter().take(2) {
        let asked = messages.last().map(|Message { content, .. }| content.as_str()).unwrap_or_default();
        let short = |text: &str| console::truncate_str(&text.replace('\n', " "), 90, "…").into_owned();
        ui.say(&format!("  prompt  {}", short(asked)));
        ui.say(&format!("  before  {}", short(before)));
        ui.say(&format!("  after   {}", short(after.as_deref().unwrap_or_default())));
    }
    ui.say(&format!("all answers: {}", folder.join("answers.md").display()));
    if let Some(graded) = world {
        let parts: Vec<String> = graded
            .iter()
            .map(|(kind, (right, all))| {
                format!("{} {right}/{all}", serde_json::json!(kind).as_str().unwrap_or_default())
            })
            .collect();
        let (right, all) = graded.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let share = 100.0 * f64::from(right) / f64::from(all.max(1));
        ui.say(&format!("held-out instructions followed: {share:.1}% of {all}: {}", parts.join(", ")));
    }
    ui.next(&format!("gptkit chat --model {}", shell(folder)));
    Ok(())
}

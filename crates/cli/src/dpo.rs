//! `gptkit dpo`

use crate::data_args::shell;
use crate::run_args::{RunArgs, RunModels, model_to_start_from, say_end};
use crate::stage_args::StageArgs;
use crate::stage_names::StageNames;
use crate::ui::Ui;
use anyhow::Result;
use clap::Args;
use gptkit_rl::dpo::{DpoReport, FILES, Learned, SCORES};
use gptkit_rl::{Dpo, DpoConfig};
use gptkit_train::learning_rates::Purpose;
use gptkit_train::stage::Outcome;
use std::path::PathBuf;

/// Fine-tune a model on comparisons without a reward model (DPO)
///
/// A baseline for `ppo`: it raises the probability of better answers, and lowers that of worse ones, relative to the initial
/// model.
#[derive(Debug, Args)]
#[command(
    mut_arg("data", |arg| arg.help("Comparisons: JSONL, JSON, CSV or TSV (each may be .gz or .zst), Parquet, or `world` for the \
                                    built-in ones; repeatable")),
    mut_arg("val", |arg| arg.help("Comparisons for validation [default: those of a share of the prompts]")),
    mut_arg("on_bad_record", |arg| arg.help("What to do with invalid records")),
)]
pub(crate) struct DpoCommand {
    /// Start from this model, which is also the reference model: a run of `sft`
    #[arg(long, value_name = "DIR", required_unless_present = "resume", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Preset or TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = NAMES.preset)]
    config: String,
    #[command(flatten)]
    comparisons: StageArgs,
    /// Train LoRA adapters of this rank instead of all weights
    #[arg(long, value_name = "R")]
    lora_rank: Option<usize>,
    #[command(flatten)]
    run: RunArgs,
}

const NAMES: StageNames = StageNames {
    preset: "dpo-small",
    command: "dpo",
    records: Some(("data", FILES[0])),
    gone: &[],
    purpose: Purpose::Preferences,
    mixed: None,
};

impl DpoCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let mut set = self.comparisons.settings("data")?;
        set.extend(self.lora_rank.map(|rank| format!("lora.rank={rank}")));
        let models = || Ok(vec![("init", model_to_start_from(self.init.as_deref())?)]);
        let mut of_world = false;
        let stage = |config: DpoConfig, models: &RunModels| {
            of_world = config.is_of_world();
            Ok(Dpo::new(config, models.required("init")?))
        };
        let outcome = self.run.train(&NAMES, (&self.config, set), models, stage, ui)?;
        finish(&outcome, of_world, ui)
    }
}

/// Prints the results of the run and the next command.
fn finish(outcome: &Outcome<DpoReport>, of_world: bool, ui: &Ui) -> Result<()> {
    let Outcome { folder, summary, report } = outcome;
    say_end("dpo", folder, summary, ui)?;
    let Some(DpoReport { reference, learned }) = report else { return Ok(()) };
    if let Some(Learned { report, margin, chosen_log_ratio, rejected_log_ratio }) = learned {
        ui.say(&format!("{} · {}", report.line(), folder.join(SCORES).display()));
        ui.say(&format!(
            "log-ratio to the reference model: chosen answers {chosen_log_ratio:+.2} nats, rejected answers \
             {rejected_log_ratio:+.2} · margin {margin:.3}"
        ));
    }
    let (a, b) = (shell(folder), shell(reference));
    ui.next(&match of_world {
        true => format!("gptkit compare --a {a} --b {b} --prompts world:300 --judge gold"),
        false => format!("gptkit chat --model {a}"),
    });
    Ok(())
}

//! `gptkit dpo`

use crate::comparison_args::ComparisonArgs;
use crate::data_args::shell;
use crate::presets;
use crate::run_args::{RunArgs, Stage, Todo, model_named, model_to_start_from, reopen, say_end};
use crate::ui::Ui;
use anyhow::Result;
use clap::Args;
use gptkit_rl::DpoConfig;
use gptkit_rl::dpo::{FILES, Learned, Outcome, SCORES};
use std::path::PathBuf;

/// Train a policy for what people prefer from their comparisons alone, without a reward model (DPO)
///
/// The baseline beside `ppo`: it learns to find better answers likelier and worse ones less likely than the model that it
/// starts from does.
#[derive(Debug, Args)]
pub(crate) struct DpoCommand {
    /// Model folder to start from, which is the reference too: a run of `sft`
    #[arg(long, value_name = "DIR", required_unless_present = "resume", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Preset or TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "dpo-small")]
    config: String,
    #[command(flatten)]
    comparisons: ComparisonArgs,
    /// Train low-rank adapters of this rank, and nothing else
    #[arg(long, value_name = "R")]
    lora_rank: Option<usize>,
    #[command(flatten)]
    run: RunArgs,
}

const STAGE: Stage = Stage { command: "dpo", records: Some(("data", FILES[0])), gone: &[] };

impl DpoCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let device = self.run.device()?;
        let mut set = self.comparisons.settings();
        set.extend(self.lora_rank.map(|rank| format!("lora.rank={rank}")));
        let todo = match self.run.resumes(&set)? {
            Some(folder) => reopen::<DpoConfig>(&STAGE, folder, ui)?,
            None => {
                let init = model_to_start_from(self.init.as_deref())?;
                set.extend(self.run.settings());
                let (name, config) = presets::load::<DpoConfig>(&self.config, &set)?;
                self.run.begin(&STAGE, &name, config, &[("init", init)], ui)?
            }
        };
        let sitting = self.run.sitting(&device, ui);
        let (outcome, of_world) = match todo {
            Todo::Begin { config, request, claim } => {
                let of_world = config.is_of_world();
                let init = model_named(self.init.as_deref(), &request, "init")?;
                (gptkit_rl::dpo(config, init, claim, &sitting)?, of_world)
            }
            Todo::Resume { config, run } => (gptkit_rl::dpo::resume(&config, run, &sitting)?, config.is_of_world()),
        };
        finish(&outcome, of_world, ui)
    }
}

/// Says what the run came to and what is next.
fn finish(outcome: &Outcome, of_world: bool, ui: &Ui) -> Result<()> {
    let Outcome { folder, summary, reference, learned } = outcome;
    say_end("dpo", folder, summary, ui)?;
    if let Some(Learned { report, margin, chosen_log_ratio, rejected_log_ratio }) = learned {
        ui.say(&format!("{} · {}", report.line(), folder.join(SCORES).display()));
        ui.say(&format!(
            "against the reference: better answers {chosen_log_ratio:+.2} nats, worse ones {rejected_log_ratio:+.2} · margin \
             {margin:.3}"
        ));
    }
    let (a, b) = (shell(folder), shell(reference));
    ui.next(&match of_world {
        true => format!("gptkit compare --a {a} --b {b} --prompts world:300 --judge gold"),
        false => format!("gptkit chat --model {a}"),
    });
    Ok(())
}

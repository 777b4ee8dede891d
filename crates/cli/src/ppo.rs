//! `gptkit ppo`

use crate::data_args::{quoted, shell};
use crate::run_args::{RunArgs, RunModels, model_to_start_from, say_end};
use crate::stage_args::StageArgs;
use crate::stage_names::StageNames;
use crate::ui::{Ui, Usage, unusable};
use anyhow::{Context, Result};
use clap::Args;
use gptkit_data::progress::Progress;
use gptkit_data::source::SourceLocation;
use gptkit_model::HeadDescription;
use gptkit_rl::PpoTraining;
use gptkit_rl::prompts::FILES;
use gptkit_rl::provenance::Provenance;
use gptkit_rl::stage::PpoReport;
use gptkit_train::learning_rates::Purpose;
use gptkit_train::model_used::ModelUsed;
use gptkit_train::stage::Outcome;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Fine-tune a model with PPO against a reward model
///
/// In each iteration the policy completes prompts, the reward model scores the completions, and the policy is updated
/// toward those with more reward than expected. A KL penalty keeps it near the initial model.
#[derive(Debug, Args)]
pub(crate) struct PpoCommand {
    /// Start from this model, which is also the reference model: a run of `sft`, or of `ppo` for another round
    #[arg(long, value_name = "DIR", required_unless_present = "resume", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Reward model: a run of `train-rm` with the same tokenizer and chat template
    #[arg(long, value_name = "DIR", required_unless_present = "resume", conflicts_with = "resume")]
    reward: Option<PathBuf>,
    /// Number of this round, to check --init: round 1 starts from `sft`, round 2 from a policy after one round
    #[arg(long, value_name = "N", conflicts_with = "resume", value_parser = clap::value_parser!(u32).range(1..))]
    round: Option<u32>,
    #[command(flatten)]
    config: PpoConfigArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Settings and the flags for common ones
#[derive(Debug, Args)]
#[command(
    mut_arg("set", |arg| arg.help("Change one setting, for instance reward.kl_coef=0.05 (repeatable)")),
    mut_arg("data", |arg| {
        arg.long("prompts").help("Prompts: a .txt file with one prompt per line, records (JSONL, JSON, CSV, TSV, \
                                  Parquet), or `world` for the built-in ones; repeatable")
    }),
    mut_arg("val", |arg| arg.help("Prompts for validation [default: a share of --prompts]")),
    mut_arg("on_bad_record", |arg| arg.help("What to do with records without a prompt")),
)]
struct PpoConfigArgs {
    /// Preset or TOML file, for instance ppo-instructgpt
    #[arg(long, value_name = "NAME|FILE", default_value = NAMES.preset)]
    config: String,
    #[command(flatten)]
    records: StageArgs,
    /// Pretraining text to mix in (PPO-ptx): files, folders, or `world`; repeatable
    #[arg(long, value_name = "PATH")]
    text: Vec<String>,
}

impl PpoConfigArgs {
    /// The flags as settings in the form of `--set`.
    fn settings(&self) -> Result<Vec<String>, Usage> {
        let mut set = self.records.settings("prompts")?;
        if !self.text.is_empty() {
            let sources: Vec<String> = self.text.iter().map(|path| format!("{{ path = {} }}", quoted(path))).collect();
            set.push(format!("ptx.sources=[{}]", sources.join(", ")));
        }
        Ok(set)
    }
}

const NAMES: StageNames = StageNames {
    preset: "ppo-small",
    command: "ppo",
    records: Some(("prompts", FILES[0])),
    gone: &[],
    purpose: Purpose::Rewards,
    mixed: Some("ptx"),
};

impl PpoCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let settings = (self.config.config.as_str(), self.config.settings()?);
        let models = || {
            let init = model_to_start_from(self.init.as_deref())?;
            let reward = self.reward.as_deref().context("--reward is missing")?;
            if !reward.is_dir() {
                let hint = format!("make one with `gptkit train-rm --init {}`", shell(init));
                return Err(Usage::new(format!("--reward {}: no such folder", reward.display())).hint(hint).into());
            }
            if HeadDescription::load_reward(reward).map_err(unusable)?.is_none() {
                let hint = format!("make one with `gptkit train-rm --init {}`", shell(init));
                return Err(Usage::new(format!("--reward {} is not a reward model", reward.display()))
                    .hint(hint)
                    .into());
            }
            self.check_round(init, reward, ui)?;
            Ok(vec![("init", init), ("reward", reward)])
        };
        let stage = |config, models: &RunModels| {
            Ok(PpoTraining::new(config, models.required("init")?, models.required("reward")?))
        };
        finish(&self.run.train(&NAMES, settings, models, stage, ui)?, ui)
    }

    /// Checks `--round` against the rounds of the model in `init`. Warns if the reward model was only trained on
    /// answers of an earlier policy.
    fn check_round(&self, init: &Path, reward: &Path, ui: &Ui) -> Result<()> {
        let rounds = Provenance::load(init)?.rounds;
        let before = rounds.len() as u32;
        let weights = ModelUsed::of(reward)?.weights;
        if rounds.iter().any(|round| round.reward.weights == weights) {
            ui.warn(&format!(
                "{} is the reward model of an earlier round and was not trained on answers of this policy; {}",
                reward.display(),
                new_comparisons(init, reward)
            ));
        }
        match self.round {
            Some(round) if round != before + 1 => {
                let been = if before == 1 { "1 round".to_owned() } else { format!("{before} rounds") };
                let what = format!("--round {round}: {} has already been trained for {been} of ppo", init.display());
                let hint = match round {
                    1 => "round 1 must start from a run of `gptkit sft`".to_owned(),
                    _ => format!(
                        "this would be round {}; for round {round}, pass the run of round {}",
                        before + 1,
                        round - 1
                    ),
                };
                Err(Usage::new(what).hint(hint).into())
            }
            _ => Ok(()),
        }
    }
}

/// The commands that train a reward model on answers of `policy`.
fn new_comparisons(policy: &Path, reward: &Path) -> String {
    format!(
        "`gptkit compare --a {0} --k 6 --prompts world:4000 --judge labeler --temperature 1` ranks such answers, and \
         `gptkit train-rm --init {0} --data …` trains a reward model that replaces {1}",
        shell(policy),
        shell(reward)
    )
}

/// Prints the results of the run and the next command.
fn finish(outcome: &Outcome<PpoReport>, ui: &Ui) -> Result<()> {
    let Outcome { folder, summary, report } = outcome;
    say_end("ppo", folder, summary, ui)?;
    let Some(PpoReport { figures, before }) = report else { return Ok(()) };
    let figure = |figures: &BTreeMap<String, f64>, name: &str| figures.get(name).copied();
    for (name, what) in [
        ("objective/score", "score on held-out prompts"),
        ("objective/gold", "gold score on held-out prompts"),
        ("objective/kl", "KL from the reference, nats per answer"),
        ("answers/length", "tokens per answer"),
        ("answers/end_rate", "share of answers that end"),
        ("text/loss", "loss on pretraining text"),
    ] {
        if let Some(after) = figure(figures, name) {
            let before = figure(before, name).map(|before| format!("{before:.3} before, ")).unwrap_or_default();
            ui.say(&format!("{what:38} {before}{after:.3} after"));
        }
    }
    ui.say(&format!("saved {} · {}", folder.join("answers.md").display(), folder.join("reward-kl.svg").display()));
    let rounds = Provenance::load(folder)?.rounds;
    if let Some(round) = rounds.last() {
        let (a, b) = (shell(folder), shell(&round.policy.folder));
        let of_world = round.prompts.iter().all(|prompts| SourceLocation::is_world(prompts));
        ui.next(&match of_world {
            true => format!("gptkit compare --a {a} --b {b} --prompts world:300 --judge gold --temperature 1"),
            false => format!("gptkit chat --model {a}"),
        });
    }
    Ok(())
}

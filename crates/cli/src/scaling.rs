//! `gptkit scaling`

use crate::data_args::{ConfigArgs, shell};
use crate::presets;
use crate::run_args::RunArgs;
use crate::ui::{Stopped, Ui, Usage};
use anyhow::{Context, Result};
use clap::Args;
use gptkit_data::disk::Claim;
use gptkit_scaling::ScalingConfig;
use gptkit_scaling::{ScalingOutcome, TrainedFamily};
use gptkit_train::run::claim_numbered;
use std::path::Path;

/// Train a family of small models and fit scaling laws
///
/// Each model is a run like those of `pretrain`, in a folder below the family's, on the same text for the same number of
/// tokens. Kaplan's laws L(N), L(D) and L(C) and Chinchilla's L(N, D) are fitted to the validation losses, with intervals.
/// Models with `predict = true` are left out of the fit, and predicted. Compute is 6·N·D, with N without embeddings.
#[derive(Debug, Args)]
#[command(mut_arg("config", |arg| arg.default_value("scaling-small").help("Preset or TOML file, for instance scaling-small")))]
pub(crate) struct ScalingCommand {
    #[command(flatten)]
    config: ConfigArgs,
    /// Also print the best model size and number of tokens for this compute budget in FLOPs, for instance 1e18
    #[arg(long, value_name = "FLOPS", value_parser = positive)]
    budget: Option<f64>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArgs,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|x: &f64| x.is_finite() && *x > 0.0)
        .ok_or_else(|| "use a number above 0, for example 1e18".to_owned())
}

impl ScalingCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let mut set = self.config.settings();
        let (outcome, folder) = match self.run.resumes(&set)? {
            Some(folder) => {
                let path = folder.join("config.toml");
                if !path.exists() {
                    let what =
                        format!("{} does not exist, so {} is not a family of models", path.display(), folder.display());
                    return Err(Usage::new(what)
                        .hint(format!("start one with gptkit scaling --out {}", shell(folder)))
                        .into());
                }
                let config = reopened(&path.to_string_lossy(), ui)?;
                let device = self.run.device()?;
                let outcome = gptkit_scaling::resume(&config, folder, self.budget, &self.run.context(&device, ui))?;
                (outcome, folder.to_owned())
            }
            None => {
                set.extend(self.run.settings());
                let (name, config) = presets::load::<ScalingConfig>(&self.config.config, &set, ui)?;
                let folder = match self.run.out() {
                    None => gptkit_scaling::begin(claim_numbered(Path::new("runs"), &name)?, &config, ui)?,
                    Some(out) if gptkit_scaling::is_of(out, &config)? => {
                        ui.say(&format!("{} contains this family; resuming it", out.display()));
                        out.to_owned()
                    }
                    Some(out) => {
                        let what = "is not empty; resume it with --resume, or choose another folder with --out";
                        let claim = Claim::new(out, &|_| false)?;
                        let claim = claim.with_context(|| format!("{} {what}", out.display()))?;
                        gptkit_scaling::begin(claim, &config, ui)?
                    }
                };
                let device = self.run.device()?;
                let outcome = gptkit_scaling::resume(&config, &folder, self.budget, &self.run.context(&device, ui))?;
                (outcome, folder)
            }
        };
        match outcome {
            ScalingOutcome::Finished(finished) => finish(&finished, self.json, ui),
            ScalingOutcome::Stopped { stop, member } => {
                ui.say(&format!("stopped at {member}; its progress is saved"));
                ui.next(&format!("gptkit scaling --resume {}", shell(&folder)));
                Err(Stopped(stop).into())
            }
        }
    }
}

/// The family's own configuration. Its text may be gone where members know the shards that they were trained on: then it has
/// no sources.
fn reopened(path: &str, ui: &Ui) -> Result<ScalingConfig> {
    let load = |set: &[String]| presets::load::<ScalingConfig>(path, set, ui);
    let without_text = |e| {
        let (_, mut config) = load(&["data={}", "tokenizer={}"].map(str::to_owned)).map_err(|_| e)?;
        config.data.sources.clear();
        Ok(config)
    };
    load(&[]).map(|(_, config)| config).or_else(without_text)
}

fn finish(finished: &TrainedFamily, json: bool, ui: &Ui) -> Result<()> {
    let TrainedFamily { folder, report, tables } = finished;
    match json {
        true => ui.json(&(serde_json::to_string(report)? + "\n"))?,
        false => ui.result(tables)?,
    }
    report.remarks.iter().for_each(|remark| ui.say(remark));
    let at = |name: &str| folder.join(name).display().to_string();
    ui.say(&format!("saved {}, {}, {}", at("scaling.md"), at("scaling.json"), at("loss-compute.svg")));
    let best = report.members.iter().min_by(|a, b| a.loss.total_cmp(&b.loss));
    if let Some(best) = best {
        ui.next(&format!("gptkit sample --model {}", shell(&folder.join(Path::new(&best.name)))));
    }
    Ok(())
}

//! `gptkit plan --stage ppo`

use crate::plan_text::shape;
use crate::presets;
use crate::ui::{Ui, Usage};
use anyhow::{Context, Result};
use gptkit_data::format::needed_bytes;
use gptkit_data::progress::grouped;
use gptkit_model::ModelConfig;
use gptkit_model::load::{load_config, may_be_model};
use gptkit_rl::PpoConfig;
use gptkit_rl::plan::{Phase, Plan, settings_that_fit};
use gptkit_train::{PretrainConfig, machine};
use std::path::Path;

/// The plan of the configuration `given` with `set`, for models of the shapes that `policy` and `reward` have.
pub(crate) fn print(
    given: &str,
    set: &[String],
    policy: Option<&Path>,
    reward: Option<&Path>,
    memory: Option<u64>,
    ui: &Ui,
) -> Result<()> {
    let (_, config) = presets::load::<PpoConfig>(given, set, ui)?;
    let (policy, reward) = (model("--init", policy)?, model("--reward", reward)?);
    if let Some(lora) = config.policy.lora.as_ref().filter(|lora| lora.rank > policy.d_model) {
        let what = format!("policy.lora.rank = {} is larger than the policy's width of {}", lora.rank, policy.d_model);
        return Err(Usage::new(what).hint("use 8").into());
    }
    let plan = Plan::new(&config, &policy, &reward);
    let shapes = shape("policy", &policy) + &shape("reward", &reward);
    ui.result(&(shapes + &memory_table(&config, &plan, [&policy, &reward], memory) + &run(&config, &plan)))
}

/// The shape of the model that `flag` names: a preset, or a folder.
fn model(flag: &str, named: Option<&Path>) -> Result<ModelConfig> {
    let name = named.map_or_else(|| "small".into(), Path::to_string_lossy);
    let of_ppo = ["finetune-", "sft-", "rm-", "ppo-", "dpo-"].iter().any(|stage| name.starts_with(stage));
    let preset = presets::PRESETS.iter().any(|(preset, _)| *preset == name);
    if preset && !of_ppo {
        let PretrainConfig { mut model, tokenizer, .. } = presets::preset(&name)?;
        if model.vocab_size == 0 {
            model.vocab_size = tokenizer.vocab_size.unwrap_or(0);
        }
        if model.vocab_size == 0 {
            let what = format!("{flag} {name}: the vocabulary of this preset depends on the training text");
            return Err(Usage::new(what).hint("name the folder of a trained model").into());
        }
        return Ok(model);
    }
    let folder = Path::new(&*name);
    if !may_be_model(folder) {
        let what = match preset {
            true => "this preset does not define a model",
            false => "no such folder or preset",
        };
        let hint = "name a model folder, or a preset of `gptkit pretrain`, for instance gpt3-xl";
        return Err(Usage::new(format!("{flag} {name}: {what}")).hint(hint).into());
    }
    let shape = load_config(folder)?;
    shape.must_write().and_then(|()| shape.must_attend()).with_context(|| folder.display().to_string())?;
    Ok(shape)
}

fn memory_table(config: &PpoConfig, plan: &Plan, [policy, reward]: [&ModelConfig; 2], limit: Option<u64>) -> String {
    let (limit, whose) = limit.map_or_else(|| (machine::memory(), "on this machine"), |limit| (limit, "on the device"));
    let mut text = format!(
        "memory       {} at the peak, {}; {} available {whose}\n",
        needed_bytes(plan.peak()),
        match plan.busiest().0 {
            Phase::Answering => "while the policy samples answers",
            Phase::Scoring => "while answers are scored",
            Phase::Policy => "during an update of the policy",
            Phase::Value => "during an update of the value network",
        },
        needed_bytes(limit)
    );
    text += &format!("  {:12}{:>11}{:>11}{:>11}{:>11}\n", "", "policy", "reference", "value", "reward");
    let networks = [&plan.policy, &plan.reference, &plan.value, &plan.reward];
    let cell = |bytes| if bytes == 0 { "–".to_owned() } else { needed_bytes(bytes) };
    let row = |name: &str, cells: &[u64]| {
        let cells: String = cells.iter().map(|&bytes| format!("{:>11}", cell(bytes))).collect();
        format!("  {name:12}{cells}\n")
    };
    for (name, part) in [
        ("weights", networks.map(|memory| memory.weights)),
        ("packed", networks.map(|memory| memory.packed)),
        ("gradients", networks.map(|memory| memory.gradients)),
        ("optimizer", networks.map(|memory| memory.optimizer)),
        ("activations", networks.map(|memory| memory.activations)),
        ("logits", networks.map(|memory| memory.logits)),
    ] {
        text += &row(name, &part);
    }
    text += &row("average", &[plan.average]);
    text += &row("cache", &[plan.cache]);
    text += &row("permanent", &[plan.standing]);
    for (phase, bytes) in &plan.phases {
        let name = match phase {
            Phase::Answering => "+ sampling",
            Phase::Scoring => "+ scoring",
            Phase::Policy => "+ policy",
            Phase::Value => "+ value",
        };
        text += &row(name, &[*bytes]);
    }
    text += &row("overhead", &[plan.overhead()]);
    if plan.peak() > limit {
        text += &match settings_that_fit(config, policy, reward, limit) {
            Some(set) => format!("  does not fit; it fits with --set {}\n", set.join(" --set ")),
            None => format!(
                "  does not fit: the weights and optimizers of all models alone take {}; use smaller models{}\n",
                needed_bytes(plan.standing),
                if plan.value.total() > 0 { ", or --set value.shared=true" } else { "" }
            ),
        };
    }
    text
}

fn run(config: &PpoConfig, plan: &Plan) -> String {
    let episodes = config.train.batch_size / config.policy.minibatches;
    let up_to = if config.train.batch_ramp.is_some() { "up to " } else { "" };
    let run = match plan.length {
        Some(length) => format!(
            "{} episodes in {} iterations of {up_to}{} · {} updates of {up_to}{}",
            grouped(length.episodes),
            grouped(length.iterations),
            grouped(config.train.batch_size as u64),
            grouped(length.updates),
            grouped(episodes as u64)
        ),
        None => format!(
            "iterations of {} episodes; their number depends on the prompts, which `plan` does not read",
            config.train.batch_size
        ),
    };
    format!(
        "run          {run}\nsequences    {} tokens each, the maximum, because `plan` does not read the prompts\n",
        plan.longest
    )
}

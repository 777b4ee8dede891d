//! Every stage at its smallest, for tests.

use anyhow::Result;
use candle_core::Device;
use gptkit_config::Check;
use gptkit_data::disk::{Claim, read_description};
use gptkit_data::progress::{Progress, Silent};
use gptkit_ranks::{ALONE, Ranks};
use gptkit_reward::{RewardConfig, RewardModeling};
use gptkit_rl::{Dpo, DpoConfig, PpoConfig, PpoTraining};
use gptkit_sft::{FinetuneConfig, Finetuning, Sft, SftConfig};
use gptkit_train::stage::run;
use gptkit_train::{PretrainConfig, Pretraining, RunContext};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const BASE: &str = r#"
[train]
length = "4 steps"
batch_size = 4
lr = 1e-2
eval_every = 2
eval_windows = 4
spike_window = 3
keep_checkpoints = 2
dtype = "f32"
"#;

/// A pretrained model, one that answers and a reward model, all tiny.
pub(crate) struct TestModels {
    folder: TempDir,
    shards: String,
}

impl TestModels {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shards = folder.path().join("shards").display().to_string();
        let models = Self { folder, shards };
        for (name, stage) in [("pretrain", pretrain as TestedStage), ("sft", sft), ("rm", train_rm)] {
            stage(&models, &[], &models.at(name), &context(&Silent, &ALONE)).unwrap();
        }
        models
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Runs a stage with some settings and leaves it in a folder.
pub(crate) type TestedStage = fn(&TestModels, &[String], &Path, &RunContext) -> Result<()>;

fn loaded<T: DeserializeOwned + Check>(sections: &str, set: &[String]) -> Result<T> {
    Ok(gptkit_config::load("test", &(sections.to_owned() + BASE), set)?)
}

pub(crate) fn claimed(out: &Path) -> Claim {
    Claim::new(out, &|_| false).unwrap().unwrap()
}

pub(crate) fn context<'a>(progress: &'a dyn Progress, ranks: &'a Ranks) -> RunContext<'a> {
    RunContext { device: &Device::Cpu, progress, deadline: None, ranks }
}

pub(crate) fn pretrain_config(models: &TestModels, set: &[String]) -> Result<PretrainConfig> {
    let sections = format!(
        "[model]\nkind = \"gpt2\"\nn_layer = 1\nn_head = 2\nd_model = 16\ncontext = 96\ninit_std = 0.02\n[tokenizer]\ntrain = \"bpe\"\n\
         vocab_size = 400\n[data]\nsources = [{{ path = \"world:30\" }}]\nval_fraction = 0.1\nshards = '{}'\n",
        models.shards
    );
    loaded::<PretrainConfig>(&sections, set)
}

pub(crate) fn pretrain(models: &TestModels, set: &[String], out: &Path, context: &RunContext) -> Result<()> {
    run(Pretraining::new(pretrain_config(models, set)?, None), claimed(out), context).map(drop)
}

pub(crate) fn finetune(models: &TestModels, set: &[String], out: &Path, context: &RunContext) -> Result<()> {
    let sections = "[data]\ntask = \"classification\"\nsources = [\"world:12\"]\n";
    let config = loaded::<FinetuneConfig>(sections, set)?;
    run(Finetuning::new(config, Some(&models.at("pretrain"))), claimed(out), context).map(drop)
}

pub(crate) fn sft(models: &TestModels, set: &[String], out: &Path, context: &RunContext) -> Result<()> {
    let config = loaded::<SftConfig>("[data]\nsources = [\"world:12\"]\n", set)?;
    run(Sft::new(config, Some(&models.at("pretrain"))), claimed(out), context).map(drop)
}

pub(crate) fn train_rm(models: &TestModels, set: &[String], out: &Path, context: &RunContext) -> Result<()> {
    let sections = "[data]\nsources = [\"world:12\"]\n[normalization]\nrecipe = \"none\"\n";
    let config = loaded::<RewardConfig>(sections, set)?;
    run(RewardModeling::new(config, Some(&models.at("sft"))), claimed(out), context).map(drop)
}

pub(crate) fn dpo(models: &TestModels, set: &[String], out: &Path, context: &RunContext) -> Result<()> {
    let config = loaded::<DpoConfig>("[data]\nsources = [\"world:12\"]\n", set)?;
    run(Dpo::new(config, Some(&models.at("sft"))), claimed(out), context).map(drop)
}

pub(crate) fn ppo(models: &TestModels, set: &[String], out: &Path, context: &RunContext) -> Result<()> {
    let sections = "[prompts]\nsources = [\"world:10\"]\n[rollout]\nmax_new_tokens = 4\n[policy]\nminibatches = 2\n";
    let config = loaded::<PpoConfig>(sections, set)?;
    run(PpoTraining::new(config, Some(&models.at("sft")), Some(&models.at("rm"))), claimed(out), context).map(drop)
}

/// `a=1,b=2` as `--set` has it, below `[train]`.
pub(crate) fn settings(keys: &str) -> Vec<String> {
    keys.split(',').filter(|set| !set.is_empty()).map(|set| format!("train.{set}")).collect()
}

/// The records of the run in `folder`, without times.
pub(crate) fn records(folder: &Path) -> Vec<Value> {
    let without_times = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("tokens_per_s");
        if let Some(figures) = record["figures"].as_object_mut() {
            figures.retain(|name, _| !name.starts_with("time/"));
        }
        record
    };
    read_description(&folder.join("metrics.jsonl")).unwrap().lines().map(without_times).collect()
}

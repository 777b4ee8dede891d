//! Every key of `[train]`, in every stage: it changes the run, or it is refused. No key is accepted without an effect.

use crate::tested_stages::{
    TestModels, TestedStage, context, dpo, finetune, ppo, pretrain, records, settings, sft, train_rm,
};
use gptkit_data::progress::{Progress, ProgressTask, Silent, Unit};
use gptkit_ranks::ALONE;
use gptkit_train::config::TrainConfig;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// What a key does to a run.
enum Effect {
    /// Other figures, files or words.
    Changes,
    /// Other memory or time; the figures stay, but for rounding.
    Saves,
}
use Effect::{Changes, Saves};

/// Keys of `[train]`, each with the settings of a run, settings on top of these that must make another one, and what changes.
#[rustfmt::skip]
const KEYS: &[(&[&str], &str, &str, Effect)] = &[
    (&["length"], "", "length=3 steps", Changes),
    (&["length"], "", "length=0.5 epochs", Changes),
    (&["batch_size"], "", "batch_size=8", Changes),
    (&["micro_batch"], "", "micro_batch=1", Saves),
    (&["shards"], "", "shards=4", Saves),
    (&["batch_ramp_start", "batch_ramp"], "", "batch_ramp_start=2,batch_ramp=4 steps", Changes),
    (&["batch_ramp_start"], "batch_ramp_start=2,batch_ramp=4 steps", "batch_ramp_start=4", Changes),
    (&["batch_ramp"], "batch_ramp_start=2,batch_ramp=4 steps", "batch_ramp=2 steps", Changes),
    (&["lr"], "", "lr=2e-2", Changes),
    (&["min_lr"], "", "min_lr=5e-3", Changes),
    (&["warmup"], "", "warmup=3 steps", Changes),
    (&["decay"], "", "decay=constant", Changes),
    (&["decay_start"], "", "decay_start=2 steps", Changes),
    (&["decay_end"], "", "decay_end=2 steps", Changes),
    (&["optimizer"], "", "optimizer=muon", Changes),
    (&["muon_lr"], "optimizer=muon", "muon_lr=0.1", Changes),
    (&["muon_momentum"], "optimizer=muon", "muon_momentum=0.5", Changes),
    (&["beta1"], "", "beta1=0.5", Changes),
    (&["beta2"], "", "beta2=0.5", Changes),
    (&["eps"], "", "eps=1e-2", Changes),
    (&["eps_placement"], "eps=1e-2", "eps_placement=tensorflow", Changes),
    (&["weight_decay"], "", "weight_decay=0.9", Changes),
    (&["clip"], "", "clip=1e-3", Changes),
    (&["dtype"], "", "dtype=bf16", Changes),
    (&["recompute"], "", "recompute=blocks", Saves),
    // At this rate losses go up and down.
    (&["spike_window"], "lr=0.1,length=12 steps,spike_z=1e-6,on_spike=skip", "spike_window=2", Changes),
    (&["spike_z"], "lr=0.1,length=12 steps,on_spike=skip", "spike_z=1e-6", Changes),
    (&["on_spike"], "lr=0.1,length=12 steps,spike_z=1e-6", "on_spike=skip", Changes),
    (&["keep_checkpoints"], "", "keep_checkpoints=1", Changes),
    (&["eval_every"], "", "eval_every=1", Changes),
    (&["eval_windows"], "", "eval_windows=1", Changes),
    // At this rate nothing gets better.
    (&["patience"], "lr=1e-12,length=8 steps", "patience=1", Changes),
];

/// What can be seen of a run: its metrics without times, its checkpoints, and what was said of spikes.
#[derive(Debug, PartialEq)]
struct Seen {
    records: Vec<Value>,
    checkpoints: BTreeSet<String>,
    spikes: Vec<String>,
}

/// Keeps what is said.
#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl Progress for Said {
    fn note(&self, _: &str) {}
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn task(&self, _: &str, _: Option<u64>, _: Unit) -> Box<dyn ProgressTask> {
        Box::new(Silent)
    }
}

fn see(models: &TestModels, stage: TestedStage, set: &[String]) -> Result<Seen, String> {
    let folder = tempfile::tempdir().unwrap();
    let (out, said) = (folder.path().join("run"), Said::default());
    stage(models, set, &out, &context(&said, &ALONE)).map_err(|e| format!("{e:#}"))?;
    let entries = out.join("checkpoints").read_dir().unwrap();
    Ok(Seen {
        records: records(&out),
        checkpoints: entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect(),
        spikes: said.0.into_inner().unwrap().into_iter().filter(|line| line.contains("jumped")).collect(),
    })
}

/// All numbers of a record, in order.
fn numbers(value: &Value, into: &mut Vec<f64>) {
    match value {
        Value::Number(x) => into.extend(x.as_f64()),
        Value::Object(entries) => entries.values().for_each(|value| numbers(value, into)),
        _ => {}
    }
}

fn check(stage: TestedStage) {
    let models = TestModels::new();
    let mut bases: Vec<(&str, Seen)> = Vec::new();
    for &(keys, base, changed, ref effect) in KEYS {
        if !bases.iter().any(|(known, _)| *known == base) {
            bases.push((base, see(&models, stage, &settings(base)).unwrap_or_else(|e| panic!("{base}: {e}"))));
        }
        let before = &bases.iter().find(|(known, _)| *known == base).unwrap().1;
        let set = [settings(base), settings(changed)].concat();
        let after = see(&models, stage, &set).unwrap_or_else(|e| panic!("{keys:?}: {e}"));
        match effect {
            Changes => assert!(before != &after, "train.{changed} changes nothing (beside {base:?}): {after:#?}"),
            Saves => {
                let [mut a, mut b] = [Vec::new(), Vec::new()];
                before.records.iter().for_each(|record| numbers(record, &mut a));
                after.records.iter().for_each(|record| numbers(record, &mut b));
                assert_eq!(a.len(), b.len());
                let near = |(a, b): (&f64, &f64)| (a - b).abs() < 2e-2 * (1.0 + a.abs());
                assert!(a.iter().zip(&b).all(near), "train.{changed} changes figures: {before:#?} {after:#?}");
            }
        }
    }
}

#[test]
fn pretraining_obeys_every_key() {
    check(pretrain);
}

#[test]
fn finetuning_obeys_every_key() {
    check(finetune);
}

#[test]
fn sft_obeys_every_key() {
    check(sft);
}

#[test]
fn reward_models_obey_every_key() {
    check(train_rm);
}

#[test]
fn dpo_obeys_every_key() {
    check(dpo);
}

#[test]
fn ppo_obeys_every_key() {
    check(ppo);
}

#[test]
fn the_table_has_every_key() {
    let text = r#"{ "length": "1 steps", "batch_size": 2, "micro_batch": 1, "shards": 1, "batch_ramp_start": 1, "batch_ramp": "1 steps",
        "lr": 1, "decay_start": "1 steps", "decay_end": "1 steps", "clip": 1, "muon_lr": 1, "muon_momentum": 0, "eval_every": 1, "patience": 1 }"#;
    let all: TrainConfig = serde_json::from_str(text).unwrap();
    let written = serde_json::to_value(&all).unwrap();
    let keys: BTreeSet<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
    let tested: BTreeSet<&str> = KEYS.iter().flat_map(|(keys, ..)| keys.iter().copied()).collect();
    assert_eq!(keys, tested);
}

/// A unit that a stage does not count in, by the key that has it.
#[test]
fn a_unit_that_a_stage_does_not_have_is_refused() {
    let stages: [(&str, TestedStage); 6] = [
        ("pretrain", pretrain),
        ("finetune", finetune),
        ("sft", sft),
        ("train-rm", train_rm),
        ("dpo", dpo),
        ("ppo", ppo),
    ];
    let models = TestModels::new();
    let spans = ["length", "warmup", "decay_start", "decay_end", "batch_ramp_start=2,batch_ramp"];
    for (name, stage) in stages {
        let foreign = if name == "ppo" { "1M tokens" } else { "64 episodes" };
        for span in spans {
            let refused = refusal(&models, stage, &settings(&format!("{span}={foreign}")));
            let key = span.rsplit(',').next().unwrap();
            assert!(refused.contains(key) && refused.contains("episodes"), "{name} {key}: {refused}");
        }
    }
    see(&models, ppo, &settings("length=12 episodes,batch_ramp_start=2,batch_ramp=8 episodes,decay_end=10 episodes"))
        .unwrap();
}

fn refusal(models: &TestModels, stage: TestedStage, set: &[String]) -> String {
    see(models, stage, set).err().unwrap_or_else(|| panic!("{set:?} is accepted"))
}

#[test]
fn patience_without_anything_to_validate_on_is_refused() {
    let set = ["train.patience=1", "data.val_fraction=0"].map(str::to_owned).to_vec();
    assert!(refusal(&TestModels::new(), pretrain, &set).contains("train.patience needs a validation set"));
}

//! Ranks change nothing: with the same `train.shards`, a run has the same bytes on any number of them, and when it is resumed on
//! another number. Ranks are threads here, so that no MPI is needed.

use crate::tested_stages::{
    TestModels, TestedStage, claimed, context, dpo, finetune, ppo, pretrain, pretrain_config, records, settings, sft,
    train_rm,
};
use gptkit_data::progress::Silent;
use gptkit_ranks::{Ranks, thread_ranks, with_tensors};
use gptkit_train::interrupt::Stop;
use gptkit_train::stage::{resume, run};
use gptkit_train::{Pretraining, Resumable, RunContext};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Everything of a run but times: its records, and the bytes of its weights and moments by file.
struct RunBytes {
    records: Vec<Value>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl RunBytes {
    fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for path in next.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "safetensors") {
                    files.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
                }
            }
        }
        Self { records: records(folder), files }
    }

    #[track_caller]
    fn assert_same(&self, other: &Self, what: &str) {
        assert_eq!(self.records, other.records, "{what}");
        let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&self.files), names(&other.files), "{what}");
        for (name, bytes) in &self.files {
            assert!(other.files[name] == *bytes, "{what}: {} differs", name.display());
        }
        assert!(!self.files.is_empty() && self.records.len() > 1, "{what}");
    }
}

/// Runs `f` as each of `n` ranks in a folder of its own; the folder of the first one. Four exchange tensors, as GPUs do.
fn on_ranks(n: usize, folder: &Path, f: impl Fn(&Path, &Ranks) + Sync) -> PathBuf {
    let out = folder.join(format!("ranks-{n}"));
    thread_ranks(n, |ranks| {
        let own = if ranks.is_first() { out.clone() } else { folder.join(format!("ranks-{n}-{}", ranks.rank())) };
        let ranks = if n == 4 { with_tensors(ranks) } else { ranks };
        f(&own, &ranks);
        assert_eq!(own.join("checkpoints").exists(), ranks.is_first(), "only the first rank saves");
    });
    out
}

fn check(stage: TestedStage, set: &str) {
    let (models, folder) = (TestModels::new(), tempfile::tempdir().unwrap());
    let set = [settings("shards=4"), settings(set)].concat();
    let runs = [1, 2, 4].map(|n| {
        let out = on_ranks(n, folder.path(), |own, ranks| stage(&models, &set, own, &context(&Silent, ranks)).unwrap());
        RunBytes::of(&out)
    });
    runs[0].assert_same(&runs[1], "2 ranks");
    runs[0].assert_same(&runs[2], "4 ranks");
}

#[test]
fn pretraining_is_the_same_on_any_number_of_ranks() {
    check(pretrain, "clip=0.1,weight_decay=0.1");
}

#[test]
fn muon_is_the_same_on_any_number_of_ranks() {
    check(pretrain, "optimizer=muon,batch_size=8,micro_batch=1");
}

#[test]
fn finetuning_is_the_same_on_any_number_of_ranks() {
    check(finetune, "");
}

#[test]
fn sft_is_the_same_on_any_number_of_ranks() {
    check(sft, "");
}

#[test]
fn reward_models_are_the_same_on_any_number_of_ranks() {
    check(train_rm, "");
}

#[test]
fn dpo_is_the_same_on_any_number_of_ranks() {
    check(dpo, "");
}

#[test]
fn ppo_is_the_same_on_any_number_of_ranks() {
    check(ppo, "");
}

#[test]
fn a_run_is_resumed_on_another_number_of_ranks() {
    let (models, folder) = (TestModels::new(), tempfile::tempdir().unwrap());
    let config = || pretrain_config(&models, &settings("shards=4,clip=0.1")).unwrap();
    let whole = on_ranks(1, folder.path(), |own, ranks| {
        run(Pretraining::new(config(), None), claimed(own), &context(&Silent, ranks)).unwrap();
    });
    let whole = RunBytes::of(&whole);
    for n in [1, 4] {
        let parts = folder.path().join(format!("then-{n}"));
        let out = on_ranks(2, &parts, |own, ranks| {
            // Its time is over after the first step.
            let context = RunContext { deadline: Some(Instant::now()), ..context(&Silent, ranks) };
            let outcome = run(Pretraining::new(config(), None), claimed(own), &context).unwrap();
            assert_eq!((outcome.summary.stop, outcome.summary.state.step), (Some(Stop::Time), 1));
        });
        thread_ranks(n, |ranks| {
            let first = ranks.is_first().then(|| Resumable::open(&out, &[], &Silent).unwrap());
            ranks.wait().unwrap();
            let resumable = first.unwrap_or_else(|| Resumable::follow(&out, &[]).unwrap());
            let config = gptkit_config::load("test", &std::fs::read_to_string(out.join("config.toml")).unwrap(), &[]);
            resume(Pretraining::new(config.unwrap(), None), resumable, &context(&Silent, &ranks)).unwrap();
        });
        // The checkpoint of the first step is one more.
        let resumed = RunBytes::of(&out);
        let files = resumed.files.into_iter().filter(|(name, _)| whole.files.contains_key(name)).collect();
        whole.assert_same(&RunBytes { records: resumed.records, files }, &format!("resumed on {n}"));
    }
}

#[test]
fn more_ranks_than_parts_of_a_batch_are_refused() {
    let (models, folder) = (TestModels::new(), tempfile::tempdir().unwrap());
    let set = settings("shards=2");
    let errors = thread_ranks(4, |ranks| {
        let own = folder.path().join(ranks.rank().to_string());
        pretrain(&models, &set, &own, &context(&Silent, &ranks)).unwrap_err().to_string()
    });
    assert!(errors.iter().all(|error| error.contains("there are 4 ranks, but train.shards is 2")), "{errors:?}");
}

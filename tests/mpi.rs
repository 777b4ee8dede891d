//! A whole stage on ranks that a real MPI connects, from outside; `.ci/run` has the feature where Open MPI can be installed.
//! All stages run on ranks of one process in the unit tests, and on real ones in `scripts/check_ranks.py`.

use super::gptkit;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs `gptkit` on `n` ranks.
fn on_ranks(n: usize, folder: &Path, command: &str) {
    let words =
        ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", &n.to_string()].map(str::to_owned);
    let mut mpirun = Command::new("mpirun");
    mpirun.args(words).arg(env!("CARGO_BIN_EXE_gptkit")).args(command.split(' ')).current_dir(folder);
    let output = mpirun.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Weights, moments and losses of a run.
fn results(run: &Path) -> (Vec<(PathBuf, Vec<u8>)>, Vec<serde_json::Value>) {
    let newest = fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let files = [run, &newest].into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut tensors: Vec<_> = files
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .map(|path| (path.strip_prefix(run).unwrap().to_path_buf(), fs::read(path).unwrap()))
        .collect();
    tensors.sort();
    let records = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["train_loss"].clone();
    (tensors, records.lines().map(loss).collect())
}

#[test]
fn pretraining_has_the_same_bytes_on_one_two_and_four_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let run = |out: &str| {
        format!(
            "pretrain --config small --data world:60 --steps 6 --set model.n_layer=2 --set model.d_model=32 \
             --set model.n_head=2 --set model.context=64 --set train.batch_size=8 --set train.micro_batch=2 \
             --set train.shards=4 --out {out}"
        )
    };
    gptkit(path, &run("alone")).ok();
    let expected = results(&path.join("alone"));
    assert!(expected.0.len() >= 2, "{:?}", expected.0.iter().map(|(path, _)| path).collect::<Vec<_>>());
    for n in [2, 4] {
        let out = format!("ranks-{n}");
        on_ranks(n, path, &run(&out));
        assert!(results(&path.join(&out)) == expected, "{n} ranks give other bytes than one process");
    }
}

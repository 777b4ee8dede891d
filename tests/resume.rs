//! A run that is interrupted goes on as if it had not been.

use super::{TINY, gptkit, pretrain};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The words of a run of 400 steps, which takes a second or two.
fn arguments(out: &str) -> Vec<String> {
    let more = "--config char --data world:60 --set train.batch_size=2 --set model.embedding_dropout=0.1 --out";
    let length = ["--set", "train.length=\"400 steps\""];
    TINY.iter().copied().chain(more.split(' ')).chain([out]).chain(length).map(str::to_owned).collect()
}

fn start(folder: &Path, arguments: &[String]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_gptkit"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the run has recorded `steps` steps, or is over.
fn wait_for(child: &mut Child, run: &Path, steps: usize) {
    let recorded = || fs::read(run.join("metrics.jsonl")).map_or(0, |b| b.iter().filter(|&&b| b == b'\n').count());
    while recorded() < steps && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What must be the same whether a run was interrupted or not: everything but times.
fn outcome(run: &Path) -> (Vec<serde_json::Value>, Vec<Vec<u8>>) {
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let records = metrics.lines().map(|line| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("tokens_per_s");
        record
    });
    let last = "checkpoints/step-000400";
    let files =
        ["model.safetensors".to_owned(), format!("{last}/model.safetensors"), format!("{last}/optimizer.safetensors")];
    (records.collect(), files.iter().map(|file| fs::read(run.join(file)).unwrap()).collect())
}

#[track_caller]
fn assert_same(run: &Path, whole: &Path) {
    let ((records, files), (whole_records, whole_files)) = (outcome(run), outcome(whole));
    for (record, expected) in records.iter().zip(&whole_records) {
        assert_eq!(record, expected);
    }
    assert_eq!(records.len(), whole_records.len());
    assert!(files == whole_files, "weights or moments differ");
}

#[test]
fn a_killed_run_ends_with_the_same_losses_weights_and_moments() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(start(path, &arguments("whole")).wait().unwrap().success());
    let mut child = start(path, &arguments("cut"));
    let cut = path.join("cut");
    for steps in [1, 7, 61, 140, 290] {
        wait_for(&mut child, &cut, steps);
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        child = start(path, &["pretrain", "--resume", "cut"].map(str::to_owned));
    }
    assert!(child.wait().unwrap().success());
    assert_same(&cut, &path.join("whole"));
}

#[test]
#[cfg(unix)]
fn signals_save_say_how_to_go_on_and_end_with_their_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(start(path, &arguments("whole")).wait().unwrap().success());
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let run = path.join(signal);
        let mut child = start(path, &arguments(signal));
        wait_for(&mut child, &run, 33);
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success()
        );
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(&format!("next: gptkit pretrain --resume {signal}")), "{said}");
        gptkit(path, &format!("pretrain --resume {signal}")).ok();
        assert_same(&run, &path.join("whole"));
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(start(path, &arguments("whole")).wait().unwrap().success());
    assert!(start(path, &arguments("run")).wait().unwrap().success());
    let weights = path.join("run/checkpoints/step-000400/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let ran = gptkit(path, "pretrain --resume run").ok();
    assert!(ran.err.contains("model.safetensors is damaged: the checkpoint before it is taken"), "{}", ran.err);
    assert!(ran.err.contains("resumed run after step 395"), "{}", ran.err);
    assert_same(&path.join("run"), &path.join("whole"));
}

#[test]
fn what_cannot_be_resumed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let ran = gptkit(path, "pretrain --resume nowhere");
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("nowhere/config.toml cannot be read"), "{}", ran.err);
    let ran = gptkit(path, "pretrain --resume nowhere --seed 3");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    pretrain(path, "--config char --data world:60 --out run").ok();
    fs::remove_dir_all(path.join("run/checkpoints")).unwrap();
    let ran = gptkit(path, "pretrain --resume run");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("holds no whole checkpoint"), "{}", ran.err);
}

#[test]
fn two_processes_do_not_write_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut child = start(path, &arguments("run"));
    wait_for(&mut child, &path.join("run"), 10);
    let ran = gptkit(path, "pretrain --resume run");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("another process is writing the run in run"), "{}", ran.err);
    assert!(child.wait().unwrap().success(), "the first was disturbed");
}

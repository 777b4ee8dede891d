//! A run that is interrupted goes on as if it had not been.

use super::{TINY, gptkit, pretrain};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The words of a run of 400 steps, which takes a second or two.
fn arguments(out: &str) -> Vec<String> {
    let more = "--config char --data world:60 --set train.batch_size=2 --set model.embedding_dropout=0.1 \
                --set train.length=400steps --out";
    TINY.iter().copied().chain(more.split(' ')).chain([out]).map(str::to_owned).collect()
}

pub(super) fn start(folder: &Path, arguments: &[String]) -> Child {
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
pub(super) fn wait_for(child: &mut Child, run: &Path, steps: usize) {
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

/// The checkpoint that is being written, if one is.
fn unfinished(run: &Path) -> Option<PathBuf> {
    let entries = run.join("checkpoints").read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with("-tmp"))
}

/// Kills a run at 20 moments or more, some of them while it writes a checkpoint, and compares what it comes to with the
/// same run left alone.
fn kill_and_compare(set: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let words =
        |out: &str| [arguments(out), set.iter().flat_map(|s| ["--set".to_owned(), (*s).to_owned()]).collect()].concat();
    assert!(start(path, &words("whole")).wait().unwrap().success());
    let mut child = start(path, &words("cut"));
    let cut = path.join("cut");
    let (mut kills, mut while_writing) = (0, 0);
    while kills < 20 || while_writing < 5 {
        wait_for(&mut child, &cut, (kills * 12).min(300) + 1);
        if kills % 2 == 0 {
            let moment = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos() % 30_000;
            std::thread::sleep(Duration::from_micros(moment.into()));
        } else {
            while unfinished(&cut).is_none() && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
        }
        child.kill().unwrap(); // SIGKILL
        assert!(!child.wait().unwrap().success(), "the run ended before it was killed often enough: {kills} times");
        kills += 1;
        while_writing += usize::from(unfinished(&cut).is_some());
        child = start(path, &["pretrain", "--resume", "cut"].map(str::to_owned));
    }
    assert!(child.wait().unwrap().success());
    assert_same(&cut, &path.join("whole"));
}

#[test]
fn a_killed_run_ends_with_the_same_losses_weights_and_moments() {
    kill_and_compare(&[]);
}

#[test]
fn so_does_a_killed_run_with_accumulation_dropout_and_recompute() {
    kill_and_compare(&[
        "train.micro_batch=1",
        "model.attention_dropout=0.1",
        "model.residual_dropout=0.1",
        "train.recompute=blocks",
    ]);
}

#[test]
fn baselines_go_on_as_if_they_had_not_been_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for kind in ["lstm", "bert"] {
        let set = [&format!("model.kind={kind}"), "train.micro_batch=1", "model.residual_dropout=0.1"];
        let words = |out: &str| {
            [arguments(out), set.iter().flat_map(|s| ["--set".to_owned(), (*s).to_owned()]).collect()].concat()
        };
        let [whole, cut] = ["whole", "cut"].map(|name| format!("{kind}-{name}"));
        assert!(start(path, &words(&whole)).wait().unwrap().success());
        let mut child = start(path, &words(&cut));
        wait_for(&mut child, &path.join(&cut), 33);
        child.kill().unwrap(); // SIGKILL
        assert!(!child.wait().unwrap().success(), "the run ended before it was killed");
        gptkit(path, &format!("pretrain --resume {cut}")).ok();
        assert_same(&path.join(cut), &path.join(whole));
    }
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
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("nowhere/config.toml does not exist"), "{}", ran.err);
    let ran = gptkit(path, "pretrain --resume nowhere --seed 3");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    pretrain(path, "--config char --data world:60 --out run").ok();
    fs::remove_dir_all(path.join("run/checkpoints")).unwrap();
    let ran = gptkit(path, "pretrain --resume run");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("holds no whole checkpoint"), "{}", ran.err);
}

#[test]
fn a_run_goes_on_from_another_folder_and_without_its_sources() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let text = gptkit(path, "world --stories 60").ok().out;
    let words = arguments("run");
    let words = words.iter().map(|word| if word == "world:60" { "-" } else { word }).chain(["--max-time", "1ms"]);
    let ran = super::run(path, &words.collect::<Vec<_>>(), text.as_bytes());
    assert_eq!(ran.code, Some(124), "{}", ran.err);
    assert!(ran.err.contains("stopped after step 1 of 400"), "{}", ran.err);
    let elsewhere = tempfile::tempdir().unwrap();
    let run = path.join("run");
    gptkit(elsewhere.path(), &format!("pretrain --resume {}", run.display())).ok();
    let steps = fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().count();
    assert_eq!(steps, 400);
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "something was left in the working folder");
}

#[test]
fn a_finished_run_goes_on_when_its_schedule_is_made_longer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    pretrain(path, "--config char --data world:60 --out run --set train.batch_size=2").ok();
    let steps = || fs::read_to_string(path.join("run/metrics.jsonl")).unwrap().lines().count();
    gptkit(path, "pretrain --resume run").ok();
    assert_eq!(steps(), 12, "nothing was left to do");
    let config = fs::read_to_string(path.join("run/config.toml")).unwrap().replace("12 steps", "17 steps");
    fs::write(path.join("run/config.toml"), config).unwrap();
    gptkit(path, "pretrain --resume run").ok();
    assert_eq!(steps(), 17);
}

#[test]
fn a_mixture_keeps_its_weights_when_another_run_uses_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mixture = |first: &str, second: &str, out: &str| {
        let more = format!("--config char --data world:60@{first} --data world:50:2@{second} --out {out}");
        pretrain(path, &format!("{more} --set train.batch_size=2 --set train.length=20steps")).ok();
    };
    mixture("0.9", "0.1", "whole");
    mixture("0.9", "0.1", "cut");
    // As if it had been interrupted after step 15.
    fs::remove_dir_all(path.join("cut/checkpoints/step-000020")).unwrap();
    mixture("0.2", "0.8", "other");
    gptkit(path, "pretrain --resume cut").ok();
    let weights = |run: &str| fs::read(path.join(run).join("checkpoints/step-000020/model.safetensors")).unwrap();
    assert!(weights("cut") == weights("whole"), "the weights of the other run were taken");
}

#[test]
fn another_text_or_shape_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("text.txt"), "All is quiet on the pond, and the frogs sing.\n".repeat(100)).unwrap();
    pretrain(path, "--config char --data text.txt --out run --set train.batch_size=2").ok();
    let config = fs::read_to_string(path.join("run/config.toml")).unwrap();
    fs::write(path.join("run/config.toml"), config.replace("n_head = 2", "n_head = 4")).unwrap();
    let ran = gptkit(path, "pretrain --resume run");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("holds a model of another shape"), "{}", ran.err);
    fs::write(path.join("run/config.toml"), config).unwrap();
    fs::remove_dir_all(path.join("shards")).unwrap();
    gptkit(path, "pretrain --resume run").ok(); // the text is prepared again
    fs::remove_dir_all(path.join("shards")).unwrap();
    fs::write(path.join("text.txt"), "All is quiet on the pond, and the frogs sleep.\n".repeat(100)).unwrap();
    let ran = gptkit(path, "pretrain --resume run");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("is not what the run began with") || ran.err.contains("another tokenizer"), "{}", ran.err);
}

#[test]
fn a_spike_is_reported_or_skipped() {
    let folder = tempfile::tempdir().unwrap();
    // Letters without end, and among them, rarely, words that nothing foretells.
    let text: String =
        (0..300).map(|i| if i % 40 == 39 { "zqxj vwkp? 5%".repeat(4) } else { "a".repeat(50) }).collect();
    fs::write(folder.path().join("text.txt"), text).unwrap();
    let more = "--config char --data text.txt --set train.batch_size=1 --set train.spike_window=10 --set train.spike_z=5 \
                --set train.lr=1e-2 --set train.keep_checkpoints=1 --set data.val_fraction=0";
    let skipped = |run: &str, more: &str| {
        let ran = pretrain(folder.path(), &format!("{more} --set train.length=300steps --out {run}")).ok();
        assert!(ran.err.contains("standard deviations above the last 10"), "{}", ran.err);
        assert_eq!(fs::read_dir(folder.path().join(run).join("checkpoints")).unwrap().count(), 1);
        fs::read_to_string(folder.path().join(run).join("metrics.jsonl")).unwrap().matches("\"skipped\":true").count()
    };
    assert_eq!(skipped("report", more), 0);
    assert!(skipped("skip", &format!("{more} --set train.on_spike=skip")) > 0);
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

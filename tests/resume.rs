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
    let mut files: Vec<Vec<u8>> = files.iter().map(|file| fs::read(run.join(file)).unwrap()).collect();
    files.push(fs::read(run.join("samples.jsonl")).unwrap_or_default()); // a masked model writes none
    (records.collect(), files)
}

#[track_caller]
fn assert_same(run: &Path, whole: &Path) {
    let ((records, files), (whole_records, whole_files)) = (outcome(run), outcome(whole));
    for (record, expected) in records.iter().zip(&whole_records) {
        assert_eq!(record, expected);
    }
    assert_eq!(records.len(), whole_records.len());
    assert!(files == whole_files, "weights, moments or samples differ");
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
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("USR1", 138)] {
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
    assert!(ran.err.contains("model.safetensors is damaged; using the previous checkpoint"), "{}", ran.err);
    assert!(ran.err.contains("resumed run after step 395"), "{}", ran.err);
    assert_same(&path.join("run"), &path.join("whole"));
}

#[test]
fn what_cannot_be_resumed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let ran = gptkit(path, "pretrain --resume nowhere");
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("nowhere is not a run"), "{}", ran.err);
    let ran = gptkit(path, "pretrain --resume nowhere --seed 3");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    pretrain(path, "--config char --data world:60 --out run").ok();
    fs::remove_dir_all(path.join("run/checkpoints")).unwrap();
    let ran = gptkit(path, "pretrain --resume run");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("contains no complete checkpoint"), "{}", ran.err);
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
    let ran = gptkit(path, "pretrain --resume run").ok();
    assert!(ran.err.contains("train.length was \"12 steps\" and is now \"17 steps\""), "{}", ran.err);
    assert_eq!(steps(), 17);
    let config = fs::read_to_string(path.join("run/config.toml")).unwrap().replace("17 steps", "9 steps");
    fs::write(path.join("run/config.toml"), config).unwrap();
    let ran = gptkit(path, "pretrain --resume run");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("use at least that many"), "{}", ran.err);
}

#[test]
fn settings_that_would_make_it_another_run_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    pretrain(path, "--config char --data world:60 --out run --set train.batch_size=2").ok();
    fs::remove_dir_all(path.join("run/checkpoints/step-000012")).unwrap();
    let file = path.join("run/config.toml");
    let config = fs::read_to_string(&file).unwrap();
    for (key, from, to) in [
        ("seed", "seed = 1", "seed = 2"),
        ("train.batch_size", "batch_size = 2", "batch_size = 4"),
        ("train.beta2", "beta2 = ", "beta2 = 0.5 # "),
        ("train.lr", "\nlr = ", "\nlr = 0.5 # "),
        ("train.dtype", "\ndtype = ", "\ndtype = \"auto\" # "),
        ("model.residual_dropout", "residual_dropout = ", "residual_dropout = 0.5 # "),
        ("train.warmup", "\nwarmup = \"2 steps\"", ""),
    ] {
        assert!(config.contains(from), "{config}");
        fs::write(&file, config.replace(from, to)).unwrap();
        let ran = gptkit(path, "pretrain --resume run");
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(ran.err.contains(&format!("{key} was ")) && ran.err.contains("--init run/checkpoints"), "{}", ran.err);
    }
    fs::write(&file, &config[..config.len() / 2]).unwrap();
    assert_eq!(gptkit(path, "pretrain --resume run").code, Some(1));
    fs::remove_file(&file).unwrap();
    let ran = gptkit(path, "pretrain --resume run").ok();
    assert!(ran.err.contains("config.toml was missing"), "{}", ran.err);
    assert_eq!(fs::read_to_string(&file).unwrap(), config);
}

/// Every file of `folder`, with what must be the same in it: all but times.
fn contents(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut files = std::collections::BTreeMap::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with("events.") {
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    files
}

#[test]
fn lost_and_torn_files_of_a_finished_run_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    // The best weights are those of step 5: their checkpoint is gone, and they stay.
    let more = "--config char --data world:60 --out run --set train.batch_size=2 --set train.lr=0.3 --set train.keep_checkpoints=1";
    pretrain(path, more).ok();
    let whole = contents(&path.join("run"));
    for name in
        ["metrics.jsonl", "curves.svg", "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
    {
        let file = path.join("run").join(name);
        let bytes = &whole[name];
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        for torn in [None, Some(Vec::new()), Some(bytes[..bytes.len() / 2].to_vec()), Some(flipped)] {
            match &torn {
                Some(torn) => fs::write(&file, torn).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            gptkit(path, "pretrain --resume run").ok();
            assert!(contents(&path.join("run")) == whole, "{name} {torn:?}");
        }
    }
}

#[test]
fn a_damaged_model_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    pretrain(path, "--config char --data world:60 --out run --set train.batch_size=2").ok();
    for place in ["run", "run/checkpoints/step-000012"] {
        let file = path.join(place).join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let words = format!("sample --model {place} --prompt a --max-new-tokens 3");
        let ran = gptkit(path, &words);
        assert_eq!(ran.code, Some(2), "{}", ran.err);
        assert!(ran.err.contains("model.safetensors is damaged or was edited"), "{}", ran.err);
        fs::remove_file(path.join(place).join("checksums.json")).unwrap();
        gptkit(path, &words).ok(); // it was meant
    }
}

/// Leaves of the run what a process leaves that is killed before the first checkpoint.
fn as_if_killed_early(run: &Path) {
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    fs::remove_file(run.join("model.safetensors")).unwrap();
    fs::write(run.join("metrics.jsonl"), "").unwrap();
    let request = fs::read_to_string(run.join("run.json")).unwrap();
    fs::write(run.join("run.json"), request.replace("\"begun\": true", "\"begun\": false")).unwrap();
}

#[test]
fn a_run_of_any_stage_that_was_killed_early_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    pretrain(path, "--config small --data world:60 --set model.context=160 --out pre").ok();
    let few = "--set train.batch_size=4 --set train.warmup=0steps --set train.length=2steps";
    let stages = [
        ("pretrain", "--config char --data world:40 --set model.n_layer=1 --set model.d_model=16 --set model.n_head=2"),
        ("finetune", "--init pre --task classification --data world:40 --set train.batch_size=4"),
        ("sft", "--init pre --data world:40"),
        ("train-rm", "--init sft --data world:40"),
        ("dpo", "--init sft --data world:40"),
        (
            "ppo",
            "--init sft --reward train-rm --prompts world:20 --set rollout.max_new_tokens=4 --set policy.minibatches=2 --set ptx.per_episode=1",
        ),
    ];
    let elsewhere = tempfile::tempdir().unwrap();
    for (stage, words) in stages {
        let command = format!("{stage} {words} {few} --out {stage}");
        gptkit(path, &command).ok();
        let run = path.join(stage);
        let weights = || fs::read(run.join("model.safetensors")).unwrap();
        let whole = weights();
        as_if_killed_early(&run);
        let ran = gptkit(elsewhere.path(), &format!("{stage} --resume {}", run.display())).ok();
        assert!(ran.err.contains("has no checkpoint yet; starting it again"), "{}", ran.err);
        assert!(weights() == whole, "{stage}: other weights");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "{stage} left something in the working folder");
        as_if_killed_early(&run);
        gptkit(path, &command).ok();
        assert!(weights() == whole, "{stage}: other weights");
        // And now that it has ended, the same command finds it.
        let ran = gptkit(path, &command).ok();
        assert!(ran.err.contains("contains the run of this command; resuming it"), "{}", ran.err);
        assert!(weights() == whole, "{stage}: other weights");
    }
    let left: Vec<String> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.contains("tmp")), "{left:?}");
}

#[test]
fn a_damaged_request_comes_back_and_checkpoints_that_a_kill_left_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    pretrain(path, "--config char --data world:60 --out run --set train.batch_size=2").ok();
    let run = path.join("run");
    let request = fs::read(run.join("run.json")).unwrap();
    let checkpoints = || {
        let mut names: Vec<_> =
            fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = checkpoints();
    // As if the process had been killed before it removed an older checkpoint, and while it removed another.
    for name in ["step-000001", "step-000002.gptkit-tmp"] {
        fs::create_dir(run.join("checkpoints").join(name)).unwrap();
        fs::write(run.join("checkpoints").join(name).join("config.json"), "{}").unwrap();
    }
    fs::write(run.join("run.json"), &request[..request.len() / 2]).unwrap();
    let ran = gptkit(path, "pretrain --resume run").ok();
    assert!(ran.err.contains("run.json was missing, damaged or edited; restored it"), "{}", ran.err);
    assert!(fs::read(run.join("run.json")).unwrap() == request);
    assert_eq!(checkpoints(), before);
}

#[test]
fn adapters_are_not_resumed_on_other_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    pretrain(path, "--config small --data world:60 --set model.context=160 --out pre").ok();
    let few = "--set train.batch_size=4 --set train.warmup=0steps --set train.length=2steps";
    gptkit(path, &format!("sft --init pre --data world:40 --lora-rank 2 {few} --out sft")).ok();
    gptkit(path, "sft --resume sft").ok();
    // A merge that was killed at its very end may be given again; what is not its own result is left alone.
    gptkit(path, "merge --model sft --out merged").ok();
    gptkit(path, "merge --model sft --out merged").ok();
    fs::write(path.join("merged/note.txt"), "mine").unwrap();
    assert_eq!(gptkit(path, "merge --model sft --out merged").code, Some(1));
    let mut bytes = fs::read(path.join("pre/model.safetensors")).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path.join("pre/model.safetensors"), bytes).unwrap();
    fs::remove_file(path.join("pre/checksums.json")).unwrap(); // as if it had been trained again
    let ran = gptkit(path, "sft --resume sft");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("pre have changed since this run started"), "{}", ran.err);
}

#[test]
fn the_same_command_goes_on_with_its_own_run_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let words = arguments("cut");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ran = super::run(path, &[&words[..], &["--max-time", "1ms"]].concat(), b"");
    assert_eq!(ran.code, Some(124), "{}", ran.err);
    let ran = super::run(path, &[&words[..], &["--seed", "2"]].concat(), b"");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("cut is not empty") && ran.err.contains("started with seed = 1"), "{}", ran.err);
    let ran = super::run(path, &words, b"").ok();
    assert!(ran.err.contains("resumed cut after step 1"), "{}", ran.err);
    assert!(start(path, &arguments("whole")).wait().unwrap().success());
    assert_same(&path.join("cut"), &path.join("whole"));
    let ran = gptkit(path, "sft --resume cut");
    assert!(ran.code == Some(2) && ran.err.contains("gptkit pretrain --resume cut"), "{}", ran.err);
}

#[test]
#[cfg(unix)]
fn a_signal_before_training_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let text: String = (0..2_000_000).map(|n: u32| format!("{n} ")).collect();
    fs::write(path.join("text.txt"), text).unwrap();
    for signal in ["TERM", "INT", "HUP"] {
        let words = ["pretrain", "--config", "char", "--data", "text.txt", "--out", "new/run"].map(str::to_owned);
        let mut child = start(path, &words);
        let unfinished = || {
            let entries = path.join("shards").read_dir().into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).any(|path| path.to_string_lossy().ends_with("-tmp"))
        };
        while !unfinished() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success()
        );
        assert!(!child.wait().unwrap().success(), "it ended before the signal");
        let left: Vec<_> = fs::read_dir(path.join("shards")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"], "after {signal}");
        assert!(!path.join("new/run").exists());
    }
}

#[test]
#[cfg(unix)]
fn a_run_under_nohup_outlives_its_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let words = format!("trap '' HUP; exec {} \"$@\"", env!("CARGO_BIN_EXE_gptkit"));
    let mut child = Command::new("sh")
        .args(["-c", &words, "sh"])
        .args(arguments("run"))
        .current_dir(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&mut child, &path.join("run"), 20);
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn runs_that_begin_together_have_a_folder_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    gptkit(path, "prepare --config char --data world:40 --out text").ok();
    let words: Vec<String> =
        TINY.iter().copied().chain(["--config", "char", "--data", "text"]).map(str::to_owned).collect();
    let children: Vec<Child> = (0..4).map(|_| start(path, &words)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut runs: Vec<String> =
        fs::read_dir(path.join("runs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    runs.sort();
    assert_eq!(runs, ["char-1", "char-2", "char-3", "char-4"]);
}

#[test]
fn a_run_that_diverged_or_has_no_step_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    for (out, more, says) in [
        ("diverged", "--set train.lr=1e308 --set train.warmup=0steps --set train.length=2steps", "training diverged"),
        ("short", "--set train.length=0.0000001epochs --set train.warmup=0steps", "is less than one step of this data"),
    ] {
        let ran = pretrain(folder.path(), &format!("--config char --data world:40 --out {out} {more}"));
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(ran.err.contains(says) && !ran.err.contains("saved"), "{}", ran.err);
        // One without a step leaves nothing, and one that diverged says so again.
        let again = gptkit(folder.path(), &format!("pretrain --resume {out}"));
        let (code, says) = if out == "short" { (2, "short is not a run") } else { (1, "NaN or infinite") };
        assert!(again.code == Some(code) && again.err.contains(says), "{}", again.err);
    }
}

#[test]
fn a_mixture_is_validated_by_its_weights_and_by_source() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let more =
        "--config char --data world:200@0.25 --data world-patterns:50@0.75 --set data.val_fraction=0.3 --out run";
    let ran = pretrain(path, &format!("{more} --set train.batch_size=2")).ok();
    assert!(
        ran.err.contains("best val by source: world-patterns:50 ") && ran.err.contains("world:200 "),
        "{}",
        ran.err
    );
    let metrics = fs::read_to_string(path.join("run/metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let score = |source: &str| last["scores"][format!("loss/{source}")].as_f64().unwrap();
    let (a, b) = (score("world:200"), score("world-patterns:50"));
    assert!((a - b).abs() > 1e-3, "{a} {b}");
    assert!((last["val_loss"].as_f64().unwrap() - (0.25 * a + 0.75 * b)).abs() < 1e-9, "{last}");
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
    assert!(ran.err.contains("model.n_head was 2 and is now 4"), "{}", ran.err);
    fs::write(path.join("run/config.toml"), config).unwrap();
    fs::remove_dir_all(path.join("shards")).unwrap();
    gptkit(path, "pretrain --resume run").ok(); // the text is prepared again
    fs::remove_dir_all(path.join("shards")).unwrap();
    fs::write(path.join("text.txt"), "All is quiet on the pond, and the frogs sleep.\n".repeat(100)).unwrap();
    let ran = gptkit(path, "pretrain --resume run");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(
        ran.err.contains("has changed since this run started") || ran.err.contains("different tokenizer"),
        "{}",
        ran.err
    );
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
        assert!(ran.err.contains("standard deviations above the mean of the last 10"), "{}", ran.err);
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

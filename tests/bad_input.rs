//! Wrong input: exit code 2 where the command line or the configuration is wrong, 1 where the run fails; words that say
//! what, where and the way out; and no panic.

use super::{gptkit, pretrain, run};
use std::fs;
use std::path::Path;

/// What was said.
#[track_caller]
fn refusal(folder: &Path, arguments: &[&str], code: i32) -> String {
    let ran = run(folder, arguments, b"");
    assert_eq!(ran.code, Some(code), "{}", ran.err);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    // Lines of progress hold a speed.
    let words: Vec<&str> = ran.err.lines().filter(|line| !line.contains("MB/s")).collect();
    words.join("\n")
}

#[test]
fn a_wrong_configuration_lists_every_problem() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
[model]
kind = "gpt2"
n_layer = 2
n_head = 12
d_model = 100
context = 64

[tokenizer]
train = "bpe"
vocab_size = 100

[data]
sources = []

[train]
length = "100 steps"
batch_size = 0
lerning_rate = 1e-3
lr = 1e-3
"#;
    fs::write(folder.path().join("wrong.toml"), text).unwrap();
    insta::assert_snapshot!(refusal(folder.path(), &["pretrain", "--config", "wrong.toml"], 2));
}

#[test]
fn wrong_words_on_the_command_line_are_usage() {
    let folder = tempfile::tempdir().unwrap();
    let said: Vec<String> = [
        &["pretrain", "--config", "gtp2-small"][..],
        &["pretrain", "--set", "train.lr=fast"],
        &["pretrain", "--set", "train.lr"],
        &["pretrain", "--set", "train.speed=3"],
        &["pretrain", "--set", "train.length=\"1500 stepps\""],
        &["pretrain", "--data", "text.txt@-1", "--data", "world:many", "--tokenizer", "nowhere"],
        &["sample", "--model", "none", "--temperature", "-1"],
        &["sample", "--model", "none", "--top-p", "1.5", "--min-p", "0"],
        &["tokenizer", "train", "--kind", "bpe", "--vocab-size", "3", "--out", "t"],
    ]
    .iter()
    .map(|arguments| format!("$ gptkit {}\n{}\n", arguments.join(" "), refusal(folder.path(), arguments, 2)))
    .collect();
    insta::assert_snapshot!(said.join("\n"));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "a refused command leaves nothing");
}

#[test]
fn files_that_are_missing_or_wrong_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("records.jsonl", b"{\"text\": \"one\"}\n{\"text\": \"two\"\n");
    write("keys.jsonl", b"{\"text\": \"one\"}\n{\"txt\": \"two\"}\n");
    write("latin.txt", b"caf\xe9 au lait\n");
    write("empty.txt", b"");
    write("cut.txt.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 75]);
    write("tokenizer.json", b"{\"version\": 3}");
    write("taken", b"");
    fs::create_dir(folder.path().join("model")).unwrap();
    write("model/config.json", b"{\"model_type\": \"llama\"}");
    let said: Vec<String> = [
        "pretrain --data records.jsonl",
        "pretrain --data keys.jsonl",
        "pretrain --data latin.txt",
        "pretrain --data empty.txt",
        "pretrain --data cut.txt.gz",
        "pretrain --tokenizer tokenizer.json",
        "pretrain --init model",
        "sample --model nowhere --prompt a",
        "sample --model model --prompt a",
        "sample --model model --prompt-file missing.txt",
        "tokenizer encode --tokenizer nowhere",
        "prepare --data latin.txt --out prepared",
    ]
    .iter()
    .map(|command| {
        let arguments: Vec<&str> = command.split(' ').collect();
        format!("$ gptkit {command}\n{}\n", refusal(folder.path(), &arguments, 1))
    })
    .collect();
    insta::assert_snapshot!(said.join("\n"));
    assert!(!folder.path().join("prepared").exists(), "half a folder of shards was left");
}

#[test]
fn bad_records_are_skipped_and_counted_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let good: String = (0..200).map(|i| format!("{{\"text\": \"Number {i} of many good records.\"}}\n")).collect();
    fs::write(folder.path().join("mixed.jsonl"), good + "{broken\n{\"text\": \"\"}\n").unwrap();
    let ran = gptkit(
        folder.path(),
        "prepare --config char --data mixed.jsonl --on-bad-record skip --out prepared --set model.context=16",
    )
    .ok();
    assert!(ran.err.contains("2 bad records were left out, the first: mixed.jsonl line 201"), "{}", ran.err);
}

#[test]
fn a_run_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("mine")).unwrap();
    fs::write(folder.path().join("mine/thesis.txt"), "precious").unwrap();
    let ran = pretrain(folder.path(), "--config char --data world:40 --out mine");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("mine is not empty"), "{}", ran.err);
    assert_eq!(fs::read_to_string(folder.path().join("mine/thesis.txt")).unwrap(), "precious");
}

#[test]
fn a_run_that_diverges_ends_with_its_checkpoint_intact() {
    let folder = tempfile::tempdir().unwrap();
    let more = "--config char --data world:40 --set train.lr=1e30 --set train.min_lr=1e29 --out run";
    let ran = pretrain(folder.path(), more);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_eq!(ran.err.matches("no update is made").count(), 4, "{}", ran.err);
    assert!(ran.err.contains("5th time in a row; lower train.lr"), "{}", ran.err);
    assert!(folder.path().join("run/checkpoints/step-000000/model.safetensors").exists());
}

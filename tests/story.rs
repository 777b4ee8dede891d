//! The story in one command: stages that are done, skipped, killed, stopped, done anew and refused.

use super::resume::{start, wait_for};
use super::{gptkit, run};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A story of four stages that takes seconds.
const STORY: &str = r#"
[data]
text = "world:60:{seed}"
patterns = "world-patterns:60:{seed}"
instructions = "world:20:{seed}"
held-out = "world:5:{seed}"
comparisons = "world:20:{seed}"

[questions]
ask = ["Who are you?", "What now?"]

[[stages]]
name = "tokenizer"
chapter = "transformer"
run = "tokenizer train --data {text} --vocab-size 300 --out {out}"

[[stages]]
name = "gpt1"
chapter = "gpt1"
run = """pretrain --tokenizer {tokenizer} --data {text} --set model.n_layer=2 --set model.n_head=2 --set model.d_model=16
  --set model.context=64 --set "train.length=STEPS steps" --set train.batch_size=2 --set train.eval_every=50 --seed {seed}
  --out {out}"""

[[stages]]
name = "chat"
chapter = "chatgpt"
out = "chat.jsonl"
asks = true
run = "chat --model {gpt1} --max-new-tokens 4 --temperature 0"

[[stages]]
name = "records"
chapter = "gpt1"
stdout = "records.jsonl"
run = "world --pattern color --count 5"
"#;

fn story(folder: &Path, steps: u32) {
    fs::write(folder.join("story.toml"), STORY.replace("STEPS", &steps.to_string())).unwrap();
}

/// What the stages left that must be the same however the story came about.
fn left(folder: &Path) -> Vec<Vec<u8>> {
    let of_seed = folder.join("runs/lineage/seed-1");
    ["tokenizer/tokenizer.json", "gpt1/model.safetensors", "chat.jsonl", "records.jsonl"]
        .map(|name| fs::read(of_seed.join(name)).unwrap_or_else(|e| panic!("{name}: {e}")))
        .into()
}

/// The report's data without what time and memory it took.
fn report(folder: &Path) -> Value {
    fn without_times(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields
                    .retain(|key, _| !["elapsed_s", "ended_at", "peak_bytes", "tokens_per_s"].contains(&key.as_str()));
                fields.values_mut().for_each(without_times);
            }
            Value::Array(values) => values.iter_mut().for_each(without_times),
            _ => {}
        }
    }
    let mut report = serde_json::from_slice(&fs::read(folder.join("runs/lineage/report.json")).unwrap()).unwrap();
    without_times(&mut report);
    report
}

#[test]
fn a_story_is_told_once_and_anew_from_a_stage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    story(path, 60);
    let told = gptkit(path, "lineage --config story.toml").ok();
    for words in ["[1/4] tokenizer →", "] gpt1 ← tokenizer →", "/4] chat ← gpt1 →", "records: ", "to go"] {
        assert!(told.err.contains(words), "{words}: {}", told.err);
    }
    assert!(told.out.contains("not measured"), "{}", told.out);
    let page = fs::read_to_string(path.join("runs/lineage/report.html")).unwrap();
    let command = "<span>gptkit</span> <span>pretrain</span> <span>--tokenizer</span>";
    assert!(page.contains("Who are you?") && page.contains(command), "{page}");
    let answers = fs::read_to_string(path.join("runs/lineage/seed-1/chat.jsonl")).unwrap();
    assert_eq!(answers.lines().count(), 2, "{answers}");
    assert!(answers.contains("Who are you?"), "{answers}");
    let first = left(path);
    let again = gptkit(path, "lineage --config story.toml").ok();
    assert!(again.err.contains("4 of 4 stages were already finished"), "{}", again.err);
    let plan = gptkit(path, "lineage --config story.toml --from gpt1 --dry-run").ok();
    let states: Vec<&str> = plan.out.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(states, ["done", "rerun", "rerun", "done"], "{}", plan.out);
    let anew = gptkit(path, "lineage --config story.toml --from gpt1").ok();
    assert!(anew.err.contains("2 of 4 stages were already finished"), "{}", anew.err);
    assert!(left(path) == first, "the same seed gave something else");
    assert!(path.join("runs/lineage/seed-1/replaced/gpt1-1/model.safetensors").exists(), "the earlier run is lost");
}

#[test]
fn a_story_killed_in_a_stage_goes_on_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let whole = tempfile::tempdir().unwrap();
    for path in [folder.path(), whole.path()] {
        story(path, 400);
    }
    gptkit(whole.path(), "lineage --config story.toml").ok();
    let words: Vec<String> = ["lineage", "--config", "story.toml"].map(str::to_owned).into();
    let stage: PathBuf = folder.path().join("runs/lineage/seed-1/gpt1");
    let mut child = start(folder.path(), &words);
    wait_for(&mut child, &stage, 120);
    assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
    child.kill().unwrap();
    drop(child.stderr.take()); // as when its terminal is gone
    child.wait().unwrap();
    let gone_on = gptkit(folder.path(), "lineage --config story.toml").ok();
    assert!(gone_on.err.contains("resuming "), "{}", gone_on.err);
    assert!(left(folder.path()) == left(whole.path()), "it came out otherwise");
    assert_eq!(report(folder.path()), report(whole.path()));
    let log = fs::read_to_string(stage.with_file_name("stages/gpt1.log")).unwrap();
    assert!(log.contains("$ gptkit pretrain --resume runs/lineage/seed-1/gpt1"), "{log}");
}

#[test]
#[cfg(unix)]
fn a_story_that_is_asked_to_stop_saves_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    story(folder.path(), 100_000);
    let words: Vec<String> = ["lineage", "--config", "story.toml"].map(str::to_owned).into();
    let mut child = start(folder.path(), &words);
    wait_for(&mut child, &folder.path().join("runs/lineage/seed-1/gpt1"), 60);
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.ends_with("next: gptkit lineage --config story.toml\n"), "{said}");
    let plan = gptkit(folder.path(), "lineage --config story.toml --dry-run").ok().out;
    assert!(plan.contains("started"), "{plan}");
}

#[test]
fn a_stage_alone_needs_what_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    story(folder.path(), 20);
    let ran = gptkit(folder.path(), "lineage --config story.toml --only chat");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("stage chat needs the output of stage gpt1, which is not finished"), "{}", ran.err);
    gptkit(folder.path(), "lineage --config story.toml --only records").ok();
    assert!(folder.path().join("runs/lineage/seed-1/records.jsonl").exists());
    assert!(!folder.path().join("runs/lineage/seed-1/tokenizer").exists());
}

#[test]
fn a_story_of_ones_own_data_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let text: String = (0..400).map(|i| format!("Line {i} of a text of one's own.\n")).collect();
    fs::write(path.join("own.txt"), text).unwrap();
    let records: String = (0..60).map(|i| format!("{{\"prompt\":\"Say {i}\",\"completion\":\"{i}\"}}\n")).collect();
    fs::write(path.join("own.jsonl"), records).unwrap();
    story(path, 20);
    let command = "lineage --config story.toml --text own.txt --instructions own.jsonl";
    let told = gptkit(path, command).ok();
    assert!(told.err.contains("the second round is skipped"), "{}", told.err);
    let config = fs::read_to_string(path.join("runs/lineage/seed-1/gpt1/config.toml")).unwrap();
    assert!(config.contains("own.txt"), "{config}");
    let lines = |name: &str| fs::read_to_string(path.join("runs/lineage/seed-1").join(name)).unwrap().lines().count();
    assert_eq!(lines("instructions.jsonl") + lines("held-out.jsonl"), 60);
}

#[test]
fn the_story_of_the_preset_has_commands_that_can_be_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let plan = gptkit(folder.path(), "lineage --dry-run").ok().out;
    for name in ["lstm", "gpt1", "bert", "gpt2", "gpt3", "in-context", "sft", "rm", "ppo", "rm-2", "ppo-2"] {
        let stage = plan.lines().find(|line| line.split_whitespace().next() == Some(name));
        assert!(stage.is_some_and(|line| line.contains(" gptkit ")), "{name}: {plan}");
    }
    assert!(!folder.path().join("runs").exists(), "a dry run wrote something");
}

#[test]
fn a_story_that_cannot_be_told_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut said = String::new();
    let mut refused = |name: &str, text: String, more: &[&str], code: i32| {
        fs::write(path.join("story.toml"), text).unwrap();
        let ran = run(path, &[&["lineage", "--config", "story.toml"], more].concat(), b"");
        assert_eq!(ran.code, Some(code), "{name}: {}", ran.err);
        if code == 0 {
            return; // it takes its time, which is another each time
        }
        said += &format!("--- {name}\n{}", ran.err);
    };
    let sound = STORY.replace("STEPS", "20");
    refused(
        "names that nothing has",
        sound.replace("{gpt1}", "{gpt9}").replace("{seed} --out", "{chat} --out"),
        &[],
        2,
    );
    refused("a name twice", sound.replace("name = \"records\"", "name = \"chat\""), &[], 2);
    refused("a quotation without end", sound.replace("'", "").replace("\"train.length=20 steps\"", "'train"), &[], 2);
    refused("options that a command has not", sound.replace("--vocab-size", "--vocab"), &[], 2);
    refused("a story in a story", sound.replace("world --pattern color --count 5", "lineage"), &[], 2);
    refused("a stage that is none", sound.clone(), &["--only", "gpt1,sft"], 2);
    refused("a file that is none", sound.clone(), &["--text", "none.txt"], 2);
    assert!(!path.join("runs").exists(), "a refused story wrote something");
    let fails = sound.replace("world --pattern color --count 5", "predict --model none --data none.jsonl");
    refused("a stage that fails", fails, &["--only", "records"], 1);
    fs::remove_dir_all(path.join("runs")).unwrap();
    refused("a stage alone", sound.clone(), &["--only", "records"], 0);
    refused("a command that has changed", sound.replace("--count 5", "--count 6"), &["--only", "records"], 1);
    insta::assert_snapshot!(said);
}

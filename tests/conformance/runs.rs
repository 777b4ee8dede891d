//! Learning rates as transformers' schedules give them; settings that a run does not come to; edits between stop and resume.

use super::{none_differ, rows};
use crate::{Ran, run};
use serde_json::Value;
use std::fs;
use std::path::Path;

const N_ROWS: usize = 18;
const TINY: [&str; 7] = [
    "model.n_layer=1",
    "model.n_head=1",
    "model.d_model=8",
    "model.context=16",
    "train.batch_size=2",
    "train.eval_windows=4",
    "train.eval_every=5",
];

fn of_kind(kind: &str, n: usize) -> Vec<Value> {
    let found: Vec<Value> = rows("runs", N_ROWS).into_iter().filter(|row| row["kind"] == kind).collect();
    assert_eq!(found.len(), n, "rows of kind {kind}");
    found
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A folder with two texts.
fn work() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = |line: &str| (0..120).map(|n| format!("{line} {n}.\n")).collect::<String>();
    fs::write(folder.path().join("a.txt"), text("The miller carried sack number")).unwrap();
    fs::write(folder.path().join("b.txt"), text("Nobody saw the lamp on night")).unwrap();
    folder
}

/// `KEY=VALUE` with a length in quotes, as TOML has it.
fn setting(text: &str) -> String {
    match text.split_once('=') {
        Some((key, value)) if value.contains(' ') => format!("{key}=\"{value}\""),
        _ => text.to_owned(),
    }
}

fn pretrain(folder: &Path, settings: &[String], more: &[String]) -> Ran {
    let mut words = vec!["pretrain".to_owned(), "--config".to_owned(), "char".to_owned()];
    let all = TINY.iter().map(|&text| text.to_owned()).chain(settings.iter().map(|text| setting(text)));
    words.extend(all.flat_map(|text| ["--set".to_owned(), text]));
    if !more.iter().any(|word| word == "--data") {
        words.extend(["--data".to_owned(), "a.txt".to_owned()]);
    }
    words.extend(more.iter().cloned());
    run(folder, &words.iter().map(String::as_str).collect::<Vec<_>>(), b"")
}

/// A field of each line of `metrics.jsonl`.
fn metrics(run: &Path, key: &str) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()[key].as_f64().unwrap()).collect()
}

#[test]
fn learning_rates_are_those_of_transformers() {
    let mut differences = Vec::new();
    for row in of_kind("schedule", 5) {
        let folder = work();
        let out = ["--out".to_owned(), "run".to_owned()];
        pretrain(folder.path(), &strings(&row["set"]), &out).ok();
        let found = metrics(&folder.path().join("run"), "learning_rate");
        let expected: Vec<f64> = serde_json::from_value(row["rates"].clone()).unwrap();
        let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9;
        if found.len() != expected.len() || !found.iter().zip(&expected).all(close) {
            differences.push(format!("{}: {found:?}, in transformers {expected:?}", row["name"]));
        }
    }
    none_differ(&differences);
}

#[test]
fn settings_that_a_run_does_not_come_to_are_said_before_its_first_step() {
    let mut differences = Vec::new();
    for row in of_kind("warning", 9) {
        let folder = work();
        let ran = pretrain(folder.path(), &strings(&row["set"]), &strings(&row["arguments"])).ok();
        let words = strings(&row["words"]);
        let said = ran.err.split("step 1/").next().unwrap_or_default();
        if !words.iter().all(|words| said.contains(words)) || words.is_empty() && said.contains("warning") {
            differences.push(format!("{}: {}", row["name"], ran.err));
        }
    }
    none_differ(&differences);
}

#[test]
fn edits_between_stop_and_resume_are_obeyed_without_a_jump_or_refused() {
    let mut differences = Vec::new();
    for row in of_kind("edit", 4) {
        let folder = work();
        let out = ["--out".to_owned(), "run".to_owned()];
        pretrain(folder.path(), &strings(&row["set"]), &out).ok();
        let (run_folder, edits) = (folder.path().join("run"), row["edits"].as_array().unwrap());
        let file = run_folder.join("config.toml");
        let mut config = fs::read_to_string(&file).unwrap();
        for edit in edits {
            let (before, after) = (edit[0].as_str().unwrap(), edit[1].as_str().unwrap());
            assert!(config.contains(before), "{before} is not in {config}");
            config = config.replace(before, after);
        }
        fs::write(&file, config).unwrap();
        if edits.is_empty() {
            fs::write(folder.path().join("a.txt"), "another text\n".repeat(200)).unwrap();
        }
        let ran = run(folder.path(), &["pretrain", "--resume", "run"], b"");
        let goes_on = row["resumes"] == true;
        let words = strings(&row["words"]);
        if ran.code != Some(if goes_on { 0 } else { 1 }) || !words.iter().all(|words| ran.err.contains(words)) {
            differences.push(format!("{}: {:?} {}", row["name"], ran.code, ran.err));
        }
        if goes_on {
            differences.extend(jumps(&run_folder).into_iter().map(|what| format!("{}: {what}", row["name"])));
        }
    }
    none_differ(&differences);
}

/// Steps after which tokens are left out, or the learning rate rises once it has begun to fall.
fn jumps(run: &Path) -> Vec<String> {
    let (tokens, rates) = (metrics(run, "tokens"), metrics(run, "learning_rate"));
    let skips = tokens.iter().enumerate().filter(|(i, tokens)| **tokens != (i + 1) as f64 * 32.0);
    let mut found: Vec<String> = skips.map(|(i, tokens)| format!("step {} has {tokens} tokens", i + 1)).collect();
    let rises = rates.windows(2).enumerate().skip(4).filter(|(_, pair)| pair[1] > pair[0]);
    found.extend(rises.map(|(i, pair)| format!("the rate rises from {} to {} after step {}", pair[0], pair[1], i + 1)));
    found
}

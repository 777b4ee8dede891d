//! Log-likelihoods, greedy answers and texts as lm-evaluation-harness measures them, and rewards as transformers computes them.

use super::{folder, none_differ, rows};
use crate::gptkit;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const N_ROWS: usize = 24;

/// The rows of a kind.
fn of_kind(kind: &str) -> Vec<Value> {
    rows("evaluation", N_ROWS).into_iter().filter(|row| row["kind"] == kind).collect()
}

fn model(row: &Value) -> PathBuf {
    folder().join("evaluation").join(row["model"].as_str().unwrap())
}

/// What `gptkit eval` writes of each record of a task.
fn instances(work: &Path, model: &Path, task: &str, records: &[Value]) -> Vec<Value> {
    let lines: String = records.iter().map(|record| record.to_string() + "\n").collect();
    fs::write(work.join("records.jsonl"), lines).unwrap();
    fs::write(work.join("mine.toml"), task).unwrap();
    let out = work.join("out");
    let _ = fs::remove_dir_all(&out);
    let command = format!("eval --model {} --task mine.toml=records.jsonl --dtype f32 --out out", model.display());
    gptkit(work, &command).ok();
    lines_of(&out)
}

/// The one file of instances below `out`.
fn lines_of(out: &Path) -> Vec<Value> {
    let task = fs::read_dir(out.join("instances")).unwrap().next().unwrap().unwrap().path();
    let model = fs::read_dir(task).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(model.join("0-shot.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() < 1e-3 * expected.abs().max(1.0)
}

#[test]
fn answers_are_as_likely_as_in_the_harness() {
    let work = tempfile::tempdir().unwrap();
    let task = "scoring = \"choice\"\nprompt = \"{{ context }}\"\nanswer = \"{{ choice }}\"\n[choice]\nof = \"answers\"\n\
                right = \"label\"\n";
    let mut differences = Vec::new();
    let rows = of_kind("choice");
    assert_eq!(rows.len(), 13);
    for row in rows {
        let record = json!({ "context": row["context"], "answers": row["answers"], "label": 0 });
        let found = &instances(work.path(), &model(&row), task, &[record])[0]["log_probs"];
        let pairs = found.as_array().unwrap().iter().zip(row["log_probs"].as_array().unwrap());
        if !pairs.into_iter().all(|(a, b)| close(a.as_f64().unwrap(), b.as_f64().unwrap())) {
            differences.push(format!("{}: {found}, in the harness {}", row["name"], row["log_probs"]));
        }
    }
    none_differ(&differences);
}

#[test]
fn greedy_answers_are_those_of_the_harness() {
    let work = tempfile::tempdir().unwrap();
    let mut differences = Vec::new();
    let rows = of_kind("generation");
    assert_eq!(rows.len(), 4);
    for row in rows {
        let task = format!(
            "scoring = \"generation\"\nprompt = \"{{{{ context }}}}\"\nanswer = \"{{{{ answer }}}}\"\n[generation]\naccept = \"answer\"\n\
             metrics = [\"exact\"]\nmax_new_tokens = {}\n",
            row["max_new_tokens"]
        );
        let record = json!({ "context": row["context"], "answer": "x" });
        let found = &instances(work.path(), &model(&row), &task, &[record])[0]["written"];
        if *found != row["text"] {
            differences.push(format!("{}: {found}, in the harness {}", row["name"], row["text"]));
        }
    }
    none_differ(&differences);
}

/// The harness cuts a text into windows that overlap by one token. Bits per byte and per character are of the file.
#[test]
fn texts_are_as_likely_as_in_the_harness() {
    let work = tempfile::tempdir().unwrap();
    let mut differences = Vec::new();
    let rows = of_kind("text");
    assert_eq!(rows.len(), 4);
    for row in rows {
        fs::write(work.path().join("text.txt"), row["text"].as_str().unwrap()).unwrap();
        let _ = fs::remove_dir_all(work.path().join("out"));
        let model = model(&row);
        let command =
            format!("eval --model {} --task text=text.txt --stride 24 --dtype f32 --out out --json", model.display());
        let ran = gptkit(work.path(), &command).ok();
        let windows = lines_of(&work.path().join("out"));
        let sum = |key: &str| windows.iter().map(|window| window[key].as_f64().unwrap()).sum::<f64>();
        let expected = |key: &str| row[key].as_f64().unwrap();
        if !close(sum("nats"), expected("nats"))
            || sum("bytes") != expected("bytes")
            || sum("characters") != expected("characters")
        {
            differences.push(format!("{}: {windows:?}, in the harness {row}", row["name"]));
        }
        let bits = expected("nats") / expected("bytes") / std::f64::consts::LN_2;
        let shown: Value = serde_json::from_str(&ran.out).unwrap();
        let figures = shown["cells"][0]["measured"]["figures"].as_array().unwrap();
        let shown = figures.iter().find(|figure| figure["metric"] == "bits per byte").unwrap();
        if !close(shown["value"].as_f64().unwrap(), bits) {
            differences.push(format!("{}: {shown}, expected {bits}", row["name"]));
        }
    }
    none_differ(&differences);
}

#[test]
fn rewards_of_other_peoples_models_are_those_of_transformers() {
    let work = tempfile::tempdir().unwrap();
    let mut differences = Vec::new();
    let rows = of_kind("reward");
    assert_eq!(rows.len(), 3);
    for row in rows {
        let dialogues = row["dialogues"].as_array().unwrap();
        let lines: String = dialogues
            .iter()
            .map(|pair| json!({ "prompt": pair[0], "completion": pair[1] }).to_string() + "\n")
            .collect();
        fs::write(work.path().join("in.jsonl"), lines).unwrap();
        let command = format!("score --model {} --data in.jsonl --dtype f32", model(&row).display());
        let out = gptkit(work.path(), &command).ok().out;
        for (line, expected) in out.lines().zip(row["rewards"].as_array().unwrap()) {
            let found: Value = serde_json::from_str(line).unwrap();
            if !close(found["reward"].as_f64().unwrap(), expected.as_f64().unwrap()) {
                differences.push(format!("{}: {line}, in transformers {expected}", row["name"]));
            }
        }
        assert_eq!(out.lines().count(), dialogues.len());
    }
    none_differ(&differences);
}

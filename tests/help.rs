//! The help of every subcommand, and what is embedded.

use super::{gptkit, run};
use std::path::Path;

#[test]
fn help_is_what_it_was() {
    for command in [
        "",
        "pretrain",
        "finetune",
        "predict",
        "plan",
        "inspect",
        "runs",
        "plot",
        "dpo",
        "compare",
        "win-rates",
        "eval",
        "sample",
        "chat",
        "attention",
        "prepare",
        "scaling",
        "tokenizer",
        "tokenizer train",
        "tokenizer encode",
        "config",
        "world",
        "completions",
        "man",
    ] {
        let name = if command.is_empty() { "gptkit".to_owned() } else { command.replace(' ', "_") };
        insta::assert_snapshot!(name, gptkit(Path::new("."), format!("{command} --help").trim()).ok().out);
    }
}

#[test]
fn presets_are_listed_with_what_they_are() {
    insta::assert_snapshot!(gptkit(Path::new("."), "config list").ok().out);
}

#[test]
fn a_shown_preset_is_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let shown = gptkit(folder.path(), "config show gpt2-small").ok().out;
    std::fs::write(folder.path().join("mine.toml"), &shown).unwrap();
    assert_eq!(gptkit(folder.path(), "config show mine.toml").ok().out, shown);
}

#[test]
fn the_world_is_a_function_of_its_seed_and_json_holds_state_and_questions() {
    let world = |arguments: &str| gptkit(Path::new("."), &format!("world {arguments}")).ok().out;
    assert_eq!(world("--stories 5"), world("--stories 5"));
    assert_ne!(world("--seed 1"), world("--seed 2"));
    for line in world("--stories 5 --json").lines() {
        let story: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(!story["state"]["ending"]["people"].as_array().unwrap().is_empty());
        assert!(story["questions"].as_array().unwrap().iter().all(|q| q["answer"].is_string()));
    }
}

#[test]
fn patterns_are_documents_with_a_blank_line_between() {
    let out = gptkit(Path::new("."), "world --patterns --count 30").ok().out;
    let documents: Vec<&str> = out.trim_end().split("\n\n").collect();
    assert_eq!(documents.len(), 30);
    assert!(documents.iter().any(|document| document.lines().all(|line| line.starts_with("- "))));
    assert!(documents.iter().any(|document| document.lines().all(|line| line.starts_with(['T', 'F']))));
}

#[test]
fn instructions_comparisons_and_tasks_of_the_world_are_json_lines_with_their_keys() {
    let keys = |arguments: &str| {
        let out = gptkit(Path::new("."), &format!("world --count 4 {arguments}")).ok().out;
        assert_eq!(out.lines().count(), 4);
        let key = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap().as_object().unwrap().clone();
        let all: Vec<String> = out.lines().map(|l| key(l).keys().cloned().collect::<Vec<_>>().join(" ")).collect();
        assert!(all.iter().all(|keys| *keys == all[0]));
        all[0].clone()
    };
    assert_eq!(keys("--instructions"), "prompt completion kind");
    assert_eq!(keys("--instructions --held-out"), "prompt completion kind");
    assert_eq!(keys("--comparisons"), "prompt completions ranking gold");
    assert_eq!(keys("--comparisons --held-out"), "prompt completions ranking gold");
    assert_eq!(keys("--task classification"), "text label");
    assert_eq!(keys("--task entailment"), "premise hypothesis label");
    assert_eq!(keys("--task similarity"), "text_a text_b label");
    assert_eq!(keys("--task multiple-choice --held-out"), "context choices label");
    assert_eq!(keys("--task regression"), "text label");
    assert_eq!(keys("--pattern first-word"), "input output");
    assert_eq!(keys("--pattern lookup --held-out"), "input output");
    for wrong in [
        "--held-out",
        "--task none",
        "--task regression --instructions",
        "--task regression --json",
        "--comparisons --instructions",
        "--comparisons --json",
        "--pattern none",
        "--pattern labels --task regression",
        "--patterns --held-out",
        "--patterns --pattern labels",
        "--patterns --json",
    ] {
        assert_eq!(gptkit(Path::new("."), &format!("world {wrong}")).code, Some(2), "{wrong}");
    }
}

#[test]
fn the_version_is_the_crates() {
    let version = run(Path::new("."), &["--version"], b"").ok().out;
    assert_eq!(version, format!("gptkit {}\n", env!("CARGO_PKG_VERSION")));
}

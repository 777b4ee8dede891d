//! `gptkit dpo`, from outside.

use super::resume::{start, wait_for};
use super::{Ran, gptkit, pretrain, run};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A language model that knows nothing, in `pre`, and one that has begun to answer, in `chat`.
fn models(folder: &Path) {
    pretrain(folder, "--data world:60 --set model.context=160 --set train.length=2steps --out pre").ok();
    let sft = "sft --init pre --data world:200 --dtype f32 --set train.batch_size=4 --set train.warmup=0steps";
    gptkit(folder, &format!("{sft} --set train.length=40steps --out chat")).ok();
}

const TINY: &str =
    "dpo --init chat --dtype f32 --set train.batch_size=4 --set train.warmup=0steps --set train.decay=constant";

fn dpo(folder: &Path, more: &str) -> Ran {
    gptkit(folder, &format!("{TINY} {more}"))
}

fn json(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))).unwrap()
}

fn bytes(folder: &Path, file: &str) -> Vec<u8> {
    fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

#[test]
fn comparisons_are_learned_and_the_outcome_is_a_model_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    models(path);
    let more = "--data world:300 --set train.lr=3e-3 --set train.eval_every=25 --set train.length=75steps --out out";
    let ran = dpo(path, more).ok();
    for says in [
        "training prompts, 30 validation prompts",
        "parameters are trained · β 0.1",
        "accuracy",
        "best possible on these labels",
        "margin",
    ] {
        assert!(ran.err.contains(says), "{says}: {}", ran.err);
    }
    let (a, b) = ("out", path.canonicalize().unwrap().join("chat"));
    let next = format!("next: gptkit compare --a {a} --b {} --prompts world:300 --judge gold\n", b.display());
    assert!(ran.err.ends_with(&next), "{}", ran.err);

    // It begins with a toss of a coin: it is its own reference.
    let scores = json(path, "out/scores.json");
    let number = |key: &str| scores[key].as_f64().unwrap_or_else(|| panic!("{key}: {scores}"));
    assert!(number("loss") < 2f64.ln() - 0.01 && number("margin") > 0.05, "{scores}");
    assert!(scores["accuracy"]["low"].as_f64().unwrap() > 0.5, "{scores}");
    let apart = number("chosen_log_ratio") - number("rejected_log_ratio");
    assert!((number("margin") - 0.1 * apart).abs() < 1e-9, "{scores}");
    let metrics = fs::read_to_string(path.join("out/metrics.jsonl")).unwrap();
    let records: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!((records[0]["train_loss"].as_f64().unwrap() - 2f64.ln()).abs() < 1e-5, "{}", records[0]);
    for name in ["accuracy", "margin", "chosen_log_ratio", "rejected_log_ratio"] {
        assert!(records[74]["scores"][name].is_f64(), "{}", records[74]);
    }

    // Chat template and ends are those of what it began with; so is how it is asked.
    for file in ["generation_config.json", "tokenizer_config.json"] {
        assert_eq!(json(path, &format!("out/{file}")), json(path, &format!("chat/{file}")), "{file}");
    }
    let chat = run(path, &["chat", "--model", "out"], b"What is 3 plus 4?\n").ok();
    assert!(!chat.err.contains("was not trained for dialogue"), "{}", chat.err);
    gptkit(path, "compare --a out --b chat --prompts world:4 --judge gold --out c").ok();
}

#[test]
fn a_run_that_was_killed_or_stopped_ends_with_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    models(path);
    let more = "--data world:60 --set train.eval_every=2 --set train.length=40steps --set dropout.residual=0.1 --out";
    dpo(path, &format!("{more} whole")).ok();
    let mut child = start(path, &format!("{TINY} {more} cut").split(' ').map(str::to_owned).collect::<Vec<_>>());
    let mut kills = 0;
    for after in [3, 12, 21] {
        wait_for(&mut child, &path.join("cut"), after);
        child.kill().unwrap(); // SIGKILL
        kills += usize::from(!child.wait().unwrap().success());
        child = start(path, &["dpo", "--resume", "cut"].map(str::to_owned));
    }
    wait_for(&mut child, &path.join("cut"), 30);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(kills == 3 && said.contains("next: gptkit dpo --resume cut"), "{kills} {said}");
    // The model that it began with is not needed.
    fs::rename(path.join("chat"), path.join("elsewhere")).unwrap();
    gptkit(path, "dpo --resume cut").ok();
    for file in ["model.safetensors", "scores.json", "checkpoints/step-000040/optimizer.safetensors"] {
        assert!(bytes(path, &format!("whole/{file}")) == bytes(path, &format!("cut/{file}")), "{file} differs");
    }
    let refused = gptkit(path, "dpo --resume cut --data world:70");
    assert_eq!(refused.code, Some(2));

    // What the reference said is looked at before it is gone on with.
    let mut kept = bytes(path, "cut/train.compared");
    kept[100] ^= 1;
    fs::write(path.join("cut/train.compared"), kept).unwrap();
    let ran = gptkit(path, "dpo --resume cut");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("train.compared") && ran.err.contains("damaged"), "{}", ran.err);
    fs::copy(path.join("whole/val.compared"), path.join("cut/train.compared")).unwrap();
    let ran = gptkit(path, "dpo --resume cut");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("has changed since this run started"), "{}", ran.err);
}

#[test]
fn adapters_learn_comparisons_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    models(path);
    let pairs: String = (0..40)
        .map(|n| format!("{{\"prompt\":\"Is it {n}?\",\"chosen\":\"no\",\"rejected\":\"yes it is\"}}\n"))
        .collect();
    fs::write(path.join("pairs.jsonl"), pairs).unwrap();
    let more =
        "--data pairs.jsonl --lora-rank 2 --set train.lr=1e-2 --set train.eval_every=6 --set train.length=12steps";
    let ran = dpo(path, &format!("{more} --out whole")).ok();
    assert!(ran.err.ends_with("next: gptkit chat --model whole\n"), "{}", ran.err);
    assert!(!path.join("whole/model.safetensors").exists(), "the base is not copied");
    let scores = json(path, "whole/scores.json");
    assert_eq!(scores["accuracy"]["value"].as_f64(), Some(1.0), "{scores}");
    dpo(path, &format!("{more} --max-time 1ms --out cut"));
    fs::remove_file(path.join("pairs.jsonl")).unwrap();
    gptkit(path, "dpo --resume cut").ok();
    for file in ["adapter_model.safetensors", "checkpoints/step-000012/optimizer.safetensors"] {
        assert!(bytes(path, &format!("whole/{file}")) == bytes(path, &format!("cut/{file}")), "{file} differs");
    }
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    models(path);
    let long = |word: &str| {
        serde_json::json!({ "prompt": word.repeat(400), "chosen": "b", "rejected": "c" }).to_string() + "\n"
    };
    fs::write(path.join("long.jsonl"), long("long ") + &long("very ")).unwrap();
    fs::write(path.join("nothing.jsonl"), "").unwrap();
    let mut said = String::new();
    for (words, code) in [
        ("--init chat --data nothing.jsonl", 1),
        ("--init chat --data long.jsonl", 1),
        ("--init pre --data world:20", 2),
        ("--init nowhere --data world:20", 2),
        ("--data world:20", 2),
        ("--init chat --data nowhere.jsonl --set dpo.beta=0 --set lora.rank=0", 2),
    ] {
        let ran = gptkit(path, &format!("dpo {words}"));
        assert_eq!(ran.code, Some(code), "{words}: {}", ran.err);
        let heard = ran.err.lines().filter(|line| !line.starts_with("reading "));
        said += &format!("{}\n\n", heard.collect::<Vec<_>>().join("\n"));
        assert!(!path.join("runs/dpo-small-1").exists(), "{words} left a run behind");
    }
    insta::assert_snapshot!(said);
}

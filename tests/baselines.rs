//! The LSTM and the masked model, from outside: pretrained as the others are; the LSTM learns and writes as they do where no
//! attention is needed, the masked model only labels.

use super::{gptkit, pretrain};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn baseline(folder: &Path, kind: &str) -> String {
    pretrain(folder, &format!("--data world:60 --set model.kind={kind} --set model.context=96 --out {kind}")).ok().err
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn they_are_pretrained_in_the_same_loop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (kind, next) in
        [("lstm", "plot lstm OTHER_RUN"), ("bert", "finetune --init bert --task classification --set lm_coef=0")]
    {
        let said = baseline(path, kind);
        assert!(said.contains(&format!("next: gptkit {next}")), "{said}");
        let config = json(&path.join(kind).join("config.json"));
        assert_eq!(config["model_type"], format!("gptkit-{kind}"));
        let entries = json(&path.join(kind).join("tokenizer.json"))["model"]["vocab"].as_object().unwrap().len();
        let rows = config["vocab_size"].as_u64().unwrap() as usize;
        assert!(rows >= entries, "{rows} rows, {entries} entries");
        let records = fs::read_to_string(path.join(kind).join("metrics.jsonl")).unwrap();
        let last: Value = serde_json::from_str(records.lines().last().unwrap()).unwrap();
        assert!(last["val_loss"].as_f64().unwrap() < 7.0, "{last}");
        let plan = gptkit(path, &format!("plan --data world:60 --set model.kind={kind} --set model.context=96")).ok();
        assert!(plan.out.contains(if kind == "lstm" { "LSTM · 4 layers · width" } else { "BERT" }), "{}", plan.out);
        assert_eq!(plan.out.contains("0.000e0 in attention"), kind == "lstm", "{}", plan.out);
        // From its own folder on.
        let more = format!("pretrain --init {kind} --data world:60 --set train.length=2steps --out {kind}-2");
        gptkit(path, &more).ok();
    }
    assert!(gptkit(path, "runs .").ok().out.contains("lstm-2"));
    gptkit(path, "plot lstm bert").ok();
    assert!(gptkit(path, "attention --model bert --text Mia").ok().out.contains("layer 0"));
}

#[test]
fn a_masked_model_learns_to_label() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    baseline(path, "bert");
    let words = "finetune --init bert --task classification --set train.length=2epochs --data world:60 --out labels";
    let ran = gptkit(path, words);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("lm_coef = 0.5") && ran.err.contains("hint: --set lm_coef=0"), "{}", ran.err);
    assert!(!path.join("labels").exists(), "a refused run leaves nothing");
    gptkit(path, &format!("{words} --set lm_coef=0")).ok();
    let scores = json(&path.join("labels/scores.json"));
    assert_eq!(scores["n"], 20);
    let config = json(&path.join("labels/config.json"));
    assert_eq!((&config["model_type"], &config["finetuning_task"]), (&"gptkit-bert".into(), &"classification".into()));
    let given = gptkit(path, "world --task classification --held-out --count 20").ok().out;
    let ran = super::run(path, &["predict", "--model", "labels"], given.as_bytes()).ok();
    assert_eq!(ran.out.lines().count(), 20);
    let shown = format!("accuracy {:.1}%", 100.0 * scores["scores"]["accuracy"].as_f64().unwrap());
    assert!(ran.err.contains(&shown), "{shown} in {}", ran.err);
}

#[test]
fn an_lstm_learns_tasks_and_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    baseline(path, "lstm");
    let words = "finetune --init lstm --task multiple-choice --set train.length=2steps --data world:60 --out choices";
    gptkit(path, words).ok();
    assert!(json(&path.join("choices/scores.json"))["scores"]["accuracy"].is_number());
    gptkit(path, "sft --init lstm --data world:60 --set train.length=2steps --out sft").ok();
    let sampled = |more: &str| {
        gptkit(path, format!("sample --model lstm --prompt Mia --max-new-tokens 120 --seed 3 {more}").trim()).ok().out
    };
    // Past its context of 96 tokens, too; several texts from one prompt are drawn as one alone is.
    assert!(sampled("").starts_with("Mia") && sampled("").len() > 100, "{}", sampled(""));
    assert!(
        sampled("--num-samples 3").contains(sampled("").trim()),
        "{} among {}",
        sampled(""),
        sampled("--num-samples 3")
    );
    let ran = super::run(path, &["chat", "--model", "sft", "--max-new-tokens", "9"], b"What is 1 plus 1?\n").ok();
    assert!(!ran.out.is_empty());
    let evaluated = "eval --model lstm --task world-endings --task text=world:3 --shots 0,1 --limit 9 --out eval";
    assert!(gptkit(path, evaluated).ok().out.contains("world-endings"));
}

#[test]
fn what_they_cannot_do_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    baseline(path, "lstm");
    baseline(path, "bert");
    let learns_from_comparisons = [
        "train-rm --init KIND --data world:60 --out no",
        "dpo --init KIND --data world:60 --out no",
        "ppo --init KIND --reward KIND --out no",
        "plan --stage ppo --init KIND",
    ];
    let of_lstm = ["attention --model KIND --text Mia", "sft --init KIND --data world:60 --lora-rank 4 --out no"];
    let of_bert = [
        "sample --model KIND",
        "chat --model KIND",
        "sft --init KIND --data world:60 --out no",
        "eval --model KIND --task world-patterns --out no",
    ];
    let mut said = String::new();
    for (kind, only) in [("lstm", &of_lstm[..]), ("bert", &of_bert[..])] {
        for command in learns_from_comparisons.iter().chain(only) {
            let command = command.replace("KIND", kind);
            let ran = gptkit(path, &command);
            assert!(matches!(ran.code, Some(1 | 2)), "{command}: {}", ran.err);
            assert!(!path.join("no").exists(), "{command} leaves nothing");
            said += &format!("$ gptkit {command}\n{}\n", ran.err);
        }
    }
    insta::assert_snapshot!(said);
}

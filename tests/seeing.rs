//! Seeing a run: samples of text, the list of runs, and charts of metrics.

use super::{Ran, TINY, gptkit, pretrain, run};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn read(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn samples(folder: &Path, run: &str) -> Vec<Value> {
    read(folder, &format!("{run}/samples.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Metrics without times, and the weights.
fn outcome(folder: &Path, run: &str) -> (Vec<Value>, Vec<u8>) {
    let records = read(folder, &format!("{run}/metrics.jsonl"));
    let without_speed = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("tokens_per_s");
        record
    };
    let weights = fs::read(folder.join(run).join("model.safetensors")).unwrap();
    (records.lines().map(without_speed).collect(), weights)
}

/// A pretraining run of a second with `more` words, into `out`.
fn trained(folder: &Path, out: &str, more: &[&str]) -> Ran {
    let words = ["--set", "model.init_std=0.02", "--config", "char", "--data", "world:40", "--out", out];
    run(folder, &[TINY, &words, more].concat(), b"").ok()
}

#[test]
fn a_model_writes_samples_at_each_validation_and_its_weights_are_those_of_a_run_without() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let dropout = ["--set", "model.residual_dropout=0.1"];
    let with = trained(path, "with", &dropout);
    let without = trained(path, "without", &[&dropout[..], &["--set", "samples.prompts=[]"]].concat());
    let prompts = "samples.prompts=[\"The fox\", \"\"]";
    trained(path, "own", &[&dropout[..], &["--set", prompts, "--set", "samples.temperature=0.8"]].concat());
    assert!(outcome(path, "with") == outcome(path, "without"), "samples change the training");
    assert!(outcome(path, "own") == outcome(path, "without"), "draws of samples change the training");

    let written = samples(path, "with");
    let steps: Vec<&Value> = written.iter().map(|sample| &sample["step"]).collect();
    assert_eq!(steps, [5, 10, 12]);
    assert!(written.iter().all(|sample| sample["prompt"] == written[0]["prompt"]), "{written:?}");
    assert!(!written[0]["text"].as_str().unwrap().is_empty());
    for step in [5, 10, 12] {
        let line = format!("sample at step {step}: {} → ", written[0]["prompt"].as_str().unwrap().trim());
        assert_eq!(with.err.matches(&line).count(), 1, "{line}\n{}", with.err);
    }
    assert!(!path.join("without/samples.jsonl").exists() && !without.err.contains("sample at step"));
    let own = samples(path, "own");
    assert_eq!((own.len(), &own[2]["prompt"], &own[3]["prompt"]), (6, &json!("The fox"), &json!("")));

    // A masked language model writes nothing; an LSTM does.
    for kind in ["bert", "lstm"] {
        pretrain(path, &format!("--config char --data world:40 --set model.kind={kind} --out {kind}")).ok();
        assert_eq!(path.join(kind).join("samples.jsonl").exists(), kind == "lstm");
    }
}

#[test]
fn a_prompt_that_cannot_be_continued_is_named_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["--config", "char", "--data", "world:40", "--set", "samples.prompts=[\"Ω\"]"];
    let ran = run(folder.path(), &[TINY, &words].concat(), b"");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("samples.prompts.0 = \"Ω\""), "{}", ran.err);
    for (set, says) in [
        ("samples.max_new_tokens=0", "samples.max_new_tokens = 0"),
        ("samples.prompt=x", "did you mean `samples.prompts`?"),
    ] {
        let ran = run(folder.path(), &[TINY, &["--set", set]].concat(), b"");
        assert!(ran.code == Some(2) && ran.err.contains(says), "{}", ran.err);
    }
    fs::create_dir(folder.path().join("x")).unwrap();
    let shape = r#"{"model_type":"gpt2","n_layer":1,"n_head":1,"n_embd":8,"n_positions":8,"vocab_size":17}"#;
    fs::write(folder.path().join("x/config.json"), shape).unwrap();
    let ran = gptkit(folder.path(), "finetune --init x --task classification --set samples.max_new_tokens=9");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("samples") && ran.err.contains("unknown"), "classifiers write no text: {}", ran.err);
}

/// The question is of the run's folder after `--resume`; the records may be gone.
#[test]
fn sft_answers_a_question_at_each_validation_and_a_resumed_run_has_each_answer_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    pretrain(path, "--set model.context=160 --set data.sources=[{path=\"world:50\"}] --out pre").ok();
    let sft = |out: &str, more: &str| {
        let words = format!(
            "sft --init pre --data world:60 --set train.batch_size=4 --set train.warmup=0steps \
             --set train.length=12steps --set train.eval_every=4 --out {out} {more}"
        );
        gptkit(path, words.split_whitespace().collect::<Vec<_>>().join(" ").as_str())
    };
    let whole = sft("whole", "").ok();
    let written = samples(path, "whole");
    assert_eq!(written.iter().map(|sample| &sample["step"]).collect::<Vec<_>>(), [4, 8, 12]);
    let asked: Value = serde_json::from_str(&read(path, "whole/answers.json")).unwrap();
    let question = asked[0]["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    assert!(written.iter().all(|sample| sample["prompt"] == question), "{written:?}");
    assert!(whole.err.contains("sample at step 8: "), "{}", whole.err);

    assert_eq!(sft("cut", "--max-time 1ms").code, Some(124));
    gptkit(path, "sft --resume cut").ok();
    assert_eq!(samples(path, "cut"), written);
    // A crash after an answer was written and before its checkpoint.
    sft("crashed", "--set samples.prompts=[\"Who?\"]").ok();
    let before = samples(path, "crashed");
    assert!(before.iter().all(|sample| sample["prompt"] == "Who?"), "{before:?}");
    fs::remove_dir_all(path.join("crashed/checkpoints/step-000012")).unwrap();
    gptkit(path, "sft --resume crashed").ok();
    assert_eq!(samples(path, "crashed"), before);
}

#[test]
fn runs_are_listed_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    trained(path, "runs/one", &[]);
    let out = gptkit(path, "runs --json").ok().out;
    let listed: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(listed.len(), 1);
    let one = &listed[0];
    assert_eq!(
        (&one["name"], &one["folder"], &one["command"]),
        (&json!("one"), &json!("runs/one"), &json!("pretrain"))
    );
    assert_eq!((&one["state"], &one["step"], &one["n_steps"]), (&json!("finished"), &json!(12), &json!(12)));
    let records = outcome(path, "runs/one").0;
    assert_eq!((&one["newest"]["metric"], &one["newest"]["value"]), (&json!("loss"), &records[11]["train_loss"]));
    let losses = records.iter().filter_map(|record| record["val_loss"].as_f64());
    let lowest = losses.min_by(f64::total_cmp).unwrap();
    assert_eq!((&one["best"]["criterion"], &one["best"]["loss"]), (&json!("loss"), &json!(lowest)));
    fs::create_dir(path.join("none")).unwrap();
    assert_eq!(gptkit(path, "runs none --json").ok().out, "");
    let refused = gptkit(path, "runs --watch");
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("--watch needs a terminal") && refused.out.is_empty(), "{}", refused.err);
    assert_eq!(gptkit(path, "runs --watch --json").code, Some(2));
}

/// In a terminal that `script` of util-linux makes.
#[cfg(target_os = "linux")]
#[test]
fn a_watched_table_is_drawn_again_until_it_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    trained(path, "runs/one", &[]);
    let watch = format!("timeout --signal INT 5 {} runs --watch", env!("CARGO_BIN_EXE_gptkit"));
    let mut script = std::process::Command::new("script");
    let script = script.args(["--quiet", "--command", &watch, "/dev/null"]).current_dir(path);
    let Ok(output) = script.stdin(std::process::Stdio::null()).output() else {
        eprintln!("skipped: there is no `script`");
        return;
    };
    let shown = String::from_utf8(output.stdout).unwrap();
    let n = shown.matches("best validation").count();
    assert!((2..=4).contains(&n), "{n} tables in 5 seconds: {shown:?}");
    assert!(shown.contains("12/12") && shown.contains("\u{1b}["), "{shown:?}");
}

#[test]
fn any_metric_is_drawn_and_seeds_are_one_curve_in_a_band() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for seed in ["1", "2"] {
        trained(path, &format!("runs/char-{seed}"), &["--seed", seed]);
    }
    let two = "plot runs/char-1 runs/char-2";
    let drawn =
        gptkit(path, &format!("{two} --metric grad_norm --metric val_loss --csv values.csv --out own.svg")).ok();
    assert!(drawn.err.contains("char: mean of seeds 1, 2, in a band from the lowest to the highest"), "{}", drawn.err);
    let svg = read(path, "own.svg");
    assert!(svg.contains(">grad_norm<") && svg.contains(">val_loss<") && !svg.contains(">train_loss<"), "{svg}");
    assert!(svg.contains("char (2 seeds: mean, min–max)") && svg.contains("class=\"band"), "{svg}");
    let csv = read(path, "values.csv");
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!((rows.len(), rows[0]), (1 + 12 + 3, "run,runs,metric,step,tokens,value,min,max"));
    let norm = |seed: &str| outcome(path, &format!("runs/char-{seed}")).0[0]["grad_norm"].as_f64().unwrap();
    let (a, b) = (norm("1"), norm("2"));
    let first: Vec<&str> = rows[1].split(',').collect();
    assert_eq!(first[..4], ["char", "2", "grad_norm", "1"]);
    let number = |text: &str| text.parse::<f64>().unwrap();
    assert!((number(first[5]) - (a + b) / 2.0).abs() < 1e-12, "{first:?}: {a}, {b}");
    assert_eq!((number(first[6]), number(first[7])), (a.min(b), a.max(b)));
    gptkit(path, &format!("{two} --separate")).ok();
    let separate = read(path, "curves.svg");
    assert!(separate.contains("char-1, training") && !separate.contains("seeds"), "{separate}");
    let refused = gptkit(path, "plot runs/char-1 --metric los");
    assert_eq!(refused.code, Some(2));
    insta::assert_snapshot!(refused.err);
}

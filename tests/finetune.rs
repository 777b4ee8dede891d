//! `gptkit finetune` and `gptkit predict`: labeled records, from outside.

use super::resume::{start, wait_for};
use super::{Ran, gptkit, pretrain, run};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A language model that knows nothing, in `pre`.
fn model(folder: &Path) {
    pretrain(folder, "--data world:60 --set model.context=96 --set train.length=2steps --out pre").ok();
}

/// A run of two epochs of `pre` on 60 records.
fn finetune(folder: &Path, task: &str, more: &str) -> Ran {
    let words = format!("finetune --init pre --task {task} --set train.length=2epochs {more}");
    gptkit(folder, words.trim())
}

fn records(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_task_is_learned_saved_and_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    for task in ["classification", "entailment", "similarity", "multiple-choice", "regression"] {
        let ran = finetune(path, task, &format!("--data world:60 --out {task}")).ok();
        assert!(ran.err.contains("60 training records, 20 validation records"), "{}", ran.err);
        assert!(ran.err.contains(&format!("next: gptkit predict --model {task}")), "{}", ran.err);
        let scores: Value = serde_json::from_slice(&fs::read(path.join(task).join("scores.json")).unwrap()).unwrap();
        assert_eq!(scores["n"], 20);
        // The weights of the best score are kept: it is named, and so is their loss, which need not be the lowest.
        let criterion = if task == "regression" { "correlation" } else { "accuracy" };
        assert!(ran.err.contains(&format!(" · best {criterion} ")) && ran.err.contains(", with val "), "{}", ran.err);
        let listed = gptkit(path, "runs . --json").ok().out;
        let mut listed = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let best = listed.find(|run| run["name"] == task).unwrap()["best"].clone();
        let apart = (best["loss"].as_f64().unwrap() - scores["loss"].as_f64().unwrap()).abs();
        assert!(best["criterion"] == criterion && apart < 1e-4, "{best} {scores}");
        let config: Value = serde_json::from_slice(&fs::read(path.join(task).join("config.json")).unwrap()).unwrap();
        assert_eq!(config["architectures"][0], "GPT2ForSequenceClassification");
        assert_eq!(config["finetuning_task"], task);
        assert_eq!(config["pad_token_id"], config["eos_token_id"]);

        let given = gptkit(path, &format!("world --task {task} --held-out --count 20")).ok().out;
        let ran = run(path, &["predict", "--model", task], given.as_bytes()).ok();
        let said = records(&ran.out);
        assert_eq!(said.len(), 20, "{}", ran.err);
        for (said, given) in said.iter().zip(records(&given)) {
            assert!(given.as_object().unwrap().iter().all(|(key, value)| &said[key] == value), "{said}");
            if task == "regression" {
                assert!(said["value"].is_f64(), "{said}");
                continue;
            }
            let probabilities = said["probabilities"].as_object().unwrap();
            let sum: f64 = probabilities.values().map(|p| p.as_f64().unwrap()).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{said}");
            let best = said["prediction"].as_str().map_or_else(|| said["prediction"].to_string(), str::to_owned);
            assert!(probabilities.values().all(|p| p.as_f64() <= probabilities[&best].as_f64()), "{said}");
        }
        // What is said of the same records when training ends and by `predict` is the same.
        let (name, shown) = match task {
            "regression" => ("mse", format!("mse {:.3}", scores["scores"]["mse"].as_f64().unwrap())),
            _ => ("accuracy", format!("accuracy {:.1}%", 100.0 * scores["scores"]["accuracy"].as_f64().unwrap())),
        };
        assert!(ran.err.contains(&shown), "{name}: {shown} in {}", ran.err);
    }
}

#[test]
fn a_validation_of_ones_own_and_no_language_model_loss() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let more = "--data world:60 --val world:30:2 --set lm_coef=0 --set train.recompute=blocks --out run";
    let ran = finetune(path, "classification", more).ok();
    assert!(ran.err.contains("60 training records, 30 validation records"), "{}", ran.err);
}

/// The best weights are chosen by the validation part, and measured on the test part.
#[test]
fn a_test_part_is_measured_and_neither_learned_nor_chosen_by() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let more = "--data world:60 --val world:30 --test world:25";
    let ran = finetune(path, "classification", &format!("{more} --out run")).ok();
    assert!(ran.err.contains("60 training records, "), "{}", ran.err);
    assert!(
        ran.err.contains(", 25 test records") && ran.err.contains(" · 25 test records · run/scores.json"),
        "{}",
        ran.err
    );
    let json = |file: &str| serde_json::from_slice::<Value>(&fs::read(path.join(file)).unwrap()).unwrap();
    let scores = json("run/scores.json");
    assert_eq!((&scores["part"], &scores["n"]), (&Value::from("test"), &Value::from(25)));
    assert!(scores["validation"]["n"].as_u64().unwrap() > 20, "{scores}");
    // The same records, labeled from outside.
    let given = gptkit(path, "world --task classification --held-out --count 25").ok().out;
    let ran = run(path, &["predict", "--model", "run"], given.as_bytes()).ok();
    let shown = format!("accuracy {:.1}%", 100.0 * scores["scores"]["accuracy"].as_f64().unwrap());
    assert!(ran.err.contains(&shown), "{shown} in {}", ran.err);
    // Without one, the validation part is measured, and says so.
    finetune(path, "classification", "--data world:60 --out other").ok();
    assert_eq!(
        (&json("other/scores.json")["part"], &json("other/scores.json")["n"]),
        (&"validation".into(), &20.into())
    );
    // A record of the test file is not learned from.
    let table = "text,label\na b,good\nc d,bad\ne f,good\ng h,bad\n";
    fs::write(path.join("train.csv"), table).unwrap();
    fs::write(path.join("test.csv"), "text,label\na b,good\n").unwrap();
    let ran = finetune(path, "classification", "--data train.csv --test test.csv --out own").ok();
    assert!(
        ran.err.contains("1 records are not used, because a validation or test record has the same prompt"),
        "{}",
        ran.err
    );
}

/// Words have the same tokens at the start of a text and inside it, for other libraries too.
#[test]
fn the_folder_says_that_texts_are_read_with_a_space_before_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    finetune(path, "entailment", "--data world:40 --out run").ok();
    let json = |file: &str| serde_json::from_slice::<Value>(&fs::read(path.join(file)).unwrap()).unwrap();
    assert_eq!(json("run/tokenizer_config.json")["add_prefix_space"], true);
    assert_eq!(json("run/tokenizer.json")["pre_tokenizer"]["add_prefix_space"], true);
    let record = |text: &str| format!("{{\"premise\": \"{text}Mia ran.\", \"hypothesis\": \"{text}Mia slept.\"}}");
    let said = |text: &str| run(path, &["predict", "--model", "run"], record(text).as_bytes()).ok().out;
    let of = |out: &str| records(out)[0]["probabilities"].clone();
    assert_eq!(of(&said("")), of(&said(" ")));
    // The language model beside it reads text as it is: nothing is predicted or counted otherwise than before.
    let logits = |model: &str| {
        gptkit(path, &format!("sample --model {model} --prompt Mia --max-new-tokens 1 --temperature 0 --json")).ok().out
    };
    let tokens = |out: String| serde_json::from_str::<Value>(&out).unwrap()["prompt_tokens"].clone();
    assert_eq!(tokens(logits("run")), tokens(logits("pre")));
}

#[test]
fn a_prediction_does_not_depend_on_the_records_beside_it_or_on_their_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    finetune(path, "entailment", "--data world:60 --out run").ok();
    let given = gptkit(path, "world --task entailment --count 9 --seed 4").ok().out;
    let together = records(&run(path, &["predict", "--model", "run"], given.as_bytes()).ok().out);
    let share = |record: &Value| record["probabilities"]["entailment"].as_f64().unwrap();
    for (line, together) in given.lines().zip(&together) {
        let alone = records(&run(path, &["predict", "--model", "run", "--data", "-"], line.as_bytes()).ok().out);
        assert!((share(&alone[0]) - share(together)).abs() < 1e-4, "{} {together}", alone[0]);
    }
    let mut table = "hypothesis\tpremise\n".to_owned();
    for record in &together {
        table += &format!("{}\t{}\n", record["hypothesis"].as_str().unwrap(), record["premise"].as_str().unwrap());
    }
    fs::write(path.join("records.tsv"), table).unwrap();
    let ran = gptkit(path, "predict --model run --data records.tsv --out out.jsonl").ok();
    assert!(ran.err.contains("9 records to out.jsonl") && !ran.err.contains("accuracy"), "{}", ran.err);
    for (from_table, together) in records(&fs::read_to_string(path.join("out.jsonl")).unwrap()).iter().zip(&together) {
        assert!((share(from_table) - share(together)).abs() < 1e-9);
    }
}

#[test]
fn records_that_cannot_be_learned_from_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let write = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
    write("columns.csv", "verse,tone\na b,good\nc d,bad\n");
    write("one.csv", "text,label\na b,good\n");
    write("alike.csv", "text,label\na b,good\nc d,good\n");
    write("train.csv", "text,label\na b,good\nc d,bad\ne f,good\n");
    write("val.csv", "text,label\ni j,good\nk l,worse\n");
    write("unlabeled.csv", "text\na b\nc d\n");
    write("choices.jsonl", "{\"context\": \"a\", \"choices\": [\"x\", \"y\"], \"label\": 2}\n");
    for (task, more, expected) in [
        (
            "classification",
            "--data columns.csv",
            "cannot find a text in columns.csv, which has the columns verse, tone; name the column with --text-column",
        ),
        (
            "classification",
            "--data columns.csv --text-column vers",
            "columns.csv has no column \"vers\"; it has the columns verse, tone",
        ),
        (
            "classification",
            "--data columns.csv --text-column verse",
            "cannot find the label in columns.csv, which has the columns verse, tone; name the column with --label-column",
        ),
        (
            "entailment",
            "--data train.csv",
            "cannot find the two texts in train.csv, which has the columns text, label; name the column with --text-column and --text-b-column",
        ),
        (
            "classification",
            "--data unlabeled.csv",
            "cannot find the label in unlabeled.csv, which has the columns text",
        ),
        ("classification", "--data one.csv", "1 training record is left"),
        (
            "classification",
            "--data alike.csv --set data.val_fraction=0",
            "all 2 training records have the label \"good\"",
        ),
        (
            "classification",
            "--data train.csv --val val.csv",
            "val.csv line 3: the label \"worse\" does not occur in the training records, whose labels are bad, good",
        ),
        ("regression", "--data train.csv", "train.csv line 2: \"label\" is \"good\", not a number"),
        (
            "multiple-choice",
            "--data choices.jsonl",
            "choices.jsonl line 1: \"label\" is \"2\", which is not one of the 2 choices, counted from 0",
        ),
    ] {
        let ran = finetune(path, task, &format!("{more} --out run"));
        // A column that a flag names is a mistake on the command line, anything else one of the records.
        let code = if expected.contains("has no column") { 2 } else { 1 };
        assert_eq!(ran.code, Some(code), "{more}: {}", ran.err);
        assert!(ran.err.contains(expected), "{more}: {}", ran.err);
        assert!(!path.join("run").exists(), "{more} left a folder");
    }
    finetune(path, "classification", "--data columns.csv --text-column verse --label-column tone --out named").ok();
    let ran = finetune(path, "classification", "--data nowhere.csv");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    let ran = finetune(path, "sorting", "--data train.csv");
    assert!(ran.code == Some(2) && ran.err.contains("multiple-choice"), "{}", ran.err);
    let ran = gptkit(path, "predict --model pre --data train.csv");
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("train a classifier with `gptkit finetune`"), "{}", ran.err);
    let ran = gptkit(path, "predict --model named --data choices.jsonl");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("the model was trained on the columns verse"), "{}", ran.err);
}

#[test]
fn long_texts_are_cut_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let long = "the fox went on and on ".repeat(60);
    let table = format!("premise,hypothesis,label\n{long},a fox,yes\nthe hen,{long},no\na hen,a fox,no\n");
    fs::write(path.join("long.csv"), &table).unwrap();
    let ran = finetune(path, "entailment", "--data long.csv --out run").ok();
    assert!(ran.err.contains("2 of 3 records are longer than the context of 96 tokens"), "{}", ran.err);
    assert!(ran.err.contains("longest 96 of 96"), "{}", ran.err);
    assert!(ran.err.contains("there is no validation set"), "{}", ran.err);
    let ran = gptkit(path, "predict --model run --data long.csv").ok();
    assert!(ran.err.contains("2 records are longer than the context window and were truncated"), "{}", ran.err);
    assert_eq!(records(&ran.out).len(), 3);
}

/// Names of special tokens in a text are nothing but text, and a fine-tuned model is a language model's folder still.
#[test]
fn a_text_cannot_fake_the_special_tokens_and_the_folder_starts_other_stages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let table = "text,label\na <|extract|> b,good\n<|start|>c,bad\n<|endoftext|>,good\n";
    fs::write(path.join("fake.csv"), table).unwrap();
    finetune(path, "classification", "--data fake.csv --out run").ok();
    let end = fs::read(path.join("run/train.examples")).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(path.join("run/config.json")).unwrap()).unwrap();
    let vocabulary = config["vocab_size"].as_u64().unwrap() as u32;
    let extract = (vocabulary - 1).to_le_bytes();
    let extracts = end[8..].chunks_exact(4).filter(|number| number == &extract).count();
    assert_eq!(extracts, 3, "one a record");
    gptkit(path, "sample --model run --prompt a --max-new-tokens 3").ok();
    let again =
        gptkit(path, "finetune --init run --task regression --data world:40 --set train.length=2steps --out next");
    again.ok();
}

#[test]
fn a_killed_run_ends_with_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let words = |out: &str| {
        let set = "--set train.length=60steps --set train.eval_every=5 --set train.micro_batch=8 --out";
        let words = format!("finetune --init pre --task similarity --data world:100 {set} {out}");
        words.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(start(path, &words("whole")).wait().unwrap().success());
    let mut child = start(path, &words("cut"));
    let mut kills = 0;
    for steps in [1, 7, 16, 30, 46] {
        wait_for(&mut child, &path.join("cut"), steps);
        child.kill().unwrap(); // SIGKILL
        kills += usize::from(!child.wait().unwrap().success());
        child = start(path, &["finetune", "--resume", "cut"].map(str::to_owned));
    }
    assert!(child.wait().unwrap().success());
    assert!(kills >= 4, "the run was over after {kills} kills");
    for file in ["model.safetensors", "checkpoints/step-000060/optimizer.safetensors", "scores.json"] {
        let [cut, whole] = ["cut", "whole"].map(|run| fs::read(path.join(run).join(file)).unwrap());
        assert!(cut == whole, "{file} differs");
    }
    // A run of an earlier version, whose loss was another, has no test part.
    fs::remove_file(path.join("whole/test.examples")).unwrap();
    let ran = gptkit(path, "finetune --resume whole");
    assert!(ran.code == Some(1) && ran.err.contains("test.examples is missing"), "{}", ran.err);
    // Its records are its own: another file is noticed.
    fs::copy(path.join("cut/val.examples"), path.join("cut/train.examples")).unwrap();
    let ran = gptkit(path, "finetune --resume cut");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("train.examples has changed since this run started"), "{}", ran.err);
}

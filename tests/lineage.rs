//! From text to a model to text, with runs of a second.

use super::{gptkit, pretrain, run};
use std::fs;
use std::path::Path;

fn lines(path: &Path) -> Vec<serde_json::Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_kind_of_model_trains_and_writes() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, more) in [("gpt1", ""), ("gpt2", ""), ("gpt3", " --set model.band=4")] {
        let ran = pretrain(
            folder.path(),
            &format!("--config char --data world:60 --set model.kind=\"{kind}\" --out {kind}{more}"),
        )
        .ok();
        assert!(ran.err.contains(&format!("next: gptkit sample --model {kind}")), "{}", ran.err);
        assert!(!ran.out.trim().is_empty(), "no sample was shown");
        let run = folder.path().join(kind);
        let metrics = lines(&run.join("metrics.jsonl"));
        assert_eq!(metrics.len(), 12);
        for (i, record) in metrics.iter().enumerate() {
            assert_eq!(record["step"], i + 1);
            for key in ["tokens", "train_loss", "learning_rate", "grad_norm", "tokens_per_s"] {
                assert!(record[key].is_number(), "{key} in {record}");
            }
            assert_eq!(record["val_loss"].is_number(), [5, 10, 12].contains(&(i + 1)), "{record}");
        }
        let first = metrics[0]["train_loss"].as_f64().unwrap();
        assert!(metrics[11]["train_loss"].as_f64().unwrap() < first - 0.05, "{kind} learned nothing: {metrics:?}");
        for file in ["config.toml", "config.json", "model.safetensors", "tokenizer.json", "generation_config.json"] {
            assert!(run.join(file).exists(), "{kind} has no {file}");
        }
        let again = fs::read_to_string(run.join("config.toml")).unwrap();
        assert!(again.contains(&format!("kind = \"{kind}\"")), "{again}");
        gptkit(folder.path(), &format!("sample --model {kind} --prompt The --max-new-tokens 30")).ok();
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_the_same_text() {
    let folder = tempfile::tempdir().unwrap();
    let losses = |out: &str, seed: u32| -> Vec<serde_json::Value> {
        pretrain(folder.path(), &format!("--config char --data world:60 --seed {seed} --out {out}")).ok();
        lines(&folder.path().join(out).join("metrics.jsonl")).into_iter().map(|r| r["train_loss"].clone()).collect()
    };
    let a = losses("a", 7);
    assert_eq!(a, losses("b", 7));
    assert_ne!(a, losses("c", 8));
    let weights = |run: &str| fs::read(folder.path().join(run).join("model.safetensors")).unwrap();
    assert!(weights("a") == weights("b"), "weights differ");

    let text = |seed: u32| {
        gptkit(folder.path(), &format!("sample --model a --prompt The --num-samples 3 --seed {seed}")).ok().out
    };
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
}

#[test]
fn a_model_goes_on_from_another_and_from_its_own_configuration() {
    let folder = tempfile::tempdir().unwrap();
    pretrain(folder.path(), "--config char --data world:60 --out first").ok();
    pretrain(folder.path(), "--config char --data world:60 --init first --out second").ok();
    let loss = |run: &str| lines(&folder.path().join(run).join("metrics.jsonl"))[0]["train_loss"].as_f64().unwrap();
    assert!(loss("second") < loss("first") - 0.05, "the weights of the first run were not taken");
    let ran = gptkit(folder.path(), "pretrain --config first/config.toml --out third").ok();
    assert!(ran.err.contains("unchanged"), "shards were made again: {}", ran.err);
    assert_eq!(loss("third"), loss("first"));
}

#[test]
fn prepared_text_is_used_again_until_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..300).map(|i| format!("Line {i} of a text worth reading twice.\n")).collect();
    let file = folder.path().join("text.txt");
    fs::write(&file, &text).unwrap();
    let prepare = || gptkit(folder.path(), "prepare --config char --data text.txt --out prepared").ok().err;
    let first = prepare();
    assert!(first.contains("next: gptkit pretrain --config char --data prepared"), "{first}");
    let manifest = fs::read(folder.path().join("prepared/manifest.json")).unwrap();
    let second = prepare();
    assert!(second.contains("unchanged"), "{second}");
    assert_eq!(fs::read(folder.path().join("prepared/manifest.json")).unwrap(), manifest);
    fs::write(&file, text + "One line more.\n").unwrap();
    assert!(!prepare().contains("unchanged"));
    assert_ne!(fs::read(folder.path().join("prepared/manifest.json")).unwrap(), manifest);
    pretrain(folder.path(), "--config char --data prepared --out run").ok();
}

#[test]
fn text_may_come_from_stdin_and_go_to_json() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..400).map(|i| format!("The {i}th day was much like the day before it.\n")).collect();
    let arguments: Vec<&str> =
        super::TINY.iter().copied().chain("--config char --data - --out run".split(' ')).collect();
    run(folder.path(), &arguments, text.as_bytes()).ok();
    let ran = run(
        folder.path(),
        &"sample --model run --json --log-probs 2 --num-samples 2 --max-new-tokens 9 --stop day"
            .split(' ')
            .collect::<Vec<_>>(),
        b"The",
    )
    .ok();
    let samples: Vec<serde_json::Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(samples.len(), 2);
    for sample in &samples {
        assert_eq!(sample["prompt"], "The");
        let n = sample["tokens"].as_array().unwrap().len();
        assert!((1..=9).contains(&n), "{sample}");
        assert_eq!(sample["log_probs"].as_array().unwrap().len(), n, "{sample}");
    }
}

#[test]
fn a_long_text_slides_past_the_context() {
    let folder = tempfile::tempdir().unwrap();
    pretrain(folder.path(), "--config char --data world:60 --out run").ok();
    let ran = gptkit(folder.path(), "sample --model run --prompt The --max-new-tokens 50 --temperature 0 --json").ok();
    let sample: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(sample["tokens"].as_array().unwrap().len(), 50, "the context is 16: {sample}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_gptkit"))
        .args(["world", "--stories", "100000"])
        .current_dir(folder.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

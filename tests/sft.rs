//! Instruction fine-tuning from outside: a run that ends, one that is killed, adapters, and what is refused.

use crate::{Ran, gptkit, pretrain, run};
use std::path::Path;

/// A model, and settings of a run that takes a second.
const TINY: &str =
    "sft --init runs/small-1 --data world:60 --set train.batch_size=4 --set train.warmup=\"0\u{a0}steps\"";

fn sft(folder: &Path, more: &str) -> Ran {
    let command = format!("{TINY} {more}");
    let words: Vec<String> = command.split(' ').map(|word| word.replace('\u{a0}', " ")).collect();
    run(folder, &words.iter().map(String::as_str).collect::<Vec<_>>(), b"")
}

fn lab() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    pretrain(folder.path(), "--set model.context=160 --set data.sources=[{path=\"world:50\"}]").ok();
    folder
}

fn bytes(folder: &Path, path: &str) -> Vec<u8> {
    std::fs::read(folder.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn a_model_learns_dialogues_and_chats_by_its_own_template() {
    let folder = lab();
    let ran = sft(folder.path(), "--set train.length=\"2\u{a0}epochs\"").ok();
    for says in [
        "60 instructions from the embedded world",
        "60 training dialogues, 20 validation dialogues",
        "trained on",
        "masked",
        "4 demonstrations per step",
        "before",
        "held-out instructions",
    ] {
        assert!(ran.err.contains(says), "{says}: {}", ran.err);
    }
    assert!(ran.err.ends_with("next: gptkit chat --model runs/sft-small-1\n"), "{}", ran.err);
    let run_folder = folder.path().join("runs/sft-small-1");
    for file in ["model.safetensors", "last/model.safetensors", "answers.md", "answers.json", "curves.svg"] {
        assert!(run_folder.join(file).exists(), "{file}");
    }
    let config = std::fs::read_to_string(run_folder.join("tokenizer_config.json")).unwrap();
    assert!(config.contains("chat_template"), "{config}");
    let generation: serde_json::Value = serde_json::from_slice(&bytes(&run_folder, "generation_config.json")).unwrap();
    assert_eq!(generation["eos_token_id"].as_array().unwrap().len(), 2, "the end of a turn, and of a text");
    let chat = run(folder.path(), &["chat", "--model", "runs/sft-small-1"], b"What is 3 plus 4?\n").ok();
    assert!(!chat.err.contains("was not trained for dialogue"), "{}", chat.err);
    // Another stage on top takes the tokens that are there.
    let again = run(
        folder.path(),
        &["sft", "--init", "runs/sft-small-1", "--data", "world:60", "--set", "train.length=\"1 steps\""],
        b"",
    )
    .ok();
    let vocabulary = |run: &str| {
        let json: serde_json::Value =
            serde_json::from_slice(&bytes(folder.path(), &format!("{run}/config.json"))).unwrap();
        json["vocab_size"].clone()
    };
    assert_eq!(vocabulary("runs/sft-small-1"), vocabulary("runs/sft-small-2"), "{}", again.err);
}

/// The world gives its held-out part to validation, and to training never.
#[test]
fn validation_is_apart_from_training_wherever_it_comes_from() {
    let folder = lab();
    let own = r#"{"prompt":"Who is it?","completion":"Me."}"#;
    std::fs::write(folder.path().join("own.jsonl"), format!("{own}\n")).unwrap();
    for (validation, counts) in [
        ("world:30", "60 training dialogues, 30 validation dialogues"),
        ("own.jsonl", "60 training dialogues, 1 validation dialogues"),
    ] {
        let ran = sft(folder.path(), &format!("--val {validation} --set train.length=\"1\u{a0}steps\"")).ok();
        assert!(ran.err.contains(counts), "{}", ran.err);
    }
    // A batch is so many demonstrations, however many of them a window holds: 60 × 2 / 4.
    let ran = sft(folder.path(), "--set train.length=\"2\u{a0}epochs\" --set pretraining.share=0").ok();
    assert!(ran.err.contains(" 30 steps in "), "{}", ran.err);
}

#[test]
fn a_run_that_was_stopped_ends_as_if_it_had_not_been() {
    let folder = lab();
    for more in ["", " --lora-rank 2"] {
        let name = if more.is_empty() { "full" } else { "lora" };
        let length = |steps: u32, out: &str| {
            let set = format!(
                "--set train.length=\"{steps}\u{a0}steps\" --set train.eval_every=4 --set dropout.residual=0.1"
            );
            sft(folder.path(), &format!("{set} --set train.decay=constant --out {out}{more}")).ok()
        };
        length(12, &format!("{name}-whole"));
        length(5, &format!("{name}-cut"));
        let refused = gptkit(folder.path(), &format!("sft --resume {name}-cut --data world:70"));
        assert_eq!(refused.code, Some(2));
        assert!(
            refused.err.contains("--resume uses the saved settings of the run, and data.sources"),
            "{}",
            refused.err
        );
        let config = folder.path().join(format!("{name}-cut/config.toml"));
        let longer = std::fs::read_to_string(&config).unwrap().replace("5 steps", "12 steps");
        std::fs::write(&config, longer).unwrap();
        gptkit(folder.path(), &format!("sft --resume {name}-cut")).ok();
        let file = if more.is_empty() { "model.safetensors" } else { "adapter_model.safetensors" };
        for file in [format!("last/{file}"), "checkpoints/step-000012/optimizer.safetensors".to_owned()] {
            let [whole, cut] = ["whole", "cut"].map(|run| bytes(folder.path(), &format!("{name}-{run}/{file}")));
            assert!(whole == cut, "{name}: {file} differs");
        }
    }
}

#[test]
fn adapters_may_have_dropout_and_some_matrices_alone() {
    let folder = lab();
    let more = |set: &str, out: &str| {
        let line = format!("--lora-rank 2 --steps 4 --lr 0.01 {set} --out {out}");
        sft(folder.path(), &line).ok();
        std::fs::read(folder.path().join(out).join("adapter_model.safetensors")).unwrap()
    };
    let set = "--set lora.dropout=0.2 --set lora.target_modules=[\"c_attn\",\"c_fc\"]";
    let (once, again) = (more(set, "once"), more(set, "again"));
    assert!(once == again, "masks belong to the seed");
    assert_ne!(once, more("--set lora.target_modules=[\"c_attn\",\"c_fc\"]", "without"));
    let description = std::fs::read_to_string(folder.path().join("once/adapter_config.json")).unwrap();
    assert!(description.contains("\"lora_dropout\": 0.2") && !description.contains("c_proj"), "{description}");
}

#[test]
fn adapters_are_few_and_merge_into_a_model_that_says_the_same() {
    let folder = lab();
    let ran = sft(folder.path(), "--lora-rank 2 --set train.length=\"6\u{a0}steps\" --set train.lr=0.01").ok();
    assert!(ran.err.contains("parameters are trained ("), "{}", ran.err);
    assert!(!folder.path().join("runs/sft-small-1/model.safetensors").exists(), "the base is not copied");
    gptkit(folder.path(), "merge --model runs/sft-small-1 --out merged").ok();
    let said = |model: &str| {
        let how = "--prompt Who --max-new-tokens 5 --temperature 0 --json --log-probs 3";
        gptkit(folder.path(), &format!("sample --model {model} {how}")).ok().out
    };
    assert_eq!(said("runs/sft-small-1"), said("merged"));
    assert_ne!(said("runs/small-1"), said("merged"));
    let refused = gptkit(folder.path(), "merge --model runs/small-1 --out other");
    assert_eq!(refused.code, Some(2));
    insta::assert_snapshot!(refused.err, @r"
    error: runs/small-1 contains no LoRA adapters (adapter_config.json is missing)
      hint: a complete model does not need merging
    ");
}

/// What was said, without the rates of reading.
fn words(said: &str) -> String {
    said.lines().filter(|line| !line.starts_with("reading ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn bad_dialogues_are_named_by_file_and_line() {
    let folder = lab();
    let good = r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]}"#;
    let mut said = String::new();
    for (name, lines) in [
        ("columns.jsonl", r#"{"question_text":"hi","reply":"ho"}"#.to_owned()),
        ("roles.jsonl", format!("{good}\n{}", good.replace("user", "assistant"))),
        ("empty.jsonl", format!("{good}\n{}", good.replace("ho", " "))),
        ("one.jsonl", good.to_owned()),
        ("long.jsonl", [good.replace("hi", &"long ".repeat(400)), good.replace("hi", &"very ".repeat(400))].join("\n")),
    ] {
        std::fs::write(folder.path().join(name), lines + "\n").unwrap();
        let ran = gptkit(folder.path(), &format!("sft --init runs/small-1 --data {name}"));
        assert_eq!(ran.code, Some(1), "{name}: {}", ran.err);
        said += &format!("{name}\n{}\n", words(&ran.err));
        assert!(!folder.path().join("runs/sft-small-1").exists(), "{name} left a run behind");
    }
    let own = folder.path().join("templated");
    std::fs::create_dir(&own).unwrap();
    for entry in folder.path().join("runs/small-1").read_dir().unwrap().flatten() {
        if entry.path().is_file() {
            std::fs::copy(entry.path(), own.join(entry.file_name())).unwrap();
        }
    }
    std::fs::write(
        own.join("chat_template.jinja"),
        "{% for m in messages %}\n{{ raise_exception('no') }}\n{% endfor %}",
    )
    .unwrap();
    std::fs::write(folder.path().join("two.jsonl"), format!("{good}\n{good}\n")).unwrap();
    let ran = gptkit(folder.path(), "sft --init templated --data two.jsonl");
    said += &format!("template\n{}\n", words(&ran.err));
    insta::assert_snapshot!(said);
}

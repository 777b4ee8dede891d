//! GGUF files from outside: written, read wherever a model folder is, and refused where llama.cpp would be wrong.

use super::{gptkit, pretrain, run};
use std::fs;
use std::path::Path;

fn tiny(folder: &Path, more: &str) {
    let wide = "--set model.d_model=32 --set model.context=40";
    pretrain(folder, &format!("--data world:60 {wide} {more}")).ok();
}

fn export(folder: &Path, more: &str) -> super::Ran {
    gptkit(folder, &format!("export --format gguf {more}"))
}

fn sampled(folder: &Path, model: &str) -> String {
    let words = "--prompt the --temperature 0 --max-new-tokens 20 --dtype f32 --log-probs 2 --json";
    gptkit(folder, &format!("sample --model {model} {words}")).ok().out
}

#[test]
fn a_file_is_the_model_that_it_was_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (name, more) in [
        ("own", "--set tokenizer.vocab_size=300"),
        ("characters", "--config char"),
        ("untied", "--set model.tie_word_embeddings=false --set model.n_inner=64"),
    ] {
        tiny(path, &format!("{more} --out {name}"));
        let said = export(path, &format!("--model {name} --out {name}.gguf")).ok().err;
        assert!(said.contains("the context of 40 was padded to 256 positions"), "{said}");
        assert_eq!(sampled(path, &format!("{name}.gguf")), sampled(path, name), "{name}");
        gptkit(path, &format!("import {name}.gguf --out {name}-again")).ok();
        let weights = |folder: &str| {
            let bytes = fs::read(path.join(folder).join("model.safetensors")).unwrap();
            let tensors = safetensors_of(&bytes);
            assert!(tensors.len() > 20);
            tensors
        };
        assert!(weights(name) == weights(&format!("{name}-again")), "{name}");
        let config = |folder: &str| -> serde_json::Value {
            serde_json::from_slice(&fs::read(path.join(folder).join("config.json")).unwrap()).unwrap()
        };
        let (old, new) = (config(name), config(&format!("{name}-again")));
        for key in [
            "n_layer",
            "n_head",
            "n_embd",
            "n_positions",
            "n_ctx",
            "n_inner",
            "vocab_size",
            "layer_norm_epsilon",
            "tie_word_embeddings",
            "eos_token_id",
        ] {
            assert_eq!(old[key], new[key], "{name} {key}");
        }
    }
    let modelfile = fs::read_to_string(path.join("Modelfile")).unwrap();
    assert!(modelfile.contains("FROM ./untied.gguf\nPARAMETER num_ctx 40\n"), "{modelfile}");
    // One that a person wrote stays.
    fs::write(path.join("Modelfile"), "FROM mine\n").unwrap();
    let said = export(path, "--model own --out own.gguf").ok().err;
    assert!(said.contains("Modelfile was not written by gptkit"), "{said}");
    assert_eq!(fs::read_to_string(path.join("Modelfile")).unwrap(), "FROM mine\n");
}

/// The license of the card is a text of the file's metadata, and stays when the file is exported again.
#[test]
fn a_file_states_the_license_of_the_card() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny(path, "--config char --out own");
    let key = b"general.license";
    let has = |name: &str| fs::read(path.join(name)).unwrap().windows(key.len()).any(|bytes| bytes == key);
    export(path, "--model own --out without.gguf").ok();
    assert!(!has("without.gguf"));
    fs::write(path.join("own/README.md"), "---\nlicense: apache-2.0\n---\n# Own\n").unwrap();
    export(path, "--model own --out with.gguf").ok();
    export(path, "--model with.gguf --out again.gguf").ok();
    for name in ["with.gguf", "again.gguf"] {
        let bytes = fs::read(path.join(name)).unwrap();
        // Key, type 8 (text), length, text.
        let expected = [key.as_slice(), &8u32.to_le_bytes(), &10u64.to_le_bytes(), b"apache-2.0"].concat();
        assert!(bytes.windows(expected.len()).any(|part| part == expected), "{name}");
    }
}

/// Names and bytes of the tensors of a safetensors file.
fn safetensors_of(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let place = |at: &serde_json::Value| 8 + n + at.as_u64().unwrap() as usize;
    let bytes_of =
        |info: &serde_json::Value| bytes[place(&info["data_offsets"][0])..place(&info["data_offsets"][1])].to_vec();
    let mut all: Vec<_> = tensors.map(|(name, info)| (name.clone(), bytes_of(info))).collect();
    all.sort();
    all
}

#[test]
fn quantized_files_say_nearly_the_same_and_name_types_that_did_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny(path, "--out model");
    let exact = log_prob(path, "model");
    for (kind, most, says) in [
        ("f16", 0.01, None),
        ("bf16", 0.05, None),
        ("q8_0", 0.05, None),
        ("q4_k_m", 0.5, Some("rows of 32 weights, which Q4_K cannot store; they are Q5_0")),
    ] {
        let said = export(path, &format!("--model model --quantize {kind} --out {kind}.gguf")).ok().err;
        assert_eq!(says.is_some_and(|says| said.contains(says)), says.is_some(), "{kind}: {said}");
        assert_eq!(says.is_none(), !said.contains("cannot store"), "{kind}: {said}");
        let off = (log_prob(path, &format!("{kind}.gguf")) - exact).abs();
        assert!(off < most && off > 0.0, "{kind} is off by {off}");
    }
    let size = |kind: &str| fs::metadata(path.join(format!("{kind}.gguf"))).unwrap().len();
    assert!(size("q4_k_m") < size("q8_0") && size("q8_0") < size("f16") && size("f16") == size("bf16"));
    let wrong = export(path, "--model model --quantize q9 --out x.gguf");
    assert!(
        wrong.code == Some(2) && wrong.err.contains("must be one of f32, f16, bf16, q8_0, q4_k_m"),
        "{}",
        wrong.err
    );
}

/// The log-probability of the first token that is the likeliest.
fn log_prob(folder: &Path, model: &str) -> f64 {
    let line: serde_json::Value = serde_json::from_str(&sampled(folder, model)).unwrap();
    line["log_probs"][0]["log_prob"].as_f64().unwrap()
}

#[test]
fn a_file_can_be_used_where_a_model_folder_can() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny(path, "--set model.context=160 --out base");
    export(path, "--model base --out base.gguf").ok();
    let sft = |init: &str, out: &str| {
        let words = format!("sft --init {init} --data world:60 --set train.batch_size=4 --out {out} --set");
        let words: Vec<&str> = words.split(' ').chain(["train.length=\"2 steps\""]).collect();
        run(path, &words, b"").ok();
    };
    gptkit(path, "import base.gguf --out imported").ok();
    sft("imported", "a");
    sft("base.gguf", "b");
    let weights = |run: &str| safetensors_of(&fs::read(path.join(run).join("model.safetensors")).unwrap());
    assert!(weights("a") == weights("b"), "training starts from the same weights");
    gptkit(path, "sft --resume b").ok();
    // A chat model keeps its template, its tokens and the ends of its answers.
    export(path, "--model b --out chat.gguf").ok();
    let said = |model: &str| {
        let ran =
            run(path, &["chat", "--model", model, "--temperature", "0", "--dtype", "f32"], b"What is 3 plus 4?\n").ok();
        assert!(!ran.err.contains("was not trained for dialogue"), "{}", ran.err);
        ran.out
    };
    assert_eq!(said("b"), said("chat.gguf"));
    for command in ["eval --task world-patterns --limit 4", "attention --text the"] {
        gptkit(path, &format!("{command} --model base.gguf")).ok();
    }
    let counts = |path_of: &str| {
        let words = ["tokenizer", "encode", "--tokenizer", path_of];
        run(path, &words, "Anna's <|user|> é 12".as_bytes()).ok().out
    };
    assert_eq!(counts("b"), counts("chat.gguf"));
    let refused = gptkit(path, "score --model chat.gguf --data nowhere.jsonl");
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    // Adapters are merged into what is written.
    let words = "sft --init base --data world:60 --set train.batch_size=4 --lora-rank 2 --out adapters --set";
    let words: Vec<&str> = words.split(' ').chain(["train.length=\"2 steps\""]).collect();
    run(path, &words, b"").ok();
    export(path, "--model adapters --out adapters.gguf").ok();
    assert_eq!(sampled(path, "adapters"), sampled(path, "adapters.gguf"));
}

#[test]
fn what_llama_cpp_would_run_wrongly_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let refused = |model: &str, more: &str, says: &str| {
        let ran = export(path, format!("--model {model} --out refused.gguf {more}").trim_end());
        assert!(ran.code == Some(2) && ran.err.contains(says) && ran.err.contains("hint"), "{model}: {}", ran.err);
        assert!(!path.join("refused.gguf").exists(), "{model}");
    };
    for (kind, says) in [("gpt1", "it is a GPT-1"), ("lstm", "it is an LSTM"), ("bert", "it is a masked model")] {
        pretrain(path, &format!("--data world:60 --set model.kind={kind} --out {kind}")).ok();
        refused(kind, "", says);
    }
    tiny(path, "--set model.kind=gpt3 --set model.band=8 --out gpt3");
    refused("gpt3", "", "sees only 8 tokens, and llama.cpp's GPT-2 would see all 40");
    refused("gpt3", "--context 9", "would see all 9");
    refused("gpt3", "--context 41", "the model has 40 positions");
    assert_eq!(export(path, "--model gpt3 --out refused.gguf --as-dense").code, Some(2), "--data is required");
    export(path, "--model gpt3 --context 8 --out short.gguf").ok();
    let short = |model: &str| {
        let words = "--prompt a --temperature 0 --max-new-tokens 6 --dtype f32 --log-probs 2 --json";
        gptkit(path, &format!("sample --model {model} {words}")).ok().out
    };
    assert_eq!(short("gpt3"), short("short.gguf"), "within the band they are the same");
    let text = gptkit(path, "world --count 20").ok().out;
    fs::write(path.join("held-out.txt"), text).unwrap();
    let said = export(path, "--model gpt3 --as-dense --data held-out.txt --out dense.gguf").ok().err;
    let losses: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).filter(|n| *n < 20.0).collect();
    assert!(said.contains("nats per token as trained") && losses.len() >= 2 && losses[0] != losses[1], "{said}");
    tiny(path, "--out gpt2");
    let ran = export(path, "--model gpt2 --as-dense --data held-out.txt --out refused.gguf");
    assert!(ran.code == Some(2) && ran.err.contains("dense attention in all layers"), "{}", ran.err);
    let few = "--data world:40 --set train.batch_size=4 --set train.length=2steps";
    gptkit(path, &format!("finetune --init gpt2 --task classification {few} --out labels")).ok();
    refused("labels", "", "it is a classifier");
    assert_eq!(export(path, "--model nowhere --out refused.gguf").code, Some(2));
}

#[test]
fn damaged_files_are_refused_by_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny(path, "--out model");
    export(path, "--model model --out whole.gguf").ok();
    let whole = fs::read(path.join("whole.gguf")).unwrap();
    let changed = |from: &str, to: &str| {
        let at = whole.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        [&whole[..at], to.as_bytes(), &whole[at + from.len()..]].concat()
    };
    for (bytes, says) in [
        (whole[..whole.len() / 2].to_vec(), "the file ends within tensor"),
        (b"GGML".to_vec(), "does not begin with GGUF"),
        (changed("gpt2.block_count", "gpt2.block_counT"), "gpt2.block_count is missing"),
        (changed("\u{4}\0\0\0\0\0\0\0gpt2", "\u{4}\0\0\0\0\0\0\0gpt3"), "its architecture is gpt3; gptkit reads gpt2"),
        (changed("blk.1.ffn_up.bias", "blk.1.ffn_uq.bias"), "blk.1.ffn_uq.bias does not belong to a GPT-2 of 2 layers"),
    ] {
        fs::write(path.join("damaged.gguf"), &bytes).unwrap();
        for command in ["sample --prompt a --model damaged.gguf", "import damaged.gguf --out imported"] {
            let ran = gptkit(path, command);
            assert!(
                ran.code == Some(2) && ran.err.contains(says) && ran.err.contains("damaged.gguf"),
                "{command}: {}",
                ran.err
            );
        }
        assert!(!path.join("imported").exists());
    }
    fs::create_dir(path.join("taken")).unwrap();
    fs::write(path.join("taken/file"), "mine").unwrap();
    let ran = gptkit(path, "import whole.gguf --out taken");
    assert!(ran.code == Some(2) && ran.err.contains("taken is not empty"), "{}", ran.err);
    let ran = gptkit(path, "import model/config.json --out imported");
    assert!(ran.code == Some(2) && ran.err.contains("is not a GGUF file"), "{}", ran.err);
}

//! Model folders and files that somebody made to do harm: refused in words, in little time and memory, without a panic.

use super::{Ran, TINY, gptkit, pretrain, run};
use std::fs;
use std::path::Path;

/// A refusal in words: exit code 1 or 2, no panic, no abort.
#[track_caller]
fn refused(ran: &Ran, says: &str) {
    assert!(matches!(ran.code, Some(1 | 2)), "{:?}\n{}", ran.code, ran.err);
    assert!(!ran.err.contains("panicked") && !ran.err.contains("stack backtrace"), "{}", ran.err);
    assert!(ran.err.contains(says), "{}\nexpected {says}", ran.err);
    assert!(ran.err.len() < 4000, "{}", ran.err);
}

/// A model of characters with a chat template.
fn chat_model(folder: &Path, template: &str) {
    let text: String =
        (0..400).map(|i| format!("User: What is {i}, then?\nAssistant: <|It is {i}.|>\n/dumy")).collect();
    let shape = TINY.iter().map(|&word| if word == "model.context=16" { "model.context=96" } else { word });
    let words: Vec<&str> = shape.chain("--config char --data - --out run".split(' ')).collect();
    run(folder, &words, text.as_bytes()).ok();
    fs::write(folder.join("run/chat_template.jinja"), template).unwrap();
}

#[test]
fn endless_and_huge_templates_are_refused_by_every_command_that_renders() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    chat_model(path, "\n{% for i in range(100000) %}{% for j in range(100000) %}\n{% endfor %}{% endfor %}hi");
    fs::write(path.join("pairs.jsonl"), "{\"prompt\": \"What is 1\", \"chosen\": \"It is 1\", \"rejected\": \"1\"}\n")
        .unwrap();
    fs::write(path.join("answers.jsonl"), "{\"prompt\": \"What is 1\", \"completion\": \"It is 1\"}\n").unwrap();
    let says = "run/chat_template.jinja line 2: the template needs too much computation";
    refused(&run(path, &["chat", "--model", "run"], b"What is 1\n"), says);
    refused(&gptkit(path, "sft --init run --data answers.jsonl --out a"), says);
    refused(&gptkit(path, "train-rm --init run --data pairs.jsonl --out b"), says);
    refused(&gptkit(path, "dpo --init run --data pairs.jsonl --out c"), says);
    for (template, says) in [
        ("{{ '%999999999999d'|format(1) }}", "line 1: the template needs too much computation or writes too much text"),
        (
            "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
            "line 1: ",
        ),
        (&format!("{{{{ 1{} }}}}", "+1".repeat(300_000)), "line 1: an expression has more than 20000 tokens"),
        (&format!("{{{{ {}1 }}}}", "not ".repeat(200_000)), "line 1: an expression has more than 20000 tokens"),
        (&"a".repeat(2_000_000), "it has 2000000 bytes; the maximum is 1048576"),
    ] {
        fs::write(path.join("run/chat_template.jinja"), template).unwrap();
        refused(&run(path, &["chat", "--model", "run"], b"What is 1\n"), says);
    }
}

#[test]
fn hostile_tokenizers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    chat_model(path, "");
    fs::remove_file(path.join("run/chat_template.jinja")).unwrap();
    let file = path.join("run/tokenizer.json");
    let sound = fs::read_to_string(&file).unwrap();
    let sample = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = serde_json::from_str(&sound).unwrap();
        change(&mut json);
        fs::write(&file, json.to_string()).unwrap();
        gptkit(path, "sample --model run --max-new-tokens 2 --prompt aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab")
    };
    let json = serde_json::json!({ "type": "Split", "pattern": { "Regex": "(a+)+$" }, "behavior": "Isolated", "invert": false });
    refused(
        &sample(&|t| t["pre_tokenizer"] = json.clone()),
        "a regular expression of the tokenizer takes too long on the text",
    );
    refused(&sample(&|t| t["model"]["vocab"]["zzzz"] = serde_json::json!(u32::MAX)), "has the id 4294967295");
    refused(
        &sample(&|t| {
            t["model"]["vocab"] = serde_json::json!({ "a": 0, "b": 1, "aa": 2 });
            t["model"]["merges"] = serde_json::json!([["a", "a"], ["aa", "a"]]);
        }),
        "tokenizer.json is not a valid tokenizer file: it is damaged",
    );
}

#[test]
fn sizes_beyond_any_machine_are_usage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for set in [
        "tokenizer.vocab_size=300000000",
        "model.n_layer=9223372036854775807",
        "model.n_layer=1000000",
        "model.n_head=9223372036854775807",
        "model.d_model=9223372036854775807",
        "model.context=9223372036854775807",
        "train.batch_size=9223372036854775807",
        "train.micro_batch=9223372036854775807",
        "train.eval_windows=9223372036854775807",
        "train.spike_window=9223372036854775807",
    ] {
        let ran = gptkit(path, &format!("pretrain --data world:40 --out y --set {set}"));
        assert_eq!(ran.code, Some(2), "{set}: {}", ran.err);
        refused(&ran, "hint: use");
    }
    refused(&gptkit(path, "tokenizer train --data world:40 --vocab-size 300000000 --out t"), "is too large");
    let shown = gptkit(path, "config show scaling-small").ok().out;
    fs::write(path.join("f.toml"), shown.replacen("n_layer = ", "n_layer = 92233720368547", 1)).unwrap();
    refused(&gptkit(path, "scaling --config f.toml --out x"), "n_layer");
    // Each is within its bounds, and their product is not within memory.
    refused(
        &gptkit(
            path,
            "pretrain --data world:40 --out y --set model.d_model=1000000 --set model.n_head=1 --set model.context=16",
        ),
        "GB of memory",
    );
    assert_eq!(fs::read_dir(path).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() == "y").count(), 0);
}

#[test]
fn an_endless_word_trains_a_tokenizer_and_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 1u32;
    let letter = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        [b'A', b'C', b'G', b'T'][(state >> 30) as usize]
    };
    fs::write(folder.path().join("dna.txt"), (0..200_000).map(letter).collect::<Vec<u8>>()).unwrap();
    let ran = gptkit(folder.path(), "tokenizer train --data dna.txt --vocab-size 1000 --out t").ok();
    assert!(
        ran.err.contains("words longer than 256 characters are split when the tokenizer is trained"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("1000 entries"), "{}", ran.err);
}

#[test]
fn a_base_that_leads_back_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    pretrain(folder.path(), "--config char --data world:40 --out run").ok();
    let describe = |of: &str, base: &str| {
        let description = serde_json::json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": 2, "lora_alpha": 4.0,
            "lora_dropout": 0.0, "target_modules": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
            "fan_in_fan_out": true, "bias": "none", "inference_mode": true,
        });
        fs::create_dir_all(folder.path().join(of)).unwrap();
        fs::write(folder.path().join(of).join("adapter_config.json"), description.to_string()).unwrap();
    };
    describe("a", "b");
    describe("b", "a");
    describe("c", "c");
    for adapters in ["a", "b", "c"] {
        let ran = gptkit(folder.path(), &format!("sample --model {adapters} --prompt a"));
        refused(&ran, &format!("the adapters in {adapters} are, directly or indirectly, their own base model"));
    }
}

//! Wrong input: exit code 2 where the command line or the configuration is wrong, 1 where the run fails; words that say
//! what, where and the way out; and no panic.

use super::{gptkit, pretrain, run};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What was said.
#[track_caller]
fn refusal(folder: &Path, arguments: &[&str], code: i32) -> String {
    let ran = run(folder, arguments, b"");
    assert_eq!(ran.code, Some(code), "{}", ran.err);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    // Lines of progress hold a speed.
    let words: Vec<&str> = ran.err.lines().filter(|line| !line.contains("MB/s")).collect();
    words.join("\n")
}

#[test]
fn a_wrong_configuration_lists_every_problem() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
[model]
kind = "gpt2"
n_layer = 2
n_head = 12
d_model = 100
context = 64

[tokenizer]
train = "bpe"
vocab_size = 100

[data]
sources = []

[train]
length = "100 steps"
batch_size = 0
lerning_rate = 1e-3
lr = 1e-3
"#;
    fs::write(folder.path().join("wrong.toml"), text).unwrap();
    insta::assert_snapshot!(refusal(folder.path(), &["pretrain", "--config", "wrong.toml"], 2));
}

#[test]
fn wrong_words_on_the_command_line_are_usage() {
    let folder = tempfile::tempdir().unwrap();
    let said: Vec<String> = [
        &["pretrain", "--config", "gtp2-small"][..],
        &["pretrain", "--set", "train.lr=fast"],
        &["pretrain", "--set", "train.lr"],
        &["pretrain", "--set", "train.speed=3"],
        &["pretrain", "--set", "train.length=\"1500 stepps\""],
        &["pretrain", "--data", "text.txt@-1", "--data", "world:many", "--tokenizer", "nowhere"],
        &["sample", "--model", "none", "--temperature", "-1"],
        &["sample", "--model", "none", "--top-p", "1.5", "--min-p", "0"],
        &["tokenizer", "train", "--kind", "bpe", "--vocab-size", "3", "--out", "t"],
    ]
    .iter()
    .map(|arguments| format!("$ gptkit {}\n{}\n", arguments.join(" "), refusal(folder.path(), arguments, 2)))
    .collect();
    insta::assert_snapshot!(said.join("\n"));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "a refused command leaves nothing");
}

/// A folder with a small trained model, its shards, and everything that can be wrong with them.
fn broken_things() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, bytes: &[u8]| fs::write(at(name), bytes).unwrap();
    // Text and records.
    write("records.jsonl", b"{\"text\": \"one\"}\n{\"text\": \"two\"\n");
    write("keys.jsonl", b"{\"text\": \"one\"}\n{\"txt\": \"two\"}\n");
    write("latin.txt", b"caf\xe9 au lait\n");
    write("binary.txt", &(0..=255).cycle().take(5000).collect::<Vec<u8>>());
    write("empty.txt", b"");
    write("short.txt", b"too short");
    write("cut.txt.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 75]);
    write("cut.txt.zst", &[0x28, 0xb5, 0x2f, 0xfd, 4, 0, 9]);
    write("corrupt.json", b"{\"version\": 3}");
    write("taken", b"");
    fs::create_dir(at("no-text")).unwrap();
    write("no-text/picture.png", b"png");
    // Configurations.
    write("binary.toml", &[0, 159, 146, 150]);
    write("half.toml", b"[model]\nkind = \"gpt2\"\nn_layer = ");
    write("nothing.toml", b"");
    // A model, and copies with one thing wrong.
    pretrain(folder.path(), "--config char --data world:40 --out run --set model.n_head=1").ok();
    gptkit(folder.path(), "prepare --config char --data world:40 --out shards-whole").ok();
    let copy = |from: &str, to: &str| {
        fs::create_dir(at(to)).unwrap();
        for entry in fs::read_dir(at(from)).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), at(to).join(entry.file_name())).unwrap();
        }
    };
    let broken = |from: &str, to: &str, file: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        copy(from, to);
        let path = at(to).join(file);
        let bytes = change(fs::read(&path).unwrap_or_default());
        fs::write(&path, bytes).unwrap();
        if from == "run" {
            fs::remove_file(at(to).join("checksums.json")).unwrap(); // as if it were made elsewhere
        }
    };
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(from), "{from} is not in {text}");
            text.replace(from, to).into_bytes()
        }
    };
    let weights = "model.safetensors";
    broken("run", "weights-cut", weights, &|bytes| bytes[..bytes.len() / 2].to_vec());
    broken("run", "weights-huge", weights, &|bytes| [&(1u64 << 60).to_le_bytes(), &bytes[8..]].concat());
    broken("run", "weights-binary", weights, &|_| vec![7; 4000]);
    broken("run", "weights-empty", weights, &|_| Vec::new());
    broken("run", "weights-nan", weights, &|mut bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes
    });
    broken("run", "weights-pickled", "pytorch_model.bin", &|_| vec![0x80, 2]);
    fs::remove_file(at("weights-pickled/model.safetensors")).unwrap();
    let escape = br#"{"weight_map": {"transformer.wte.weight": "../run/model.safetensors"}}"#;
    broken("run", "weights-escape", "model.safetensors.index.json", &|_| escape.to_vec());
    fs::remove_file(at("weights-escape/model.safetensors")).unwrap();
    broken("run", "shape-wider", "config.json", &replace("\"n_embd\": 16", "\"n_embd\": 32"));
    broken("run", "shape-deeper", "config.json", &replace("\"n_layer\": 2", "\"n_layer\": 9000"));
    broken("run", "shape-endless", "config.json", &replace("\"n_layer\": 2", "\"n_layer\": 9000000000000000"));
    broken("run", "shape-flat", "config.json", &replace("\"n_layer\": 2", "\"n_layer\": 1"));
    broken("run", "other-kind", "config.json", &replace("\"gpt2\"", "\"llama\""));
    broken("run", "config-cut", "config.json", &|bytes| bytes[..40].to_vec());
    broken("run", "tokenizer-corrupt", "tokenizer.json", &|bytes| bytes[..bytes.len() / 2].to_vec());
    broken("run", "tokenizer-none", "tokenizer.json", &|_| Vec::new());
    fs::remove_file(at("tokenizer-none/tokenizer.json")).unwrap();
    // Shards.
    let tokens = "0-train-000.bin";
    broken("shards-whole", "shards-cut", tokens, &|bytes| bytes[..100].to_vec());
    broken("shards-whole", "shards-beyond", tokens, &|bytes| vec![0xff; bytes.len()]);
    broken("shards-whole", "shards-escape", "manifest.json", &replace("0-train-000.bin", "../run/config.json"));
    broken("shards-whole", "shards-old", "manifest.json", &replace("\"format\": 2", "\"format\": 1"));
    broken("shards-whole", "shards-wide", "manifest.json", &replace("\"token_bytes\": 2", "\"token_bytes\": 3"));
    broken("shards-whole", "shards-mixed", "tokenizer.json", &replace("\"A\"", "\"§\""));
    broken("shards-whole", "shards-endless", "manifest.json", &|bytes| {
        let text = String::from_utf8(bytes).unwrap();
        let at = text.find("\"first\": 0").unwrap();
        format!("{}\"first\": 1152921504606846976{}", &text[..at], &text[at + 10..]).into_bytes()
    });
    fs::create_dir(at("run-of-nothing")).unwrap();
    write("run-of-nothing/config.toml", &fs::read(at("run/config.toml")).unwrap());
    folder
}

/// Command, exit code, and what must be said.
const WRONG: &[(&str, i32, &str)] = &[
    // Text.
    ("pretrain --data missing.txt", 2, "does not exist"),
    ("pretrain --data records.jsonl", 1, "records.jsonl line 2"),
    ("pretrain --data keys.jsonl", 1, "keys.jsonl line 2"),
    ("pretrain --data latin.txt", 1, "latin.txt"),
    ("pretrain --data binary.txt", 1, "binary.txt"),
    ("pretrain --data empty.txt", 1, "empty.txt"),
    ("pretrain --data short.txt", 1, "use more text, or set model.context"),
    ("pretrain --data cut.txt.gz", 1, "cut.txt.gz"),
    ("pretrain --data cut.txt.zst", 1, "cut.txt.zst"),
    ("pretrain --data no-text", 1, "no-text contains no .txt"),
    ("pretrain --data world --data world:0", 2, "must have a positive number of stories"),
    ("pretrain --data world --data world-patterns:0", 2, "must have a positive number of documents"),
    ("prepare --data latin.txt --out prepared", 1, "latin.txt"),
    // Configurations.
    ("pretrain --config missing.toml", 2, "missing.toml cannot be read"),
    ("pretrain --config binary.toml", 2, "binary.toml"),
    ("pretrain --config half.toml", 2, "line 3"),
    ("pretrain --config nothing.toml", 2, "missing field"),
    ("pretrain --config no-text", 2, "no-text cannot be read"),
    ("pretrain --set train.micro_batch=7", 2, "must divide the batch size of 16"),
    ("pretrain --set model.band=4", 2, "is only for kind = \"gpt3\""),
    ("pretrain --set model.n_layer=99999999999", 2, "is too large"),
    ("pretrain --set train.recompute=some", 2, "must be one of none, blocks"),
    ("pretrain --set model.vocab_size=10", 1, "set model.vocab_size = 1024"),
    ("pretrain --max-time soon", 2, "--max-time"),
    // Tokenizers.
    ("pretrain --tokenizer nowhere", 2, "does not exist"),
    ("pretrain --tokenizer corrupt.json", 1, "corrupt.json"),
    ("tokenizer encode --tokenizer nowhere", 1, "nowhere"),
    ("sample --model tokenizer-corrupt --prompt a", 2, "tokenizer-corrupt/tokenizer.json"),
    ("sample --model tokenizer-none --prompt a", 2, "tokenizer-none"),
    // Weights.
    ("sample --model nowhere --prompt a", 2, "nowhere is not a folder"),
    ("sample --model weights-cut --prompt a", 2, "weights-cut/model.safetensors is damaged"),
    ("sample --model weights-huge --prompt a", 2, "weights-huge/model.safetensors is damaged"),
    ("sample --model weights-binary --prompt a", 2, "weights-binary/model.safetensors is damaged"),
    ("sample --model weights-empty --prompt a", 2, "weights-empty/model.safetensors is damaged"),
    ("sample --model weights-nan --prompt a", 2, "NaN or infinite"),
    ("sample --model weights-pickled --prompt a", 2, "convert it with transformers"),
    ("sample --model weights-escape --prompt a", 2, "which is not in the same folder"),
    ("sample --model shape-wider --prompt a", 2, "the configuration requires"),
    ("sample --model shape-deeper --prompt a", 2, "config.json has n_layer = 9000, but the weights have 2 layers"),
    ("sample --model shape-endless --prompt a", 2, "is too large"),
    ("sample --model shape-flat --prompt a", 2, "do not belong to the model"),
    ("sample --model other-kind --prompt a", 2, "llama"),
    ("sample --model config-cut --prompt a", 2, "config-cut/config.json is not JSON"),
    ("pretrain --init weights-nan", 1, "NaN or infinite"),
    ("pretrain --init other-kind", 2, "llama"),
    ("sample --model run --prompt-file missing.txt", 2, "missing.txt cannot be read"),
    ("sample --model run --prompt-file latin.txt", 2, "latin.txt cannot be read"),
    ("sample --model run --prompt §", 1, "is not in the vocabulary"),
    // Shards.
    ("pretrain --data shards-cut", 1, "run `gptkit prepare` again"),
    ("pretrain --data shards-beyond", 1, "do not match their checksum"),
    ("pretrain --data shards-escape", 1, "which is not in the same folder"),
    ("pretrain --data shards-old", 1, "has format 1"),
    ("pretrain --data shards-wide", 1, "has tokens of 3 bytes"),
    ("pretrain --data shards-mixed", 1, "different tokenizer"),
    ("pretrain --data shards-endless", 1, "run `gptkit prepare` again"),
    ("pretrain --data shards-whole --data world", 1, "cannot be combined with other sources"),
    // Places that cannot be written.
    ("pretrain --config char --data world:40 --out taken/run", 2, "taken/run"),
    ("pretrain --config char --data world:40 --out /proc/run", 2, "/proc/run"),
    ("pretrain --config char --data world:40 --out run", 2, "run is not empty"),
    (
        "prepare --config char --data world:40 --out no-text",
        1,
        "no-text is not empty and does not contain prepared text",
    ),
    ("plot run --out taken/curves.svg", 1, "taken/curves.svg cannot be written"),
    // Runs.
    ("pretrain --resume nowhere", 2, "nowhere is not a run"),
    ("pretrain --resume .", 2, "it contains these runs: ./run"),
    ("pretrain --resume run/checkpoints", 2, "gptkit pretrain --resume run"),
    ("train-rm --resume run/checkpoints/step-000001", 2, "gptkit pretrain --resume run"),
    ("pretrain --resume run-of-nothing", 1, "contains no complete checkpoint"),
    ("pretrain --resume run --seed 3", 2, "cannot be used with"),
    ("runs nowhere", 2, "there is no folder nowhere"),
    ("runs no-text", 2, "no-text contains no runs"),
    ("plot nowhere", 2, "is this the folder of a run?"),
    // Looking.
    ("inspect --config char --data world:40 --step 99999", 1, "no step 99999"),
    ("attention --model run --text abcabcabcabcabcabcabcabcabcabc", 1, "use a shorter text"),
    ("attention --model run --text a --layer 2", 2, "--layer must be between 0 and 1"),
    ("plan --devices 8", 2, "--device-tflops"),
    ("plan --devices 8 --device-tflops 300 --mfu 40", 2, "up to 1"),
    ("plan --memory 0", 2, "above 0"),
];

#[test]
fn wrong_input_of_any_kind_is_named_and_leaves_nothing() {
    let folder = broken_things();
    let names = || -> BTreeSet<String> {
        let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "shards").collect() // prepared text may stay: it is right
    };
    let before = names();
    let mut differ = String::new();
    for (command, code, says) in WRONG {
        let ran = gptkit(folder.path(), command);
        let panicked = ran.err.contains("panicked") || !ran.out.is_empty();
        if ran.code != Some(*code) || !ran.err.contains(says) || panicked {
            differ += &format!("{:?} for {code} {says:?}: gptkit {command}\n{}{}\n", ran.code, ran.err, ran.out);
        }
        fs::remove_dir_all(folder.path().join("runs")).ok(); // a run that began says why it ended; it is no outcome
        assert_eq!(names(), before, "gptkit {command}");
    }
    assert!(differ.is_empty(), "{differ}");
    assert!(WRONG.len() >= 40);
    gptkit(folder.path(), "sample --model run --prompt a --max-new-tokens 5").ok();
}

#[test]
fn a_prompt_longer_than_the_context_is_said_and_continued() {
    let folder = tempfile::tempdir().unwrap();
    pretrain(folder.path(), "--config char --data world:40 --out run").ok();
    let ran = gptkit(folder.path(), "sample --model run --max-new-tokens 5 --prompt abcabcabcabcabcabcabcabc").ok();
    assert!(ran.err.contains("the prompt has 24 tokens, but the context of the model is 16"), "{}", ran.err);
}

/// A disk of 2 MB that goes away with this; nothing where the system does not let one be made.
#[cfg(target_os = "linux")]
struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "gptkit-test"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            _ => {
                eprintln!("skipped: no small disk can be made here, which takes the right to mount one");
                None
            }
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_fills_up_ends_the_run_with_what_was_saved() {
    let Some(disk) = SmallDisk::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = disk.0.path().join("run");
    // The first checkpoint has room, later ones are in each other's way: about 0.7 MB each, with the best weights beside.
    let more = format!(
        "--config char --data world:40 --set model.d_model=64 --set model.n_layer=1 --set train.keep_checkpoints=9 --out {}",
        run.display()
    );
    let ran = pretrain(folder.path(), &more);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("cannot be written") && ran.err.contains("No space left"), "{}", ran.err);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    // Room again: the run goes on from what is whole.
    fs::remove_file(run.join("model.safetensors")).ok();
    let filler = run.join("checkpoints/step-000000");
    let config =
        fs::read_to_string(run.join("config.toml")).unwrap().replace("keep_checkpoints = 9", "keep_checkpoints = 1");
    fs::remove_dir_all(&filler).ok();
    fs::write(run.join("config.toml"), config).unwrap();
    gptkit(folder.path(), &format!("pretrain --resume {}", run.display())).ok();
}

#[test]
#[cfg(target_os = "linux")]
fn results_that_cannot_be_written_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_gptkit"))
        .args(["world", "--stories", "9"])
        .current_dir(folder.path())
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("No space left"));
}

#[test]
fn bad_records_are_skipped_and_counted_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let good: String = (0..200).map(|i| format!("{{\"text\": \"Number {i} of many good records.\"}}\n")).collect();
    fs::write(folder.path().join("mixed.jsonl"), good + "{broken\n{\"text\": \"\"}\n").unwrap();
    let ran = gptkit(
        folder.path(),
        "prepare --config char --data mixed.jsonl --on-bad-record skip --out prepared --set model.context=16",
    )
    .ok();
    assert!(ran.err.contains("skipped 2 bad records; the first: mixed.jsonl line 201"), "{}", ran.err);
}

#[test]
fn a_run_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("mine")).unwrap();
    fs::write(folder.path().join("mine/thesis.txt"), "precious").unwrap();
    let ran = pretrain(folder.path(), "--config char --data world:40 --out mine");
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("mine is not empty"), "{}", ran.err);
    assert_eq!(fs::read_to_string(folder.path().join("mine/thesis.txt")).unwrap(), "precious");
}

#[test]
fn a_run_that_diverges_ends_with_its_checkpoint_intact() {
    let folder = tempfile::tempdir().unwrap();
    let more = "--config char --data world:40 --set train.lr=1e30 --set train.min_lr=1e29 --out run";
    let ran = pretrain(folder.path(), more);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_eq!(ran.err.matches("the update was skipped").count(), 4, "{}", ran.err);
    assert!(ran.err.contains("5th non-finite update in a row; lower train.lr"), "{}", ran.err);
    assert!(folder.path().join("run/checkpoints/step-000000/model.safetensors").exists());
}

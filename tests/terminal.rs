//! What reaches a terminal: no control sequence of a model, a name or a record; and the words of settings and panics.

use super::{TINY, gptkit, output, run};
use std::fs;
use std::path::Path;

/// A window title as a terminal takes it: ESC ] 0 ; … BEL. C1, a right-to-left override and DEL beside it.
const STEERS: &str = "\u{1b}]0;PWNED\u{7} \u{9b}2J \u{202e}txt.exe\u{7f}";

/// A model of the characters of [`STEERS`] and of a dialogue. Its closing text is what training prints.
fn model(folder: &Path) -> super::Ran {
    let text = format!("User: PWNED\nAssistant: {STEERS}\n2").repeat(200);
    let more = "--set model.context=64 --config char --data - --out run";
    let words: Vec<&str> = TINY.iter().copied().chain(more.split(' ')).collect();
    run(folder, &words, text.as_bytes()).ok()
}

#[track_caller]
fn is_clean(text: &str) {
    let steers = |c: char| c.is_control() && !"\n\t".contains(c) || "\u{202e}\u{2066}".contains(c);
    assert!(!text.contains(steers), "{text:?}");
}

#[test]
fn what_a_model_writes_cannot_steer_the_terminal_unless_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let trained = model(folder.path());
    is_clean(&trained.out);
    is_clean(&trained.err);
    let sample = |more: &[&str]| {
        let words = ["sample", "--model", "run", "--prompt", "\u{1b}\u{9b}", "--num-samples", "2"];
        output(folder.path(), &[&words, more].concat(), b"")
    };
    let shown = String::from_utf8(sample(&[]).stdout).unwrap();
    is_clean(&shown);
    assert!(shown.starts_with(r"\x1b\x9b"), "{shown}");
    let raw = String::from_utf8(sample(&["--raw"]).stdout).unwrap();
    assert!(raw.starts_with("\u{1b}\u{9b}"), "{raw:?}");
    let json = String::from_utf8(sample(&["--json"]).stdout).unwrap();
    is_clean(&json);
    for line in json.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["prompt"], "\u{1b}\u{9b}");
    }
    let chat = |more: &str| {
        let words = format!("chat --model run --max-new-tokens 8 {more}");
        let words: Vec<&str> = words.split_whitespace().collect();
        run(folder.path(), &words, b"PWNED\n/save talk.jsonl\n/\x1b[2J\n")
    };
    let (shown, raw) = (chat(""), chat("--raw"));
    is_clean(&shown.out);
    is_clean(&shown.err);
    assert!(shown.err.contains(r"/\x1b[2J is not a command"), "{}", shown.err);
    let saved = fs::read_to_string(folder.path().join("talk.jsonl")).unwrap();
    let record: serde_json::Value = serde_json::from_str(saved.lines().last().unwrap()).unwrap();
    assert_eq!(raw.out.trim(), record["messages"][1]["content"].as_str().unwrap().trim(), "files keep every byte");
    for words in [
        "attention --model run --text PWNED2J",
        "attention --model run --text PWNED --layer 0 --head 0",
        "attention --model run --text PWNED --json",
        "inspect --config char --data evil.txt --set model.context=16",
        "tokenizer decode --tokenizer run",
    ] {
        fs::write(folder.path().join("evil.txt"), format!("{STEERS}\n").repeat(300)).unwrap();
        let words: Vec<&str> = words.split(' ').map(|word| if word == "PWNED" { STEERS } else { word }).collect();
        let ran = run(folder.path(), &words, b"0 1 2 3 4 5 6 7 8 9 10 11");
        if words.contains(&STEERS) || words[0] != "attention" {
            assert_eq!(ran.code, Some(0), "{}", ran.err);
        }
        is_clean(&ran.out);
        is_clean(&ran.err);
    }
}

#[test]
fn names_and_messages_cannot_steer_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let at = |name: &str| folder.path().join(name);
    let key = serde_json::json!({ STEERS: 1 }).to_string() + "\n";
    fs::write(at("key.jsonl"), key).unwrap();
    let named = format!("a{STEERS}");
    fs::write(at(&format!("{named}.toml")), "[model]\nkind = 3\n").unwrap();
    fs::write(at(&format!("{named}.jsonl")), "{}\n").unwrap();
    fs::create_dir(at("runs")).unwrap();
    for name in ["\u{1b}[31mred\nnew\tline", "\u{202e}x"] {
        fs::create_dir(at("runs").join(name)).unwrap();
        for entry in fs::read_dir(at("run")).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), at("runs").join(name).join(entry.file_name())).unwrap();
        }
    }
    let template = format!("{{{{ raise_exception('{STEERS}') }}}}");
    fs::write(at("run/chat_template.jinja"), template).unwrap();
    let (toml, jsonl, option) = (format!("{named}.toml"), format!("{named}.jsonl"), format!("--{named}"));
    for (words, code) in [
        (&["prepare", "--config", "char", "--data", "key.jsonl", "--out", "p"][..], 1),
        (&["prepare", "--config", "char", "--data", &jsonl, "--out", "p"], 1),
        (&["pretrain", "--config", &toml], 2),
        (&["pretrain", "--config", &named], 2),
        (&["pretrain", "--set", &format!("a.{named}=1")], 2),
        (&["pretrain", "--set", &format!("data.text_key={named}"), "--data", "key.jsonl"], 2),
        (&["pretrain", &option], 2),
        (&["sample", "--model", &named], 2),
        (&["chat", "--model", "run"], 1),
        (&[&named], 2),
    ] {
        let ran = run(folder.path(), words, b"hello\n");
        is_clean(&ran.err);
        is_clean(&ran.out);
        assert_eq!(ran.code, Some(code), "{words:?}\n{}", ran.err);
        assert!(ran.err.contains(r"\x1b]0;") || ran.err.contains(r"\u{1b}]0;"), "{words:?}\n{}", ran.err);
    }
    let listed = run(folder.path(), &["runs", "runs"], b"").ok();
    is_clean(&listed.out);
    assert_eq!(listed.out.lines().count(), 3, "{}", listed.out);
    assert!(listed.out.contains(r"\x1b[31mred\nnew\tline") && listed.out.contains(r"\u{202e}x"), "{}", listed.out);
}

#[test]
fn settings_are_one_value_each() {
    let folder = tempfile::tempdir().unwrap();
    let set = |setting: &str| run(folder.path(), &["pretrain", "--config", "char", "--set", setting], b"");
    for (setting, says) in [
        ("train.lr=1e-3\nmodel.d_model=3", "the value has more than one line"),
        (&format!("a{}=1", ".a".repeat(50_000)), "invalid key: more than 16 parts"),
        ("train.lr=", "the value is empty"),
        ("train..lr=1", "invalid key: \"\" is not a bare TOML key"),
    ] {
        let ran = set(setting);
        assert_eq!(ran.code, Some(2), "{}", ran.err);
        assert!(ran.err.contains(says) && ran.err.len() < 1500, "{}", ran.err);
    }
}

#[test]
fn the_environment_is_read_strictly() {
    let folder = tempfile::tempdir().unwrap();
    let info = |name: &str, value: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gptkit"));
        let command = command.arg("info").current_dir(folder.path()).env_remove("GPTKIT_CPU").env(name, value);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    for value in ["quantum", "", "AVX2"] {
        let (code, _, said) = info("GPTKIT_CPU", value);
        assert_eq!(code, Some(2));
        assert!(said.contains("GPTKIT_CPU is") && said.contains("portable, avx2, avx512"), "{said}");
    }
    let (code, shown, _) = info("GPTKIT_CPU", "portable");
    assert!(
        code == Some(0) && shown.lines().any(|line| line.split_whitespace().eq(["GPTKIT_CPU", "portable"])),
        "{shown}"
    );
    assert_eq!(info("GPTKIT_EVENTS", "yes").0, Some(2));
    let (code, shown, said) = info("GPTKIT_CPUS", "portable");
    assert!(
        code == Some(0)
            && shown.contains("not set")
            && said.contains("warning: unknown environment variable GPTKIT_CPUS"),
        "{said}"
    );
}

#[test]
fn results_that_cannot_be_written_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else {
        eprintln!("skipped: there is no /dev/full");
        return;
    };
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gptkit"));
    let output = command.args(["world", "--count", "3"]).current_dir(folder.path()).stdout(full).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: stdout cannot be written: "), "{said}");
}

/// A limit of a file's size stands in for a full disk: writing fails in the same places.
#[cfg(unix)]
#[test]
fn a_full_disk_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let records: String =
        (0..4000).map(|i| format!("{{\"prompt\": \"PWNED {i}\", \"completion\": \"PWNED\"}}\n")).collect();
    let records = records.replace(|c: char| c.is_ascii_digit(), "2");
    fs::write(folder.path().join("records.jsonl"), &records).unwrap();
    fs::write(folder.path().join("text.txt"), format!("{STEERS}\n").repeat(9000)).unwrap();
    for (command, file) in [
        ("sft --init run --data records.jsonl --out s", "train.examples"),
        ("prepare --config char --data text.txt --out p", "0-train-000.bin"),
        ("world --count 400 --json", ""),
        ("tokenizer train --data world:400 --vocab-size 5000 --out t", "tokenizer.json"),
    ] {
        // 16 blocks of 512 bytes, or of 1,024.
        let script = format!("ulimit -f 16; exec {} {command}", env!("CARGO_BIN_EXE_gptkit"));
        let mut shell = std::process::Command::new("sh");
        let out = fs::File::options().create(true).append(true).open(folder.path().join("stdout")).unwrap();
        let ran = shell.args(["-c", &script]).current_dir(folder.path()).stdout(out).output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{command}: {said}");
        let named = if file.is_empty() { "stdout" } else { file };
        assert!(said.contains(named) && said.contains("cannot be written"), "{command}: {said}");
    }
    // Nothing was left as if it were whole.
    assert_ne!(gptkit(folder.path(), "sample --model s --prompt P").code, Some(0));
}

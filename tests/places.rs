//! Places that are not what they seem: FIFOs, devices and sockets, links, names that are not UTF-8, streams without end.

#![cfg(unix)]

use super::{gptkit, pretrain};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Ends in words within the time that a blocked command would not.
#[track_caller]
fn refused(folder: &Path, command: &str, says: &str) {
    let script = format!("exec timeout 20 {} {command}", env!("CARGO_BIN_EXE_gptkit"));
    let output = Command::new("sh").args(["-c", &script]).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code();
    assert!(matches!(code, Some(1 | 2)), "{command}: {code:?} {said}");
    assert!(said.contains(says), "{command}: {said}");
}

#[test]
fn text_is_read_from_files_and_from_stdin_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["only", "some"] {
        fs::create_dir(at(name)).unwrap();
        fifo(&at(name).join("a.txt"));
        symlink("/dev/zero", at(name).join("z.txt")).unwrap();
    }
    fs::write(at("some/b.txt"), "hello world\n".repeat(300)).unwrap();
    symlink("/dev/zero", at("zero.jsonl")).unwrap();
    symlink("/dev/zero", at("zero.csv")).unwrap();
    fifo(&at("fifo.jsonl"));
    fifo(&at("fifo.parquet"));
    pretrain(folder.path(), "--config char --data some --out run").ok();
    let prepared = gptkit(folder.path(), "prepare --config char --data some --out p").ok();
    assert!(prepared.err.contains("some: 2 files of other types are ignored"), "{}", prepared.err);
    for (command, says) in [
        ("prepare --config char --data only --out q", "only contains no .txt"),
        ("prepare --config char --data only/a.txt --out q", "only/a.txt is a FIFO"),
        ("prepare --config char --data /dev/zero --out q", "/dev/zero is a character device"),
        ("prepare --config char --data - --out q < /dev/zero", "stdin is a character device"),
        ("prepare --config char --data fifo.jsonl --out q", "fifo.jsonl is a FIFO"),
        ("sft --init run --data zero.jsonl --out q", "zero.jsonl is a character device"),
        ("sft --init run --data fifo.parquet --out q", "fifo.parquet cannot be read: it is a FIFO"),
        ("sft --init run --data zero.csv --out q", "zero.csv is a character device"),
        ("pretrain --config fifo.jsonl", "it is a FIFO"),
        ("pretrain --config /dev/zero", "it is larger than 16 MB"),
        ("sample --model run --prompt-file fifo.jsonl", "it is a FIFO"),
        ("sample --model run < /dev/zero", "stdin is longer than 64 MiB"),
        ("chat --model run < /dev/zero", "a line is longer than 1 MiB"),
        ("tokenizer encode --tokenizer run < /dev/zero", "stdin is longer than 64 MiB"),
    ] {
        refused(folder.path(), command, says);
    }
    // What a shell puts in the place of `<(…)` is a stream, and may be read as one.
    let script = format!(
        "printf hello | exec {} sample --model run --prompt-file /dev/stdin --max-new-tokens 1",
        env!("CARGO_BIN_EXE_gptkit")
    );
    let ran = Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&ran.stdout).starts_with("hello"), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn a_model_or_a_run_with_a_fifo_in_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    pretrain(folder.path(), "--config char --data world:40 --out run").ok();
    for file in ["config.json", "tokenizer.json", "model.safetensors", "metrics.jsonl", "lock", "config.toml"] {
        let kept = fs::read(at("run").join(file)).unwrap_or_default();
        fs::remove_file(at("run").join(file)).unwrap();
        fifo(&at("run").join(file));
        match file {
            "metrics.jsonl" => refused(folder.path(), "plot run", "metrics.jsonl cannot be read: it is a FIFO"),
            "lock" | "config.toml" => refused(folder.path(), "pretrain --resume run", &format!("{file} ")),
            _ => {
                refused(folder.path(), "sample --model run --prompt a", &format!("{file} cannot be read: it is a FIFO"))
            }
        }
        assert_eq!(gptkit(folder.path(), "runs .").code, Some(0), "{file}");
        fs::remove_file(at("run").join(file)).unwrap();
        fs::write(at("run").join(file), kept).unwrap();
    }
}

#[test]
fn outputs_go_where_links_lead_and_never_replace_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    pretrain(folder.path(), "--config char --data world:40 --out run").ok();
    fs::write(at("file.svg"), "old").unwrap();
    fs::create_dir(at("dir")).unwrap();
    for (to, link) in [("file.svg", "link.svg"), ("nowhere", "nowhere.svg"), ("dir", "link"), ("gone", "gone-link")] {
        symlink(at(to), at(link)).unwrap();
    }
    gptkit(folder.path(), "plot run --out link.svg").ok();
    assert!(at("link.svg").is_symlink() && fs::read_to_string(at("file.svg")).unwrap().contains("<svg"));
    gptkit(folder.path(), "prepare --config char --data world:40 --out link").ok();
    assert!(at("link").is_symlink() && at("dir/manifest.json").exists());
    pretrain(folder.path(), "--config char --data world:40 --out gone-link").code.filter(|&code| code == 2).unwrap();
    refused(folder.path(), "plot run --out nowhere.svg", "nowhere.svg is a symbolic link to");
    fifo(&at("fifo"));
    refused(folder.path(), "plot run --out fifo", "fifo cannot be written: it is a FIFO");
    refused(folder.path(), "plot run --out /dev/null", "/dev/null cannot be written: it is a character device");
    refused(folder.path(), "plot run --out dir", "dir cannot be written: it is a folder");
}

#[test]
fn names_that_are_not_utf_8_are_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let name = OsStr::from_bytes(b"a\xff.txt");
    fs::create_dir(folder.path().join("f")).unwrap();
    fs::write(folder.path().join("f").join(name), "hello world\n".repeat(300)).unwrap();
    let ran = gptkit(folder.path(), "prepare --config char --data f --out p");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("f/a\u{fffd}.txt is not valid UTF-8") && !ran.err.contains('%'), "{}", ran.err);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gptkit"));
    let output = command.args(["pretrain", "--data"]).arg(name).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.as_str()), (Some(2), "error: argument a\u{fffd}.txt is not valid UTF-8\n"));
}

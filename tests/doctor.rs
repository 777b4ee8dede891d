//! `gptkit doctor` from outside: what it checks, its remedies and its exit code.

use super::gptkit;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `gptkit doctor` with the words of `more` and the environment variables `set`; exit code, stdout and stderr.
fn doctor(folder: &Path, more: &str, set: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gptkit"));
    command.arg("doctor").args(more.split_whitespace()).current_dir(folder).envs(set.iter().copied());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn checks(json: &str) -> Vec<serde_json::Value> {
    json.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_check_is_a_line_with_a_state() {
    let folder = tempfile::tempdir().unwrap();
    let (code, table, _) = doctor(folder.path(), "--offline", &[]);
    assert_eq!(code, Some(0), "{table}");
    let (_, json, _) = doctor(folder.path(), "--offline --json", &[]);
    let checks = checks(&json);
    assert_eq!(checks.len(), table.lines().count());
    for (check, line) in checks.iter().zip(table.lines()) {
        let (name, state) = (check["check"].as_str().unwrap(), check["state"].as_str().unwrap());
        assert!(line.starts_with(state) && line.contains(name), "{line}");
        assert_eq!(state == "ok", check["hint"].is_null(), "{check}");
    }
    for name in ["cpu", "threads", "memory", "gpu", "working folder", "hub", "server port", "open files"] {
        assert!(checks.iter().any(|check| check["check"] == name), "{name}");
    }
}

#[test]
fn what_is_wrong_has_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ("GPTKIT_CPU", "portable"),
        ("RAYON_NUM_THREADS", "4096"),
        ("HF_ENDPOINT", "http://127.0.0.1:9"),
        ("NO_PROXY", "127.0.0.1"),
        ("TMPDIR", "/nowhere"),
    ];
    let (code, json, _) = doctor(folder.path(), "--json", &variables);
    assert_eq!(code, Some(0), "a warning prevents no work: {json}");
    for (name, hint) in [
        ("cpu", "unset GPTKIT_CPU"),
        ("threads", "RAYON_NUM_THREADS"),
        ("hub", "check the network"),
        ("temporary files", "set TMPDIR"),
    ] {
        let checks = checks(&json);
        let check = checks.iter().find(|check| check["check"] == name).unwrap();
        assert_eq!(check["state"], "warning", "{check}");
        assert!(check["hint"].as_str().unwrap().contains(hint), "{check}");
    }
}

#[test]
fn a_server_that_does_not_answer_is_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, err) = doctor(folder.path(), "--server http://127.0.0.1:9/v1/", &[("NO_PROXY", "127.0.0.1")]);
    assert_eq!((code, out.lines().count()), (Some(1), 1));
    assert!(out.starts_with("problem  server  http://127.0.0.1:9/health cannot be reached"), "{out}");
    assert_eq!(err, "error: 1 check found a problem\n");
    assert_eq!(gptkit(folder.path(), "doctor --server http://127.0.0.1:9 --offline").code, Some(2));
}

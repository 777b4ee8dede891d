//! The binary from outside: run it as a user would, look at the exit code, the words and the files.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, reason = "a test may fail")]

mod bad_input;
mod baselines;
mod chat;
mod commands;
mod compare;
mod conformance;
mod console;
mod docs;
mod doctor;
mod dpo;
mod eval;
mod feedback;
mod figures;
mod finetune;
mod gguf;
mod help;
mod hostile;
mod hub;
mod lineage;
mod looking;
mod man;
#[cfg(feature = "mpi")]
mod mpi;
mod pages;
mod places;
mod ppo;
mod resume;
mod reward;
mod scaling;
mod seeing;
mod serve;
mod sft;
mod speed;
mod story;
mod structure;
mod terminal;
mod tokenizers;
mod win_rates;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a run of the binary left.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    /// Panics with what was said unless the run ended well.
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self
    }
}

/// Runs `gptkit` in `folder` with the words of `command`, which have no spaces in them, and nothing on stdin.
fn gptkit(folder: &Path, command: &str) -> Ran {
    run(folder, &command.split(' ').collect::<Vec<_>>(), b"")
}

fn run(folder: &Path, arguments: &[&str], stdin: &[u8]) -> Ran {
    let output = output(folder, arguments, stdin);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// The same, for output that need not be text.
fn output(folder: &Path, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gptkit"))
        .args(arguments)
        .current_dir(folder)
        .env("COLUMNS", "100")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

/// Settings of a run that takes a second.
const TINY: &[&str] = &[
    "pretrain",
    "--set",
    "model.n_layer=2",
    "--set",
    "model.n_head=2",
    "--set",
    "model.d_model=16",
    "--set",
    "model.context=16",
    "--set",
    "train.length=\"12 steps\"",
    "--set",
    "train.warmup=\"2 steps\"",
    "--set",
    "train.eval_every=5",
    "--set",
    "train.eval_windows=8",
];

/// `gptkit pretrain` with [`TINY`] and the words of `more`. Transformers of this width begin with small weights.
fn pretrain(folder: &Path, more: &str) -> Ran {
    let of_transformers = if more.contains("kind=lstm") { &[][..] } else { &["--set", "model.init_std=0.02"] };
    run(folder, &TINY.iter().chain(of_transformers).copied().chain(more.split(' ')).collect::<Vec<_>>(), b"")
}

//! The commands in the blocks of code of the README and of `docs/`, run in the order in which a reader meets them, in one
//! folder. A block with the comment `<!-- not run: reason -->` on the line before it is left out; all others must succeed.

#![cfg(unix)]

use super::pages::{code_blocks, pages, root};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Stands in for `gptkit` on the path: calls the binary with the documented arguments, then with settings that make the
/// model and the run small, and with fewer of the built-in records.
const SMALL: &str = r#"#!/bin/sh
resumes=no data="--data world:60" shape="--set model.n_layer=2 --set model.n_head=4 --set model.d_model=16"
before=
for word; do
  shift
  case $word in
    --resume) resumes=yes ;;
    --data) data= ;;
    --init) shape= ;;
    world) test "$before" != --data || word=world:60 ;;
    world:*[0-9][0-9][0-9]) word=world:40 ;;
  esac
  test "$before" != --limit || word=4
  before=$word
  set -- "$@" "$word"
done
steps="--set train.length=4steps --set train.warmup=0steps --set train.batch_size=4 --set train.eval_every=2"
steps="$steps --set train.eval_windows=4"
test $resumes = no && case $1 in
  pretrain) set -- "$@" $data $steps --set model.context=160 $shape ;;
  plan) set -- "$@" $shape ${shape:+--set model.context=64} ;;
  sft | dpo | finetune) set -- "$@" $data $steps ;;
  train-rm) set -- "$@" $data $steps --set 'normalization.references=["world:40"]' ;;
  ppo)
    set -- "$@" --prompts world:40 $steps --set policy.minibatches=2 --set rollout.max_new_tokens=6
    set -- "$@" --set ptx.per_episode=1 ;;
  compare | win-rates) set -- "$@" --max-new-tokens 6 ;;
esac
exec "$BINARY" "$@"
"#;

/// The files of one's own that the pages name.
const FILES: &str = "
mkdir -p bin books my-text .config/fish/completions .local/share/bash-completion/completions
gptkit world --count 60 | tee books/one.txt my-text/one.txt tinyshakespeare.txt > letters.txt
gptkit world --count 60 --json | gzip > web.jsonl.gz
gptkit world --count 40 --instructions > dialogues.jsonl
gptkit world --count 10 --instructions --held-out > held-out.jsonl
gptkit world --count 40 --comparisons | tee rankings.jsonl > c.jsonl
for name in train dev test; do
  printf 'premise,hypothesis,label\n' > $name.csv
  for i in 1 2 3 4 5 6 7 8; do
    printf 'Fox %s of %s is red.,It is red.,yes\nFox %s of %s is old.,It is new.,no\n' $i $name $i $name >> $name.csv
  done
done
printf 'body\tlabel\n' > tweets.tsv
for i in 1 2 3 4 5 6 7 8; do printf 'What a day number %s!\tgood\nNo bread %s.\tbad\n' $i $i; done >> tweets.tsv
printf 'text\nElla lost her kite.\n' > new.csv
";

/// Models that the pages name without making them.
const MODELS: &str = "
for name in gpt2 runs/m2 runs/m4; do cp -r runs/small-1 $name; done
for name in runs/sft-other runs/ppo-without-text; do cp -r runs/sft-small-1 $name; done
";

/// `sh` in `folder`, whose `gptkit` is the one of [`SMALL`].
fn shell(folder: &Path, script: &str) -> Output {
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(folder).stdin(Stdio::null());
    command.env("PATH", path).env("HOME", folder).env("BINARY", env!("CARGO_BIN_EXE_gptkit")).output().unwrap()
}

fn must(folder: &Path, script: &str, place: &str) -> String {
    let begun = std::time::Instant::now();
    let output = shell(folder, script);
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    eprintln!("{:6.1} s  {place}: {script}", begun.elapsed().as_secs_f64());
    assert!(output.status.success(), "{place}: {script}\n{said}");
    said.into_owned()
}

/// The README, then the pages of `docs/` in the order of the table of contents.
fn in_reading_order() -> Vec<(String, String)> {
    let contents = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let mut pages = pages();
    let place = |file: &str| contents.find(&format!("]({})", file.trim_start_matches("docs/")));
    pages.sort_by_key(|(file, _)| if file == "README.md" { None } else { Some(place(file)) });
    pages
}

#[test]
fn the_commands_of_every_page_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("bin")).unwrap();
    fs::write(path.join("bin/gptkit"), SMALL).unwrap();
    fs::set_permissions(path.join("bin/gptkit"), fs::Permissions::from_mode(0o755)).unwrap();
    must(path, FILES, "files");
    let (mut n_run, mut n_left_out) = (0, 0);
    for (file, text) in in_reading_order() {
        for block in code_blocks(&text).iter().filter(|block| block.is_shell()) {
            if block.comment.is_some() {
                n_left_out += 1;
                continue;
            }
            n_run += 1;
            let place = format!("{file}, the block of line {}", block.line);
            let mut said = String::new();
            for command in block.commands() {
                said += &must(path, &command, &place);
            }
            // What the built-in world prints does not depend on settings; `…` stands for what a page leaves out.
            if block.commands().iter().all(|command| command.starts_with("gptkit world ")) {
                for shown in block.text.lines().filter(|line| !line.starts_with("$ ")) {
                    let parts = shown.split('…').map(str::trim);
                    parts.for_each(|part| assert!(said.contains(part), "{place}: no {part} in\n{said}"));
                }
            }
            let said = without_digits(&said);
            for next in block.text.lines().filter(|line| line.starts_with("next: gptkit")) {
                assert!(said.contains(&without_digits(next)), "{place}: no line \"{next}\" in\n{said}");
            }
        }
        if file == "docs/index.md" {
            must(path, MODELS, "models");
        }
    }
    assert!(n_run > 25, "{n_run} blocks were run, and {n_left_out} not");
}

/// Runs are numbered in another order here.
fn without_digits(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

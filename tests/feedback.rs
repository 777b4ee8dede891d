//! Feedback from outside: from a person at the terminal to a run and back, and text that would control a terminal.

use super::{compare, gptkit, run};
use serde_json::json;
use std::fs;
use std::path::Path;

/// A prompt that tries what text can do to a terminal and to a page.
const HOSTILE: &str = "<script>alert(1)</script> \u{202e}txt \u{1b}[2J\u{1b}]0;title\u{7} \u{9b}31m 👍 日本";
const TRAIN: &str =
    "--set data.val_fraction=0 --set train.batch_size=2 --set train.warmup=0steps --set train.length=4steps";

/// Ranks three answers to each of three prompts as `who`; the store is in `k`.
fn rank(folder: &Path, who: &str) -> String {
    let long = "Tell me. ".repeat(10);
    let prompts: Vec<String> =
        [HOSTILE, "Where is Tom?", &long].iter().map(|text| json!({ "prompt": text }).to_string()).collect();
    fs::write(folder.join("p.jsonl"), prompts.join("\n")).unwrap();
    let words = "compare --a a --k 3 --prompts p.jsonl --max-new-tokens 8 --dtype f32 --judge human --out k --who";
    let words: Vec<&str> = words.split(' ').chain([who]).collect();
    run(folder, &words, b"2 1=3\n1 2 3\n3 1 2\n").ok().err
}

fn is_harmless(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}')
}

#[test]
fn a_run_leads_to_people_and_a_person_can_be_deleted() {
    let folder = compare::lab();
    let path = folder.path();
    rank(path, "ann");
    let stats = gptkit(path, "feedback stats k").ok();
    assert!(stats.out.contains("answers 9 · rankings 3 · "), "{}", stats.out);
    assert_eq!(stats.err, "next: gptkit feedback export k --comparisons comparisons.jsonl\n");
    // The answers are recorded with all that is needed to generate them again.
    let verified = gptkit(path, "feedback verify k --model a --dtype f32").ok();
    assert!(verified.err.contains("9 of 9 answers came again token by token\nnext: "), "{}", verified.err);
    let exported = gptkit(path, "feedback export k --comparisons comparisons.jsonl").ok();
    let next = exported.err.strip_prefix("comparisons: 3 in comparisons.jsonl\nnext: gptkit ").unwrap();
    assert_eq!(next, "train-rm --init a --data comparisons.jsonl\n");
    gptkit(path, &format!("{} {TRAIN} --dtype f32 --out runs/rm-1", next.trim())).ok();

    let traced = gptkit(path, "feedback trace runs/rm-1").ok();
    for says in [
        "runs/rm-1 (gptkit train-rm)\n",
        "/comparisons.jsonl: export 2 (comparisons) of ",
        " · records 3 · people 1\n    ann: 3 records: ranking-1, ranking-2, ranking-3\n  --init ",
    ] {
        assert!(traced.out.contains(says), "{says}: {}", traced.out);
    }
    let next = traced.err.strip_prefix("next: gptkit ").unwrap().trim();
    let record = gptkit(path, next).ok();
    assert!(record.out.starts_with("ranking-1 by ann, "), "{}", record.out);
    assert!(record.out.ends_with("trained on it: runs/rm-1\n"), "{}", record.out);
    let next = record.err.strip_prefix("next: gptkit ").unwrap().trim();
    assert_eq!(gptkit(path, next).ok().out, traced.out);
    // What is edited afterward is named.
    fs::write(path.join("comparisons.jsonl"), "{}\n").unwrap();
    let traced = gptkit(path, "feedback trace runs/rm-1").ok();
    assert!(traced.out.contains("the file has changed since the run started"), "{}", traced.out);
    let traced = gptkit(path, "feedback trace comparisons.jsonl").ok();
    let says = "comparisons.jsonl: edited after it was written as export 2: the hashes differ\n";
    assert_eq!(traced.out, says);

    let refused = gptkit(path, "feedback delete-person ann --feedback k");
    assert_eq!((refused.code, refused.err.contains("hint: add --yes")), (Some(2), true), "{}", refused.err);
    let deleted = gptkit(path, "feedback delete-person ann --feedback k --yes").ok().err;
    assert!(deleted.starts_with("deleted ann: ranking records 3\nexport 1 of "), "{deleted}");
    assert!(deleted.contains("still holds such records: ") && deleted.contains("/comparisons.jsonl\n"), "{deleted}");
    let traced = gptkit(path, "feedback trace runs/rm-1 --feedback k").ok();
    assert!(traced.out.contains(" · records 0 · people 0\n    3 records deleted since\n"), "{}", traced.out);
    let record = gptkit(path, "feedback trace ranking-2 --feedback k").ok();
    assert!(record.out.starts_with("ranking-2 was deleted at "), "{}", record.out);
    let again = gptkit(path, "feedback delete-person ann --feedback k --yes");
    assert_eq!((again.code, again.err.contains("nobody is called ann")), (Some(2), true), "{}", again.err);
    // The prompts are open again.
    let asked = run(path, &["compare", "--out", "k", "--judge", "human", "--who", "ann"], b"").ok();
    assert!(asked.err.contains("\n1 of 3 · 3 left\n"), "{}", asked.err);
}

#[test]
fn text_and_names_cannot_control_the_terminal() {
    let folder = compare::lab();
    let path = folder.path();
    let who = "eve\u{1b}[31m\u{202e}\nfalse line";
    let shown = rank(path, who);
    assert!(
        shown.contains(r"<script>alert(1)</script> \u{202e}txt \x1b[2J\x1b]0;title\x07 \x9b31m 👍 日本"),
        "{shown}"
    );
    let mut all = vec![shown];
    for words in [
        "feedback stats k",
        "feedback stats k --json",
        "feedback export k --comparisons c.jsonl",
        "feedback trace c.jsonl",
        "feedback trace ranking-1 --feedback k",
        "feedback trace ranking-1 --feedback k --json",
        "compare --out k --judge a",
    ] {
        let ran = gptkit(path, words);
        all.extend([ran.out, ran.err]);
    }
    let refused = run(path, &["feedback", "trace", who], b"");
    let unknown = run(path, &["feedback", "delete-person", "\u{1b}[2J", "--feedback", "k", "--yes"], b"");
    let deleted = run(path, &["feedback", "delete-person", who, "--feedback", "k", "--yes"], b"").ok();
    all.extend([refused.err, unknown.err, deleted.err]);
    for text in all {
        assert!(is_harmless(&text), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("false line")), "{text}");
    }
}

#[test]
fn simulated_people_label_through_the_server_and_the_same_seed_gives_the_same_comparisons() {
    let folder = compare::lab();
    let path = folder.path();
    let simulate = |out: &str, more: &str| {
        let words = "feedback simulate --model a --prompts world:12 --k 3 --max-new-tokens 6 --dtype f32";
        gptkit(path, &format!("{words} --out {out} {more}"))
    };
    let export = |out: &str| {
        gptkit(path, &format!("feedback export {out} --comparisons {out}.jsonl")).ok();
        let text = fs::read_to_string(path.join(format!("{out}.jsonl"))).unwrap();
        let record = |line: &str| -> Vec<serde_json::Value> {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            ["prompt", "completions", "ranking", "shown", "who", "record"].map(|key| record[key].clone()).into()
        };
        text.lines().map(record).collect::<Vec<_>>()
    };
    let simulated = simulate("s", "--people 3").ok().err;
    for says in ["labelers with keys", "tasks that wait 0", "next: gptkit feedback export s --comparisons"] {
        assert!(simulated.contains(says), "{says} is not in {simulated}");
    }
    simulate("t", "--people 3").ok();
    simulate("u", "--people 3 --seed 2").ok();
    let (one, again, other) = (export("s"), export("t"), export("u"));
    assert!(one.len() >= 12, "12 tasks, a second opinion and corrections: {one:?}");
    assert_eq!(one, again);
    assert_ne!(one, other);
    let people: std::collections::BTreeSet<&str> = one.iter().map(|record| record[4].as_str().unwrap()).collect();
    assert_eq!(people.into_iter().collect::<Vec<_>>(), ["labeler-1", "labeler-2", "labeler-3"]);
    // The server's answers come again from the store alone.
    let verified = gptkit(path, "feedback verify s --model a --dtype f32").ok();
    assert!(verified.err.contains("36 of 36 answers came again token by token"), "{}", verified.err);
    let refused = simulate("s", "--people 3");
    assert!(refused.err.contains("s already contains feedback"), "{}", refused.err);
    let of_file = gptkit(path, "feedback simulate --model a --prompts p.jsonl --out v");
    assert!(of_file.err.contains("simulated people only know the built-in world"), "{}", of_file.err);
}

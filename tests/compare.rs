//! Comparisons from outside: people who answer through a pipe, judges that need not be asked, and what is refused.

use super::{Ran, gptkit, pretrain, run};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Two models that answer, in `a` and `b`, and prompts.
pub(super) fn lab() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    pretrain(folder.path(), "--data world:60 --set model.context=160 --set train.length=2steps --out pre").ok();
    for (seed, out) in [(1, "a"), (2, "b")] {
        let words = "sft --init pre --data world:40 --set train.batch_size=4 --set train.warmup=0steps";
        gptkit(folder.path(), &format!("{words} --set train.length=2steps --seed {seed} --out {out}")).ok();
    }
    let prompts = "What is 2 plus 3?\nWho has it?\n\nWhere is Tom?\nWho has it?\nTell me more.\n";
    fs::write(folder.path().join("p.txt"), prompts).unwrap();
    folder
}

/// `gptkit compare` with the words of `more`, to whose questions `said` answers.
fn compare(folder: &Path, more: &str, said: &str) -> Ran {
    run(folder, &format!("compare {more}").split(' ').collect::<Vec<_>>(), said.as_bytes())
}

const PAIR: &str = "--a a --b b --prompts p.txt --max-new-tokens 8 --dtype f32";

fn records(folder: &Path, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn summary(folder: &Path, out: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(out).join("summary.json")).unwrap()).unwrap()
}

/// What was shown as answer `number` to the last prompt of `shown`.
fn shown(shown: &str, number: u32) -> String {
    let start = format!("\n{number}  ");
    let (_, rest) = shown.rsplit_once(&start).unwrap();
    rest.split("\n2  ").next().unwrap().split("\n\n").next().unwrap().split_whitespace().collect()
}

#[test]
fn a_person_chooses_blind_stops_and_goes_on() {
    let folder = lab();
    let path = folder.path();
    let first = compare(path, &format!("{PAIR} --judge human --who ann --out c"), "1\nx\n2\nt\nu\ns\nq\n2\n").ok();
    let said = &first.err;
    assert!(said.contains("p.txt: 4 prompts · duplicates removed: 1"), "{said}");
    assert!(said.contains("\n1 of 4 · 4 left\n") && said.contains("\n4 of 4 · 1 left · "), "{said}");
    assert!(said.contains("\"x\" is not a valid choice; 1 or 2: that answer is better · t: tie"), "{said}");
    assert!(said.contains("\nthe last choice is undone\n"), "{said}");
    assert!(said.ends_with(
        "stopped; 3 of 4 prompts are judged and saved in c\nnext: gptkit compare --out c --judge human --who ann\n"
    ));
    assert!(!said.contains(" over "), "nothing is told before the end: {said}");
    assert!(first.out.is_empty());
    // What was chosen is what was shown under the number that was typed.
    let (question, _) = said.split_once("\n2 of 4").unwrap();
    let words = |text: &Value| text.as_str().unwrap().split_whitespace().collect::<String>();
    let made = records(path, "c/comparisons-human.jsonl");
    assert_eq!(made.len(), 2);
    let clean = |text: String| text.chars().filter(|c| !c.is_control() && *c != '\u{FFFD}').collect::<String>();
    assert_eq!(clean(shown(question, 1)), clean(words(&made[0]["chosen"])), "{question}");
    assert_eq!(clean(shown(question, 2)), clean(words(&made[0]["rejected"])), "{question}");
    assert_eq!((&made[0]["judge"], &made[0]["who"]), (&"human".into(), &"ann".into()));
    assert_eq!(made[0]["prompt"], "What is 2 plus 3?");
    assert!(made[0]["at"].as_str().unwrap().ends_with('Z'));

    // The same command goes on; so does the short one, and another person.
    let again = compare(path, &format!("{PAIR} --judge human --who ann --out c"), "t\n").ok();
    assert!(again.err.contains("resuming c: 4 prompts\n\n4 of 4 · 1 left\n"), "{}", again.err);
    assert!(!again.err.contains("answers of "), "nothing is written twice: {}", again.err);
    assert!(again.err.contains(" on 3 prompts · wins ") && again.err.contains("\nskipped: 1\n"), "{}", again.err);
    assert!(again.err.ends_with("next: gptkit train-rm --init a --data c/comparisons-human.jsonl\n"), "{}", again.err);
    let bob = compare(path, "--out c --judge human --who bob", "1\n1\n2\n2\n").ok();
    // Both told the first two apart: the first in the same way, the second not.
    assert!(bob.err.contains("human (ann) and human (bob), on 3 prompts: agree on 50.0% ["), "{}", bob.err);
    assert!(
        bob.err.contains("of the 2 pairs that neither judged as a tie · ties: 1 by one of them, 0 by both"),
        "{}",
        bob.err
    );
    assert_eq!(records(path, "c/comparisons-human.jsonl").len(), 6);
    let summary = summary(path, "c");
    let bobs = &summary["verdicts"][1];
    assert_eq!((&bobs["who"], &bobs["judged"]), (&"bob".into(), &4.into()));
    let rate = |side: &str| bobs["win_rate"][side]["value"].as_f64().unwrap();
    assert_eq!(rate("a_over_b") + rate("b_over_a"), 1.0);
    // Nothing is left to ask.
    let done = compare(path, "--out c --judge human --who bob", "").ok();
    assert!(done.err.contains(" on 4 prompts · wins "), "{}", done.err);
}

#[test]
fn a_signal_or_the_end_of_the_input_keeps_what_was_chosen() {
    let folder = lab();
    let path = folder.path();
    for signal in ["INT", "KILL"] {
        let command = format!("compare {PAIR} --judge human --who ann --out {signal}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_gptkit"))
            .args(command.split(' '))
            .current_dir(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Held, so that the input stays open and the signal alone ends it.
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"1\n").unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        // Until the second is asked for.
        while !said.contains("\n2 of 4") {
            assert_ne!(lines.read_line(&mut said).unwrap(), 0, "{said}");
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().unwrap().success());
        let status = child.wait().unwrap();
        drop(stdin);
        if signal == "INT" {
            std::io::Read::read_to_string(&mut lines, &mut said).unwrap();
            assert_eq!(status.code(), Some(130), "{said}");
            assert!(said.ends_with("next: gptkit compare --out INT --judge human --who ann\n"), "{said}");
            assert_eq!(records(path, "INT/comparisons-human.jsonl").len(), 1);
        }
        let again = compare(path, &format!("--out {signal} --judge human --who ann"), "1\n").ok();
        assert!(again.err.contains("\n2 of 4 · 3 left\n"), "{}", again.err);
        assert_eq!(records(path, &format!("{signal}/comparisons-human.jsonl")).len(), 2, "{}", again.err);
    }
}

#[test]
fn answers_of_one_model_are_ranked_and_learned_from() {
    let folder = lab();
    let path = folder.path();
    let words = "--a a --k 3 --prompts world:6 --max-new-tokens 8 --dtype f32 --judge human --who ann --out k";
    let ran = compare(path, words, "2 1 3\n3 1\n1 1 2\n1=2 3\nu\n3 > 2 = 1\ns\n1 2 3\n3 2 1\n2 3 1\n").ok();
    for says in [
        "numbers from best to worst, = for a tie, for example 3 1=2 · s: skip · u: undo the last · q: stop",
        "2 is missing; write all 3 numbers from best to worst, for example 3 1=2",
        "1 occurs twice; write all",
        "\nthe last choice is undone\n",
        "groups of 3 answers of a: 5 · pairs 14 · ties 1",
        "skipped: 1",
        "comparisons: 5 in k/comparisons-human.jsonl\n",
        "next: gptkit train-rm --init a --data k/comparisons-human.jsonl\n",
    ] {
        assert!(ran.err.contains(says), "{says}: {}", ran.err);
    }
    let made = records(path, "k/comparisons-human.jsonl");
    assert!(made.iter().all(|record| record["completions"].as_array().unwrap().len() == 3 && record["models"] == "a"));
    assert!(made.iter().all(|record| record["gold"].as_array().unwrap().len() == 3), "the world knows their worth");

    // The same answers by judges that need not be asked.
    let gold = gptkit(path, "compare --out k --judge gold").ok();
    assert!(gold.err.contains("mean gold ") && gold.err.contains("groups of 3 answers of a: 6"), "{}", gold.err);
    let labeler = gptkit(path, "compare --out k --judge labeler:7").ok();
    assert!(labeler.err.contains("human (ann) and labeler (7), on 5 prompts: agree on "), "{}", labeler.err);
    let next = labeler.err.lines().last().unwrap();
    assert_eq!(next, "next: gptkit train-rm --init a --data k/comparisons-labeler.jsonl");
    let set = "--set train.batch_size=2 --set train.warmup=0steps --set train.length=4steps --dtype f32 --out rm";
    let next = next.strip_prefix("next: gptkit ").unwrap();
    gptkit(path, &format!("{next} --set data.val_fraction=0 {set}")).ok();

    // A reward model ranks as `gptkit score` rewards.
    let ranked = gptkit(path, "compare --out k --judge rm --dtype f32").ok();
    assert!(ranked.err.contains("mean reward "), "{}", ranked.err);
    let lines = fs::read(path.join("k/comparisons-rm.jsonl")).unwrap();
    let scored = run(path, &["rank", "--model", "rm", "--dtype", "f32"], &lines).ok().out;
    for (ours, theirs) in records(path, "k/comparisons-rm.jsonl").iter().zip(scored.lines()) {
        let theirs: Value = serde_json::from_str(theirs).unwrap();
        assert_eq!(ours["ranking"], theirs["ranking"]);
    }
    let one = |judge: &str| {
        let summary = summary(path, "k");
        let verdicts = summary["verdicts"].as_array().unwrap().clone();
        verdicts.into_iter().find(|verdict| verdict["judge"] == judge).unwrap()
    };
    assert!(one("rm")["best_and_worst"][0].as_f64() > one("rm")["best_and_worst"][1].as_f64());

    // Two models by the world's judges, on prompts that nobody learned from.
    let ran = gptkit(path, "compare --a a --b b --prompts world:30 --max-new-tokens 8 --judge gold").ok();
    assert!(ran.err.contains("new collection of comparisons in comparisons/compare-1"), "{}", ran.err);
    assert!(ran.err.contains("A over B ") && ran.err.contains("mean gold: A "), "{}", ran.err);
    assert!(ran.err.ends_with("next: gptkit compare --out comparisons/compare-1 --judge human\n"), "{}", ran.err);
    let by_rm = gptkit(path, "compare --out comparisons/compare-1 --judge rm").ok();
    assert!(by_rm.err.contains("A over B ") && by_rm.err.contains("mean reward: A "), "{}", by_rm.err);
    // A model against itself draws other answers.
    let itself = gptkit(path, "compare --a a --b a --prompts world:10 --max-new-tokens 8 --judge labeler").ok();
    assert!(!itself.err.contains("tied because all answers are identical: 10"), "{}", itself.err);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let folder = lab();
    let path = folder.path();
    compare(path, &format!("{PAIR} --judge human --who ann --out c"), "1\nq\n").ok();
    fs::create_dir(path.join("damaged")).unwrap();
    fs::write(path.join("damaged/comparisons.sqlite"), [7; 5000]).unwrap();
    fs::write(path.join("empty.txt"), "\n\n").unwrap();
    fs::write(path.join("text.jsonl"), "{\"text\":\"once\"}\n").unwrap();
    fs::write(path.join("long.txt"), "Who has it? ".repeat(200)).unwrap();
    let mut said = String::new();
    for (words, code) in [
        ("--a a --b b --prompts p.txt --judge hunam", 2),
        ("--a a --b b --prompts p.txt --judge none", 2),
        ("--a a --b b --prompts p.txt --judge labeler:x", 2),
        ("--a a --b b --prompts p.txt --judge gold", 2),
        ("--a a --b b --prompts p.txt --judge a", 2),
        ("--a a --b b --prompts p.txt --judge gold --who ann", 2),
        ("--a a --b none --prompts p.txt --judge human", 2),
        ("--a a --b a --prompts p.txt --judge human --temperature 0", 2),
        ("--a a --k 4 --prompts p.txt --judge human --top-k 1", 2),
        ("--a a --k 1 --prompts p.txt --judge human", 2),
        ("--a a --k 10 --prompts p.txt --judge human", 2),
        ("--a a --prompts p.txt --judge human", 2),
        ("--a a --b b --judge human", 2),
        ("--judge human", 2),
        ("--a a --b b --prompts none.txt --judge human", 2),
        ("--a a --b b --prompts world:x --judge human", 2),
        ("--a a --b b --prompts - --judge human", 2),
        ("--a a --b b --prompts empty.txt --judge human", 1),
        ("--a a --b b --prompts text.jsonl --judge human", 1),
        ("--a a --b b --prompts long.txt --judge human", 1),
        ("--out none --judge human", 2),
        ("--out c --judge human --temperature 0.5", 2),
        ("--out damaged --judge human", 1),
        ("--a a --b b --prompts p.txt --max-new-tokens 9 --count 2 --seed 3 --judge human --out c", 2),
        ("--a b --b a --prompts p.txt --max-new-tokens 8 --judge human --out c", 2),
        ("--a a --k 4 --prompts p.txt --max-new-tokens 8 --judge human --out c", 2),
    ] {
        let ran = compare(path, words, "");
        assert_eq!(ran.code, Some(code), "{words}\n{}", ran.err);
        let lines: Vec<&str> = ran.err.lines().filter(|line| !line.starts_with("reading ")).collect();
        said += &format!("$ gptkit compare {words}\n{}\n\n", lines.join("\n"));
    }
    insta::assert_snapshot!(said);
    assert!(!path.join("comparisons").exists(), "a refused command leaves nothing");
}

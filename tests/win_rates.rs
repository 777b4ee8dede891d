//! Several ways to answer in one table: the same figures as other commands give, and what is refused.

use super::{Ran, gptkit, pretrain, run};
use serde_json::Value;
use std::fs;
use std::path::Path;

const STEPS: &str = "--set train.batch_size=4 --set train.warmup=0steps --set train.length=2steps";

/// Two models that answer, in `a` and `b`, and a reward model in `rm`.
fn lab() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    pretrain(path, "--data world:60 --set model.context=160 --set train.length=2steps --out pre").ok();
    for (seed, out) in [(1, "a"), (2, "b")] {
        gptkit(path, &format!("sft --init pre --data world:40 {STEPS} --seed {seed} --out {out}")).ok();
    }
    gptkit(path, &format!("train-rm --init a --data world:20 {STEPS} --out rm")).ok();
    folder
}

fn win_rates(folder: &Path, more: &str) -> Ran {
    gptkit(folder, &format!("win-rates {more}"))
}

fn rows(ran: &Ran) -> Vec<Value> {
    let object: Value = serde_json::from_str(&ran.out).unwrap();
    object["rows"].as_array().unwrap().clone()
}

#[test]
fn figures_are_those_of_the_commands_for_one_thing() {
    let folder = lab();
    let path = folder.path();
    const PROMPTS: &str = "--prompts world:24 --max-new-tokens 8 --dtype f32";
    let words = format!("--reference a --model b --model a --best-of 5,2 --reward rm {PROMPTS} --judge gold");
    let rows = rows(&win_rates(path, &format!("{words} --json")).ok());
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a (reference)", "b", "a", "best of 2", "best of 5"]);
    let number = |row: usize, key: &str| rows[row][key].as_f64().unwrap();

    // What a model answers, and how often it wins, is as `compare` has it, for b and for another sample of a.
    for (row, side) in [(1, "b"), (0, "a")] {
        let out = format!("with-{side}");
        let command = format!("compare --a {side} --b a {PROMPTS} --temperature 1 --judge gold --out {out}");
        gptkit(path, &command).ok();
        let summary: Value = serde_json::from_slice(&fs::read(path.join(out).join("summary.json")).unwrap()).unwrap();
        let verdict = &summary["verdicts"][0];
        assert_eq!(rows[row]["win_rate"], verdict["win_rate"]);
        let apart = (number(row, "mean_score") - verdict["mean_scores"][0].as_f64().unwrap()).abs();
        assert!(apart < 1e-9, "{side}: {apart}");
    }
    // Another name for the reference says the same, and is nowhere else.
    for key in ["win_rate", "mean_score", "mean_reward", "mean_tokens", "ended"] {
        assert_eq!(rows[0][key], rows[2][key], "{key}");
    }
    assert!(number(0, "kl") == 0.0 && number(2, "kl").abs() < 1e-5 && number(1, "kl").abs() > 1e-4, "{rows:?}");
    // Of more answers the best is no worse.
    let reward = |row| number(row, "mean_reward");
    assert!(reward(0) < reward(3) && reward(3) < reward(4), "{rows:?}");
    assert!((number(4, "kl_bound") - (5f64.ln() - 0.8)).abs() < 1e-12 && rows[4]["kl"].is_null());

    // The table has the same figures. A labeler gives no numbers, and other draws have no KL.
    let table = win_rates(path, &words).ok().out;
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["wins", "over", "reference", "gold", "followed", "courteous", "reward", "tokens", "ended", "KL"]);
    let last: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
    let share = rows[4]["win_rate"]["a_over_b"]["value"].as_f64().unwrap();
    assert_eq!(last[..4], ["best", "of", "5", &format!("{:.1}%", 100.0 * share)]);
    // After gold, the share that is followed with its interval, and the share that is courteous.
    assert_eq!([last[6], last[11]], [format!("{:.3}", number(4, "mean_score")), format!("{:.3}", reward(4))]);
    let followed = rows[4]["grades"]["followed"]["value"].as_f64().unwrap();
    assert_eq!(last[7], format!("{:.1}%", 100.0 * followed));
    assert_eq!(last[14..], ["≤", "0.81"]);
    let wide: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
    assert!(wide.iter().all(|&n| n == wide[0]), "columns stand below each other:\n{table}");
    let other = win_rates(path, &format!("--reference a --model b {PROMPTS} --judge labeler:3 --temperature 0.7")).ok();
    let head: Vec<&str> = other.out.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["wins", "over", "reference", "followed", "courteous", "tokens", "ended"]);
}

#[test]
fn a_reward_model_judges_prompts_of_a_file() {
    let folder = lab();
    let path = folder.path();
    fs::write(path.join("p.txt"), "What is 2 plus 3?\nWho has it?\nWhere is Tom?\nWho has it?\n").unwrap();
    let words = "--reference a --model b --prompts p.txt --max-new-tokens 8 --dtype f32 --judge rm --json";
    let ran = win_rates(path, words).ok();
    assert!(ran.err.contains("p.txt: 3 prompts · duplicates removed: 1"), "{}", ran.err);
    for row in rows(&ran) {
        let rate = &row["win_rate"];
        let n: u64 = ["wins_of_a", "wins_of_b", "ties"].iter().map(|key| rate[key].as_u64().unwrap()).sum();
        assert!(n == 3 && row["mean_score"].is_f64() && row["mean_reward"].is_null(), "{row}");
    }
}

#[test]
fn a_model_that_was_not_trained_to_answer_goes_on_with_a_text() {
    let folder = lab();
    let words = "--reference pre --model a --model pre --prompts world:6 --max-new-tokens 8 --judge gold --json";
    let ran = win_rates(folder.path(), words).ok();
    assert!(ran.err.contains("pre has no chat template"), "{}", ran.err);
    let rows = rows(&ran);
    // Of a dialogue the two make other tokens, so that there is no KL between them.
    assert!(rows[1]["kl"].is_null() && rows[2]["kl"].as_f64().unwrap().abs() < 1e-3, "{rows:?}");
}

#[test]
fn what_has_no_win_rate_is_refused() {
    let folder = lab();
    let path = folder.path();
    gptkit(path, "tokenizer train --data world:20 --vocab-size 300 --out other-tokens").ok();
    let more = "--data world:60 --tokenizer other-tokens --set model.context=160 --set train.length=2steps --out other";
    pretrain(path, more).ok();
    gptkit(path, &format!("train-rm --init other --data world:20 {STEPS} --out other-rm")).ok();
    fs::write(path.join("p.txt"), "What is 2 plus 3?\n").unwrap();
    fs::write(path.join("empty.txt"), "\n\n").unwrap();
    let mut said = String::new();
    for (words, code) in [
        ("--reference a --model b --prompts world:4 --judge gould", 2),
        ("--reference a --model b --prompts world:4 --judge none", 2),
        ("--reference a --model b --prompts world:4 --judge human", 2),
        ("--reference a --model b --prompts world:4 --judge labeler:x", 2),
        ("--reference a --model b --prompts world:4 --judge a", 2),
        ("--reference a --model b --prompts p.txt --judge gold", 2),
        ("--reference a --model b --prompts p.txt --judge labeler:3", 2),
        ("--reference a --prompts world:4 --judge gold", 2),
        ("--reference a --best-of 4 --prompts world:4 --judge gold", 2),
        ("--reference a --best-of 1 --reward rm --prompts world:4 --judge gold", 2),
        ("--reference a --best-of 4 --reward rm --prompts world:4 --judge gold --temperature 0", 2),
        ("--reference a --model b --reward none --prompts world:4 --judge gold", 2),
        ("--reference a --model b --reward b --prompts world:4 --judge gold", 2),
        ("--reference a --model b --reward other-rm --prompts world:4 --judge gold", 2),
        ("--reference none --model b --prompts world:4 --judge gold", 2),
        ("--reference a --model none --prompts world:4 --judge gold", 2),
        ("--reference a --model rm --prompts world:4 --judge gold", 1),
        ("--reference a --model b --prompts none.txt --judge rm", 2),
        ("--reference a --model b --prompts - --judge rm", 2),
        ("--reference a --model b --prompts world:x --judge gold", 2),
        ("--reference a --model b --prompts empty.txt --judge rm", 1),
        ("--reference a --model b --prompts world:4 --judge gold --top-p 2", 2),
    ] {
        let ran = run(path, &format!("win-rates {words}").split(' ').collect::<Vec<_>>(), b"");
        assert_eq!(ran.code, Some(code), "{words}\n{}", ran.err);
        assert!(ran.out.is_empty(), "{words}\n{}", ran.out);
        let lines: Vec<&str> = ran.err.lines().filter(|line| !line.starts_with("reading ")).collect();
        said += &format!("$ gptkit win-rates {words}\n{}\n\n", lines.join("\n"));
    }
    insta::assert_snapshot!(said);
}

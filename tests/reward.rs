//! `gptkit train-rm`, `score`, `rank` and `sample --best-of`, from outside.

use super::resume::{start, wait_for};
use super::{Ran, gptkit, pretrain, run};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A language model that knows nothing, in `pre`.
fn model(folder: &Path) {
    pretrain(folder, "--data world:60 --set model.context=160 --set train.length=2steps --out pre").ok();
}

fn train_rm(folder: &Path, more: &str) -> Ran {
    let words =
        "train-rm --init pre --dtype f32 --set train.batch_size=4 --set train.eval_every=2 --set train.warmup=0steps";
    gptkit(folder, &format!("{words} --set train.length=6steps {more}"))
}

fn records(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn json(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))).unwrap()
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn a_reward_model_is_trained_measured_and_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let ran = train_rm(path, "--data world:40 --set normalization.references=[\"world:40\"] --out rm").ok();
    for says in [
        "training prompts, 20 validation prompts",
        "reference completions had mean",
        "length explains",
        "best possible on these labels",
        "probability 0.5 to",
    ] {
        assert!(ran.err.contains(says), "{says}: {}", ran.err);
    }
    assert!(ran.err.contains("next: gptkit ppo --init pre --reward rm"), "{}", ran.err);
    for picture in ["calibration.svg", "rewards.svg", "curves.svg"] {
        assert!(fs::read_to_string(path.join("rm").join(picture)).unwrap().starts_with("<svg"), "{picture}");
    }
    let config = json(path, "rm/config.json");
    assert_eq!(config["architectures"][0], "GPT2ForSequenceClassification");
    assert_eq!(config["id2label"], serde_json::json!({ "0": "reward" }));
    assert_eq!(config["pad_token_id"], config["eos_token_id"]);

    // The references have the mean reward 0, asked from outside.
    let references = gptkit(path, "world --instructions --count 40").ok().out;
    let scored = run(path, &["score", "--model", "rm", "--dtype", "f32"], references.as_bytes()).ok();
    let rewards: Vec<f64> = records(&scored.out).iter().map(|record| record["reward"].as_f64().unwrap()).collect();
    let mean = rewards.iter().sum::<f64>() / 40.0;
    assert!(rewards.len() == 40 && mean.abs() < 1e-5, "{mean}: {rewards:?}");
    assert!(rewards.iter().any(|reward| (reward - rewards[0]).abs() > 1e-4), "{rewards:?}");

    // The report's accuracy, counted again from what `rank` says.
    let given = gptkit(path, "world --comparisons --held-out --count 20").ok().out;
    let ranked = run(path, &["rank", "--model", "rm", "--dtype", "f32"], given.as_bytes()).ok();
    let (mut hits, mut pairs) = (0.0, 0.0);
    for (ranked, given) in records(&ranked.out).iter().zip(records(&given)) {
        let (rewards, places) = (numbers(&ranked["rewards"]), numbers(&given["ranking"]));
        let ranking = numbers(&ranked["ranking"]);
        for i in 0..places.len() {
            for j in 0..places.len() {
                assert_eq!(ranking[i] < ranking[j], rewards[i] > rewards[j]);
                if places[i] < places[j] {
                    pairs += 1.0;
                    hits += if rewards[i] == rewards[j] { 0.5 } else { f64::from(u8::from(rewards[i] > rewards[j])) };
                }
            }
        }
    }
    let report = json(path, "rm/scores.json");
    assert_eq!(report["accuracy"]["n"].as_f64(), Some(pairs));
    assert!((report["accuracy"]["value"].as_f64().unwrap() - hits / pairs).abs() < 0.02, "{hits} of {pairs}: {report}");

    let other = gptkit(path, "predict --model rm");
    assert_eq!(other.code, Some(2));
    assert!(other.err.contains("gptkit score --model rm"), "{}", other.err);
}

#[test]
fn rewards_of_the_policys_own_answers_have_mean_0_and_variance_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let more =
        "--data world:20 --set normalization.recipe=lm-human-preferences --set normalization.samples=12 --out rm";
    let ran = train_rm(path, more).ok();
    assert!(ran.err.contains("rewards of 12 samples of the policy had mean"), "{}", ran.err);
    let none = train_rm(path, "--data world:20 --set normalization.recipe=none --out as-learned").ok();
    assert!(!none.err.contains("now 0"), "{}", none.err);
}

#[test]
fn comparisons_of_every_form_are_learned_and_split_by_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let mut pairs = String::new();
    for n in 0..40 {
        // Each prompt twice: once the same again, or the other way round.
        let (a, b) = if n % 8 == 0 { ("yes", "no") } else { ("no", "yes") };
        pairs += &format!("{{\"prompt\":\"Is it {n}?\",\"chosen\":\"no\",\"rejected\":\"yes\"}}\n");
        pairs += &format!("{{\"prompt\":\"Is it {n}?\",\"chosen\":\"{a}\",\"rejected\":\"{b}\"}}\n");
    }
    fs::write(path.join("pairs.jsonl"), pairs).unwrap();
    let dialogue = |n: u32, said: &str| format!("\\n\\nHuman: Is it {n}?\\n\\nAssistant: {said}");
    let dialogues: String = (0..20)
        .map(|n| format!("{{\"chosen\":\"{}\",\"rejected\":\"{}\"}}\n", dialogue(n, "no"), dialogue(n, "yes it is")))
        .collect();
    fs::write(path.join("dialogues.jsonl"), dialogues).unwrap();
    let rankings: String = (0..20)
        .map(|n| {
            format!("{{\"prompt\":\"Is it {n}?\",\"completions\":[\"a\",\"b\",\"c\",\"c\"],\"ranking\":[1,2,2,2]}}\n")
        })
        .collect();
    fs::write(path.join("rankings.jsonl"), rankings).unwrap();

    let ran = train_rm(path, "--data pairs.jsonl --set data.val_fraction=0.3 --out pairs").ok();
    assert!(ran.err.contains("80 comparisons, read as pairs (prompt, chosen, rejected)"), "{}", ran.err);
    assert!(ran.err.contains("35 pairs repeat an earlier pair with the same outcome"), "{}", ran.err);
    assert!(ran.err.contains("5 pairs repeat an earlier pair with the opposite outcome"), "{}", ran.err);
    let counts = ran.err.lines().find(|line| line.contains("training prompts")).unwrap();
    let count = |n: usize| counts.split([' ', ',']).filter_map(|w| w.parse::<u32>().ok()).nth(n).unwrap();
    // Both records of a prompt are in one part.
    assert_eq!((count(0) + count(1), count(2), count(3)), (40, 2 * count(0), 2 * count(1)), "{counts}");
    assert!(count(1) > 3, "{counts}");

    let ran = train_rm(path, "--data dialogues.jsonl --val rankings.jsonl --out dialogues");
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("20 records are not used, because a validation or test record has the same prompt"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("the comparisons have no prompt to train on"), "{}", ran.err);
    let ran = train_rm(path, "--data rankings.jsonl --out rankings").ok();
    assert!(ran.err.contains("20 completions are identical to another"), "{}", ran.err);
    assert!(ran.err.contains("3 completions"), "{}", ran.err);
    train_rm(path, "--data dialogues.jsonl --set loss.margin=0.2 --set loss.centering=0.01 --out dialogues").ok();
}

#[test]
fn a_run_that_was_killed_ends_with_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let more = "--data world:60 --set train.length=40steps --set dropout.residual=0.1 --out";
    train_rm(path, &format!("{more} whole")).ok();
    let words = format!(
        "train-rm --init pre --dtype f32 --set train.batch_size=4 --set train.eval_every=2 --set train.warmup=0steps {more} cut"
    );
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let mut child = start(path, &words);
    let mut kills = 0;
    for after in [5, 14, 23, 31] {
        wait_for(&mut child, &path.join("cut"), after);
        child.kill().unwrap(); // SIGKILL
        kills += usize::from(!child.wait().unwrap().success());
        child = start(path, &["train-rm", "--resume", "cut"].map(str::to_owned));
    }
    assert!(child.wait().unwrap().success());
    assert!(kills >= 3, "the run was over after {kills} kills");
    for file in ["model.safetensors", "scores.json", "checkpoints/step-000040/optimizer.safetensors"] {
        let [whole, cut] = ["whole", "cut"].map(|run| fs::read(path.join(run).join(file)).unwrap());
        assert!(whole == cut, "{file} differs");
    }
    let refused = gptkit(path, "train-rm --resume cut --data world:70");
    assert_eq!(refused.code, Some(2));
}

#[test]
fn the_best_of_some_answers_is_the_one_of_highest_reward() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let sft =
        "sft --init pre --data world:40 --set train.batch_size=4 --set train.warmup=0steps --set train.length=2steps";
    gptkit(path, &format!("{sft} --set dropout.residual=0.2 --out chat")).ok();
    let rm = "train-rm --init chat --data world:20 --set train.batch_size=4 --set train.warmup=0steps --set train.length=2steps";
    gptkit(path, &format!("{rm} --out rm")).ok();
    // Dropout of the stage before is not a reward model's.
    let dropped = |run: &str| json(path, &format!("{run}/config.json"))["resid_pdrop"].as_f64();
    assert_eq!((dropped("chat"), dropped("rm")), (Some(0.2), Some(0.0)));
    let best_of = |more: &[&str]| {
        let words = ["sample", "--model", "chat", "--prompt", "Who is it?", "--best-of", "5", "--max-new-tokens", "6"];
        run(path, &[&words[..], more].concat(), b"")
    };
    let all = records(&best_of(&["--reward", "rm", "--json"]).ok().out);
    let rewards: Vec<f64> = all.iter().map(|answer| answer["reward"].as_f64().unwrap()).collect();
    assert!(rewards.len() == 5 && rewards.is_sorted_by(|a, b| a >= b), "{rewards:?}");
    let best = best_of(&["--reward", "rm"]).ok();
    assert_eq!(best.out, format!("{}\n", all[0]["text"].as_str().unwrap()));
    assert!(best.err.contains(&format!("best of 5: reward {:.3}", rewards[0])), "{}", best.err);

    gptkit(path, "tokenizer train --data world:20 --vocab-size 300 --out other-tokens").ok();
    pretrain(
        path,
        "--data world:60 --tokenizer other-tokens --set model.context=160 --set train.length=2steps --out other",
    )
    .ok();
    gptkit(path, &format!("{} --out other-rm", rm.replace("--init chat", "--init other"))).ok();
    let mut said = String::new();
    for (reward, model) in [("other-rm", "chat"), ("chat", "chat"), ("rm", "pre"), ("nowhere", "chat")] {
        let words = ["sample", "--model", model, "--prompt", "Who?", "--best-of", "2", "--reward", reward];
        let ran = run(path, &words, b"");
        assert_ne!(ran.code, Some(0), "{reward} {model}");
        said += &ran.err;
    }
    insta::assert_snapshot!(said);
}

/// What was said, without the rates of reading.
fn words(said: &str) -> String {
    said.lines().filter(|line| !line.starts_with("reading ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn bad_comparisons_are_named_by_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    model(path);
    let pair = |prompt: &str, chosen: &str, rejected: &str| {
        serde_json::json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected }).to_string()
    };
    let ranked = |completions: &[&str], ranking: &[u32]| {
        serde_json::json!({ "prompt": "p", "completions": completions, "ranking": ranking }).to_string()
    };
    let good = pair("a", "b", "c");
    let mut said = String::new();
    for (name, lines) in [
        ("columns.jsonl", r#"{"question":"a","good":"b","bad":"c"}"#.to_owned()),
        ("same.jsonl", [good.clone(), pair("d", "e", "e")].join("\n")),
        ("empty.jsonl", [good.clone(), pair("d", "e", "  ")].join("\n")),
        ("mixed.jsonl", [good.clone(), ranked(&["a", "b"], &[1, 2])].join("\n")),
        ("missing-place.jsonl", ranked(&["a", "b", "c"], &[1, 2])),
        ("extra-place.jsonl", ranked(&["a", "b"], &[1, 2, 3])),
        ("repeated-place.jsonl", ranked(&["a", "b", "c"], &[1, 1, 4])),
        ("no-place.jsonl", ranked(&["a", "b"], &[0, 1])),
        ("contradiction.jsonl", ranked(&["a", "b", "a"], &[1, 2, 3])),
        ("tied.jsonl", [ranked(&["a", "b"], &[1, 1]), ranked(&["a", "c"], &[1, 1])].join("\n")),
        ("one-prompt.jsonl", [pair("a", "b", "c"), pair("a", "b", "d")].join("\n")),
        ("long.jsonl", [pair(&"long ".repeat(400), "b", "c"), pair(&"very ".repeat(400), "b", "c")].join("\n")),
        ("nothing.jsonl", String::new()),
    ] {
        fs::write(path.join(name), lines + "\n").unwrap();
        let ran = gptkit(path, &format!("train-rm --init pre --data {name}"));
        assert_eq!(ran.code, Some(1), "{name}: {}", ran.err);
        said += &format!("{name}\n{}\n", words(&ran.err));
        assert!(!path.join("runs/rm-small-1").exists(), "{name} left a run behind");
    }
    let ran =
        gptkit(path, "train-rm --init pre --data nowhere.jsonl --set loss.margin=-1 --set normalization.recipe=other");
    assert_eq!(ran.code, Some(2));
    said += &ran.err;
    let ran =
        gptkit(path, "train-rm --init pre --data nowhere.jsonl --set loss.margin=-1 --set normalization.samples=0");
    assert_eq!(ran.code, Some(2));
    said += &ran.err;
    for command in ["score --model pre", "rank --model pre", "score --model nowhere"] {
        let ran = run(path, &command.split(' ').collect::<Vec<_>>(), b"{}");
        assert_ne!(ran.code, Some(0));
        said += &ran.err;
    }
    insta::assert_snapshot!(said);
}

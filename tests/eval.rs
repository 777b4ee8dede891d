//! Evaluation from outside: tasks of every kind, demonstrations, resume, contamination, fine-tuning beside, wrong input.

use super::{Ran, gptkit, pretrain};
use serde_json::Value;
use std::fs;
use std::path::Path;

const CHOICE: &str = "scoring = \"choice\"\nprompt = \"{{ context }}\"\nanswer = \" {{ choice }}\"\n\
    [choice]\nof = \"choices\"\nright = \"label\"\n";

/// A model of a window of 160 tokens in `m`, records of the world's endings in `train.jsonl` and `test.jsonl`, and a task
/// of one's own for them.
fn lab() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    pretrain(path, "--data world:60 --data world-patterns:300 --set model.context=160 --out m").ok();
    for (file, part) in [("train.jsonl", ""), ("test.jsonl", " --held-out")] {
        let records = gptkit(path, &format!("world --task multiple-choice --count 24{part}")).ok().out;
        fs::write(path.join(file), records).unwrap();
    }
    fs::write(path.join("mine.toml"), CHOICE).unwrap();
    folder
}

fn eval(folder: &Path, more: &str) -> Ran {
    gptkit(folder, &format!("eval --model m --dtype f32 {more}"))
}

fn lines(path: impl AsRef<Path>) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn figure<'a>(report: &'a Value, task: &str, shots: u64, metric: &str) -> &'a Value {
    let cell = report["cells"].as_array().unwrap().iter().find(|c| c["task"] == task && c["shots"] == shots).unwrap();
    cell["measured"]["figures"].as_array().unwrap().iter().find(|f| f["metric"] == metric).unwrap()
}

#[test]
fn figures_are_those_of_the_instances_and_of_every_kind_of_task() {
    let folder = lab();
    let path = folder.path();
    fs::write(path.join("text.txt"), gptkit(path, "world --count 4 --seed 9").ok().out).unwrap();
    let word =
        "scoring = \"word\"\nprompt = \"{{ context | before_last_word }}\"\nanswer = \" {{ context | last_word }}\"\n";
    fs::write(path.join("last.toml"), word).unwrap();
    let tasks = "--task mine.toml=test.jsonl,train.jsonl --task last.toml=test.jsonl --task world-patterns:color \
        --task arithmetic:2d+ --task text=text.txt --shots 0,2 --limit 20 --out e";
    let ran = eval(path, &format!("{tasks} --json")).ok();
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let kept: Value = serde_json::from_slice(&fs::read(path.join("e/results.json")).unwrap()).unwrap();
    assert_eq!(report, kept);
    assert_eq!(report["cells"].as_array().unwrap().len(), 9, "a text has no demonstrations");

    for shots in [0, 2] {
        let instances = lines(path.join(format!("e/instances/mine/m/{shots}-shot.jsonl")));
        assert_eq!(instances.len(), 20);
        let hits = instances.iter().filter(|one| {
            let of = |key: &str| one[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
            let per_token: Vec<f64> = of("log_probs").iter().zip(of("tokens")).map(|(sum, n)| sum / n).collect();
            let best = (0..4).max_by(|&a, &b| per_token[a].total_cmp(&per_token[b])).unwrap();
            assert_eq!(one["chosen"]["per token"], best);
            one["right"] == best
        });
        let accuracy = figure(&report, "mine", shots, "accuracy (per token)")["value"].as_f64().unwrap();
        assert!((accuracy - 100.0 * hits.count() as f64 / 20.0).abs() < 1e-9);
        // What is shown is of the training part, with its right ending.
        let trained = fs::read_to_string(path.join("train.jsonl")).unwrap();
        for one in &instances {
            let prompt = one["prompt"].as_str().unwrap();
            let shown: Vec<&str> = prompt.split("\n\n").collect();
            assert_eq!(shown.len(), 1 + one["shots"].as_u64().unwrap() as usize);
            for text in &shown[..shown.len() - 1] {
                let right = lines_of(&trained).into_iter().any(|record| {
                    let choice = &record["choices"][record["label"].as_u64().unwrap() as usize];
                    *text == format!("{} {}", record["context"].as_str().unwrap(), choice.as_str().unwrap())
                });
                assert!(right, "{text}");
            }
        }
    }
    // Of one file, every tenth record is shown and not measured: 24 make 22.
    assert_eq!(lines(path.join("e/instances/last/m/0-shot.jsonl")).len(), 20);
    let nats: Vec<Value> = lines(path.join("e/instances/text/m/0-shot.jsonl"));
    let sum = |key: &str| nats.iter().map(|one| one[key].as_f64().unwrap()).sum::<f64>();
    let bits = figure(&report, "text", 0, "bits per byte")["value"].as_f64().unwrap();
    assert!((bits - sum("nats") / sum("bytes") / 2f64.ln()).abs() < 1e-9);
    let text = fs::read_to_string(path.join("text.txt")).unwrap();
    assert_eq!(sum("bytes") as usize, text.len());
    for file in ["results.md", "shots.svg", "shots-mine.svg"] {
        assert!(path.join("e").join(file).exists(), "{file}");
    }
    assert!(ran.err.contains("instead of") && ran.err.contains("next: gptkit"), "{}", ran.err);
}

fn lines_of(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Longer than what is read at a time, with lines that end in a space, as the benchmark has them.
#[test]
fn a_tokenized_text_has_the_words_and_bytes_of_the_whole() {
    let folder = lab();
    let path = folder.path();
    let line = " The fox , well @-@ known , ran ( home ) . \n \n";
    fs::write(path.join("w.txt"), line.repeat(2000)).unwrap();
    fs::write(path.join("small.txt"), line.repeat(2)).unwrap();
    let report: Value =
        serde_json::from_str(&eval(path, "--task wikitext=w.txt --stride 160 --out e --json").ok().out).unwrap();
    let instances = lines(path.join("e/instances/wikitext/m/0-shot.jsonl"));
    let sum = |key: &str| instances.iter().map(|one| one[key].as_f64().unwrap()).sum::<f64>();
    // Those of the file, as the harness counts them, although the model reads fewer.
    assert_eq!(sum("bytes") as usize, 2000 * line.len());
    // 12 tokens and two ends of lines.
    assert_eq!(report["cells"][0]["cost"]["words"], 2000 * 14);
    let small: Value = serde_json::from_str(&eval(path, "--task wikitext=small.txt --out s --json").ok().out).unwrap();
    assert_eq!(small["cells"][0]["cost"]["words"], 2 * 14);
}

/// A record that cannot be used has a number too: what is set aside is shown, and never measured.
#[test]
fn what_is_measured_is_never_shown() {
    let folder = lab();
    let path = folder.path();
    let text = fs::read_to_string(path.join("test.jsonl")).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    fs::write(path.join("some.jsonl"), format!("{first}\n{{\"context\": \"bad\"}}\n{rest}")).unwrap();
    eval(path, "--task mine.toml=some.jsonl --shots 0,1 --on-bad-record skip --out e").ok();
    let instances = lines(path.join("e/instances/mine/m/1-shot.jsonl"));
    assert_eq!(instances.len(), 22);
    let asked: Vec<&str> =
        instances.iter().map(|one| one["prompt"].as_str().unwrap().rsplit("\n\n").next().unwrap()).collect();
    for one in &instances {
        let prompt = one["prompt"].as_str().unwrap();
        let shown = prompt.split_once("\n\n").map_or("", |(shown, _)| shown);
        assert!(asked.iter().all(|asked| !shown.starts_with(asked)), "{shown}");
    }
}

#[test]
fn an_evaluation_that_was_cut_off_goes_on_to_the_same_result() {
    let folder = lab();
    let path = folder.path();
    let asked = "--task mine.toml=test.jsonl,train.jsonl --task world-patterns:first-word --shots 0,3 --limit 12";
    eval(path, &format!("{asked} --out whole")).ok();
    let stopped = eval(path, &format!("{asked} --out cut --max-time 0s"));
    assert_eq!(stopped.code, Some(124), "{}", stopped.err);
    assert!(stopped.err.contains("next: gptkit eval --resume cut"), "{}", stopped.err);
    // As a killed process leaves it: some cells are done, one holds a part of a line.
    let (whole, cut) = (path.join("whole/instances"), path.join("cut/instances"));
    for file in ["mine/m/0-shot.jsonl", "mine/m/0-shot.json", "mine/m/3-shot.jsonl"] {
        fs::create_dir_all(cut.join(file).parent().unwrap()).unwrap();
        fs::copy(whole.join(file), cut.join(file)).unwrap();
    }
    let text = fs::read_to_string(whole.join("mine/m/3-shot.jsonl")).unwrap();
    let middle = text.match_indices('\n').nth(4).unwrap().0 + 40;
    fs::write(cut.join("mine/m/3-shot.jsonl"), &text[..middle]).unwrap();
    gptkit(path, "eval --resume cut --dtype f32").ok();
    for file in
        ["mine/m/0-shot", "mine/m/3-shot", "world-patterns-first-word/m/0-shot", "world-patterns-first-word/m/3-shot"]
    {
        let read = |folder: &Path| fs::read_to_string(folder.join(format!("{file}.jsonl"))).unwrap();
        assert_eq!(read(&whole), read(&cut), "{file}");
    }
    let table = |folder: &str| fs::read_to_string(path.join(folder).join("results.md")).unwrap();
    assert_eq!(table("whole"), table("cut"));
}

#[test]
fn what_was_trained_on_is_left_out_and_a_fine_tuned_model_stands_beside() {
    let folder = lab();
    let path = folder.path();
    let records = lines(path.join("test.jsonl"));
    // Training text that holds five of the records.
    let shown = |record: &Value| {
        let choice = &record["choices"][record["label"].as_u64().unwrap() as usize];
        format!("{} {}", record["context"].as_str().unwrap(), choice.as_str().unwrap())
    };
    let text: String = records[..5].iter().map(|record| shown(record) + "\n").collect();
    fs::write(path.join("seen.txt"), text).unwrap();
    gptkit(path, "prepare --data seen.txt --tokenizer m --set data.val_fraction=0 --out seen").ok();
    let settings = "--set train.batch_size=4 --set train.length=2steps --set train.warmup=0steps";
    gptkit(
        path,
        &format!("finetune --init m --task multiple-choice --data train.jsonl --val test.jsonl {settings} --out f"),
    )
    .ok();
    let ran = eval(path, "--task mine.toml=test.jsonl --contamination seen --finetuned f --out e --json").ok();
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["cells"][0]["measured"]["n"], 24);
    assert_eq!(report["cells"][0]["clean"]["n"], 19);
    let chosen = lines(path.join("e/instances/mine/m/0-shot.jsonl"));
    let hits = chosen[5..].iter().filter(|one| one["chosen"]["sum"] == one["right"]).count();
    let clean = report["cells"][0]["clean"]["figures"].as_array().unwrap();
    let clean = clean.iter().find(|figure| figure["metric"] == "accuracy (sum)").unwrap()["value"].as_f64().unwrap();
    assert!((clean - 100.0 * hits as f64 / 19.0).abs() < 1e-9);

    let predicted = gptkit(path, "predict --model f --data test.jsonl --dtype f32").ok().out;
    let right = lines_of(&predicted).iter().filter(|one| one["prediction"] == one["label"]).count();
    let beside = report["finetuned"][0]["figure"]["value"].as_f64().unwrap();
    assert!((beside - 100.0 * right as f64 / 24.0).abs() < 1e-9);
}

#[test]
fn wrong_input_is_refused_in_words_and_leaves_nothing() {
    let folder = lab();
    let path = folder.path();
    let write = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
    write("template.toml", &CHOICE.replace("{{ context }}", "{{ context }"));
    write("key.toml", &CHOICE.replace("right", "wright"));
    write("section.toml", "scoring = \"generation\"\nprompt = \"a\"\nanswer = \"b\"\n");
    let record = |fields: &str| format!("{{\"context\": \"Once there was a fox.\", {fields}}}\n");
    let good = record("\"choices\": [\"It ran.\", \"It slept.\"], \"label\": 0");
    write("no-key.jsonl", &(good.clone() + &record("\"endings\": [\"a\", \"b\"], \"label\": 0")));
    write("range.jsonl", &(good.clone() + &record("\"choices\": [\"a\", \"b\"], \"label\": 2")));
    write("empty.jsonl", &(good.clone() + &record("\"choices\": [\"a\", \" \"], \"label\": 0")));
    write("none.jsonl", "");
    let long = "fox ".repeat(400);
    write("long.jsonl", &good.replace("a fox", &long).repeat(12));
    let mut said = String::new();
    for arguments in [
        "--task mine.toml",
        "--task mine.toml=nowhere.jsonl",
        "--task lambda=test.jsonl",
        "--task arithmetic:2d",
        "--task mine.toml=test.jsonl --task mine.toml=train.jsonl",
        "--task template.toml=test.jsonl",
        "--task key.toml=test.jsonl",
        "--task section.toml=test.jsonl",
        "--task mine.toml=no-key.jsonl",
        "--task mine.toml=range.jsonl",
        "--task mine.toml=empty.jsonl",
        "--task mine.toml=none.jsonl",
        "--task mine.toml=long.jsonl --shots 4",
        "--task mine.toml=test.jsonl --contamination m",
        "--task mine.toml=test.jsonl --finetuned nowhere",
        "--task world-patterns:color --finetuned m",
        "--task text=nowhere.txt",
        "--task text=world:3 --stride 200",
        "--task mine.toml=test.jsonl --model nowhere",
        "--resume m",
    ] {
        let command =
            if arguments.contains("--resume") { "eval".to_owned() } else { "eval --model m --out e".to_owned() };
        let ran = gptkit(path, &format!("{command} {arguments}"));
        said += &format!("$ gptkit eval {arguments}\n{}exit code {}\n\n", ran.err, ran.code.unwrap());
        assert!(!path.join("e").exists(), "{arguments} leaves a folder");
    }
    insta::assert_snapshot!(said);
    let skipping = "--task mine.toml=range.jsonl --on-bad-record skip --out e --json";
    let report: Value = serde_json::from_str(&eval(path, skipping).ok().out).unwrap();
    assert_eq!((&report["cells"][0]["measured"]["n"], &report["cells"][0]["cost"]["skipped"]), (&1.into(), &1.into()));
}

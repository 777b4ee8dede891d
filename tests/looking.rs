//! Commands that look: at a plan, at batches, at runs, at attention.

use super::{TINY, gptkit, pretrain, run};
use std::fs;
use std::path::Path;

fn looked(folder: &Path, words: &[&str]) -> String {
    run(folder, words, b"").ok().out
}

#[test]
fn a_plan_names_every_part_and_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |more: &str| gptkit(folder.path(), &format!("plan --config gpt2-small --dtype f32 {more}")).ok().out;
    let devices = "--devices 8 --device-tflops 312 --mfu 0.5";
    insta::assert_snapshot!(plan(&format!("{devices} --memory 80")));
    let tight = plan(&format!("{devices} --memory 5"));
    assert!(tight.contains("does not fit; it fits with --set train.micro_batch="), "{tight}");
    let hopeless = plan(&format!("{devices} --memory 1"));
    assert!(hopeless.contains("weights, gradients and optimizer alone take"), "{hopeless}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "a plan without epochs reads no text");
}

#[test]
fn the_largest_preset_is_planned_without_being_made() {
    let words = ["plan", "--config", "gpt3-175b", "--devices", "1000", "--device-tflops", "312"];
    let plan = looked(Path::new("."), &words);
    assert!(plan.contains("parameters   174,604,259,328") && plan.contains("PF-days"), "{plan}");
}

#[test]
fn a_plan_of_ppo_names_every_network() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |more: &str| gptkit(folder.path(), &format!("plan --stage ppo --dtype bf16 {more}"));
    let papers = plan("--config ppo-instructgpt --init gpt3-xl --reward gpt3-6.7b --memory 80").ok().out;
    insta::assert_snapshot!(papers);
    let small = plan("--memory 80").ok().out;
    assert!(small.contains("10,240 episodes in 40 iterations of 256"), "{small}");
    let tight = plan("--memory 0.5").ok().out;
    assert!(tight.contains("does not fit; it fits with --set train.micro_batch="), "{tight}");
    for (wrong, says) in [
        ("--data world", "cannot be used with --stage ppo"),
        ("--tokenizer t.json", "cannot be used with --stage ppo"),
        ("--devices 8 --device-tflops 300", "cannot be used with --stage ppo"),
        ("--device cpu", "cannot be used with --stage ppo"),
        ("--reward nowhere", "no such folder or preset"),
        ("--init ppo-small", "this preset does not define a model"),
        ("--init char", "the vocabulary of this preset depends on the training text"),
        ("--set policy.lora.rank=200", "larger than the policy's width of 192"),
        ("--config small", "small"),
    ] {
        let ran = plan(wrong);
        assert_eq!(ran.code, Some(2), "{wrong}: {}", ran.err);
        assert!(ran.err.contains(says) && ran.err.contains("hint") && ran.out.is_empty(), "{wrong}: {}", ran.err);
    }
    let ran = gptkit(folder.path(), "plan --reward small");
    assert!(ran.code == Some(2) && ran.err.contains("requires --stage ppo"), "{}", ran.err);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "only shapes are read");
}

#[test]
fn a_dry_run_measures_and_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ran = pretrain(folder.path(), "--config char --data world:40 --dry-run --out run").ok();
    assert!(ran.out.contains("tokens per second") && ran.out.contains("in 12 steps of 192"), "{}", ran.out);
    assert!(!folder.path().join("run").exists());
}

#[test]
fn batches_are_shown_as_the_model_gets_them() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["inspect", "--config", "char", "--data", "world:40", "--set", "model.context=24", "--rows", "1"];
    let shown = looked(folder.path(), &words);
    insta::assert_snapshot!(shown);
    let again = looked(folder.path(), &[&words[..], &["--step", "2"]].concat());
    assert_ne!(shown, again, "another step has another batch");
}

#[test]
fn runs_are_listed_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    pretrain(path, "--config char --data world:40 --out runs/one").ok();
    let words: Vec<&str> =
        TINY.iter().copied().chain("--config char --data world:40 --out runs/two --max-time 1ms".split(' ')).collect();
    assert_eq!(run(path, &words, b"").code, Some(124));
    let listed = gptkit(path, "runs").ok();
    let line = |name: &str| listed.out.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(
        line("one").contains("finished  12/12  loss ") && line("one").matches("  loss ").count() == 2,
        "{}",
        listed.out
    );
    assert!(line("two").contains("stopped    1/12  loss "), "{}", listed.out);
    assert!(listed.err.contains("next: gptkit pretrain --resume runs/two"), "{}", listed.err);
    gptkit(path, "plot runs/one runs/two --out both.svg").ok();
    let drawn = fs::read_to_string(path.join("both.svg")).unwrap();
    assert!(drawn.contains("one, validation") && drawn.contains("two, training"));
    assert!(fs::read_to_string(path.join("runs/one/curves.svg")).unwrap().contains("learning rate"));
    let events = fs::read_dir(path.join("runs/one")).unwrap().flatten();
    assert!(events.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("events.out.tfevents")));
}

#[test]
fn attention_is_a_table_and_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    pretrain(folder.path(), "--config char --data world:40 --out run").ok();
    let look =
        |more: &[&str]| looked(folder.path(), &[&["attention", "--model", "run", "--text", "The fox"], more].concat());
    let all = look(&["--out", "map.svg"]);
    assert!(all.contains("layer 1   head 0         head 1"), "{all}");
    assert_eq!(all.matches("T 100%").count(), 4, "the first token sees itself alone, in two layers of two heads");
    assert!(fs::read_to_string(folder.path().join("map.svg")).unwrap().contains("layer 1 head 1"));
    let one = look(&["--layer", "1", "--head", "0"]);
    let last: f64 = one.lines().last().unwrap().split_whitespace().skip(1).map(|w| w.parse::<f64>().unwrap()).sum();
    assert!((last - 100.0).abs() < 0.5, "{one}");
}

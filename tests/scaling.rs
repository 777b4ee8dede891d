//! `gptkit scaling` from outside: a family, what stops it, what goes on, and what is refused.

use super::resume::{start, wait_for};
use super::{Ran, gptkit};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Three sizes to fit and one to predict, of some dozens of steps each.
const FAMILY: &str = r#"
[family]
kind = "gpt2"
context = 16
sizes = [
  { name = "a", n_layer = 1, n_head = 1, d_model = 4 },
  { name = "b", n_layer = 1, n_head = 1, d_model = 8 },
  { name = "c", n_layer = 1, n_head = 2, d_model = 16, lr = 5e-3 },
  { name = "d", n_layer = 1, n_head = 2, d_model = 32, predict = true },
]

[tokenizer]
train = "char"

[data]
sources = [{ path = "world:80" }]
val_fraction = 0.1

[train]
length = "300 steps"
batch_size = 8
lr = 4e-3
min_lr = 1e-4
warmup = "10 steps"
decay = "linear"
decay_start = "250 steps"
eval_every = 25
eval_windows = 64
"#;

fn with_family() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("family.toml"), FAMILY).unwrap();
    folder
}

fn report(folder: &Path, out: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join(out).join("scaling.json")).unwrap()).unwrap()
}

/// Without what differs from one time to the next.
fn timeless(mut report: Value) -> Value {
    for member in report["members"].as_array_mut().unwrap() {
        member.as_object_mut().unwrap().remove("elapsed_s");
    }
    report
}

#[test]
fn a_family_is_trained_fitted_and_predicted_and_goes_on_after_a_part_is_gone() {
    let folder = with_family();
    let path = folder.path();
    let ran = gptkit(path, "scaling --config family.toml --out whole --budget 1e15").ok();
    for says in ["member", "d (held out)", "L(N)", "L(D)", "L(N, D)", "twice the compute", "1.00e15"] {
        assert!(ran.out.contains(says), "{says}: {}", ran.out);
    }
    for says in ["c · 3 of 4", "before the decay", "next: gptkit sample --model whole/"] {
        assert!(ran.err.contains(says), "{says}: {}", ran.err);
    }
    let whole = report(path, "whole");
    let members = whole["members"].as_array().unwrap();
    assert_eq!(members.iter().map(|m| m["name"].as_str().unwrap()).collect::<String>(), "abcd");
    let losses: Vec<f64> = members.iter().map(|m| m["loss"].as_f64().unwrap()).collect();
    assert!(losses[2] < losses[1] && losses[1] < losses[0], "{losses:?}");
    let (n, d) = (members[1]["size"].as_f64().unwrap(), members[1]["tokens"].as_f64().unwrap());
    assert_eq!((n, d), (f64::from(12 * 8 * 8 + 13 * 8 + 2 * 8), 300.0 * 8.0 * 16.0));
    assert_eq!(members[1]["compute"].as_f64().unwrap(), 6.0 * n * d);
    let points = members[1]["points"].as_array().unwrap();
    assert_eq!(points.len(), 12);
    // From the first validation after the warm-up to the last before the decay.
    let fitted: Vec<bool> = points.iter().map(|p| p["fitted"].as_bool().unwrap()).collect();
    assert_eq!(fitted.iter().filter(|&&fitted| fitted).count(), 10, "{fitted:?}");
    assert_eq!(whole["size_law"]["n_points"], 3);
    assert_eq!(whole["predictions"][0]["name"], "d");
    assert_eq!(whole["predictions"][0]["measured"], members[3]["loss"]);
    let text = fs::read_to_string(path.join("whole/scaling.md")).unwrap();
    assert!(text.contains("| d (held out) |") && text.contains("0.076") && text.contains("loss-compute.svg"), "{text}");
    for picture in ["loss-compute.svg", "loss-size.svg", "loss-tokens.svg"] {
        let svg = fs::read_to_string(path.join("whole").join(picture)).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("d: ") && !svg.contains("NaN"), "{picture}");
    }

    // Nothing is left to do: the same again, without the text.
    fs::rename(path.join("shards"), path.join("elsewhere")).unwrap();
    let again = gptkit(path, "scaling --resume whole --budget 1e15 --json").ok();
    fs::rename(path.join("elsewhere"), path.join("shards")).unwrap();
    assert!(!again.err.contains(" of 4"), "{}", again.err);
    assert_eq!(serde_json::from_str::<Value>(&again.out).unwrap(), whole);

    // As if it had been killed: one member in the middle, one before its first checkpoint, one not begun.
    fs::remove_dir_all(path.join("whole/b/checkpoints/step-000300")).unwrap();
    let config = fs::read(path.join("whole/c/config.toml")).unwrap();
    fs::remove_dir_all(path.join("whole/c")).unwrap();
    fs::create_dir(path.join("whole/c")).unwrap();
    fs::write(path.join("whole/c/config.toml"), config).unwrap();
    fs::remove_dir_all(path.join("whole/d")).unwrap();
    let ran = gptkit(path, "scaling --resume whole --budget 1e15").ok();
    for says in ["b · 2 of 4 · resuming", "c · 3 of 4 · ", "d · 4 of 4 · "] {
        assert!(ran.err.contains(says), "{says}: {}", ran.err);
    }
    assert!(!ran.err.contains("a · 1 of 4"), "{}", ran.err);
    assert_eq!(timeless(report(path, "whole")), timeless(whole));

    // As if it had been killed before the curves of a member were drawn.
    fs::remove_file(path.join("whole/a/curves.svg")).unwrap();
    gptkit(path, "scaling --resume whole").ok();
    assert!(path.join("whole/a/curves.svg").exists());
}

#[test]
#[cfg(unix)]
fn a_signal_saves_says_how_to_go_on_and_a_killed_family_ends_the_same() {
    let folder = with_family();
    let path = folder.path();
    gptkit(path, "scaling --config family.toml --out whole").ok();
    let words = ["scaling", "--config", "family.toml", "--out", "cut"].map(str::to_owned);
    let mut child = start(path, &words);
    wait_for(&mut child, &path.join("cut/b"), 12);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("next: gptkit scaling --resume cut"), "{said}");
    let mut child = start(path, &["scaling", "--resume", "cut"].map(str::to_owned));
    wait_for(&mut child, &path.join("cut/c"), 9);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    let ran = gptkit(path, "scaling --resume cut --max-time 1ms");
    assert_eq!(ran.code, Some(124), "{}", ran.err);
    gptkit(path, "scaling --resume cut").ok();
    assert_eq!(timeless(report(path, "cut")), timeless(report(path, "whole")));
}

#[test]
fn a_family_goes_on_without_its_sources_while_the_shards_are_there() {
    let folder = with_family();
    let path = folder.path();
    let few = "--set train.length=20steps --set train.decay_start=18steps --set train.eval_every=3";
    let text = gptkit(path, "world --stories 80").ok().out;
    fs::write(path.join("text.txt"), text).unwrap();
    let begin = format!("scaling --config family.toml --out one --data text.txt {few}");
    gptkit(path, &begin).ok();
    fs::remove_file(path.join("text.txt")).unwrap();
    fs::remove_dir_all(path.join("one/c")).unwrap();
    let ran = gptkit(path, "scaling --resume one").ok();
    assert!(ran.err.contains("c · 3 of 4"), "{}", ran.err);
    fs::remove_dir_all(path.join("shards")).unwrap();
    gptkit(path, "scaling --resume one").ok(); // only the laws are fitted
    fs::remove_dir_all(path.join("one/c")).unwrap();
    let said = refused(gptkit(path, "scaling --resume one"), 1);
    assert!(said.contains("the text of the family is missing"), "{said}");
}

#[test]
fn a_family_without_a_member_to_predict_is_fine() {
    let folder = with_family();
    let few = "--set train.length=20steps --set train.decay_start=18steps --set train.eval_every=3";
    let sizes = r#"family.sizes=[{name="a",n_layer=1,n_head=1,d_model=8},{name="b",n_layer=1,n_head=1,d_model=16},{name="c",n_layer=2,n_head=1,d_model=16}]"#;
    gptkit(folder.path(), &format!("scaling --config family.toml --out all {few} --set {sizes}")).ok();
    let report = report(folder.path(), "all");
    assert_eq!(report["predictions"].as_array().unwrap().len(), 1);
}

fn refused(ran: Ran, code: i32) -> String {
    assert_eq!(ran.code, Some(code), "{}", ran.err);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran.err
}

#[test]
fn a_family_that_makes_no_sense_is_refused_with_all_that_is_wrong() {
    let folder = with_family();
    let path = folder.path();
    let wrong = FAMILY
        .replace(
            r#"{ name = "b", n_layer = 1, n_head = 1, d_model = 8 }"#,
            r#"{ name = "b", n_layer = 1, n_head = 3, d_model = 8 }"#,
        )
        .replace(r#"name = "c", n_layer = 1"#, r#"name = "a", n_layer = 2, predict = true, width = 3"#)
        .replace(r#"name = "d""#, r#"name = "../d", lr = -1"#)
        .replace("[train]", "[train]\npatience = 3");
    fs::write(path.join("wrong.toml"), wrong).unwrap();
    insta::assert_snapshot!(refused(gptkit(path, "scaling --config wrong.toml --out out"), 2));
    assert!(!path.join("out").exists(), "a refused command leaves nothing");
}

#[test]
fn what_cannot_be_gone_on_with_is_refused() {
    let folder = with_family();
    let path = folder.path();
    let few = "--set train.length=20steps --set train.decay_start=18steps --set train.eval_every=3";
    gptkit(path, &format!("scaling --config family.toml --out one {few}")).ok();
    let mut said = vec![
        refused(gptkit(path, "scaling --config family.toml --out one"), 1),
        refused(gptkit(path, "scaling --resume nowhere"), 2),
        refused(gptkit(path, "scaling --resume one --data world:9"), 2),
        refused(gptkit(path, "scaling --budget 0"), 2),
    ];
    let config = fs::read_to_string(path.join("one/config.toml")).unwrap();
    fs::write(path.join("one/config.toml"), config.replace("20 steps", "30 steps")).unwrap();
    said.push(refused(gptkit(path, "scaling --resume one"), 1));
    fs::write(path.join("one/config.toml"), config).unwrap();
    // What may be a trained model is not trained over.
    fs::remove_dir_all(path.join("one/b/checkpoints")).unwrap();
    said.push(refused(gptkit(path, "scaling --resume one"), 1));
    insta::assert_snapshot!(said.join("\n"));
}

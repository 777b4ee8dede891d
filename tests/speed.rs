//! What the binary says of its speed, and that the processor's instructions change how fast it is, not what it finds.

use super::{Ran, gptkit, pretrain};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// `gptkit` held to the instructions that `limit` names.
fn limited(folder: &Path, limit: &str, command: &str) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_gptkit"))
        .args(command.split(' '))
        .current_dir(folder)
        .env("GPTKIT_CPU", limit)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn info_says_what_is_used_and_why() {
    let here = Path::new(".");
    let info = gptkit(here, "info").ok().out;
    for name in ["version", "threads", "f32 products", "bf16 products", "--dtype auto", "memory", "built with"] {
        assert!(info.contains(name), "{name} is missing: {info}");
    }
    let portable = limited(here, "portable", "info").ok().out;
    assert!(portable.contains("portable in f32; GPTKIT_CPU=portable"), "{portable}");
}

#[test]
fn a_bench_line_has_what_a_script_reads() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = "--set model.n_layer=1 --set model.d_model=16 --set model.n_head=2 --set model.context=16";
    let bench = format!("bench --config char {sizes} --batch 2 --case train_step --case decode");
    let lines = gptkit(folder.path(), &format!("{bench} --json")).ok().out;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let cases: Vec<&str> = lines.iter().map(|line| line["case"].as_str().unwrap()).collect();
    assert_eq!(cases, ["train_step", "decode"]);
    for line in &lines {
        for key in ["batch", "seq", "ms", "tokens_per_s", "gflops", "share_of_peak"] {
            assert!(line[key].as_f64().is_some_and(|x| x > 0.0), "{key} in {line}");
        }
        assert_eq!((line["config"].as_str(), line["batch"].as_u64()), (Some("char"), Some(2)));
    }
    let (ms, rate) = (lines[0]["ms"].as_f64().unwrap(), lines[0]["tokens_per_s"].as_f64().unwrap());
    assert!((rate * ms / 1e3 / 32.0 - 1.0).abs() < 1e-6, "{rate} tokens/s at {ms} ms a step of 32");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "a bench leaves nothing");
}

/// The losses of ten steps.
fn losses(folder: &Path, run: &str) -> Vec<f64> {
    let records = fs::read_to_string(folder.join(run).join("metrics.jsonl")).unwrap();
    records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["train_loss"].as_f64().unwrap()).collect()
}

/// The limits of `GPTKIT_CPU` that the processor reaches; of the others, a run would repeat that of a narrower one.
fn levels(folder: &Path) -> Vec<&'static str> {
    let reaches = |limit: &&str| {
        let info = limited(folder, limit, "info").ok().out;
        let level = info.lines().find_map(|line| line.strip_prefix("loops and f32 products"));
        level.unwrap().trim().to_lowercase().replace('-', "") == **limit
    };
    let levels: Vec<&str> = ["portable", "avx2", "avx512"].into_iter().filter(reaches).collect();
    assert_eq!(levels[0], "portable");
    #[cfg(target_arch = "x86_64")]
    for (name, is_here) in [("avx2", is_x86_feature_detected!("avx2")), ("avx512", is_x86_feature_detected!("avx512f"))]
    {
        assert_eq!(
            levels.contains(&name),
            is_here,
            "{name}: the processor has it, or has not, but {levels:?} were found"
        );
    }
    levels
}

/// Sums are rounded in another order, and the differences grow from step to step: after ten they are still small.
#[test]
fn every_set_of_instructions_that_the_processor_has_trains_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let levels = levels(path);
    for (dtype, tolerance) in [("f32", 1e-4), ("bf16", 5e-3)] {
        let train = |out: &str| {
            format!(
                "pretrain --config char --data world:40 --dtype {dtype} --out {out} --set train.length=10steps --set train.eval_windows=2"
            )
        };
        gptkit(path, &train(&format!("here-{dtype}"))).ok();
        let here = losses(path, &format!("here-{dtype}"));
        assert_eq!(here.len(), 10);
        for limit in &levels {
            let out = format!("{limit}-{dtype}");
            limited(path, limit, &train(&out)).ok();
            for (step, (a, b)) in losses(path, &out).iter().zip(&here).enumerate() {
                assert!((a - b).abs() < tolerance, "{limit} {dtype}, step {}: {a}, not {b}", step + 1);
            }
        }
    }
    let (exact, rounded) = (losses(path, "here-f32"), losses(path, "here-bf16"));
    assert!(exact.iter().zip(&rounded).all(|(a, b)| (a - b).abs() < 0.02), "{exact:?} {rounded:?}");
}

#[test]
fn dtype_reaches_the_run() {
    let folder = tempfile::tempdir().unwrap();
    pretrain(folder.path(), "--out run --dtype bf16 --set train.length=2steps").ok();
    let config = fs::read_to_string(folder.path().join("run/config.toml")).unwrap();
    assert!(config.contains("dtype = \"bf16\""), "{config}");
    gptkit(folder.path(), "sample --model run --dtype bf16 --max-new-tokens 3").ok();
}

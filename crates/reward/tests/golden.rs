//! Agreement with transformers' sequence-classification models of one label, f32, CPU.
//!
//! The cases in `tests/golden` were made by scripts/golden.py, with the versions and seeds in `made-with.json` there.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use candle_core::Device;
use gptkit_model::load::load_model;
use gptkit_model::{ClassHead, Gpt, Pass};
use gptkit_ops::Precision;
use gptkit_reward::RewardModel;
use gptkit_reward::group::Group;
use gptkit_testing::{golden_path, published};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
struct Inputs {
    /// Rows of one length, padded.
    ids: Vec<Vec<u32>>,
    lengths: Vec<usize>,
    rewards: Vec<f32>,
}

#[test]
fn rewards_are_those_of_the_reference() {
    rewards_agree(&["gpt2-reward-tiny", "gpt1-reward-tiny"].map(golden_path));
}

#[test]
#[ignore = "needs more cases of the form of tests/golden: set GPTKIT_TEST_DATA"]
fn rewards_of_further_cases_are_those_of_the_reference() {
    rewards_agree(&[published("parity").join("gpt2-reward-tiny")]);
}

fn rewards_agree(folders: &[PathBuf]) {
    for folder in folders {
        let text = std::fs::read_to_string(folder.join("inputs.json")).unwrap();
        let Inputs { ids, lengths, rewards } = serde_json::from_str(&text).unwrap();
        let (config, mut params) = load_model(folder, &Device::Cpu).unwrap();
        let head = ClassHead::load(&mut params, folder).unwrap();
        let model = RewardModel { gpt: Gpt::new(&config, &params, Precision::F32).unwrap(), head };
        let sequences: Vec<Vec<u32>> = ids.iter().zip(&lengths).map(|(row, &n)| row[..n].to_vec()).collect();
        let close = |what: &str, have: f32, want: f32| {
            assert!((have - want).abs() <= 2e-5, "{} {what}: {have}, reference {want}", folder.display());
        };
        for (have, want) in model.rewards(&sequences).unwrap().iter().zip(&rewards) {
            close("without padding", *have, *want);
        }
        // What pads a row comes after the token that is read, and changes nothing there.
        for ((row, &n), want) in ids.iter().zip(&lengths).zip(&rewards) {
            let group =
                Group { sequences: vec![row[..n].to_vec(), row.clone()], prompt: 1, places: vec![1, 2], gold: None };
            if n < row.len() {
                let both: Vec<f32> = model.of_groups(&[group], Pass::Eval).unwrap().to_vec1().unwrap();
                close("beside the padded row", both[0], *want);
            }
        }
    }
}

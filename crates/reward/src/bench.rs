//! Cases for `gptkit bench` to time: loss and gradients of a reward model from the completions of one prompt.

use crate::RewardModel;
use crate::group::Group;
use crate::loss::{LossConfig, Pairs};
use anyhow::Result;
use gptkit_data::comparison;
use gptkit_data::progress::Progress;
use gptkit_model::{ClassHead, Gpt, ModelConfig, Params, Pass, Weights};
use gptkit_ops::Precision;
use gptkit_train::bench::{CaseTime, median_seconds};

/// The cases, in the order in which they are measured.
pub const CASES: [&str; 3] = ["compare_group", "compare_alone", "compare_pairs"];
/// Completions of the prompt.
const K: usize = 9;

/// Times those of [`CASES`] that `is_wanted` accepts. The prompt takes half of `seq` tokens, each completion a quarter.
/// The completions are read as a group, whose prompt is read once; each alone; and pair by pair, each pair with both of
/// its completions.
///
/// # Errors
/// When memory does not suffice.
pub fn comparisons(
    model: &ModelConfig,
    mut params: Params,
    seq: usize,
    precision: Precision,
    is_wanted: impl Fn(&str) -> bool,
    progress: &dyn Progress,
) -> Result<Vec<CaseTime>> {
    let head = ClassHead::init_reward(&mut params, model.d_model, 1)?;
    let rewarder = RewardModel { gpt: Gpt::new(model, &params, precision)?, head };
    let (prompt, completion) = ((seq / 2).max(1), (seq / 4).max(1));
    let token = |i: usize| (i * 7919 % model.vocab_size) as u32;
    let sequence = |k: usize| -> Vec<u32> {
        (0..prompt).map(token).chain((0..completion).map(|i| token(i + (k + 1) * completion))).collect()
    };
    let group = |sequences: Vec<Vec<u32>>| Group { places: vec![1; sequences.len()], sequences, prompt, gold: None };
    let alone = |k: usize| group(vec![sequence(k)]);
    let places: Vec<u32> = (1..=K as u32).collect();
    let pairs: Vec<(usize, usize)> = comparison::pairs(&places).collect();
    let pair_by_pair = pairs.iter().flat_map(|&(a, b)| [alone(a), alone(b)]).collect();
    let [of_group, of_each, of_pairs] = CASES;
    let cases = [
        (of_group, vec![group((0..K).map(sequence).collect())], Pairs::of([places.as_slice()], 1)),
        (of_each, (0..K).map(alone).collect(), Pairs::of([places.as_slice()], 1)),
        (of_pairs, pair_by_pair, Pairs::of(pairs.iter().map(|_| &[1, 2][..]), pairs.len())),
    ];
    let pass = Pass::Train { seed: 1, first_row: 0, recompute: false };
    let (mut weights, mut measured) = (Weights::from(params), Vec::new());
    for (case, groups, pairs) in cases.into_iter().filter(|(case, _, _)| is_wanted(case)) {
        let seconds = median_seconds(case, progress, || {
            let loss = || pairs.loss(&rewarder.of_groups(&groups, pass)?, &LossConfig::default());
            weights.begin_update().backward(loss).map(drop)
        })?;
        let tokens = K * (prompt + completion);
        measured.push(CaseTime { case, batch: K, seq, seconds, tokens, flops: 0.0 });
    }
    Ok(measured)
}

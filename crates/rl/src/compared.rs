//! Comparisons with how likely a frozen reference finds each completion: found once, and kept beside it, so that no second
//! model is in memory while training.

use crate::answers::Choosing;
use anyhow::Result;
use candle_core::{DType, Tensor};
use gptkit_data::examples::ExamplesWriter;
use gptkit_data::progress::{Progress, Unit};
use gptkit_model::{Gpt, Pass};
use gptkit_reward::group::Group;
use gptkit_reward::groups::Groups;
use gptkit_reward::reading::SharedPrompts;
use std::path::Path;

/// Tokens that the reference reads at a time, but for a longer group alone.
const TOKENS_AT_A_TIME: usize = 4096;

/// Completions of one prompt, which are better, and how likely each was.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// The completions.
    pub group: Group,
    /// log π_ref of each, nats.
    pub reference: Vec<f32>,
}

impl AsRef<Group> for Compared {
    fn as_ref(&self) -> &Group {
        &self.group
    }
}

impl Compared {
    /// As a list of numbers: the group's, then the bits of each log-probability.
    pub fn numbers(&self) -> Vec<u32> {
        let mut numbers = self.group.numbers();
        numbers.extend(self.reference.iter().map(|log_prob| log_prob.to_bits()));
        numbers
    }

    /// The opposite; nothing when the numbers are none.
    pub fn of(numbers: &[u32]) -> Option<Self> {
        let k = *numbers.first()? as usize; // a group begins with it
        let (group, reference) = numbers.split_at_checked(numbers.len().checked_sub(k)?)?;
        let reference = reference.iter().map(|&bits| f32::from_bits(bits)).collect();
        Some(Self { group: Group::of(group)?, reference })
    }
}

/// The log-probability that `model` gives each completion of `groups`, the sum over its tokens with the sign that ends it:
/// `[M]`, nats, as part of a graph when `pass` trains. Each completion is run once, and what a group shares is read once.
///
/// # Errors
/// When a token is not of the vocabulary, or a completion with its prompt over the context.
pub fn log_probs(model: &Gpt, groups: &[&Group], pass: Pass) -> Result<Tensor> {
    let reading = SharedPrompts::of(groups, model)?;
    let hidden = model.hidden(&reading.input, pass.of_part())?.squeeze(0)?; // [all tokens, D]
    let (mut rows, mut tokens, mut whose) = (Vec::<u32>::new(), Vec::new(), Vec::<u32>::new());
    let mut m = 0;
    for group in groups {
        for sequence in &group.sequences {
            rows.extend((group.prompt..sequence.len()).map(|token| reading.row(m, token - 1)));
            tokens.extend(&sequence[group.prompt..]);
            whose.resize(tokens.len(), m as u32);
            m += 1;
        }
    }
    let device = model.device();
    let choosing = Choosing { states: hidden.index_select(&Tensor::new(rows, device)?, 0)?, tokens };
    let of_tokens = choosing.log_probs(model, 1.0, pass)?.get(0)?; // [N]
    Ok(Tensor::zeros(m, DType::F32, device)?.index_add(&Tensor::new(whose, device)?, &of_tokens, 0)?)
}

/// Writes `groups` to the file `path`, each with what `reference` gives its completions.
///
/// # Errors
/// As [`log_probs`], and when the file cannot be written.
pub fn keep(groups: &Groups, reference: &Gpt, path: &Path, progress: &dyn Progress) -> Result<()> {
    let n = groups.records.len();
    let task = progress.task("reference", Some(n), Unit::Items);
    ExamplesWriter::write(path, |file| {
        let mut first = 0;
        while first < n {
            let mut batch: Vec<Group> = Vec::new();
            let mut room = TOKENS_AT_A_TIME;
            for group in (first..n).map(|i| groups.records.get(i)) {
                if !batch.is_empty() && group.n_tokens() > room {
                    break;
                }
                room = room.saturating_sub(group.n_tokens());
                batch.push(group);
            }
            first += batch.len() as u64;
            let refs: Vec<&Group> = batch.iter().collect();
            let mut found = log_probs(reference, &refs, Pass::Eval)?.to_vec1::<f32>()?.into_iter();
            task.advance(batch.len() as u64);
            for group in batch {
                let reference = found.by_ref().take(group.len()).collect();
                file.push(&Compared { group, reference }.numbers())?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn comparisons_come_back_from_their_numbers(
            rests in prop::collection::vec((prop::collection::vec(0u32..4, 1..6), -200f32..0.0), 1..9),
        ) {
            let k = rests.len() as u32;
            let group = Group {
                sequences: rests.iter().map(|(rest, _)| [&[7, 8][..], rest].concat()).collect(),
                prompt: 2,
                places: (1..=k).collect(),
                gold: None,
            };
            let compared = Compared { group, reference: rests.iter().map(|(_, log_prob)| *log_prob).collect() };
            let numbers = compared.numbers();
            prop_assert_eq!(Compared::of(&numbers), Some(compared));
            for cut in 0..numbers.len() {
                prop_assert_eq!(Compared::of(&numbers[..cut]), None);
            }
        }
    }
}

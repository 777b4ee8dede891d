//! Groups as one window of tokens, in which what the sequences of a group share is read once.

use crate::group::Group;
use anyhow::Result;
use gptkit_model::{Gpt, Input};
use gptkit_train::language_modeling::check_tokens;

/// What groups share is read once when that saves at least this share of all tokens.
const WORTH_SHARING: f64 = 0.05;

/// What a model reads of some groups, and where each token is in it.
#[derive(Debug)]
pub struct SharedPrompts {
    /// One window.
    pub input: Input,
    /// Of each sequence.
    places: Vec<SequenceSpan>,
}

/// Where a sequence's tokens are.
#[derive(Debug, Clone, Copy)]
struct SequenceSpan {
    /// Its first row.
    first: usize,
    /// Tokens that it shares with its group, which begin there.
    stem: usize,
    /// Row of the first token after these.
    rest: usize,
}

impl SharedPrompts {
    /// Of `groups`, for `gpt`.
    ///
    /// # Errors
    /// When a token is not of the vocabulary, or there is none.
    pub fn of(groups: &[&Group], gpt: &Gpt) -> Result<Self> {
        let sequences = || groups.iter().flat_map(|group| &group.sequences);
        sequences().try_for_each(|sequence| check_tokens(sequence, gpt))?;
        let all: usize = sequences().map(Vec::len).sum();
        let mut stems: Vec<usize> = groups.iter().map(|group| group.shared()).collect();
        let saved: usize = groups.iter().zip(&stems).map(|(group, stem)| group.len().saturating_sub(1) * stem).sum();
        let input = if saved as f64 >= WORTH_SHARING * all as f64 {
            let branches = groups.iter().zip(&stems).map(|(group, &stem)| (stem, group.sequences.as_slice()));
            Input::branching(branches, gpt.device())?
        } else {
            stems.fill(0);
            Input::ragged(sequences().map(Vec::as_slice), gpt.device())?
        };
        let (mut places, mut at) = (Vec::new(), 0);
        for (group, stem) in groups.iter().zip(stems) {
            let start = at;
            at += stem;
            places.extend(group.sequences.iter().map(|sequence| {
                let rest = at;
                at += sequence.len() - stem;
                SequenceSpan { first: if stem > 0 { start } else { rest }, stem, rest }
            }));
        }
        Ok(Self { input, places })
    }

    /// Row of token number `token` of sequence number `sequence` of all.
    ///
    /// # Panics
    /// When there is no such sequence.
    pub fn row(&self, sequence: usize, token: usize) -> u32 {
        let SequenceSpan { first, stem, rest } = self.places[sequence];
        (if token < stem { first + token } else { rest + token - stem }) as u32
    }
}

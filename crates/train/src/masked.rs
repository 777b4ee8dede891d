//! Masked prediction (Devlin et al. 2019, §3.1 and appendix A.1): which tokens of a window are asked for, and what stands in
//! their places.
//!
//! The mask token is the row of the vocabulary after the tokenizer's last entry. It is no entry itself, since no text has it;
//! the first token that a later stage adds to the tokenizer takes its row over.

use gptkit_data::batch::{Batch, IGNORE};
use gptkit_model::Kind;
use gptkit_rng::keyed::{Draw, Key, words};

/// Share of the tokens that are asked for, where a configuration does not say another: a model learns from these alone, so
/// that a short run learns more where more are asked for (Wettig et al. 2023).
pub const MASK_RATE: f64 = 0.15;
/// Share of these tokens that the mask token replaces.
const MASKED: f64 = 0.8;
/// Share of these tokens that a random token replaces; the others stay.
const RANDOM: f64 = 0.1;

/// Draws as a pure function of the seed, a row's number in the run and the position in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Masking {
    /// Seed of the draws.
    pub seed: u64,
    /// Entries of the tokenizer, and the number of the mask token.
    pub entries: u32,
    /// Share of the tokens that are asked for.
    pub rate: f64,
}

/// Tokens that a model of this kind needs for a tokenizer of so many `entries`.
pub fn rows_of_vocabulary(kind: Kind, entries: usize) -> usize {
    entries + usize::from(kind == Kind::Bert)
}

impl Masking {
    /// Has `batch`, whose first row is number `first_row` of the run, ask for some of its own tokens instead of the next
    /// ones.
    pub fn apply(&self, batch: &mut Batch, first_row: u64) {
        let key = Key { seed: self.seed, draw: Draw::Masking };
        let rows = batch.tokens.chunks_exact_mut(batch.context).zip(batch.targets.chunks_exact_mut(batch.context));
        for (row, (tokens, targets)) in (first_row..).zip(rows) {
            for (position, (token, target)) in (0u64..).zip(tokens.iter_mut().zip(targets)) {
                let [asked, what, other, _] = words(key, (row << 32) | position);
                let (asked, what) = (share(asked), share(what));
                *target = if asked < self.rate { *token } else { IGNORE };
                if asked >= self.rate {
                    continue;
                }
                if what < MASKED {
                    *token = self.entries;
                } else if what < MASKED + RANDOM {
                    *token = ((u64::from(other) * u64::from(self.entries)) >> 32) as u32;
                }
            }
        }
    }
}

/// A word as a number from 0 to below 1.
fn share(word: u32) -> f64 {
    f64::from(word) / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASKING: Masking = Masking { seed: 3, entries: 50, rate: MASK_RATE };

    /// Row `n` of the run, the same in any batch.
    fn batch(first_row: u64, rows: usize) -> Batch {
        let (first, context) = (first_row * 128, 128);
        let ids = |shift: u64| (0..rows as u64 * context).map(|i| ((first + i + shift) * 7919 % 50) as u32).collect();
        Batch::windows(context as usize, ids(0), ids(1))
    }

    fn masked(masking: Masking, first_row: u64, rows: usize) -> Batch {
        let mut batch = batch(first_row, rows);
        masking.apply(&mut batch, first_row);
        batch
    }

    /// To 4 standard errors.
    #[test]
    fn shares_are_the_papers() {
        let (plain, masked) = (batch(0, 2000), masked(MASKING, 0, 2000));
        let n = plain.tokens.len() as f64;
        let asked: Vec<usize> = (0..plain.tokens.len()).filter(|&i| masked.targets[i] != IGNORE).collect();
        let near = |count: usize, share: f64, of: f64| {
            let off = count as f64 / of - share;
            assert!(
                off.abs() < 4.0 * (share * (1.0 - share) / of).sqrt(),
                "{count} of {of}, expected a share of {share}"
            );
        };
        near(asked.len(), 0.15, n);
        let m = asked.len() as f64;
        near(asked.iter().filter(|&&i| masked.tokens[i] == 50).count(), 0.8, m);
        // A fiftieth of the random tokens are the old ones.
        near(asked.iter().filter(|&&i| masked.tokens[i] == plain.tokens[i]).count(), 0.1 + 0.1 / 50.0, m);
        near(asked.iter().filter(|&&i| masked.tokens[i] == 7 && plain.tokens[i] != 7).count(), 0.1 / 50.0 * 0.98, m);
    }

    #[test]
    fn only_tokens_that_are_asked_for_count_and_change() {
        let (plain, masked) = (batch(5, 40), masked(MASKING, 5, 40));
        for i in 0..plain.tokens.len() {
            match masked.targets[i] {
                IGNORE => assert_eq!(masked.tokens[i], plain.tokens[i]),
                target => assert_eq!(target, plain.tokens[i]),
            }
        }
    }

    #[test]
    fn a_row_is_masked_the_same_in_any_batch_and_otherwise_by_another_seed() {
        let (whole, part) = (masked(MASKING, 0, 6), masked(MASKING, 4, 2));
        assert_eq!((&whole.tokens[4 * 128..], &whole.targets[4 * 128..]), (&part.tokens[..], &part.targets[..]));
        assert_ne!(masked(Masking { seed: 4, ..MASKING }, 0, 6).targets, whole.targets);
        assert_ne!(whole.targets[..128].iter().map(|&t| t == IGNORE).collect::<Vec<_>>(), {
            whole.targets[128..256].iter().map(|&t| t == IGNORE).collect::<Vec<_>>()
        });
    }
}

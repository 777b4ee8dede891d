//! The order in which recurrent layers read the tokens of a batch: by position in their sequences.

use crate::dropout::Dropout;
use crate::sequences::Sequences;
use rayon::prelude::*;
use std::cmp::Reverse;
use std::ops::Range;

/// Sequences that are a job for a thread: with fewer, products read more weights than they save time.
const FEWEST: usize = 4;

/// Tokens in the order in which they are worked on: by position, and at each the longest sequences first.
pub(crate) struct StepOrder {
    /// Which of the `B·T` stands at each place.
    tokens: Vec<usize>,
    /// The first place of each position; then `B·T`.
    pub(crate) firsts: Vec<usize>,
}

impl StepOrder {
    pub(crate) fn of(sequences: &Sequences) -> Self {
        let mut by_length: Vec<Range<usize>> = sequences.iter().collect();
        by_length.sort_by_key(|sequence| Reverse(sequence.len()));
        let (mut tokens, mut firsts) = (Vec::with_capacity(sequences.n_tokens()), Vec::new());
        for position in 0..sequences.longest() {
            firsts.push(tokens.len());
            let longer = by_length.iter().take_while(|sequence| sequence.len() > position);
            tokens.extend(longer.map(|sequence| sequence.start + position));
        }
        firsts.push(tokens.len());
        Self { tokens, firsts }
    }

    pub(crate) fn positions(&self) -> usize {
        self.firsts.len() - 1
    }

    /// Places at `position` of those of the sequences `rows` that reach it.
    pub(crate) fn places(&self, position: usize, rows: &Range<usize>) -> Range<usize> {
        let (first, end) = (self.firsts[position], self.firsts[position + 1]);
        (first + rows.start).min(end)..(first + rows.end).min(end)
    }

    /// Sequences that one thread works on at a time.
    pub(crate) fn jobs(&self) -> impl IndexedParallelIterator<Item = Range<usize>> {
        let n = self.firsts.get(1).map_or(0, |&end| end);
        let high = n.div_ceil(rayon::current_num_threads()).max(FEWEST);
        (0..n.div_ceil(high)).into_par_iter().map(move |job| job * high..((job + 1) * high).min(n))
    }

    /// Rows of `x`, one a token, in this order.
    pub(crate) fn gather(&self, x: &[f32], d: usize) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(d).zip(&self.tokens).for_each(|(y, &token)| y.copy_from_slice(&x[token * d..][..d]));
        y
    }

    /// The opposite.
    pub(crate) fn scatter(&self, x: &[f32], d: usize) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        for (x, &token) in x.chunks_exact(d).zip(&self.tokens) {
            y[token * d..][..d].copy_from_slice(x);
        }
        y
    }

    /// Applies to `x`, rows in this order, the dropout of rows in the order of their windows.
    pub(crate) fn drop(&self, x: &mut [f32], at: Option<&Option<Dropout>>, window: usize, d: usize) {
        if let Some(Some(at)) = at {
            let rows = x.par_chunks_mut(d).zip(&self.tokens);
            rows.for_each(|(row, &token)| at.apply_from(row, (token * d) as u64, window * d));
        }
    }
}

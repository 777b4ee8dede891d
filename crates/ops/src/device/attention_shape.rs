//! Who attends to whom, as kernels read it.

use super::gpu::KernelDropout;
use crate::attention::Mask;
use crate::dropout::Dropout;
use crate::sequences::Sequences;
use candle_core::{Device, Result, Tensor};

/// Queries that a block of threads takes where one kernel computes attention, and keys in the backward pass.
pub(super) const ROWS: usize = 64;

/// Who attends to whom.
#[derive(Debug, Clone)]
pub(crate) struct AttentionShape<'a> {
    pub(crate) n_head: usize,
    pub(crate) mask: Mask,
    pub(crate) sequences: &'a Sequences,
    pub(crate) sees: &'a Visibility,
    /// Dropout of the attention weights.
    pub(crate) drop: Option<Dropout>,
}

/// What tokens see of their windows, on a device.
#[derive(Debug)]
pub(crate) struct Visibility {
    /// For each token: start and end of its segment in the window, start and end of its stem, and its position. `[B·T, 5]`,
    /// u32.
    pub(super) tokens: Tensor,
    /// [`QuerySpan`]s, `[B·⌈T/64⌉, 5]`, u32.
    pub(super) spans: Tensor,
}

impl Visibility {
    /// # Errors
    /// When memory does not suffice.
    pub(crate) fn of(sequences: &Sequences, device: &Device) -> Result<Self> {
        let window = sequences.window();
        let tokens = sequences.surroundings().into_iter().zip(sequences.positions()).enumerate();
        let tokens = tokens.map(|(n, ((own, stem), position))| {
            let first = n / window.max(1) * window;
            let within = |at: usize| at.saturating_sub(first) as u32;
            [within(own.start), within(own.end), within(stem.start), within(stem.end), position]
        });
        let tokens: Vec<[u32; 5]> = tokens.collect();
        let spans = QuerySpan::of(&tokens, window);
        let rows = |numbers: Vec<u32>| Tensor::from_vec(numbers.clone(), (numbers.len() / 5, 5), device);
        Ok(Self { tokens: rows(tokens.concat())?, spans: rows(spans)? })
    }
}

impl AttentionShape<'_> {
    /// B, T.
    pub(super) fn batch(&self) -> (usize, usize) {
        (self.sequences.n_windows(), self.sequences.window())
    }

    /// The mask's number in kernels, and its width.
    pub(super) fn kind(&self) -> (u32, u32) {
        match self.mask {
            Mask::Full => (0, 0),
            Mask::Causal => (1, 0),
            Mask::Banded { width } => (2, u32::try_from(width).unwrap_or(u32::MAX / 2)),
        }
    }

    /// As kernels take it.
    pub(super) fn dropout(&self) -> KernelDropout {
        let (_, t) = self.batch();
        Dropout::kernel(self.drop, self.n_head * t * t)
    }
}

/// Of [`ROWS`] queries that follow each other: no key outside of `low .. high` is seen by any, and all of
/// `full_low .. full_high` by each as far as the mask allows; and whether one of them has a stem.
#[derive(Debug, Clone, Copy, PartialEq)]
struct QuerySpan {
    low: u32,
    high: u32,
    full_low: u32,
    full_high: u32,
    has_stem: u32,
}

impl QuerySpan {
    /// The spans of windows of `window` tokens, each of which has what [`Visibility`] holds of it.
    fn of(tokens: &[[u32; 5]], window: usize) -> Vec<u32> {
        let spans = tokens.chunks(window.max(1)).flat_map(|window| window.chunks(ROWS).map(Self::of_queries));
        spans.flat_map(|span| [span.low, span.high, span.full_low, span.full_high, span.has_stem]).collect()
    }

    fn of_queries(queries: &[[u32; 5]]) -> Self {
        let nothing = Self { low: u32::MAX, high: 0, full_low: 0, full_high: u32::MAX, has_stem: 0 };
        queries.iter().fold(nothing, |span, &[start, end, stem_start, stem_end, _]| {
            let has_stem = stem_start < stem_end;
            Self {
                low: span.low.min(if has_stem { start.min(stem_start) } else { start }),
                high: span.high.max(end).max(stem_end),
                full_low: span.full_low.max(start),
                full_high: span.full_high.min(end),
                has_stem: span.has_stem | u32::from(has_stem),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_bound_what_queries_see() {
        // A window of two segments, the second of which has the first as its stem.
        let mut tokens = vec![[0, 70, 0, 0, 0]; 70];
        tokens.extend([[70, 100, 0, 70, 0]; 30]);
        let spans = QuerySpan::of(&tokens, 100);
        assert_eq!(spans, [0, 70, 0, 70, 0, 0, 100, 70, 70, 1]);
    }
}

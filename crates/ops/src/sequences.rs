//! Several sequences in one window, as if each were alone: packing without a mask.

use candle_core::{Result, bail};
use std::ops::Range;

/// The sequences that the windows of a batch hold, end to end: a token attends within its own, and positions begin anew
/// with each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    /// B.
    windows: usize,
    /// T.
    window: usize,
    /// The first token of each among the `B·T`, ascending; every window begins one. Then `B·T`.
    bounds: Vec<usize>,
}

impl Sequences {
    /// Each of `windows` windows of `window` tokens is one sequence.
    pub fn windows(windows: usize, window: usize) -> Self {
        Self { windows, window, bounds: (0..=windows).map(|n| n * window).collect() }
    }

    /// Sequences that begin at the tokens `starts` of their windows, one ascending list a window, its first number 0.
    ///
    /// # Errors
    /// When a list is not such.
    pub fn packed<'a>(window: usize, starts: impl IntoIterator<Item = &'a [u32]>) -> Result<Self> {
        let (mut bounds, mut windows) = (Vec::new(), 0);
        for list in starts {
            let ascending = list.windows(2).all(|pair| pair[0] < pair[1]);
            let within = list.last().is_none_or(|&last| (last as usize) < window);
            if list.first() != Some(&0) || !ascending || !within {
                bail!(
                    "sequences of window {windows} begin at {list:?}, which are not places in {window} tokens from 0 up"
                );
            }
            bounds.extend(list.iter().map(|&start| windows * window + start as usize));
            windows += 1;
        }
        bounds.push(windows * window);
        Ok(Self { windows, window, bounds })
    }

    /// B.
    pub fn n_windows(&self) -> usize {
        self.windows
    }

    /// T.
    pub fn window(&self) -> usize {
        self.window
    }

    /// B·T.
    pub fn n_tokens(&self) -> usize {
        self.windows * self.window
    }

    /// Count of sequences.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of sequence `n` among all `B·T`.
    pub fn get(&self, n: usize) -> Range<usize> {
        self.bounds[n]..self.bounds[n + 1]
    }

    /// The tokens of each among all `B·T`.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> {
        self.bounds.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// Tokens of the longest.
    pub fn longest(&self) -> usize {
        self.iter().map(|sequence| sequence.len()).max().unwrap_or(0)
    }

    /// Whether a window holds more than one.
    pub(crate) fn are_packed(&self) -> bool {
        self.len() > self.windows
    }

    /// The position of each token in its sequence, `[B·T]`.
    pub fn positions(&self) -> Vec<u32> {
        self.iter().flat_map(|sequence| 0..sequence.len() as u32).collect()
    }

    /// The number of each token's sequence, `[B·T]`.
    pub(crate) fn numbers(&self) -> Vec<usize> {
        self.iter().enumerate().flat_map(|(n, sequence)| std::iter::repeat_n(n, sequence.len())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_begin_anew_with_each_sequence() {
        let packed = Sequences::packed(5, [&[0u32, 3][..], &[0]]).unwrap();
        assert_eq!(packed.positions(), [0, 1, 2, 0, 1, 0, 1, 2, 3, 4]);
        assert_eq!(packed.numbers(), [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]);
        assert_eq!((packed.len(), packed.longest(), packed.get(1)), (3, 5, 3..5));
        assert!(packed.are_packed() && !Sequences::windows(2, 5).are_packed());
        assert_eq!(Sequences::windows(2, 3).positions(), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn starts_that_are_no_places_are_refused() {
        for wrong in [&[][..], &[1], &[0, 5], &[0, 3, 3]] {
            assert!(Sequences::packed(5, [wrong]).is_err(), "{wrong:?}");
        }
    }
}

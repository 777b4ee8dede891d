//! Several sequences in one window, as if each were alone: packing without a mask. Sequences that begin alike can share
//! what they have in common: a stem, and branches that continue it.

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
    /// Where the branches of each begin in it, ascending; nothing when none of them has any.
    branches: Vec<Vec<usize>>,
}

/// Tokens that follow each other: a sequence without branches, or its stem, or a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SequenceSegment {
    /// Its first token in the sequence.
    pub(crate) start: usize,
    /// After its last.
    pub(crate) end: usize,
    /// Tokens of the stem that it goes on from, the sequence's first.
    pub(crate) stem: usize,
}

impl SequenceSegment {
    /// The position of the token `at` of the sequence, counted along its branch.
    pub(crate) fn position(&self, at: usize) -> usize {
        self.stem + at - self.start
    }
}

impl Sequences {
    /// Each of `windows` windows of `window` tokens is one sequence.
    pub fn windows(windows: usize, window: usize) -> Self {
        Self { windows, window, bounds: (0..=windows).map(|n| n * window).collect(), branches: Vec::new() }
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
                bail!("the sequence starts {list:?} of window {windows} must ascend from 0 and stay below {window}");
            }
            bounds.extend(list.iter().map(|&start| windows * window + start as usize));
            windows += 1;
        }
        bounds.push(windows * window);
        Ok(Self { windows, window, bounds, branches: Vec::new() })
    }

    /// One window of sequences, each a stem of so many tokens and then branches of so many, which all go on from the stem
    /// and do not see each other. A stem may be empty.
    ///
    /// # Errors
    /// When there is no sequence, or one without branches, or an empty branch.
    pub fn branching<'a>(sequences: impl IntoIterator<Item = (usize, &'a [usize])>) -> Result<Self> {
        let (mut bounds, mut branches) = (vec![0], Vec::new());
        for (stem, lengths) in sequences {
            if lengths.is_empty() || lengths.contains(&0) {
                bail!("sequence {} has branches of {lengths:?} tokens; each needs at least one", branches.len());
            }
            let mut end = stem;
            branches.push(lengths.iter().map(|length| (end, end += length).0).collect());
            bounds.push(bounds[branches.len() - 1] + end);
        }
        if branches.is_empty() {
            bail!("a batch needs at least one sequence");
        }
        Ok(Self { windows: 1, window: bounds[branches.len()], bounds, branches })
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

    /// Tokens of the longest, along one branch.
    pub fn longest(&self) -> usize {
        let ends = (0..self.len()).flat_map(|n| self.segments(n).map(|segment| segment.position(segment.end)));
        ends.max().unwrap_or(0)
    }

    /// Whether a token may not see all that comes before it in its window.
    pub(crate) fn are_packed(&self) -> bool {
        self.len() > self.windows || !self.branches.is_empty()
    }

    /// Whether some of them share a stem.
    pub(crate) fn are_branching(&self) -> bool {
        !self.branches.is_empty()
    }

    /// Sequence `n`, in its parts.
    pub(crate) fn segments(&self, n: usize) -> impl Iterator<Item = SequenceSegment> + use<'_> {
        let len = self.get(n).len();
        let starts = self.branches.get(n).map_or(&[][..], Vec::as_slice);
        let stem = starts.first().copied().unwrap_or(len);
        let ends = starts.iter().skip(1).copied().chain([len]);
        let root = (stem > 0).then_some(SequenceSegment { start: 0, end: stem, stem: 0 });
        root.into_iter().chain(starts.iter().zip(ends).map(move |(&start, end)| SequenceSegment { start, end, stem }))
    }

    /// The position of each token in its sequence, along its branch, `[B·T]`.
    pub fn positions(&self) -> Vec<u32> {
        let segments = (0..self.len()).flat_map(|n| self.segments(n));
        segments.flat_map(|segment| segment.stem as u32..segment.position(segment.end) as u32).collect()
    }

    /// What a token shares with others: for each of the `B·T`, the tokens of its segment and those of its stem, among the
    /// `B·T`.
    pub(crate) fn surroundings(&self) -> Vec<(Range<usize>, Range<usize>)> {
        let one = |n: usize| {
            let first = self.get(n).start;
            self.segments(n).flat_map(move |segment| {
                let what = (first + segment.start..first + segment.end, first..first + segment.stem);
                std::iter::repeat_n(what, segment.end - segment.start)
            })
        };
        (0..self.len()).flat_map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_begin_anew_with_each_sequence() {
        let packed = Sequences::packed(5, [&[0u32, 3][..], &[0]]).unwrap();
        assert_eq!(packed.positions(), [0, 1, 2, 0, 1, 0, 1, 2, 3, 4]);
        assert_eq!((packed.len(), packed.longest(), packed.get(1)), (3, 5, 3..5));
        assert!(packed.are_packed() && !Sequences::windows(2, 5).are_packed());
        assert_eq!(Sequences::windows(2, 3).positions(), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn branches_count_on_from_their_stem() {
        let tree = Sequences::branching([(2, &[1usize, 3][..]), (0, &[2, 1]), (1, &[1])]).unwrap();
        assert_eq!(tree.positions(), [0, 1, 2, 2, 3, 4, 0, 1, 0, 0, 1]);
        assert_eq!((tree.len(), tree.window(), tree.longest(), tree.get(1)), (3, 11, 5, 6..9));
        let seen = tree.surroundings();
        assert_eq!([&seen[1], &seen[4], &seen[8]], [&(0..2, 0..0), &(3..6, 0..2), &(8..9, 6..6)]);
        assert!(tree.are_packed());
        for wrong in [vec![], vec![(2, &[][..])], vec![(2, &[1usize, 0][..])]] {
            assert!(Sequences::branching(wrong).is_err());
        }
    }

    #[test]
    fn starts_that_are_no_places_are_refused() {
        for wrong in [&[][..], &[1], &[0, 5], &[0, 3, 3]] {
            assert!(Sequences::packed(5, [wrong]).is_err(), "{wrong:?}");
        }
    }
}

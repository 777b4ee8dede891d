//! Sums of long vectors over ranks, of which each rank keeps a slice.

use crate::{GpuTransport, Ranks};
use anyhow::{Context, Result};
use candle_core::Tensor;
use std::ops::Range;
use std::time::Instant;

/// Numbers that are sent at a time: 4 MiB.
const BUCKET: usize = 1 << 20;
/// The same from a GPU, which waits longer for each message: 64 MiB.
const GPU_BUCKET: usize = 1 << 24;

/// A vector of f32 that need not lie in one piece.
pub trait Numbers {
    /// Copies the numbers of `range` to `out`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(&self, range: Range<usize>, out: &mut [f32]) -> Result<()>;

    /// Takes in the `values` that another rank has at `range`: [`Ranks::scatter_sum`] has them added to the numbers there,
    /// [`Ranks::gather_slices`] has them put in their place.
    ///
    /// # Errors
    /// When the numbers cannot be changed.
    fn take_in(&mut self, range: Range<usize>, values: &[f32]) -> Result<()>;

    /// The numbers of `range`, which is not empty, where they lie.
    ///
    /// # Errors
    /// As [`Numbers::read`].
    fn tensor(&self, range: Range<usize>) -> Result<Tensor>;

    /// As [`Numbers::take_in`], of `values` that lie on the same device.
    ///
    /// # Errors
    /// As [`Numbers::take_in`].
    fn take_in_tensor(&mut self, range: Range<usize>, values: &Tensor) -> Result<()>;
}

/// The number of the slice that `rank` of `size` ranks keeps: its bits in the other order, since the first partner is the
/// neighbor, with whom half of all is exchanged.
pub fn slice_of(rank: usize, size: usize) -> usize {
    (0..size.trailing_zeros()).fold(0, |slice, bit| slice << 1 | rank >> bit & 1)
}

impl Ranks {
    /// Adds the `numbers` of all ranks: afterwards slice [`slice_of`] of this rank has the sums, and the rest is undefined.
    /// Slice `i` is `bounds[i]..bounds[i + 1]`. Sums are a binary tree over the ranks in their order, so that they are the same
    /// as where fewer ranks add several leaves of the tree each.
    ///
    /// # Errors
    /// When a rank has ended or does not answer in time, or numbers cannot be read.
    pub fn scatter_sum(&self, numbers: &mut impl Numbers, bounds: &[usize]) -> Result<()> {
        for (partner, kept, given) in self.halves() {
            self.exchange_slices(partner, numbers, bounds, (&given, &kept))?;
        }
        Ok(())
    }

    /// Gives every rank the slices of all others, after [`Ranks::scatter_sum`] with the same `bounds`.
    ///
    /// # Errors
    /// As [`Ranks::scatter_sum`].
    pub fn gather_slices(&self, numbers: &mut impl Numbers, bounds: &[usize]) -> Result<()> {
        let begun = Instant::now();
        for (partner, kept, given) in self.halves().into_iter().rev() {
            self.exchange_slices(partner, numbers, bounds, (&kept, &given))?;
        }
        self.count_waiting(begun.elapsed());
        Ok(())
    }

    /// The partner at each level, and the slices that this rank keeps and gives to it.
    fn halves(&self) -> Vec<(usize, Range<usize>, Range<usize>)> {
        let (rank, size) = (self.rank(), self.size());
        let mut slices = 0..size;
        let halve = |level: u32| {
            let middle = slices.start.midpoint(slices.end);
            let (low, high) = (slices.start..middle, middle..slices.end);
            let (kept, given) = if rank >> level & 1 == 0 { (low, high) } else { (high, low) };
            slices = kept.clone();
            (rank ^ 1 << level, kept, given)
        };
        (0..size.trailing_zeros()).map(halve).collect()
    }

    /// Exchanges slices with `partner`: sends those called `sent`, and takes in those called `received`.
    fn exchange_slices(
        &self,
        partner: usize,
        numbers: &mut impl Numbers,
        bounds: &[usize],
        (sent, received): (&Range<usize>, &Range<usize>),
    ) -> Result<()> {
        let Some(transport) = &self.transport else { return Ok(()) };
        let range = |slices: &Range<usize>| bounds[slices.start]..bounds[slices.end];
        let (mut sent, mut received) = (range(sent), range(received));
        if let Some(gpus) = &self.gpus {
            return exchange_on_gpus(&**gpus, partner, numbers, (sent, received));
        }
        let (mut message, mut answer) = (Vec::new(), Vec::new());
        while !(sent.is_empty() && received.is_empty()) {
            let (out, into) = (first(&mut sent, BUCKET), first(&mut received, BUCKET));
            message.resize(out.len(), 0.0f32);
            answer.resize(into.len(), 0.0f32);
            numbers.read(out, &mut message)?;
            transport.exchange(partner, bytemuck::cast_slice(&message), bytemuck::cast_slice_mut(&mut answer))?;
            numbers.take_in(into, &answer)?;
        }
        Ok(())
    }
}

/// Sends the numbers of `sent` to `partner`, and takes in what it has at `received`.
fn exchange_on_gpus(
    gpus: &dyn GpuTransport,
    partner: usize,
    numbers: &mut impl Numbers,
    (mut sent, mut received): (Range<usize>, Range<usize>),
) -> Result<()> {
    while !(sent.is_empty() && received.is_empty()) {
        let (out, into) = (first(&mut sent, GPU_BUCKET), first(&mut received, GPU_BUCKET));
        let message = (!out.is_empty()).then(|| numbers.tensor(out)).transpose()?;
        let answer = gpus.exchange(partner, message.as_ref(), into.len())?;
        if !into.is_empty() {
            numbers.take_in_tensor(into, &answer.context("the partner sent nothing")?)?;
        }
    }
    Ok(())
}

/// Takes the next bucket of up to `n` numbers off `range`.
fn first(range: &mut Range<usize>, n: usize) -> Range<usize> {
    let end = range.end.min(range.start + n);
    std::mem::replace(&mut range.start, end)..end
}

#[cfg(test)]
mod tests {
    use super::BUCKET;
    use crate::{leaf, sum_of_ranks, thread_ranks, tree_sum, with_tensors};

    #[test]
    fn sums_are_those_of_a_binary_tree_on_any_number_of_ranks() {
        // More than a bucket, and slices of several sizes, one of them empty.
        let n = 2 * BUCKET + 1234;
        let leaves: Vec<Vec<f32>> = (0..8).map(|number| leaf(number, n)).collect();
        let expected = tree_sum(&leaves);
        for (size, as_tensors) in [1, 2, 4, 8].into_iter().flat_map(|size| [(size, false), (size, true)]) {
            let mut bounds: Vec<usize> = (0..=size).map(|i| n * i * i / (size * size)).collect();
            if size > 2 {
                bounds[1] = bounds[2];
            }
            let found = thread_ranks(size, |ranks| {
                let ranks = if as_tensors { with_tensors(ranks) } else { ranks };
                let of_each = 8 / size;
                let numbers = tree_sum(&leaves[ranks.rank() * of_each..][..of_each]);
                sum_of_ranks(&ranks, numbers, &bounds).unwrap()
            });
            for numbers in found {
                assert!(numbers.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{size} ranks");
            }
        }
    }
}

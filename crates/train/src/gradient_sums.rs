//! Sums of gradients that have the same bits on any number of ranks.
//!
//! The micro-batches of an update are cut into `train.shards` parts. Each part is summed in order; the sums are added as a binary
//! tree over the parts. A rank computes some consecutive parts, which are a part of the tree ([`PartSums`]); the ranks then go on
//! with the tree between them ([`gptkit_ranks`]).

use anyhow::Result;
use gptkit_ops::{Parameter, add_to};
use gptkit_ranks::Numbers;
use std::ops::Range;
use std::sync::Arc;

/// Sums of parts that follow each other, added as soon as two neighbors are complete: one at most for each level of the tree.
#[derive(Debug, Default)]
pub(crate) struct PartSums {
    /// Level in the tree, and the gradient of each parameter.
    sums: Vec<(u32, Vec<Vec<f32>>)>,
}

impl PartSums {
    /// Takes the gradients of `parameters`, the sum of the next part.
    pub(crate) fn add(&mut self, parameters: &[Arc<Parameter>]) {
        let mut sum: Vec<Vec<f32>> = parameters.iter().map(|parameter| parameter.take_gradient()).collect();
        let mut level = 0;
        while let Some((_, left)) = self.sums.pop_if(|(other, _)| *other == level) {
            sum.iter_mut().zip(left).for_each(|(sum, left)| add_to(&left, sum));
            level += 1;
        }
        self.sums.push((level, sum));
    }

    /// Gives the sum of all parts, a power of two of them, to `parameters`.
    pub(crate) fn finish(mut self, parameters: &[Arc<Parameter>]) {
        debug_assert!(self.sums.len() <= 1, "the parts are no power of two");
        let sums = self.sums.pop().map(|(_, sums)| sums).unwrap_or_default();
        parameters.iter().zip(sums).for_each(|(parameter, sum)| parameter.set_gradient(sum));
    }
}

/// The gradients or the weights of parameters, one after the other, as one vector.
#[derive(Debug)]
pub(crate) struct JoinedNumbers<'a> {
    pub(crate) parameters: &'a [Arc<Parameter>],
    /// The number of each parameter's first weight, and of the end.
    pub(crate) starts: &'a [usize],
    pub(crate) of: JoinedOf,
}

/// What [`JoinedNumbers`] joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinedOf {
    /// To which those of other ranks are added.
    Gradients,
    /// Whose place those of other ranks take.
    Weights,
}

impl JoinedNumbers<'_> {
    /// Runs `f` for each parameter that has some of `range`: the number of its first weight there, and which of `range` these
    /// are.
    fn each(
        &self,
        range: Range<usize>,
        mut f: impl FnMut(&Parameter, usize, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        for (parameter, bounds) in self.parameters.iter().zip(self.starts.windows(2)) {
            let (from, to) = (range.start.max(bounds[0]), range.end.min(bounds[1]));
            if from < to {
                f(parameter, from - bounds[0], from - range.start..to - range.start)?;
            }
        }
        Ok(())
    }
}

impl Numbers for JoinedNumbers<'_> {
    fn read(&self, range: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.each(range, |parameter, from, part| {
            Ok(match self.of {
                JoinedOf::Gradients => parameter.read_gradient(from, &mut out[part])?,
                JoinedOf::Weights => parameter.read_weights(from, &mut out[part])?,
            })
        })
    }

    fn take_in(&mut self, range: Range<usize>, values: &[f32]) -> Result<()> {
        self.each(range, |parameter, from, part| {
            Ok(match self.of {
                JoinedOf::Gradients => parameter.add_to_gradient(from, &values[part])?,
                JoinedOf::Weights => parameter.write_weights(from, &values[part])?,
            })
        })
    }
}

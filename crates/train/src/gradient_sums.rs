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

    /// Adds all parts so far to the gradients of `parameters`, the sum of the last part: there are a power of two of them with it.
    pub(crate) fn finish(mut self, parameters: &[Arc<Parameter>]) {
        if self.sums.is_empty() {
            return;
        }
        parameters.iter().enumerate().for_each(|(i, parameter)| self.finish_one(i, parameter));
    }

    /// The same of parameter number `i` alone, whose gradient is zeros where the last part gave none.
    pub(crate) fn finish_one(&mut self, i: usize, parameter: &Parameter) {
        debug_assert!(self.sums.iter().rev().map(|(level, _)| *level).eq(0..self.sums.len() as u32), "no power of two");
        let mut sum = parameter.take_gradient();
        self.sums.iter_mut().rev().for_each(|(_, left)| add_to(&std::mem::take(&mut left[i]), &mut sum));
        parameter.set_gradient(sum);
    }
}

/// The gradients or the weights of parameters, joined in some order to one vector.
#[derive(Debug)]
pub(crate) struct JoinedNumbers<'a> {
    pub(crate) parameters: &'a [Arc<Parameter>],
    /// The number of each parameter's first weight.
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
        for (parameter, &start) in self.parameters.iter().zip(self.starts) {
            let (from, to) = (range.start.max(start), range.end.min(start + parameter.var().elem_count()));
            if from < to {
                f(parameter, from - start, from - range.start..to - range.start)?;
            }
        }
        Ok(())
    }
}

impl Numbers for JoinedNumbers<'_> {
    fn read(&self, range: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.each(range, |parameter, from, part| {
            let read = match self.of {
                JoinedOf::Gradients => parameter.read_gradient(from, &mut out[part]),
                JoinedOf::Weights => parameter.read_weights(from, &mut out[part]),
            };
            Ok(read?)
        })
    }

    fn take_in(&mut self, range: Range<usize>, values: &[f32]) -> Result<()> {
        self.each(range, |parameter, from, part| {
            let taken_in = match self.of {
                JoinedOf::Gradients => parameter.add_to_gradient(from, &values[part]),
                JoinedOf::Weights => parameter.write_weights(from, &values[part]),
            };
            Ok(taken_in?)
        })
    }
}

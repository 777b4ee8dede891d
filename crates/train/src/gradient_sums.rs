//! Sums of gradients that have the same bits on any number of ranks.
//!
//! The micro-batches of an update are cut into `train.shards` parts. Each part is summed in order; the sums are added as a binary
//! tree over the parts. A rank computes some consecutive parts, which are a part of the tree ([`PartSums`]); the ranks then go on
//! with the tree between them ([`gptkit_ranks`]).

use anyhow::Result;
use candle_core::Tensor;
use gptkit_ops::{Parameter, TakenGradient};
use gptkit_ranks::Numbers;
use std::ops::Range;
use std::sync::Arc;

/// Sums of parts that follow each other, added as soon as two neighbors are complete: one at most for each level of the tree.
#[derive(Debug, Default)]
pub(crate) struct PartSums {
    /// Level in the tree, and the gradient of each parameter; none of those that are finished.
    sums: Vec<(u32, Vec<Option<TakenGradient>>)>,
}

impl PartSums {
    /// Takes the gradients of `parameters`, the sum of the next part.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(crate) fn add(&mut self, parameters: &[Arc<Parameter>]) -> Result<()> {
        let taken = parameters.iter().map(|parameter| Ok(Some(parameter.take_gradient()?)));
        let (mut sums, mut level) = (taken.collect::<Result<Vec<_>>>()?, 0);
        while let Some((_, left)) = self.sums.pop_if(|(other, _)| *other == level) {
            let pairs = sums.iter_mut().flatten().zip(left.iter().flatten());
            pairs.into_iter().try_for_each(|(sum, left)| sum.add(left))?;
            level += 1;
        }
        self.sums.push((level, sums));
        Ok(())
    }

    /// Adds all parts so far to the gradients of `parameters`, the sum of the last part: there are a power of two of them with it.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(crate) fn finish(mut self, parameters: &[Arc<Parameter>]) -> Result<()> {
        if self.sums.is_empty() {
            return Ok(());
        }
        parameters.iter().enumerate().try_for_each(|(i, parameter)| self.finish_one(i, parameter))
    }

    /// The same of parameter number `i` alone, whose gradient is zeros where the last part gave none.
    ///
    /// # Errors
    /// As [`PartSums::finish`].
    pub(crate) fn finish_one(&mut self, i: usize, parameter: &Parameter) -> Result<()> {
        debug_assert!(self.sums.iter().rev().map(|(level, _)| *level).eq(0..self.sums.len() as u32), "no power of two");
        let mut sum = parameter.take_gradient()?;
        self.sums.iter_mut().rev().filter_map(|(_, left)| left[i].take()).try_for_each(|left| sum.add(&left))?;
        parameter.set_gradient(sum);
        Ok(())
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

    fn tensor(&self, range: Range<usize>) -> Result<Tensor> {
        let mut parts = Vec::new();
        self.each(range, |parameter, from, part| {
            parts.push(match self.of {
                JoinedOf::Gradients => parameter.gradient_part(from, part.len())?,
                JoinedOf::Weights => parameter.weights_part(from, part.len())?,
            });
            Ok(())
        })?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    fn take_in_tensor(&mut self, range: Range<usize>, values: &Tensor) -> Result<()> {
        self.each(range, |parameter, from, part| {
            let values = values.narrow(0, part.start, part.len())?;
            let taken_in = match self.of {
                JoinedOf::Gradients => parameter.add_gradient_part(from, &values),
                JoinedOf::Weights => parameter.write_weights_part(from, &values),
            };
            Ok(taken_in?)
        })
    }
}

//! What ranks exchange in a step, and in which order: the gradients of one block after the other, from the last to the first, as a
//! backward pass completes them, and then all others.

use crate::gradient_sums::{JoinedNumbers, JoinedOf, PartSums};
use anyhow::{Context, Result};
use gptkit_model::layer_of;
use gptkit_ops::{NORM_CHUNK, Parameter, watch_gradients};
use gptkit_ranks::{Ranks, slice_of};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// Parameters joined to one vector in the order of exchange, cut into groups, and each group into a slice for each rank.
#[derive(Debug)]
pub(crate) struct Exchange {
    ranks: Ranks,
    parameters: Vec<Arc<Parameter>>,
    /// The number of each parameter's first weight.
    starts: Vec<usize>,
    groups: Vec<ExchangeGroup>,
}

/// Parameters whose gradients are complete at about the same time.
#[derive(Debug)]
struct ExchangeGroup {
    /// By number.
    parameters: Vec<usize>,
    /// Where the slices of the ranks begin, and the end.
    bounds: Vec<usize>,
}

impl Exchange {
    /// That of `named` parameters among `ranks`. Slices consist of whole units, so that norms are the same sums on any number of
    /// ranks: all of a parameter where `whole_matrices` accepts its name, else [`NORM_CHUNK`] weights.
    pub(crate) fn new(named: &[(&str, &Arc<Parameter>)], whole_matrices: impl Fn(&str) -> bool, ranks: &Ranks) -> Self {
        let layers: Vec<Option<usize>> = named.iter().map(|(name, _)| layer_of(name)).collect();
        let last = layers.iter().flatten().max().map_or(0, |last| last + 1);
        let orders = (0..last).rev().map(Some).chain([None]);
        let of_layer = |layer| (0..named.len()).filter(|&i| layers[i] == layer).collect::<Vec<usize>>();
        let members: Vec<Vec<usize>> = orders.map(of_layer).filter(|group| !group.is_empty()).collect();
        let (mut starts, mut end, mut units, mut ends) = (vec![0; named.len()], 0, Vec::new(), Vec::new());
        for group in &members {
            let first = units.len();
            for &i in group {
                let (name, parameter) = named[i];
                let n = parameter.var().elem_count();
                let unit = if whole_matrices(name) { n.max(1) } else { NORM_CHUNK };
                units.extend((0..n).step_by(unit).map(|place| end + place));
                starts[i] = end;
                end += n;
            }
            ends.push((first..units.len(), end));
        }
        // Whole matrices of one layer are too few to be divided among ranks: with them, the slices are those of all layers.
        let has_matrices = named.iter().any(|(name, _)| whole_matrices(name));
        let of_all = slice_bounds(&units, 0..end, ranks.size());
        let mut start = 0;
        let bounds = ends.into_iter().map(|(own, end)| {
            let range = std::mem::replace(&mut start, end)..end;
            match has_matrices {
                true => of_all.iter().map(|bound| *bound.clamp(&range.start, &range.end)).collect(),
                false => slice_bounds(&units[own], range, ranks.size()),
            }
        });
        let groups =
            members.into_iter().zip(bounds).map(|(parameters, bounds)| ExchangeGroup { parameters, bounds }).collect();
        let parameters = named.iter().map(|(_, parameter)| Arc::clone(parameter)).collect();
        Self { ranks: ranks.clone(), parameters, starts, groups }
    }

    /// The ranks.
    pub(crate) fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// The parameters.
    pub(crate) fn parameters(&self) -> &[Arc<Parameter>] {
        &self.parameters
    }

    /// Which weights of parameter number `i` slice number `slice` has.
    pub(crate) fn of_slice(&self, i: usize, slice: usize) -> Range<usize> {
        let (start, n) = (self.starts[i], self.parameters[i].var().elem_count());
        let group = self.groups.iter().find(|group| group.parameters.contains(&i));
        let bound = |at: usize| group.map_or(0, |group| group.bounds[at].clamp(start, start + n) - start);
        bound(slice)..bound(slice + 1)
    }

    /// Which weights of parameter number `i` this rank updates.
    pub(crate) fn own(&self, i: usize) -> Range<usize> {
        self.of_slice(i, slice_of(self.ranks.rank(), self.ranks.size()))
    }

    /// Runs `backward`, the last backward pass of a step, and adds its gradients, those of the earlier `parts` and those of all
    /// other ranks. A block's gradients are exchanged while `backward` computes the blocks before it. Afterwards each rank has
    /// the sums of its slices.
    ///
    /// # Errors
    /// That of `backward`; when a rank has ended or does not answer, or a parameter has no gradient.
    pub(crate) fn sum_gradients<R>(&self, parts: PartSums, backward: impl FnOnce() -> Result<R>) -> Result<R> {
        if self.ranks.is_alone() {
            let result = backward()?;
            parts.finish(&self.parameters)?;
            return Ok(result);
        }
        let (complete, received) = channel();
        std::thread::scope(|scope| {
            let summing = scope.spawn(|| self.sum_completed(parts, received));
            let result = watch_gradients(complete.clone(), backward);
            if result.is_ok() {
                // Whoever does not listen any more has failed, and says so.
                self.parameters.iter().for_each(|parameter| _ = complete.send(Arc::clone(parameter)));
            }
            drop(complete);
            let begun = Instant::now();
            let summed = summing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            self.ranks.count_waiting(begun.elapsed());
            result.and_then(|result| summed.map(|()| result))
        })
    }

    /// Adds the gradients of all ranks, group by group, each when all of its parameters were `received`.
    fn sum_completed(&self, mut parts: PartSums, received: Receiver<Arc<Parameter>>) -> Result<()> {
        let mut complete = vec![false; self.parameters.len()];
        for group in &self.groups {
            while !group.parameters.iter().all(|&i| complete[i]) {
                let parameter = received.recv().context("the backward pass failed")?;
                let number = self.parameters.iter().position(|other| Arc::ptr_eq(other, &parameter));
                number.into_iter().for_each(|i| complete[i] = true);
            }
            group.parameters.iter().try_for_each(|&i| parts.finish_one(i, &self.parameters[i]))?;
            self.ranks.scatter_sum(&mut self.joined(JoinedOf::Gradients), &group.bounds)?;
        }
        Ok(())
    }

    /// Gives every rank the weights that the others have updated.
    ///
    /// # Errors
    /// When a rank has ended or does not answer.
    pub(crate) fn gather_weights(&self) -> Result<()> {
        let gather =
            |group: &ExchangeGroup| self.ranks.gather_slices(&mut self.joined(JoinedOf::Weights), &group.bounds);
        self.groups.iter().try_for_each(gather)
    }

    fn joined(&self, of: JoinedOf) -> JoinedNumbers<'_> {
        JoinedNumbers { parameters: &self.parameters, starts: &self.starts, of }
    }
}

/// Where each of `size` slices of `range` begins, and the end: each at the first of `units` that is not before its share.
fn slice_bounds(units: &[usize], range: Range<usize>, size: usize) -> Vec<usize> {
    let bound = |slice: usize| {
        let share = range.start + range.len() / size * slice + range.len() % size * slice / size;
        units.get(units.partition_point(|&unit| unit < share)).copied().unwrap_or(range.end)
    };
    (0..size).map(bound).chain([range.end]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};
    use gptkit_ranks::thread_ranks;

    /// Three layers between embeddings and a last norm, named out of order.
    fn parameters() -> Vec<(String, Arc<Parameter>)> {
        let mut shapes =
            vec![("transformer.wte.weight".to_owned(), 300_000), ("transformer.ln_f.weight".to_owned(), 8)];
        for layer in [0, 2, 1] {
            shapes.push((format!("transformer.h.{layer}.mlp.c_fc.weight"), 200_000));
            shapes.push((format!("transformer.h.{layer}.mlp.c_fc.bias"), 100));
        }
        let parameter = |n| Parameter::new(&Tensor::zeros((n, 1), DType::F32, &Device::Cpu).unwrap()).unwrap();
        shapes.into_iter().map(|(name, n)| (name, Arc::new(parameter(n)))).collect()
    }

    #[test]
    fn blocks_come_from_the_last_to_the_first_and_each_rank_has_a_slice_of_each() {
        let parameters = parameters();
        let named: Vec<(&str, &Arc<Parameter>)> = parameters.iter().map(|(name, p)| (name.as_str(), p)).collect();
        for (size, whole) in [(2, false), (4, false), (4, true)] {
            let exchanges =
                thread_ranks(size, |ranks| Exchange::new(&named, |name| whole && name.contains("c_fc.w"), &ranks));
            let order: Vec<&[usize]> = exchanges[0].groups.iter().map(|group| group.parameters.as_slice()).collect();
            assert_eq!(order, [&[4, 5][..], &[6, 7], &[2, 3], &[0, 1]]);
            for (i, (name, parameter)) in named.iter().enumerate() {
                let n = parameter.var().elem_count();
                let slices: Vec<Range<usize>> = (0..size).map(|slice| exchanges[0].of_slice(i, slice)).collect();
                assert!(slices[0].start == 0 && slices[size - 1].end == n, "{name}: {slices:?}");
                assert!(slices.windows(2).all(|pair| pair[0].end == pair[1].start), "{name}: {slices:?}");
                let unit = if whole && name.contains("c_fc.w") { n } else { NORM_CHUNK };
                assert!(
                    slices.iter().all(|slice| slice.start.is_multiple_of(unit) || slice.start == n),
                    "{name}: {slices:?}"
                );
                (0..size).for_each(|rank| assert_eq!(exchanges[rank].own(i), slices[slice_of(rank, size)]));
                if name.contains("c_fc.w") && !whole && size == 2 {
                    assert_eq!(slices[0].len(), 2 * NORM_CHUNK);
                }
            }
        }
    }

    /// A failed backward pass of one rank ends the exchange of that rank, and of the other one.
    #[test]
    fn a_failure_ends_the_exchange() {
        let errors = thread_ranks(2, |ranks| {
            let parameters = parameters();
            let named: Vec<(&str, &Arc<Parameter>)> = parameters.iter().map(|(name, p)| (name.as_str(), p)).collect();
            let exchange = Exchange::new(&named, |_| false, &ranks);
            drop(ranks);
            let fails = exchange.ranks.rank() == 1;
            let backward = || if fails { anyhow::bail!("no memory") } else { Ok(()) };
            format!("{:#}", exchange.sum_gradients(PartSums::default(), backward).unwrap_err())
        });
        assert_eq!(errors, ["rank 1 has ended", "no memory"]);
    }
}

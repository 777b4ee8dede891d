//! Vectors that tests have ranks add.

use crate::{Numbers, Ranks, slice_of};
use anyhow::Result;
use candle_core::{Device, Tensor};
use std::ops::Range;

/// A vector, to which numbers of other ranks are added, or else whose numbers they replace.
struct Vector {
    numbers: Vec<f32>,
    adds: bool,
}

impl Numbers for Vector {
    fn read(&self, range: Range<usize>, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.numbers[range]);
        Ok(())
    }

    fn take_in(&mut self, range: Range<usize>, values: &[f32]) -> Result<()> {
        let numbers = self.numbers[range].iter_mut().zip(values);
        numbers.for_each(|(number, x)| *number = if self.adds { *number + x } else { *x });
        Ok(())
    }

    fn tensor(&self, range: Range<usize>) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.numbers[range.clone()], range.len(), &Device::Cpu)?)
    }

    fn take_in_tensor(&mut self, range: Range<usize>, values: &Tensor) -> Result<()> {
        self.take_in(range, &values.to_vec1::<f32>()?)
    }
}

/// `n` numbers whose sums over several `number` have other bits in every order.
pub fn leaf(number: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((number * 31 + i * 17) as f32).sin() * 10f32.powi((number % 5) as i32)).collect()
}

/// The sum of `leaves`, whose count is a power of two, as a binary tree in their order.
pub fn tree_sum(leaves: &[Vec<f32>]) -> Vec<f32> {
    let [one] = leaves else {
        let (left, right) = leaves.split_at(leaves.len() / 2);
        return tree_sum(left).iter().zip(tree_sum(right)).map(|(a, b)| a + b).collect();
    };
    one.clone()
}

/// The sum of all ranks' `numbers`: each rank adds its slice, forgets the rest, and receives the slices of others.
///
/// # Errors
/// As [`Ranks::scatter_sum`].
pub fn sum_of_ranks(ranks: &Ranks, numbers: Vec<f32>, bounds: &[usize]) -> Result<Vec<f32>> {
    let mut vector = Vector { numbers, adds: true };
    ranks.scatter_sum(&mut vector, bounds)?;
    let slice = slice_of(ranks.rank(), ranks.size());
    let own = bounds[slice]..bounds[slice + 1];
    vector.numbers.iter_mut().enumerate().filter(|(i, _)| !own.contains(i)).for_each(|(_, x)| *x = f32::NAN);
    vector.adds = false;
    ranks.gather_slices(&mut vector, bounds)?;
    Ok(vector.numbers)
}

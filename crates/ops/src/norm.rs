//! The size of gradients and weights.

use crate::cpu::vectorized;
use crate::device::kernels::squares as squares_of;
use crate::parameter::Parameter;
use crate::slices::with_f32s;
use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Numbers whose squares are summed before these sums are.
pub const NORM_CHUNK: usize = 64 * 1024;

/// Σ g² over the gradient of each of `parameters`, summed in f64; none where no gradient reaches it. A device other than
/// the CPU is waited for once.
///
/// # Errors
/// When the device fails.
pub fn gradient_squares(parameters: &[Arc<Parameter>]) -> Result<Vec<Option<f64>>> {
    if parameters.first().is_none_or(|first| first.var().device().is_cpu()) {
        return Ok(parameters.par_iter().map(|of| of.with_gradient(|g| Ok(of_numbers(g)), of_tensor).ok()).collect());
    }
    let gradients: Vec<Option<Tensor>> = parameters.iter().map(|of| of.gradient()).collect();
    let there: Vec<Tensor> = gradients.iter().flatten().cloned().collect();
    let mut sums = squares_of(&there)?.into_iter();
    Ok(gradients.iter().map(|gradient| gradient.as_ref().and_then(|_| sums.next())).collect())
}

/// The parts of [`gradient_squares`] of one parameter: Σ g² of each [`NORM_CHUNK`] of weights in `part`, which begins
/// at a multiple of it and ends there or with the parameter.
///
/// # Errors
/// When no gradient reaches the parameter.
pub fn gradient_square_parts(parameter: &Parameter, part: Range<usize>) -> Result<Vec<f64>> {
    parameter.with_gradient(
        |gradient| Ok(gradient[part.clone()].par_chunks(NORM_CHUNK).map(squares).collect()),
        |gradient| {
            let gradient = gradient.flatten_all()?;
            let chunk = |first: usize| gradient.narrow(0, first, NORM_CHUNK.min(part.end - first));
            squares_of(&part.clone().step_by(NORM_CHUNK).map(chunk).collect::<Result<Vec<Tensor>>>()?)
        },
    )
}

/// Σ x² over all elements, summed in f64.
///
/// # Errors
/// When the tensor is not of floats.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if x.device().is_cpu() && x.dtype() == DType::F32 { with_f32s(&x.contiguous()?, of_numbers) } else { of_tensor(x) }
}

fn of_numbers(numbers: &[f32]) -> f64 {
    // Partial sums are added in order, so that the result is the same on any number of threads and ranks.
    let partial: Vec<f64> = numbers.par_chunks(NORM_CHUNK).map(squares).collect();
    partial.iter().sum()
}

vectorized! {
    /// Σ x²
    pub(crate) fn squares(numbers: &[f32]) -> f64 {
        let (chunks, rest) = numbers.as_chunks::<16>();
        let mut lanes = [0.0f64; 16];
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        lanes.iter().sum::<f64>() + rest
    }
}

fn of_tensor(tensor: &Tensor) -> Result<f64> {
    tensor.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn many_small_numbers_are_not_lost() {
        // In f32, 0.1² added to a running sum of 2¹⁸ would round to nothing gained or too much.
        let expected = 40_000_000.0 * f64::from(0.1f32).powi(2);
        assert!((of_numbers(&vec![0.1; 40_000_000]) / expected - 1.0).abs() < 1e-9);
    }

    #[test]
    fn both_ways_agree() {
        let numbers: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin()).collect();
        let tensor = Tensor::from_slice(&numbers, 1003, &Device::Cpu).unwrap();
        assert!((of_numbers(&numbers) / of_tensor(&tensor).unwrap() - 1.0).abs() < 1e-6);
    }
}

//! The size of gradients.

use crate::slices::f32s;
use candle_core::{DType, Result, Storage, Tensor};
use rayon::prelude::*;

/// Σ x² over all elements, summed in f64.
///
/// # Errors
/// When the tensor is not of floats.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    const CHUNK: usize = 16 * 1024;
    if x.device().is_cpu() && x.dtype() == DType::F32 {
        let x = x.contiguous()?;
        let (storage, layout) = x.storage_and_layout();
        if let Storage::Cpu(storage) = &*storage {
            let chunks = f32s(storage, layout, "sum-of-squares")?.par_chunks(CHUNK);
            // Partial sums are added in order, so that the result is the same on any number of threads.
            let partial: Vec<f64> = chunks.map(|c| c.iter().map(|&v| f64::from(v) * f64::from(v)).sum()).collect();
            return Ok(partial.iter().sum());
        }
    }
    x.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn many_small_numbers_are_not_lost() {
        // In f32, 0.1² added to a running sum of 2¹⁸ would round to nothing gained or too much.
        let x = Tensor::full(0.1f32, 40_000_000, &Device::Cpu).unwrap();
        let expected = 40_000_000.0 * f64::from(0.1f32).powi(2);
        assert!((sum_of_squares(&x).unwrap() / expected - 1.0).abs() < 1e-9);
    }

    #[test]
    fn views_are_summed_as_seen() {
        let x = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        assert_eq!(sum_of_squares(&x.t().unwrap().narrow(0, 1, 1).unwrap()).unwrap(), 4.0 + 16.0);
    }
}

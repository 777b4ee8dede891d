//! Dropout whose mask is never stored: the backward pass draws it again.

use crate::cpu::vectorized;
use crate::device::computed::computed;
use crate::device::gpu::{KernelArgument, KernelDropout, KernelGrid, launch, unwritten};
use candle_core::{CudaDevice, DType, Device, Result, Tensor};
use gptkit_rng::keyed::{Draw, Key, UNIFORMS, uniform_block};
use rayon::prelude::*;

/// One place of the model at one moment of training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability that an element is removed, in [0, 1).
    pub p: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the place in the model.
    pub site: u32,
    /// Number of `x`'s first row (dimension 0) among all rows of the run, so that the mask of a row is the same
    /// however the batch is divided.
    pub first_row: u64,
}

/// Sets elements of `x` (`[rows, ..]`, any rank) to 0 with probability `p` and divides the others by `1 - p`
/// (Srivastava et al. 2014, in the inverted form). In candle's operations, with the mask as a tensor.
///
/// # Errors
/// When `x` is not f32.
pub fn dropout(x: &Tensor, at: Dropout) -> Result<Tensor> {
    if at.p == 0.0 {
        return Ok(x.clone());
    }
    if let Device::Cuda(device) = x.device() {
        let device = device.clone();
        return match x.track_op() {
            true => computed(x, drop_on(&device, x, at)?, move |dy| drop_on(&device, dy, at).map(Some)),
            false => drop_on(&device, x, at),
        };
    }
    let mut scale = vec![1.0; x.elem_count()];
    at.apply(&mut scale, x.dim(0)?);
    x * Tensor::from_vec(scale, x.shape(), x.device())?
}

/// As [`dropout()`], of `x` on the GPU, without a graph.
fn drop_on(device: &CudaDevice, x: &Tensor, at: Dropout) -> Result<Tensor> {
    let (y, n) = (unwritten(x.shape(), DType::F32, x)?, x.elem_count());
    launch(
        device,
        "drop_f32",
        KernelGrid::elements(n),
        &[
            KernelArgument::Tensor(&x.contiguous()?),
            KernelArgument::Tensor(&y),
            KernelArgument::U64(n as u64),
            KernelArgument::Drop(Dropout::kernel(Some(at), n / x.dim(0)?.max(1))),
        ],
    )?;
    Ok(y)
}

impl Dropout {
    /// As kernels take it, of rows of `width` elements each.
    pub(crate) fn kernel(at: Option<Self>, width: usize) -> KernelDropout {
        let at = at.filter(|at| at.p > 0.0);
        at.map_or_else(KernelDropout::default, |at| KernelDropout::new(at.key(), at.first_row * width as u64, at.p))
    }

    /// What its mask is drawn from.
    pub(crate) fn key(&self) -> Key {
        Key { seed: self.seed, draw: Draw::Dropout { site: self.site } }
    }

    /// Applies dropout to `values`, which hold `rows` rows.
    pub(crate) fn apply(self, values: &mut [f32], rows: usize) {
        let width = values.len() / rows.max(1);
        const CHUNK: usize = 16 * 1024;
        values
            .par_chunks_mut(CHUNK)
            .enumerate()
            .for_each(|(i, chunk)| self.apply_from(chunk, (i * CHUNK) as u64, width));
    }

    /// Applies dropout to elements `first ..` of rows of `width` elements each.
    pub(crate) fn apply_from(self, values: &mut [f32], first: u64, width: usize) {
        scale_kept(values, self.key(), self.first_row * width as u64 + first, self.p);
    }
}

vectorized! {
    fn scale_kept(values: &mut [f32], key: Key, first: u64, p: f32) {
        let keep = 1.0 / (1.0 - p);
        let mut at = first;
        let mut rest = values;
        while !rest.is_empty() {
            let draws = uniform_block(key, at / UNIFORMS as u64);
            let skip = (at % UNIFORMS as u64) as usize;
            let n = rest.len().min(UNIFORMS - skip);
            let (here, after) = rest.split_at_mut(n);
            for (value, u) in here.iter_mut().zip(&draws[skip..]) {
                *value *= if *u >= p { keep } else { 0.0 };
            }
            at += n as u64;
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};
    use candle_core::DType;

    const AT: Dropout = Dropout { p: 0.25, seed: 5, site: 2, first_row: 0 };

    #[test]
    fn dropout_keeps_the_asked_share_and_the_mean() {
        let x = Tensor::ones((64, 1000), DType::F32, &Device::Cpu).unwrap();
        let y: Vec<f32> = dropout(&x, AT).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let kept = y.iter().filter(|&&v| v > 0.0).count() as f64 / y.len() as f64;
        assert!((kept - 0.75).abs() < 0.007, "kept {kept}"); // 4 standard errors
        assert!(y.iter().all(|&v| v == 0.0 || (v - 1.0 / 0.75).abs() < 1e-6));
    }

    #[test]
    fn a_row_has_the_same_mask_however_the_batch_is_divided() {
        let x = draw(3, &[6, 5, 3]);
        let whole = dropout(&x, AT).unwrap();
        let part = dropout(&x.narrow(0, 4, 2).unwrap(), Dropout { first_row: 4, ..AT }).unwrap();
        assert_close("rows 4 and 5", &part, &whole.narrow(0, 4, 2).unwrap(), 0.0);
    }

    #[test]
    fn dropout_has_the_gradient_of_finite_differences() {
        assert_gradient(&[draw(1, &[3, 7])], 1e-3, |x| dropout(&x[0], AT));
    }

    #[test]
    fn without_probability_nothing_changes() {
        let x = draw(4, &[3, 9]);
        assert_close("dropout", &dropout(&x, Dropout { p: 0.0, ..AT }).unwrap(), &x, 0.0);
    }
}

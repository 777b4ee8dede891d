//! GELU in the tanh form that all GPTs use (Hendrycks & Gimpel 2016, §2): 0.5x(1 + tanh(√(2/π)(x + 0.044715x³))).

use crate::exp::exp;
use crate::slices::{f32s, rows_at_a_time};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// `x`: any shape, which the result has too.
///
/// # Errors
/// When the tensor's type or device has no such operation.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Gelu) } else { x.gelu() }
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32s(storage, layout, self.name())?;
        let mut y = vec![0.0; x.len()];
        let chunk = rows_at_a_time(1);
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = 0.5 * x * (1.0 + tanh(inner(x)));
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(&dy.contiguous()?, &GeluBackward).map(Some)
    }
}

/// `(x, dy)` → `dx`.
struct GeluBackward;

impl CustomOp2 for GeluBackward {
    fn name(&self) -> &'static str {
        "gelu-backward"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, dy) = (f32s(s1, l1, self.name())?, f32s(s2, l2, self.name())?);
        let mut dx = vec![0.0; x.len()];
        let chunk = rows_at_a_time(1);
        dx.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).zip(dy.par_chunks(chunk)).for_each(|((dx, x), dy)| {
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                let t = tanh(inner(x));
                let slope = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x);
                *dx = dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope);
            }
        });
        Ok((CpuStorage::F32(dx), l1.shape().clone()))
    }
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;

fn inner(x: f32) -> f32 {
    SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)
}

/// tanh through one exponential, which never overflows; cheaper than the library's function.
fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};
    use candle_core::Device;

    #[test]
    fn gelu_agrees_with_its_definition_in_f64() {
        let x: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 0.005).collect();
        let expected: Vec<f32> = x
            .iter()
            .map(|&x| {
                let x = f64::from(x);
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                (0.5 * x * (1.0 + u.tanh())) as f32
            })
            .collect();
        let n = x.len();
        let x = Tensor::from_vec(x, n, &Device::Cpu).unwrap();
        assert_close("gelu", &gelu(&x).unwrap(), &Tensor::from_vec(expected, n, &Device::Cpu).unwrap(), 2e-6);
    }

    #[test]
    fn gelu_has_the_gradient_of_finite_differences() {
        assert_gradient(&[draw(1, &[3, 7])], 1e-3, |x| gelu(&x[0]));
    }

    #[test]
    fn gelu_is_finite_at_the_ends() {
        let x = Tensor::new(&[-1e30f32, -100.0, 0.0, 100.0, 1e30], &Device::Cpu).unwrap();
        let y: Vec<f32> = gelu(&x).unwrap().to_vec1().unwrap();
        assert_eq!(y, [-0.0, -0.0, 0.0, 100.0, 1e30]);
    }
}

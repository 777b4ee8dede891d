//! Layer normalization, forward and backward.

use crate::slices::{f32s, rows_at_a_time, sum};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// `x`: `[.., D]`; `gain`, `bias`: `[D]`. Returns `[.., D]` (Ba et al. 2016, eq. 3 and 4).
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if gain.dims() != [width] || bias.dims() != [width] {
        bail!("layer_norm of width {width} with gain {:?} and bias {:?}", gain.dims(), bias.dims());
    }
    if x.device().is_cpu() {
        x.contiguous()?.apply_op3(gain, bias, LayerNorm { eps }) // never `_no_bwd`: it cuts the graph without a word
    } else {
        plain(x, gain, bias, eps)
    }
}

/// The definition of right, in candle's differentiable operations.
fn plain(x: &Tensor, gain: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?; // no Bessel: the paper's
    let normal = centered.broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?;
    normal.broadcast_mul(gain)?.broadcast_add(bias)
}

struct LayerNorm {
    eps: f32,
}

/// Mean and 1/√(variance + ε) of a row.
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = sum(row, |v| v) / n;
    let variance = sum(row, |v| (v - mean) * (v - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gain, bias) = (f32s(s1, l1, self.name())?, f32s(s2, l2, self.name())?, f32s(s3, l3, self.name())?);
        let width = gain.len();
        let chunk = rows_at_a_time(width) * width;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let (mean, rstd) = moments(x, self.eps);
                for i in 0..width {
                    y[i] = (x[i] - mean) * rstd * gain[i] + bias[i];
                }
            }
        });
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        _bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let dx = x.apply_op3_no_bwd(gain, &dy, &InputGradient { eps: self.eps })?;
        let parameters = x.apply_op2_no_bwd(&dy, &ParameterGradients { eps: self.eps })?; // [2, D]
        Ok((Some(dx), Some(parameters.get(0)?), Some(parameters.get(1)?)))
    }
}

/// `(x, gain, dy)` → `dx`: with g = dy·gain and x̂ the normalized row, (g − mean(g) − x̂·mean(g·x̂))/σ.
struct InputGradient {
    eps: f32,
}

impl CustomOp3 for InputGradient {
    fn name(&self) -> &'static str {
        "layer-norm-input-gradient"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gain, dy) = (f32s(s1, l1, self.name())?, f32s(s2, l2, self.name())?, f32s(s3, l3, self.name())?);
        let width = gain.len();
        let chunk = rows_at_a_time(width) * width;
        let mut dx = vec![0.0; x.len()];
        dx.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).zip(dy.par_chunks(chunk)).for_each(|((dx, x), dy)| {
            let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width));
            for ((dx, x), dy) in rows {
                let (mean, rstd) = moments(x, self.eps);
                let (mut g_sum, mut gx_sum) = (0.0f32, 0.0f32);
                for i in 0..width {
                    let g = dy[i] * gain[i];
                    g_sum += g;
                    gx_sum += g * (x[i] - mean) * rstd;
                }
                let (g_mean, gx_mean) = (g_sum / width as f32, gx_sum / width as f32);
                for i in 0..width {
                    dx[i] = rstd * (dy[i] * gain[i] - g_mean - (x[i] - mean) * rstd * gx_mean);
                }
            }
        });
        Ok((CpuStorage::F32(dx), l1.shape().clone()))
    }
}

/// `(x, dy)` → `[2, D]`: gradients of gain and bias, sums over the rows.
struct ParameterGradients {
    eps: f32,
}

impl CustomOp2 for ParameterGradients {
    fn name(&self) -> &'static str {
        "layer-norm-parameter-gradients"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, dy) = (f32s(s1, l1, self.name())?, f32s(s2, l2, self.name())?);
        let width = l1.dims().last().copied().unwrap_or(1);
        let chunk = rows_at_a_time(width) * width;
        // The division into chunks depends on the width alone, so that the sum is the same on any number of threads.
        let partial = |(x, dy): (&[f32], &[f32])| {
            let mut sums = vec![0.0f32; 2 * width];
            let (gain, bias) = sums.split_at_mut(width);
            for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
                let (mean, rstd) = moments(x, self.eps);
                for i in 0..width {
                    gain[i] += dy[i] * (x[i] - mean) * rstd;
                    bias[i] += dy[i];
                }
            }
            sums
        };
        let partials: Vec<Vec<f32>> = x.par_chunks(chunk).zip(dy.par_chunks(chunk)).map(partial).collect();
        let mut sums = vec![0.0; 2 * width];
        for partial in partials {
            sums.iter_mut().zip(partial).for_each(|(sum, p)| *sum += p);
        }
        Ok((CpuStorage::F32(sums), Shape::from((2, width))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};

    const EPS: f32 = 1e-5;

    #[test]
    fn the_custom_operation_agrees_with_the_plain_one() {
        for width in [1, 3, 8, 48, 257] {
            let (x, gain, bias) = (draw(1, &[5, 3, width]), draw(2, &[width]), draw(3, &[width]));
            let fast = layer_norm(&x, &gain, &bias, EPS).unwrap();
            assert_close("layer_norm", &fast, &plain(&x, &gain, &bias, EPS).unwrap(), 3e-6);
        }
    }

    #[test]
    fn layer_norm_has_the_gradient_of_finite_differences() {
        let arguments = [draw(1, &[4, 6]), draw(2, &[6]), draw(3, &[6])];
        assert_gradient(&arguments, 1e-3, |a| layer_norm(&a[0], &a[1], &a[2], EPS));
    }

    #[test]
    fn wrong_widths_are_refused() {
        let error = layer_norm(&draw(1, &[4, 6]), &draw(2, &[5]), &draw(3, &[6]), EPS).unwrap_err();
        assert!(error.to_string().contains("width 6"), "{error}");
    }
}

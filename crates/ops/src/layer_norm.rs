//! Layer normalization (Ba et al. 2016, eq. 3 and 4): in candle's operations, and as loops over rows, forward and
//! backward.

use crate::cpu::element::Element;
use crate::cpu::vectorized;
use crate::parameter::Parameter;
use crate::slices::{LANES, fold, rows_at_a_time, sum, take};
use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;
use std::sync::Arc;

/// Gain and bias of a layer norm, `[D]` each.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Multiplies the normalized row.
    pub gain: Arc<Parameter>,
    /// Is added to it.
    pub bias: Arc<Parameter>,
    /// Is added to the variance.
    pub eps: f32,
}

/// What the backward pass reads: normalized rows, `[N, D]`, and 1/σ of each, `[N]`.
#[derive(Debug, Default)]
pub(crate) struct Normalized<E> {
    pub(crate) rows: Vec<E>,
    scales: Vec<f32>,
}

impl Norm {
    /// `x`: `[.., D]`, which the result is too.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn plain(&self, x: &Tensor, tracked: bool) -> Result<Tensor> {
        layer_norm(x, &self.gain.tensor(tracked), &self.bias.tensor(tracked), self.eps)
    }

    /// `x`: `[N, D]`. Writes `y`, `[N, D]`, and what the backward pass reads to `keep`, if it is wanted.
    pub(crate) fn forward<E: Element, Y: Element>(
        &self,
        x: &[f32],
        y: &mut [Y],
        keep: Option<&mut Normalized<E>>,
    ) -> Result<()> {
        self.gain.read(|gain| {
            self.bias.read(|bias| {
                let width = gain.len();
                let chunk = rows_at_a_time(width) * width;
                let rows = y.par_chunks_mut(chunk).zip(x.par_chunks(chunk));
                match keep {
                    None => rows.for_each(|(y, x)| normalize::<E, Y>(x, gain, bias, self.eps, y, &mut [], &mut [])),
                    Some(keep) => {
                        keep.rows.resize(x.len(), E::default());
                        keep.scales.resize(x.len() / width, 0.0);
                        let kept = keep.rows.par_chunks_mut(chunk).zip(keep.scales.par_chunks_mut(chunk / width));
                        rows.zip(kept).for_each(|((y, x), (normal, scales))| {
                            normalize::<E, Y>(x, gain, bias, self.eps, y, normal, scales);
                        });
                    }
                }
            })
        })?
    }

    /// What [`Norm::forward`] wrote as `y`, made again from what it kept.
    pub(crate) fn renormalize<E: Element, Y: Element>(&self, kept: &Normalized<E>, y: &mut [Y]) -> Result<()> {
        self.gain.read(|gain| {
            self.bias.read(|bias| {
                let chunk = rows_at_a_time(gain.len()) * gain.len();
                y.par_chunks_mut(chunk).zip(kept.rows.par_chunks(chunk)).for_each(|(y, normal)| {
                    scale_and_shift::<E, Y>(normal, gain, bias, y);
                });
            })
        })?
    }

    /// `dy`: `[N, D]`. Adds the gradient of the input to `dx` if `add`, else writes it there (`dx` may then be what was
    /// `dy`, so that `dy` is `None`); adds those of gain and bias to theirs.
    pub(crate) fn backward<E: Element>(&self, dy: Option<&[f32]>, kept: &Normalized<E>, dx: &mut [f32]) -> Result<()> {
        let sums = self.gain.read(|gain| {
            let width = gain.len();
            let chunk = rows_at_a_time(width) * width;
            let kept = kept.rows.par_chunks(chunk).zip(kept.scales.par_chunks(chunk / width));
            // The division into chunks depends on the width alone, so that sums are the same on any number of threads.
            let parts: Vec<Vec<f32>> = match dy {
                Some(dy) => dx
                    .par_chunks_mut(chunk)
                    .zip(dy.par_chunks(chunk))
                    .zip(kept)
                    .map(|((dx, dy), (normal, scales))| {
                        let mut sums = vec![0.0; 2 * width];
                        input_gradient::<E>(dy, normal, scales, gain, dx, &mut sums);
                        sums
                    })
                    .collect(),
                None => dx
                    .par_chunks_mut(chunk)
                    .zip(kept)
                    .map(|(dx, (normal, scales))| {
                        let mut sums = vec![0.0; 2 * width];
                        let dy = dx.to_vec();
                        dx.fill(0.0);
                        input_gradient::<E>(&dy, normal, scales, gain, dx, &mut sums);
                        sums
                    })
                    .collect(),
            };
            let mut sums = vec![0.0; 2 * width];
            for part in parts {
                sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
            }
            sums
        })?;
        let (gain, bias) = sums.split_at(sums.len() / 2);
        self.gain.add_gradient(|sum, add| take(sum, gain, add));
        self.bias.add_gradient(|sum, add| take(sum, bias, add));
        Ok(())
    }
}

vectorized! {
    /// `normal` and `scales` are left alone when they are empty.
    fn normalize[E: Element, Y: Element](
        x: &[f32],
        gain: &[f32],
        bias: &[f32],
        eps: f32,
        y: &mut [Y],
        normal: &mut [E],
        scales: &mut [f32],
    ) {
        let width = gain.len();
        let n = width as f32;
        for (row, (y, x)) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate() {
            let mean = sum(x, |v| v) / n;
            let variance = sum(x, |v| (v - mean) * (v - mean)) / n; // no Bessel: the paper's
            let scale = 1.0 / (variance + eps).sqrt();
            for (((y, x), gain), bias) in y.iter_mut().zip(x).zip(gain).zip(bias) {
                *y = Y::of((x - mean) * scale * gain + bias);
            }
            if !normal.is_empty() {
                for (normal, x) in normal[row * width..].iter_mut().zip(x) {
                    *normal = E::of((x - mean) * scale);
                }
                scales[row] = scale;
            }
        }
    }
}

vectorized! {
    fn scale_and_shift[E: Element, Y: Element](normal: &[E], gain: &[f32], bias: &[f32], y: &mut [Y]) {
        let width = gain.len();
        for (y, normal) in y.chunks_exact_mut(width).zip(normal.chunks_exact(width)) {
            for (((y, x), gain), bias) in y.iter_mut().zip(normal).zip(gain).zip(bias) {
                *y = Y::of(x.get() * gain + bias);
            }
        }
    }
}

vectorized! {
    /// With g = dy·gain and x̂ the normalized row, adds (g − mean(g) − x̂·mean(g·x̂))/σ to `dx`, Σ dy·x̂ to the first half
    /// of `sums` and Σ dy to the second.
    fn input_gradient[E: Element](
        dy: &[f32],
        normal: &[E],
        scales: &[f32],
        gain: &[f32],
        dx: &mut [f32],
        sums: &mut [f32],
    ) {
        let width = gain.len();
        let (gain_sums, bias_sums) = sums.split_at_mut(width);
        let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(normal.chunks_exact(width)).zip(scales);
        for (((dx, dy), normal), scale) in rows {
            let sums = (&mut *gain_sums, &mut *bias_sums);
            let [mean, product] = gradient_sums(dy, normal, gain, sums).map(|sum| scale * (sum / width as f32));
            for (((dx, dy), normal), gain) in dx.iter_mut().zip(dy).zip(normal).zip(gain) {
                *dx += scale * (dy * gain) - (mean + product * normal.get());
            }
        }
    }
}

/// Adds dy·x̂ to the first of `sums` and dy to the second. Returns Σ g and Σ g·x̂, where g = dy·gain. All of one length.
#[inline(always)]
fn gradient_sums<E: Element>(
    dy: &[f32],
    normal: &[E],
    gain: &[f32],
    (gain_sums, bias_sums): (&mut [f32], &mut [f32]),
) -> [f32; 2] {
    let (dys, dy_rest) = dy.as_chunks::<LANES>();
    let (normals, normal_rest) = normal.as_chunks::<LANES>();
    let (gains, gain_rest) = gain.as_chunks::<LANES>();
    let (of_gains, of_gain_rest) = gain_sums.as_chunks_mut::<LANES>();
    let (of_biases, of_bias_rest) = bias_sums.as_chunks_mut::<LANES>();
    let add = |(dy, x, gain): (f32, f32, f32), (of_gain, of_bias): (&mut f32, &mut f32)| {
        *of_gain += dy * x;
        *of_bias += dy;
        let g = dy * gain;
        [g, g * x]
    };
    let mut lanes = [[0.0f32; LANES]; 2];
    for ((((dy, x), gain), of_gain), of_bias) in dys.iter().zip(normals).zip(gains).zip(of_gains).zip(of_biases) {
        for i in 0..LANES {
            let [g, product] = add((dy[i], x[i].get(), gain[i]), (&mut of_gain[i], &mut of_bias[i]));
            lanes[0][i] += g;
            lanes[1][i] += product;
        }
    }
    let mut sums = lanes.map(|lanes| fold(lanes, |a, b| a + b));
    let rest = dy_rest.iter().zip(normal_rest).zip(gain_rest).zip(of_gain_rest).zip(of_bias_rest);
    for ((((dy, x), gain), of_gain), of_bias) in rest {
        let [g, product] = add((*dy, x.get(), *gain), (of_gain, of_bias));
        sums[0] += g;
        sums[1] += product;
    }
    sums
}

/// `x`: `[.., D]`; `gain`, `bias`: `[D]`. Returns `[.., D]`. In candle's differentiable operations: the definition of
/// right, and the path on devices without loops of ours.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if gain.dims() != [width] || bias.dims() != [width] {
        bail!("layer_norm of width {width} with gain {:?} and bias {:?}", gain.dims(), bias.dims());
    }
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centered.broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?;
    normal.broadcast_mul(gain)?.broadcast_add(bias)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};
    use candle_core::{Device, Var};

    const EPS: f32 = 1e-5;

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn layer_norm_has_the_gradient_of_finite_differences() {
        let arguments = [draw(1, &[4, 6]), draw(2, &[6]), draw(3, &[6])];
        assert_gradient(&arguments, 1e-3, |a| layer_norm(&a[0], &a[1], &a[2], EPS));
    }

    #[test]
    fn the_loops_agree_with_candles_operations_forward_and_backward() {
        for width in [1, 3, 8, 48, 257] {
            let parameter = |seed| Arc::new(Parameter::new(&draw(seed, &[width])).unwrap());
            let norm = Norm { gain: parameter(2), bias: parameter(3), eps: EPS };
            let n = 70; // more than one thread takes at a time
            let (x, dy) = (Var::from_tensor(&draw(1, &[n, width])).unwrap(), draw(4, &[n, width]));
            let y = norm.plain(x.as_tensor(), true).unwrap();
            let grads = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
            let (mut fast, mut again) = (vec![0.0; n * width], vec![0.0; n * width]);
            let mut kept = Normalized::<f32>::default();
            norm.forward(&numbers(x.as_tensor()), &mut fast, Some(&mut kept)).unwrap();
            norm.renormalize(&kept, &mut again).unwrap();
            let tensor = |v: Vec<f32>| Tensor::from_vec(v, (n, width), &Device::Cpu).unwrap();
            assert_close("y", &tensor(fast), &y, 3e-6);
            assert_close("y again", &tensor(again), &y, 3e-6);
            let mut added = vec![1.0; n * width];
            norm.backward(Some(&numbers(&dy)), &kept, &mut added).unwrap();
            let expected = grads.get(&x).unwrap();
            assert_close("1 + dx", &tensor(added), &(expected + 1.0).unwrap(), 1e-4);
            for (name, parameter) in [("gain", &norm.gain), ("bias", &norm.bias)] {
                let gradient = parameter.gradient().unwrap();
                assert_close(name, &gradient, grads.get(parameter.var()).unwrap(), 1e-4);
                parameter.clear_gradient();
            }
            let mut in_place = numbers(&dy);
            norm.backward(None, &kept, &mut in_place).unwrap();
            assert_close("dx", &tensor(in_place), expected, 1e-4);
        }
    }

    #[test]
    fn wrong_widths_are_refused() {
        let error = layer_norm(&draw(1, &[4, 6]), &draw(2, &[5]), &draw(3, &[6]), EPS).unwrap_err();
        assert!(error.to_string().contains("width 6"), "{error}");
    }
}

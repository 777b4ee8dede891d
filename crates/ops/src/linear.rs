//! The affine map of a layer: in candle's operations, and as products with what follows them.

use crate::cpu::element::Element;
use crate::cpu::vectorized;
use crate::dropout::{Dropout, dropout};
use crate::matrix::Matrix;
use crate::parameter::Parameter;
use crate::path::Precision;
use crate::product::multiply;
use crate::shared::SplitMut;
use crate::slices::{rows_at_a_time, take};
use candle_core::{Result, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Weight, `[in, out]`, and bias, `[out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[in, out]`, as the references store it.
    pub weight: Arc<Parameter>,
    /// `[out]`.
    pub bias: Arc<Parameter>,
}

impl Linear {
    /// `x`: `[N, in]`. Returns `x·weight + bias`, `[N, out]`. In candle's differentiable operations: the definition of
    /// right, and the path on devices without products of ours.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn plain(&self, x: &Tensor, tracked: bool) -> Result<Tensor> {
        x.matmul(&self.weight.merged(tracked)?)?.broadcast_add(&self.bias.tensor(tracked))
    }

    /// As [`Linear::plain`], with dropout `at` of the input of adapters, if there are any: `x·weight + bias` has the product of
    /// the adapters with `x`, to which that with what dropout changes of `x` is added. `windows`: rows of the batch, by which
    /// masks are drawn.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(crate) fn plain_dropping(
        &self,
        x: &Tensor,
        windows: usize,
        tracked: bool,
        at: Option<Dropout>,
    ) -> Result<Tensor> {
        let y = self.plain(x, tracked)?;
        let (Some(at), Some(adapters)) = (at, self.weight.adapters()) else { return Ok(y) };
        let dropped = dropout(&x.reshape((windows, (), x.dim(1)?))?, at)?.reshape(x.shape())?;
        y + adapters.product(&(dropped - x)?, tracked)?
    }

    /// Width of the input, and of the output.
    pub(crate) fn widths(&self) -> Result<(usize, usize)> {
        self.weight.var().dims2()
    }

    /// `x`: `[N, in]`. Hands parts of the rows of `x·weight` to `finish`, with the index in `[N, out]` of their first number,
    /// their part of the bias and the same part of `y`, `[N, out]`; each part once, several at the same time.
    pub(crate) fn forward<E: Element, Y: SplitMut>(
        &self,
        precision: Precision,
        x: &[E],
        y: Y,
        finish: impl for<'p> Fn(usize, &mut [f32], &[f32], Y::Part<'p>) + Sync,
    ) -> Result<()> {
        let (width, out) = self.widths()?;
        let panels = self.weight.panels(precision, false)?;
        self.bias.read(|bias| {
            multiply(Matrix::new(x, x.len() / width, width, width), &panels, y, |row, column, sums, y| {
                let bias = &bias[column..column + sums.len()];
                finish(row * out + column, sums, bias, y);
            });
        })
    }

    /// `x`: `[N, in]`. Writes `x·weight + bias` to `y`, `[N, out]`.
    pub(crate) fn write<E: Element>(&self, precision: Precision, x: &[E], y: &mut [E]) -> Result<()> {
        self.forward(precision, x, y, |_, sums, bias, y| add_bias::<E>(sums, bias, y))
    }

    /// `x`: input of [`Linear::forward`], `[N, in]`; `dy`: gradient of its output, `[N, out]`. Adds the gradients of weight
    /// and bias to theirs.
    pub(crate) fn add_weight_gradients<E: Element, G: Element>(
        &self,
        precision: Precision,
        x: &[E],
        dy: &[G],
    ) -> Result<()> {
        let (width, out) = self.widths()?;
        self.weight.add_product_gradient(precision, Matrix::new(x, x.len() / width, width, width), dy)?;
        self.bias.add_gradient(|sum, add| take(sum, &column_sums(dy, out), add));
        Ok(())
    }

    /// `dy`: gradient of the output, `[N, out]`. Hands parts of the rows of the gradient of the input to `finish`, with
    /// the same part of `dx`, `[N, in]`, as [`Linear::forward`] does.
    pub(crate) fn backward<G: Element, X: SplitMut>(
        &self,
        precision: Precision,
        dy: &[G],
        dx: X,
        finish: impl for<'p> Fn(&mut [f32], X::Part<'p>) + Sync,
    ) -> Result<()> {
        let (_, out) = self.widths()?;
        let panels = self.weight.panels(precision, true)?;
        multiply(Matrix::new(dy, dy.len() / out, out, out), &panels, dx, |_, _, sums, dx| finish(sums, dx));
        Ok(())
    }
}

vectorized! {
    pub(crate) fn add_bias[E: Element](x: &[f32], bias: &[f32], y: &mut [E]) {
        for ((y, x), bias) in y.iter_mut().zip(x).zip(bias) {
            *y = E::of(x + bias);
        }
    }
}

vectorized! {
    pub(crate) fn round[E: Element](x: &[f32], y: &mut [E]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = E::of(*x);
        }
    }
}

/// `[N, width]` → `[width]`.
pub(crate) fn column_sums<G: Element>(x: &[G], width: usize) -> Vec<f32> {
    // The division into chunks depends on the width alone, so that the sum is the same on any number of threads.
    let partial = |rows: &[G]| {
        let mut sums = vec![0.0f32; width];
        add_rows::<G>(rows, &mut sums);
        sums
    };
    let partials: Vec<Vec<f32>> = x.par_chunks(4 * rows_at_a_time(width) * width).map(partial).collect();
    let mut sums = vec![0.0; width];
    for partial in partials {
        sums.iter_mut().zip(partial).for_each(|(sum, p)| *sum += p);
    }
    sums
}

vectorized! {
    fn add_rows[G: Element](rows: &[G], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, draw};
    use candle_core::{Device, Var};

    #[test]
    fn the_products_agree_with_candles_operations_forward_and_backward() {
        let parameter = |seed, shape: &[usize]| Arc::new(Parameter::new(&draw(seed, shape)).unwrap());
        let linear = Linear { weight: parameter(2, &[5, 900]), bias: parameter(3, &[900]) };
        let (x, dy) = (Var::from_tensor(&draw(1, &[70, 5])).unwrap(), draw(4, &[70, 900]));
        let y = linear.plain(x.as_tensor(), true).unwrap();
        let grads = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
        let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (xs, dys) = (numbers(x.as_tensor()), numbers(&dy));
        let mut fast = vec![0.0; 70 * 900];
        linear.write(Precision::F32, &xs, &mut fast).unwrap();
        assert_close("y", &Tensor::from_vec(fast, (70, 900), &Device::Cpu).unwrap(), &y, 1e-5);
        let mut dx = vec![0.0; 70 * 5];
        linear.backward(Precision::F32, &dys, &mut dx[..], |sums, dx| dx.copy_from_slice(sums)).unwrap();
        assert_close("dx", &Tensor::from_vec(dx, (70, 5), &Device::Cpu).unwrap(), grads.get(&x).unwrap(), 1e-4);
        linear.add_weight_gradients(Precision::F32, &xs, &dys).unwrap();
        for (name, parameter) in [("weight", &linear.weight), ("bias", &linear.bias)] {
            assert_close(name, &parameter.gradient().unwrap(), grads.get(parameter.var()).unwrap(), 1e-4);
        }
    }
}

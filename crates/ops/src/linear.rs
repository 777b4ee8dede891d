//! The affine map of a layer.

use crate::slices::{f32s, rows_at_a_time};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// `x`: `[N, in]`; `weight`: `[in, out]`; `bias`: `[out]`. Returns `x·weight + bias`, `[N, out]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let product = x.matmul(weight)?;
    let (_, width) = product.dims2()?;
    if bias.dims() != [width] {
        bail!("linear to width {width} with bias {:?}", bias.dims());
    }
    if x.device().is_cpu() { product.apply_op2(bias, AddBias) } else { product.broadcast_add(bias) }
}

/// `[N, out] + [out]`.
struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, bias) = (f32s(s1, l1, self.name())?, f32s(s2, l2, self.name())?);
        let width = bias.len();
        let chunk = rows_at_a_time(width) * width;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                for i in 0..width {
                    y[i] = x[i] + bias[i];
                }
            }
        });
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _bias: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dbias = dy.contiguous()?.apply_op1_no_bwd(&ColumnSums)?;
        Ok((Some(dy.clone()), Some(dbias)))
    }
}

/// `[N, out]` → `[out]`.
struct ColumnSums;

impl CustomOp1 for ColumnSums {
    fn name(&self) -> &'static str {
        "column-sums"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32s(storage, layout, self.name())?;
        let (_, width) = layout.shape().dims2()?;
        // The division into chunks depends on the width alone, so that the sum is the same on any number of threads.
        let partial = |rows: &[f32]| {
            let mut sums = vec![0.0f32; width];
            for row in rows.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            sums
        };
        let partials: Vec<Vec<f32>> = x.par_chunks(rows_at_a_time(width) * width).map(partial).collect();
        let mut sums = vec![0.0; width];
        for partial in partials {
            sums.iter_mut().zip(partial).for_each(|(sum, p)| *sum += p);
        }
        Ok((CpuStorage::F32(sums), Shape::from(width)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};

    #[test]
    fn linear_agrees_with_candles_own_operations() {
        let (x, weight, bias) = (draw(1, &[70, 5]), draw(2, &[5, 900]), draw(3, &[900]));
        let expected = x.matmul(&weight).unwrap().broadcast_add(&bias).unwrap();
        assert_close("linear", &linear(&x, &weight, &bias).unwrap(), &expected, 1e-6);
    }

    #[test]
    fn linear_has_the_gradient_of_finite_differences() {
        let arguments = [draw(1, &[4, 3]), draw(2, &[3, 5]), draw(3, &[5])];
        assert_gradient(&arguments, 1e-3, |a| linear(&a[0], &a[1], &a[2]));
    }

    /// More rows than one thread takes at a time.
    #[test]
    fn column_sums_reach_over_chunks() {
        let x = draw(1, &[70, 900]);
        let sums = x.apply_op1_no_bwd(&ColumnSums).unwrap();
        assert_close("sums", &sums, &x.sum(0).unwrap(), 1e-4);
    }

    #[test]
    fn a_bias_of_another_width_is_refused() {
        let error = linear(&draw(1, &[4, 3]), &draw(2, &[3, 5]), &draw(3, &[4])).unwrap_err();
        assert!(error.to_string().contains("width 5"), "{error}");
    }
}

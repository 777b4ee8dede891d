//! The affine map of a layer.

use crate::slices::{f32s, rows_at_a_time};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// `x`: `[N, in]`; `weight`: `[in, out]`; `bias`: `[out]`. Returns `x·weight + bias`, `[N, out]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (_, width) = weight.dims2()?;
    if bias.dims() != [width] {
        bail!("linear to width {width} with bias {:?}", bias.dims());
    }
    if x.device().is_cpu() {
        x.contiguous()?.apply_op3(weight, bias, Linear)
    } else {
        x.matmul(weight)?.broadcast_add(bias)
    }
}

struct Linear;

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let ((n, inner), (inner_too, width)) = (l1.shape().dims2()?, l2.shape().dims2()?);
        if inner != inner_too {
            bail!("linear of width {inner} with weights [{inner_too}, {width}]");
        }
        let bias = f32s(s3, l3, self.name())?;
        let CpuStorage::F32(mut y) = s1.matmul(s2, (1, n, width, inner), l1, l2)? else {
            bail!("linear takes f32");
        };
        y.par_chunks_mut(rows_at_a_time(width) * width).for_each(|rows| {
            for row in rows.chunks_exact_mut(width) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        });
        Ok((CpuStorage::F32(y), Shape::from((n, width))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        // Detached, or the gradients would keep the graph that made them.
        let dx = dy.matmul(&weight.detach().t()?)?;
        let dweight = x.detach().t()?.matmul(dy)?;
        let dbias = dy.contiguous()?.apply_op1_no_bwd(&ColumnSums)?;
        Ok((Some(dx), Some(dweight), Some(dbias)))
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

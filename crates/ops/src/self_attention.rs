//! Attention of all tokens of a window at once, as in training: one operation from the joint projection to the mixed
//! values, in memory that grows with T, not with T².
//!
//! Queries go in blocks. A block's weights exist for as long as it is worked on; the backward pass makes them again. Keys
//! that no query of the block may see are never touched: the causal kind does half the work of the square, the banded
//! kind its band's.

use crate::attention::{Mask, attention};
use crate::dropout::Dropout;
use crate::exp::exp;
use crate::product::{Matrix, add_product, product};
use crate::slices::{dot, f32s, max, sum};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// `qkv`: `[B, T, 3·D]`, queries, keys and values of each token, `D = H·K`. Returns `[B, T, D]`. `drop` is applied to
/// the attention weights, whose element numbers are those of `[B, H, T, T]`.
///
/// # Errors
/// When the width does not divide into `n_head` heads.
pub fn self_attention(qkv: &Tensor, n_head: usize, mask: Mask, drop: Option<Dropout>) -> Result<Tensor> {
    let (_, _, width) = qkv.dims3()?;
    if n_head == 0 || !width.is_multiple_of(3 * n_head) {
        bail!("self-attention of {n_head} heads over a projection of width {width}");
    }
    if qkv.device().is_cpu() {
        qkv.contiguous()?.apply_op1(SelfAttention { n_head, mask, drop })
    } else {
        plain(qkv, n_head, mask, drop)
    }
}

/// The definition of right, in candle's differentiable operations.
fn plain(qkv: &Tensor, n_head: usize, mask: Mask, drop: Option<Dropout>) -> Result<Tensor> {
    let [queries, keys, values] = split_heads(qkv, n_head)?; // [B, H, T, K]
    merge_heads(&attention(&queries, &keys, &values, mask, drop)?)
}

/// `[B, T, 3·D]` → queries, keys and values, each `[B, H, T, K]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn split_heads(qkv: &Tensor, n_head: usize) -> Result<[Tensor; 3]> {
    let (b, t, width) = qkv.dims3()?;
    let heads = qkv.reshape((b, t, 3, n_head, width / (3 * n_head)))?.permute((2, 0, 3, 1, 4))?; // [3, B, H, T, K]
    Ok([heads.get(0)?, heads.get(1)?, heads.get(2)?])
}

/// `[B, H, T, K]` → `[B, T, D]`.
///
/// # Errors
/// When the shape is another.
pub fn merge_heads(x: &Tensor) -> Result<Tensor> {
    let (b, h, t, k) = x.dims4()?;
    x.transpose(1, 2)?.reshape((b, t, h * k))
}

/// Queries worked on together: enough for efficient products, few enough that little is done for hidden keys.
const BLOCK: usize = 64;

#[derive(Clone, Copy)]
struct SelfAttention {
    n_head: usize,
    mask: Mask,
    drop: Option<Dropout>,
}

/// One head of one sequence.
struct Head<'a> {
    queries: Matrix<'a>,
    keys: Matrix<'a>,
    values: Matrix<'a>,
    /// T.
    len: usize,
    /// K.
    size: usize,
    /// 1/√K.
    scale: f32,
    mask: Mask,
    drop: Option<Dropout>,
    /// Number of its first attention weight among those of the batch.
    first_weight: u64,
    /// Attention weights of a sequence: H·T².
    row_weights: usize,
}

impl SelfAttention {
    /// Head `h` of sequence `b`, whose projection (`[T, 3·D]`) is `qkv`.
    fn head<'a>(&self, qkv: &'a [f32], len: usize, b: usize, h: usize) -> Head<'a> {
        let stride = qkv.len() / len; // 3·D
        let (width, size) = (stride / 3, stride / (3 * self.n_head));
        let part = |n: usize| Matrix::new(&qkv[n * width + h * size..], len, size, stride);
        Head {
            queries: part(0),
            keys: part(1),
            values: part(2),
            len,
            size,
            scale: 1.0 / (size as f32).sqrt(),
            mask: self.mask,
            drop: self.drop,
            first_weight: ((b * self.n_head + h) * len * len) as u64,
            row_weights: self.n_head * len * len,
        }
    }

    /// Runs `f` on every head of the sequences that `qkv` (`[B, T, 3·D]`) holds, in parallel, and lays the results
    /// (`parts` times `[T, K]`) side by side: `[B, T, parts·D]`.
    fn each_head<'a>(
        &self,
        qkv: &'a [f32],
        dims: (usize, usize, usize),
        parts: usize,
        f: impl Fn(&Head<'a>, usize, usize) -> Vec<f32> + Sync,
    ) -> Vec<f32> {
        let (batch, len, width) = dims;
        let (size, row) = (width / (3 * self.n_head), parts * width / 3);
        let mut out = vec![0.0; batch * len * row];
        out.par_chunks_mut(len * row).zip(qkv.par_chunks(len * width)).enumerate().for_each(|(b, (out, qkv))| {
            let run = |h| f(&self.head(qkv, len, b, h), b, h);
            let heads: Vec<Vec<f32>> = (0..self.n_head).into_par_iter().map(run).collect();
            for (h, head) in heads.iter().enumerate() {
                for (i, values) in head.chunks_exact(size).enumerate() {
                    let (part, t) = (i / len, i % len);
                    out[t * row + part * (width / 3) + h * size..][..size].copy_from_slice(values);
                }
            }
        });
        out
    }
}

impl Head<'_> {
    /// Blocks of queries, each with the keys that some query of it may see.
    fn blocks(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let (len, mask) = (self.len, self.mask);
        (0..len).step_by(BLOCK).map(move |first| {
            let queries = first..(first + BLOCK).min(len);
            (queries.clone(), mask.visible(first).start..queries.end)
        })
    }

    /// Softmax of the scores of `queries` on `keys`, into `weights`: `[queries, keys]`, 0 where the mask hides.
    fn weigh(&self, queries: &Range<usize>, keys: &Range<usize>, weights: &mut [f32]) {
        let n = keys.len();
        product(
            weights,
            self.queries.rows(queries.start, queries.len()),
            self.keys.rows(keys.start, n).t(),
            self.scale,
        );
        for (i, row) in queries.clone().zip(weights.chunks_exact_mut(n)) {
            let seen = self.mask.visible(i);
            let seen = seen.start - keys.start..seen.end - keys.start;
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            let row = &mut row[seen];
            let max = max(row);
            row.iter_mut().for_each(|w| *w = exp(*w - max));
            let scale = 1.0 / sum(row, |w| w);
            row.iter_mut().for_each(|w| *w *= scale);
        }
    }

    /// Drops from what stands at the places of weights `[queries, keys]`.
    fn drop(&self, queries: &Range<usize>, keys: &Range<usize>, values: &mut [f32]) {
        if let Some(drop) = self.drop {
            for (i, row) in queries.clone().zip(values.chunks_exact_mut(keys.len())) {
                drop.apply_from(row, self.first_weight + (i * self.len + keys.start) as u64, self.row_weights);
            }
        }
    }

    /// `[T, K]`.
    fn forward(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len * self.size];
        let mut weights = vec![0.0; BLOCK * self.len];
        for (queries, keys) in self.blocks() {
            let weights = &mut weights[..queries.len() * keys.len()];
            self.weigh(&queries, &keys, weights);
            self.drop(&queries, &keys, weights);
            let weights = Matrix::new(weights, queries.len(), keys.len(), keys.len());
            let out = &mut out[queries.start * self.size..queries.end * self.size];
            product(out, weights, self.values.rows(keys.start, keys.len()), 1.0);
        }
        out
    }

    /// Gradients of queries, keys and values, one after the other: `[3, T, K]`. `dout`: `[T, K]`.
    fn backward(&self, dout: Matrix<'_>) -> Vec<f32> {
        let part = self.len * self.size;
        let mut gradients = vec![0.0; 3 * part];
        let (dqueries, rest) = gradients.split_at_mut(part);
        let (dkeys, dvalues) = rest.split_at_mut(part);
        let mut buffers = [(); 3].map(|()| vec![0.0f32; BLOCK * self.len]);
        for (queries, keys) in self.blocks() {
            let (m, n) = (queries.len(), keys.len());
            let [weights, dropped, dscores] = buffers.each_mut().map(|buffer| &mut buffer[..m * n]);
            let of = |range: &Range<usize>| range.start * self.size..range.end * self.size;
            let dout = dout.rows(queries.start, m);
            self.weigh(&queries, &keys, weights);
            dropped.copy_from_slice(weights);
            self.drop(&queries, &keys, dropped);
            add_product(&mut dvalues[of(&keys)], Matrix::new(dropped, m, n, n).t(), dout, 1.0);
            product(dscores, dout, self.values.rows(keys.start, n).t(), 1.0);
            self.drop(&queries, &keys, dscores);
            for (ds, w) in dscores.chunks_exact_mut(n).zip(weights.chunks_exact(n)) {
                let dot = dot(ds, w);
                ds.iter_mut().zip(w).for_each(|(ds, w)| *ds = w * (*ds - dot));
            }
            let dscores = Matrix::new(dscores, m, n, n);
            product(&mut dqueries[of(&queries)], dscores, self.keys.rows(keys.start, n), self.scale);
            add_product(&mut dkeys[of(&keys)], dscores.t(), self.queries.rows(queries.start, m), self.scale);
        }
        gradients
    }
}

impl CustomOp1 for SelfAttention {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let dims = layout.shape().dims3()?;
        let mixed = self.each_head(f32s(storage, layout, self.name())?, dims, 1, |head, _, _| head.forward());
        Ok((CpuStorage::F32(mixed), Shape::from((dims.0, dims.1, dims.2 / 3))))
    }

    fn bwd(&self, qkv: &Tensor, _mixed: &Tensor, dmixed: &Tensor) -> Result<Option<Tensor>> {
        qkv.apply_op2_no_bwd(&dmixed.contiguous()?, &ProjectionGradient(*self)).map(Some)
    }
}

/// `(qkv, dmixed)` → `dqkv`.
struct ProjectionGradient(SelfAttention);

impl CustomOp2 for ProjectionGradient {
    fn name(&self) -> &'static str {
        "self-attention-gradient"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (qkv, dmixed) = (f32s(s1, l1, self.name())?, f32s(s2, l2, self.name())?);
        let (batch, len, width) = l1.shape().dims3()?;
        let d = width / 3;
        let dqkv = self.0.each_head(qkv, (batch, len, width), 3, |head, b, h| {
            head.backward(Matrix::new(&dmixed[b * len * d + h * head.size..], len, head.size, d))
        });
        Ok((CpuStorage::F32(dqkv), l1.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};

    const MASKS: [Mask; 4] =
        [Mask::Causal, Mask::Banded { width: 1 }, Mask::Banded { width: 3 }, Mask::Banded { width: 100 }];
    const DROP: Dropout = Dropout { p: 0.2, seed: 1, site: 0, first_row: 3 };

    /// Over several blocks, with a last one that is not full.
    #[test]
    fn the_custom_operation_agrees_with_the_plain_one() {
        let qkv = (draw(1, &[2, 2 * BLOCK + 5, 3 * 8]) * 2.0).unwrap();
        for mask in MASKS {
            for drop in [None, Some(DROP)] {
                let fast = self_attention(&qkv, 2, mask, drop).unwrap();
                assert_close("attention", &fast, &plain(&qkv, 2, mask, drop).unwrap(), 1e-5);
            }
        }
    }

    #[test]
    fn the_gradients_agree_with_the_plain_ones() {
        let qkv = candle_core::Var::from_tensor(&draw(1, &[2, 2 * BLOCK + 5, 3 * 8])).unwrap();
        let weight = draw(2, &[2, 2 * BLOCK + 5, 8]);
        for mask in MASKS {
            for drop in [None, Some(DROP)] {
                let gradient = |mixed: Tensor| {
                    let grads = (mixed * &weight).unwrap().sum_all().unwrap().backward().unwrap();
                    grads.get(&qkv).unwrap().clone()
                };
                let fast = gradient(self_attention(&qkv, 2, mask, drop).unwrap());
                assert_close("dqkv", &fast, &gradient(plain(&qkv, 2, mask, drop).unwrap()), 1e-5);
            }
        }
    }

    #[test]
    fn self_attention_has_the_gradient_of_finite_differences() {
        for mask in MASKS {
            for drop in [None, Some(DROP)] {
                assert_gradient(&[draw(1, &[2, 5, 12])], 2e-3, |a| self_attention(&a[0], 2, mask, drop));
            }
        }
    }

    #[test]
    fn a_sequence_is_treated_the_same_in_any_batch() {
        let qkv = draw(1, &[3, 9, 12]);
        let whole = self_attention(&qkv, 2, Mask::Causal, Some(DROP)).unwrap();
        let drop = Dropout { first_row: DROP.first_row + 2, ..DROP };
        let last = self_attention(&qkv.narrow(0, 2, 1).unwrap(), 2, Mask::Causal, Some(drop)).unwrap();
        assert_close("last sequence", &last, &whole.narrow(0, 2, 1).unwrap(), 0.0);
    }

    #[test]
    fn a_width_that_does_not_divide_is_refused() {
        let error = self_attention(&draw(1, &[2, 5, 12]), 3, Mask::Causal, None).unwrap_err();
        assert!(error.to_string().contains("3 heads"), "{error}");
    }
}

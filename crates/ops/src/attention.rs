//! Scaled dot-product attention over the past (Vaswani et al. 2017, eq. 1), dense or locally banded.

use crate::dropout::{Dropout, dropout};
use crate::slices::{f32s, rows_at_a_time};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// Which earlier tokens a token may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All of them, and itself.
    Causal,
    /// The last `width` of them, itself included (Child et al. 2019, §4.2's local attention).
    Banded {
        /// Tokens seen, at least 1.
        width: usize,
    },
}

impl Mask {
    /// The keys that the query at `position` may look at.
    fn visible(self, position: usize) -> Range<usize> {
        match self {
            Self::Causal => 0..position + 1,
            Self::Banded { width } => (position + 1).saturating_sub(width)..position + 1,
        }
    }
}

/// `queries`: `[B, H, Q, K]`, the last `Q` tokens of those that `keys` and `values` (`[B, H, T, K]`) hold.
/// Returns `[B, H, Q, K]`. `drop` is applied to the attention weights.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: Mask,
    drop: Option<Dropout>,
) -> Result<Tensor> {
    let (_, _, q, k) = queries.dims4()?;
    let (_, _, t, _) = keys.dims4()?;
    if q > t {
        bail!("attention of {q} queries over {t} keys");
    }
    let scores = one_batch(queries)?.matmul(&one_batch(keys)?.t()?)?; // [B, H, Q, T]
    let softmax = MaskedSoftmax { scale: 1.0 / (k as f32).sqrt(), mask };
    let weights = if scores.device().is_cpu() { scores.apply_op1(softmax)? } else { softmax.plain(&scores)? };
    let weights = match drop {
        Some(at) => dropout(&weights, at)?,
        None => weights,
    };
    weights.matmul(&one_batch(values)?)
}

/// `x` (`[B, H, .., ..]`) with the matrices of `B` and `H` at equal distances, as the matrix product takes them; copied
/// only when they are not (the part of a cache that is filled needs no copy).
fn one_batch(x: &Tensor) -> Result<Tensor> {
    let (_, h, _, _) = x.dims4()?;
    if x.stride()[0] == h * x.stride()[1] { Ok(x.clone()) } else { x.contiguous() }
}

/// `[B, H, Q, T]` scores → weights: scaled, 0 where the mask hides, each row summing to 1.
#[derive(Clone, Copy)]
struct MaskedSoftmax {
    scale: f32,
    mask: Mask,
}

impl MaskedSoftmax {
    /// The definition of right, in candle's differentiable operations.
    fn plain(self, scores: &Tensor) -> Result<Tensor> {
        let (_, _, q, t) = scores.dims4()?;
        let bias: Vec<f32> = (0..q)
            .flat_map(|i| {
                let visible = self.mask.visible(t - q + i);
                (0..t).map(move |j| if visible.contains(&j) { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        let bias = Tensor::from_vec(bias, (1, 1, q, t), scores.device())?.to_dtype(scores.dtype())?;
        let masked = (scores * f64::from(self.scale))?.broadcast_add(&bias)?;
        candle_nn::ops::softmax(&masked.to_dtype(DType::F32)?, D::Minus1)?.to_dtype(scores.dtype())
    }

    /// Calls `f` with each row of `out`, those of the same number in `inputs`, and the keys visible to it.
    fn rows<const N: usize>(
        self,
        dims: &[usize],
        out: &mut [f32],
        inputs: [&[f32]; N],
        f: impl Fn(&mut [f32], [&[f32]; N], Range<usize>) + Sync,
    ) {
        let (q, t) = (dims[2], dims[3]);
        out.par_chunks_mut(t).enumerate().with_min_len(rows_at_a_time(t)).for_each(|(row, out)| {
            let inputs = inputs.map(|input| &input[row * t..][..t]);
            f(out, inputs, self.mask.visible(t - q + row % q));
        });
    }
}

impl CustomOp1 for MaskedSoftmax {
    fn name(&self) -> &'static str {
        "masked-softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let scores = f32s(storage, layout, self.name())?;
        let mut weights = vec![0.0; scores.len()];
        self.rows(layout.dims(), &mut weights, [scores], |weights, [scores], visible| {
            let (weights, scores) = (&mut weights[visible.clone()], &scores[visible]);
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for (w, &s) in weights.iter_mut().zip(scores) {
                *w = (self.scale * (s - max)).exp();
                sum += *w;
            }
            weights.iter_mut().for_each(|w| *w /= sum);
        });
        Ok((CpuStorage::F32(weights), layout.shape().clone()))
    }

    fn bwd(&self, _scores: &Tensor, weights: &Tensor, dweights: &Tensor) -> Result<Option<Tensor>> {
        weights.apply_op2_no_bwd(&dweights.contiguous()?, &ScoresGradient(*self)).map(Some)
    }
}

/// `(weights, dweights)` → `dscores`: scale·w·(dw − Σ w·dw).
struct ScoresGradient(MaskedSoftmax);

impl CustomOp2 for ScoresGradient {
    fn name(&self) -> &'static str {
        "masked-softmax-gradient"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (weights, dweights) = (f32s(s1, l1, self.name())?, f32s(s2, l2, self.name())?);
        let mut dscores = vec![0.0; weights.len()];
        self.0.rows(l1.dims(), &mut dscores, [weights, dweights], |dscores, [w, dw], visible| {
            let (w, dw) = (&w[visible.clone()], &dw[visible.clone()]);
            let dot: f32 = w.iter().zip(dw).map(|(w, dw)| w * dw).sum();
            for ((ds, w), dw) in dscores[visible].iter_mut().zip(w).zip(dw) {
                *ds = self.0.scale * w * (dw - dot);
            }
        });
        Ok((CpuStorage::F32(dscores), l1.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};

    const MASKS: [Mask; 4] =
        [Mask::Causal, Mask::Banded { width: 1 }, Mask::Banded { width: 3 }, Mask::Banded { width: 100 }];

    fn qkv(q: usize, t: usize) -> [Tensor; 3] {
        [draw(1, &[2, 3, q, 4]), draw(2, &[2, 3, t, 4]), draw(3, &[2, 3, t, 4])]
    }

    #[test]
    fn the_custom_softmax_agrees_with_the_plain_one() {
        for mask in MASKS {
            for (q, t) in [(7, 7), (1, 9), (3, 9)] {
                let scores = (draw(1, &[2, 3, q, t]) * 5.0).unwrap();
                let softmax = MaskedSoftmax { scale: 0.5, mask };
                let fast = scores.apply_op1(softmax).unwrap();
                assert_close("weights", &fast, &softmax.plain(&scores).unwrap(), 1e-6);
            }
        }
    }

    #[test]
    fn attention_has_the_gradient_of_finite_differences() {
        let drop = Dropout { p: 0.2, seed: 1, site: 0, first_row: 0 };
        for mask in MASKS {
            for drop in [None, Some(drop)] {
                assert_gradient(&qkv(5, 5), 2e-3, |a| attention(&a[0], &a[1], &a[2], mask, drop));
            }
        }
    }

    #[test]
    fn no_token_sees_a_later_one() {
        let [q, k, v] = qkv(6, 6);
        let whole = attention(&q, &k, &v, Mask::Causal, None).unwrap();
        let cut = |x: &Tensor| x.narrow(2, 0, 4).unwrap();
        let part = attention(&cut(&q), &cut(&k), &cut(&v), Mask::Causal, None).unwrap();
        assert_close("first four", &part, &cut(&whole), 1e-6);
    }

    #[test]
    fn a_band_sees_only_its_width() {
        let [q, k, v] = qkv(6, 6);
        let banded = attention(&q, &k, &v, Mask::Banded { width: 2 }, None).unwrap();
        let last = |x: &Tensor, n| x.narrow(2, 6 - n, n).unwrap();
        let alone = attention(&last(&q, 1), &last(&k, 2), &last(&v, 2), Mask::Causal, None).unwrap();
        assert_close("last token", &last(&banded, 1), &alone, 1e-6);
    }

    #[test]
    fn the_last_queries_attend_as_they_do_among_all() {
        let [q, k, v] = qkv(6, 6);
        for mask in MASKS {
            let whole = attention(&q, &k, &v, mask, None).unwrap();
            let last = attention(&q.narrow(2, 4, 2).unwrap(), &k, &v, mask, None).unwrap();
            assert_close("last two", &last, &whole.narrow(2, 4, 2).unwrap(), 1e-6);
        }
    }
}

//! Scaled dot-product attention over the past (Vaswani et al. 2017, eq. 1), dense or locally banded, in candle's
//! differentiable operations: the definition of right, and what serves a few new tokens after many old ones.

use crate::dropout::{Dropout, dropout};
use crate::sequences::Sequences;
use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::ops::softmax;
use std::ops::Range;

/// Which tokens of its sequence a token may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All earlier ones, and itself.
    Causal,
    /// The last `width` of these, itself included (Child et al. 2019, §4.2's local attention).
    Banded {
        /// Tokens seen, at least 1.
        width: usize,
    },
    /// Earlier and later ones (Devlin et al. 2019, §3). Branches see their stem, and it sees none of them.
    Full,
}

impl Mask {
    /// The keys that the query at `position` may look at, in a sequence without end.
    pub fn visible(self, position: usize) -> Range<usize> {
        match self {
            Self::Full => 0..usize::MAX,
            Self::Causal => 0..position + 1,
            Self::Banded { width } => (position + 1).saturating_sub(width)..position + 1,
        }
    }
}

/// `queries`: `[B, H, Q, K]`, the last `Q` tokens of those that `keys` and `values` (`[B, H, T, K]`) hold.
/// Returns `[B, H, Q, K]`. Where they are of several `sequences`, a query attends within its own. `drop` is applied to the
/// attention weights.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn attention(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: Mask,
    sequences: Option<&Sequences>,
    drop: Option<Dropout>,
) -> Result<Tensor> {
    let weights = attention_weights(queries, keys, mask, sequences)?.to_dtype(values.dtype())?; // [B, H, Q, T]
    let weights = match drop {
        Some(at) => dropout(&weights, at)?,
        None => weights,
    };
    weights.matmul(&one_batch(values)?)
}

/// How much each query takes of each key: `[B, H, Q, T]`, f32, each row summing to 1. Arguments as in [`attention`].
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn attention_weights(
    queries: &Tensor,
    keys: &Tensor,
    mask: Mask,
    sequences: Option<&Sequences>,
) -> Result<Tensor> {
    masked_softmax(&scores(queries, keys)?, mask, sequences)
}

/// Products of queries and keys over √K: `[B, H, Q, T]`.
fn scores(queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
    let (_, _, q, k) = queries.dims4()?;
    let (_, _, t, _) = keys.dims4()?;
    if q > t {
        bail!("attention has {q} queries but only {t} keys");
    }
    one_batch(queries)?.matmul(&one_batch(keys)?.t()?)? / (k as f64).sqrt()
}

/// `x` (`[B, H, .., ..]`) with the matrices of `B` and `H` at equal distances, as the matrix product takes them; copied
/// only when they are not (the part of a cache that is filled needs no copy).
fn one_batch(x: &Tensor) -> Result<Tensor> {
    let (_, h, _, _) = x.dims4()?;
    if x.stride()[0] == h * x.stride()[1] { Ok(x.clone()) } else { x.contiguous() }
}

/// `[B, H, Q, T]` scores → weights: 0 where the mask hides, each row summing to 1.
fn masked_softmax(scores: &Tensor, mask: Mask, sequences: Option<&Sequences>) -> Result<Tensor> {
    let (b, _, q, t) = scores.dims4()?;
    let sequences = sequences.filter(|sequences| sequences.are_packed());
    let hidden = sequences.is_some() || (0..q).any(|i| mask.visible(t - q + i).len() < t);
    let scores = scores.to_dtype(DType::F32)?;
    if !hidden {
        return softmax(&scores, D::Minus1);
    }
    let (around, positions) = (sequences.map(Sequences::surroundings), sequences.map(Sequences::positions));
    let masks = if sequences.is_some() { b } else { 1 };
    let mut bias = Vec::with_capacity(masks * q * t);
    for (window, i) in (0..masks).flat_map(|window| (0..q).map(move |i| (window, i))) {
        let (first, query) = (window * t, t - q + i);
        let sees = |key: usize| match (&around, &positions) {
            (Some(around), Some(positions)) => {
                let ((own, stem), key) = (&around[first + query], first + key);
                (stem.contains(&key) || own.contains(&key))
                    && mask.visible(positions[first + query] as usize).contains(&(positions[key] as usize))
            }
            _ => mask.visible(query).contains(&key),
        };
        bias.extend((0..t).map(|key| if sees(key) { 0.0 } else { f32::NEG_INFINITY }));
    }
    softmax(&scores.broadcast_add(&Tensor::from_vec(bias, (masks, 1, q, t), scores.device())?)?, D::Minus1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};

    const MASKS: [Mask; 5] =
        [Mask::Causal, Mask::Banded { width: 1 }, Mask::Banded { width: 3 }, Mask::Banded { width: 100 }, Mask::Full];

    fn qkv(q: usize, t: usize) -> [Tensor; 3] {
        [draw(1, &[2, 3, q, 4]), draw(2, &[2, 3, t, 4]), draw(3, &[2, 3, t, 4])]
    }

    #[test]
    fn attention_has_the_gradient_of_finite_differences() {
        let drop = Dropout { p: 0.2, seed: 1, site: 0, first_row: 0 };
        for mask in MASKS {
            for drop in [None, Some(drop)] {
                assert_gradient(&qkv(5, 5), 2e-3, |a| attention(&a[0], &a[1], &a[2], mask, None, drop));
            }
        }
    }

    #[test]
    fn no_token_sees_a_later_one() {
        let [q, k, v] = qkv(6, 6);
        let whole = attention(&q, &k, &v, Mask::Causal, None, None).unwrap();
        let cut = |x: &Tensor| x.narrow(2, 0, 4).unwrap();
        let part = attention(&cut(&q), &cut(&k), &cut(&v), Mask::Causal, None, None).unwrap();
        assert_close("first four", &part, &cut(&whole), 1e-6);
    }

    /// In either direction, each query alone: what it takes of a key does not depend on where that stands.
    #[test]
    fn without_a_mask_the_order_of_keys_does_not_matter() {
        let [q, k, v] = qkv(6, 6);
        let whole = attention(&q, &k, &v, Mask::Full, None, None).unwrap();
        let turned = Tensor::new(&[5u32, 4, 3, 2, 1, 0], q.device()).unwrap();
        let turn = |x: &Tensor| x.index_select(&turned, 2).unwrap();
        assert_close("turned", &attention(&q, &turn(&k), &turn(&v), Mask::Full, None, None).unwrap(), &whole, 1e-6);
    }

    #[test]
    fn a_band_sees_only_its_width() {
        let [q, k, v] = qkv(6, 6);
        let banded = attention(&q, &k, &v, Mask::Banded { width: 2 }, None, None).unwrap();
        let last = |x: &Tensor, n| x.narrow(2, 6 - n, n).unwrap();
        let alone = attention(&last(&q, 1), &last(&k, 2), &last(&v, 2), Mask::Causal, None, None).unwrap();
        assert_close("last token", &last(&banded, 1), &alone, 1e-6);
    }

    #[test]
    fn the_last_queries_attend_as_they_do_among_all() {
        let [q, k, v] = qkv(6, 6);
        for mask in MASKS {
            let whole = attention(&q, &k, &v, mask, None, None).unwrap();
            let last = attention(&q.narrow(2, 4, 2).unwrap(), &k, &v, mask, None, None).unwrap();
            assert_close("last two", &last, &whole.narrow(2, 4, 2).unwrap(), 1e-6);
        }
    }
}

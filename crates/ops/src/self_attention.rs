//! Attention of all tokens of a window at once, as in training: one operation from the joint projection to the mixed
//! values, in memory that grows with T, not with T². Each sequence of a window is a problem of its own, so that packed ones
//! cost no more than they do alone.

use crate::attention::{Mask, attention};
use crate::cpu::element::Element;
use crate::dropout::Dropout;
use crate::linear::round;
use crate::matrix::Matrix;
use crate::path::{Path, Precision, with_kernel};
use crate::sequence_head::{SequenceHead, with_workspace};
use crate::sequences::Sequences;
use crate::shared::SharedSlice;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// `qkv`: `[B, T, 3·D]`, queries, keys and values of each token, `D = H·K`. Returns `[B, T, D]`. `drop` is applied to
/// the attention weights, whose element numbers are those of `[B, H, T, T]`. In candle's differentiable operations: the
/// definition of right.
///
/// # Errors
/// When the width does not divide into `n_head` heads.
pub(crate) fn self_attention(
    qkv: &Tensor,
    n_head: usize,
    mask: Mask,
    sequences: &Sequences,
    drop: Option<Dropout>,
) -> Result<Tensor> {
    let (_, _, width) = qkv.dims3()?;
    if n_head == 0 || !width.is_multiple_of(3 * n_head) {
        bail!("self-attention with {n_head} heads does not match a projection of width {width}");
    }
    let [queries, keys, values] = split_heads(qkv, n_head)?; // [B, H, T, K]
    merge_heads(&attention(&queries, &keys, &values, mask, Some(sequences), drop)?)
}

/// `[B, T, 3·D]` → queries, keys and values, each `[B, H, T, K]`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn split_heads(qkv: &Tensor, n_head: usize) -> Result<[Tensor; 3]> {
    let (b, t, width) = qkv.dims3()?;
    let heads = qkv.reshape((b, t, 3, n_head, width / (3 * n_head)))?.permute((2, 0, 3, 1, 4))?; // [3, B, H, T, K]
    Ok([heads.get(0)?, heads.get(1)?, heads.get(2)?])
}

/// `[B, H, T, K]` → `[B, T, D]`.
///
/// # Errors
/// When the shape is another.
pub(crate) fn merge_heads(x: &Tensor) -> Result<Tensor> {
    let (b, h, t, k) = x.dims4()?;
    x.transpose(1, 2)?.reshape((b, t, h * k))
}

/// Self-attention of the sequences of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SelfAttention<'a> {
    pub(crate) sequences: &'a Sequences,
    pub(crate) n_head: usize,
    pub(crate) mask: Mask,
    pub(crate) drop: Option<Dropout>,
}

impl SelfAttention<'_> {
    /// Each head of each sequence: numbers of both, and the places of the sequence's tokens in `[B, H, T]`.
    fn heads(&self) -> impl IndexedParallelIterator<Item = (usize, usize, Range<usize>)> {
        let window = self.sequences.window();
        (0..self.sequences.len() * self.n_head).into_par_iter().map(move |n| {
            let (n, h) = (n / self.n_head, n % self.n_head);
            let tokens = self.sequences.get(n);
            let first = (tokens.start / window * self.n_head + h) * window + tokens.start % window;
            (n, h, first..first + tokens.len())
        })
    }

    /// Head `h` of sequence `n` in the batch `qkv`, `[B, T, 3·D]` with rows of `width` numbers.
    fn head<'a, E>(&self, qkv: &'a [E], width: usize, n: usize, h: usize) -> SequenceHead<'a, E> {
        let tokens = self.sequences.get(n);
        let (len, d, window) = (tokens.len(), width / 3, self.sequences.window());
        let size = d / self.n_head;
        let of = |part: usize| {
            Matrix::new(&qkv[tokens.start * width + part * d + h * size..tokens.end * width], len, size, width)
        };
        let (b, start) = (tokens.start / window, tokens.start % window);
        SequenceHead {
            segments: self.sequences.segments(n).collect(),
            qkv: [of(0), of(1), of(2)],
            len,
            size,
            scale: 1.0 / (size as f32).sqrt(),
            mask: self.mask,
            drop: self.drop,
            first_weight: (((b * self.n_head + h) * window + start) * window + start) as u64,
            window,
            window_weights: self.n_head * window * window,
        }
    }

    /// `qkv`: `[B, T, 3·D]`. Writes `mixed`, `[B, T, D]`, and the logarithm of the sum of exponentials of each row of
    /// scores, `[B, H, T]`.
    pub(crate) fn forward<E: Element>(&self, precision: Precision, qkv: &[E], mixed: &mut [E], sums: &mut [f32]) {
        if qkv.is_empty() {
            return;
        }
        let d = mixed.len() * self.n_head / sums.len();
        let (mixed, sums) = (SharedSlice::new(mixed), SharedSlice::new(sums));
        self.heads().for_each(|(n, h, places)| {
            let (head, tokens) = (self.head(qkv, 3 * d, n, h), self.sequences.get(n));
            let columns = h * head.size..(h + 1) * head.size;
            // SAFETY: sequences have tokens of their own, and heads columns and sums of their own.
            let (mut mixed, sums) = unsafe { (mixed.submatrix(tokens, columns, d), sums.part(places)) };
            let put = |t: usize, row: &[f32]| round::<E>(row, mixed.row_mut(t));
            with_workspace(|workspace| {
                with_kernel!(Path::of(precision), K => head.forward::<K>(workspace, sums, put));
            });
        });
    }

    /// From the input and output of [`SelfAttention::forward`] and the gradient `dmixed` of `mixed`, `[B, T, D]`: writes the
    /// gradient of `qkv`, `[B, T, 3·D]`.
    pub(crate) fn backward<E: Element>(
        &self,
        precision: Precision,
        qkv: &[E],
        (mixed, dmixed): (&[E], &[E]),
        sums: &[f32],
        dqkv: &mut [E],
    ) {
        if qkv.is_empty() {
            return;
        }
        let d = mixed.len() * self.n_head / sums.len();
        let dqkv = SharedSlice::new(dqkv);
        self.heads().for_each(|(n, h, places)| {
            let (head, tokens) = (self.head(qkv, 3 * d, n, h), self.sequences.get(n));
            let (first, sums) = (tokens.start, &sums[places]);
            let (len, size) = (head.len, head.size);
            let mixed = Matrix::new(&mixed[first * d + h * size..], len, size, d);
            let dmixed = Matrix::new(&dmixed[first * d + h * size..], len, size, d);
            // Of queries, keys and values.
            let mut gradients = [0, 1, 2].map(|part| {
                let columns = part * d + h * size..part * d + (h + 1) * size;
                // SAFETY: sequences have tokens of their own, and heads and parts columns of their own.
                unsafe { dqkv.submatrix(tokens.clone(), columns, 3 * d) }
            });
            let put = |part: usize, t: usize, row: &[f32]| round::<E>(row, gradients[part].row_mut(t));
            with_workspace(|workspace| {
                with_kernel!(Path::of(precision), K => {
                    head.backward::<K>(workspace, sums, (mixed, dmixed), put)
                });
            });
        });
    }
}

#[cfg(test)]
mod tests;

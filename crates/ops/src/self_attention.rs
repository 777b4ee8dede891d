//! Attention of all tokens of a window at once, as in training: one operation from the joint projection to the mixed
//! values, in memory that grows with T, not with T². Each sequence of a window is a problem of its own, so that packed ones
//! cost no more than they do alone.

use crate::attention::{Mask, attention};
use crate::cpu::element::Element;
use crate::cpu::kernel::Kernel;
use crate::dropout::Dropout;
use crate::linear::round;
use crate::matrix::Matrix;
use crate::path::{Path, Precision, with_kernel};
use crate::sequence_head::{BLOCK, HeadPart, SequenceHead, with_workspace};
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
    /// The parts of a head of each sequence: `whole`, or where threads outnumber heads `cut` into as many as are wanted.
    fn parts(
        &self,
        whole: impl Fn(usize) -> HeadPart,
        cut: impl Fn(usize, usize) -> Vec<HeadPart>,
    ) -> Vec<Vec<HeadPart>> {
        let work = |n: usize| self.sequences.get(n).len().pow(2);
        let all = (0..self.sequences.len()).map(work).sum::<usize>() * self.n_head;
        let of_sequence = |n: usize| {
            // As many parts as there are threads for this share of the work, each with a block of queries at least.
            let parts = (rayon::current_num_threads() * work(n) / all.max(1)).min(self.sequences.get(n).len() / BLOCK);
            if parts > 1 { cut(n, parts) } else { vec![whole(n)] }
        };
        (0..self.sequences.len()).map(of_sequence).collect()
    }

    /// What one thread computes at a time: the numbers of a sequence and of a head, and one of the `parts` of that sequence's heads.
    fn tasks<'p>(&self, parts: &'p [Vec<HeadPart>]) -> Vec<(usize, usize, &'p HeadPart)> {
        let of_head = |n: usize, h: usize| parts[n].iter().map(move |part| (n, h, part));
        let of_sequence = |n| (0..self.n_head).flat_map(move |h| of_head(n, h));
        (0..parts.len()).flat_map(of_sequence).collect()
    }

    /// The places in `[B, H, T]` of the tokens of sequence `n`, of head `h`.
    fn places(&self, n: usize, h: usize) -> Range<usize> {
        let (window, tokens) = (self.sequences.window(), self.sequences.get(n));
        let first = (tokens.start / window * self.n_head + h) * window + tokens.start % window;
        first..first + tokens.len()
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
        if !qkv.is_empty() {
            with_kernel!(Path::of(precision), K => self.forward_by::<K, E>(qkv, mixed, sums));
        }
    }

    fn forward_by<K: Kernel, E: Element>(&self, qkv: &[E], mixed: &mut [E], sums: &mut [f32]) {
        let d = mixed.len() * self.n_head / sums.len();
        let (mixed, sums) = (SharedSlice::new(mixed), SharedSlice::new(sums));
        let head = |n, h| self.head(qkv, 3 * d, n, h);
        let parts = self.parts(|n| head(n, 0).whole::<K>(), |n, parts| head(n, 0).parts_by_queries::<K>(parts));
        self.tasks(&parts).into_par_iter().for_each(|(n, h, part)| {
            let (head, tokens, places) = (head(n, h), self.sequences.get(n), self.places(n, h));
            let columns = h * head.size..(h + 1) * head.size;
            // SAFETY: sequences have tokens of their own, heads columns of their own, and parts queries of their own.
            let mut mixed = unsafe { mixed.submatrix(tokens, columns, d) };
            let put = |t: usize, row: &[f32], log_sum: f32| {
                round::<E>(row, mixed.row_mut(t));
                // SAFETY: as above.
                let sums = unsafe { sums.part(places.start + t..places.start + t + 1) };
                sums[0] = log_sum;
            };
            with_workspace(|workspace| head.forward::<K>(workspace, part, put));
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
        if !qkv.is_empty() {
            with_kernel!(Path::of(precision), K => self.backward_by::<K, E>(qkv, (mixed, dmixed), sums, dqkv));
        }
    }

    fn backward_by<K: Kernel, E: Element>(
        &self,
        qkv: &[E],
        (mixed, dmixed): (&[E], &[E]),
        sums: &[f32],
        dqkv: &mut [E],
    ) {
        let d = mixed.len() * self.n_head / sums.len();
        let dqkv = SharedSlice::new(dqkv);
        let head = |n, h| self.head(qkv, 3 * d, n, h);
        // Weights are computed twice where a head is cut: for the gradients of queries, and of keys and values.
        let cut = |n, parts| {
            let head = head(n, 0);
            head.parts_by_queries::<K>(parts).into_iter().chain(head.parts_by_keys::<K>(parts)).collect()
        };
        let parts = self.parts(|n| head(n, 0).whole::<K>(), cut);
        self.tasks(&parts).into_par_iter().for_each(|(n, h, part)| {
            let (head, tokens, sums) = (head(n, h), self.sequences.get(n), &sums[self.places(n, h)]);
            let (first, len, size) = (tokens.start, head.len, head.size);
            let mixed = Matrix::new(&mixed[first * d + h * size..], len, size, d);
            let dmixed = Matrix::new(&dmixed[first * d + h * size..], len, size, d);
            // Of queries, keys and values.
            let mut gradients = [0, 1, 2].map(|which| {
                let columns = which * d + h * size..which * d + (h + 1) * size;
                // SAFETY: sequences have tokens of their own, heads columns of their own, and parts queries or keys of their
                // own.
                unsafe { dqkv.submatrix(tokens.clone(), columns, 3 * d) }
            });
            let put = |which: usize, t: usize, row: &[f32]| round::<E>(row, gradients[which].row_mut(t));
            with_workspace(|workspace| head.backward::<K>(workspace, part, sums, (mixed, dmixed), put));
        });
    }
}

#[cfg(test)]
mod tests;

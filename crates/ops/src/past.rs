//! Keys and values of past tokens on the CPU, and attention of new tokens to them.

use crate::attention::Mask;
use crate::cpu::element::Element;
use crate::linear::round;
use crate::matrix::Matrix;
use crate::past_head::CachedHead;
use crate::path::{Path, Precision, with_kernel};
use crate::sequence_head::with_workspace;
use crate::sequences::Sequences;
use crate::shared::SharedSlice;
use crate::slices::rows_at_a_time;
use rayon::prelude::*;
use std::ops::Range;

/// The past of a batch of sequences of different lengths in one layer.
#[derive(Debug)]
pub(crate) struct Past<E> {
    rows: Vec<CachedSequence<E>>,
    context: usize,
}

/// A sequence's heads.
type CachedSequence<E> = Vec<CachedHead<E>>;

/// Queries of one head that are computed together.
struct AttentionJob {
    row: usize,
    head: usize,
    /// Among those of the batch.
    tokens: Range<usize>,
    /// Position of the first.
    first: usize,
}

impl<E: Element> Past<E> {
    /// None yet, for at most `context` tokens of a sequence.
    pub(crate) fn new(context: usize) -> Self {
        Self { rows: Vec::new(), context }
    }

    /// The path of products with keys and values.
    fn path() -> Path {
        Path::of(if E::EXACT { Precision::F32 } else { Precision::Bf16 })
    }

    /// Adds the keys and values of `sequences`, one a row; to none, as many rows. `qkv`: `[N, 3·D]`.
    pub(crate) fn add(&mut self, qkv: &[E], sequences: &Sequences, n_head: usize) {
        let d = qkv.len() / (3 * sequences.n_tokens()).max(1);
        let (size, context) = (d / n_head, self.context);
        if self.rows.is_empty() {
            self.rows = vec![vec![CachedHead::new(size); n_head]; sequences.len()];
        }
        let rows = self.rows.iter_mut().zip(sequences.iter());
        let heads: Vec<_> = rows
            .flat_map(|(row, tokens)| row.iter_mut().enumerate().map(move |(h, head)| (head, h, tokens.clone())))
            .collect();
        let together = rows_at_a_time(2 * size * sequences.n_tokens().div_ceil(sequences.len().max(1)));
        heads.into_par_iter().with_min_len(together).for_each(|(head, h, tokens)| {
            let of = |part: usize| {
                let first = tokens.start * 3 * d + part * d + h * size;
                Matrix::new(&qkv[first..tokens.end * 3 * d], tokens.len(), size, 3 * d)
            };
            with_kernel!(Self::path(), K => head.add::<K>(of(1), of(2), context));
        });
    }

    /// What the tokens of `sequences`, the last that were added, mix, to `mixed`, `[N, D]`; `qkv`: theirs, `[N, 3·D]`.
    pub(crate) fn attend(&self, qkv: &[E], sequences: &Sequences, mask: Mask, mixed: &mut [E]) {
        let n_head = self.rows.first().map_or(0, Vec::len);
        let d = mixed.len() / sequences.n_tokens().max(1);
        let size = d / n_head.max(1);
        let jobs = with_kernel!(Self::path(), K => self.jobs(sequences, CachedHead::<E>::block::<K>()));
        let mixed = SharedSlice::new(mixed);
        jobs.into_par_iter().for_each(|AttentionJob { row, head: h, tokens, first }| {
            let queries = &qkv[tokens.start * 3 * d + h * size..tokens.end * 3 * d];
            let queries = Matrix::new(queries, tokens.len(), size, 3 * d);
            // SAFETY: jobs have tokens of their own, or other heads of them, which have columns of their own.
            let mut mixed = unsafe { mixed.submatrix(tokens, h * size..(h + 1) * size, d) };
            let put = |i: usize, out: &[f32]| round::<E>(out, mixed.row_mut(i));
            with_workspace(|workspace| {
                with_kernel!(Self::path(), K => self.rows[row][h].attend::<K>(workspace, (queries, first), mask, put));
            });
        });
    }

    /// All heads of all queries of `sequences`, the last that were added, at most `block` queries together.
    fn jobs(&self, sequences: &Sequences, block: usize) -> Vec<AttentionJob> {
        let mut jobs = Vec::new();
        for (row, (heads, all)) in self.rows.iter().zip(sequences.iter()).enumerate() {
            for (head, held) in heads.iter().enumerate() {
                let before = held.len() - all.len();
                jobs.extend(all.clone().step_by(block).map(|token| AttentionJob {
                    row,
                    head,
                    tokens: token..(token + block).min(all.end),
                    first: before + token - all.start,
                }));
            }
        }
        jobs
    }

    /// Forgets all but the first `len` tokens of each sequence, and with the last of them the sequences.
    pub(crate) fn truncate(&mut self, len: usize) {
        if len == 0 {
            self.rows.clear();
        }
        with_kernel!(Self::path(), K => self.rows.iter_mut().flatten().for_each(|head| head.truncate::<K>(len)));
    }

    /// Keeps the sequences of the given numbers, which it has, in that order. Only what is kept twice is copied.
    pub(crate) fn keep(&mut self, rows: &[u32]) {
        let mut old: Vec<Option<CachedSequence<E>>> = std::mem::take(&mut self.rows).into_iter().map(Some).collect();
        let mut uses = vec![0; old.len()];
        rows.iter().for_each(|&row| uses[row as usize] += 1);
        let next = |&row: &u32| {
            uses[row as usize] -= 1;
            let old = &mut old[row as usize];
            if uses[row as usize] == 0 { old.take() } else { old.clone() }
        };
        self.rows = rows.iter().filter_map(next).collect();
    }

    /// Adds copies of the sequences of `other` that have the given numbers, which it has.
    pub(crate) fn append(&mut self, other: &Self, rows: &[u32]) {
        self.rows.extend(rows.iter().map(|&row| other.rows[row as usize].clone()));
    }
}

#[cfg(test)]
impl<E> Past<E> {
    /// Where the keys of each row's heads lie, and how many tokens have room there.
    pub(crate) fn places(&self) -> Vec<Vec<(*const E, usize)>> {
        self.rows.iter().map(|row| row.iter().map(CachedHead::place).collect()).collect()
    }
}

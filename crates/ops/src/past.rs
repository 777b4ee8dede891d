//! Keys and values of past tokens on the CPU, and attention of new tokens to them.

use crate::attention::Mask;
use crate::blocks::JOBS;
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
}

/// Heads that a thread works on one after the other where tokens are few and heads many.
const HEADS: usize = 4;

/// A sequence's heads; none before its first token.
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

/// Queries, keys and values of new tokens, `[N, 3·D]`.
struct NewHeads<'a, E> {
    qkv: &'a [E],
    d: usize,
    n_head: usize,
}

impl<E: Element> NewHeads<'_, E> {
    /// Numbers of a head.
    fn size(&self) -> usize {
        self.d / self.n_head.max(1)
    }

    /// The queries (0), keys (1) or values (2) of head `h` of some tokens.
    fn of(&self, part: usize, h: usize, tokens: &Range<usize>) -> Matrix<'_, E> {
        let (stride, size) = (3 * self.d, self.size());
        let first = tokens.start * stride + part * self.d + h * size;
        Matrix::new(&self.qkv[first..tokens.end * stride], tokens.len(), size, stride)
    }

    /// Adds keys and values to the `head` that they belong to.
    fn add(&self, head: &mut CachedHead<E>, h: usize, tokens: &Range<usize>) {
        with_kernel!(Past::<E>::path(), K => head.add::<K>(self.of(1, h, tokens), self.of(2, h, tokens)));
    }

    /// What `tokens`, of which the first has position `first`, mix of `head`, to its columns of `mixed`, `[N, D]`.
    fn attend(
        &self,
        head: &CachedHead<E>,
        (h, tokens, first): (usize, Range<usize>, usize),
        mask: Mask,
        mixed: &SharedSlice<E>,
    ) {
        let (size, queries) = (self.size(), self.of(0, h, &tokens));
        // SAFETY: jobs have tokens of their own, or other heads of them, which have columns of their own.
        let mut mixed = unsafe { mixed.submatrix(tokens.clone(), h * size..(h + 1) * size, self.d) };
        let put = |i: usize, out: &[f32]| round::<E>(out, mixed.row_mut(i));
        with_workspace(|workspace| {
            with_kernel!(Past::<E>::path(), K => head.attend::<K>(workspace, (queries, first), mask, put));
        });
    }
}

impl<E: Element> Past<E> {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new() }
    }

    /// Makes room for `n` sequences where there are none.
    pub(crate) fn begin(&mut self, n: usize) {
        self.rows.resize_with(n, Vec::new);
    }

    /// The path of products with keys and values.
    fn path() -> Path {
        Path::of(if E::EXACT { Precision::F32 } else { Precision::Bf16 })
    }

    /// Adds the keys and values of `sequences`, one a row; to none, as many rows. Writes what their tokens mix to `mixed`,
    /// `[N, D]`. `qkv`: `[N, 3·D]`.
    pub(crate) fn step(&mut self, qkv: &[E], sequences: &Sequences, (n_head, mask): (usize, Mask), mixed: &mut [E]) {
        let block = with_kernel!(Self::path(), K => CachedHead::<E>::block::<K>());
        if sequences.iter().any(|tokens| tokens.len() > block) {
            self.add(qkv, sequences, n_head);
            return self.attend(qkv, sequences, mask, mixed);
        }
        // Of few tokens each head is one job, which does both.
        let new = NewHeads { qkv, d: mixed.len() / sequences.n_tokens().max(1), n_head };
        let mixed = SharedSlice::new(mixed);
        let heads = self.heads(sequences, &new);
        let together = (heads.len() / (JOBS * rayon::current_num_threads())).clamp(1, HEADS);
        heads.into_par_iter().with_min_len(together).for_each(|(head, h, tokens)| {
            let first = head.len();
            new.add(head, h, &tokens);
            new.attend(head, (h, tokens, first), mask, &mixed);
        });
    }

    /// Every head of every row, with its number and the row's tokens. Where there are none yet, as many as `new` has.
    fn heads(&mut self, sequences: &Sequences, new: &NewHeads<E>) -> Vec<(&mut CachedHead<E>, usize, Range<usize>)> {
        if self.rows.is_empty() {
            self.begin(sequences.len());
        }
        for row in self.rows.iter_mut().filter(|row| row.is_empty()) {
            *row = vec![CachedHead::new(new.size()); new.n_head];
        }
        let rows = self.rows.iter_mut().zip(sequences.iter());
        rows.flat_map(|(row, tokens)| row.iter_mut().enumerate().map(move |(h, head)| (head, h, tokens.clone())))
            .collect()
    }

    /// Adds the keys and values of `sequences`, one a row; to none, as many rows. `qkv`: `[N, 3·D]`.
    fn add(&mut self, qkv: &[E], sequences: &Sequences, n_head: usize) {
        let new = NewHeads { qkv, d: qkv.len() / (3 * sequences.n_tokens()).max(1), n_head };
        let together = rows_at_a_time(2 * new.size() * sequences.n_tokens().div_ceil(sequences.len().max(1)));
        let heads = self.heads(sequences, &new).into_par_iter().with_min_len(together);
        heads.for_each(|(head, h, tokens)| new.add(head, h, &tokens));
    }

    /// What the tokens of `sequences`, the last that were added, mix, to `mixed`, `[N, D]`; `qkv`: theirs, `[N, 3·D]`.
    fn attend(&self, qkv: &[E], sequences: &Sequences, mask: Mask, mixed: &mut [E]) {
        let n_head = self.rows.first().map_or(0, Vec::len);
        let new = NewHeads { qkv, d: mixed.len() / sequences.n_tokens().max(1), n_head };
        let jobs = with_kernel!(Self::path(), K => self.jobs(sequences, CachedHead::<E>::block::<K>()));
        let mixed = SharedSlice::new(mixed);
        jobs.into_par_iter().for_each(|AttentionJob { row, head, tokens, first }| {
            new.attend(&self.rows[row][head], (head, tokens, first), mask, &mixed);
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

    /// Takes out all sequences but the first `n`, of which it has as many.
    pub(crate) fn split_off(&mut self, n: usize) -> Self {
        Self { rows: self.rows.split_off(n) }
    }

    /// Adds the sequences of `other`.
    pub(crate) fn append(&mut self, other: Self) {
        self.rows.extend(other.rows);
    }
}

#[cfg(test)]
impl<E> Past<E> {
    /// Where the pieces of each row's heads lie.
    pub(crate) fn places(&self) -> Vec<Vec<Vec<usize>>> {
        self.rows.iter().map(|row| row.iter().map(CachedHead::places).collect()).collect()
    }
}

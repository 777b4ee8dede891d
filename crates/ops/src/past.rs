//! Keys and values of past tokens on the CPU, and attention of new tokens to them.

use crate::attention::Mask;
use crate::cpu::element::Element;
use crate::cpu::vectorized;
use crate::exp::exp;
use crate::linear::round;
use crate::sequences::Sequences;
use crate::shared::SharedSlice;
use crate::slices::{dot, max, sum};
use rayon::prelude::*;

/// The past of a batch of sequences of different lengths in one layer.
#[derive(Debug)]
pub(crate) struct Past<E> {
    rows: Vec<CachedSequence<E>>,
    context: usize,
    /// K.
    size: usize,
}

/// A sequence's heads.
type CachedSequence<E> = Vec<CachedHead<E>>;

/// One head of one sequence: keys and values, `[T, K]` each, in memory of their own, so that a sequence grows, leaves and
/// is copied without the others.
#[derive(Debug, Clone)]
struct CachedHead<E> {
    keys: Vec<E>,
    values: Vec<E>,
}

impl<E: Element> Past<E> {
    /// None yet, for at most `context` tokens of a sequence.
    pub(crate) fn new(context: usize) -> Self {
        Self { rows: Vec::new(), context, size: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds the keys and values of `sequences`, one a row; to none, as many rows. `qkv`: `[N, 3·D]`.
    pub(crate) fn add(&mut self, qkv: &[E], sequences: &Sequences, n_head: usize) {
        let d = qkv.len() / (3 * sequences.n_tokens()).max(1);
        if self.is_empty() {
            self.size = d / n_head;
            let none = CachedHead { keys: Vec::new(), values: Vec::new() };
            self.rows = vec![vec![none; n_head]; sequences.len()];
        }
        let (size, context) = (self.size, self.context);
        for (row, tokens) in self.rows.iter_mut().zip(sequences.iter()) {
            let qkv = &qkv[tokens.start * 3 * d..tokens.end * 3 * d];
            for (h, CachedHead { keys, values }) in row.iter_mut().enumerate() {
                for (numbers, from) in [(keys, d + h * size), (values, 2 * d + h * size)] {
                    make_room(numbers, tokens.len() * size, context * size);
                    qkv.chunks_exact(3 * d).for_each(|token| numbers.extend_from_slice(&token[from..from + size]));
                }
            }
        }
    }

    /// What the tokens of `sequences`, the last that were added, mix, to `mixed`, `[N, D]`; `qkv`: theirs, `[N, 3·D]`.
    pub(crate) fn attend(&self, qkv: &[E], sequences: &Sequences, mask: Mask, mixed: &mut [E]) {
        let (size, n_head) = (self.size, self.rows.first().map_or(0, Vec::len));
        let d = size * n_head;
        let mixed = SharedSlice::new(mixed);
        (0..self.rows.len() * n_head).into_par_iter().for_each(|n| {
            let (row, h) = (n / n_head, n % n_head);
            let (CachedHead { keys, values }, tokens) = (&self.rows[row][h], sequences.get(row));
            let (len, before) = (keys.len() / size, keys.len() / size - tokens.len());
            let mut scores = vec![0.0; len];
            let mut out = vec![0.0; size];
            // SAFETY: sequences have tokens of their own, and heads columns of their own.
            let mut mixed = unsafe { mixed.submatrix(tokens.clone(), h * size..(h + 1) * size, d) };
            for (i, token) in tokens.enumerate() {
                let seen = mask.visible(before + i);
                let held = seen.start * size..seen.end * size;
                let query = &qkv[token * 3 * d + h * size..][..size];
                mix::<E>(query, &keys[held.clone()], &values[held], &mut scores[..seen.len()], &mut out);
                round::<E>(&out, mixed.row_mut(i));
            }
        });
    }

    /// Forgets all but the first `len` tokens of each sequence, and with the last of them the sequences.
    pub(crate) fn truncate(&mut self, len: usize) {
        if len == 0 {
            self.rows.clear();
        }
        for CachedHead { keys, values } in self.rows.iter_mut().flatten() {
            keys.truncate(len * self.size);
            values.truncate(len * self.size);
        }
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
        self.size = other.size;
        self.rows.extend(rows.iter().map(|&row| other.rows[row as usize].clone()));
    }
}

#[cfg(test)]
impl<E> Past<E> {
    /// Where the keys of each row's heads lie, and how many tokens have room there.
    pub(crate) fn places(&self) -> Vec<Vec<(*const E, usize)>> {
        let place = |CachedHead { keys, .. }: &CachedHead<E>| (keys.as_ptr(), keys.capacity() / self.size);
        self.rows.iter().map(|row| row.iter().map(place).collect()).collect()
    }
}

/// Has `numbers` take `n` more without moving: room grows by half, but never beyond `most`.
fn make_room<E>(numbers: &mut Vec<E>, n: usize, most: usize) {
    let needed = numbers.len() + n;
    if needed > numbers.capacity() {
        let room = (needed + needed / 2).min(most).max(needed);
        numbers.reserve_exact(room - numbers.len());
    }
}

vectorized! {
    /// Attention of one query: `keys`, `values`: `[n, K]`; `scores`: room for n; `out`: `[K]`.
    fn mix[E: Element](query: &[E], keys: &[E], values: &[E], scores: &mut [f32], out: &mut [f32]) {
        let size = query.len();
        let scale = 1.0 / (size as f32).sqrt();
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(size)) {
            *score = dot::<E>(query, key) * scale;
        }
        let most = max(scores);
        scores.iter_mut().for_each(|w| *w = exp::<FUSED>(*w - most));
        let share = 1.0 / sum(scores, |w| w);
        out.fill(0.0);
        for (weight, value) in scores.iter().zip(values.chunks_exact(size)) {
            let weight = weight * share;
            out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value.get());
        }
    }
}

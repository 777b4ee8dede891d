//! Keys and values of past tokens on the CPU, and attention of new tokens to them.

use crate::attention::Mask;
use crate::cpu::element::Element;
use crate::cpu::vectorized;
use crate::exp::exp;
use crate::linear::round;
use crate::product::Parts;
use crate::slices::{dot, max, sum};
use candle_core::{Result, bail};
use rayon::prelude::*;

/// The past of a batch of sequences of one length in one layer: keys and values, `[B, H, C, K]` each, of which the first
/// `len` positions are filled.
#[derive(Debug)]
pub(crate) struct Past<E> {
    keys: Vec<E>,
    values: Vec<E>,
    len: usize,
    context: usize,
    n_head: usize,
    size: usize,
}

impl<E: Element> Past<E> {
    /// None yet, for at most `context` tokens.
    pub(crate) fn new(context: usize) -> Self {
        Self { keys: Vec::new(), values: Vec::new(), len: 0, context, n_head: 0, size: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the keys and values of `t` tokens of each of `b` sequences; `qkv`: `[B, T, 3·D]`.
    pub(crate) fn add(&mut self, qkv: &[E], (b, t): (usize, usize), n_head: usize) -> Result<()> {
        if self.len + t > self.context {
            bail!("a cache for {} tokens cannot take {t} after {}", self.context, self.len);
        }
        let d = qkv.len() / (3 * b * t).max(1);
        let size = d / n_head;
        if self.is_empty() {
            (self.n_head, self.size) = (n_head, size);
            for numbers in [&mut self.keys, &mut self.values] {
                numbers.clear();
                numbers.resize(b * self.context * d, E::default());
            }
        }
        if self.keys.len() != b * self.context * d {
            bail!("a cache of another batch than of {b} sequences of width {d}");
        }
        for (n, token) in qkv.chunks_exact(3 * d).enumerate() {
            for h in 0..n_head {
                let at = ((n / t * n_head + h) * self.context + self.len + n % t) * size;
                self.keys[at..at + size].copy_from_slice(&token[d + h * size..][..size]);
                self.values[at..at + size].copy_from_slice(&token[2 * d + h * size..][..size]);
            }
        }
        self.len += t;
        Ok(())
    }

    /// What the last `t` tokens of each of `b` sequences mix, to `mixed`, `[B, T, D]`; `qkv`: theirs, `[B, T, 3·D]`.
    pub(crate) fn attend(&self, qkv: &[E], (b, t): (usize, usize), mask: Mask, mixed: &mut [E]) {
        let (size, n_head) = (self.size, self.n_head);
        let d = size * n_head;
        let mixed = Parts::of(mixed);
        (0..b * n_head).into_par_iter().for_each(|n| {
            let (row, h) = (n / n_head, n % n_head);
            let mut scores = vec![0.0; self.len];
            let mut out = vec![0.0; size];
            for i in 0..t {
                let seen = mask.visible(self.len - t + i);
                let held = (n * self.context + seen.start) * size..(n * self.context + seen.end) * size;
                let query = &qkv[(row * t + i) * 3 * d + h * size..][..size];
                mix::<E>(query, &self.keys[held.clone()], &self.values[held], &mut scores[..seen.len()], &mut out);
                let at = (row * t + i) * d + h * size;
                // SAFETY: each token of each head is written once.
                round::<E>(&out, unsafe { mixed.part(at..at + size) });
            }
        });
    }

    /// Forgets all but the first `len` positions.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Keeps the sequences of the given numbers, in that order.
    pub(crate) fn keep(&mut self, rows: &[u32]) -> Result<()> {
        let one = self.context * self.n_head * self.size;
        if rows.iter().any(|&row| (row as usize + 1) * one > self.keys.len()) {
            bail!("a cache is asked to keep sequences that it has not");
        }
        for numbers in [&mut self.keys, &mut self.values] {
            *numbers = rows.iter().flat_map(|&row| &numbers[row as usize * one..][..one]).copied().collect();
        }
        Ok(())
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

//! Attention of all tokens of a window at once, as in training: one operation from the joint projection to the mixed
//! values, in memory that grows with T, not with T². Each sequence of a window is a problem of its own, so that packed ones
//! cost no more than they do alone.
//!
//! Queries go in blocks, and each block's keys in spans. Weights of one span exist for as long as it is worked on: sums of
//! the spans before are scaled as the largest score grows, and the backward pass makes weights again from the logarithm of
//! each row's sum (Dao et al. 2022, §3.1). Keys that no query of a block may see are never touched: the causal kind does
//! half the work of the full square, the banded kind its band's, and a branch's queries go by the other branches.

use crate::attention::{Mask, attention};
use crate::cpu::element::Element;
use crate::cpu::kernel::Kernel;
use crate::cpu::{fused, vectorized};
use crate::dropout::Dropout;
use crate::exp::exp;
use crate::linear::round;
use crate::product::{
    Bytes, Matrix, Parts, Path, Precision, pack_left_all, pack_left_rows, pack_right_all, tile, with_kernel,
};
use crate::sequences::{Segment, Sequences};
use crate::slices::{dot, max, sum};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use std::cell::RefCell;
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
        bail!("self-attention of {n_head} heads over a projection of width {width}");
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

/// Queries worked on together: enough for efficient products, few enough that little is done for hidden keys.
const BLOCK: usize = 64;
/// Keys, whose weights for a block of queries stay near the processor: a multiple of every kernel's columns.
const SPAN: usize = 256;

/// What is attended, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SelfAttention<'a> {
    pub(crate) sequences: &'a Sequences,
    pub(crate) n_head: usize,
    pub(crate) mask: Mask,
    pub(crate) drop: Option<Dropout>,
}

/// One head of one sequence.
struct Head<'a, E> {
    segments: Vec<Segment>,
    qkv: [Matrix<'a, E>; 3],
    /// Tokens of the sequence.
    len: usize,
    /// K.
    size: usize,
    /// 1/√K.
    scale: f32,
    mask: Mask,
    drop: Option<Dropout>,
    /// Number of its first attention weight among those of the batch, `[B, H, T, T]`.
    first_weight: u64,
    /// T.
    window: usize,
    /// Attention weights of a window: H·T².
    window_weights: usize,
}

/// What a thread works in.
#[derive(Default)]
struct Room {
    queries: Bytes,
    keys: Bytes,
    values: Bytes,
    weights: Bytes,
    packed_weights: Bytes,
    out: Bytes,
    dmixed: Bytes,
    gradients: Bytes,
    keys_back: Bytes,
    queries_back: Bytes,
    dmixed_back: Bytes,
    dkeys: Bytes,
    dvalues: Bytes,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
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
    fn head<'a, E>(&self, qkv: &'a [E], width: usize, n: usize, h: usize) -> Head<'a, E> {
        let tokens = self.sequences.get(n);
        let (len, d, window) = (tokens.len(), width / 3, self.sequences.window());
        let size = d / self.n_head;
        let of = |part: usize| {
            Matrix::new(&qkv[tokens.start * width + part * d + h * size..tokens.end * width], len, size, width)
        };
        let (b, start) = (tokens.start / window, tokens.start % window);
        Head {
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
        let (mixed, sums) = (Parts::of(mixed), Parts::of(sums));
        self.heads().for_each(|(n, h, places)| {
            let (head, first) = (self.head(qkv, 3 * d, n, h), self.sequences.get(n).start);
            // SAFETY: each head of each sequence has places of its own.
            let sums = unsafe { sums.part(places) };
            let put = |t: usize, row: &[f32]| {
                let at = (first + t) * d + h * head.size;
                // SAFETY: each token of each head is put once.
                round::<E>(row, unsafe { mixed.part(at..at + head.size) });
            };
            ROOM.with_borrow_mut(|room| {
                with_kernel!(Path::of(precision), K => head.forward::<K>(room, sums, put));
            });
        });
    }

    /// From what [`SelfAttention::forward`] read and wrote and the gradient `dmixed`, `[B, T, D]`, of `mixed`: writes that
    /// of `qkv`, `[B, T, 3·D]`.
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
        let dqkv = Parts::of(dqkv);
        self.heads().for_each(|(n, h, places)| {
            let (head, first) = (self.head(qkv, 3 * d, n, h), self.sequences.get(n).start);
            let sums = &sums[places];
            let (len, size) = (head.len, head.size);
            let mixed = Matrix::new(&mixed[first * d + h * size..], len, size, d);
            let dmixed = Matrix::new(&dmixed[first * d + h * size..], len, size, d);
            let put = |part: usize, t: usize, row: &[f32]| {
                let at = (first + t) * 3 * d + part * d + h * head.size;
                // SAFETY: each part of each token of each head is put once.
                round::<E>(row, unsafe { dqkv.part(at..at + head.size) });
            };
            ROOM.with_borrow_mut(|room| {
                with_kernel!(Path::of(precision), K => {
                    head.backward::<K>(room, sums, (mixed, dmixed), put)
                });
            });
        });
    }
}

/// Queries that are worked on together.
struct Block {
    segment: Segment,
    queries: Range<usize>,
}

/// Keys that are worked on together, whose weights stay near the processor.
struct Span {
    /// Whether they are of the stem that the queries' segment goes on from.
    of_stem: bool,
    keys: Range<usize>,
}

/// Right panels in `packed`, of `size` numbers each.
#[derive(Clone, Copy)]
struct Packed<'a, R> {
    packed: &'a [R],
    size: usize,
}

impl<E: Element> Head<'_, E> {
    /// Blocks of queries, each of one segment.
    fn blocks<K: Kernel>(&self) -> impl Iterator<Item = Block> {
        let high = (BLOCK / K::ROWS).max(1) * K::ROWS;
        self.segments.iter().flat_map(move |&segment| {
            let firsts = (segment.start..segment.end).step_by(high);
            firsts.map(move |first| Block { segment, queries: first..(first + high).min(segment.end) })
        })
    }

    /// Spans of keys, in whole panels, that some query of `block` may see: those of the stem, then those of its segment.
    fn spans<K: Kernel>(&self, block: &Block) -> impl Iterator<Item = Span> {
        let Block { segment, queries } = block;
        let last = queries.end - 1;
        let panels = |keys: Range<usize>| keys.start / K::COLUMNS * K::COLUMNS..keys.end.next_multiple_of(K::COLUMNS);
        // The first query sees furthest back; of a stem, as much as any.
        let stem = Some(self.seen_of(segment, true, queries.start)).filter(|seen| !seen.is_empty()).map(panels);
        let own = panels(self.seen_of(segment, false, queries.start).start..self.seen_of(segment, false, last).end);
        let cut = |of_stem: bool| {
            move |keys: Range<usize>| {
                let end = keys.end;
                keys.step_by(SPAN).map(move |first| Span { of_stem, keys: first..(first + SPAN).min(end) })
            }
        };
        stem.into_iter().flat_map(cut(true)).chain(Some(own).into_iter().flat_map(cut(false)))
    }

    /// The keys that `query` of `segment` may see: of its stem, or of the segment itself.
    fn seen_of(&self, segment: &Segment, of_stem: bool, query: usize) -> Range<usize> {
        let seen = self.mask.visible(segment.position(query)).start;
        if of_stem {
            return seen.min(segment.stem)..segment.stem;
        }
        let end = if self.mask == Mask::Full { segment.end } else { query + 1 };
        segment.start + seen.saturating_sub(segment.stem)..end
    }

    /// `sums = left·right`, or `sums += left·right` with `add`, over whole panels: `rows` rows of left panels of
    /// `left_size`, columns `columns` of the right panels; `deep` from depth `from` of these. Rows of sums are `columns`
    /// apart. Tiles whose last row and first column are not `needed` may be left as they are.
    fn product<K: Kernel>(
        (left, left_size, rows): (&[K::Left], usize, usize),
        right: Packed<K::Right>,
        (from, deep): (usize, usize),
        columns: Range<usize>,
        (sums, add): (&mut [f32], bool),
        needed: impl Fn(usize, usize) -> bool,
    ) {
        let stride = columns.len();
        for (n, column) in columns.clone().step_by(K::COLUMNS).enumerate() {
            let right = &right.packed[column / K::COLUMNS * right.size + from * K::COLUMNS..];
            for (left, row) in left.chunks(left_size.max(1)).zip((0..rows).step_by(K::ROWS)) {
                let m = K::ROWS.min(rows - row);
                if needed(row + m - 1, column) {
                    let sums = &mut sums[row * stride + n * K::COLUMNS..];
                    tile::<K, K::Right>(m, left, right, deep, (sums, stride), add);
                }
            }
        }
    }

    /// Products of a block of `queries`, `[rows, K]` in left panels of `left_size`, with `keys`: `[rows, keys]`, but for
    /// what is hidden, which may be anything.
    fn scores<K: Kernel>(
        &self,
        (left, left_size): (&[K::Left], usize),
        block: &Block,
        right: Packed<K::Right>,
        span: &Span,
        sums: &mut [f32],
    ) {
        let (deep, queries) = (self.size.next_multiple_of(K::DEPTH), &block.queries);
        let seen =
            |row: usize, column: usize| self.seen_of(&block.segment, span.of_stem, queries.start + row).end > column;
        Self::product::<K>((left, left_size, queries.len()), right, (0, deep), span.keys.clone(), (sums, false), seen);
    }

    /// `sums += left·right` of all depth of the `left` panels of `rows` rows, which is that of `keys`: `right` are panels
    /// of all keys, `wide` columns.
    fn mix<K: Kernel>(
        &self,
        left: (&[K::Left], usize, usize),
        right: Packed<K::Right>,
        keys: &Range<usize>,
        wide: usize,
        sums: (&mut [f32], bool),
    ) {
        let deep = keys.len().min(self.len.next_multiple_of(K::DEPTH) - keys.start);
        Self::product::<K>(left, right, (keys.start, deep), 0..wide, sums, |_, _| true);
    }

    /// `sums += valuesᵀ·right`, where `values` are `[queries, keys]`; rows of `sums`, one for each key, are `stride` apart.
    fn add_transposed<K: Kernel>(
        &self,
        (values, keys): (Matrix<f32>, &Range<usize>),
        room: &mut Bytes,
        (right, deep): (Packed<K::Right>, usize),
        (sums, stride): (&mut [f32], usize),
    ) {
        let size = pack_left_all::<K, f32>(values.t(), room);
        let left: &[K::Left] = room.same();
        for column in (0..self.size).step_by(K::COLUMNS) {
            let right = &right.packed[column / K::COLUMNS * right.size..];
            for (n, row) in (0..keys.len()).step_by(K::ROWS).enumerate() {
                let m = K::ROWS.min(keys.len() - row);
                let sums = &mut sums[(keys.start + row) * stride + column..];
                tile::<K, K::Right>(m, &left[n * size..], right, deep, (sums, stride), true);
            }
        }
    }

    /// Drops from what stands at the places of the weights of `query` for `keys`.
    fn drop(&self, query: usize, keys: &Range<usize>, row: &mut [f32]) {
        if let Some(drop) = self.drop {
            let n = keys.len().min(self.len - keys.start);
            let first = self.first_weight + (query * self.window + keys.start) as u64;
            drop.apply_from(&mut row[..n], first, self.window_weights);
        }
    }

    /// What `query` of `segment` sees of a span's keys, counted from the first of these.
    fn seen(&self, segment: &Segment, query: usize, Span { of_stem, keys }: &Span) -> Range<usize> {
        let seen = self.seen_of(segment, *of_stem, query);
        let within = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
        within(seen.start)..within(seen.end)
    }

    fn forward<K: Kernel>(&self, room: &mut Room, log_sums: &mut [f32], put: impl Fn(usize, &[f32])) {
        let [queries, keys, values] = self.qkv;
        let size = pack_right_all::<K, E>(keys.t(), &mut room.keys);
        let packed_keys = Packed { packed: room.keys.same(), size };
        let size = pack_right_all::<K, E>(values, &mut room.values);
        let packed_values = Packed { packed: room.values.same(), size };
        let wide = self.size.next_multiple_of(K::COLUMNS);
        for block in self.blocks::<K>() {
            let m = block.queries.len();
            let rows = m.next_multiple_of(K::ROWS);
            let left_size = pack_left_rows::<K, E>(queries, block.queries.clone(), 0..self.size, &mut room.queries);
            let out = room.out.numbers::<f32>(rows * wide);
            let mut most = [f32::NEG_INFINITY; BLOCK];
            let mut totals = [0.0; BLOCK];
            for (number, span) in self.spans::<K>(&block).enumerate() {
                let n = span.keys.len();
                let weights = room.weights.numbers::<f32>(rows * n);
                self.scores::<K>((room.queries.same(), left_size), &block, packed_keys, &span, weights);
                let (first, weights) = (number == 0, &mut weights[..m * n]);
                for (i, (query, row)) in block.queries.clone().zip(weights.chunks_exact_mut(n)).enumerate() {
                    let seen = self.seen(&block.segment, query, &span);
                    let shrink = weigh(row, seen, self.scale, &mut most[i], &mut totals[i]);
                    if !first && shrink != 1.0 {
                        out[i * wide..(i + 1) * wide].iter_mut().for_each(|x| *x *= shrink);
                    }
                    self.drop(query, &span.keys, row);
                }
                let size = pack_left_all::<K, f32>(Matrix::new(weights, m, n, n), &mut room.packed_weights);
                let left = (room.packed_weights.same(), size, m);
                self.mix::<K>(left, packed_values, &span.keys, wide, (&mut *out, !first));
            }
            for (i, (query, row)) in block.queries.zip(out.chunks_exact_mut(wide)).enumerate() {
                let share = 1.0 / totals[i];
                row.iter_mut().for_each(|x| *x *= share);
                put(query, &row[..self.size]);
                log_sums[query] = most[i] + totals[i].ln();
            }
        }
    }

    fn backward<K: Kernel>(
        &self,
        room: &mut Room,
        log_sums: &[f32],
        (mixed, dmixed): (Matrix<E>, Matrix<E>),
        put: impl Fn(usize, usize, &[f32]),
    ) {
        let [queries, keys, values] = self.qkv;
        let wide = self.size.next_multiple_of(K::COLUMNS);
        let size = pack_right_all::<K, E>(keys.t(), &mut room.keys);
        let packed_keys = Packed { packed: room.keys.same(), size };
        let size = pack_right_all::<K, E>(values.t(), &mut room.values);
        let packed_values = Packed { packed: room.values.same(), size };
        let size = pack_right_all::<K, E>(keys, &mut room.keys_back);
        let keys_back = Packed { packed: room.keys_back.same(), size };
        // As many rows as the last panels of keys reach over.
        let tall = (self.len.next_multiple_of(K::COLUMNS) + K::ROWS) * wide;
        let (dkeys, dvalues) = (room.dkeys.numbers::<f32>(tall), room.dvalues.numbers::<f32>(tall));
        dkeys.fill(0.0);
        dvalues.fill(0.0);
        for block in self.blocks::<K>() {
            let (m, range) = (block.queries.len(), &block.queries);
            let (rows, deep) = (m.next_multiple_of(K::ROWS), m.next_multiple_of(K::DEPTH));
            let left_size = pack_left_rows::<K, E>(queries, range.clone(), 0..self.size, &mut room.queries);
            pack_left_rows::<K, E>(dmixed, range.clone(), 0..self.size, &mut room.dmixed);
            let size = pack_right_all::<K, E>(queries.rows(range.clone()), &mut room.queries_back);
            let queries_back = (Packed { packed: room.queries_back.same(), size }, deep);
            let size = pack_right_all::<K, E>(dmixed.rows(range.clone()), &mut room.dmixed_back);
            let dmixed_back = (Packed { packed: room.dmixed_back.same(), size }, deep);
            let mut dots = [0.0; BLOCK];
            for (dot, query) in dots.iter_mut().zip(range.clone()) {
                *dot = product_sum::<E>(mixed.row_part(query, 0..self.size), dmixed.row_part(query, 0..self.size));
            }
            let out = room.out.numbers::<f32>(rows * wide);
            for (number, span) in self.spans::<K>(&block).enumerate() {
                let n = span.keys.len();
                let weights = room.weights.numbers::<f32>(rows * n);
                let gradients = room.gradients.numbers::<f32>(rows * n);
                self.scores::<K>((room.queries.same(), left_size), &block, packed_keys, &span, weights);
                self.scores::<K>((room.dmixed.same(), left_size), &block, packed_values, &span, gradients);
                let (weights, gradients) = (&mut weights[..m * n], &mut gradients[..m * n]);
                let both = weights.chunks_exact_mut(n).zip(gradients.chunks_exact_mut(n));
                for ((query, (weights, gradients)), dot) in range.clone().zip(both).zip(dots) {
                    weigh_again(weights, self.seen(&block.segment, query, &span), self.scale, log_sums[query]);
                    self.drop(query, &span.keys, gradients);
                    score_gradient(weights, gradients, dot, self.scale);
                    self.drop(query, &span.keys, weights);
                }
                let (weights, gradients) = (Matrix::new(weights, m, n, n), Matrix::new(gradients, m, n, n));
                let room = &mut room.packed_weights;
                self.add_transposed::<K>((weights, &span.keys), room, dmixed_back, (&mut *dvalues, wide));
                self.add_transposed::<K>((gradients, &span.keys), room, queries_back, (&mut *dkeys, wide));
                let size = pack_left_all::<K, f32>(gradients, room);
                self.mix::<K>((room.same(), size, m), keys_back, &span.keys, wide, (&mut *out, number > 0));
            }
            for (query, row) in block.queries.zip(out.chunks_exact(wide)) {
                put(0, query, &row[..self.size]);
            }
        }
        for (t, (dkey, dvalue)) in dkeys.chunks_exact(wide).zip(dvalues.chunks_exact(wide)).enumerate().take(self.len) {
            put(1, t, &dkey[..self.size]);
            put(2, t, &dvalue[..self.size]);
        }
    }
}

vectorized! {
    /// Scores of a span → exponentials of what is `seen`, 0 elsewhere, divided by that of the largest scaled score so far,
    /// `most`. `total`: the sum of all so far. Returns the share of what spans before gave that is left.
    fn weigh(row: &mut [f32], seen: Range<usize>, scale: f32, most: &mut f32, total: &mut f32) -> f32 {
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        if seen.is_empty() {
            return 1.0;
        }
        let row = &mut row[seen];
        let largest = max(row) * scale;
        // A comparison, not `max`: NaN is passed on.
        let largest = if *most > largest { *most } else { largest };
        let shrink = exp::<FUSED>(*most - largest);
        row.iter_mut().for_each(|w| *w = exp::<FUSED>(fused::<FUSED>(*w, scale, -largest)));
        *total = *total * shrink + sum(row, |w| w);
        *most = largest;
        shrink
    }
}

vectorized! {
    /// The same from the logarithm of the sum, as weights that sum to 1.
    fn weigh_again(row: &mut [f32], seen: Range<usize>, scale: f32, log_sum: f32) {
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        row[seen].iter_mut().for_each(|w| *w = exp::<FUSED>(fused::<FUSED>(*w, scale, -log_sum)));
    }
}

vectorized! {
    /// Gradients of weights → of scores before they are scaled. Where a weight is 0 so is the gradient, whatever stood
    /// there.
    fn score_gradient(weights: &[f32], gradients: &mut [f32], dot: f32, scale: f32) {
        for (g, w) in gradients.iter_mut().zip(weights) {
            let gradient = w * (*g - dot) * scale;
            *g = if *w == 0.0 { 0.0 } else { gradient };
        }
    }
}

vectorized! {
    fn product_sum[E: Element](a: &[E], b: &[E]) -> f32 {
        dot::<E>(a, b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};
    use candle_core::{Device, Var};

    const MASKS: [Mask; 5] =
        [Mask::Causal, Mask::Banded { width: 1 }, Mask::Banded { width: 3 }, Mask::Banded { width: 100 }, Mask::Full];
    const DROP: Dropout = Dropout { p: 0.2, seed: 1, site: 0, first_row: 3 };

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Mixed values and gradient of the projection by the loops.
    fn run(qkv: &Tensor, dmixed: &Tensor, n_head: usize, mask: Mask, drop: Option<Dropout>) -> (Tensor, Tensor) {
        let (b, t, _) = qkv.dims3().unwrap();
        run_packed(qkv, dmixed, n_head, mask, &Sequences::windows(b, t), drop)
    }

    fn run_packed(
        qkv: &Tensor,
        dmixed: &Tensor,
        n_head: usize,
        mask: Mask,
        sequences: &Sequences,
        drop: Option<Dropout>,
    ) -> (Tensor, Tensor) {
        let (b, t, width) = qkv.dims3().unwrap();
        let attention = SelfAttention { sequences, n_head, mask, drop };
        let (mut mixed, mut sums) = (vec![f32::NAN; b * t * width / 3], vec![f32::NAN; b * n_head * t]);
        let qkv = numbers(qkv);
        attention.forward(Precision::F32, &qkv, &mut mixed, &mut sums);
        let mut dqkv = vec![f32::NAN; qkv.len()];
        attention.backward(Precision::F32, &qkv, (&mixed, &numbers(dmixed)), &sums, &mut dqkv);
        let tensor = |x: Vec<f32>, width: usize| Tensor::from_vec(x, (b, t, width), &Device::Cpu).unwrap();
        (tensor(mixed, width / 3), tensor(dqkv, width))
    }

    /// Over several blocks, with a last one that is not full; heads of several sizes.
    #[test]
    fn the_loops_agree_with_candles_operations_forward_and_backward() {
        for (t, d, n_head) in [(2 * BLOCK + 5, 8, 2), (1, 6, 2), (40, 66, 2), (BLOCK, 64, 1)] {
            let qkv = Var::from_tensor(&(draw(1, &[2, t, 3 * d]) * 2.0).unwrap()).unwrap();
            let dmixed = draw(2, &[2, t, d]);
            for mask in MASKS {
                for drop in [None, Some(DROP)] {
                    let plain = self_attention(qkv.as_tensor(), n_head, mask, &Sequences::windows(2, t), drop).unwrap();
                    let grads = (&plain * &dmixed).unwrap().sum_all().unwrap().backward().unwrap();
                    let (mixed, dqkv) = run(qkv.as_tensor(), &dmixed, n_head, mask, drop);
                    assert_close("mixed", &mixed, &plain, 1e-5);
                    assert_close("dqkv", &dqkv, grads.get(&qkv).unwrap(), 1e-4);
                }
            }
        }
    }

    /// Keys of one block of queries in several spans, of which a query may see none, or a part, or all.
    #[test]
    fn spans_add_up() {
        let t = 2 * SPAN + 5;
        let qkv = Var::from_tensor(&(draw(1, &[1, t, 3 * 8]) * 2.0).unwrap()).unwrap();
        let dmixed = draw(2, &[1, t, 8]);
        for mask in [Mask::Causal, Mask::Banded { width: SPAN }, Mask::Banded { width: SPAN + 50 }, Mask::Full] {
            for drop in [None, Some(DROP)] {
                let plain = self_attention(qkv.as_tensor(), 2, mask, &Sequences::windows(1, t), drop).unwrap();
                let grads = (&plain * &dmixed).unwrap().sum_all().unwrap().backward().unwrap();
                let (mixed, dqkv) = run(qkv.as_tensor(), &dmixed, 2, mask, drop);
                assert_close("mixed", &mixed, &plain, 1e-5);
                assert_close("dqkv", &dqkv, grads.get(&qkv).unwrap(), 2e-4);
            }
        }
    }

    /// Sequences within a block of queries, over several, and of one token; with dropout the plain path draws the same mask.
    #[test]
    fn packed_sequences_attend_within_themselves() {
        let t = BLOCK + 40;
        let starts: [&[u32]; 2] = [&[0, 1, 30, BLOCK as u32 + 3], &[0, 77]];
        let packed = Sequences::packed(t, starts).unwrap();
        let qkv = Var::from_tensor(&(draw(1, &[2, t, 24]) * 2.0).unwrap()).unwrap();
        let dmixed = draw(2, &[2, t, 8]);
        for mask in MASKS {
            for drop in [None, Some(DROP)] {
                let plain = self_attention(qkv.as_tensor(), 2, mask, &packed, drop).unwrap();
                let grads = (&plain * &dmixed).unwrap().sum_all().unwrap().backward().unwrap();
                let (mixed, dqkv) = run_packed(qkv.as_tensor(), &dmixed, 2, mask, &packed, drop);
                assert_close("mixed", &mixed, &plain, 1e-5);
                assert_close("dqkv", &dqkv, grads.get(&qkv).unwrap(), 1e-4);
            }
            let (mixed, dqkv) = run_packed(qkv.as_tensor(), &dmixed, 2, mask, &packed, None);
            for (row, tokens) in [(0, 1..30), (0, BLOCK + 3..t), (1, 0..77)] {
                let cut = |x: &Tensor| x.narrow(0, row, 1).unwrap().narrow(1, tokens.start, tokens.len()).unwrap();
                let alone = run(&cut(&qkv).contiguous().unwrap(), &cut(&dmixed).contiguous().unwrap(), 2, mask, None);
                assert_close("alone", &alone.0, &cut(&mixed), 1e-6);
                assert_close("gradient alone", &alone.1, &cut(&dqkv), 1e-5);
            }
        }
    }

    /// A stem within a block and over several spans, none, branches of one token and over several blocks: as the plain
    /// path, and each branch as if it stood alone after its stem.
    #[test]
    fn branches_attend_to_their_stem_and_themselves() {
        let sequences: [(usize, &[usize]); 4] =
            [(SPAN + 30, &[1, BLOCK + 9, 20]), (0, &[7, 3]), (5, &[2]), (40, &[3, 4])];
        let tree = Sequences::branching(sequences).unwrap();
        let t = tree.window();
        let qkv = Var::from_tensor(&(draw(1, &[1, t, 24]) * 2.0).unwrap()).unwrap();
        let dmixed = draw(2, &[1, t, 8]);
        let rows = |x: &Tensor, ranges: &[Range<usize>]| {
            let parts: Vec<Tensor> = ranges.iter().map(|r| x.narrow(1, r.start, r.len()).unwrap()).collect();
            Tensor::cat(&parts, 1).unwrap()
        };
        for mask in [Mask::Causal, Mask::Banded { width: 3 }, Mask::Banded { width: SPAN }, Mask::Full] {
            for drop in [None, Some(DROP)] {
                let plain = self_attention(qkv.as_tensor(), 2, mask, &tree, drop).unwrap();
                let grads = (&plain * &dmixed).unwrap().sum_all().unwrap().backward().unwrap();
                let (mixed, dqkv) = run_packed(qkv.as_tensor(), &dmixed, 2, mask, &tree, drop);
                assert_close("mixed", &mixed, &plain, 1e-5);
                assert_close("dqkv", &dqkv, grads.get(&qkv).unwrap(), 2e-4);
            }
            if mask == Mask::Full {
                continue; // alone, a stem would see what comes after it
            }
            let (mixed, dqkv) = run_packed(qkv.as_tensor(), &dmixed, 2, mask, &tree, None);
            let mut stems = Tensor::zeros((1, t, 24), candle_core::DType::F32, &Device::Cpu).unwrap();
            for (n, (stem, lengths)) in sequences.iter().enumerate() {
                let mut start = tree.get(n).start + stem;
                let stem = tree.get(n).start..start;
                for (i, length) in lengths.iter().enumerate() {
                    let own = start..start + length;
                    start = own.end;
                    // The stem's own output counts once.
                    let shared = rows(&dmixed, std::slice::from_ref(&stem));
                    let shared = if i == 0 { shared } else { shared.zeros_like().unwrap() };
                    let d = Tensor::cat(&[shared, rows(&dmixed, std::slice::from_ref(&own))], 1).unwrap();
                    let (alone, dalone) = run(&rows(&qkv, &[stem.clone(), own.clone()]), &d, 2, mask, None);
                    let last = stem.len()..stem.len() + length;
                    assert_close(
                        "alone",
                        &rows(&alone, std::slice::from_ref(&last)),
                        &rows(&mixed, std::slice::from_ref(&own)),
                        1e-5,
                    );
                    let placed = dalone.pad_with_zeros(1, 0, t - dalone.dim(1).unwrap()).unwrap();
                    let order: Vec<u32> = (0..t)
                        .map(|at| match at {
                            at if stem.contains(&at) => at - stem.start,
                            at if own.contains(&at) => at - own.start + stem.len(),
                            _ => t - 1,
                        } as u32)
                        .collect();
                    let order = Tensor::from_vec(order, t, &Device::Cpu).unwrap();
                    stems = (stems + placed.index_select(&order, 1).unwrap()).unwrap();
                }
            }
            assert_close("gradients of all, added up", &stems, &dqkv, 1e-4);
        }
    }

    #[test]
    fn self_attention_has_the_gradient_of_finite_differences() {
        let windows = Sequences::windows(2, 5);
        for mask in MASKS {
            for drop in [None, Some(DROP)] {
                assert_gradient(&[draw(1, &[2, 5, 12])], 2e-3, |a| self_attention(&a[0], 2, mask, &windows, drop));
            }
        }
    }

    #[test]
    fn a_sequence_is_treated_the_same_in_any_batch() {
        let (qkv, dmixed) = (draw(1, &[3, 9, 12]), draw(2, &[3, 9, 4]));
        let (whole, dwhole) = run(&qkv, &dmixed, 2, Mask::Causal, Some(DROP));
        let drop = Dropout { first_row: DROP.first_row + 2, ..DROP };
        let last = |x: &Tensor| x.narrow(0, 2, 1).unwrap();
        let (one, done) = run(&last(&qkv), &last(&dmixed), 2, Mask::Causal, Some(drop));
        assert_close("last sequence", &one, &last(&whole), 0.0);
        assert_close("last sequence", &done, &last(&dwhole), 0.0);
    }

    #[test]
    fn a_width_that_does_not_divide_is_refused() {
        let error =
            self_attention(&draw(1, &[2, 5, 12]), 3, Mask::Causal, &Sequences::windows(2, 5), None).unwrap_err();
        assert!(error.to_string().contains("3 heads"), "{error}");
    }
}

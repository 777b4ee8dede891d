//! Keys and values of one head of one sequence, in panels as products read them, and attention of new tokens to them.
//!
//! Each query gets the same bits however many queries are computed together: a number of a product is summed in an order
//! that depends on its depth alone, and spans of keys, after each of which a query's sums are scaled, begin at multiples of
//! [`SPAN`]. Keys that a query does not see have the weight 0.

use crate::attention::Mask;
use crate::cpu::element::Element;
use crate::cpu::kernel::Kernel;
use crate::cpu::prefetch;
use crate::matrix::Matrix;
use crate::panels::{pack_left_all, pack_right_panel};
use crate::sequence_head::{BLOCK, HeadWorkspace, SPAN, multiply_panels, weigh};
use crate::zeroed::Zeroed;
use std::ops::Range;
use std::sync::Arc;

/// Keys begin and end with panels of every kernel: multiples of its columns and depth.
const PANELS: usize = 32;
/// Tokens of a piece: a multiple of [`PANELS`], of which [`SPAN`] is a multiple.
pub(crate) const PIECE: usize = 64;
/// Queries, at most, whose products take less time than reading keys and values from memory.
const FEW: usize = 4;

/// The keys and values of a head, in pieces of [`PIECE`] tokens: a sequence grows, leaves and is copied without the others,
/// and none of it is moved. Copies share pieces until one of them writes.
#[derive(Debug, Clone)]
pub(crate) struct CachedHead<E> {
    /// K.
    size: usize,
    /// Tokens held.
    len: usize,
    pieces: Vec<Arc<Piece<E>>>,
}

/// The keys and values of some tokens; what is behind them is zero, or of tokens that were removed.
#[derive(Debug, Clone)]
struct Piece<E> {
    /// Right panels of the transposed keys, `[K, PIECE]`, then those of the values, `[PIECE, K]`.
    numbers: Zeroed<E>,
    /// Numbers of keys.
    keys: usize,
}

impl<E: Element> Piece<E> {
    /// No tokens yet, of a head of `size`.
    fn new<K: Kernel>(size: usize) -> Self {
        let keys = size.next_multiple_of(K::DEPTH) * PIECE;
        Self { numbers: Zeroed::new(keys + PIECE * size.next_multiple_of(K::COLUMNS)), keys }
    }

    fn keys(&self) -> &[E] {
        &self.numbers[..self.keys]
    }

    fn values(&self) -> &[E] {
        &self.numbers[self.keys..]
    }

    /// Writes the keys of the tokens `new`, rows of `keys` from `row` on: one by one to the panel that has some already, then
    /// by panels.
    fn write_keys<K: Kernel>(&mut self, keys: Matrix<E>, row: usize, new: Range<usize>) {
        let (size, width) = (self.keys / PIECE * K::COLUMNS, keys.columns);
        let whole = new.start.next_multiple_of(K::COLUMNS).min(new.end);
        for token in new.start..whole {
            let panel = &mut self.numbers[token / K::COLUMNS * size..];
            for (k, x) in keys.row_part(row + token - new.start, 0..width).iter().enumerate() {
                panel[K::right_index(k, token % K::COLUMNS)] = *x;
            }
        }
        for first in (whole..new.end).step_by(K::COLUMNS) {
            let rows = row + first - new.start..row + (first + K::COLUMNS).min(new.end) - new.start;
            let panel = &mut self.numbers[first / K::COLUMNS * size..][..size];
            pack_right_panel::<K, E, E>(keys.t(), 0..width, rows, panel);
        }
    }

    /// Writes the values of the tokens `new`, rows of `values` from `row` on: one by one to the depth that has some already,
    /// then all others.
    fn write_values<K: Kernel>(&mut self, values: Matrix<E>, row: usize, new: Range<usize>) {
        let whole = new.start.next_multiple_of(K::DEPTH).min(new.end);
        let panels = self.numbers[self.keys..].chunks_exact_mut(PIECE * K::COLUMNS);
        for (first, panel) in (0..values.columns).step_by(K::COLUMNS).zip(panels) {
            let columns = first..(first + K::COLUMNS).min(values.columns);
            for token in new.start..whole {
                for (column, x) in values.row_part(row + token - new.start, columns.clone()).iter().enumerate() {
                    panel[K::right_index(token, column)] = *x;
                }
            }
            if whole < new.end {
                let rows = row + whole - new.start..row + new.len();
                pack_right_panel::<K, E, E>(values, rows, columns, &mut panel[whole * K::COLUMNS..]);
            }
        }
    }

    /// Makes the values of the tokens `removed` zero.
    fn clear_values<K: Kernel>(&mut self, removed: Range<usize>) {
        for panel in self.numbers[self.keys..].chunks_exact_mut(PIECE * K::COLUMNS) {
            for token in removed.clone() {
                (0..K::COLUMNS).for_each(|column| panel[K::right_index(token, column)] = E::default());
            }
        }
    }
}

impl<E: Element> CachedHead<E> {
    /// No tokens; `size`: K.
    pub(crate) fn new(size: usize) -> Self {
        Self { size, len: 0, pieces: Vec::new() }
    }

    /// Tokens held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds tokens. `keys`, `values`: `[n, K]`.
    pub(crate) fn add<K: Kernel>(&mut self, keys: Matrix<E>, values: Matrix<E>) {
        let (old, end) = (self.len, self.len + keys.rows);
        while self.len < end {
            let (number, first) = (self.len / PIECE, self.len / PIECE * PIECE);
            if number == self.pieces.len() {
                self.pieces.push(Arc::new(Piece::new::<K>(self.size)));
            }
            let piece = Arc::make_mut(&mut self.pieces[number]);
            let (row, new) = (self.len - old, self.len - first..(end - first).min(PIECE));
            self.len += new.len();
            piece.write_keys::<K>(keys, row, new.clone());
            piece.write_values::<K>(values, row, new);
        }
    }

    /// Removes all but the first `len` tokens. Products multiply what lies behind them by 0, which must not be NaN.
    pub(crate) fn truncate<K: Kernel>(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.pieces.truncate(len.div_ceil(PIECE));
        let removed = len % PIECE..self.len.min(len.next_multiple_of(K::DEPTH)) - len / PIECE * PIECE;
        self.len = len;
        if let Some(last) = self.pieces.last_mut().filter(|_| !len.is_multiple_of(K::DEPTH)) {
            Arc::make_mut(last).clear_values::<K>(removed);
        }
    }

    /// Queries that are computed together, at most.
    pub(crate) fn block<K: Kernel>() -> usize {
        (BLOCK / K::ROWS).max(1) * K::ROWS
    }

    /// The right panel of the transposed keys that begins with `key`.
    fn panel_of_keys<K: Kernel>(&self, key: usize) -> &[E] {
        &self.pieces[key / PIECE].keys()[key % PIECE * self.size.next_multiple_of(K::DEPTH)..]
    }

    /// The right panel of the values of a piece from `token` on that begins with `column`.
    fn panel_of_values<K: Kernel>(&self, token: usize, column: usize) -> &[E] {
        &self.pieces[token / PIECE].values()[column * PIECE + token % PIECE * K::COLUMNS..]
    }

    /// Has the processor fetch the panels that hold the keys and values of `tokens`. (Measured with AMD's Zen 4: by itself it
    /// fetches ahead only within pieces of some KiB; attention of single tokens took up to 1.4 times as long.)
    fn fetch<K: Kernel>(&self, tokens: Range<usize>) {
        for number in tokens.start / PIECE..tokens.end.div_ceil(PIECE) {
            let (piece, first) = (&self.pieces[number], number * PIECE);
            let here = tokens.start.max(first) - first..(tokens.end - first).min(PIECE);
            let (keys, size) = (piece.keys(), piece.keys / PIECE);
            prefetch(&keys[here.start * size..here.end * size]);
            for panel in piece.values().chunks_exact(PIECE * K::COLUMNS) {
                prefetch(&panel[here.start * K::COLUMNS..here.end * K::COLUMNS]);
            }
        }
    }

    /// Attention of the tokens from `first` on, of which `queries`, `[n, K]`, are those of at most [`CachedHead::block`].
    /// Hands what each mixes, `[K]`, to `put`.
    pub(crate) fn attend<K: Kernel>(
        &self,
        workspace: &mut HeadWorkspace,
        (queries, first): (Matrix<E>, usize),
        mask: Mask,
        mut put: impl FnMut(usize, &[f32]),
    ) {
        let (m, wide) = (queries.rows, self.size.next_multiple_of(K::COLUMNS));
        let (rows, scale) = (m.next_multiple_of(K::ROWS), 1.0 / (self.size as f32).sqrt());
        let seen = |query: usize| mask.visible(first + query);
        let (start, end) = (seen(0).start, first + m);
        let left_size = pack_left_all::<K, E>(queries, &mut workspace.queries);
        let (deep, out) = (self.size.next_multiple_of(K::DEPTH), workspace.out.numbers::<f32>(rows * wide));
        let (mut most, mut totals) = ([f32::NEG_INFINITY; BLOCK], [0.0; BLOCK]);
        for (number, span) in (start / SPAN * SPAN..end).step_by(SPAN).enumerate() {
            let keys = span.max(start / PANELS * PANELS)..(span + SPAN).min(end.next_multiple_of(PANELS));
            let n = keys.len();
            if m <= FEW {
                self.fetch::<K>(keys.clone());
            }
            let weights = workspace.weights.numbers::<f32>(rows * n);
            let left = (workspace.queries.last(), left_size, m);
            let needed = |rows: Range<usize>, column: usize| {
                seen(rows.end - 1).end > column && seen(rows.start).start < column + K::COLUMNS
            };
            let panel = |key: usize| self.panel_of_keys::<K>(key);
            multiply_panels::<K, E>(left, panel, deep, keys.clone(), (&mut *weights, false), needed);
            for (i, row) in weights.chunks_exact_mut(n).enumerate().take(m) {
                let seen = seen(i);
                let within = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
                let shrink = weigh(row, within(seen.start)..within(seen.end), scale, &mut most[i], &mut totals[i]);
                if number > 0 && shrink != 1.0 {
                    out[i * wide..(i + 1) * wide].iter_mut().for_each(|x| *x *= shrink);
                }
            }
            for piece in keys.start / PIECE..keys.end.div_ceil(PIECE) {
                let tokens = keys.start.max(piece * PIECE)..end.min((piece + 1) * PIECE);
                let weights = Matrix::new(&weights[tokens.start - keys.start..], m, tokens.len(), n);
                let size = pack_left_all::<K, f32>(weights, &mut workspace.packed_weights);
                let left = (workspace.packed_weights.last(), size, m);
                let (panel, deep) = (|column| self.panel_of_values::<K>(tokens.start, column), size / K::ROWS);
                let sums = (&mut *out, number > 0 || tokens.start > keys.start);
                multiply_panels::<K, E>(left, panel, deep, 0..wide, sums, |_, _| true);
            }
        }
        for (i, row) in out.chunks_exact_mut(wide).enumerate().take(m) {
            let share = 1.0 / totals[i];
            row.iter_mut().for_each(|x| *x *= share);
            put(i, &row[..self.size]);
        }
    }
}

#[cfg(test)]
impl<E> CachedHead<E> {
    /// Where the pieces lie.
    pub(crate) fn places(&self) -> Vec<usize> {
        self.pieces.iter().map(|piece| Arc::as_ptr(piece).addr()).collect()
    }
}

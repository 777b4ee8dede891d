//! Keys and values of one head of one sequence, in panels as products read them, and attention of new tokens to them.
//!
//! Each query gets the same bits however many queries are computed together: a number of a product is summed in an order
//! that depends on its depth alone, and spans of keys, after each of which a query's sums are scaled, begin at multiples of
//! [`SPAN`]. Keys that a query does not see have the weight 0.

use crate::attention::Mask;
use crate::cpu::element::Element;
use crate::cpu::kernel::Kernel;
use crate::matrix::Matrix;
use crate::panels::{pack_left_all, pack_right_panel};
use crate::sequence_head::{BLOCK, HeadWorkspace, PackedPanels, SPAN, multiply_panels, weigh};
use aligned_vec::AVec;
use std::ops::Range;

/// Memory is allocated for multiples of so many tokens: a multiple of every kernel's columns and depth.
const ROOM: usize = 32;

/// The keys and values of a head. Memory of its own lets a sequence grow, leave and be copied without the others.
#[derive(Debug, Clone)]
pub(crate) struct CachedHead<E> {
    /// K.
    size: usize,
    /// Tokens held.
    len: usize,
    /// Tokens that fit.
    room: usize,
    /// Right panels of the transposed keys, `[K, room]`.
    keys: AVec<E>,
    /// Right panels of the values, `[room, K]`.
    values: AVec<E>,
}

impl<E: Element> CachedHead<E> {
    /// No tokens; `size`: K.
    pub(crate) fn new(size: usize) -> Self {
        Self { size, len: 0, room: 0, keys: AVec::new(64), values: AVec::new(64) }
    }

    /// Tokens held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Numbers of a panel of keys.
    fn key_panel<K: Kernel>(&self) -> usize {
        self.size.next_multiple_of(K::DEPTH) * K::COLUMNS
    }

    /// Columns of the panels of values.
    fn wide<K: Kernel>(&self) -> usize {
        self.size.next_multiple_of(K::COLUMNS)
    }

    /// Adds tokens, of which there are at most `context`. `keys`, `values`: `[n, K]`.
    pub(crate) fn add<K: Kernel>(&mut self, keys: Matrix<E>, values: Matrix<E>, context: usize) {
        let new = self.len..self.len + keys.rows;
        self.make_room::<K>(new.end, context);
        self.add_keys::<K>(keys, new.clone());
        self.add_values::<K>(values, new.clone());
        self.len = new.end;
    }

    /// Makes room for `len` tokens. Room grows by half, but hardly beyond `context`.
    fn make_room<K: Kernel>(&mut self, len: usize, context: usize) {
        if len <= self.room {
            return;
        }
        let room = (len + len / 2).min(context).max(len).next_multiple_of(ROOM);
        let (old, wide) = (self.room, self.wide::<K>());
        let mut keys = AVec::new(64);
        keys.resize(room / K::COLUMNS * self.key_panel::<K>(), E::default());
        keys[..self.keys.len()].copy_from_slice(&self.keys);
        let mut values = AVec::new(64);
        values.resize(room * wide, E::default());
        if old > 0 {
            let panels = values.chunks_exact_mut(room * K::COLUMNS).zip(self.values.chunks_exact(old * K::COLUMNS));
            panels.for_each(|(new, old)| new[..old.len()].copy_from_slice(old));
        }
        (self.room, self.keys, self.values) = (room, keys, values);
    }

    /// Writes the keys of the tokens `new`: one by one to the panel that has some already, then by panels.
    fn add_keys<K: Kernel>(&mut self, keys: Matrix<E>, new: Range<usize>) {
        let size = self.key_panel::<K>();
        let whole = new.start.next_multiple_of(K::COLUMNS).min(new.end);
        for (row, token) in (new.start..whole).enumerate() {
            let panel = &mut self.keys[token / K::COLUMNS * size..];
            for (k, x) in keys.row_part(row, 0..self.size).iter().enumerate() {
                panel[K::right_index(k, token % K::COLUMNS)] = *x;
            }
        }
        for first in (whole..new.end).step_by(K::COLUMNS) {
            let rows = first - new.start..(first + K::COLUMNS).min(new.end) - new.start;
            let panel = &mut self.keys[first / K::COLUMNS * size..][..size];
            pack_right_panel::<K, E, E>(keys.t(), 0..self.size, rows, panel);
        }
    }

    /// Writes the values of the tokens `new`: one by one to the depth that has some already, then all others.
    fn add_values<K: Kernel>(&mut self, values: Matrix<E>, new: Range<usize>) {
        let whole = new.start.next_multiple_of(K::DEPTH).min(new.end);
        for (first, panel) in
            (0..self.size).step_by(K::COLUMNS).zip(self.values.chunks_exact_mut(self.room * K::COLUMNS))
        {
            let columns = first..(first + K::COLUMNS).min(self.size);
            for (row, token) in (new.start..whole).enumerate() {
                for (column, x) in values.row_part(row, columns.clone()).iter().enumerate() {
                    panel[K::right_index(token, column)] = *x;
                }
            }
            if whole < new.end {
                let rows = whole - new.start..new.len();
                pack_right_panel::<K, E, E>(values, rows, columns, &mut panel[whole * K::COLUMNS..]);
            }
        }
    }

    /// Removes all but the first `len` tokens. Products multiply what lies behind them by 0, which must not be NaN.
    pub(crate) fn truncate<K: Kernel>(&mut self, len: usize) {
        let removed = len..self.len.min(len.next_multiple_of(K::DEPTH));
        if self.room > 0 {
            for panel in self.values.chunks_exact_mut(self.room * K::COLUMNS) {
                for token in removed.clone() {
                    (0..K::COLUMNS).for_each(|column| panel[K::right_index(token, column)] = E::default());
                }
            }
        }
        self.len = self.len.min(len);
    }

    /// Queries that are computed together, at most.
    pub(crate) fn block<K: Kernel>() -> usize {
        (BLOCK / K::ROWS).max(1) * K::ROWS
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
        let (m, wide) = (queries.rows, self.wide::<K>());
        let (rows, scale) = (m.next_multiple_of(K::ROWS), 1.0 / (self.size as f32).sqrt());
        let keys = PackedPanels { packed: &self.keys, size: self.key_panel::<K>() };
        let values = PackedPanels { packed: &self.values, size: self.room * K::COLUMNS };
        let seen = |query: usize| mask.visible(first + query);
        let (start, end) = (seen(0).start, first + m);
        let left_size = pack_left_all::<K, E>(queries, &mut workspace.queries);
        let out = workspace.out.numbers::<f32>(rows * wide);
        let (mut most, mut totals) = ([f32::NEG_INFINITY; BLOCK], [0.0; BLOCK]);
        for (number, span) in (start / SPAN * SPAN..end).step_by(SPAN).enumerate() {
            let columns = span.max(start / ROOM * ROOM)..(span + SPAN).min(end.next_multiple_of(ROOM));
            let n = columns.len();
            let weights = workspace.weights.numbers::<f32>(rows * n);
            let deep = self.size.next_multiple_of(K::DEPTH);
            let left = (workspace.queries.last(), left_size, m);
            let needed = |rows: Range<usize>, column: usize| {
                seen(rows.end - 1).end > column && seen(rows.start).start < column + K::COLUMNS
            };
            multiply_panels::<K, E>(left, keys, (0, deep), columns.clone(), (&mut *weights, false), needed);
            for (i, row) in weights.chunks_exact_mut(n).enumerate().take(m) {
                let seen = seen(i);
                let within = |key: usize| key.clamp(columns.start, columns.end) - columns.start;
                let shrink = weigh(row, within(seen.start)..within(seen.end), scale, &mut most[i], &mut totals[i]);
                if number > 0 && shrink != 1.0 {
                    out[i * wide..(i + 1) * wide].iter_mut().for_each(|x| *x *= shrink);
                }
            }
            let deep = n.min((end - columns.start).next_multiple_of(K::DEPTH));
            let weights = Matrix::new(weights, m, deep, n);
            let size = pack_left_all::<K, f32>(weights, &mut workspace.packed_weights);
            let left = (workspace.packed_weights.last(), size, m);
            let sums = (&mut *out, number > 0);
            multiply_panels::<K, E>(left, values, (columns.start, deep), 0..wide, sums, |_, _| true);
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
    /// Where the keys lie, and how many tokens have room there.
    pub(crate) fn place(&self) -> (*const E, usize) {
        (self.keys.as_ptr(), self.room)
    }
}

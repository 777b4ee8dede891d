//! The innermost loop of a matrix product: a tile of the result from a panel of rows and a panel of columns.
//!
//! A panel holds `ROWS` rows of the left matrix, or `COLUMNS` columns of the right one, in the order in which the loop
//! reads them (Goto & van de Geijn 2008). What the last panel has beyond the matrix may be anything: it goes into sums
//! that nobody reads.

use crate::cpu::element::Element;
use crate::cpu::prefetch;
use crate::matrix::Matrix;
use std::ops::Range;

/// One way of multiplying.
pub(crate) trait Kernel: Copy + Send + Sync + 'static {
    /// What left panels hold.
    type Left: Element;
    /// What right panels hold that are made for one product.
    type Right: Element;
    /// Rows of a left panel.
    const ROWS: usize;
    /// Columns of a right panel.
    const COLUMNS: usize;
    /// The depth of panels is a multiple of it.
    const DEPTH: usize;
    /// Depth worked on at a time, so that a right panel of it stays in the first-level cache.
    const CHUNK: usize;
    /// Whether panels of bf16 are best widened to f32 before many rows are multiplied with them.
    const WIDENS: bool;
    /// Rows up to which a product reads the right panels from memory in their order and leaves it to the processor to fetch
    /// them; beyond, each tile has part of the next panel fetched.
    const STREAMED: usize = 0;

    /// How many of `rows` rows a panel best holds, where all are one product: the same in each panel as far as possible,
    /// since a tile of few rows waits for its right panel.
    fn height(rows: usize) -> usize {
        rows.div_ceil(rows.div_ceil(Self::ROWS).max(1)).max(1)
    }

    /// Rows `rows` of `matrix`, at depth `depth`, as a left panel into `panel`, which has room for `depth` filled up to a
    /// multiple of `DEPTH`.
    fn pack_left<T: Element>(matrix: Matrix<T>, rows: Range<usize>, depth: Range<usize>, panel: &mut [Self::Left]);

    /// Columns `columns` of `matrix`, at depth `depth`, as a right panel.
    fn pack_right<T: Element, S: Element>(
        matrix: Matrix<T>,
        depth: Range<usize>,
        columns: Range<usize>,
        panel: &mut [S],
    );

    /// The index in a right panel of the number at depth `k` of column `column`.
    fn right_index(k: usize, column: usize) -> usize {
        k * Self::COLUMNS + column
    }

    /// `c = left·right`, or `c += left·right` with `add`: `rows` rows of `COLUMNS` numbers each, `stride` apart.
    /// Meanwhile the processor fetches `next`.
    ///
    /// # Safety
    /// The processor has the kernel's instructions. `left` and `right` hold panels of `depth`; `c` holds `ROWS` rows (a
    /// kernel may write more than `rows`), which nobody else uses meanwhile.
    #[allow(clippy::too_many_arguments)]
    unsafe fn tile<S: Element, F: Element>(
        rows: usize,
        left: *const Self::Left,
        right: *const S,
        depth: usize,
        c: *mut f32,
        stride: usize,
        add: bool,
        next: &[F],
    );
}

/// A left panel of f32: `ROWS` numbers for each step of depth.
#[inline(always)]
pub(crate) fn pack_left<const ROWS: usize, T: Element>(
    matrix: Matrix<T>,
    rows: Range<usize>,
    depth: Range<usize>,
    panel: &mut [f32],
) {
    if depth.is_empty() {
        return;
    }
    let (n, first) = (rows.len(), rows.start);
    if matrix.is_transposed() {
        for (k, out) in depth.zip(panel.chunks_exact_mut(ROWS)) {
            let source = matrix.column_part(k, first..first + n);
            // A length known beforehand is faster than any loop over one that is not.
            if let Some(source) = source.first_chunk::<ROWS>() {
                out.iter_mut().zip(source).for_each(|(out, x)| *out = x.get());
            } else {
                out.iter_mut().zip(source).for_each(|(out, x)| *out = x.get());
            }
        }
    } else {
        for (r, row) in rows.enumerate() {
            let source = matrix.row_part(row, depth.clone());
            panel[r..].iter_mut().step_by(ROWS).zip(source).for_each(|(out, x)| *out = x.get());
        }
    }
}

/// A right panel: `COLUMNS` numbers for each step of depth.
#[inline(always)]
pub(crate) fn pack_right<const COLUMNS: usize, T: Element, S: Element>(
    matrix: Matrix<T>,
    depth: Range<usize>,
    columns: Range<usize>,
    panel: &mut [S],
) {
    if depth.is_empty() {
        return;
    }
    if matrix.is_transposed() {
        for (c, column) in columns.enumerate() {
            let source = matrix.column_part(column, depth.clone());
            panel[c..].iter_mut().step_by(COLUMNS).zip(source).for_each(|(out, x)| *out = S::of(x.get()));
        }
    } else {
        for (k, out) in depth.zip(panel.chunks_exact_mut(COLUMNS)) {
            let source = matrix.row_part(k, columns.clone());
            if let Some(source) = source.first_chunk::<COLUMNS>() {
                out.iter_mut().zip(source).for_each(|(out, x)| *out = S::of(x.get()));
            } else {
                out.iter_mut().zip(source).for_each(|(out, x)| *out = S::of(x.get()));
            }
        }
    }
}

/// On any processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

impl Kernel for Portable {
    type Left = f32;
    type Right = f32;
    const ROWS: usize = 4;
    const COLUMNS: usize = 8;
    const DEPTH: usize = 1;
    const CHUNK: usize = 256;
    const WIDENS: bool = true;

    #[inline(always)]
    fn pack_left<T: Element>(matrix: Matrix<T>, rows: Range<usize>, depth: Range<usize>, panel: &mut [f32]) {
        pack_left::<{ Self::ROWS }, T>(matrix, rows, depth, panel);
    }

    #[inline(always)]
    fn pack_right<T: Element, S: Element>(
        matrix: Matrix<T>,
        depth: Range<usize>,
        columns: Range<usize>,
        panel: &mut [S],
    ) {
        pack_right::<{ Self::COLUMNS }, T, S>(matrix, depth, columns, panel);
    }

    unsafe fn tile<S: Element, F: Element>(
        rows: usize,
        left: *const f32,
        right: *const S,
        depth: usize,
        c: *mut f32,
        stride: usize,
        add: bool,
        next: &[F],
    ) {
        prefetch(next);
        // SAFETY: the caller promises the memory; each arm reads and writes that many rows.
        unsafe {
            match rows {
                1 => tile::<1, S>(left, right, depth, c, stride, add),
                2 => tile::<2, S>(left, right, depth, c, stride, add),
                3 => tile::<3, S>(left, right, depth, c, stride, add),
                4 => tile::<4, S>(left, right, depth, c, stride, add),
                _ => {}
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`] of [`Portable`], with `N` rows.
unsafe fn tile<const N: usize, S: Element>(
    left: *const f32,
    right: *const S,
    depth: usize,
    c: *mut f32,
    stride: usize,
    add: bool,
) {
    const ROWS: usize = Portable::ROWS;
    const COLUMNS: usize = Portable::COLUMNS;
    // SAFETY: the panels hold that many numbers, as the caller promises.
    let (left, right) =
        unsafe { (std::slice::from_raw_parts(left, depth * ROWS), std::slice::from_raw_parts(right, depth * COLUMNS)) };
    let mut sums = [[0.0f32; COLUMNS]; N];
    for (l, r) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
        for (sums, l) in sums.iter_mut().zip(l) {
            for (sum, r) in sums.iter_mut().zip(r) {
                *sum += l * r.get();
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: row `r` of `c` holds COLUMNS numbers, which nobody else uses, as the caller promises.
        let row = unsafe { std::slice::from_raw_parts_mut(c.add(r * stride), COLUMNS) };
        row.iter_mut().zip(sums).for_each(|(c, sum)| *c = if add { *c + sum } else { *sum });
    }
}

//! Matrix products: over all cores, of matrices as they lie in memory, in f32 or with bf16 inputs.
//!
//! The right matrix of [`multiply`] is packed into panels beforehand ([`Panels`]), as weights are once a step; that of
//! [`accumulate`] on its way, as activations are, whose product is a gradient. How results are rounded depends on the
//! matrices' sizes alone, never on the number of threads.

use crate::blocks::{JOBS, PACKING, PACKING_JOBS, READING, blocks};
use crate::cpu::element::{Element, bf16};
use crate::cpu::kernel::Kernel;
use crate::cpu::{Cpu, vectorized};
use crate::matrix::Matrix;
use crate::panels::{PanelNumbers, Panels, pack_all, pack_left_low, pack_left_rows, pack_right_columns};
use crate::path::{Path, Precision, with_kernel};
use crate::quantized::multiply_quantized;
use crate::scratch::ScratchBuffer;
use crate::shared::{SharedSlice, SplitMut};
use crate::slices::take;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::ops::Range;

/// Memory that a thread works in.
#[derive(Default)]
struct ProductWorkspace {
    left: ScratchBuffer,
    right: ScratchBuffer,
    sums: ScratchBuffer,
}

thread_local! {
    static WORKSPACE: RefCell<ProductWorkspace> = RefCell::default();
    /// The left panels of a product of few rows, which all its jobs read.
    static FEW: Cell<ScratchBuffer> = Cell::default();
}

/// Runs `f` with this thread's workspace.
fn with_workspace(f: impl FnOnce(&mut ProductWorkspace)) {
    WORKSPACE.with_borrow_mut(f);
}

/// Bytes of left panels that stay in the second-level cache beside what else is there.
const LEFT_BYTES: usize = 768 * 1024;
/// Rows, at most, that are packed once for all jobs of a product.
const FEW_ROWS: usize = 64;
/// Right panels whose sums are kept before they are handed out.
const GROUP: usize = 8;
/// Numbers between rows of sums: at distances of a power of two, rows would displace each other from the first-level cache.
const APART: usize = 16;
/// Blocks, one below the other, from which on the right matrix is packed beforehand for all of them.
const MANY: usize = 4;

/// The product of `a`, `[M, depth]`, and the matrix in `b`, `[depth, N]`, over all cores. Hands parts of its rows to `finish`
/// with their row, their first column and the same part of `out`, `[M, N]`: each part once, several at the same time.
pub(crate) fn multiply<A: Element, O: SplitMut>(
    a: Matrix<A>,
    b: &Panels,
    out: O,
    finish: impl for<'p> Fn(usize, usize, &mut [f32], O::Part<'p>) + Sync,
) {
    assert_eq!(a.columns, b.depth, "the inner dimensions of a matrix product differ");
    assert_eq!(out.len(), a.rows * b.columns, "the output of a matrix product has the wrong size");
    let (out, columns) = (out.share(), b.columns);
    let finish = |row: usize, column: usize, sums: &mut [f32]| {
        let at = row * columns + column;
        // SAFETY: jobs are blocks of the result that do not overlap (`blocks` cuts rows and columns into ranges), and each
        // job hands out each part of its rows once (`multiply_block` goes through its groups of columns, and in each through
        // its rows).
        let part = unsafe { O::part(&out, at..at + sums.len()) };
        finish(row, column, sums, part);
    };
    with_kernel!(b.path, K => match &b.numbers {
        PanelNumbers::Quantized(panels) => multiply_quantized(a, panels, finish),
        PanelNumbers::F32(numbers) => multiply_with::<K, A, f32>(a, numbers, columns, finish),
        PanelNumbers::Bf16(numbers) => multiply_with::<K, A, bf16>(a, numbers, columns, finish),
    });
}

/// For products that only training and recurrent networks need, neither of which has quantized weights.
fn not_quantized() -> ! {
    panic!("quantized weights in a product that cannot read them")
}

fn multiply_with<K: Kernel, A: Element, S: Element>(
    a: Matrix<A>,
    panels: &[S],
    columns: usize,
    finish: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let (rows, depth) = (a.rows, a.columns);
    let padded = depth.next_multiple_of(K::DEPTH);
    let high = (LEFT_BYTES / (padded.min(K::CHUNK) * K::ROWS * size_of::<K::Left>()).max(1)).clamp(1, 16);
    let jobs = blocks((rows, columns), (K::ROWS, K::COLUMNS), (high, usize::MAX), READING, JOBS);
    if rows > FEW_ROWS || jobs.iter().any(|(part, _)| part.len() < rows) {
        jobs.into_par_iter().for_each(|job| multiply_block::<K, A, S>(a, panels, job, &finish));
        return;
    }
    // Taken out: rayon may have this thread do other work meanwhile.
    let mut packed = FEW.take();
    pack_left_low::<K, A>(a, (0..rows, K::height(rows)), 0..depth, &mut packed);
    let left: &[K::Left] = packed.last();
    jobs.into_par_iter().for_each(|job| {
        with_workspace(|workspace| multiply_packed::<K, S>((left, padded), panels, job, workspace, &finish));
    });
    FEW.set(packed);
}

/// [`multiply`] on this thread alone, for few rows among loops that are spread over the threads already.
pub(crate) fn multiply_here<A: Element>(a: Matrix<A>, b: &Panels, finish: impl FnMut(usize, usize, &mut [f32])) {
    assert_eq!(a.columns, b.depth, "the inner dimensions of a matrix product differ");
    let whole = (0..a.rows, 0..b.columns);
    with_kernel!(b.path, K => match &b.numbers {
        PanelNumbers::Quantized(_) => not_quantized(),
        PanelNumbers::F32(numbers) => multiply_block::<K, A, f32>(a, numbers, whole, finish),
        PanelNumbers::Bf16(numbers) => multiply_block::<K, A, bf16>(a, numbers, whole, finish),
    });
}

vectorized! {
    fn widen[S: Element](from: &[S], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.get());
    }
}

/// The part of a product that lies in `rows` and `columns`.
fn multiply_block<K: Kernel, A: Element, S: Element>(
    a: Matrix<A>,
    panels: &[S],
    (rows, columns): (Range<usize>, Range<usize>),
    mut finish: impl FnMut(usize, usize, &mut [f32]),
) {
    let padded = a.columns.next_multiple_of(K::DEPTH);
    with_workspace(|workspace| {
        let mut packed = std::mem::take(&mut workspace.left);
        pack_left_low::<K, A>(a, (rows.clone(), K::height(rows.len())), 0..a.columns, &mut packed);
        multiply_packed::<K, S>((packed.last(), padded), panels, (rows, columns), workspace, &mut finish);
        workspace.left = packed;
    });
}

/// The part of a product that lies in `rows` and `columns`. `left`: panels of [`Kernel::height`] of the rows each, `padded`
/// deep.
fn multiply_packed<K: Kernel, S: Element>(
    (left, padded): (&[K::Left], usize),
    panels: &[S],
    (rows, columns): (Range<usize>, Range<usize>),
    workspace: &mut ProductWorkspace,
    mut finish: impl FnMut(usize, usize, &mut [f32]),
) {
    let (height, left_size) = (K::height(rows.len()), padded * K::ROWS);
    let n_left = rows.len().div_ceil(height);
    let (wide, stride) = (GROUP * K::COLUMNS, GROUP * K::COLUMNS + APART);
    let sums = workspace.sums.numbers::<f32>(n_left * K::ROWS * stride);
    for first in columns.clone().step_by(wide) {
        let group = first..(first + wide).min(columns.end);
        for k in (0..padded.max(1)).step_by(K::CHUNK) {
            let deep = K::CHUNK.min(padded - k);
            for column in group.clone().step_by(K::COLUMNS) {
                let (here, size) = ((column / K::COLUMNS * padded + k) * K::COLUMNS, deep * K::COLUMNS);
                let right = &panels[here..here + size];
                // The next panel of the group; after the last, the first one at the next depth, then the next group's.
                let next = if column + K::COLUMNS < group.end {
                    here + padded * K::COLUMNS
                } else if k + deep < padded {
                    (first / K::COLUMNS * padded + k + deep) * K::COLUMNS
                } else {
                    (column / K::COLUMNS + 1) * padded * K::COLUMNS
                };
                let next = panels.get(next..next + size).unwrap_or_default();
                let sums = (&mut sums[column - first..], stride);
                let left = LeftPanels { numbers: left, size: left_size, height };
                if K::WIDENS && !S::EXACT && n_left > 2 {
                    let wide = workspace.right.numbers::<f32>(size);
                    widen(right, wide);
                    column_of_tiles::<K, f32, S>(left, k, wide, next, rows.len(), sums);
                } else {
                    column_of_tiles::<K, S, S>(left, k, right, next, rows.len(), sums);
                }
            }
        }
        for (r, row) in rows.clone().zip(sums.chunks_exact_mut(stride)) {
            finish(r, first, &mut row[..group.len()]);
        }
    }
}

/// Left panels of `size` numbers and `height` rows each.
#[derive(Clone, Copy)]
struct LeftPanels<'a, T> {
    numbers: &'a [T],
    size: usize,
    height: usize,
}

/// `rows` rows of sums, `stride` apart, from left panels at depth `k ..` and one right panel. What is at hand is added to
/// unless `k` is 0. Meanwhile the panel that is read `next` comes from memory.
fn column_of_tiles<K: Kernel, S: Element, N: Element>(
    left: LeftPanels<K::Left>,
    k: usize,
    right: &[S],
    next: &[N],
    rows: usize,
    (sums, stride): (&mut [f32], usize),
) {
    let deep = right.len() / K::COLUMNS;
    let next = if rows <= K::STREAMED { &[] } else { next };
    let mut parts = next.chunks(next.len().div_ceil(rows.div_ceil(left.height)).max(1));
    for (panel, first) in (0..rows).step_by(left.height).enumerate() {
        let n = left.height.min(rows - first);
        let left = &left.numbers[panel * left.size + k * K::ROWS..];
        let sums = (&mut sums[first * stride..], stride);
        tile_before::<K, S, N>(n, left, right, deep, sums, k > 0, parts.next().unwrap_or_default());
    }
}

/// One tile of `rows` rows of sums, `stride` apart; there is room for `K::ROWS`.
#[inline]
pub(crate) fn tile<K: Kernel, S: Element>(
    rows: usize,
    left: &[K::Left],
    right: &[S],
    deep: usize,
    sums: (&mut [f32], usize),
    add: bool,
) {
    tile_before::<K, S, S>(rows, left, right, deep, sums, add, &[]);
}

/// The same; meanwhile the processor fetches `next`.
#[inline]
fn tile_before<K: Kernel, S: Element, N: Element>(
    rows: usize,
    left: &[K::Left],
    right: &[S],
    deep: usize,
    (sums, stride): (&mut [f32], usize),
    add: bool,
    next: &[N],
) {
    assert!(deep.is_multiple_of(K::DEPTH) && rows <= K::ROWS && stride >= K::COLUMNS);
    assert!(left.len() >= deep * K::ROWS && right.len() >= deep * K::COLUMNS);
    assert!(sums.len() >= (K::ROWS - 1) * stride + K::COLUMNS);
    // SAFETY: `K` was chosen because the processor has it; the panels and the room for sums are as large as asserted, and
    // the sums are borrowed mutably.
    unsafe {
        K::tile::<S, N>(rows, left.as_ptr(), right.as_ptr(), deep, sums.as_mut_ptr(), stride, add, next);
    }
}

/// Rows and columns of a result that a thread works on in [`accumulate`], at most.
const TALL: usize = 768;
const WIDE: usize = 1536;
/// Depth for which it packs the left matrix at a time.
const DEEP: usize = 4096;

/// `c = a·b`, or `c += a·b` with `add`, over all cores. `a`: `[M, depth]`; `b`: `[depth, N]`; `c`: `[M, N]`, row after row.
pub(crate) fn accumulate<A: Element, B: Element>(
    precision: Precision,
    a: Matrix<A>,
    b: Matrix<B>,
    c: &mut [f32],
    add: bool,
) {
    assert_eq!(a.columns, b.rows, "the inner dimensions of a matrix product differ");
    with_kernel!(Path::of(precision), K => accumulate_with::<K, A, B>(a, b, c, add));
}

fn accumulate_with<K: Kernel, A: Element, B: Element>(a: Matrix<A>, b: Matrix<B>, c: &mut [f32], add: bool) {
    let jobs = jobs_of_sums::<K>((a.rows, b.columns), PACKING);
    let below = jobs.iter().filter(|(_, part)| part.start == 0).count();
    if below >= MANY {
        let packed = pack_all::<K, B, K::Right>(b);
        return sum_with::<K, A, _>(
            a,
            PackedMatrix::<K::Right> { panels: &packed, depth: a.columns },
            b.columns,
            jobs,
            c,
            add,
        );
    }
    sum_with::<K, A, _>(a, b, b.columns, jobs, c, add);
}

/// `c = a·b` over all cores, as [`accumulate`], where `b`, `[depth, N]`, was packed beforehand. For a great depth: panels are
/// read in parts of it that stay near the processor.
pub(crate) fn multiply_deep<A: Element>(a: Matrix<A>, b: &Panels, c: &mut [f32]) {
    assert_eq!(a.columns, b.depth, "the inner dimensions of a matrix product differ");
    let columns = b.columns;
    with_kernel!(b.path, K => {
        let jobs = jobs_of_sums::<K>((a.rows, columns), READING);
        match &b.numbers {
            PanelNumbers::Quantized(_) => not_quantized(),
            PanelNumbers::F32(panels) => {
                sum_with::<K, A, _>(a, PackedMatrix { panels, depth: b.depth }, columns, jobs, c, false);
            }
            PanelNumbers::Bf16(panels) => {
                sum_with::<K, A, _>(a, PackedMatrix { panels, depth: b.depth }, columns, jobs, c, false);
            }
        }
    });
}

/// Blocks of a result of `rows` × `columns` whose sums go through memory, see [`blocks`].
fn jobs_of_sums<K: Kernel>(size: (usize, usize), right: f64) -> Vec<(Range<usize>, Range<usize>)> {
    let most = ((TALL / K::ROWS).max(1), WIDE.div_ceil(K::COLUMNS));
    blocks(size, (K::ROWS, K::COLUMNS), most, right, PACKING_JOBS)
}

/// A right matrix of [`sum_with`].
trait RightMatrix<K: Kernel>: Copy + Sync {
    /// What panels hold.
    type Number: Element;

    /// Columns `columns` at depth `depth` as panels, which are made in `scratch` if need be, and the numbers from the beginning
    /// of one to that of the next.
    fn panels<'s>(
        &'s self,
        depth: Range<usize>,
        columns: Range<usize>,
        scratch: &'s mut ScratchBuffer,
    ) -> (&'s [Self::Number], usize);
}

impl<K: Kernel, B: Element> RightMatrix<K> for Matrix<'_, B> {
    type Number = K::Right;

    fn panels<'s>(
        &'s self,
        depth: Range<usize>,
        columns: Range<usize>,
        scratch: &'s mut ScratchBuffer,
    ) -> (&'s [K::Right], usize) {
        let size = pack_right_columns::<K, B>(*self, depth, columns, scratch);
        (scratch.last(), size)
    }
}

/// The panels of a matrix that is `depth` deep.
#[derive(Clone, Copy)]
struct PackedMatrix<'a, S> {
    panels: &'a [S],
    depth: usize,
}

impl<K: Kernel, S: Element> RightMatrix<K> for PackedMatrix<'_, S> {
    type Number = S;

    fn panels<'s>(&'s self, depth: Range<usize>, columns: Range<usize>, _: &'s mut ScratchBuffer) -> (&'s [S], usize) {
        let size = self.depth.next_multiple_of(K::DEPTH) * K::COLUMNS;
        (&self.panels[columns.start / K::COLUMNS * size + depth.start * K::COLUMNS..], size)
    }
}

/// `c = a·b`, or `c += a·b` with `add`, block by block. `a`: `[M, depth]`; `b`: `[depth, columns]`.
fn sum_with<K: Kernel, A: Element, R: RightMatrix<K>>(
    a: Matrix<A>,
    b: R,
    columns: usize,
    jobs: Vec<(Range<usize>, Range<usize>)>,
    c: &mut [f32],
    add: bool,
) {
    let depth = a.columns;
    assert_eq!(c.len(), a.rows * columns, "the output of a matrix product has the wrong size");
    if depth == 0 && !add {
        c.fill(0.0);
    }
    let c = SharedSlice::new(c);
    jobs.into_par_iter().for_each(|(rows, part)| {
        // Sums stay in the second-level cache until they are whole.
        let row_bytes = K::COLUMNS * rows.len().next_multiple_of(K::ROWS) * size_of::<f32>();
        let wide = (Cpu::get().second_level_bytes * 3 / 5 / row_bytes).clamp(4, 16) * K::COLUMNS;
        let stride = wide + APART;
        with_workspace(|workspace| {
            for all in (0..depth).step_by(DEEP).map(|first| first..(first + DEEP).min(depth)) {
                let size = pack_left_rows::<K, A>(a, rows.clone(), all.clone(), &mut workspace.left);
                let left: &[K::Left] = workspace.left.last();
                for group in part.clone().step_by(wide).map(|first| first..(first + wide).min(part.end)) {
                    let sums = workspace.sums.numbers::<f32>(rows.len().next_multiple_of(K::ROWS) * stride);
                    for k in all.clone().step_by(K::CHUNK) {
                        let depth = k..(k + K::CHUNK).min(all.end);
                        let size_of_part = depth.len().next_multiple_of(K::DEPTH) * K::COLUMNS;
                        let (right, apart) = b.panels(depth, group.clone(), &mut workspace.right);
                        for (panel, column) in group.clone().step_by(K::COLUMNS).enumerate() {
                            let right = &right[panel * apart..][..size_of_part];
                            let sums = (&mut sums[column - group.start..], stride);
                            let left = LeftPanels { numbers: left, size, height: K::ROWS };
                            let k = k - all.start;
                            column_of_tiles::<K, R::Number, R::Number>(left, k, right, &[], rows.len(), sums);
                        }
                    }
                    for (row, sums) in rows.clone().zip(sums.chunks(stride)) {
                        let at = row * columns + group.start;
                        // SAFETY: the blocks of the jobs do not overlap.
                        let out = unsafe { c.part(at..at + group.len()) };
                        take(out, &sums[..group.len()], add || all.start > 0);
                    }
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Cpu, Level};

    fn paths(precision: Precision) -> Vec<Path> {
        let mut paths = vec![Path::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            paths.extend((Cpu::get().level >= Level::Avx2).then_some(Path::Avx2));
            paths.extend((Cpu::get().level >= Level::Avx512).then_some(Path::Avx512));
            let dots = Cpu::get().level == Level::Avx512 && crate::cpu::pairs::are_at_hand();
            paths.extend((precision == Precision::Bf16 && dots).then_some(Path::Dots));
            #[cfg(target_os = "linux")]
            if precision == Precision::Bf16 && dots {
                crate::cpu::amx::emulated::install();
                paths.push(Path::Tiles);
            }
        }
        paths
    }

    /// Whole numbers that bf16 holds, so that every path gives the same sums.
    fn numbers<T: Element>(n: usize, step: usize) -> Vec<T> {
        (0..n).map(|i| T::of(((i * step) % 13) as f32 - 6.0)).collect()
    }

    fn expected(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize)) -> Vec<f32> {
        let at = |i: usize, j: usize| (0..k).map(|x| a[i * k + x] * b[x * n + j]).sum();
        (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| at(i, j)).collect()
    }

    /// `rows × columns` numbers, transposed.
    fn turned<T: Copy>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
        (0..columns).flat_map(|j| (0..rows).map(move |i| x[i * columns + j])).collect()
    }

    /// Fewer under Miri, which takes a second for what else takes a millisecond.
    const SIZES: &[usize] = if cfg!(miri) { &[0, 1, 7] } else { &[0, 1, 7, 31, 33, 257] };

    /// Every size with every other, so that no edge of a panel is missed.
    fn sizes() -> impl Iterator<Item = (usize, usize, usize)> {
        let three = |m: usize| SIZES.iter().flat_map(move |&k| SIZES.iter().map(move |&n| (m, k, n)));
        SIZES.iter().flat_map(move |&m| three(m))
    }

    fn products_are_their_sums<A: Element, S: Element>(precision: Precision) {
        for (m, k, n) in sizes() {
            // One number aside, so that nothing is aligned.
            let (a, b) = (numbers::<A>(m * k + 1, 7), numbers::<S>(k * n + 1, 5));
            let (a, b) = (&a[1..], &b[1..]);
            let a32: Vec<f32> = a.iter().map(|x| x.get()).collect();
            let b32: Vec<f32> = b.iter().map(|x| x.get()).collect();
            let sums = expected(&a32, &b32, (m, k, n));
            let (at, bt) = (turned(a, m, k), turned(b, k, n));
            for path in paths(precision) {
                for right in [Matrix::new(b, k, n, n), Matrix::new(&bt, n, k, k).t()] {
                    for left in [Matrix::new(a, m, k, k), Matrix::new(&at, k, m, m).t()] {
                        let panels = Panels::pack_for(path, right, precision);
                        let mut c = vec![f32::NAN; m * n];
                        multiply(left, &panels, &mut c[..], |_, _, sums, c| c.copy_from_slice(sums));
                        assert_eq!(c, sums, "{path:?} {m} × {k} × {n}");
                        c.fill(f32::NAN);
                        multiply_deep(left, &panels, &mut c);
                        assert_eq!(c, sums, "{path:?} {m} × {k} × {n}, in parts of the depth");
                        with_kernel!(path, K => accumulate_with::<K, A, S>(left, right, &mut c, false));
                        assert_eq!(c, sums, "{path:?} {m} × {k} × {n}, accumulated");
                        with_kernel!(path, K => accumulate_with::<K, A, S>(left, right, &mut c, true));
                        let twice: Vec<f32> = sums.iter().map(|x| 2.0 * x).collect();
                        assert_eq!(c, twice, "{path:?} {m} × {k} × {n}, accumulated twice");
                    }
                }
            }
        }
    }

    #[test]
    fn products_of_f32_are_their_sums() {
        products_are_their_sums::<f32, f32>(Precision::F32);
    }

    #[test]
    fn products_of_bf16_are_their_sums() {
        products_are_their_sums::<bf16, bf16>(Precision::Bf16);
        products_are_their_sums::<f32, f32>(Precision::Bf16);
    }

    /// Deeper than a chunk, wider than a group, higher than a block.
    #[test]
    fn large_products_are_their_sums() {
        let (m, k, n) = if cfg!(miri) { (9, 300, 20) } else { (300, 1100, 1000) };
        let (a, b) = (numbers::<f32>(m * k, 7), numbers::<f32>(k * n, 5));
        let sums = expected(&a, &b, (m, k, n));
        for precision in [Precision::F32, Precision::Bf16] {
            for path in paths(precision) {
                let panels = Panels::pack_for(path, Matrix::new(&b, k, n, n), precision);
                let mut c = vec![f32::NAN; m * n];
                multiply(Matrix::new(&a, m, k, k), &panels, &mut c[..], |_, _, sums, c| c.copy_from_slice(sums));
                assert_eq!(c, sums, "{path:?}");
                with_kernel!(path, K => accumulate_with::<K, f32, f32>(
                    Matrix::new(&a, m, k, k), Matrix::new(&b, k, n, n), &mut c, false
                ));
                assert_eq!(c, sums, "{path:?}, accumulated");
            }
        }
    }
}

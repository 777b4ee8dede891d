//! Products with AVX-512: 14 rows by two vectors of 16, which is 28 sums in the 32 registers.

use crate::cpu::element::Element;
use crate::cpu::kernel::{Kernel, pack_left, pack_right};
use crate::cpu::{prefetch, prefetch_ahead};
use crate::matrix::Matrix;
use std::arch::x86_64::*;
use std::ops::Range;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512;

pub(crate) const ROWS: usize = 14;
pub(crate) const COLUMNS: usize = 32;
/// Rows, at most, with which a product waits for the right panel to come from memory.
pub(crate) const FEW: usize = 4;
/// How many bytes ahead of its use a panel is then fetched: two pages, since the processor itself fetches up to the end of a
/// page only.
const AHEAD: usize = 8 * 1024;

/// Runs `$body` with `$N` a constant, the number of `$rows`, up to [`ROWS`].
macro_rules! by_rows {
    ($rows:expr, $N:ident => $body:expr) => {
        by_rows!(@ $rows, $N => $body, 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $rows:expr, $N:ident => $body:expr, $($n:literal)+) => {
        match $rows {
            0 => {}
            $($n => {
                const $N: usize = $n;
                $body
            })+
            _ => {
                const $N: usize = $crate::cpu::avx512::ROWS;
                $body
            }
        }
    };
}
pub(crate) use by_rows;

impl Kernel for Avx512 {
    type Left = f32;
    type Right = f32;
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    const DEPTH: usize = 1;
    const CHUNK: usize = 384;
    const WIDENS: bool = true;

    #[inline(always)]
    fn pack_left<T: Element>(matrix: Matrix<T>, rows: Range<usize>, depth: Range<usize>, panel: &mut [f32]) {
        let blocks = depth.len() / 16 * 16;
        if matrix.is_transposed() || rows.len() < ROWS || blocks == 0 {
            return pack_left::<ROWS, T>(matrix, rows, depth, panel);
        }
        for k in (0..blocks).step_by(16) {
            let part = depth.start + k..depth.start + k + 16;
            let source = |r: usize| matrix.row_part(rows.start + r.min(ROWS - 1), part.clone());
            let out = &mut panel[k * ROWS..(k + 16) * ROWS];
            // SAFETY: each source is 16 numbers, and `out` 16 rows of ROWS.
            unsafe { turn(std::array::from_fn(|r| source(r).as_ptr()), out.as_mut_ptr(), ROWS, (1 << ROWS) - 1) }
        }
        pack_left::<ROWS, T>(matrix, rows, depth.start + blocks..depth.end, &mut panel[blocks * ROWS..]);
    }

    #[inline(always)]
    fn pack_right<T: Element, S: Element>(
        matrix: Matrix<T>,
        depth: Range<usize>,
        columns: Range<usize>,
        panel: &mut [S],
    ) {
        let blocks = depth.len() / 16 * 16;
        if !matrix.is_transposed() || columns.len() < COLUMNS || blocks == 0 {
            return pack_right::<COLUMNS, T, S>(matrix, depth, columns, panel);
        }
        let mut turned = [0.0f32; 16 * COLUMNS];
        for k in (0..blocks).step_by(16) {
            let part = depth.start + k..depth.start + k + 16;
            for half in [0, 16] {
                let source = |c: usize| matrix.column_part(columns.start + half + c, part.clone()).as_ptr();
                // SAFETY: each source is 16 numbers, and `turned` 16 rows of COLUMNS, of which half are written.
                unsafe { turn(std::array::from_fn(source), turned[half..].as_mut_ptr(), COLUMNS, u16::MAX) }
            }
            let out = &mut panel[k * COLUMNS..(k + 16) * COLUMNS];
            out.iter_mut().zip(turned).for_each(|(out, x)| *out = S::of(x));
        }
        pack_right::<COLUMNS, T, S>(matrix, depth.start + blocks..depth.end, columns, &mut panel[blocks * COLUMNS..]);
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
        // SAFETY: the caller promises instructions and memory; each arm reads and writes that many rows.
        unsafe { by_rows!(rows, N => tile::<N, S>(left, right, depth, c, stride, add)) }
    }
}

/// Writes number `k` of source `r` to place `r` of row `k` of `out`, whose rows are `stride` apart: the places of a row
/// that `places` names.
///
/// # Safety
/// The processor has AVX-512; each source is 16 numbers; the named places of 16 rows of `out` may be written.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn turn<T: Element>(sources: [*const T; 16], out: *mut f32, stride: usize, places: u16) {
    let mut rows = [_mm512_setzero_ps(); 16];
    // A loop, since the array's own `map` would not be compiled for these instructions.
    for (row, source) in rows.iter_mut().zip(sources) {
        // SAFETY: as the caller promises.
        *row = unsafe { load(source) };
    }
    for (k, row) in transpose(rows).into_iter().enumerate() {
        // SAFETY: as the caller promises.
        unsafe { _mm512_mask_storeu_ps(out.add(k * stride), places, row) };
    }
}

/// Number `k` of row `r` at place `r` of row `k`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
    let mut pairs = rows;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    // fours[4i + j]: numbers j, 4 + j, 8 + j, 12 + j of rows 4i .. 4i + 4, in the vector's quarters.
    let mut fours = pairs;
    for i in (0..16).step_by(4) {
        let two = |a: __m512, b: __m512| {
            let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
            (_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)))
        };
        (fours[i], fours[i + 1]) = two(pairs[i], pairs[i + 2]);
        (fours[i + 2], fours[i + 3]) = two(pairs[i + 1], pairs[i + 3]);
    }
    let mut turned = fours;
    for j in 0..4 {
        let even = |a, b| _mm512_shuffle_f32x4::<0x88>(a, b); // quarters 0 and 2 of both
        let odd = |a, b| _mm512_shuffle_f32x4::<0xdd>(a, b); // quarters 1 and 3
        let (low, high) = ((fours[j], fours[4 + j]), (fours[8 + j], fours[12 + j]));
        let (a, b) = (even(low.0, low.1), even(high.0, high.1));
        let (c, d) = (odd(low.0, low.1), odd(high.0, high.1));
        (turned[j], turned[4 + j], turned[8 + j], turned[12 + j]) = (even(a, b), even(c, d), odd(a, b), odd(c, d));
    }
    turned
}

/// 16 numbers at `from`, as f32.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load<S: Element>(from: *const S) -> __m512 {
    // SAFETY: the caller promises 16 numbers of type S there.
    unsafe {
        if S::EXACT {
            _mm512_loadu_ps(from.cast())
        } else {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))))
        }
    }
}

/// # Safety
/// As [`Kernel::tile`], with `N` rows.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const N: usize, S: Element>(
    mut left: *const f32,
    mut right: *const S,
    depth: usize,
    c: *mut f32,
    stride: usize,
    add: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; N];
    // SAFETY: panels of `depth` steps and N rows of `c` are there, as the caller promises. Prefetching reads nothing.
    unsafe {
        for r in 0..N {
            _mm_prefetch::<_MM_HINT_T0>(c.add(r * stride).cast());
            _mm_prefetch::<_MM_HINT_T0>(c.add(r * stride + 16).cast());
        }
        for _ in 0..depth {
            if N <= FEW {
                prefetch_ahead(right, AHEAD);
                prefetch_ahead(right.add(16), AHEAD);
            }
            let (first, second) = (load(right), load(right.add(16)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*left.add(r));
                sums[0] = _mm512_fmadd_ps(x, first, sums[0]);
                sums[1] = _mm512_fmadd_ps(x, second, sums[1]);
            }
            left = left.add(ROWS);
            right = right.add(COLUMNS);
        }
        store(&sums, c, stride, add);
    }
}

/// Writes rows of sums to `c`, or adds them to it.
///
/// # Safety
/// The processor has AVX-512; `c` holds `N` rows of [`COLUMNS`] numbers, `stride` apart.
#[inline(always)] // or the sums would go through memory
pub(crate) unsafe fn store<const N: usize>(sums: &[[__m512; 2]; N], c: *mut f32, stride: usize, add: bool) {
    for (r, sums) in sums.iter().enumerate() {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: as the caller promises.
            unsafe {
                let c = c.add(r * stride + half * 16);
                let sum = if add { _mm512_add_ps(*sum, _mm512_loadu_ps(c)) } else { *sum };
                _mm512_storeu_ps(c, sum);
            }
        }
    }
}

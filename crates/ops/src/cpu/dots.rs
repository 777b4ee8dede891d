//! Products of bf16 with AVX512-BF16, whose instruction adds the products of 16 pairs to 16 sums: 14 rows by two vectors,
//! which is 28 sums in the 32 registers.

use crate::cpu::avx512::{COLUMNS, FEW, ROWS, by_rows, store};
use crate::cpu::element::{Element, bf16};
use crate::cpu::kernel::Kernel;
use crate::cpu::pairs::{self, TILE};
use crate::cpu::prefetch;
use crate::matrix::Matrix;
use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::atomic::{Ordering, compiler_fence};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Dots;

impl Kernel for Dots {
    type Left = bf16;
    type Right = bf16;
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    const DEPTH: usize = 32;
    const CHUNK: usize = 768;
    const STREAMED: usize = FEW;
    const WIDENS: bool = false;

    #[inline(always)]
    fn pack_left<T: Element>(matrix: Matrix<T>, rows: Range<usize>, depth: Range<usize>, panel: &mut [bf16]) {
        // SAFETY: the kernel is used where pairs are at hand.
        unsafe { pairs::pack_left::<ROWS, T>(matrix, rows, depth, panel) }
    }

    #[inline(always)]
    fn pack_right<T: Element, S: Element>(
        matrix: Matrix<T>,
        depth: Range<usize>,
        columns: Range<usize>,
        panel: &mut [S],
    ) {
        // SAFETY: as above.
        unsafe { pairs::pack_right(matrix, depth, columns, panel) }
    }

    fn right_index(k: usize, column: usize) -> usize {
        pairs::right_index(k, column)
    }

    unsafe fn tile<S: Element, F: Element>(
        rows: usize,
        left: *const bf16,
        right: *const S,
        depth: usize,
        c: *mut f32,
        stride: usize,
        add: bool,
        next: &[F],
    ) {
        let (from, steps) = (next.as_ptr().cast::<i8>(), depth / 2);
        // SAFETY: the caller promises instructions and memory; each arm reads and writes that many rows. Right panels of
        // pairs are bf16.
        unsafe {
            if next.is_empty() && rows <= Self::STREAMED {
                by_rows!(rows, N => tile_in_order::<N>(left, right.cast(), depth, c, stride, add));
            } else if size_of_val(next) < 32 * steps.max(1) {
                prefetch(next);
                by_rows!(rows, N => tile::<N, false>(left, right.cast(), depth, c, stride, add, from, 0));
            } else {
                let apart = size_of_val(next) / steps.max(1);
                by_rows!(rows, N => tile::<N, true>(left, right.cast(), depth, c, stride, add, from, apart));
            }
        }
    }
}

/// Two numbers each of 16 places.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load(from: *const bf16) -> __m512bh {
    // SAFETY: the caller promises 32 numbers there, which the cast leaves as they are.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast())) }
}

/// Two numbers in each of 16 places.
///
/// # Safety
/// The processor has the instructions; `from` points to two numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn twice(from: *const bf16) -> __m512bh {
    // SAFETY: as the caller promises; the cast leaves numbers as they are.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(from.cast::<i32>().read_unaligned())) }
}

/// The same sums as [`tile`], for a right panel that comes from memory: each tile of it is read after the other, in the order
/// in which they lie there, so that the processor fetches ahead. (Measured with AMD's Zen 4: up to 1.6 times as fast.)
///
/// # Safety
/// As [`Kernel::tile`], with `N` rows.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_in_order<const N: usize>(
    mut left: *const bf16,
    mut right: *const bf16,
    depth: usize,
    c: *mut f32,
    stride: usize,
    add: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; N];
    // SAFETY: panels of `depth` steps and N rows of `c` are there, as the caller promises.
    unsafe {
        for _ in 0..depth / 32 {
            for pair in 0..16 {
                let w = load(right.add(pair * 32));
                for (r, sums) in sums.iter_mut().enumerate() {
                    sums[0] = _mm512_dpbf16_ps(sums[0], w, twice(left.add(r * 32 + pair * 2)));
                }
            }
            // Or the compiler would read both tiles side by side.
            compiler_fence(Ordering::SeqCst);
            for pair in 0..16 {
                let w = load(right.add(TILE + pair * 32));
                for (r, sums) in sums.iter_mut().enumerate() {
                    sums[1] = _mm512_dpbf16_ps(sums[1], w, twice(left.add(r * 32 + pair * 2)));
                }
            }
            left = left.add(ROWS * 32);
            right = right.add(2 * TILE);
        }
        store(&sums, c, stride, add);
    }
}

/// With `FETCHES`, a line is fetched with each two steps of depth from `next` on, `apart` bytes further each time.
///
/// # Safety
/// As [`Kernel::tile`], with `N` rows.
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const N: usize, const FETCHES: bool>(
    mut left: *const bf16,
    mut right: *const bf16,
    depth: usize,
    c: *mut f32,
    stride: usize,
    add: bool,
    mut next: *const i8,
    apart: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; N];
    // SAFETY: panels of `depth` steps and N rows of `c` are there, as the caller promises. Prefetching reads nothing.
    unsafe {
        for r in 0..N {
            _mm_prefetch::<_MM_HINT_T0>(c.add(r * stride).cast());
            _mm_prefetch::<_MM_HINT_T0>(c.add(r * stride + 16).cast());
        }
        for _ in 0..depth / 32 {
            for pair in 0..16 {
                let at = right.add(pair * 32);
                if FETCHES {
                    _mm_prefetch::<_MM_HINT_T1>(next);
                    _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(apart / 2));
                    next = next.wrapping_add(apart);
                }
                let (first, second) = (load(at), load(at.add(TILE)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = twice(left.add(r * 32 + pair * 2));
                    sums[0] = _mm512_dpbf16_ps(sums[0], x, first);
                    sums[1] = _mm512_dpbf16_ps(sums[1], x, second);
                }
            }
            left = left.add(ROWS * 32);
            right = right.add(2 * TILE);
        }
        store(&sums, c, stride, add);
    }
}

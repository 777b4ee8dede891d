//! Products with AVX2: 6 rows by two vectors of 8, which is 12 sums in the 16 registers.

use crate::cpu::element::Element;
use crate::cpu::kernel::{Kernel, pack_left, pack_right};
use crate::cpu::prefetch;
use crate::matrix::Matrix;
use std::arch::x86_64::*;
use std::ops::Range;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2;

const ROWS: usize = 6;
const COLUMNS: usize = 16;

impl Kernel for Avx2 {
    type Left = f32;
    type Right = f32;
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    const DEPTH: usize = 1;
    const CHUNK: usize = 256;
    const WIDENS: bool = true;

    #[inline(always)]
    fn pack_left<T: Element>(matrix: Matrix<T>, rows: Range<usize>, depth: Range<usize>, panel: &mut [f32]) {
        pack_left::<ROWS, T>(matrix, rows, depth, panel);
    }

    #[inline(always)]
    fn pack_right<T: Element, S: Element>(
        matrix: Matrix<T>,
        depth: Range<usize>,
        columns: Range<usize>,
        panel: &mut [S],
    ) {
        pack_right::<COLUMNS, T, S>(matrix, depth, columns, panel);
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
        unsafe {
            match rows {
                0 => {}
                1 => tile::<1, S>(left, right, depth, c, stride, add),
                2 => tile::<2, S>(left, right, depth, c, stride, add),
                3 => tile::<3, S>(left, right, depth, c, stride, add),
                4 => tile::<4, S>(left, right, depth, c, stride, add),
                5 => tile::<5, S>(left, right, depth, c, stride, add),
                _ => tile::<ROWS, S>(left, right, depth, c, stride, add),
            }
        }
    }
}

/// 8 numbers at `from`, as f32.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn load<S: Element>(from: *const S) -> __m256 {
    // SAFETY: the caller promises 8 numbers of type S there.
    unsafe {
        if S::EXACT {
            _mm256_loadu_ps(from.cast())
        } else {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()))))
        }
    }
}

/// # Safety
/// As [`Kernel::tile`], with `N` rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const N: usize, S: Element>(
    mut left: *const f32,
    mut right: *const S,
    depth: usize,
    c: *mut f32,
    stride: usize,
    add: bool,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    // SAFETY: panels of `depth` steps and N rows of `c` are there, as the caller promises. Prefetching reads nothing.
    unsafe {
        for r in 0..N {
            _mm_prefetch::<_MM_HINT_T0>(c.add(r * stride).cast());
        }
        for _ in 0..depth {
            let (first, second) = (load(right), load(right.add(8)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*left.add(r));
                sums[0] = _mm256_fmadd_ps(x, first, sums[0]);
                sums[1] = _mm256_fmadd_ps(x, second, sums[1]);
            }
            left = left.add(ROWS);
            right = right.add(COLUMNS);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                let c = c.add(r * stride + half * 8);
                let sum = if add { _mm256_add_ps(*sum, _mm256_loadu_ps(c)) } else { *sum };
                _mm256_storeu_ps(c, sum);
            }
        }
    }
}

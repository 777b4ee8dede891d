//! Panels of bf16 for instructions that multiply and add two numbers at a time: AMX's and AVX512-BF16's.
//!
//! A panel is made of blocks, 32 of depth each. A left block holds its rows one after the other, 32 numbers each. A right
//! block holds two tiles, columns 0..16 and 16..32; a tile is 16 pairs of depth by 16 columns, the two numbers of a pair
//! side by side.
//!
//! Kernels that read pairs are for processors with AVX512-BF16, whose instructions round and pair what is packed.

use crate::cpu::avx512::transpose;
use crate::cpu::element::{Element, bf16};
use crate::cpu::prefetch;
use crate::matrix::Matrix;
use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

/// Numbers in a tile.
pub(crate) const TILE: usize = 16 * 32;

/// Whether the processor packs pairs.
pub(crate) fn are_at_hand() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// Rows `rows` of `matrix` as a left panel of `ROWS` rows, of which those beyond may be anything.
///
/// # Safety
/// Pairs [`are_at_hand`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) unsafe fn pack_left<const ROWS: usize, T: Element>(
    matrix: Matrix<T>,
    rows: Range<usize>,
    depth: Range<usize>,
    panel: &mut [bf16],
) {
    for (first, block) in depth.clone().step_by(32).zip(panel.chunks_exact_mut(ROWS * 32)) {
        let part = first..(first + 32).min(depth.end);
        let block = block.as_chunks_mut::<32>().0;
        if !matrix.is_transposed() {
            let after = part.end..(part.end + 32).min(depth.end);
            for (row, out) in rows.clone().zip(block) {
                prefetch(matrix.row_part(row, after.clone()));
                store(round(matrix.row_part(row, part.clone())), out);
            }
            continue;
        }
        for (first, out) in rows.clone().step_by(16).zip(block.chunks_mut(16)) {
            let rows = first..(first + 16).min(rows.end);
            let turned = transpose(pairs(part.clone(), |k| matrix.column_part(k, rows.clone())));
            for (row, out) in turned.into_iter().zip(out) {
                store(row, out);
            }
        }
    }
}

/// Columns `columns` of `matrix` as a right panel of 32 columns.
///
/// # Safety
/// Pairs [`are_at_hand`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) unsafe fn pack_right<T: Element, S: Element>(
    matrix: Matrix<T>,
    depth: Range<usize>,
    columns: Range<usize>,
    panel: &mut [S],
) {
    for (first, block) in depth.clone().step_by(32).zip(as_bf16(panel).as_chunks_mut::<{ 2 * TILE }>().0) {
        let part = first..(first + 32).min(depth.end);
        let after = part.end..(part.end + 32).min(depth.end);
        if matrix.is_transposed() {
            columns.clone().for_each(|column| prefetch(matrix.column_part(column, after.clone())));
        } else {
            after.for_each(|k| prefetch(matrix.row_part(k, columns.clone())));
        }
        for (first, tile) in columns.clone().step_by(16).zip(block.as_chunks_mut::<TILE>().0) {
            let columns = first..(first + 16).min(columns.end);
            let tile = tile.as_chunks_mut::<32>().0;
            let rows = if matrix.is_transposed() {
                let mut rows = [_mm512_setzero_ps(); 16];
                for (row, column) in rows.iter_mut().zip(columns) {
                    *row = round(matrix.column_part(column, part.clone()));
                }
                transpose(rows)
            } else {
                pairs(part.clone(), |k| matrix.row_part(k, columns.clone()))
            };
            for (row, out) in rows.into_iter().zip(tile) {
                store(row, out);
            }
        }
    }
}

/// The index in a right panel of the number at depth `k` of column `column`.
#[inline(always)]
pub(crate) fn right_index(k: usize, column: usize) -> usize {
    (k / 32 * 2 + column / 16) * TILE + k % 32 / 2 * 32 + column % 16 * 2 + k % 2
}

/// The numbers of a panel of pairs, which are bf16.
fn as_bf16<S: Element>(panel: &mut [S]) -> &mut [bf16] {
    assert!(!S::EXACT, "pairs are of bf16");
    // SAFETY: elements are f32 and bf16, and it is not f32.
    unsafe { panel.align_to_mut().1 }
}

/// Vectors of 16 pairs are held as if each pair were a number of f32: they are moved and nothing else.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(pairs: __m512, out: &mut [bf16; 32]) {
    // SAFETY: `out` is as large as the vector.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr().cast(), pairs) }
}

/// Up to 32 numbers; zeros after the last.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn round<T: Element>(x: &[T]) -> __m512 {
    let mask = if x.len() < 32 { (1 << x.len()) - 1 } else { u32::MAX };
    // SAFETY: only the numbers that are there are read; T is f32 if it is exact, else bf16; vectors of one size.
    unsafe {
        if T::EXACT {
            let x = x.as_ptr().cast::<f32>();
            let low = _mm512_maskz_loadu_ps(mask as u16, x);
            let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, x.wrapping_add(16));
            transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low))
        } else {
            _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, x.as_ptr().cast()))
        }
    }
}

/// Up to 16 numbers of each step of `depth`, which `source` gives, as the rows of a right tile: those of two steps side by
/// side. Steps beyond the last are zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pairs<'a, T: Element>(depth: Range<usize>, source: impl Fn(usize) -> &'a [T]) -> [__m512; 16] {
    let mut pairs = [_mm512_setzero_ps(); 16];
    for (k, pair) in depth.clone().step_by(2).zip(&mut pairs) {
        *pair = pair_up(source(k), if k + 1 < depth.end { source(k + 1) } else { &[] });
    }
    pairs
}

/// Number `i` of `even` beside number `i` of `odd`, up to 16 of each; zeros where there is none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pair_up<T: Element>(even: &[T], odd: &[T]) -> __m512 {
    let mask = |x: &[T]| if x.len() < 16 { (1 << x.len()) - 1 } else { u16::MAX };
    // SAFETY: only the numbers that are there are read; T is f32 if it is exact, else bf16; vectors of one size.
    let after_each_other = unsafe {
        if T::EXACT {
            let even = _mm512_maskz_loadu_ps(mask(even), even.as_ptr().cast());
            let odd = _mm512_maskz_loadu_ps(mask(odd), odd.as_ptr().cast());
            transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even))
        } else {
            let even = _mm256_maskz_loadu_epi16(mask(even), even.as_ptr().cast());
            let odd = _mm256_maskz_loadu_epi16(mask(odd), odd.as_ptr().cast());
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(even), odd)
        }
    };
    // Places 0, 16, 1, 17, …
    const BESIDE: [u16; 32] = {
        let mut places = [0; 32];
        let mut i = 0;
        while i < 32 {
            places[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        places
    };
    // SAFETY: the array is as large as a vector.
    let beside = unsafe { _mm512_loadu_si512(BESIDE.as_ptr().cast()) };
    _mm512_castsi512_ps(_mm512_permutexvar_epi16(beside, after_each_other))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row and column where the layout says, for both widths of left panels, whether they lie in rows or columns.
    fn panels_are_laid_out<T: Element>() {
        for (rows, depth) in [(1, 1), (7, 31), (16, 33), (17, 64), (32, 95)] {
            let number = |r: usize, k: usize| ((r * 37 + k * 11) % 251) as f32 - 125.0;
            let lying: Vec<T> = (0..rows * depth).map(|i| T::of(number(i / depth, i % depth))).collect();
            let standing: Vec<T> = (0..rows * depth).map(|i| T::of(number(i % rows, i / rows))).collect();
            for matrix in [Matrix::new(&lying, rows, depth, depth), Matrix::new(&standing, depth, rows, rows).t()] {
                left_panels_are_laid_out::<14, T>(matrix, rows.min(14), depth, number);
                left_panels_are_laid_out::<32, T>(matrix, rows, depth, number);
                let mut panel = vec![bf16::default(); depth.next_multiple_of(32) * 32];
                // SAFETY: pairs are at hand.
                unsafe { pack_right(matrix.t(), 0..depth, 0..rows, &mut panel) };
                for (c, k) in (0..rows).flat_map(|c| (0..depth.next_multiple_of(32)).map(move |k| (c, k))) {
                    let expected = if k < depth { number(c, k) } else { 0.0 };
                    assert_eq!(
                        panel[right_index(k, c)].get(),
                        expected,
                        "column {c} of {rows} at depth {k} of {depth}"
                    );
                }
            }
        }
    }

    fn left_panels_are_laid_out<const ROWS: usize, T: Element>(
        matrix: Matrix<T>,
        rows: usize,
        depth: usize,
        number: impl Fn(usize, usize) -> f32,
    ) {
        let mut panel = vec![bf16::default(); depth.next_multiple_of(32) * ROWS];
        // SAFETY: pairs are at hand.
        unsafe { pack_left::<ROWS, T>(matrix, 0..rows, 0..depth, &mut panel) };
        for (r, k) in (0..rows).flat_map(|r| (0..depth.next_multiple_of(32)).map(move |k| (r, k))) {
            let expected = if k < depth { number(r, k) } else { 0.0 };
            let at = (k / 32 * ROWS + r) * 32 + k % 32;
            assert_eq!(panel[at].get(), expected, "row {r} of {rows} at depth {k} of {depth}");
        }
    }

    #[test]
    fn rows_and_columns_are_where_kernels_read_them() {
        if !are_at_hand() {
            eprintln!("skipped: the processor has no AVX512-BF16");
            return;
        }
        panels_are_laid_out::<f32>();
        panels_are_laid_out::<bf16>();
    }
}

//! Panels of bf16 for instructions that multiply and add two numbers at a time: AMX's and AVX512-BF16's.
//!
//! A panel is made of blocks, 32 of depth each. A left block holds its rows one after the other, 32 numbers each. A right
//! block holds two tiles, columns 0..16 and 16..32; a tile is 16 pairs of depth by 16 columns, the two numbers of a pair
//! side by side.

use crate::cpu::avx512;
use crate::cpu::element::{Element, bf16};
use crate::product::Matrix;
use std::ops::Range;

/// Numbers in a tile.
pub(crate) const TILE: usize = 16 * 32;

/// Rows `rows` of `matrix` as a left panel of `ROWS` rows, of which those beyond may be anything.
#[inline(always)]
pub(crate) fn pack_left<const ROWS: usize, T: Element>(
    matrix: Matrix<T>,
    rows: Range<usize>,
    depth: Range<usize>,
    panel: &mut [bf16],
) {
    for (first, block) in depth.clone().step_by(32).zip(panel.chunks_exact_mut(ROWS * 32)) {
        let part = first..(first + 32).min(depth.end);
        if !matrix.is_transposed() {
            for (row, out) in rows.clone().zip(block.as_chunks_mut::<32>().0) {
                round(matrix.row_part(row, part.clone()), out);
            }
            continue;
        }
        for (first, out) in rows.clone().step_by(16).zip(block.chunks_mut(TILE)) {
            let rows = first..(first + 16).min(rows.end);
            let mut pairs = [bf16::default(); TILE];
            pair_up(part.clone(), |k| matrix.column_part(k, rows.clone()), &mut pairs);
            let mut tile = [bf16::default(); TILE];
            turn(&pairs, &mut tile);
            out.copy_from_slice(&tile[..out.len()]);
        }
    }
}

/// Columns `columns` of `matrix` as a right panel of 32 columns.
#[inline(always)]
pub(crate) fn pack_right<T: Element, S: Element>(
    matrix: Matrix<T>,
    depth: Range<usize>,
    columns: Range<usize>,
    panel: &mut [S],
) {
    for (first, block) in depth.clone().step_by(32).zip(panel.as_chunks_mut::<{ 2 * TILE }>().0) {
        let part = first..(first + 32).min(depth.end);
        for (first, tile) in columns.clone().step_by(16).zip(as_bf16(block).as_chunks_mut::<TILE>().0) {
            let columns = first..(first + 16).min(columns.end);
            if matrix.is_transposed() {
                let mut turned = [bf16::default(); TILE];
                for (column, out) in columns.zip(turned.as_chunks_mut::<32>().0) {
                    round(matrix.column_part(column, part.clone()), out);
                }
                turn(&turned, tile);
            } else {
                pair_up(part.clone(), |k| matrix.row_part(k, columns.clone()), tile);
            }
        }
    }
}

/// The numbers of a panel of pairs, which are bf16.
fn as_bf16<S: Element>(panel: &mut [S]) -> &mut [bf16] {
    assert!(!S::EXACT, "pairs are of bf16");
    // SAFETY: elements are f32 and bf16, and it is not f32.
    unsafe { panel.align_to_mut().1 }
}

/// `x`, filled up with zeros.
#[inline(always)]
fn round<T: Element>(x: &[T], out: &mut [bf16; 32]) {
    if let Some(x) = x.first_chunk::<32>() {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = bf16::of(x.get()));
    } else {
        out.fill(bf16::default());
        out.iter_mut().zip(x).for_each(|(out, x)| *out = bf16::of(x.get()));
    }
}

/// Up to 16 numbers of each step of `depth`, which `source` gives, as the rows of a right tile: those of two steps side by
/// side. Steps beyond the last are zeros.
#[inline(always)]
fn pair_up<'a, T: Element>(depth: Range<usize>, source: impl Fn(usize) -> &'a [T], tile: &mut [bf16; TILE]) {
    if depth.len() < 32 {
        tile.fill(bf16::default());
    }
    for (k, pairs) in depth.clone().step_by(2).zip(tile.as_chunks_mut::<32>().0) {
        let (even, odd) = (source(k), if k + 1 < depth.end { source(k + 1) } else { &[] });
        let pairs = pairs.as_chunks_mut::<2>().0;
        if let (Some(even), Some(odd)) = (even.first_chunk::<16>(), odd.first_chunk::<16>()) {
            for (pair, (even, odd)) in pairs.iter_mut().zip(even.iter().zip(odd)) {
                *pair = [bf16::of(even.get()), bf16::of(odd.get())];
            }
        } else {
            pairs.iter_mut().zip(even).for_each(|(pair, x)| pair[0] = bf16::of(x.get()));
            pairs.iter_mut().zip(odd).for_each(|(pair, x)| pair[1] = bf16::of(x.get()));
        }
    }
}

/// Turns 16 rows of 16 pairs: pair `j` of row `i` goes to place `i` of row `j`.
#[inline(always)]
fn turn(rows: &[bf16; TILE], out: &mut [bf16; TILE]) {
    let rows = rows.as_chunks::<32>().0;
    // SAFETY: only kernels that need AVX-512 pack pairs; a row of 16 pairs is as large as 16 numbers of f32, which
    // are moved and nothing else; `out` holds 16 such rows.
    unsafe {
        avx512::turn(std::array::from_fn(|i| rows[i].as_ptr().cast::<f32>()), out.as_mut_ptr().cast(), 16, u16::MAX);
    }
}

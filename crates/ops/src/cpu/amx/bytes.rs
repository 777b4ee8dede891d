//! Dot products of bytes on matrix tiles: 16 rows of inputs by a panel's 16 columns, with the sums of the vector instructions
//! to the bit.
//!
//! Tiles add up the products of a block, or of half of one where each half has a scale; vector instructions multiply them by
//! their scales. Tiles work one pair of blocks ahead, since what they store can be loaded only some time later.

use super::configure;
use crate::cpu::bytes::{
    BLOCK, BlockKind, ByteRows, COLUMNS, DEEP, HALF, MINIMA, MINIMUM, OFFSET, OFFSET_OF_SIX, PanelBlocks, SCALE,
    SCALE_OF_SIX,
};
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;

/// Sums of the tiles of two blocks: at most two of each.
type PairDots = [[[i32; COLUMNS]; ROWS]; 4];

thread_local! {
    static SCRATCH: RefCell<TileScratch> =
        const { RefCell::new(TileScratch { numbers: [0; DEEP * BLOCK * COLUMNS], dots: [[[[0; COLUMNS]; ROWS]; 4]; 2] }) };
}

#[repr(C, align(64))]
struct TileScratch {
    /// A panel's blocks, in the order of numbers of 8 bits.
    numbers: [i8; DEEP * BLOCK * COLUMNS],
    /// The sums of the pair of blocks that is being scaled, and the sums of the next pair.
    dots: [PairDots; 2],
}

/// Adds the products of `rows` rows, a multiple of 16, from row `row` on, and of a panel's blocks to the sums in `out`, whose
/// rows are `stride` apart.
///
/// # Safety
/// The processor has AVX-512 and tiles for bytes, which the system permits; the sizes are those that
/// [`ByteKernel::multiply`](crate::cpu::bytes::ByteKernel::multiply) asserts.
pub(in crate::cpu) unsafe fn multiply(
    left: ByteRows,
    (row, rows): (usize, usize),
    right: PanelBlocks,
    out: *mut f32,
    stride: usize,
) {
    let depth = if right.kind == BlockKind::Six { HALF } else { BLOCK };
    configure(depth);
    SCRATCH.with_borrow_mut(|TileScratch { numbers, dots }| {
        // SAFETY: as the caller promises; tiles are configured for this depth.
        unsafe {
            unpack(right, numbers);
            for r in (0..rows).step_by(ROWS) {
                let out = out.add(r * stride);
                if depth == HALF {
                    tile::<HALF>(left, row + r, right, numbers, dots, out, stride);
                } else {
                    tile::<BLOCK>(left, row + r, right, numbers, dots, out, stride);
                }
            }
        }
    });
}

/// Writes a panel's numbers as they are used, those that are stored with an offset without it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn unpack(right: PanelBlocks, out: &mut [i8]) {
    let kind = right.kind;
    let offset = match kind {
        BlockKind::Eight => OFFSET,
        BlockKind::Four | BlockKind::Five => 0,
        BlockKind::Six => OFFSET_OF_SIX,
    } as u8;
    if kind == BlockKind::Eight {
        out.iter_mut().zip(right.numbers).for_each(|(out, number)| *out = number.wrapping_sub(offset).cast_signed());
        return;
    }
    const FOURS: usize = 4 * COLUMNS;
    let high_bits = kind.high_bits();
    let together = 4usize.checked_div(high_bits).unwrap_or(1);
    let (out, _) = out.as_chunks_mut::<FOURS>();
    for (numbers, out) in right.numbers.chunks_exact(kind.number_bytes()).zip(out.chunks_mut(8 * BLOCK / 4)) {
        let (low, high) = numbers.split_at(BlockKind::Four.number_bytes());
        let ((low, _), (high, _)) = (low.as_chunks::<FOURS>(), high.as_chunks::<FOURS>());
        for (at, low) in low.iter().enumerate() {
            let (pair, group) = (at / (BLOCK / 4), at % (BLOCK / 4));
            let high = high.get(at / together).unwrap_or(&[0; FOURS]);
            for odd in 0..2 {
                let (shift, mask) = ((group % together * 2 + odd) * high_bits, (1u8 << high_bits) - 1);
                let out = &mut out[(2 * pair + odd) * (BLOCK / 4) + group];
                for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                    let number = low >> (4 * odd) & 15 | (high >> shift & mask) << 4;
                    *out = number.wrapping_sub(offset).cast_signed();
                }
            }
        }
    }
}

/// 16 rows, from `row` on; sums of `DEPTH` products have a scale.
///
/// # Safety
/// As [`multiply`]; `numbers` are those of `right`, and tiles are configured for `DEPTH`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
unsafe fn tile<const DEPTH: usize>(
    left: ByteRows,
    row: usize,
    right: PanelBlocks,
    numbers: &[i8],
    dots: &mut [PairDots; 2],
    out: *mut f32,
    stride: usize,
) {
    let parts = BLOCK / DEPTH;
    let between = left.blocks * BLOCK;
    // SAFETY: all places are within the sizes that the caller promises.
    unsafe {
        let first = row * left.blocks + right.first;
        let x = left.numbers.as_ptr().add(first * BLOCK);
        let multiply = |pair: usize, dots: &mut PairDots| {
            let n = parts * 2.min(right.blocks - 2 * pair);
            for (part, dots) in dots[..n].iter_mut().enumerate() {
                let k = 2 * pair * BLOCK + part * DEPTH;
                multiply_tiles(x.add(k), between, numbers.as_ptr().add(k * COLUMNS), dots);
            }
        };
        let mut sums: [__m512; ROWS] = std::array::from_fn(|r| _mm512_loadu_ps(out.add(r * stride)));
        let pairs = right.blocks.div_ceil(2);
        let [this, next] = dots;
        let (mut this, mut next) = (this, next);
        multiply(0, this);
        for pair in 0..pairs {
            if pair + 1 < pairs {
                multiply(pair + 1, next);
            }
            for part in 0..parts {
                for block in 2 * pair..right.blocks.min(2 * pair + 2) {
                    let (scale, minimum) = factors(right, block, part);
                    let dots = &this[block % 2 * parts + part];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let place = first + r * left.blocks + block;
                        let dots = _mm512_cvtepi32_ps(_mm512_loadu_si512(dots[r].as_ptr().cast()));
                        let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*left.scales.as_ptr().add(place)));
                        *sums = _mm512_fmadd_ps(dots, scale, *sums);
                        if let Some(minimum) = minimum {
                            let sum = _mm512_set1_ps(*left.sums.as_ptr().add(place));
                            *sums = _mm512_fnmadd_ps(minimum, sum, *sums);
                        }
                    }
                }
            }
            std::mem::swap(&mut this, &mut next);
        }
        for (r, sums) in sums.into_iter().enumerate() {
            _mm512_storeu_ps(out.add(r * stride), sums);
        }
    }
}

/// Scales of the columns in a part of a block, and their minima where numbers have any.
///
/// # Safety
/// The panel has such a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
unsafe fn factors(right: PanelBlocks, block: usize, part: usize) -> (__m512, Option<__m512>) {
    let kind = right.kind;
    // SAFETY: as the caller promises.
    unsafe {
        let f = right.factors.as_ptr().add(block / kind.group() * kind.factor_bytes());
        let halves = |at: usize| _mm512_cvtph_ps(_mm256_loadu_si256(f.add(at).cast()));
        let bytes = |at: usize| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(f.add(at).cast())));
        match kind {
            BlockKind::Eight => (halves(0), None),
            BlockKind::Four | BlockKind::Five => {
                let at = block % 8 * COLUMNS;
                let minimum = _mm512_mul_ps(halves(MINIMUM), bytes(MINIMA + at));
                (_mm512_mul_ps(halves(SCALE), bytes(at)), Some(minimum))
            }
            BlockKind::Six => {
                let scales = _mm_loadu_si128(f.add((block % 8 * 2 + part) * COLUMNS).cast());
                let scales = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales));
                (_mm512_mul_ps(halves(SCALE_OF_SIX), scales), None)
            }
        }
    }
}

/// Writes the products of 16 rows of numbers, `between` bytes apart, and of 16 columns.
///
/// # Safety
/// Tiles are configured for a depth; `x` and `w` point to as many numbers of each row and column.
#[inline(always)]
unsafe fn multiply_tiles(x: *const i8, between: usize, w: *const i8, dots: &mut [[i32; COLUMNS]; ROWS]) {
    // SAFETY: reads what the caller promises, and writes 16 rows of 64 bytes; all registers that change are named.
    unsafe {
        std::arch::asm!(
            "tilezero tmm0",
            "tileloadd tmm4, [{x} + {between}*1]",
            "tileloadd tmm6, [{w} + {row}*1]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tilestored [{dots} + {row}*1], tmm0",
            x = in(reg) x,
            between = in(reg) between,
            w = in(reg) w,
            row = in(reg) 64usize,
            dots = in(reg) dots,
            out("tmm0") _,
            out("tmm4") _,
            out("tmm6") _,
            options(nostack),
        );
    }
}

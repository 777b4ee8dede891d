//! Dot products of weights of 8 or 4 bits with inputs of 8 bits, in whole numbers, so that every instruction set has the same
//! sums.
//!
//! A panel has 16 columns. Its numbers lie in blocks of 32 of depth; in a block, four numbers of one column lie side by side,
//! and the 16 columns follow each other. Numbers of 8 bits are stored with [`OFFSET`] added; of those of 4 bits, a byte has
//! one of an even block and one of the odd block after it. Factors are the scales of the numbers, see [`BlockKind`].

use half::f16;

/// Columns of a panel.
pub(crate) const COLUMNS: usize = 16;
/// Numbers of a column, or of a row of inputs, that have one scale.
pub(crate) const BLOCK: usize = 32;
/// Rows of a tile at most.
pub(crate) const ROWS: usize = 8;
/// What is added to weights of 8 bits, since the instructions multiply unsigned numbers by signed ones.
pub(crate) const OFFSET: i32 = 128;
/// Bytes of the scales of a block of 4-bit numbers in a group of eight, and where their minima, the group's factor of the
/// scales and its factor of the minima begin.
const MINIMA: usize = 8 * COLUMNS;
const SCALE: usize = 2 * MINIMA;
const MINIMUM: usize = SCALE + 2 * COLUMNS;

/// How many bytes ahead of its use a panel is fetched; more would reach beyond it.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4096;

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// 8 bits; a block has a scale (f16) for each column.
    Eight,
    /// 4 bits, from 0 to 15; a block has a scale and a minimum of 6 bits for each column. Eight blocks together have for each
    /// column a factor of the scales and one of the minima (f16). A weight is scale · number − minimum.
    Four,
}

impl BlockKind {
    /// Blocks that are stored together.
    pub(crate) fn group(self) -> usize {
        match self {
            Self::Eight => 1,
            Self::Four => 8,
        }
    }

    /// Bytes of the numbers of such a group, in all columns.
    pub(crate) fn number_bytes(self) -> usize {
        match self {
            Self::Eight => BLOCK * COLUMNS,
            Self::Four => 8 * BLOCK * COLUMNS / 2,
        }
    }

    /// Bytes of its factors.
    pub(crate) fn factor_bytes(self) -> usize {
        match self {
            Self::Eight => 2 * COLUMNS,
            Self::Four => MINIMUM + 2 * COLUMNS,
        }
    }
}

/// Rows of inputs of 8 bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByteRows<'a> {
    /// `[rows, depth]`.
    pub(crate) numbers: &'a [i8],
    /// Scale of each block, `[rows, blocks]`.
    pub(crate) scales: &'a [f32],
    /// −[`OFFSET`] times the sum of each block's numbers.
    pub(crate) offsets: &'a [i32],
    /// Scale times the sum of each block's numbers.
    pub(crate) sums: &'a [f32],
    /// Blocks of a row.
    pub(crate) blocks: usize,
}

/// Some blocks of a panel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PanelBlocks<'a> {
    pub(crate) kind: BlockKind,
    pub(crate) numbers: &'a [u8],
    pub(crate) factors: &'a [u8],
    /// How many, and the first one's number in a row of inputs.
    pub(crate) blocks: usize,
    pub(crate) first: usize,
}

/// Instructions for such products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteKernel {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl ByteKernel {
    /// The fastest on this processor.
    pub(crate) fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use super::{Cpu, Level};
            let level = Cpu::get().level;
            if level == Level::Avx512 && is_x86_feature_detected!("avx512vnni") {
                return Self::Vnni;
            }
            if level >= Level::Avx2 && is_x86_feature_detected!("f16c") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// One tile: `rows` rows of inputs from row `row` on, times a panel's blocks. Writes rows of 16 sums, `stride` apart, to
    /// `out`, or adds to what is there.
    #[inline]
    pub(crate) fn tile(
        self,
        left: ByteRows,
        (row, rows): (usize, usize),
        right: PanelBlocks,
        (out, stride): (&mut [f32], usize),
        add: bool,
    ) {
        let groups = right.blocks / right.kind.group();
        assert!(right.blocks.is_multiple_of(right.kind.group()) && right.first + right.blocks <= left.blocks);
        assert!((1..=ROWS).contains(&rows) && (row + rows) * left.blocks <= left.scales.len());
        assert!(left.numbers.len() == left.scales.len() * BLOCK && stride >= COLUMNS);
        assert!(left.offsets.len() == left.scales.len() && left.sums.len() == left.scales.len());
        assert!(right.numbers.len() >= groups * right.kind.number_bytes());
        assert!(right.factors.len() >= groups * right.kind.factor_bytes());
        assert!(out.len() >= (rows - 1) * stride + COLUMNS);
        if !add {
            out.chunks_mut(stride).take(rows).for_each(|out| out[..COLUMNS].fill(0.0));
        }
        match self {
            Self::Portable => {
                for (r, out) in out.chunks_mut(stride).take(rows).enumerate() {
                    portable_row(left, row + r, right, &mut out[..COLUMNS]);
                }
            }
            // SAFETY: `fastest` and the tests choose it where the processor has the instructions; sizes are as asserted.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe {
                for r in (0..rows).step_by(2) {
                    let out = out.as_mut_ptr().add(r * stride);
                    match rows - r {
                        1 => avx2::tile::<1>(left, row + r, right, out, stride),
                        _ => avx2::tile::<2>(left, row + r, right, out, stride),
                    }
                }
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => unsafe {
                let out = out.as_mut_ptr();
                match rows {
                    1 => vnni::tile::<1>(left, row, right, out, stride),
                    2 => vnni::tile::<2>(left, row, right, out, stride),
                    3 => vnni::tile::<3>(left, row, right, out, stride),
                    4 => vnni::tile::<4>(left, row, right, out, stride),
                    5 => vnni::tile::<5>(left, row, right, out, stride),
                    6 => vnni::tile::<6>(left, row, right, out, stride),
                    7 => vnni::tile::<7>(left, row, right, out, stride),
                    _ => vnni::tile::<8>(left, row, right, out, stride),
                }
            },
        }
    }
}

/// Number of `column` at depth `k`, from 0 on, as it is stored.
fn number(right: PanelBlocks, k: usize, column: usize) -> u8 {
    let (block, k) = (k / BLOCK, k % BLOCK);
    let in_block = k / 4 * 4 * COLUMNS + column * 4 + k % 4;
    match right.kind {
        BlockKind::Eight => right.numbers[block * BLOCK * COLUMNS + in_block],
        BlockKind::Four => {
            let byte = right.numbers[block / 2 * BLOCK * COLUMNS + in_block];
            if block.is_multiple_of(2) { byte & 15 } else { byte >> 4 }
        }
    }
}

/// Scale and minimum of `column` in `block`.
fn factors(right: PanelBlocks, block: usize, column: usize) -> (f32, f32) {
    let kind = right.kind;
    let bytes = &right.factors[block / kind.group() * kind.factor_bytes()..][..kind.factor_bytes()];
    let half = |first: usize| f16::from_le_bytes([bytes[first + 2 * column], bytes[first + 2 * column + 1]]).to_f32();
    match kind {
        BlockKind::Eight => (half(0), 0.0),
        BlockKind::Four => {
            let at = block % 8 * COLUMNS + column;
            (half(SCALE) * f32::from(bytes[at]), half(MINIMUM) * f32::from(bytes[MINIMA + at]))
        }
    }
}

/// The weight of `column` at depth `k`, counted from the first block.
pub(crate) fn weight(right: PanelBlocks, k: usize, column: usize) -> f32 {
    let (scale, minimum) = factors(right, k / BLOCK, column);
    match right.kind {
        BlockKind::Eight => scale * (i32::from(number(right, k, column)) - OFFSET) as f32,
        BlockKind::Four => scale * f32::from(number(right, k, column)) - minimum,
    }
}

fn portable_row(left: ByteRows, row: usize, right: PanelBlocks, out: &mut [f32]) {
    for block in 0..right.blocks {
        let at = row * left.blocks + right.first + block;
        let x = &left.numbers[at * BLOCK..][..BLOCK];
        let first = match right.kind {
            BlockKind::Eight => left.offsets[at],
            BlockKind::Four => 0,
        };
        for (column, out) in out.iter_mut().enumerate() {
            let products =
                x.iter().enumerate().map(|(k, &x)| i32::from(x) * i32::from(number(right, block * BLOCK + k, column)));
            let (scale, minimum) = factors(right, block, column);
            *out += (first + products.sum::<i32>()) as f32 * (scale * left.scales[at]);
            *out -= minimum * left.sums[at];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use super::*;
    use crate::cpu::prefetch_ahead;
    use std::arch::x86_64::*;

    /// Four numbers of a row, in every place.
    ///
    /// # Safety
    /// `x` points to four numbers.
    #[inline(always)]
    unsafe fn four(x: *const i8) -> __m512i {
        // SAFETY: as promised; inlined where there is AVX-512.
        unsafe { _mm512_set1_epi32(x.cast::<i32>().read_unaligned()) }
    }

    /// 16 factors of f16.
    ///
    /// # Safety
    /// `factors` points to 32 bytes.
    #[inline(always)]
    unsafe fn halves(factors: *const u8) -> __m512 {
        // SAFETY: as promised; inlined where there is AVX-512.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(factors.cast())) }
    }

    /// 16 factors of a byte.
    ///
    /// # Safety
    /// `factors` points to 16 bytes.
    #[inline(always)]
    unsafe fn bytes(factors: *const u8) -> __m512 {
        // SAFETY: as promised; inlined where there is AVX-512.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(factors.cast()))) }
    }

    /// Adds to the sums in `out`.
    ///
    /// # Safety
    /// The processor has the instructions, and the sizes are those that [`ByteKernel::tile`] asserts for `R` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) unsafe fn tile<const R: usize>(
        left: ByteRows,
        row: usize,
        right: PanelBlocks,
        out: *mut f32,
        stride: usize,
    ) {
        // SAFETY: all places are within the sizes that the caller promises; asking for memory beyond the end reads nothing.
        unsafe {
            let place = |r: usize, block: usize| (row + r) * left.blocks + right.first + block;
            let x: [*const i8; R] = std::array::from_fn(|r| left.numbers.as_ptr().add(place(r, 0) * BLOCK));
            let scales: [*const f32; R] = std::array::from_fn(|r| left.scales.as_ptr().add(place(r, 0)));
            let mut sums: [__m512; R] = std::array::from_fn(|r| _mm512_loadu_ps(out.add(r * stride)));
            match right.kind {
                BlockKind::Eight => {
                    for block in 0..right.blocks {
                        let w = right.numbers.as_ptr().add(block * BLOCK * COLUMNS);
                        let mut dots: [__m512i; R] =
                            std::array::from_fn(|r| _mm512_set1_epi32(*left.offsets.as_ptr().add(place(r, block))));
                        for group in 0..BLOCK / 4 {
                            let w = w.add(group * 4 * COLUMNS);
                            prefetch_ahead(w, AHEAD);
                            let w = _mm512_loadu_si512(w.cast());
                            for r in 0..R {
                                dots[r] = _mm512_dpbusd_epi32(dots[r], w, four(x[r].add(block * BLOCK + group * 4)));
                            }
                        }
                        let scale = halves(right.factors.as_ptr().add(block * 2 * COLUMNS));
                        for r in 0..R {
                            let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*scales[r].add(block)));
                            sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scale, sums[r]);
                        }
                    }
                }
                BlockKind::Four => {
                    let low = _mm512_set1_epi8(15);
                    for eight in 0..right.blocks / 8 {
                        let f = right.factors.as_ptr().add(eight * right.kind.factor_bytes());
                        let (scale, minimum) = (halves(f.add(SCALE)), halves(f.add(MINIMUM)));
                        // An even block and the odd one after it, whose numbers share bytes.
                        for even in (0..8).step_by(2) {
                            let block = eight * 8 + even;
                            let w = right.numbers.as_ptr().add(block / 2 * BLOCK * COLUMNS);
                            let mut dots = [[_mm512_setzero_si512(); R]; 2];
                            for group in 0..BLOCK / 4 {
                                let w = w.add(group * 4 * COLUMNS);
                                prefetch_ahead(w, AHEAD);
                                let both = _mm512_loadu_si512(w.cast());
                                let halves = [both, _mm512_srli_epi16::<4>(both)].map(|w| _mm512_and_si512(w, low));
                                for r in 0..R {
                                    for odd in 0..2 {
                                        let x = four(x[r].add((block + odd) * BLOCK + group * 4));
                                        dots[odd][r] = _mm512_dpbusd_epi32(dots[odd][r], halves[odd], x);
                                    }
                                }
                            }
                            for (odd, dots) in dots.into_iter().enumerate() {
                                let f = f.add((even + odd) * COLUMNS);
                                let (scale, minimum) =
                                    (_mm512_mul_ps(scale, bytes(f)), _mm512_mul_ps(minimum, bytes(f.add(MINIMA))));
                                for r in 0..R {
                                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*scales[r].add(block + odd)));
                                    let sum = _mm512_set1_ps(*left.sums.as_ptr().add(place(r, block + odd)));
                                    sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scale, sums[r]);
                                    sums[r] = _mm512_fnmadd_ps(minimum, sum, sums[r]);
                                }
                            }
                        }
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(out.add(r * stride), sums);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::*;
    use crate::cpu::prefetch_ahead;
    use std::arch::x86_64::*;

    /// Eight factors of f16.
    ///
    /// # Safety
    /// `factors` points to 16 bytes.
    #[inline(always)]
    unsafe fn halves(factors: *const u8) -> __m256 {
        // SAFETY: as promised; inlined where there is F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(factors.cast())) }
    }

    /// Eight factors of a byte.
    ///
    /// # Safety
    /// `factors` points to 8 bytes.
    #[inline(always)]
    unsafe fn bytes(factors: *const u8) -> __m256 {
        // SAFETY: as promised; inlined where there is AVX2.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(factors.cast()))) }
    }

    /// Adds to the sums in `out`.
    ///
    /// # Safety
    /// The processor has the instructions, and the sizes are those that [`ByteKernel::tile`] asserts for `R` rows.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn tile<const R: usize>(
        left: ByteRows,
        row: usize,
        right: PanelBlocks,
        out: *mut f32,
        stride: usize,
    ) {
        // SAFETY: all places are within the sizes that the caller promises; asking for memory beyond the end reads nothing.
        unsafe {
            let (ones, low, offset) = (_mm256_set1_epi16(1), _mm256_set1_epi8(15), _mm256_set1_epi8(-128));
            for half in 0..2 {
                let mut sums: [__m256; R] = std::array::from_fn(|r| _mm256_loadu_ps(out.add(r * stride + half * 8)));
                for block in 0..right.blocks {
                    let place: [usize; R] = std::array::from_fn(|r| (row + r) * left.blocks + right.first + block);
                    let pair = match right.kind {
                        BlockKind::Eight => block,
                        BlockKind::Four => block / 2,
                    };
                    let w = right.numbers.as_ptr().add(pair * BLOCK * COLUMNS + half * 32);
                    let mut dots = [_mm256_setzero_si256(); R];
                    for group in 0..BLOCK / 4 {
                        let w = w.add(group * 4 * COLUMNS);
                        prefetch_ahead(w, AHEAD);
                        let w = _mm256_loadu_si256(w.cast());
                        let fours: [__m256i; R] = std::array::from_fn(|r| {
                            let x = left.numbers.as_ptr().add(place[r] * BLOCK + group * 4);
                            _mm256_set1_epi32(x.cast::<i32>().read_unaligned())
                        });
                        for r in 0..R {
                            // Sums of two products fit into 16 bits: 2 · 127 · 127, or 2 · 15 · 127.
                            let twos = match right.kind {
                                BlockKind::Eight => {
                                    let w = _mm256_xor_si256(w, offset);
                                    _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(fours[r], w))
                                }
                                BlockKind::Four => {
                                    let w = if block % 2 == 0 { w } else { _mm256_srli_epi16::<4>(w) };
                                    _mm256_maddubs_epi16(_mm256_and_si256(w, low), fours[r])
                                }
                            };
                            dots[r] = _mm256_add_epi32(dots[r], _mm256_madd_epi16(twos, ones));
                        }
                    }
                    let f = right.factors.as_ptr().add(block / right.kind.group() * right.kind.factor_bytes());
                    let (scale, minimum) = match right.kind {
                        BlockKind::Eight => (halves(f.add(16 * half)), _mm256_setzero_ps()),
                        BlockKind::Four => {
                            let at = block % 8 * COLUMNS + 8 * half;
                            (
                                _mm256_mul_ps(halves(f.add(SCALE + 16 * half)), bytes(f.add(at))),
                                _mm256_mul_ps(halves(f.add(MINIMUM + 16 * half)), bytes(f.add(MINIMA + at))),
                            )
                        }
                    };
                    for r in 0..R {
                        let scale = _mm256_mul_ps(scale, _mm256_set1_ps(left.scales[place[r]]));
                        sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r]), scale, sums[r]);
                        sums[r] = _mm256_fnmadd_ps(minimum, _mm256_set1_ps(left.sums[place[r]]), sums[r]);
                    }
                }
                for (r, sums) in sums.into_iter().enumerate() {
                    _mm256_storeu_ps(out.add(r * stride + half * 8), sums);
                }
            }
        }
    }
}

//! Dot products of weights of 4, 5, 6 or 8 bits with inputs of 8 bits, in whole numbers, so that every instruction set has the
//! same sums.
//!
//! A panel has 16 columns. Its numbers lie in blocks of 32 of depth; in a block, four numbers of one column lie side by side,
//! and the 16 columns follow each other. Numbers of 8 bits are stored with [`OFFSET`] added. Of those of fewer bits, a byte
//! has the lower four of one of an even block, and of one of the odd block after it; after those of eight blocks come the
//! higher bits: a byte has those of as many groups of four, each of the even and of the odd block, as have room there.
//! Factors are the scales of the numbers, see [`BlockKind`].

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::cpu::amx;
use half::f16;
use std::ops::Range;

/// Columns of a panel.
pub(crate) const COLUMNS: usize = 16;
/// Numbers of a row of inputs that have one scale, and those of a column that have at most two.
pub(crate) const BLOCK: usize = 32;
/// Half of them.
pub(crate) const HALF: usize = BLOCK / 2;
/// Rows of a tile at most.
const ROWS: usize = 8;
/// Blocks of depth at a time, at most, so that they stay in the first-level cache: a multiple of eight.
pub(crate) const DEEP: usize = 24;
/// What is added to weights of 8 bits, since the instructions multiply unsigned numbers by signed ones.
pub(crate) const OFFSET: i32 = 128;
/// What numbers of 6 bits are stored with.
pub(crate) const OFFSET_OF_SIX: i32 = 32;
/// Among the factors of eight blocks of numbers of 4 or 5 bits, whose scales come first: where their minima, the factor of the
/// scales and that of the minima begin.
pub(crate) const MINIMA: usize = 8 * COLUMNS;
pub(crate) const SCALE: usize = 2 * MINIMA;
pub(crate) const MINIMUM: usize = SCALE + 2 * COLUMNS;
/// Of numbers of 6 bits: where the factor of the scales begins.
pub(crate) const SCALE_OF_SIX: usize = 16 * COLUMNS;

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
    /// The same of 5 bits, from 0 to 31.
    Five,
    /// 6 bits, 32 added; half a block has a scale of 8 bits, with a sign, for each column. Eight blocks together have for each
    /// column a factor of the scales (f16).
    Six,
}

impl BlockKind {
    /// Blocks that are stored together.
    pub(crate) fn group(self) -> usize {
        match self {
            Self::Eight => 1,
            Self::Four | Self::Five | Self::Six => 8,
        }
    }

    /// Bytes of the numbers of such a group, in all columns.
    pub(crate) fn number_bytes(self) -> usize {
        match self {
            Self::Eight => BLOCK * COLUMNS,
            Self::Four | Self::Five | Self::Six => 8 * BLOCK * COLUMNS * (4 + self.high_bits()) / 8,
        }
    }

    /// Bytes of its factors.
    pub(crate) fn factor_bytes(self) -> usize {
        match self {
            Self::Eight => 2 * COLUMNS,
            Self::Four | Self::Five => MINIMUM + 2 * COLUMNS,
            Self::Six => SCALE_OF_SIX + 2 * COLUMNS,
        }
    }

    /// Bits of a number that lie apart from its lower four.
    pub(crate) fn high_bits(self) -> usize {
        match self {
            Self::Eight | Self::Four => 0,
            Self::Five => 1,
            Self::Six => 2,
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
    /// −[`OFFSET`] times the sum of the numbers of each half of a block, `[rows, 2·blocks]`.
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
    /// Matrix tiles (Intel's AMX) for 16 rows at a time, and the same for the rest.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Tiles,
}

impl ByteKernel {
    /// The fastest on this processor.
    pub(crate) fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use super::{Cpu, Level};
            let level = Cpu::get().level;
            if level == Level::Avx512 && is_x86_feature_detected!("avx512vnni") {
                #[cfg(target_os = "linux")]
                if Cpu::get().tiles.is_ok() {
                    return Self::Tiles;
                }
                return Self::Vnni;
            }
            if level >= Level::Avx2 && is_x86_feature_detected!("f16c") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// The name that `gptkit info` prints.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => "AVX512-VNNI",
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Tiles => "matrix tiles (AMX) for 16 rows or more, AVX512-VNNI for fewer",
        }
    }

    /// `rows` rows of inputs from row `row` on, times a panel's blocks, at most [`DEEP`]. Writes rows of 16 sums, `stride`
    /// apart, to `out`, or adds to what is there.
    #[inline]
    pub(crate) fn multiply(
        self,
        left: ByteRows,
        (row, rows): (usize, usize),
        right: PanelBlocks,
        (out, stride): (&mut [f32], usize),
        add: bool,
    ) {
        let groups = right.blocks / right.kind.group();
        assert!(right.blocks.is_multiple_of(right.kind.group()) && right.first + right.blocks <= left.blocks);
        assert!((1..=DEEP).contains(&right.blocks) && (row + rows) * left.blocks <= left.scales.len());
        assert!(left.numbers.len() == left.scales.len() * BLOCK && stride >= COLUMNS);
        assert!(left.offsets.len() == 2 * left.scales.len() && left.sums.len() == left.scales.len());
        assert!(right.numbers.len() == groups * right.kind.number_bytes());
        assert!(right.factors.len() == groups * right.kind.factor_bytes());
        assert!(rows > 0 && out.len() >= (rows - 1) * stride + COLUMNS);
        if !add {
            out.chunks_mut(stride).take(rows).for_each(|out| out[..COLUMNS].fill(0.0));
        }
        let on_tiles = match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Tiles if rows >= amx::bytes::ROWS => {
                let whole = rows - rows % amx::bytes::ROWS;
                // SAFETY: `fastest` chooses it where there are tiles, and tests where they are emulated; sizes are as asserted.
                unsafe { amx::bytes::multiply(left, (row, whole), right, out.as_mut_ptr(), stride) }
                whole
            }
            _ => 0,
        };
        for r in (on_tiles..rows).step_by(ROWS) {
            self.tile(left, (row + r, ROWS.min(rows - r)), right, (&mut out[r * stride..], stride));
        }
    }

    /// At most [`ROWS`] rows, with vector instructions; sizes are those that [`ByteKernel::multiply`] asserts.
    #[inline]
    fn tile(self, left: ByteRows, (row, rows): (usize, usize), right: PanelBlocks, (out, stride): (&mut [f32], usize)) {
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
            // SAFETY: as above; where there are tiles, there is AVX-512 with VNNI.
            #[cfg(target_arch = "x86_64")]
            _ => unsafe {
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
    let (group, in_group) = (k / 4, column * 4 + k % 4);
    let (kind, high_bits) = (right.kind, right.kind.high_bits());
    if kind == BlockKind::Eight {
        return right.numbers[(block * (BLOCK / 4) + group) * 4 * COLUMNS + in_group];
    }
    let numbers = &right.numbers[block / 8 * kind.number_bytes()..][..kind.number_bytes()];
    let (low, high) = numbers.split_at(BlockKind::Four.number_bytes());
    let (pair, odd) = (block % 8 / 2, block % 2);
    let low = low[(pair * (BLOCK / 4) + group) * 4 * COLUMNS + in_group] >> (4 * odd) & 15;
    if high_bits == 0 {
        return low;
    }
    let together = 4 / high_bits;
    let byte = high[(pair * (BLOCK / 4) + group) / together * 4 * COLUMNS + in_group];
    low | (byte >> ((group % together * 2 + odd) * high_bits) & ((1 << high_bits) - 1)) << 4
}

/// Scale and minimum of `column` in half `half` of `block`.
fn factors(right: PanelBlocks, (block, half): (usize, usize), column: usize) -> (f32, f32) {
    let kind = right.kind;
    let bytes = &right.factors[block / kind.group() * kind.factor_bytes()..][..kind.factor_bytes()];
    let f16 = |first: usize| f16::from_le_bytes([bytes[first + 2 * column], bytes[first + 2 * column + 1]]).to_f32();
    match kind {
        BlockKind::Eight => (f16(0), 0.0),
        BlockKind::Four | BlockKind::Five => {
            let at = block % 8 * COLUMNS + column;
            (f16(SCALE) * f32::from(bytes[at]), f16(MINIMUM) * f32::from(bytes[MINIMA + at]))
        }
        BlockKind::Six => {
            let scale = bytes[(block % 8 * 2 + half) * COLUMNS + column].cast_signed();
            (f16(SCALE_OF_SIX) * f32::from(scale), 0.0)
        }
    }
}

/// The weight of `column` at depth `k`, counted from the first block.
pub(crate) fn weight(right: PanelBlocks, k: usize, column: usize) -> f32 {
    let (scale, minimum) = factors(right, (k / BLOCK, k % BLOCK / HALF), column);
    let number = i32::from(number(right, k, column));
    match right.kind {
        BlockKind::Eight => scale * (number - OFFSET) as f32,
        BlockKind::Four | BlockKind::Five => scale * number as f32 - minimum,
        BlockKind::Six => scale * (number - OFFSET_OF_SIX) as f32,
    }
}

fn portable_row(left: ByteRows, row: usize, right: PanelBlocks, out: &mut [f32]) {
    for block in 0..right.blocks {
        let at = row * left.blocks + right.first + block;
        for (column, out) in out.iter_mut().enumerate() {
            let dot = |ks: Range<usize>| {
                let product =
                    |k| i32::from(left.numbers[at * BLOCK + k]) * i32::from(number(right, block * BLOCK + k, column));
                ks.map(product).sum::<i32>()
            };
            let (scale, minimum) = factors(right, (block, 0), column);
            match right.kind {
                BlockKind::Eight => {
                    let dot = left.offsets[2 * at] + left.offsets[2 * at + 1] + dot(0..BLOCK);
                    *out += dot as f32 * (scale * left.scales[at]);
                }
                BlockKind::Four | BlockKind::Five => {
                    *out += dot(0..BLOCK) as f32 * (scale * left.scales[at]);
                    *out -= minimum * left.sums[at];
                }
                BlockKind::Six => {
                    for half in 0..2 {
                        let dot = left.offsets[2 * at + half] / (OFFSET / OFFSET_OF_SIX)
                            + dot(half * HALF..(half + 1) * HALF);
                        *out += dot as f32 * (factors(right, (block, half), column).0 * left.scales[at]);
                    }
                }
            }
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
    /// The processor has the instructions, and the sizes are those that [`ByteKernel::multiply`] asserts for `R` rows.
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
            let offset =
                |place: usize| *left.offsets.as_ptr().add(2 * place) + *left.offsets.as_ptr().add(2 * place + 1);
            let mut sums: [__m512; R] = std::array::from_fn(|r| _mm512_loadu_ps(out.add(r * stride)));
            match right.kind {
                BlockKind::Eight => {
                    for block in 0..right.blocks {
                        let w = right.numbers.as_ptr().add(block * BLOCK * COLUMNS);
                        let mut dots: [__m512i; R] =
                            std::array::from_fn(|r| _mm512_set1_epi32(offset(place(r, block))));
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
                BlockKind::Four => low_and_high::<R, 0>(left, row, right, &mut sums),
                BlockKind::Five => low_and_high::<R, 1>(left, row, right, &mut sums),
                BlockKind::Six => low_and_high::<R, 2>(left, row, right, &mut sums),
            }
            for (r, sums) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(out.add(r * stride), sums);
            }
        }
    }

    /// The same of numbers of `4 + HIGH` bits.
    ///
    /// # Safety
    /// As [`tile`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn low_and_high<const R: usize, const HIGH: usize>(
        left: ByteRows,
        row: usize,
        right: PanelBlocks,
        sums: &mut [__m512; R],
    ) {
        let (low, high) = (_mm512_set1_epi8(15), _mm512_set1_epi8(((1 << HIGH) - 1) << 4));
        // Parts of a block that have a scale each, the groups of four in them, and groups whose higher bits share bytes.
        let (parts, together) = if HIGH == 2 { (2, 2) } else { (1, 4) };
        let groups = BLOCK / 4 / parts;
        // SAFETY: all places are within the sizes that the caller promises; asking for memory beyond the end reads nothing.
        unsafe {
            let place = |r: usize, block: usize| (row + r) * left.blocks + right.first + block;
            let x: [*const i8; R] = std::array::from_fn(|r| left.numbers.as_ptr().add(place(r, 0) * BLOCK));
            for eight in 0..right.blocks / 8 {
                let f = right.factors.as_ptr().add(eight * right.kind.factor_bytes());
                let numbers = right.numbers.as_ptr().add(eight * right.kind.number_bytes());
                let highest = numbers.add(8 * BLOCK * COLUMNS / 2);
                let scale = halves(f.add(if HIGH == 2 { SCALE_OF_SIX } else { SCALE }));
                let minimum = if HIGH == 2 { _mm512_setzero_ps() } else { halves(f.add(MINIMUM)) };
                // An even block and the odd one after it, whose numbers share bytes.
                for number in 0..4 * parts {
                    let (even, part) = (number / parts * 2, number % parts);
                    let block = eight * 8 + even;
                    let mut dots = [[_mm512_setzero_si512(); R]; 2];
                    if HIGH == 2 {
                        for (odd, dots) in dots.iter_mut().enumerate() {
                            for (r, dot) in dots.iter_mut().enumerate() {
                                let offset = *left.offsets.as_ptr().add(2 * place(r, block + odd) + part);
                                *dot = _mm512_set1_epi32(offset / (OFFSET / OFFSET_OF_SIX));
                            }
                        }
                    }
                    for first in (part * groups..(part + 1) * groups).step_by(together) {
                        let at = even / 2 * (BLOCK / 4) + first;
                        let mut bits = low;
                        if HIGH > 0 {
                            let from = highest.add(at / together * 4 * COLUMNS);
                            prefetch_ahead(from, AHEAD);
                            bits = _mm512_loadu_si512(from.cast());
                        }
                        for n in 0..together {
                            let from = numbers.add((at + n) * 4 * COLUMNS);
                            prefetch_ahead(from, AHEAD);
                            let both = _mm512_loadu_si512(from.cast());
                            let mut w = [both, _mm512_srli_epi16::<4>(both)].map(|w| _mm512_and_si512(w, low));
                            if HIGH > 0 {
                                for (odd, w) in w.iter_mut().enumerate() {
                                    // To the bits above the lower four. The loops are unrolled: each shift is a constant.
                                    let from = (n * 2 + odd) * HIGH;
                                    let bits = if from <= 4 {
                                        _mm512_sll_epi16(bits, _mm_cvtsi32_si128(4 - from as i32))
                                    } else {
                                        _mm512_srl_epi16(bits, _mm_cvtsi32_si128(from as i32 - 4))
                                    };
                                    *w = _mm512_or_si512(*w, _mm512_and_si512(bits, high));
                                }
                            }
                            for r in 0..R {
                                for odd in 0..2 {
                                    let x = four(x[r].add((block + odd) * BLOCK + (first + n) * 4));
                                    dots[odd][r] = _mm512_dpbusd_epi32(dots[odd][r], w[odd], x);
                                }
                            }
                        }
                    }
                    for (odd, dots) in dots.into_iter().enumerate() {
                        let (scale, minimum) = if HIGH == 2 {
                            let scales = _mm_loadu_si128(f.add(((even + odd) * 2 + part) * COLUMNS).cast());
                            (_mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales))), minimum)
                        } else {
                            let f = f.add((even + odd) * COLUMNS);
                            (_mm512_mul_ps(scale, bytes(f)), _mm512_mul_ps(minimum, bytes(f.add(MINIMA))))
                        };
                        for r in 0..R {
                            let place = place(r, block + odd);
                            let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*left.scales.as_ptr().add(place)));
                            sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scale, sums[r]);
                            if HIGH < 2 {
                                let sum = _mm512_set1_ps(*left.sums.as_ptr().add(place));
                                sums[r] = _mm512_fnmadd_ps(minimum, sum, sums[r]);
                            }
                        }
                    }
                }
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

    /// Four numbers of each of eight columns, as they are stored: group `group` of `block`, in half `half` of the panel.
    ///
    /// # Safety
    /// The panel has such a block.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn four(right: PanelBlocks, block: usize, group: usize, half: usize) -> __m256i {
        let (kind, high_bits, odd) = (right.kind, right.kind.high_bits(), block % 2);
        // SAFETY: as the caller promises; asking for memory beyond the end reads nothing.
        unsafe {
            let load = |from: *const u8| _mm256_loadu_si256(from.add(half * 32).cast());
            if kind == BlockKind::Eight {
                let w = right.numbers.as_ptr().add((block * (BLOCK / 4) + group) * 4 * COLUMNS);
                prefetch_ahead(w, AHEAD);
                return load(w);
            }
            let numbers = right.numbers.as_ptr().add(block / 8 * kind.number_bytes());
            let at = block % 8 / 2 * (BLOCK / 4) + group;
            let w = numbers.add(at * 4 * COLUMNS);
            prefetch_ahead(w, AHEAD);
            let shifted = |bits: __m256i, by: usize| _mm256_srl_epi16(bits, _mm_cvtsi32_si128(by as i32));
            let low = _mm256_and_si256(shifted(load(w), 4 * odd), _mm256_set1_epi8(15));
            if high_bits == 0 {
                return low;
            }
            let together = 4 / high_bits;
            let bits = load(numbers.add(BlockKind::Four.number_bytes() + at / together * 4 * COLUMNS));
            let bits = shifted(bits, (group % together * 2 + odd) * high_bits);
            let bits = _mm256_and_si256(bits, _mm256_set1_epi8((1 << high_bits) - 1));
            _mm256_or_si256(low, _mm256_slli_epi16::<4>(bits))
        }
    }

    /// Adds to the sums in `out`.
    ///
    /// # Safety
    /// The processor has the instructions, and the sizes are those that [`ByteKernel::multiply`] asserts for `R` rows.
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
            let (ones, offset) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
            for half in 0..2 {
                let mut sums: [__m256; R] = std::array::from_fn(|r| _mm256_loadu_ps(out.add(r * stride + half * 8)));
                for block in 0..right.blocks {
                    let place: [usize; R] = std::array::from_fn(|r| (row + r) * left.blocks + right.first + block);
                    let kind = right.kind;
                    let f = right.factors.as_ptr().add(block / kind.group() * kind.factor_bytes());
                    let parts = if kind == BlockKind::Six { 2 } else { 1 };
                    for part in 0..parts {
                        let mut dots = [_mm256_setzero_si256(); R];
                        for group in part * (BLOCK / 4 / parts)..(part + 1) * (BLOCK / 4 / parts) {
                            let w = four(right, block, group, half);
                            for r in 0..R {
                                let x = left.numbers.as_ptr().add(place[r] * BLOCK + group * 4);
                                let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
                                // Sums of two products fit into 16 bits: 2 · 127 · 127 at most.
                                let twos = if kind == BlockKind::Eight {
                                    let w = _mm256_xor_si256(w, offset);
                                    _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                                } else {
                                    _mm256_maddubs_epi16(w, x)
                                };
                                dots[r] = _mm256_add_epi32(dots[r], _mm256_madd_epi16(twos, ones));
                            }
                        }
                        let at = block % 8 * COLUMNS + 8 * half;
                        let scale = match kind {
                            BlockKind::Eight => halves(f.add(16 * half)),
                            BlockKind::Four | BlockKind::Five => {
                                _mm256_mul_ps(halves(f.add(SCALE + 16 * half)), bytes(f.add(at)))
                            }
                            BlockKind::Six => {
                                let scales = f.add((block % 8 * 2 + part) * COLUMNS + 8 * half);
                                let scales = _mm256_cvtepi8_epi32(_mm_loadl_epi64(scales.cast()));
                                let scale = halves(f.add(SCALE_OF_SIX + 16 * half));
                                _mm256_mul_ps(scale, _mm256_cvtepi32_ps(scales))
                            }
                        };
                        for r in 0..R {
                            if kind == BlockKind::Six {
                                let offset = left.offsets[2 * place[r] + part] / (OFFSET / OFFSET_OF_SIX);
                                dots[r] = _mm256_add_epi32(dots[r], _mm256_set1_epi32(offset));
                            }
                            let scale = _mm256_mul_ps(scale, _mm256_set1_ps(left.scales[place[r]]));
                            sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r]), scale, sums[r]);
                        }
                        if matches!(kind, BlockKind::Four | BlockKind::Five) {
                            let minimum = _mm256_mul_ps(halves(f.add(MINIMUM + 16 * half)), bytes(f.add(MINIMA + at)));
                            for r in 0..R {
                                sums[r] = _mm256_fnmadd_ps(minimum, _mm256_set1_ps(left.sums[place[r]]), sums[r]);
                            }
                        }
                    }
                }
                for (r, sums) in sums.into_iter().enumerate() {
                    _mm256_storeu_ps(out.add(r * stride + half * 8), sums);
                }
            }
        }
    }
}

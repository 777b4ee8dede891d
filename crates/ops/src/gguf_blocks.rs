//! Blocks of weights of few bits, in the types of llama.cpp's files (GGUF), and how they are placed in panels. (Source of the
//! types: `ggml-common.h` and `ggml-quants.c` of llama.cpp.)

use crate::cpu::bytes::{BLOCK, BlockKind, ByteKernel, COLUMNS, MINIMA, OFFSET, SCALE, SCALE_OF_SIX};
use candle_core::quantized::GgmlDType;
use half::f16;
use std::ops::Range;

/// Types of weights of few bits; for models that are only read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantized {
    /// 4 bits, 32 numbers to a scale.
    Q4_0,
    /// 5 bits, 32 numbers to a scale.
    Q5_0,
    /// 8 bits, 32 numbers to a scale.
    Q8_0,
    /// 3 bits, 256 numbers to a block.
    Q3K,
    /// 4 bits, 256 numbers to a block.
    Q4K,
    /// 5 bits, 256 numbers to a block.
    Q5K,
    /// 6 bits, 256 numbers to a block.
    Q6K,
}

impl Quantized {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [Self::Q4_0, Self::Q5_0, Self::Q8_0, Self::Q3K, Self::Q4K, Self::Q5K, Self::Q6K];

    /// The type that stores weights of `dtype`, if products read them as they are.
    pub fn of_dtype(dtype: GgmlDType) -> Option<Self> {
        Self::ALL.into_iter().find(|quantized| quantized.dtype() == dtype)
    }

    /// Instructions that products with such weights run on.
    pub fn instructions() -> &'static str {
        ByteKernel::fastest().name()
    }

    pub(crate) fn dtype(self) -> GgmlDType {
        match self {
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q3K => GgmlDType::Q3K,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
        }
    }

    /// How panels hold its numbers, each exactly.
    pub(crate) fn kind(self) -> BlockKind {
        match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => BlockKind::Eight,
            Self::Q4K => BlockKind::Four,
            Self::Q5K => BlockKind::Five,
            Self::Q3K | Self::Q6K => BlockKind::Six,
        }
    }

    /// Numbers in a block: the number of inputs of a product is a multiple of it.
    pub fn block(self) -> usize {
        self.dtype().block_size()
    }

    /// Where the factors of 16 bits are in a block.
    fn halves(self) -> Range<usize> {
        let end = self.dtype().type_size();
        match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => 0..2,
            Self::Q4K | Self::Q5K => 0..4,
            Self::Q3K | Self::Q6K => end - 2..end,
        }
    }

    /// Whether no factor of `block` is NaN or infinite.
    pub(crate) fn is_finite(self, block: &[u8]) -> bool {
        let mut halves = block[self.halves()].chunks_exact(2);
        halves.all(|half| f16::from_le_bytes([half[0], half[1]]).is_finite())
    }

    /// Places `block` in a column of a panel.
    pub(crate) fn place(self, block: &[u8], column: usize, numbers: &mut [u8], factors: &mut [u8]) {
        let halves = &block[self.halves()];
        let scales = match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => 0,
            Self::Q4K | Self::Q5K => SCALE,
            Self::Q3K | Self::Q6K => SCALE_OF_SIX,
        };
        for (i, half) in halves.chunks_exact(2).enumerate() {
            factors[scales + 2 * i * COLUMNS + 2 * column..][..2].copy_from_slice(half);
        }
        match self {
            // Numbers from 0 to 15, 8 of which is zero: the first half of them in the lower bits of the bytes.
            Self::Q4_0 => place_bytes(column, numbers, |group| {
                (word(&block[2..], group % 4) >> (4 * (group / 4)) & LOW) + every(OFFSET - 8)
            }),
            // Numbers from 0 to 31, 16 of which is zero: the highest bits of all come first.
            Self::Q5_0 => place_bytes(column, numbers, |group| {
                let four = word(&block[2..], 0) >> (4 * group);
                let high = (0..4).map(|i| (four >> i & 1) << (8 * i + 4)).sum::<u32>();
                (word(&block[6..], group % 4) >> (4 * (group / 4)) & LOW | high) + every(OFFSET - 16)
            }),
            // The highest bit of a signed number is a difference of 128.
            Self::Q8_0 => place_bytes(column, numbers, |group| word(&block[2..], group) ^ every(OFFSET)),
            Self::Q4K => {
                place_scales_and_minima(&block[4..16], column, factors);
                let low = &block[16..];
                place_bits::<0>(column, numbers, |block, group| low_of_pairs(low, block, group));
            }
            Self::Q5K => {
                place_scales_and_minima(&block[4..16], column, factors);
                let (high, low) = block[16..].split_at(32);
                place_bits::<1>(column, numbers, |block, group| {
                    low_of_pairs(low, block, group) | (word(high, group) >> block & every(1)) << 4
                });
            }
            Self::Q3K => {
                let (third, rest) = block.split_at(32);
                let (low, packed) = rest.split_at(64);
                for j in 0..16 {
                    let low = packed[j % 8] >> (4 * (j / 8)) & 15;
                    let high = packed[8 + j % 4] >> (2 * (j / 4)) & 3;
                    factors[j * COLUMNS + column] = (low | high << 4).wrapping_sub(32);
                }
                // Numbers from 0 to 7, 4 of which is zero, where those of 6 bits have 32.
                place_bits::<2>(column, numbers, |block, group| {
                    let low = word(low, block / 4 * 8 + group) >> (2 * (block % 4)) & every(3);
                    (low | (word(third, group) >> block & every(1)) << 2) + every(32 - 4)
                });
            }
            Self::Q6K => {
                let (low, rest) = block.split_at(128);
                let (high, scales) = rest.split_at(64);
                for (j, scale) in scales[..16].iter().enumerate() {
                    factors[j * COLUMNS + column] = *scale;
                }
                place_bits::<2>(column, numbers, |block, group| {
                    let low = word(low, block / 4 * 16 + block % 2 * 8 + group) >> (block % 4 / 2 * 4) & LOW;
                    low | (word(high, block / 4 * 8 + group) >> (2 * (block % 4)) & every(3)) << 4
                });
            }
        }
    }
}

/// The lower half of four bytes.
const LOW: u32 = 0x0f0f_0f0f;

/// Four bytes of the same number.
const fn every(number: i32) -> u32 {
    number as u32 * 0x0101_0101
}

/// Four bytes, of which `number` times four come before.
#[inline(always)]
fn word(bytes: &[u8], number: usize) -> u32 {
    let four = &bytes[4 * number..][..4];
    u32::from_le_bytes([four[0], four[1], four[2], four[3]])
}

fn put(numbers: &mut [u8], place: usize, column: usize, four: u32) {
    numbers[(place * COLUMNS + column) * 4..][..4].copy_from_slice(&four.to_le_bytes());
}

/// Numbers of 4 bits: 32 bytes have those of a block of 32, and of the one after it in the higher bits.
fn low_of_pairs(low: &[u8], block: usize, group: usize) -> u32 {
    word(low, block / 2 * 8 + group) >> (4 * (block % 2)) & LOW
}

/// Places the numbers of a block of 32, of which `fours` gives each group of four, [`OFFSET`] added.
fn place_bytes(column: usize, numbers: &mut [u8], fours: impl Fn(usize) -> u32) {
    (0..BLOCK / 4).for_each(|group| put(numbers, group, column, fours(group)));
}

/// Places the numbers of eight blocks of 32, of `4 + HIGH` bits each: `fours` gives each group of four of each block.
#[inline(always)]
fn place_bits<const HIGH: usize>(column: usize, numbers: &mut [u8], fours: impl Fn(usize, usize) -> u32) {
    let (low, high) = numbers.split_at_mut(BlockKind::Four.number_bytes());
    // Higher bits of as many groups, each of an even and of an odd block, share a byte as have room there.
    let together = 4usize.checked_div(HIGH).unwrap_or(BLOCK);
    for pair in 0..4 {
        let mut bits = 0;
        for group in 0..BLOCK / 4 {
            let (even, odd) = (fours(2 * pair, group), fours(2 * pair + 1, group));
            let place = pair * (BLOCK / 4) + group;
            put(low, place, column, even & LOW | (odd & LOW) << 4);
            if HIGH > 0 {
                let (mask, number) = (every((1 << HIGH) - 1), group % together * 2);
                bits |= (even >> 4 & mask) << (number * HIGH) | (odd >> 4 & mask) << ((number + 1) * HIGH);
                if group % together == together - 1 {
                    put(high, place / together, column, std::mem::take(&mut bits));
                }
            }
        }
    }
}

/// Places the scales and minima of 6 bits of eight blocks, which 12 bytes hold.
fn place_scales_and_minima(packed: &[u8], column: usize, factors: &mut [u8]) {
    for j in 0..8 {
        let (scale, minimum) = match j {
            0..4 => (packed[j] & 63, packed[j + 4] & 63),
            _ => (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4),
        };
        factors[j * COLUMNS + column] = scale;
        factors[MINIMA + j * COLUMNS + column] = minimum;
    }
}

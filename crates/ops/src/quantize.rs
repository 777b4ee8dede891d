//! Weights rounded to blocks of few bits, to the byte as candle rounds them. The types that models are most often read in are
//! rounded here, 16 blocks of 32 at a time, since candle rounds one number after the other; the other types by candle.

use crate::cpu::bytes::BLOCK;
use crate::cpu::vectorized;
use crate::gguf_blocks::Quantized;
use candle_core::quantized::QTensor;
use candle_core::{Device, Result, Tensor};
use half::f16;

/// Numbers of a block of eight scales and eight minima.
const LARGE: usize = 8 * BLOCK;
/// Blocks that are rounded at a time: those of two large ones.
const LANES: usize = 16;

/// The blocks of `numbers`, whose length is a multiple of the type's blocks.
///
/// # Errors
/// When candle cannot round them.
pub(crate) fn quantize(to: Quantized, numbers: &[f32]) -> Result<Vec<u8>> {
    let mut blocks = vec![0; numbers.len() / to.block() * to.dtype().type_size()];
    match to {
        Quantized::Q8_0 => to_eight_bits(numbers, &mut blocks),
        Quantized::Q4K => to_few_bits(numbers, 4, &mut blocks),
        Quantized::Q5K => to_few_bits(numbers, 5, &mut blocks),
        Quantized::Q4_0 | Quantized::Q5_0 | Quantized::Q3K | Quantized::Q6K => {
            let rows = Tensor::from_slice(numbers, numbers.len(), &Device::Cpu)?;
            blocks = QTensor::quantize(&rows, to.dtype())?.data()?.into_owned();
        }
    }
    Ok(blocks)
}

vectorized! {
    /// A scale (f16), then 32 numbers.
    fn to_eight_bits(numbers: &[f32], blocks: &mut [u8]) {
        for (x, block) in numbers.as_chunks::<BLOCK>().0.iter().zip(blocks.as_chunks_mut::<{ 2 + BLOCK }>().0) {
            let scale = x.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / 127.0;
            let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
            let (factor, rounded) = block.split_at_mut(2);
            factor.copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            rounded.iter_mut().zip(x).for_each(|(rounded, x)| *rounded = (x * inverse).round() as i32 as u8);
        }
    }
}

/// Large blocks of numbers of 4 or 5 bits: the factors of scales and minima (f16), these in 6 bits each, the highest of 5 bits,
/// and the lower four.
fn to_few_bits(numbers: &[f32], bits: usize, blocks: &mut [u8]) {
    let most = (1 << bits) - 1;
    let size = 16 + LARGE * bits / 8;
    for (x, blocks) in numbers.chunks(2 * LARGE).zip(blocks.chunks_mut(2 * size)) {
        let mut turned = [[0.0; LANES]; BLOCK];
        for (lane, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            turned.iter_mut().zip(x).for_each(|(turned, x)| turned[lane] = *x);
        }
        let (scales, minima) = scales_and_minima(&turned, most as f32);
        for (number, (x, block)) in x.as_chunks::<LARGE>().0.iter().zip(blocks.chunks_exact_mut(size)).enumerate() {
            let here = 8 * number..8 * (number + 1);
            to_large_block(x, &scales[here.clone()], &minima[here], most as f32, block);
        }
    }
}

vectorized! {
    /// For each block, a column of `x`, the scale and the minimum with which numbers from 0 to `most` come near it: five times,
    /// or until no number changes, both are fitted to the numbers and these rounded again.
    fn scales_and_minima(x: &[[f32; LANES]; BLOCK], most: f32) -> ([f32; LANES], [f32; LANES]) {
        let (mut least, mut largest) = (x[0], x[0]);
        for x in x {
            least.iter_mut().zip(x).for_each(|(least, x)| *least = least.min(*x));
            largest.iter_mut().zip(x).for_each(|(largest, x)| *largest = largest.max(*x));
        }
        let mut is_done: [bool; LANES] = std::array::from_fn(|lane| least[lane] == largest[lane]);
        let mut minima: [f32; LANES] =
            std::array::from_fn(|lane| if is_done[lane] { 0.0 } else { least[lane].min(0.0) });
        let mut inverses: [f32; LANES] = std::array::from_fn(|lane| most / (largest[lane] - minima[lane]));
        let mut scales = [0.0; LANES];
        let mut rounded = [[0.0f32; LANES]; BLOCK];
        for _ in 0..5 {
            let (mut products, mut squares, mut changes) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
            for (x, rounded) in x.iter().zip(&mut rounded) {
                for lane in 0..LANES {
                    let above = x[lane] - minima[lane];
                    let number = (inverses[lane] * above).round().max(0.0).min(most);
                    changes[lane] += (number - rounded[lane]).abs();
                    rounded[lane] = number;
                    products[lane] += above * number;
                    squares[lane] += number * number;
                }
            }
            let fitted: [f32; LANES] = std::array::from_fn(|lane| products[lane] / squares[lane]);
            let mut rests = [-0.0f32; LANES];
            for (x, rounded) in x.iter().zip(&rounded) {
                for lane in 0..LANES {
                    rests[lane] += x[lane] - fitted[lane] * rounded[lane];
                }
            }
            for lane in 0..LANES {
                let mean = rests[lane] / BLOCK as f32;
                let minimum = if mean > 0.0 { 0.0 } else { mean };
                scales[lane] = if is_done[lane] { scales[lane] } else { fitted[lane] };
                minima[lane] = if is_done[lane] { minima[lane] } else { minimum };
                inverses[lane] = 1.0 / scales[lane];
                is_done[lane] |= changes[lane] == 0.0;
            }
            if is_done == [true; LANES] {
                break;
            }
        }
        // Not the negative, which may be a zero with a sign.
        (scales, minima.map(|minimum| 0.0 - minimum))
    }
}

vectorized! {
    /// Writes 256 numbers with the given scales and minima, which are rounded to 6 bits.
    fn to_large_block(x: &[f32; LARGE], scales: &[f32], minima: &[f32], most: f32, block: &mut [u8]) {
        let largest = |factors: &[f32]| factors.iter().fold(0.0, |most: f32, x| x.max(most));
        let six_bits = |factors: &[f32], largest: f32| -> [u8; 8] {
            let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
            std::array::from_fn(|j| ((inverse * factors[j]).round() as i32).min(63) as u8)
        };
        let (scale, minimum) = (largest(scales), largest(minima));
        let (scales, minima) = (six_bits(scales, scale), six_bits(minima, minimum));
        let (scale, minimum) = (f16::from_f32(scale / 63.0), f16::from_f32(minimum / 63.0));
        block[..2].copy_from_slice(&scale.to_le_bytes());
        block[2..4].copy_from_slice(&minimum.to_le_bytes());
        let (packed, numbers) = block[4..].split_at_mut(12);
        for j in 0..4 {
            packed[j] = scales[j] | scales[j + 4] >> 4 << 6;
            packed[j + 4] = minima[j] | minima[j + 4] >> 4 << 6;
            packed[j + 8] = scales[j + 4] & 15 | minima[j + 4] << 4;
        }
        let mut rounded = [[0u8; BLOCK]; 8];
        for (j, (rounded, x)) in rounded.iter_mut().zip(x.as_chunks::<BLOCK>().0).enumerate() {
            let (scale, minimum) = (scale.to_f32() * f32::from(scales[j]), minimum.to_f32() * f32::from(minima[j]));
            if scale != 0.0 {
                let number = |x: f32| ((x + minimum) / scale).round().max(0.0).min(most) as i32 as u8;
                rounded.iter_mut().zip(x).for_each(|(rounded, x)| *rounded = number(*x));
            }
        }
        let (high, low) = numbers.split_at_mut(numbers.len() - LARGE / 2);
        for (j, low) in low.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let (even, odd) = (&rounded[2 * j], &rounded[2 * j + 1]);
            for (k, low) in low.iter_mut().enumerate() {
                *low = even[k] & 15 | odd[k] << 4;
            }
            for (k, high) in high.iter_mut().enumerate() {
                *high |= (even[k] >> 4 | odd[k] >> 4 << 1) << (2 * j);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::draw;

    #[test]
    fn blocks_are_candles_to_the_byte() {
        for to in Quantized::ALL {
            for (seed, size, mean) in [(1, 1.0, 0.0), (2, 1e-4, 0.0), (3, 30.0, 50.0), (4, 1.0, -3.0), (5, 1e-30, 0.0)]
            {
                let n = 7 * LARGE;
                let x = draw(seed, &[n]).to_vec1::<f32>().unwrap();
                let mut x: Vec<f32> = x.into_iter().map(|x| x * size + mean).collect();
                // Blocks of equal numbers, of zeros, of two numbers, of one large number, and of whole numbers.
                x[BLOCK..2 * BLOCK].fill(mean);
                x[2 * BLOCK..3 * BLOCK].fill(0.0);
                x[3 * BLOCK..4 * BLOCK].iter_mut().enumerate().for_each(|(i, x)| *x = [0.0, -0.0, size][i % 3]);
                x[5 * BLOCK] = 1e4 * size;
                x[2 * LARGE..3 * LARGE].fill(0.0);
                x[4 * LARGE..5 * LARGE].iter_mut().enumerate().for_each(|(i, x)| *x = (i % 37) as f32 - 18.0);
                let expected = QTensor::quantize(&Tensor::new(&*x, &Device::Cpu).unwrap(), to.dtype()).unwrap();
                let expected = expected.data().unwrap();
                assert_eq!(quantize(to, &x).unwrap(), &*expected, "{to:?}, draw {seed}");
            }
        }
    }
}

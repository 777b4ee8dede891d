//! Weights of few bits, and products with them.
//!
//! A product rounds its inputs to 8 bits, each block of 32 numbers with a scale of its own, as llama.cpp does. Each row of a
//! result has the same bits however many rows there are, and on any number of threads.

use crate::blocks::{JOBS, READING, blocks};
use crate::cpu::bytes::{BLOCK, BlockKind, ByteKernel, ByteRows, COLUMNS, DEEP, HALF, OFFSET, PanelBlocks, weight};
use crate::cpu::element::Element;
use crate::cpu::vectorized;
use crate::gguf_blocks::Quantized;
use crate::matrix::Matrix;
use crate::quantize::quantize;
use crate::zeroed::Zeroed;
use candle_core::{Result, bail};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Panels whose sums are kept before they are handed out, and numbers between rows of sums.
const GROUP: usize = 8;
const STRIDE: usize = GROUP * COLUMNS + 16;
/// Rows that are not divided among threads: those of a matrix tile.
const UNIT: usize = 16;
/// Rows that a thread works on at a time, so that their inputs and sums stay in the second-level cache.
const TALL: usize = 256;
/// Rows from which on all threads round inputs.
const MANY: usize = 16;

thread_local! {
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A right matrix of such a type, `[depth, columns]`, in the order in which products read it.
#[derive(Debug)]
pub(crate) struct QuantizedPanels {
    kind: BlockKind,
    numbers: Zeroed<u8>,
    factors: Zeroed<u8>,
    /// Blocks of a column.
    blocks: usize,
    columns: usize,
}

impl QuantizedPanels {
    /// Rounds `matrix`, `[depth, columns]`, as llama.cpp does.
    ///
    /// # Errors
    /// When the depth is no multiple of the type's blocks.
    pub(crate) fn quantize(matrix: Matrix<f32>, to: Quantized) -> Result<Self> {
        let depth = matrix.rows;
        Self::fill(to, depth, matrix.columns, |columns| {
            let mut numbers = vec![0.0f32; columns.len() * depth];
            if matrix.is_transposed() {
                for (column, out) in columns.zip(numbers.chunks_exact_mut(depth.max(1))) {
                    out.copy_from_slice(matrix.column_part(column, 0..depth));
                }
            } else {
                for k in 0..depth {
                    let row = matrix.row_part(k, columns.clone());
                    row.iter().enumerate().for_each(|(c, x)| numbers[c * depth + k] = *x);
                }
            }
            quantize(to, &numbers)
        })
    }

    /// The matrix whose columns are rows of blocks in a GGUF file; `read` reads some of them.
    ///
    /// # Errors
    /// When the depth is no multiple of the type's blocks, a row cannot be read, or a scale is not finite.
    pub(crate) fn of_rows(
        of: Quantized,
        (depth, columns): (usize, usize),
        read: &(dyn Fn(Range<usize>) -> Result<Vec<u32>> + Sync),
    ) -> Result<Self> {
        let row = depth / of.block() * of.dtype().type_size();
        Self::fill(of, depth, columns, |columns| {
            let n = columns.len();
            let words = read(columns)?;
            let Some(held) = bytemuck::cast_slice::<u32, u8>(&words).get(..n * row) else {
                bail!("{} bytes of blocks for {n} rows of {row} bytes", size_of_val(&*words));
            };
            if !held.chunks_exact(of.dtype().type_size()).all(|block| of.is_finite(block)) {
                bail!("a scale is NaN or infinite");
            }
            Ok(held.to_vec())
        })
    }

    /// `rows_of` returns the blocks of some columns, at most 16, one column after the other.
    fn fill(
        to: Quantized,
        depth: usize,
        columns: usize,
        rows_of: impl Fn(Range<usize>) -> Result<Vec<u8>> + Sync,
    ) -> Result<Self> {
        if !depth.is_multiple_of(to.block()) {
            bail!("a width of {depth} cannot be divided into blocks of {} numbers", to.block());
        }
        let (kind, blocks) = (to.kind(), depth / BLOCK);
        let groups = blocks / kind.group();
        let (number_bytes, factor_bytes) = (groups * kind.number_bytes(), groups * kind.factor_bytes());
        let n_panels = columns.div_ceil(COLUMNS);
        let (mut numbers, mut factors) = (Zeroed::new(n_panels * number_bytes), Zeroed::new(n_panels * factor_bytes));
        let panels = numbers.par_chunks_mut(number_bytes.max(1)).zip(factors.par_chunks_mut(factor_bytes.max(1)));
        panels.enumerate().try_for_each(|(panel, (numbers, factors))| {
            let rows = rows_of(panel * COLUMNS..((panel + 1) * COLUMNS).min(columns))?;
            for (column, row) in rows.chunks_exact(depth / to.block() * to.dtype().type_size()).enumerate() {
                for (group, block) in row.chunks_exact(to.dtype().type_size()).enumerate() {
                    let numbers = &mut numbers[group * kind.number_bytes()..][..kind.number_bytes()];
                    let factors = &mut factors[group * kind.factor_bytes()..][..kind.factor_bytes()];
                    to.place(block, column, numbers, factors);
                }
            }
            Ok::<(), candle_core::Error>(())
        })?;
        Ok(Self { kind, numbers, factors, blocks, columns })
    }

    /// Some blocks of a panel.
    fn part(&self, panel: usize, blocks: Range<usize>) -> PanelBlocks<'_> {
        let (kind, groups) = (self.kind, self.blocks / self.kind.group());
        let (first, n) = (panel * groups + blocks.start / kind.group(), blocks.len() / kind.group());
        PanelBlocks {
            kind,
            numbers: &self.numbers[first * kind.number_bytes()..][..n * kind.number_bytes()],
            factors: &self.factors[first * kind.factor_bytes()..][..n * kind.factor_bytes()],
            blocks: blocks.len(),
            first: blocks.start,
        }
    }

    /// Writes the weights of `column` to `out`, `[depth]`.
    pub(crate) fn write_column(&self, column: usize, out: &mut [f32]) {
        let all = self.part(column / COLUMNS, 0..self.blocks);
        out.iter_mut().enumerate().for_each(|(k, out)| *out = weight(all, k, column % COLUMNS));
    }
}

/// Inputs of a product.
struct RoundedRows {
    numbers: Vec<i8>,
    scales: Vec<f32>,
    offsets: Vec<i32>,
    sums: Vec<f32>,
    blocks: usize,
}

impl RoundedRows {
    fn of<A: Element>(a: Matrix<A>) -> Self {
        let blocks = a.columns / BLOCK;
        let n = a.rows * blocks;
        let (mut numbers, mut scales) = (vec![0; n * BLOCK], vec![0.0; n]);
        let (mut offsets, mut sums) = (vec![0; 2 * n], vec![0.0; n]);
        let rows = a.rows.div_ceil(rayon::current_num_threads()).max(MANY);
        let parts =
            numbers.par_chunks_mut((rows * blocks * BLOCK).max(1)).zip(scales.par_chunks_mut((rows * blocks).max(1)));
        let parts = parts
            .zip(offsets.par_chunks_mut((2 * rows * blocks).max(1)).zip(sums.par_chunks_mut((rows * blocks).max(1))));
        parts.enumerate().for_each(|(part, ((numbers, scales), (offsets, sums)))| {
            for (r, row) in (part * rows..((part + 1) * rows).min(a.rows)).enumerate() {
                let here = r * blocks..(r + 1) * blocks;
                let numbers = &mut numbers[here.start * BLOCK..here.end * BLOCK];
                let (scales, offsets) = (&mut scales[here.clone()], &mut offsets[2 * here.start..2 * here.end]);
                round_row(a.row_part(row, 0..a.columns), numbers, scales, offsets, &mut sums[here]);
            }
        });
        Self { numbers, scales, offsets, sums, blocks }
    }

    fn rows(&self) -> ByteRows<'_> {
        ByteRows {
            numbers: &self.numbers,
            scales: &self.scales,
            offsets: &self.offsets,
            sums: &self.sums,
            blocks: self.blocks,
        }
    }
}

vectorized! {
    /// Rounds a row to 8 bits, block by block. A block with a number that is not finite has a scale that is not either.
    fn round_row[A: Element](row: &[A], numbers: &mut [i8], scales: &mut [f32], offsets: &mut [i32], sums: &mut [f32]) {
        let (row, out) = (row.as_chunks::<BLOCK>().0, numbers.as_chunks_mut::<BLOCK>().0);
        for (block, (x, out)) in row.iter().zip(out).enumerate() {
            let x: [f32; BLOCK] = std::array::from_fn(|k| x[k].get());
            // Without their signs, the bits of numbers are in the numbers' order; infinity and what is no number come last.
            let bits = x.iter().fold(0, |most: u32, x| most.max(x.to_bits() & !(1 << 31)));
            let largest = f32::from_bits(bits);
            let scale = if largest.is_finite() { largest / 127.0 } else { f32::NAN };
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            // Adding 1.5·2²³ rounds to a whole number, which the sum's lowest bits then are; anything where the scale is NaN.
            const ROUND: f32 = 12_582_912.0;
            let rounded = x.map(|x| (x * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed());
            let (first, second) = rounded.split_at(HALF);
            let halves = [first, second].map(|half| half.iter().fold(0, |sum: i32, x| sum.wrapping_add(*x)));
            let sum = halves[0].wrapping_add(halves[1]);
            out.iter_mut().zip(rounded).for_each(|(out, rounded)| *out = rounded as i8);
            scales[block] = scale;
            offsets[2 * block..][..2].copy_from_slice(&halves.map(|sum| sum.wrapping_mul(-OFFSET)));
            sums[block] = scale * sum as f32;
        }
    }
}

/// The product of `a`, `[M, depth]`, and `b`, `[depth, N]`, over all cores. Hands parts of its rows to `finish` with their row
/// and their first column: each part once, several at the same time.
pub(crate) fn multiply_quantized<A: Element>(
    a: Matrix<A>,
    b: &QuantizedPanels,
    finish: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    multiply_with(ByteKernel::fastest(), a, b, finish);
}

fn multiply_with<A: Element>(
    kernel: ByteKernel,
    a: Matrix<A>,
    b: &QuantizedPanels,
    finish: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let rounded = RoundedRows::of(a);
    let jobs = blocks((a.rows, b.columns), (UNIT, COLUMNS), (TALL / UNIT, usize::MAX), READING, JOBS);
    jobs.into_par_iter().for_each(|(rows, columns)| {
        SUMS.with_borrow_mut(|sums| {
            sums.resize(sums.len().max(rows.len() * STRIDE), 0.0);
            for first in columns.clone().step_by(GROUP * COLUMNS) {
                let group = first..(first + GROUP * COLUMNS).min(columns.end);
                for k in (0..b.blocks).step_by(DEEP) {
                    for column in group.clone().step_by(COLUMNS) {
                        let right = b.part(column / COLUMNS, k..(k + DEEP).min(b.blocks));
                        let out = (&mut sums[column - first..], STRIDE);
                        kernel.multiply(rounded.rows(), (rows.start, rows.len()), right, out, k > 0);
                    }
                }
                for (row, sums) in rows.clone().zip(sums.chunks_exact_mut(STRIDE)) {
                    finish(row, first, &mut sums[..group.len()]);
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::draw;
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};
    use std::sync::Mutex;

    fn kernels() -> Vec<ByteKernel> {
        let mut kernels = vec![ByteKernel::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c");
            kernels.extend((has_avx2 && is_x86_feature_detected!("fma")).then_some(ByteKernel::Avx2));
            let vnni = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw");
            kernels.extend(vnni.then_some(ByteKernel::Vnni));
            #[cfg(target_os = "linux")]
            if vnni {
                crate::cpu::amx::emulated::install();
                kernels.push(ByteKernel::Tiles);
            }
        }
        kernels
    }

    fn product(kernel: ByteKernel, a: &[f32], rows: usize, b: &QuantizedPanels) -> Vec<f32> {
        let depth = b.blocks * BLOCK;
        let c = Mutex::new(vec![f32::NAN; rows * b.columns]);
        multiply_with(kernel, Matrix::new(a, rows, depth, depth), b, |row, first, sums| {
            c.lock().unwrap()[row * b.columns + first..][..sums.len()].copy_from_slice(sums);
        });
        c.into_inner().unwrap()
    }

    fn numbers(seed: u64, rows: usize, columns: usize) -> Vec<f32> {
        draw(seed, &[rows, columns]).flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Every kernel has the products of what candle makes of the blocks and of the rounded inputs.
    #[test]
    fn products_are_those_of_the_rounded_numbers() {
        for to in Quantized::ALL {
            for (m, blocks, n) in [(1, 1, 1), (3, 3, 17), (9, 2, 16), (17, 1, 130), (300, 4, 50)] {
                let depth = blocks * to.block();
                let (a, b) = (numbers(1, m, depth), numbers(2, n, depth));
                let weights = Tensor::from_slice(&b, (n, depth), &Device::Cpu).unwrap();
                let weights = QTensor::quantize(&weights, to.dtype()).unwrap().dequantize(&Device::Cpu).unwrap();
                let weights: Vec<Vec<f32>> = weights.to_vec2().unwrap();
                let panels = QuantizedPanels::quantize(Matrix::new(&b, n, depth, depth).t(), to).unwrap();
                let turned: Vec<f32> =
                    (0..depth).flat_map(|k| (0..n).map(move |c| (k, c))).map(|(k, c)| b[c * depth + k]).collect();
                let same = QuantizedPanels::quantize(Matrix::new(&turned, depth, n, n), to).unwrap();
                assert_eq!(&panels.numbers[..], &same.numbers[..], "{to:?}, transposed");
                let mut column = vec![0.0; depth];
                for (c, weights) in weights.iter().enumerate() {
                    panels.write_column(c, &mut column);
                    assert_eq!(&column, weights, "{to:?} column {c}");
                }
                let rounded = RoundedRows::of(Matrix::new(&a, m, depth, depth));
                let x = |i: usize| f64::from(rounded.numbers[i]) * f64::from(rounded.scales[i / BLOCK]);
                for kernel in kernels() {
                    let c = product(kernel, &a, m, &panels);
                    for (i, c) in c.iter().enumerate() {
                        let (row, column) = (i / n, i % n);
                        let terms = (0..depth).map(|k| x(row * depth + k) * f64::from(weights[column][k]));
                        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                        let error = (f64::from(*c) - sum).abs();
                        assert!(
                            error <= 1e-5 * size.max(1e-9),
                            "{kernel:?} {to:?} {m} × {depth} × {n}: {c}, not {sum}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_of_a_file_are_those_that_are_made() {
        for to in Quantized::ALL {
            let (depth, n) = (512, 21);
            let b = numbers(8, n, depth);
            let rows = Tensor::from_slice(&b, (n, depth), &Device::Cpu).unwrap();
            let mut bytes = QTensor::quantize(&rows, to.dtype()).unwrap().data().unwrap().into_owned();
            let row = depth / to.block() * to.dtype().type_size();
            let of = |bytes: &[u8]| {
                let read = |rows: Range<usize>| {
                    let held = bytes.get(rows.start * row..rows.end * row);
                    let held = held.ok_or_else(|| candle_core::Error::msg("the file ends"))?;
                    Ok(held
                        .chunks(4)
                        .map(|word| word.iter().rev().fold(0, |word, &b| word << 8 | u32::from(b)))
                        .collect())
                };
                QuantizedPanels::of_rows(to, (depth, n), &read)
            };
            let read = of(&bytes).unwrap();
            let made = QuantizedPanels::quantize(Matrix::new(&b, n, depth, depth).t(), to).unwrap();
            assert_eq!((&read.numbers[..], &read.factors[..]), (&made.numbers[..], &made.factors[..]), "{to:?}");
            assert!(of(&bytes[1..]).is_err());
            let half = if matches!(to, Quantized::Q3K | Quantized::Q6K) { to.dtype().type_size() - 2 } else { 0 };
            bytes[half..half + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
            assert!(of(&bytes).unwrap_err().to_string().contains("NaN"));
        }
    }

    /// Inputs are rounded by at most half a step.
    #[test]
    fn inputs_are_rounded_to_the_nearest_step() {
        let a = numbers(3, 5, 96);
        let rounded = RoundedRows::of(Matrix::new(&a, 5, 96, 96));
        for (i, &x) in a.iter().enumerate() {
            let scale = rounded.scales[i / BLOCK];
            assert!((x - scale * f32::from(rounded.numbers[i])).abs() <= scale * 0.5001);
        }
        let zeros = RoundedRows::of(Matrix::new(&[0.0f32; 32], 1, 32, 32));
        assert_eq!((zeros.scales[0], zeros.numbers[0]), (0.0, 0));
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let mut a = numbers(4, 2, 64);
        (a[3], a[70]) = (f32::NAN, f32::INFINITY);
        let b = QuantizedPanels::quantize(Matrix::new(&numbers(5, 64, 20), 64, 20, 20), Quantized::Q8_0).unwrap();
        for kernel in kernels() {
            assert!(product(kernel, &a, 2, &b).iter().all(|sum| !sum.is_finite()), "{kernel:?}");
        }
    }

    /// A row has the same bits alone and among others.
    #[test]
    fn a_row_does_not_depend_on_others() {
        for to in Quantized::ALL {
            let (depth, n) = (1024, 70);
            let (a, b) = (numbers(6, 37, depth), numbers(7, depth, n));
            let panels = QuantizedPanels::quantize(Matrix::new(&b, depth, n, n), to).unwrap();
            for kernel in kernels() {
                let all = product(kernel, &a, 37, &panels);
                for row in [0, 7, 36] {
                    let alone = product(kernel, &a[row * depth..][..depth], 1, &panels);
                    assert_eq!(alone, all[row * n..][..n], "{kernel:?} {to:?} row {row}");
                }
            }
        }
    }

    #[test]
    fn a_width_that_is_no_multiple_of_the_blocks_is_refused() {
        let b = numbers(1, 48, 4);
        let error = QuantizedPanels::quantize(Matrix::new(&b, 48, 4, 4), Quantized::Q8_0).unwrap_err();
        assert!(error.to_string().contains("blocks of 32"), "{error}");
    }
}

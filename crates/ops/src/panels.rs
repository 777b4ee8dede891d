//! Matrices packed into panels, in the order in which kernels read them.

use crate::cpu::element::{Element, bf16};
use crate::cpu::kernel::Kernel;
use crate::cpu::{prefetch, vectorized};
use crate::gguf_blocks::Quantized;
use crate::matrix::Matrix;
use crate::path::{Path, Precision, with_kernel};
use crate::quantized::QuantizedPanels;
use crate::scratch::ScratchBuffer;
use crate::zeroed::Zeroed;
use bytemuck::Pod;
use candle_core::{Result, bail};
use rayon::prelude::*;
use std::ops::Range;

/// A right matrix in the order in which products read it.
#[derive(Debug)]
pub(crate) struct Panels {
    pub(crate) path: Path,
    pub(crate) numbers: PanelNumbers,
    pub(crate) depth: usize,
    pub(crate) columns: usize,
}

#[derive(Debug)]
pub(crate) enum PanelNumbers {
    F32(Zeroed<f32>),
    Bf16(Zeroed<bf16>),
    Quantized(QuantizedPanels),
}

impl Panels {
    /// `matrix`: `[depth, columns]`.
    pub(crate) fn pack<T: Element>(matrix: Matrix<T>, precision: Precision) -> Self {
        Self::pack_for(Path::of(precision), matrix, precision)
    }

    /// [`Panels::pack`] for the kernel of `path`.
    pub(crate) fn pack_for<T: Element>(path: Path, matrix: Matrix<T>, precision: Precision) -> Self {
        let (depth, columns) = (matrix.rows, matrix.columns);
        let numbers = with_kernel!(path, K => match precision {
            Precision::F32 => PanelNumbers::F32(pack_all::<K, T, f32>(matrix)),
            Precision::Bf16 => PanelNumbers::Bf16(pack_all::<K, T, bf16>(matrix)),
        });
        Self { path, numbers, depth, columns }
    }

    /// `matrix`: `[depth, columns]`.
    ///
    /// # Errors
    /// When the depth is no multiple of the type's blocks.
    pub(crate) fn quantize(matrix: Matrix<f32>, to: Quantized) -> Result<Self> {
        let (depth, columns) = (matrix.rows, matrix.columns);
        let numbers = PanelNumbers::Quantized(QuantizedPanels::quantize(matrix, to)?);
        Ok(Self { path: Path::Portable, numbers, depth, columns })
    }

    /// The right matrix `[depth, columns]` whose columns are the rows of `stored`.
    ///
    /// # Errors
    /// When a row cannot be read or divided into blocks, or a number or a scale is NaN or infinite.
    pub(crate) fn pack_stored(
        stored: &StoredMatrix,
        (depth, columns): (usize, usize),
        precision: Precision,
    ) -> Result<Self> {
        match stored.kind {
            StoredType::F32 => Self::pack_rows::<f32>(stored, (depth, columns), precision),
            StoredType::Bf16 => Self::pack_rows::<bf16>(stored, (depth, columns), precision),
            StoredType::Quantized(of) => {
                let panels = QuantizedPanels::of_rows(of, (depth, columns), stored.read)?;
                Ok(Self { path: Path::Portable, numbers: PanelNumbers::Quantized(panels), depth, columns })
            }
        }
    }

    fn pack_rows<T: Element + Pod>(
        stored: &StoredMatrix,
        (depth, columns): (usize, usize),
        precision: Precision,
    ) -> Result<Self> {
        let path = Path::of(precision);
        let numbers = with_kernel!(path, K => match precision {
            Precision::F32 => PanelNumbers::F32(pack_rows::<K, T, f32>(stored, (depth, columns))?),
            Precision::Bf16 => PanelNumbers::Bf16(pack_rows::<K, T, bf16>(stored, (depth, columns))?),
        });
        Ok(Self { path, numbers, depth, columns })
    }
}

/// A matrix in a file, whose rows follow each other there.
#[derive(Clone, Copy)]
pub struct StoredMatrix<'a> {
    /// Data type of the rows.
    pub kind: StoredType,
    /// Reads the bytes of some rows, in memory that is aligned for their numbers; the last word may be longer than they are.
    /// Several threads call it at a time.
    pub read: &'a (dyn Fn(Range<usize>) -> Result<Vec<u32>> + Sync),
}

/// Data type of a matrix in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// Numbers of 32 bits.
    F32,
    /// Numbers of 16 bits.
    Bf16,
    /// Blocks of few bits.
    Quantized(Quantized),
}

impl Panels {
    /// Writes a column to `out`, `[depth]`.
    pub(crate) fn write_column(&self, column: usize, out: &mut [f32]) {
        with_kernel!(self.path, K => match &self.numbers {
            PanelNumbers::Quantized(panels) => panels.write_column(column, out),
            PanelNumbers::F32(numbers) => write_column_of::<K, f32>(numbers, column, out),
            PanelNumbers::Bf16(numbers) => write_column_of::<K, bf16>(numbers, column, out),
        });
    }
}

fn write_column_of<K: Kernel, S: Element>(numbers: &[S], column: usize, out: &mut [f32]) {
    let panel = &numbers[column / K::COLUMNS * out.len().next_multiple_of(K::DEPTH) * K::COLUMNS..];
    out.iter_mut().enumerate().for_each(|(k, out)| *out = panel[K::right_index(k, column % K::COLUMNS)].get());
}

/// Right panels of all of `matrix`, for the kernel `K`.
pub(crate) fn pack_all<K: Kernel, T: Element, S: Element>(matrix: Matrix<T>) -> Zeroed<S> {
    let (depth, columns) = (matrix.rows, matrix.columns);
    let size = depth.next_multiple_of(K::DEPTH) * K::COLUMNS;
    let mut panels = Zeroed::new(columns.div_ceil(K::COLUMNS) * size);
    if size > 0 {
        panels.par_chunks_mut(size).enumerate().for_each(|(panel, numbers)| {
            let first = panel * K::COLUMNS;
            pack_right_panel::<K, T, S>(matrix, 0..depth, first..(first + K::COLUMNS).min(columns), numbers);
        });
    }
    panels
}

/// [`pack_all`] of the matrix whose columns are the rows of `stored`, which each panel reads for itself.
fn pack_rows<K: Kernel, T: Element + Pod, S: Element>(
    stored: &StoredMatrix,
    (depth, columns): (usize, usize),
) -> Result<Zeroed<S>> {
    let size = depth.next_multiple_of(K::DEPTH) * K::COLUMNS;
    let mut panels = Zeroed::new(columns.div_ceil(K::COLUMNS) * size);
    panels.par_chunks_mut(size.max(1)).enumerate().try_for_each(|(panel, out)| {
        let rows = panel * K::COLUMNS..((panel + 1) * K::COLUMNS).min(columns);
        let n = rows.len();
        let words = (stored.read)(rows)?;
        let Some(numbers) = bytemuck::cast_slice::<u32, T>(&words).get(..n * depth) else {
            bail!("{} bytes for {n} rows of {depth} numbers", size_of_val(&*words));
        };
        if !are_finite(numbers) {
            bail!("a value is NaN or infinite");
        }
        pack_right_panel::<K, T, S>(Matrix::new(numbers, n, depth, depth).t(), 0..depth, 0..n, out);
        Ok(())
    })?;
    Ok(panels)
}

vectorized! {
    /// All numbers are looked at, since a loop that may end early is not made of vector instructions.
    fn are_finite[T: Element](numbers: &[T]) -> bool {
        numbers.iter().fold(true, |so_far, number| so_far & number.get().is_finite())
    }
}

vectorized! {
    fn pack_left_panel[K: Kernel, T: Element](
        matrix: Matrix<T>,
        rows: Range<usize>,
        depth: Range<usize>,
        panel: &mut [K::Left],
    ) {
        K::pack_left(matrix, rows, depth, panel);
    }
}

vectorized! {
    pub(crate) fn pack_right_panel[K: Kernel, T: Element, S: Element](
        matrix: Matrix<T>,
        depth: Range<usize>,
        columns: Range<usize>,
        panel: &mut [S],
    ) {
        K::pack_right(matrix, depth, columns, panel);
    }
}

/// Packs all rows of `matrix` into left panels at the beginning of `scratch`; their size.
pub(crate) fn pack_left_all<K: Kernel, T: Element>(matrix: Matrix<T>, scratch: &mut ScratchBuffer) -> usize {
    pack_left_rows::<K, T>(matrix, 0..matrix.rows, 0..matrix.columns, scratch)
}

/// The same of some rows, at some depth.
pub(crate) fn pack_left_rows<K: Kernel, T: Element>(
    matrix: Matrix<T>,
    rows: Range<usize>,
    depth: Range<usize>,
    scratch: &mut ScratchBuffer,
) -> usize {
    pack_left_low::<K, T>(matrix, (rows, K::ROWS), depth, scratch)
}

/// The same with `height` rows in each panel.
pub(crate) fn pack_left_low<K: Kernel, T: Element>(
    matrix: Matrix<T>,
    (rows, height): (Range<usize>, usize),
    depth: Range<usize>,
    scratch: &mut ScratchBuffer,
) -> usize {
    let size = depth.len().next_multiple_of(K::DEPTH) * K::ROWS;
    let panels: &mut [K::Left] = scratch.numbers(rows.len().div_ceil(height) * size);
    for part in parts(matrix.is_transposed(), &depth) {
        prefetch_after(&part, &depth, |k| matrix.column_part(k, rows.clone()));
        let place = place_of::<K>(&part, &depth, K::ROWS);
        for (first, panel) in rows.clone().step_by(height).zip(panels.chunks_exact_mut(size.max(1))) {
            let rows = first..(first + height).min(rows.end);
            pack_left_panel::<K, T>(matrix, rows, part.clone(), &mut panel[place.clone()]);
        }
    }
    size
}

/// Packs all columns of `matrix` into right panels at the beginning of `scratch`; their size.
pub(crate) fn pack_right_all<K: Kernel, T: Element>(matrix: Matrix<T>, scratch: &mut ScratchBuffer) -> usize {
    pack_right_columns::<K, T>(matrix, 0..matrix.rows, 0..matrix.columns, scratch)
}

/// The same of some columns, at some depth.
pub(crate) fn pack_right_columns<K: Kernel, T: Element>(
    matrix: Matrix<T>,
    depth: Range<usize>,
    columns: Range<usize>,
    scratch: &mut ScratchBuffer,
) -> usize {
    let size = depth.len().next_multiple_of(K::DEPTH) * K::COLUMNS;
    let panels: &mut [K::Right] = scratch.numbers(columns.len().div_ceil(K::COLUMNS) * size);
    for part in parts(!matrix.is_transposed(), &depth) {
        prefetch_after(&part, &depth, |k| matrix.row_part(k, columns.clone()));
        let place = place_of::<K>(&part, &depth, K::COLUMNS);
        for (first, panel) in columns.clone().step_by(K::COLUMNS).zip(panels.chunks_exact_mut(size.max(1))) {
            let columns = first..(first + K::COLUMNS).min(columns.end);
            pack_right_panel::<K, T, K::Right>(matrix, part.clone(), columns, &mut panel[place.clone()]);
        }
    }
    size
}

/// Depth that all panels pack before any packs more, where the numbers of one depth lie side by side in memory: these are then
/// read once, one after the other.
const NEAR: usize = 32;

/// The parts of `depth` that are packed one after the other, `side_by_side` or not.
fn parts(side_by_side: bool, depth: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let (step, end) = (if side_by_side { NEAR } else { depth.len().max(1) }, depth.end);
    depth.clone().step_by(step).map(move |first| first..(first + step).min(end))
}

/// Has the processor fetch the numbers of the part of `depth` that follows `part`, if any does.
fn prefetch_after<'a, T: 'a>(part: &Range<usize>, depth: &Range<usize>, numbers: impl Fn(usize) -> &'a [T]) {
    (part.end..(part.end + NEAR).min(depth.end)).for_each(|k| prefetch(numbers(k)));
}

/// Where `part` of `depth` lies in a panel of `wide` rows or columns.
fn place_of<K: Kernel>(part: &Range<usize>, depth: &Range<usize>, wide: usize) -> Range<usize> {
    (part.start - depth.start) * wide..(part.end - depth.start).next_multiple_of(K::DEPTH) * wide
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panels of `numbers`, the rows of 5 numbers of a file.
    fn stored<T: Element + Pod>(kind: StoredType, numbers: &[T], precision: Precision) -> Result<Panels> {
        let read = |rows: Range<usize>| {
            let bytes: &[u8] = bytemuck::cast_slice(&numbers[rows.start * 5..rows.end * 5]);
            let mut words = vec![0u32; bytes.len().div_ceil(4)];
            bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
            Ok(words)
        };
        Panels::pack_stored(&StoredMatrix { kind, read: &read }, (5, numbers.len() / 5), precision)
    }

    #[test]
    fn rows_of_a_file_are_packed_as_the_columns_that_they_are() {
        let bits = |panels: &Panels| match &panels.numbers {
            PanelNumbers::F32(numbers) => numbers.iter().map(|x| x.to_bits()).collect(),
            PanelNumbers::Bf16(numbers) => numbers.iter().map(|x| u32::from(x.to_bits())).collect(),
            PanelNumbers::Quantized(_) => Vec::new(),
        };
        let mut numbers: Vec<f32> = (0..5 * 77).map(|i| (i as f32 * 0.37).sin()).collect();
        let halves: Vec<bf16> = numbers.iter().map(|&x| bf16::of(x)).collect();
        for precision in [Precision::F32, Precision::Bf16] {
            let found = stored(StoredType::F32, &numbers, precision).unwrap();
            let expected = Panels::pack(Matrix::new(&numbers, 77, 5, 5).t(), precision);
            assert_eq!(bits(&found), bits(&expected));
            let found = stored(StoredType::Bf16, &halves, precision).unwrap();
            let expected = Panels::pack(Matrix::new(&halves, 77, 5, 5).t(), precision);
            assert_eq!(bits(&found), bits(&expected));
        }
        numbers[76 * 5] = f32::NAN;
        let error = stored(StoredType::F32, &numbers, Precision::F32).unwrap_err();
        assert!(error.to_string().contains("NaN"), "{error}");
    }
}

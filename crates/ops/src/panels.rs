//! Matrices packed into panels, in the order in which kernels read them.

use crate::cpu::element::{Element, bf16};
use crate::cpu::kernel::Kernel;
use crate::cpu::vectorized;
use crate::matrix::Matrix;
use crate::path::{Path, Precision, with_kernel};
use crate::quantized::{Quantized, QuantizedPanels};
use crate::scratch::ScratchBuffer;
use aligned_vec::AVec;
use candle_core::Result;
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
    F32(AVec<f32>),
    Bf16(AVec<bf16>),
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

    /// Those of a right matrix `[depth, columns]` whose columns' blocks follow each other in `bytes`.
    ///
    /// # Errors
    /// As [`QuantizedPanels::of_blocks`].
    pub(crate) fn of_blocks(bytes: &[u8], (depth, columns): (usize, usize), of: Quantized) -> Result<Self> {
        let numbers = PanelNumbers::Quantized(QuantizedPanels::of_blocks(bytes, (depth, columns), of)?);
        Ok(Self { path: Path::Portable, numbers, depth, columns })
    }
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
pub(crate) fn pack_all<K: Kernel, T: Element, S: Element>(matrix: Matrix<T>) -> AVec<S> {
    let (depth, columns) = (matrix.rows, matrix.columns);
    let size = depth.next_multiple_of(K::DEPTH) * K::COLUMNS;
    let mut panels = AVec::new(64);
    panels.resize(columns.div_ceil(K::COLUMNS) * size, S::default());
    if size > 0 {
        panels.par_chunks_mut(size).enumerate().for_each(|(panel, numbers)| {
            let first = panel * K::COLUMNS;
            pack_right_panel::<K, T, S>(matrix, 0..depth, first..(first + K::COLUMNS).min(columns), numbers);
        });
    }
    panels
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
    let size = depth.len().next_multiple_of(K::DEPTH) * K::ROWS;
    let panels: &mut [K::Left] = scratch.numbers(rows.len().div_ceil(K::ROWS) * size);
    for (first, panel) in rows.clone().step_by(K::ROWS).zip(panels.chunks_exact_mut(size.max(1))) {
        pack_left_panel::<K, T>(matrix, first..(first + K::ROWS).min(rows.end), depth.clone(), panel);
    }
    size
}

/// Packs all columns of `matrix` into right panels at the beginning of `scratch`; their size.
pub(crate) fn pack_right_all<K: Kernel, T: Element>(matrix: Matrix<T>, scratch: &mut ScratchBuffer) -> usize {
    let (depth, columns) = (matrix.rows, matrix.columns);
    let size = depth.next_multiple_of(K::DEPTH) * K::COLUMNS;
    let panels: &mut [K::Right] = scratch.numbers(columns.div_ceil(K::COLUMNS) * size);
    for (first, panel) in (0..columns).step_by(K::COLUMNS).zip(panels.chunks_exact_mut(size.max(1))) {
        pack_right_panel::<K, T, K::Right>(matrix, 0..depth, first..(first + K::COLUMNS).min(columns), panel);
    }
    size
}

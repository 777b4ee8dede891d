//! Matrices as they lie in memory.

use std::ops::Range;

/// A matrix whose rows, or columns if it is transposed, lie in `data` at equal distances.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    stride: usize,
    transposed: bool,
}

impl<'a, T> Matrix<'a, T> {
    /// `rows` rows of `columns` elements, each `stride` after the one before.
    pub(crate) fn new(data: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        let end = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * stride + columns };
        assert!(end <= data.len() && columns <= stride, "a matrix larger than its data");
        Self { data, rows, columns, stride, transposed: false }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    /// Some rows of a matrix that is not transposed.
    pub(crate) fn rows(self, rows: Range<usize>) -> Self {
        assert!(!self.transposed && rows.end <= self.rows, "rows beyond the matrix");
        Self { data: &self.data[rows.start * self.stride..], rows: rows.len(), ..self }
    }

    /// Whether columns, not rows, are contiguous.
    #[inline(always)]
    pub(crate) fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// All numbers of a matrix that is not transposed and has nothing between its rows.
    pub(crate) fn numbers(self) -> &'a [T] {
        assert!(!self.transposed && self.stride == self.columns, "a matrix with gaps");
        &self.data[..self.rows * self.columns]
    }

    /// Part of a row of a matrix that is not transposed.
    #[inline(always)]
    pub(crate) fn row_part(&self, row: usize, columns: Range<usize>) -> &'a [T] {
        debug_assert!(!self.transposed);
        &self.data[row * self.stride + columns.start..row * self.stride + columns.end]
    }

    /// Part of a column of a transposed matrix.
    #[inline(always)]
    pub(crate) fn column_part(&self, column: usize, rows: Range<usize>) -> &'a [T] {
        debug_assert!(self.transposed);
        &self.data[column * self.stride + rows.start..column * self.stride + rows.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "larger than its data")]
    fn a_matrix_must_lie_in_its_data() {
        let _ = Matrix::new(&[0.0f32; 11], 3, 4, 4);
    }
}

//! Small matrix products on one thread, over parts of larger matrices.

use gemm::{Parallelism, gemm};

/// A matrix that lies in `data` with any distances between rows and between columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` elements, each `row_stride` after the one before.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        let matrix = Self { data, rows, columns, row_stride, column_stride: 1 };
        assert!(rows > 0 && columns > 0 && matrix.last() < data.len(), "a matrix larger than its data");
        matrix
    }

    /// Rows `first .. first + n`.
    pub(crate) fn rows(self, first: usize, n: usize) -> Self {
        assert!(first + n <= self.rows && n > 0, "rows beyond the matrix");
        Self { data: &self.data[first * self.row_stride..], rows: n, ..self }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Place of the last element.
    fn last(&self) -> usize {
        (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride
    }
}

/// `out = scale·a·b`, row after row.
pub(crate) fn product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
    multiply(out, a, b, scale, false);
}

/// `out += scale·a·b`.
pub(crate) fn add_product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
    multiply(out, a, b, scale, true);
}

fn multiply(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, scale: f32, add: bool) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(b.rows == k && out.len() == m * n, "product of {m} × {k} and {} × {n} into {}", b.rows, out.len());
    // SAFETY: `out` holds exactly the m rows of n elements that are written, `a` and `b` hold their last element (checked
    // where they are made) and so all others, and `out` cannot overlap them, being borrowed mutably.
    unsafe {
        gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_the_sums_that_define_them() {
        let a: Vec<f32> = (0..40).map(|i| (i % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = (0..60).map(|i| (i % 5) as f32 - 2.0).collect();
        // 3 × 4 out of rows of 10, and (5 × 4)ᵀ out of rows of 12.
        let (x, y) = (Matrix::new(&a[2..], 3, 4, 10), Matrix::new(&b[1..], 5, 4, 12).t());
        let mut out = vec![0.0; 15];
        product(&mut out, x, y, 0.5);
        add_product(&mut out, x, y, 2.0);
        for i in 0..3 {
            for j in 0..5 {
                let dot: f32 = (0..4).map(|k| a[2 + i * 10 + k] * b[1 + j * 12 + k]).sum();
                assert_eq!(out[i * 5 + j], 2.5 * dot, "{i}, {j}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "larger than its data")]
    fn a_matrix_must_lie_in_its_data() {
        let _ = Matrix::new(&[0.0; 11], 3, 4, 4);
    }
}

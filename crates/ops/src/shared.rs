//! Slices that several threads write, each its own parts.

use std::marker::PhantomData;
use std::ops::Range;

/// A slice whose parts are written by several threads.
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, which may go to another thread; that no two threads hold the same part is what
// `part` asks of its callers.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrowed: PhantomData }
    }

    /// # Safety
    /// No other part in use overlaps this one.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a range exceeds its slice");
        // SAFETY: within the slice, by the assertion; exclusive, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The columns `columns` of the rows `rows` of the slice as a matrix with rows of `stride` numbers.
    ///
    /// # Safety
    /// No other part in use overlaps this one.
    pub(crate) unsafe fn submatrix(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        stride: usize,
    ) -> MatrixMut<'_, T> {
        assert!(
            rows.start <= rows.end && columns.start <= columns.end && columns.end <= stride,
            "an invalid range of a matrix"
        );
        assert!(rows.is_empty() || (rows.end - 1) * stride + columns.end <= self.len, "a range exceeds its slice");
        // SAFETY: within the slice, by the assertions, or not read where there is no row.
        let start = unsafe { self.start.add((rows.start * stride + columns.start).min(self.len)) };
        MatrixMut { start, rows: rows.len(), columns: columns.len(), stride, borrowed: PhantomData }
    }
}

/// Rows of a matrix, or parts of them, that one thread writes.
pub(crate) struct MatrixMut<'a, T> {
    start: *mut T,
    rows: usize,
    columns: usize,
    stride: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

impl<T> MatrixMut<'_, T> {
    /// Row `row`, `[columns]`.
    #[inline]
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "a row exceeds its matrix");
        // SAFETY: the row lies within the slice, as `SharedSlice::submatrix` asserts; nobody else uses it, as its caller
        // promises, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.columns) }
    }
}

/// One or several slices of one length that are written in parts by several threads.
pub(crate) trait SplitMut: Sized {
    /// The slices while they are shared.
    type Shared: Sync;
    /// The same part of each.
    type Part<'p>;

    /// Elements of each slice.
    fn len(&self) -> usize;

    /// The slices, to be shared.
    fn share(self) -> Self::Shared;

    /// # Safety
    /// No other part in use overlaps this one.
    unsafe fn part(shared: &Self::Shared, range: Range<usize>) -> Self::Part<'_>;
}

impl<'a, T: Send + 'static> SplitMut for &'a mut [T] {
    type Shared = SharedSlice<'a, T>;
    type Part<'p> = &'p mut [T];

    fn len(&self) -> usize {
        <[T]>::len(self)
    }

    fn share(self) -> Self::Shared {
        SharedSlice::new(self)
    }

    #[inline(always)]
    unsafe fn part(shared: &Self::Shared, range: Range<usize>) -> Self::Part<'_> {
        // SAFETY: the caller's promise.
        unsafe { shared.part(range) }
    }
}

impl<A: SplitMut, B: SplitMut> SplitMut for (A, B) {
    type Shared = (A::Shared, B::Shared);
    type Part<'p> = (A::Part<'p>, B::Part<'p>);

    /// # Panics
    /// When the lengths differ.
    fn len(&self) -> usize {
        assert_eq!(self.0.len(), self.1.len(), "slices differ in length");
        self.0.len()
    }

    fn share(self) -> Self::Shared {
        (self.0.share(), self.1.share())
    }

    #[inline(always)]
    unsafe fn part(shared: &Self::Shared, range: Range<usize>) -> Self::Part<'_> {
        // SAFETY: the caller's promise.
        unsafe { (A::part(&shared.0, range.clone()), B::part(&shared.1, range)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submatrix_has_its_rows_alone() {
        let mut numbers: Vec<u32> = (0..12).collect();
        let shared = SharedSlice::new(&mut numbers);
        // SAFETY: the two parts have no column in common.
        let (mut left, mut right) = unsafe { (shared.submatrix(1..3, 0..1, 4), shared.submatrix(1..3, 2..4, 4)) };
        left.row_mut(1)[0] = 70;
        right.row_mut(0).fill(60);
        assert_eq!(right.row_mut(1), [10, 11]);
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 60, 60, 70, 9, 10, 11]);
    }

    #[test]
    #[should_panic(expected = "exceeds its slice")]
    fn a_submatrix_lies_in_its_slice() {
        let mut numbers = [0u32; 11];
        let shared = SharedSlice::new(&mut numbers);
        // SAFETY: it is the only part.
        let _ = unsafe { shared.submatrix(0..3, 0..4, 4) };
    }
}

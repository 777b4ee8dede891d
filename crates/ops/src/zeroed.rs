//! Memory that is zero at first.

use bytemuck::{Pod, Zeroable};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A page of memory. (The allocator takes multiples of it as they are. Aligned to lines of the cache only, 16 KiB would take
/// 20.)
#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Page([u8; 4096]);

// SAFETY: bytes, of which there are as many as the alignment asks for; any values may be there.
unsafe impl Zeroable for Page {}
// SAFETY: as above.
unsafe impl Pod for Page {}

/// Numbers that begin with a page and are zero at first. The system makes the memory zero when it is first
/// written: all threads that write parts of it wait for that at the same time.
#[derive(Clone)]
pub(crate) struct Zeroed<T> {
    pages: Vec<Page>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Zeroed<T> {
    /// `len` zeros.
    pub(crate) fn new(len: usize) -> Self {
        let pages = bytemuck::zeroed_vec((len * size_of::<T>()).div_ceil(size_of::<Page>()));
        Self { pages, len, of: PhantomData }
    }
}

impl<T: Pod> Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.pages)[..self.len]
    }
}

impl<T: Pod> DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.pages)[..self.len]
    }
}

impl<T> fmt::Debug for Zeroed<T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} numbers", self.len)
    }
}

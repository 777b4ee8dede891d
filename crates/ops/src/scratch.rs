//! Memory that a thread works in again and again.

use crate::cpu::element::Element;
use aligned_vec::AVec;

/// Memory for numbers of any kind, aligned as vector code likes it, which keeps its size from use to use.
#[derive(Default)]
pub(crate) struct ScratchBuffer(Option<AVec<u8>>);

impl ScratchBuffer {
    /// Room for `n` numbers; what they are is left from the last use.
    pub(crate) fn numbers<T: Element>(&mut self, n: usize) -> &mut [T] {
        let bytes = self.0.get_or_insert_with(|| AVec::new(64));
        let size = n * size_of::<T>();
        if bytes.len() < size {
            bytes.resize(size, 0);
        }
        let (before, numbers, _) = bytemuck::pod_align_to_mut::<u8, T>(bytes);
        debug_assert!(before.is_empty());
        &mut numbers[..n]
    }

    /// The numbers that [`ScratchBuffer::numbers`] returned, to be read; those of earlier uses may come after them.
    pub(crate) fn last<T: Element>(&self) -> &[T] {
        bytemuck::pod_align_to::<u8, T>(self.0.as_deref().unwrap_or(&[])).1
    }
}

//! From candle's storage to the numbers in it.

use candle_core::{CpuStorage, Layout, Result, bail};

/// The f32 elements of a contiguous tensor on the CPU.
pub(crate) fn f32s<'a>(storage: &'a CpuStorage, layout: &Layout, name: &str) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        (CpuStorage::F32(_), None) => bail!("{name} needs a contiguous tensor"),
        _ => bail!("{name} is written for f32"),
    }
}

/// The same, to be written.
pub(crate) fn f32s_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout, name: &str) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        (CpuStorage::F32(_), None) => bail!("{name} needs a contiguous tensor"),
        _ => bail!("{name} is written for f32"),
    }
}

/// The u32 elements of a contiguous tensor on the CPU.
pub(crate) fn u32s<'a>(storage: &'a CpuStorage, layout: &Layout, name: &str) -> Result<&'a [u32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::U32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("{name} needs contiguous u32 indices"),
    }
}

/// Rows a thread takes at a time, so that one takes about 16 Ki elements: less is not worth handing over.
pub(crate) fn rows_at_a_time(width: usize) -> usize {
    (16 * 1024 / width.max(1)).max(1)
}

//! From candle's storage to the numbers in it, and what loops over them share.

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

/// Partial results of a reduction: as many as make vector code, and rounding errors that grow that much slower.
const LANES: usize = 8;

/// Σ f(v).
pub(crate) fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&v| f(v)).sum::<f32>()
}

/// Σ a·b over two slices of one length.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// The largest; −∞ of none. NaN is passed over.
pub(crate) fn max(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, v);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reductions_are_those_of_f64(values in prop::collection::vec(-50f32..50.0, 0..70)) {
            let exact = |f: fn(f64) -> f64| values.iter().map(|&v| f(f64::from(v))).sum::<f64>();
            prop_assert!((f64::from(sum(&values, |v| v)) - exact(|v| v)).abs() < 1e-3);
            prop_assert!((f64::from(dot(&values, &values)) - exact(|v| v * v)).abs() < 0.1);
            let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(max(&values), largest);
        }
    }
}

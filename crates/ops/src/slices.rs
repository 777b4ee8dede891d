//! From candle's storage to the numbers in it, and what loops over them share.

use crate::cpu::element::Element;
use crate::cpu::vectorized;
use candle_core::{CpuStorage, Error, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// The f32 elements of a contiguous tensor on the CPU.
pub(crate) fn f32s<'a>(storage: &'a CpuStorage, layout: &Layout, name: &str) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => values.get(start..end).ok_or_else(|| freed(name)),
        (CpuStorage::F32(_), None) => bail!("{name} needs a contiguous tensor"),
        _ => bail!("{name} supports only f32"),
    }
}

/// The same, to be written.
pub(crate) fn f32s_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout, name: &str) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => values.get_mut(start..end).ok_or_else(|| freed(name)),
        (CpuStorage::F32(_), None) => bail!("{name} needs a contiguous tensor"),
        _ => bail!("{name} supports only f32"),
    }
}

fn freed(name: &str) -> Error {
    Error::msg(format!("{name} needs weights that were freed: a model for inference keeps only its packed weights"))
}

/// Frees the numbers of a tensor on the CPU, which keeps its shape. Reading them is an error from then on.
pub(crate) fn free(tensor: &Tensor) -> Result<()> {
    struct Free;
    impl InplaceOp1 for Free {
        fn name(&self) -> &'static str {
            "free"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
            *storage = CpuStorage::F32(Vec::new());
            Ok(())
        }
    }
    tensor.inplace_op1(&Free)
}

/// The u32 elements of a contiguous tensor on the CPU.
pub(crate) fn u32s<'a>(storage: &'a CpuStorage, layout: &Layout, name: &str) -> Result<&'a [u32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::U32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("{name} needs contiguous u32 indices"),
    }
}

/// Runs `f` on the f32 elements of a contiguous tensor on the CPU, to be changed in place.
pub(crate) fn with_f32s_mut<R>(tensor: &Tensor, f: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    struct Change<F, R>(Mutex<(Option<F>, Option<R>)>);
    impl<F: FnOnce(&mut [f32]) -> R, R> InplaceOp1 for Change<F, R> {
        fn name(&self) -> &'static str {
            "change"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(f) = held.0.take() else { bail!("an in-place change can run only once") };
            held.1 = Some(f(f32s_mut(storage, layout, self.name())?));
            Ok(())
        }
    }
    let change = Change(Mutex::new((Some(f), None)));
    tensor.inplace_op1(&change)?;
    let held = change.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    held.1.ok_or_else(|| Error::msg("an in-place change did not run"))
}

/// Runs `f` on the f32 elements of a contiguous tensor on the CPU.
pub(crate) fn with_f32s<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(f32s(storage, layout, "this operation")?)),
        _ => bail!("this operation supports only the CPU"),
    }
}

/// Zeros, written by all cores.
pub(crate) fn zeros<T: Element>(n: usize) -> Vec<T> {
    rayon::iter::repeat_n(T::default(), n).with_min_len(64 * 1024).collect()
}

/// Rows a thread takes at a time, so that one takes about 16 Ki elements: less is not worth handing over.
pub(crate) fn rows_at_a_time(width: usize) -> usize {
    (16 * 1024 / width.max(1)).max(1)
}

/// `sum = more`, or `sum += more`; of one length.
pub(crate) fn take(sum: &mut [f32], more: &[f32], add: bool) {
    if add { add_to(more, sum) } else { sum.copy_from_slice(more) }
}

vectorized! {
    /// `y += x`
    pub(crate) fn add_to(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    }
}

/// Puts `f` of each number in the place of `numbers`, as numbers of another kind, which follow each other from the first on.
#[inline(always)]
pub(crate) fn replace<E: Element>(numbers: &mut [f32], f: impl Fn(f32) -> f32) -> &mut [E] {
    let n = numbers.len();
    let whole = n / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        let before: [f32; LANES] = std::array::from_fn(|lane| numbers[first + lane]);
        let after: &mut [E] = &mut bytemuck::cast_slice_mut(numbers)[first..first + LANES];
        after.iter_mut().zip(before).for_each(|(after, x)| *after = E::of(f(x)));
    }
    for i in whole..n {
        let x = f(numbers[i]);
        bytemuck::cast_slice_mut(numbers)[i] = E::of(x);
    }
    &mut bytemuck::cast_slice_mut(numbers)[..n]
}

/// Partial results of a reduction: as many as keep vector code busy, and rounding errors that grow that much slower.
pub(crate) const LANES: usize = 32;

/// Partial results as one, by halves: as few steps that wait for each other as can be.
#[inline(always)]
pub(crate) fn fold(lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    // Through memory, or the compiler would cut the vectors of the loop before into those of the last step.
    let mut numbers = std::hint::black_box(lanes);
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            numbers[i] = f(numbers[i], numbers[i + n]);
        }
    }
    numbers[0]
}

/// Σ f(v).
#[inline(always)]
pub(crate) fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    fold(lanes, |a, b| a + b) + rest.iter().map(|&v| f(v)).sum::<f32>()
}

/// Replaces each number by `f` of it. Returns their sum, the same that [`sum`] has of them.
#[inline(always)]
pub(crate) fn map_and_sum(values: &mut [f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *v = f(*v);
            *lane += *v;
        }
    }
    rest.iter_mut().for_each(|v| *v = f(*v));
    fold(lanes, |a, b| a + b) + rest.iter().sum::<f32>()
}

/// Σ of both numbers that `f` gives, in one pass.
#[inline(always)]
pub(crate) fn sums(values: &[f32], f: impl Fn(f32) -> [f32; 2]) -> [f32; 2] {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [[0.0f32; LANES]; 2];
    for chunk in chunks {
        for (i, &v) in chunk.iter().enumerate() {
            let [a, b] = f(v);
            lanes[0][i] += a;
            lanes[1][i] += b;
        }
    }
    let [mut first, mut second] = lanes.map(|lanes| fold(lanes, |a, b| a + b));
    for &v in rest {
        let [a, b] = f(v);
        first += a;
        second += b;
    }
    [first, second]
}

/// Σ a·b over two slices of one length.
#[inline(always)]
pub(crate) fn dot<E: Element>(a: &[E], b: &[E]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a.get() * b.get();
        }
    }
    fold(lanes, |a, b| a + b) + a_rest.iter().zip(b_rest).map(|(a, b)| a.get() * b.get()).sum::<f32>()
}

/// The largest; −∞ of none. NaN is passed over.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, v);
        }
    }
    rest.iter().copied().fold(fold(lanes, larger), larger)
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

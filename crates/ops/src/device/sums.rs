//! Sums of columns, in an order that depends on sizes alone.

use super::gpu::{KernelArgument as Arg, KernelGrid, launch, unwritten};
use super::products::{f32s, gpu};
use candle_core::{CudaDevice, DType, Result, Tensor};

/// The kernel `name` for elements of this type.
pub(super) fn of_type(name: &str, dtype: DType) -> String {
    format!("{name}_{}", if dtype == DType::BF16 { "bf16" } else { "f32" })
}

/// Blocks that share the rows of a sum over `n` rows.
pub(super) fn parts(n: usize) -> usize {
    n.div_ceil(64).clamp(1, 64)
}

/// A grid of blocks of 32 threads in a row, four columns each where four divides `width`, and 8 rows.
pub(super) fn columns(parts: usize, width: usize) -> KernelGrid {
    let of_block = if width.is_multiple_of(4) { 128 } else { 32 };
    KernelGrid { blocks: (width.div_ceil(of_block), parts), threads: (32, 8), shared: 0 }
}

/// `sum`, `[M]`, which may be changed, plus the sums of the columns of `partials`, `[P, M]`, in order.
pub(super) fn add_partials(device: &CudaDevice, sum: Option<Tensor>, partials: &Tensor) -> Result<Tensor> {
    let (n, m) = partials.dims2()?;
    let is_sum = sum.is_some();
    let out = sum.map_or_else(|| unwritten(m, DType::F32, partials), Ok)?;
    launch(
        device,
        "add_partials",
        KernelGrid::elements(m),
        &[
            Arg::Tensor(partials),
            Arg::Tensor(&out),
            Arg::U32(n as u32),
            Arg::U32(m as u32),
            Arg::U32(u32::from(is_sum)),
        ],
    )?;
    Ok(out)
}

/// `sum`, `[M]` f32, which may be changed, plus the sums of the columns of `x`, `[N, M]`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn add_column_sums(sum: Option<Tensor>, x: &Tensor) -> Result<Tensor> {
    let (n, m) = x.dims2()?;
    let Some(device) = gpu(x) else {
        let sums = f32s(x)?.sum(0)?;
        return sum.map_or_else(|| Ok(sums.clone()), |sum| sum + &sums);
    };
    let parts = parts(n);
    let partials = unwritten((parts, m), DType::F32, x)?;
    launch(
        device,
        &of_type("column_sums", x.dtype()),
        columns(parts, m),
        &[Arg::Tensor(x), Arg::Tensor(&partials), Arg::U32(n as u32), Arg::U32(m as u32)],
    )?;
    add_partials(device, sum, &partials)
}

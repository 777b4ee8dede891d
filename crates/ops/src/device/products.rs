//! Matrix products and sums of rows on any device: on an NVIDIA GPU by cuBLAS and a kernel, elsewhere in candle's
//! operations, which say what they compute. Outside of candle's graph.

use super::gpu::{KernelArgument as Arg, KernelGrid, launch, multiply_into, unwritten};
use candle_core::{CudaDevice, D, DType, Device, Result, Tensor};

/// The GPU that `x` is on.
pub(crate) fn gpu(x: &Tensor) -> Option<&CudaDevice> {
    match x.device() {
        Device::Cuda(device) => Some(device),
        _ => None,
    }
}

/// In f32.
pub(crate) fn f32s(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)
}

/// `a`, `[.., M, K]`, times `b`, `[.., K, N]`: `[.., M, N]` of type `dtype`. Sums are f32.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn product(a: &Tensor, b: &Tensor, dtype: DType) -> Result<Tensor> {
    match gpu(a) {
        Some(device) => {
            let mut shape = a.dims().to_vec();
            let n_dims = shape.len();
            shape[n_dims - 1] = b.dim(D::Minus1)?;
            let c = unwritten(shape, dtype, a)?;
            multiply_into(device, a, b, &c, false)?;
            Ok(c)
        }
        None => f32s(a)?.contiguous()?.matmul(&f32s(b)?.contiguous()?)?.to_dtype(dtype),
    }
}

/// Numbers from the start of a row to that of the next where cuBLAS reads and writes rows of `m` numbers at full speed.
pub(crate) fn aligned(m: usize) -> usize {
    m.next_multiple_of(64)
}

/// `x`, `[N, M]`, with rows that begin [`aligned`] apart; copied where they do not yet.
pub(crate) fn in_aligned_rows(x: &Tensor) -> Result<Tensor> {
    let (_, m) = x.dims2()?;
    if x.stride() == [aligned(m), 1] {
        return Ok(x.clone());
    }
    x.contiguous()?.pad_with_zeros(1, 0, aligned(m) - m)?.narrow(1, 0, m)
}

/// The first `v` columns of `a·b`, `[M, V]` f32, in [`aligned`] rows on an NVIDIA GPU.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn product_in_rows(a: &Tensor, b: &Tensor, v: usize) -> Result<Tensor> {
    let Some(device) = gpu(a) else { return product(a, b, DType::F32)?.narrow(1, 0, v)?.contiguous() };
    let c = unwritten((a.dim(0)?, aligned(b.dim(1)?)), DType::F32, a)?;
    multiply_into(device, a, b, &c.narrow(1, 0, b.dim(1)?)?, false)?;
    c.narrow(1, 0, v)
}

/// `a`, `[N, W]`, times `b`, `[V, D]`: `[N, D]` f32, where columns of `a` or rows of `b` that the other lacks are zeros.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn product_of_common(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let common = a.dim(1)?.min(b.dim(0)?);
    product(&a.narrow(1, 0, common)?, &b.narrow(0, 0, common)?, DType::F32)
}

/// `sum + a·b`, `[M, N]` f32, where `sum` may be changed.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn add_product(sum: Option<Tensor>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let Some(device) = gpu(a) else {
        let product = product(a, b, DType::F32)?;
        return sum.map_or_else(|| Ok(product.clone()), |sum| sum + &product);
    };
    let is_sum = sum.is_some();
    let sum = sum.map_or_else(|| unwritten((a.dim(0)?, b.dim(1)?), DType::F32, a), Ok)?;
    // Where the rows are an odd number, cuBLAS computes all more slowly.
    let (all, fast) = (sum.dim(0)?, sum.dim(0)? / 64 * 64);
    for (first, rows) in [(0, fast), (fast, all - fast)] {
        if rows > 0 {
            multiply_into(device, &a.narrow(0, first, rows)?, b, &sum.narrow(0, first, rows)?, is_sum)?;
        }
    }
    Ok(sum)
}

/// `sums`, `[V, D]` f32, which may be changed, plus row `n` of `dy`, `[N, D]` f32, in row `ids[n]`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn add_rows(sums: Tensor, ids: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let ((n, d), (v, _)) = (dy.dims2()?, sums.dims2()?);
    let Some(device) = gpu(dy) else { return sums.index_add(ids, dy, 0) };
    let grid = KernelGrid { blocks: (v.div_ceil(8), d.div_ceil(1024)), threads: (256, 1), shared: 0 };
    launch(
        device,
        "add_rows",
        grid,
        &[
            Arg::Tensor(ids),
            Arg::Tensor(dy),
            Arg::Tensor(&sums),
            Arg::U32(n as u32),
            Arg::U32(v as u32),
            Arg::U32(d as u32),
        ],
    )?;
    Ok(sums)
}

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

/// Rows of `m` elements, `[N, M]`, that begin where cuBLAS reads and writes them at full speed.
pub(crate) fn aligned_rows(n: usize, m: usize, dtype: DType, like: &Tensor) -> Result<Tensor> {
    unwritten((n, m.next_multiple_of(64)), dtype, like)?.narrow(1, 0, m)
}

/// `x`, `[N, M]`, as [`aligned_rows`]; copied where it is not yet.
pub(crate) fn in_aligned_rows(x: &Tensor) -> Result<Tensor> {
    let (_, m) = x.dims2()?;
    if x.stride() == [m.next_multiple_of(64), 1] {
        return Ok(x.clone());
    }
    x.contiguous()?.pad_with_zeros(1, 0, m.next_multiple_of(64) - m)?.narrow(1, 0, m)
}

/// As [`product`], of matrices, for results of any width that other products read.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn product_in_rows(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let Some(device) = gpu(a) else { return product(a, b, DType::F32) };
    let c = aligned_rows(a.dim(0)?, b.dim(1)?, DType::F32, a)?;
    multiply_into(device, a, b, &c, false)?;
    Ok(c)
}

/// `sum + a·b`, `[M, N]` f32, where `sum` may be changed.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn add_product(sum: Option<Tensor>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match (sum, gpu(a)) {
        (Some(sum), Some(device)) => multiply_into(device, a, b, &sum, true).map(|()| sum),
        (Some(sum), None) => sum + product(a, b, DType::F32)?,
        (None, _) => product(a, b, DType::F32),
    }
}

/// `sums`, `[V, D]` f32, which may be changed, plus row `n` of `dy`, `[N, D]` f32, in row `ids[n]`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn add_rows(sums: Tensor, ids: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let ((n, d), (v, _)) = (dy.dims2()?, sums.dims2()?);
    let Some(device) = gpu(dy) else { return sums.index_add(ids, dy, 0) };
    let grid = KernelGrid { blocks: (v.div_ceil(8), d.div_ceil(256)), threads: (256, 1) };
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

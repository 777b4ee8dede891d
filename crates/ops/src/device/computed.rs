//! A node of candle's graph for what was computed outside of it.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail};

/// `value` as the result of an operation on `x`, whose gradient `gradient` finds from that of the value; it may find none.
///
/// # Errors
/// When memory does not suffice.
pub(crate) fn computed(
    x: &Tensor,
    value: Tensor,
    gradient: impl Fn(&Tensor) -> Result<Option<Tensor>> + Send + Sync + 'static,
) -> Result<Tensor> {
    x.apply_op1(Computed { value: value.detach(), gradient })
}

struct Computed<F> {
    value: Tensor,
    gradient: F,
}

impl<F> Computed<F> {
    /// A copy of the value's storage.
    fn storage(&self) -> Result<(Storage, Shape)> {
        let value = self.value.contiguous()?;
        let (storage, layout) = value.storage_and_layout();
        if layout.start_offset() != 0 {
            bail!("a computed value must begin its memory");
        }
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }
}

impl<F: Fn(&Tensor) -> Result<Option<Tensor>> + Send + Sync> CustomOp1 for Computed<F> {
    fn name(&self) -> &'static str {
        "computed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        match self.storage()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            _ => bail!("the value is on another device"),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        match self.storage()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            _ => bail!("the value is on another device"),
        }
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        match self.storage()? {
            (Storage::Metal(storage), shape) => Ok((storage, shape)),
            _ => bail!("the value is on another device"),
        }
    }

    fn bwd(&self, _x: &Tensor, _value: &Tensor, dvalue: &Tensor) -> Result<Option<Tensor>> {
        (self.gradient)(&dvalue.contiguous()?)
    }
}

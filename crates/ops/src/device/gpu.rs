//! Kernels and matrix products on an NVIDIA GPU, of tensors that lie there.

use candle_core::{DType, Result, Shape, Tensor};
use gptkit_rng::keyed::Key;
use std::sync::atomic::{AtomicBool, Ordering};

/// An argument of a kernel.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "kernels need the feature"))]
pub(crate) enum KernelArgument<'a> {
    /// Where its elements lie, one after the other.
    Tensor(&'a Tensor),
    /// The address of `[N, M]` whose rows are contiguous; another argument gives the distance between the rows.
    Rows(&'a Tensor),
    /// A null pointer.
    Null,
    U32(u32),
    U64(u64),
    F32(f32),
    Drop(KernelDropout),
}

/// What kernels draw the mask of dropout from; their `Drop`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub(crate) struct KernelDropout {
    seed: u64,
    stream: u64,
    first: u64,
    p: f32,
    keep: f32,
}

impl KernelDropout {
    /// Dropout of probability `p`, drawn from `key`; `first`: the number of the first element.
    pub(crate) fn new(key: Key, first: u64, p: f32) -> Self {
        Self { seed: key.seed, stream: key.draw.stream(), first, p, keep: 1.0 / (1.0 - p) }
    }

    /// What kept elements are multiplied by; 0 without dropout.
    pub(super) fn keep(&self) -> f32 {
        self.keep
    }
}

/// Blocks of a grid and threads of a block, in two dimensions.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "kernels need the feature"))]
pub(crate) struct KernelGrid {
    pub(crate) blocks: (usize, usize),
    pub(crate) threads: (u32, u32),
    /// Bytes of shared memory of a block, beside those that the kernel declares.
    pub(crate) shared: usize,
}

impl KernelGrid {
    /// A block for each of `rows` rows of `width` elements, of which a thread takes four at a time.
    pub(crate) fn rows(rows: usize, width: usize) -> Self {
        let threads = width.div_ceil(4).next_multiple_of(32).clamp(32, if width > 8192 { 1024 } else { 256 });
        Self { blocks: (rows, 1), threads: (threads as u32, 1), shared: 0 }
    }

    /// A warp for each of `rows` rows.
    pub(crate) fn warps(rows: usize) -> Self {
        Self { blocks: (rows.div_ceil(8), 1), threads: (256, 1), shared: 0 }
    }

    /// Threads that share `n` elements.
    pub(crate) fn elements(n: usize) -> Self {
        Self { blocks: (n.div_ceil(1024).clamp(1, 16 * 1024), 1), threads: (256, 1), shared: 0 }
    }
}

/// A tensor whose elements may be anything: for what a kernel or a product writes.
///
/// # Errors
/// When memory does not suffice.
pub(crate) fn unwritten(shape: impl Into<Shape>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    // SAFETY: numbers of any bits are numbers, and every element is written before it is read.
    unsafe { Tensor::empty(shape, dtype, like.device()) }
}

/// Whether this process works on a GPU that was readied.
static IS_READY: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_ready() -> bool {
    IS_READY.load(Ordering::Relaxed)
}

pub(crate) fn set_ready() {
    IS_READY.store(true, Ordering::Relaxed);
}

/// Whether products of f32 on an NVIDIA GPU may read TF32.
static IS_TF32_ALLOWED: AtomicBool = AtomicBool::new(false);

/// Has products of f32 on an NVIDIA GPU read TF32, which has f32's range and 10 bits of fraction, or f32 itself.
pub fn allow_tf32(is_allowed: bool) {
    IS_TF32_ALLOWED.store(is_allowed, Ordering::Relaxed);
}

#[cfg(not(feature = "cuda"))]
mod without {
    use crate::device::gpu::{KernelArgument, KernelGrid};
    use candle_core::{CudaDevice, Result, Tensor, bail};

    /// Refuses.
    pub(crate) fn launch(_: &CudaDevice, name: &str, _: KernelGrid, _: &[KernelArgument]) -> Result<()> {
        bail!("kernel {name} needs a gptkit that was built with --features cuda")
    }

    /// Refuses.
    pub(crate) fn multiply_into(_: &CudaDevice, _: &Tensor, _: &Tensor, _: &Tensor, _: bool) -> Result<()> {
        bail!("matrix products on an NVIDIA GPU need a gptkit that was built with --features cuda")
    }

    /// None that can be used.
    pub fn gpu_count() -> Result<usize> {
        Ok(0)
    }

    /// None: there is no GPU that can be used.
    pub fn gpu_memory(_: &CudaDevice) -> Result<u64> {
        Ok(0)
    }

    /// Does nothing.
    pub(crate) fn keep_freed_memory(_: &CudaDevice) -> Result<()> {
        Ok(())
    }
}
#[cfg(not(feature = "cuda"))]
pub use without::{gpu_count, gpu_memory};
#[cfg(not(feature = "cuda"))]
pub(crate) use without::{keep_freed_memory, launch, multiply_into};

#[cfg(feature = "cuda")]
mod with {
    use crate::device::gpu::{IS_TF32_ALLOWED, KernelArgument, KernelDropout, KernelGrid, Ordering};
    use candle_core::cuda_backend::cudarc::cublas::{result, sys as blas};
    use candle_core::cuda_backend::cudarc::driver::result as driver;
    use candle_core::cuda_backend::cudarc::driver::{
        CudaContext, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg, sys,
    };
    use candle_core::{CudaDevice, DType, Error, Result, Storage, Tensor, bail};
    use half::bf16;
    use std::ffi::c_void;

    /// As PTX, which the driver compiles for its GPU.
    const KERNELS: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));
    const ATTENTION: &str = include_str!(concat!(env!("OUT_DIR"), "/attention.ptx"));

    // SAFETY: it is plain data in C's layout, as the kernels declare it.
    unsafe impl DeviceRepr for KernelDropout {}

    /// The number of NVIDIA GPUs of this machine.
    ///
    /// # Errors
    /// When there is no driver.
    pub fn gpu_count() -> Result<usize> {
        Ok(CudaContext::device_count().map_err(Error::wrap)?.try_into().unwrap_or(0))
    }

    /// The memory of a GPU, in bytes.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn gpu_memory(device: &CudaDevice) -> Result<u64> {
        device.cuda_stream().context().bind_to_thread().map_err(Error::wrap)?;
        let (_, bytes) = driver::mem_get_info().map_err(Error::wrap)?;
        Ok(bytes as u64)
    }

    /// Runs kernel `name` on `arguments`, after what was launched before.
    ///
    /// # Errors
    /// When an argument is not contiguous, the kernel is not there, or the device fails.
    pub(crate) fn launch(
        device: &CudaDevice,
        name: &str,
        grid: KernelGrid,
        arguments: &[KernelArgument],
    ) -> Result<()> {
        if grid.blocks.0 == 0 || grid.blocks.1 == 0 {
            return Ok(());
        }
        let pointers = arguments
            .iter()
            .map(|argument| match argument {
                KernelArgument::Tensor(tensor) if !tensor.is_contiguous() => {
                    bail!("kernel {name} reads tensors that lie in one piece, not one of {:?}", tensor.layout())
                }
                KernelArgument::Rows(tensor) if tensor.stride().last() != Some(&1) => {
                    bail!("kernel {name} reads rows in one piece, not those of {:?}", tensor.layout())
                }
                KernelArgument::Tensor(tensor) | KernelArgument::Rows(tensor) => pointer(device, tensor),
                _ => Ok(0),
            })
            .collect::<Result<Vec<u64>>>()?;
        let kernel = match name.starts_with("fused_attention") {
            true => device.get_or_load_custom_func(name, "gptkit_attention", ATTENTION)?,
            false => device.get_or_load_custom_func(name, "gptkit", KERNELS)?,
        };
        if grid.shared > 0 {
            let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(most, grid.shared as i32).map_err(Error::wrap)?;
        }
        let mut launch = kernel.builder();
        for (argument, pointer) in arguments.iter().zip(&pointers) {
            match argument {
                KernelArgument::Tensor(_) | KernelArgument::Rows(_) | KernelArgument::Null => launch.arg(pointer),
                KernelArgument::U32(number) => launch.arg(number),
                KernelArgument::U64(number) => launch.arg(number),
                KernelArgument::F32(number) => launch.arg(number),
                KernelArgument::Drop(drop) => launch.arg(drop),
            };
        }
        let config = LaunchConfig {
            grid_dim: (grid.blocks.0 as u32, grid.blocks.1 as u32, 1),
            block_dim: (grid.threads.0, grid.threads.1, 1),
            shared_mem_bytes: grid.shared as u32,
        };
        // SAFETY: callers pass the arguments that the kernel declares, and tensors of the sizes that they name.
        unsafe { launch.launch(config) }.map_err(Error::wrap)?;
        Ok(())
    }

    /// The address of the first element.
    fn pointer(device: &CudaDevice, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("a tensor is on {:?}, not on the GPU", tensor.device()) };
        let stream = device.cuda_stream();
        let start = match tensor.dtype() {
            DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
            DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0,
            DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
            DType::F64 => storage.as_cuda_slice::<f64>()?.device_ptr(&stream).0,
            other => bail!("kernels do not read {other:?}"),
        };
        Ok(start + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
    }

    /// Matrices of a batch as cuBLAS reads them.
    struct Operand {
        /// Whether elements of a column follow each other, not those of a row.
        is_transposed: bool,
        /// From a row, or column, to the next.
        stride: i32,
        /// From a matrix to the next.
        step: i64,
    }

    impl Operand {
        fn of(tensor: &Tensor) -> Result<Self> {
            let (dims, strides) = (tensor.dims(), tensor.stride());
            let n = dims.len();
            if n < 2 {
                bail!("a matrix product of a tensor of shape {dims:?}");
            }
            let (rows, columns) = (dims[n - 2], dims[n - 1]);
            let (down, along) = (strides[n - 2], strides[n - 1]);
            let (is_transposed, stride) = match (down, along) {
                (_, 1) => (false, if rows == 1 { columns } else { down }),
                (1, _) => (true, if columns == 1 { rows } else { along }),
                _ if columns == 1 => (false, down),
                _ => bail!("a matrix product of a tensor with layout {:?}", tensor.layout()),
            };
            // The matrices of all leading dimensions must be at equal distances.
            let mut step = 0;
            let mut expected = None;
            for i in (0..n - 2).rev().filter(|&i| dims[i] > 1) {
                match expected {
                    None => step = strides[i] as i64,
                    Some(next) if next == strides[i] => {}
                    Some(_) => bail!("a matrix product of a tensor with layout {:?}", tensor.layout()),
                }
                expected = Some(strides[i] * dims[i]);
            }
            Ok(Self { is_transposed, stride: stride as i32, step })
        }
    }

    fn data_type(tensor: &Tensor) -> Result<blas::cudaDataType> {
        match tensor.dtype() {
            DType::F32 => Ok(blas::cudaDataType_t::CUDA_R_32F),
            DType::BF16 => Ok(blas::cudaDataType_t::CUDA_R_16BF),
            other => bail!("matrix products do not read {other:?}"),
        }
    }

    /// Writes `a·b` to `c`, or adds it. `a`: `[.., M, K]`, `b`: `[.., K, N]`, `c`: `[.., M, N]`; sums are f32.
    ///
    /// # Errors
    /// When the shapes or layouts do not fit, or the device fails.
    pub(crate) fn multiply_into(device: &CudaDevice, a: &Tensor, b: &Tensor, c: &Tensor, add: bool) -> Result<()> {
        let n_dims = c.rank();
        let (m, n) = (c.dims()[n_dims - 2], c.dims()[n_dims - 1]);
        let k = a.dims()[a.rank() - 1];
        let batch: usize = c.dims()[..n_dims - 2].iter().product();
        let count = |x: &Tensor| x.elem_count();
        if count(a) != batch * m * k || count(b) != batch * k * n || b.dims()[b.rank() - 2] != k {
            bail!("matrix products of {:?} and {:?} to {:?}", a.dims(), b.dims(), c.dims());
        }
        if count(c) == 0 || k == 0 {
            return Ok(());
        }
        let (of_a, of_b, of_c) = (Operand::of(a)?, Operand::of(b)?, Operand::of(c)?);
        if of_c.is_transposed {
            bail!("a matrix product cannot be written to layout {:?}", c.layout());
        }
        let operation = |operand: &Operand| match operand.is_transposed {
            true => blas::cublasOperation_t::CUBLAS_OP_T,
            false => blas::cublasOperation_t::CUBLAS_OP_N,
        };
        let compute = match a.dtype() == DType::F32 && IS_TF32_ALLOWED.load(Ordering::Relaxed) {
            true => blas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let (one, beta) = (1.0f32, f32::from(u8::from(add)));
        let pointer = |tensor| pointer(device, tensor);
        device.cuda_stream().context().bind_to_thread().map_err(Error::wrap)?;
        let handle = device.cublas_handle();
        // Rows of ours are columns of cuBLAS, so cᵀ = bᵀ·aᵀ is asked for.
        // SAFETY: the shapes and strides above are those of the tensors, which live on this device.
        unsafe {
            result::gemm_strided_batched_ex(
                *handle.handle(),
                operation(&of_b),
                operation(&of_a),
                n as i32,
                m as i32,
                k as i32,
                (&raw const one).cast::<c_void>(),
                pointer(b)? as *const c_void,
                data_type(b)?,
                of_b.stride,
                of_b.step,
                pointer(a)? as *const c_void,
                data_type(a)?,
                of_a.stride,
                of_a.step,
                (&raw const beta).cast::<c_void>(),
                pointer(c)? as *mut c_void,
                data_type(c)?,
                of_c.stride,
                of_c.step,
                batch as i32,
                compute,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .map_err(Error::wrap)
    }

    /// Has the driver keep freed memory for the next allocation: by default it gives it back at every wait. And no events
    /// are made for each tensor, which only work on several streams would need.
    ///
    /// # Errors
    /// When the device has no pool of memory.
    pub(crate) fn keep_freed_memory(device: &CudaDevice) -> Result<()> {
        // SAFETY: all work is on the device's one stream, in order.
        unsafe { device.disable_event_tracking() };
        let context = device.cuda_stream().context().clone();
        context.bind_to_thread().map_err(Error::wrap)?;
        let mut pool = std::ptr::null_mut();
        let mut limit = u64::MAX;
        // SAFETY: the pool is the device's own, and the attribute is a number of 64 bits.
        unsafe {
            sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()).result().map_err(Error::wrap)?;
            let which = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            sys::cuMemPoolSetAttribute(pool, which, (&raw mut limit).cast::<c_void>()).result().map_err(Error::wrap)
        }
    }
}
#[cfg(feature = "cuda")]
pub use with::{gpu_count, gpu_memory};
#[cfg(feature = "cuda")]
pub(crate) use with::{keep_freed_memory, launch, multiply_into};

//! Which numbers products read, and which kernel multiplies them on this processor.

use crate::cpu::{Cpu, Level};
use crate::device::gpu::is_ready;
use candle_core::DType;

/// What products read; sums are f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 24 bits.
    F32,
    /// 8 bits, and the range of f32.
    Bf16,
}

impl Precision {
    /// The one that is faster on this machine: bf16 on an NVIDIA GPU, and on processors that have instructions for it,
    /// since others multiply f32 as fast.
    pub fn fastest() -> Self {
        let cpu = Cpu::get();
        let bf16 = is_ready() || cpu.tiles.is_ok() || cpu.dots;
        if bf16 { Self::Bf16 } else { Self::F32 }
    }

    /// The type of tensors that products read.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Runs `$body` with `$K` as the kernel of `$path`.
macro_rules! with_kernel {
    ($path:expr, $K:ident => $body:expr) => {
        match $path {
            $crate::path::Path::Portable => {
                type $K = $crate::cpu::kernel::Portable;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::path::Path::Avx2 => {
                type $K = $crate::cpu::avx2::Avx2;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::path::Path::Avx512 => {
                type $K = $crate::cpu::avx512::Avx512;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::path::Path::Dots => {
                type $K = $crate::cpu::dots::Dots;
                $body
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            $crate::path::Path::Tiles => {
                type $K = $crate::cpu::amx::Amx;
                $body
            }
        }
    };
}
pub(crate) use with_kernel;

/// A kernel that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Dots,
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Tiles,
}

impl Path {
    /// The fastest for products of `precision`.
    pub(crate) fn of(precision: Precision) -> Self {
        let cpu = Cpu::get();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if precision == Precision::Bf16 && cpu.tiles.is_ok() {
            return Self::Tiles;
        }
        #[cfg(target_arch = "x86_64")]
        if precision == Precision::Bf16 && cpu.dots {
            return Self::Dots;
        }
        match cpu.level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Self::Avx2,
            _ => Self::Portable,
        }
    }
}

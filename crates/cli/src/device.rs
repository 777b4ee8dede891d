//! The device to compute on.

use crate::ui::Usage;
use candle_core::Device;
use clap::ValueEnum;
use model::Dtype;
use ops::Quantized;

/// Where tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceChoice {
    /// The GPU this binary was built for, if there is one, else the processor
    Auto,
    /// The processor
    Cpu,
    /// An NVIDIA GPU
    Cuda,
    /// An Apple GPU
    Metal,
}

impl DeviceChoice {
    pub(crate) fn open(self) -> anyhow::Result<Device> {
        let built = |on: bool, feature: &str| {
            if on {
                Ok(())
            } else {
                Err(Usage(format!("this gptkit was built without {feature}: build it with --features {feature}")))
            }
        };
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => {
                built(cfg!(feature = "cuda"), "cuda")?;
                Ok(Device::new_cuda(0)?)
            }
            Self::Metal => {
                built(cfg!(feature = "metal"), "metal")?;
                Ok(Device::new_metal(0)?)
            }
            Self::Auto if cfg!(feature = "cuda") => Ok(Device::cuda_if_available(0)?),
            Self::Auto if cfg!(feature = "metal") => Ok(Device::metal_if_available(0)?),
            Self::Auto => Ok(Device::Cpu),
        }
    }
}

/// What products of matrices read
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum DtypeChoice {
    /// bf16 where the processor is faster with it, else f32
    Auto,
    /// 32 bits
    F32,
    /// 16 bits with the range of f32; sums and weights in training stay f32
    Bf16,
}

impl DtypeChoice {
    /// As `--set` would say it.
    pub(crate) fn setting(self) -> String {
        format!("train.dtype={}", serde_json::json!(Dtype::from(self)))
    }
}

impl From<DtypeChoice> for Dtype {
    fn from(choice: DtypeChoice) -> Self {
        match choice {
            DtypeChoice::Auto => Self::Auto,
            DtypeChoice::F32 => Self::F32,
            DtypeChoice::Bf16 => Self::Bf16,
        }
    }
}

/// Weights of few bits
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum QuantizeChoice {
    /// 8 bits
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits; widths must be multiples of 256
    #[value(name = "q4_k")]
    Q4K,
}

impl From<QuantizeChoice> for Quantized {
    fn from(choice: QuantizeChoice) -> Self {
        match choice {
            QuantizeChoice::Q8_0 => Self::Q8_0,
            QuantizeChoice::Q4K => Self::Q4K,
        }
    }
}

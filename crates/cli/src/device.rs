//! The device to compute on, and in which numbers.

use crate::data_args::shell;
use crate::env;
use crate::memory::give_back_while;
use crate::ui::{Usage, unusable};
use anyhow::Context;
use candle_core::Device;
use clap::{Args, ValueEnum};
use gptkit_model::load::ModelFolder;
use gptkit_model::{Dtype, Gpt, HeadDescription, ModelConfig, Packing, Params};
use gptkit_ops::cpu::Cpu;
use gptkit_ops::{Precision, Quantized};
use gptkit_preferences::answering::ModelNumbers;
use std::path::Path;

/// Device and precision for inference
#[derive(Debug, Args)]
pub(crate) struct ComputeArgs {
    /// Device to compute on
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Data type for matrix multiplications
    #[arg(long, default_value = "auto")]
    dtype: DtypeChoice,
    /// Quantize the weights to 4 to 8 bits (CPU only)
    #[arg(long, value_name = "KIND")]
    quantize: Option<QuantizeChoice>,
}

impl ComputeArgs {
    /// Loads the model of `folder` for generation.
    pub(crate) fn load(&self, folder: &Path) -> anyhow::Result<(ModelFolder, Gpt)> {
        self.load_as(Gpt::new, folder)
    }

    /// Loads the language model of `folder`, which answers.
    ///
    /// # Errors
    /// When it is a reward model or a classifier, and those of [`ComputeArgs::load`].
    pub(crate) fn load_writer(&self, folder: &Path) -> anyhow::Result<(ModelFolder, Gpt)> {
        match HeadDescription::load(folder) {
            Ok(head) if head.task != HeadDescription::REWARD => {
                let is = "is a classifier of `gptkit finetune`; it labels texts and does not answer";
                Err(Usage::new(format!("{} {is}", folder.display())).hint(with_model("predict", folder)).into())
            }
            _ => self.load_text_model(folder),
        }
    }

    /// Loads the language model of `folder`, which continues texts; a classifier is one, with a head beside it.
    ///
    /// # Errors
    /// When it is a reward model, and those of [`ComputeArgs::load`].
    pub(crate) fn load_text_model(&self, folder: &Path) -> anyhow::Result<(ModelFolder, Gpt)> {
        if HeadDescription::load(folder).is_ok_and(|head| head.task == HeadDescription::REWARD) {
            let is = "is a reward model; it scores answers and cannot generate text";
            return Err(Usage::new(format!("{} {is}", folder.display())).hint(with_model("score", folder)).into());
        }
        self.load(folder)
    }

    /// The transformer of `folder`, ready for its head.
    pub(crate) fn load_reader(&self, folder: &Path) -> anyhow::Result<(ModelFolder, Gpt)> {
        self.load_as(Gpt::reader, folder)
    }

    /// All that decides the last bits of a result: data type, device and the instructions in use.
    pub(crate) fn numbers(&self) -> ModelNumbers {
        let dtype = match (self.quantize, Dtype::from(self.dtype).settled()) {
            (Some(QuantizeChoice::Q8_0), _) => "q8_0",
            (Some(QuantizeChoice::Q6K), _) => "q6_k",
            (Some(QuantizeChoice::Q5K), _) => "q5_k",
            (Some(QuantizeChoice::Q4K), _) => "q4_k",
            (None, Dtype::Bf16) => "bf16",
            (None, Dtype::Tf32) => "tf32",
            (None, _) => "f32",
        };
        let Cpu { level, tiles, dots, .. } = Cpu::get();
        let numbers = format!("{dtype} {:?} {level} {} {dots}", self.device, tiles.is_ok());
        ModelNumbers { dtype: dtype.to_owned(), numbers }
    }

    fn load_as(
        &self,
        make: fn(&ModelConfig, &Params, Precision) -> candle_core::Result<Gpt>,
        folder: &Path,
    ) -> anyhow::Result<(ModelFolder, Gpt)> {
        let device = self.device.open()?;
        Dtype::from(self.dtype).apply(&device).map_err(|e| Usage::new(format!("--dtype: {e}")))?;
        let precision = Dtype::from(self.dtype).precision();
        let packing = Packing { precision, quantized: self.quantize.map(Into::into) };
        give_back_while(|| {
            let files = ModelFolder::load_packed(folder, &device, packing).map_err(unusable)?;
            let model = make(&files.config, &files.params, precision);
            Ok((files, model.with_context(|| folder.display().to_string()).map_err(unusable)?))
        })
    }
}

/// A command with a model folder.
fn with_model(command: &str, folder: &Path) -> String {
    format!("gptkit {command} --model {}", shell(folder))
}

/// Where tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceChoice {
    /// The GPU that this binary supports, if there is one, otherwise the CPU
    Auto,
    /// The CPU
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
                Err(Usage::new(format!(
                    "this gptkit was built without {feature}; rebuild it with --features {feature}"
                )))
            }
        };
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => {
                built(cfg!(feature = "cuda"), "cuda")?;
                ready(Device::new_cuda(gpu()?)?)
            }
            Self::Metal => {
                built(cfg!(feature = "metal"), "metal")?;
                Ok(Device::new_metal(0)?)
            }
            Self::Auto if cfg!(feature = "cuda") => match gpu() {
                Ok(number) => ready(Device::cuda_if_available(number)?),
                Err(_) => Ok(Device::Cpu), // there is no driver
            },
            Self::Auto if cfg!(feature = "metal") => Ok(Device::metal_if_available(0)?),
            Self::Auto => Ok(Device::Cpu),
        }
    }
}

/// The number of the GPU of this process: ranks on one machine share out its GPUs.
fn gpu() -> candle_core::Result<usize> {
    Ok(env::rank_on_machine() % gptkit_ops::gpu_count()?.max(1))
}

/// Readies a GPU for its first use.
fn ready(device: Device) -> anyhow::Result<Device> {
    if let Device::Cuda(gpu) = &device {
        gptkit_ops::ready_gpu(gpu)?;
    }
    Ok(device)
}

/// Data type for matrix multiplications
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum DtypeChoice {
    /// bf16 if the CPU or GPU is faster with it, otherwise f32
    Auto,
    /// 32 bits
    F32,
    /// 16 bits with the range of f32; sums, and weights in training, stay f32
    Bf16,
    /// f32 with a fraction of 10 bits (NVIDIA GPU only)
    Tf32,
}

impl DtypeChoice {
    /// The flags as settings in the form of `--set`.
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
            DtypeChoice::Tf32 => Self::Tf32,
        }
    }
}

/// Quantized weights
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum QuantizeChoice {
    /// 8 bits
    #[value(name = "q8_0")]
    Q8_0,
    /// 6 bits; widths must be multiples of 256
    #[value(name = "q6_k")]
    Q6K,
    /// 5 bits; widths must be multiples of 256
    #[value(name = "q5_k")]
    Q5K,
    /// 4 bits; widths must be multiples of 256
    #[value(name = "q4_k")]
    Q4K,
}

impl From<QuantizeChoice> for Quantized {
    fn from(choice: QuantizeChoice) -> Self {
        match choice {
            QuantizeChoice::Q8_0 => Self::Q8_0,
            QuantizeChoice::Q6K => Self::Q6K,
            QuantizeChoice::Q5K => Self::Q5K,
            QuantizeChoice::Q4K => Self::Q4K,
        }
    }
}

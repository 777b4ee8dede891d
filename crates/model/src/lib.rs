//! Tokens → logits: one decoder-only transformer whose generations are configuration, and two baselines (an LSTM in
//! its place, and a masked model), and the folders they live in.
//!
//! Shapes, the same letters everywhere: `B` batch, `T` window, `D` width of the residual stream (`d_model`), `H` heads,
//! `K` size of a head, `V` vocabulary. Token ids are u32, all else f32.
//!
//! - [`config`]   all that differs between GPT-1, GPT-2, GPT-3 and the baselines
//! - [`layout`]   names and shapes of all weights, in one fixed order
//! - [`params`]   name → variable, in that order
//! - [`init`]     the published first values
//! - [`block`]    attention and MLP, pre- and post-norm
//! - [`lora`]     low-rank adapters
//! - [`weights`]  weights with or without adapters, and how an update changes them
//! - [`input`]    tokens as a model reads them
//! - [`pass`]     what a forward pass is for
//! - [`gpt`]      embeddings → blocks → logits or loss
//! - [`heads`]    the head that labels a text
//! - [`sampler`]  logits → token
//! - [`continuation`] one continuation while it is written: logits → token → text
//! - [`generate`] prompt → continuations, in a batch that finished rows leave
//! - [`mod@generate_batch`] many prompts → continuations, in a batch whose places never stay empty
//! - [`likelihood`] how likely continuations are
//! - [`packing`]  how a model that is only read keeps its weights
//! - [`load`]     folder → model, with adapters merged
//! - [`folder`]   the files of a Hugging Face folder
//! - [`hf_config`] its `config.json`, both ways
//! - [`stored`]   weights on disk, however they are named and laid out
//! - [`peft_modules`] a model's modules by PEFT's names
//! - [`peft`]     what `adapter_config.json` says
//! - [`adapter_folder`] folders of adapters, and their merge with the base model
//! - [`mod@gguf`] models in GGUF files; [`gguf_export`] writes them, [`modelfile`] a description for Ollama beside them
//! - [`mod@license`] the license that a model's card states
//! - [`tensor_files`] tensors of safetensors files

mod adapter_folder;
pub mod block;
pub mod config;
pub mod continuation;
pub mod folder;
pub mod generate;
pub mod generate_batch;
mod gguf;
pub mod gguf_export;
pub mod gpt;
pub mod heads;
mod hf_config;
pub mod init;
pub mod input;
pub mod layout;
mod license;
pub mod likelihood;
pub mod load;
pub mod lora;
pub mod modelfile;
pub mod packing;
pub mod params;
pub mod pass;
mod peft;
mod peft_modules;
pub mod sampler;
mod stored;
pub mod tensor_files;
pub mod weights;

/// Batches are made by a crate that knows no tensors, so that the mark of a target that does not count stands in two crates.
const _: () = assert!(gptkit_data::batch::IGNORE == gptkit_ops::IGNORE);

pub use config::{Dtype, Kind, ModelConfig, PositionInit};
pub use gpt::Gpt;
pub use heads::{ClassHead, HeadDescription};
pub use input::Input;
pub use layout::{layer_of, n_matrices};
pub use lora::{Adapters, LoraConfig};
pub use packing::Packing;
pub use params::Params;
pub use pass::Pass;
pub use weights::{WeightUpdate, Weights};

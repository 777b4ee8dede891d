//! GGUF, the file format of llama.cpp: metadata and tensors in one file, in versions 2 and 3. What the metadata of a tokenizer
//! and the names of tensors mean is known to the crates that have tokenizers and models.
//!
//! - [`value`]   a value of the metadata
//! - [`dtype`]   data types by their numbers and names
//! - [`mod@file`]    reads a file: metadata, and tensors with their places
//! - [`writer`]  writes a file, one tensor after another
//! - [`mod@format`]  the data type of each tensor of a model that is written as `q8_0`, for instance
//!
//! candle has the blocks of quantized weights, which are used here. Its reader is not: it keeps neither places nor duplicates,
//! and takes 32 bytes for each byte of an array; its writer needs all tensors in memory.

pub mod dtype;
pub mod file;
pub mod format;
pub mod value;
pub mod writer;

pub use candle_core::quantized::GgmlDType;
pub use file::{GgufFile, GgufTensor, is_gguf};
pub use format::WeightFormat;
pub use value::{GgufValue, Metadata};
pub use writer::{GgufWriter, TensorPlan};

/// The first bytes of a file.
const MAGIC: [u8; 4] = *b"GGUF";
/// Tensors begin at multiples of this, where the metadata names no other.
const ALIGNMENT: u64 = 32;

#[cfg(test)]
mod tests;

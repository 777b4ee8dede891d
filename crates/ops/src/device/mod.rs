//! The path of devices other than the CPU: products in the precision that is asked for, activations kept or computed again,
//! and losses in parts, so that the scores of a batch never exist at once. Gradients of parameters are added where they are
//! found, as on the CPU.
//!
//! - [`gpu`]      launches kernels and products on an NVIDIA GPU
//! - [`products`] matrix products, and sums of rows
//! - [`kernels`]  the operations between them, each as a kernel and in candle's operations
//! - [`attention_shape`], [`attention`], [`fused_attention`]: who attends to whom; attention with its scores in memory, and
//!   without
//! - [`sums`]     of columns
//! - [`computed`] what was computed outside of candle's graph, as a node of it
//! - [`trunk`]    blocks one after the other
//! - [`losses`]   from the last hidden state to a loss
//! - [`check`]    each operation beside its definition

pub(crate) mod attention;
pub(crate) mod attention_shape;
pub(crate) mod check;
pub(crate) mod computed;
mod fused_attention;
pub(crate) mod gpu;
pub(crate) mod kernels;
pub(crate) mod losses;
pub(crate) mod products;
pub(crate) mod sums;
pub(crate) mod trunk;

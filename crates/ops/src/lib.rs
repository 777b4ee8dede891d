//! Operations with a backward pass of their own, one file each: what candle's own would cut, cannot seed, or does in
//! many passes over memory. Knows only candle.
//!
//! Shapes: `B` batch, `T` window, `D` width of the residual stream, `H` heads, `K` size of a head, `V` vocabulary,
//! `N` rows of any kind.
//!
//! - [`rng`]            every draw, as a pure function of a key and an element's number
//! - [`linear()`]       product and bias
//! - [`layer_norm()`]   mean and variance of each row, gain and bias
//! - [`gelu()`]         the tanh form
//! - [`attention()`]    causal, dense or banded; of a few tokens over their past
//! - [`self_attention()`] of a whole window, memory linear in it
//! - [`dropout()`]      no stored mask
//! - [`cross_entropy()`] mean loss over the targets that count
//! - [`sum_of_squares()`] for the norm of gradients
//! - [`adamw()`]        one optimizer update, in place
//!
//! Each operation has a plain version, written with candle's differentiable operations: the definition of right, and
//! the path on devices without a kernel of ours. On the CPU a custom operation takes its place.

mod adamw;
mod attention;
pub mod check;
mod cross_entropy;
mod dropout;
mod exp;
mod gelu;
mod layer_norm;
mod linear;
mod norm;
mod product;
pub mod rng;
mod self_attention;
mod slices;

pub use adamw::{Adam, adamw};
pub use attention::{Mask, attention, attention_weights};
pub use cross_entropy::{IGNORE, cross_entropy};
pub use dropout::{Dropout, dropout};
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use norm::sum_of_squares;
pub use self_attention::{merge_heads, self_attention, split_heads};

//! What a model computes, one operation a file, forward and backward; on the CPU in loops and products of our own, which
//! use what the processor has. Knows only candle.
//!
//! Shapes: `B` batch, `T` window, `D` width of the residual stream, `H` heads, `K` size of a head, `V` vocabulary,
//! `N` rows of any kind.
//!
//! - [`mod@bench`]        operations to be timed
//! - [`cpu`]              what the processor can do, and the innermost loops
//! - [`matrix`]           matrices as they lie in memory
//! - [`shared`]           slices that several threads write, each its own parts
//! - [`scratch`]          memory that a thread works in again and again
//! - [`path`]             which numbers products read, and which kernel multiplies them
//! - [`panels`]           matrices in the order in which kernels read them
//! - [`product`]          matrix products over all cores; [`blocks`] how they are cut
//! - [`gguf_blocks`]      weights of few bits as files have them, placed in panels
//! - [`quantized`]        weights of few bits, and products with them
//! - [`thin`]             products with a matrix of few rows
//! - [`parameter`]        weights, their gradient, and the forms in which products read them
//! - [`embedding`]        rows of a table for tokens and positions
//! - [`linear`]           product and bias
//! - [`layer_norm`]       mean and variance of each row, gain and bias
//! - [`gelu`]             the tanh form
//! - [`attention`]        causal, banded or of both sides; of a few tokens over their past
//! - [`sequences`]        several in one window, each as if alone
//! - [`self_attention`]   of whole sequences, memory linear in their length
//! - [`sequence_head`]    the same in one head of one sequence
//! - [`past`]             of new tokens over keys and values that are kept
//! - [`tensor_past`]      the same on devices without loops of ours
//! - [`state_past`]       what recurrent layers keep instead
//! - [`cache`]            the past in all layers
//! - [`dropout()`]        no stored mask
//! - [`block`]            attention and MLP
//! - [`trunk`]            blocks one after the other, as one operation for candle
//! - [`lstm`]             the recurrent layers of the baseline
//! - [`step_order`]       the order in which they read tokens
//! - [`cross_entropy()`]  mean loss over the targets that count
//! - [`head`]             the same from the hidden state, without the scores of a whole batch
//! - [`token_log_probs()`] log-probability of each token chosen, and the entropy around it
//! - [`norm`]             the size of gradients and weights
//! - [`device`]           the same operations on devices other than the CPU
//! - [`gradient_watch`]   which gradients are complete while a backward pass is running
//! - [`adamw()`]          one optimizer update, in place
//! - [`muon()`]           the same, for the matrices of layers
//!
//! Each operation has a plain version, written with candle's differentiable operations: the definition of right.

mod adamw;
mod attention;
pub mod bench;
#[cfg(any(test, feature = "testing"))]
pub mod bench_versions;
mod block;
mod blocks;
mod cache;
#[cfg(any(test, feature = "testing"))]
pub mod check;
pub mod cpu;
mod cross_entropy;
mod device;
mod dropout;
mod embedding;
mod exp;
mod gelu;
mod gguf_blocks;
mod gradient_watch;
mod head;
mod layer_norm;
mod linear;
mod lstm;
mod matrix;
mod muon;
mod norm;
mod panels;
mod parameter;
mod past;
mod past_head;
mod path;
mod product;
mod quantize;
mod quantized;
mod scratch;
mod self_attention;
mod sequence_head;
mod sequences;
mod shared;
mod slices;
mod state_past;
mod step_order;
mod tensor_past;
mod thin;
mod token_log_probs;
mod trunk;
mod zeroed;

pub use adamw::{Adam, adamw};
pub use attention::Mask;
pub use block::{AttentionInput, Block, CachedAttention, DropoutSites};
pub use cache::Cache;
pub use cross_entropy::{IGNORE, cross_entropy};
pub use device::check::ready_gpu;
pub use device::gpu::{allow_tf32, gpu_count, gpu_memory};
pub use device::losses::gpu_scores_bytes;
pub use dropout::{Dropout, dropout};
pub use embedding::Embedding;
pub use exp::exponentials;
pub use gguf_blocks::Quantized;
pub use gradient_watch::watch_gradients;
pub use head::{language_model_loss, logits, scores_bytes, with_score_rows};
pub use layer_norm::Norm;
pub use linear::Linear;
pub use lstm::{LstmLayer, LstmStack};
pub use muon::{Muon, muon};
pub use norm::{NORM_CHUNK, gradient_square_parts, gradient_squares, sum_of_squares};
pub use panels::{StoredMatrix, StoredType};
pub use parameter::{LowRank, Parameter, TakenGradient, Trained, TrainedRows};
pub use path::Precision;
pub use sequences::Sequences;
pub use token_log_probs::token_log_probs;
pub use trunk::{SaveForBackward, Trunk};

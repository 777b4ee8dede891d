//! What several devices keep and exchange of a training, from sizes alone.

use crate::memory::{Memory, sum};
use gptkit_model::ModelConfig;

/// Devices among which tensor parallelism divides each matrix: those of one machine.
pub const TENSOR: u64 = 8;

/// A way of dividing a training among devices, each of which computes some of the rows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Each device has everything.
    Replicated,
    /// The optimizer's moments are divided (Rajbhandari et al. 2020, stage 1): what ranks do.
    Zero1,
    /// Weights and gradients too (stage 3): each block's weights are gathered before it is computed.
    Zero3,
    /// The same, and each matrix and its activations are divided among [`TENSOR`] devices (Shoeybi et al. 2019).
    Zero3Tensor,
}

impl Sharing {
    /// Bytes that each of `n` devices keeps at the peak of a step of `model`, whose memory on one device is `whole`.
    pub fn bytes(self, model: &ModelConfig, whole: &Memory, n: u64) -> u64 {
        let n = n.max(1);
        let Memory { weights, packed, gradients, optimizer, activations, logits, data, .. } = *whole;
        // The weights of one layer, as they are and as products read them.
        let block = sum([weights, packed]) / model.n_layer.max(1) as u64;
        let parts = match self {
            Self::Replicated => return whole.total(),
            Self::Zero1 => [weights, packed, gradients, optimizer / n, activations, logits, data],
            Self::Zero3 => [weights / n, block, gradients / n, optimizer / n, activations, logits, data],
            Self::Zero3Tensor => {
                let rest = [activations, logits].map(|bytes| bytes / TENSOR);
                [weights / n, block / TENSOR, gradients / n, optimizer / n, rest[0], rest[1], data]
            }
        };
        let parts = sum(parts);
        parts.saturating_add(Memory::overhead(parts))
    }
}

/// Bytes that each of `n` ranks sends in a step, and receives as many: the gradients of the slices of others, and then the
/// weights of its own slice.
pub fn bytes_sent(n_params: u64, n: u64) -> f64 {
    let n = n.max(1) as f64;
    2.0 * 4.0 * n_params as f64 * (1.0 - 1.0 / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_divided_from_one_way_to_the_next() {
        let shape = serde_json::json!({
            "kind": "gpt3", "n_layer": 40, "n_head": 40, "d_model": 5120, "context": 2048, "vocab_size": 50257,
        });
        let model: ModelConfig = serde_json::from_value(shape).unwrap();
        let train =
            serde_json::from_value(serde_json::json!({ "length": "1 steps", "batch_size": 1, "lr": 1.0 })).unwrap();
        let whole = Memory::of(&model, &train);
        let ways = [Sharing::Replicated, Sharing::Zero1, Sharing::Zero3, Sharing::Zero3Tensor];
        let bytes = ways.map(|way| way.bytes(&model, &whole, 64));
        assert!(bytes.is_sorted_by(|a, b| a > b), "{bytes:?}");
        // 63 of 64 parts of two moments, and what the allocator holds of them.
        let saved = (whole.total() - bytes[1]) as f64 / (8.0 * model.n_params() as f64 * 63.0 / 64.0);
        assert!((saved - 1.1).abs() < 0.01, "{saved}");
        assert_eq!(Sharing::Zero1.bytes(&model, &whole, 1), whole.total());
        assert_eq!(bytes_sent(100, 1), 0.0);
        assert_eq!(bytes_sent(100, 4), 600.0);
    }
}

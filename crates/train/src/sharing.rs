//! What several devices keep and exchange of a training, from sizes alone.

use crate::config::TrainConfig;
use crate::memory::{Memory, sum};
use gptkit_model::{Kind, ModelConfig};

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
        parts.saturating_add(whole.place.overhead(parts))
    }
}

/// What each rank sends in a step, and receives as much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExchangeSizes {
    /// Bytes: the gradients of the slices of others, and then the weights of its own slice.
    pub sent: f64,
    /// Bytes of gradients that are complete while the backward pass is still computing.
    early: f64,
    /// Seconds of the backward pass in which they are.
    backward: f64,
}

impl ExchangeSizes {
    /// Those of `model` with `train` among `n` ranks, each of which computes for `seconds` in a step.
    pub fn of(model: &ModelConfig, train: &TrainConfig, n: u64, seconds: f64) -> Self {
        let others = 1.0 - 1.0 / n.max(1) as f64;
        let micro_batches = train.batch_size / train.micro_batch_of(train.batch_size).max(1);
        let early = if model.kind == Kind::Lstm { 0 } else { model.n_layer_params() };
        Self {
            sent: 2.0 * 4.0 * model.n_params() as f64 * others,
            early: 4.0 * early as f64 * others,
            // The forward pass takes a third. Of a rank's micro-batches the last one completes the gradients.
            backward: seconds * 2.0 / 3.0 / (micro_batches as f64 / n.max(1) as f64).max(1.0),
        }
    }

    /// Seconds that the exchange takes at `bytes_per_s` in each direction, and by how many of them the step is longer: gradients
    /// of layers are sent during the backward pass.
    pub fn seconds(&self, bytes_per_s: f64) -> (f64, f64) {
        let all = self.sent / bytes_per_s;
        (all, all - (self.early / bytes_per_s).min(self.backward))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Place;

    /// Sizes of 32 weights and more, of which those of layers are sent early.
    #[test]
    fn the_exchange_is_hidden_as_far_as_gradients_are_complete_and_the_backward_pass_lasts() {
        let shape = serde_json::json!({
            "kind": "gpt2", "n_layer": 2, "n_head": 1, "d_model": 8, "context": 4, "vocab_size": 16,
        });
        let model: ModelConfig = serde_json::from_value(shape).unwrap();
        let train = serde_json::json!({ "length": "1 steps", "batch_size": 16, "micro_batch": 2, "lr": 1.0 });
        let train: TrainConfig = serde_json::from_value(train).unwrap();
        // Two layers of 12·8² weights, 13·8 biases and gains; 20 embeddings, and the last norm.
        assert_eq!((model.n_layer_params(), model.n_params()), (1744, 1744 + 20 * 8 + 16));
        let none = ExchangeSizes::of(&model, &train, 1, 6.0);
        assert_eq!((none.sent, none.seconds(1.0)), (0.0, (0.0, 0.0)));
        // 8 micro-batches on 4 ranks: the last of two goes back for two seconds.
        let sizes = ExchangeSizes::of(&model, &train, 4, 6.0);
        assert_eq!(sizes.sent, 6.0 * 1920.0);
        let (all, longer) = sizes.seconds(5232.0);
        assert!((all - 11520.0 / 5232.0).abs() < 1e-12 && (all - longer - 1.0).abs() < 1e-12, "{all} {longer}");
        let (all, longer) = sizes.seconds(1308.0);
        assert!((all - longer - 2.0).abs() < 1e-12, "{all} {longer}");
        assert_eq!(ExchangeSizes { early: 0.0, ..sizes }.seconds(2.0), (5760.0, 5760.0));
    }

    #[test]
    fn more_is_divided_from_one_way_to_the_next() {
        let shape = serde_json::json!({
            "kind": "gpt3", "n_layer": 40, "n_head": 40, "d_model": 5120, "context": 2048, "vocab_size": 50257,
        });
        let model: ModelConfig = serde_json::from_value(shape).unwrap();
        let train =
            serde_json::from_value(serde_json::json!({ "length": "1 steps", "batch_size": 1, "lr": 1.0 })).unwrap();
        let whole = Memory::of(&model, &train, Place::Processor);
        let ways = [Sharing::Replicated, Sharing::Zero1, Sharing::Zero3, Sharing::Zero3Tensor];
        let bytes = ways.map(|way| way.bytes(&model, &whole, 64));
        assert!(bytes.is_sorted_by(|a, b| a > b), "{bytes:?}");
        // 63 of 64 parts of two moments, and what the allocator holds of them.
        let saved = (whole.total() - bytes[1]) as f64 / (8.0 * model.n_params() as f64 * 63.0 / 64.0);
        assert!((saved - 1.1).abs() < 0.01, "{saved}");
        assert_eq!(Sharing::Zero1.bytes(&model, &whole, 1), whole.total());
    }
}

//! The published first values of weights.

use crate::config::{Kind, ModelConfig, PositionInit};
use crate::layout::WeightSlot;
use gptkit_rng::keyed::{Draw, Key, normals};

/// Standard deviation of the position embeddings in OpenAI's GPT-2 code, as a share of the others'; Hugging Face draws all
/// alike.
const GPT2_POSITION_SHARE: f64 = 0.5;
/// The largest sinusoid. Peaks of 0.28 learned faster than 0.08, 0.14, 0.42 and 0.57 (widths 96 and 144, context 128, 1,000
/// steps of Muon).
const SINUSOID_PEAK: f64 = 0.28;
/// Which of the four gates' biases in [`gptkit_ops::LstmLayer`] belong to the forget gate.
const FORGET_GATE: usize = 1;

/// Values for parameter number `number` of the model: gains 1, biases 0 but for those of forget gates, all else normal
/// around 0.
pub(crate) fn values(config: &ModelConfig, slot: &WeightSlot, number: u32, seed: u64) -> Vec<f32> {
    let n = slot.shape.iter().product();
    match slot.shape.len() {
        1 if slot.name.ends_with(".weight") => vec![1.0; n],
        // So that a cell first keeps what it has (Gers et al. 2000, §4; 1 after Józefowicz et al. 2015, §2).
        1 if config.kind == Kind::Lstm => (0..n).map(|i| f32::from(i / config.d_model == FORGET_GATE)).collect(),
        1 => vec![0.0; n],
        2 if config.position_init == PositionInit::Sinusoidal && is_positions(&slot.name) => {
            sinusoids(config.context, config.d_model)
        }
        _ => {
            let std = std(config, &slot.name) as f32;
            let mut values = normals(Key { seed, draw: Draw::Init { parameter: number } }, n);
            values.iter_mut().for_each(|z| *z *= std);
            values
        }
    }
}

fn is_positions(name: &str) -> bool {
    name.ends_with("positions_embed.weight") || name.ends_with("wpe.weight")
}

/// `[context, width]`: sines in the first half of each row, cosines in the second.
fn sinusoids(context: usize, width: usize) -> Vec<f32> {
    let half = width.div_ceil(2);
    let angle = |position: usize, i: usize| position as f64 / (context as f64).powf(i as f64 / half as f64);
    let wave = |position: usize, i: usize| match i < half {
        true => angle(position, i).sin(),
        false => angle(position, i - half).cos(),
    };
    (0..context * width).map(|at| (SINUSOID_PEAK * wave(at / width, at % width)) as f32).collect()
}

fn std(config: &ModelConfig, name: &str) -> f64 {
    if config.kind == Kind::Lstm {
        // That of values uniform within ±1/√D, as PyTorch's LSTM has. No norms make up for what is small, so that tokens
        // begin larger too; 0.1 learned fastest of 0.02, 0.06 and 0.1.
        return if name.ends_with("wte.weight") { 0.1 } else { 1.0 / (3.0 * config.d_model as f64).sqrt() };
    }
    let std = config.first_std();
    if config.kind.norms_sums() {
        return std;
    }
    if name.ends_with("c_proj.weight") {
        // So that the residual stream's variance does not grow with depth: two sublayers a block add to it
        // (Radford et al. 2019, §2.3).
        return std / (2.0 * config.n_layer as f64).sqrt();
    }
    if name.ends_with("wpe.weight") { GPT2_POSITION_SHARE * std } else { std }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;
    use crate::layout::layout;

    fn measured_std(kind: Kind, d_model: usize, ending: &str) -> f64 {
        let config = ModelConfig { d_model, vocab_size: 500, context: 128, n_layer: 8, ..tiny(kind) };
        let slots = layout(&config);
        let (number, slot) = slots.iter().enumerate().find(|(_, s)| s.name.ends_with(ending)).unwrap();
        let values = values(&config, slot, number as u32, 1);
        (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    }

    #[test]
    fn deviations_are_the_published_ones() {
        for (kind, d_model, ending, expected) in [
            (Kind::Gpt1, 768, "tokens_embed.weight", 0.02),
            (Kind::Gpt1, 768, "positions_embed.weight", 0.02),
            (Kind::Gpt1, 1024, "mlp.c_proj.weight", 0.02),
            (Kind::Gpt2, 768, "wte.weight", 0.02),
            (Kind::Gpt2, 768, "wpe.weight", 0.01),
            (Kind::Gpt2, 768, "attn.c_attn.weight", 0.02),
            (Kind::Gpt2, 768, "attn.c_proj.weight", 0.005),
            (Kind::Gpt3, 768, "mlp.c_proj.weight", 0.005),
            (Kind::Bert, 768, "attn.c_proj.weight", 0.02),
            // A quarter of the width, twice the deviation.
            (Kind::Gpt1, 192, "tokens_embed.weight", 0.04),
            (Kind::Gpt2, 192, "wpe.weight", 0.02),
            (Kind::Gpt3, 192, "mlp.c_proj.weight", 0.01),
            (Kind::Lstm, 64, "wte.weight", 0.1),
            (Kind::Lstm, 64, "weight_hh", 0.072),
        ] {
            let std = measured_std(kind, d_model, ending);
            assert!((std / expected - 1.0).abs() < 0.05, "{kind:?} {ending}: {std}, expected {expected}");
        }
    }

    /// Whatever the position, a step of the same length turns each pair of waves by the same angle.
    #[test]
    fn sinusoidal_positions_are_as_like_as_they_are_near() {
        for (kind, d_model) in [(Kind::Gpt1, 16), (Kind::Gpt2, 15)] {
            let config = ModelConfig { d_model, context: 32, position_init: PositionInit::Sinusoidal, ..tiny(kind) };
            let slots = layout(&config);
            let (number, slot) = slots.iter().enumerate().find(|(_, slot)| is_positions(&slot.name)).unwrap();
            let values = values(&config, slot, number as u32, 1);
            let row = |position: usize| &values[position * d_model..][..d_model];
            let like = |a: usize, b: usize| row(a).iter().zip(row(b)).map(|(x, y)| x * y).sum::<f32>();
            for near in 1..6 {
                assert!(like(10, 10) > like(10, 10 + near), "{kind:?} {near}");
            }
            if d_model % 2 == 0 {
                assert!((like(3, 7) - like(20, 24)).abs() < 1e-5, "{kind:?}");
            }
            assert!(values.iter().all(|v| f64::from(v.abs()) <= SINUSOID_PEAK + 1e-6), "{kind:?}");
        }
    }

    #[test]
    fn only_forget_gates_begin_open() {
        let config = tiny(Kind::Lstm);
        let slots = layout(&config);
        let bias = values(&config, slots.iter().find(|s| s.name.ends_with(".bias")).unwrap(), 0, 1);
        assert_eq!(bias, [[0.0; 8], [1.0; 8], [0.0; 8], [0.0; 8]].concat());
    }

    #[test]
    fn gains_are_one_and_biases_zero() {
        let config = tiny(Kind::Gpt2);
        for slot in layout(&config).iter().filter(|s| s.shape.len() == 1) {
            let expected = if slot.name.ends_with(".weight") { 1.0 } else { 0.0 };
            assert!(values(&config, slot, 0, 1).iter().all(|&v| v == expected), "{}", slot.name);
        }
    }
}

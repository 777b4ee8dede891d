//! The data type of each tensor of a model, as llama-quantize chooses it for GPT-2 (`llama_tensor_get_type_impl` and
//! `tensor_type_fallback` in llama.cpp's `src/llama-quant.cpp`).

use candle_core::quantized::GgmlDType;
use std::fmt;
use std::str::FromStr;

/// How the weights of a model are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    /// 32 bits.
    F32,
    /// 16 bits, 10 of them for the fraction.
    F16,
    /// 16 bits, 7 of them for the fraction.
    Bf16,
    /// Blocks of 32 weights of 8 bits.
    Q8_0,
    /// Blocks of 256 weights of 4 to 6 bits.
    Q4KM,
}

/// All of them, by their names.
const FORMATS: [(&str, WeightFormat); 5] = [
    ("f32", WeightFormat::F32),
    ("f16", WeightFormat::F16),
    ("bf16", WeightFormat::Bf16),
    ("q8_0", WeightFormat::Q8_0),
    ("q4_k_m", WeightFormat::Q4KM),
];

impl FromStr for WeightFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = FORMATS.iter().find(|(name, _)| *name == text.to_lowercase());
        found
            .map(|(_, format)| *format)
            .ok_or_else(|| format!("must be one of {}", FORMATS.map(|(name, _)| name).join(", ")))
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORMATS.iter().find(|(_, format)| format == self).map_or("", |(name, _)| name))
    }
}

impl WeightFormat {
    /// `general.file_type`.
    pub fn file_type(self) -> i64 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Bf16 => 32,
        }
    }

    /// The data type that the tensor `name` of a model of `n_layer` layers is to have; `is_tied` where the output layer has
    /// the weights of the token embeddings. Its rows need not be whole blocks: see [`that_fits`].
    pub fn dtype(self, name: &str, n_layer: usize, is_tied: bool) -> GgmlDType {
        // llama.cpp's converter and llama-quantize keep positions, biases and gains as they are.
        let is_matrix = name.ends_with(".weight") && !name.contains("_norm") && name != "position_embd.weight";
        match self {
            _ if !is_matrix => GgmlDType::F32,
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::Bf16 => GgmlDType::BF16,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4KM if name == "output.weight" || is_tied && name == "token_embd.weight" => GgmlDType::Q6K,
            Self::Q4KM if is_sensitive(name) && uses_more_bits(name, n_layer) => GgmlDType::Q6K,
            Self::Q4KM => GgmlDType::Q4K,
        }
    }
}

/// Whether the tensor `name` gets more bits in some layers: values of the attention, and the end of the MLP.
fn is_sensitive(name: &str) -> bool {
    name.contains("attn_qkv") || name.contains("ffn_down")
}

/// Whether the layer of the tensor `name` is one of those that get more bits: the first and the last eighth, and every third.
fn uses_more_bits(name: &str, n: usize) -> bool {
    let layer = name.split('.').nth(1).and_then(|layer| layer.parse().ok());
    let is_chosen = |layer: usize| layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
    layer.is_some_and(is_chosen)
}

/// `dtype`, or what llama-quantize takes instead where rows of `columns` weights are not whole blocks.
pub fn that_fits(dtype: GgmlDType, columns: usize) -> GgmlDType {
    let fits = |dtype: GgmlDType| columns.is_multiple_of(dtype.block_size());
    if fits(dtype) {
        return dtype;
    }
    let smaller = match dtype {
        GgmlDType::Q2K | GgmlDType::Q3K => GgmlDType::Q4_0,
        GgmlDType::Q4K => GgmlDType::Q5_0,
        GgmlDType::Q5K => GgmlDType::Q5_1,
        GgmlDType::Q6K => GgmlDType::Q8_0,
        other => other,
    };
    if fits(smaller) { smaller } else { GgmlDType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the formula of llama.cpp's `use_more_bits`, for 12 layers: 12 / 8 = 1, 7 · 12 / 8 = 10. `llama_model_quantize` gives
    /// each tensor the same type.
    #[test]
    fn a_mixture_is_that_of_llama_quantize() {
        let dtype = |name: &str| WeightFormat::Q4KM.dtype(name, 12, true);
        assert_eq!(dtype("token_embd.weight"), GgmlDType::Q6K);
        assert_eq!(WeightFormat::Q4KM.dtype("token_embd.weight", 12, false), GgmlDType::Q4K);
        assert_eq!(dtype("position_embd.weight"), GgmlDType::F32);
        assert_eq!(dtype("blk.3.attn_qkv.weight"), GgmlDType::Q6K);
        assert_eq!(dtype("blk.4.attn_qkv.weight"), GgmlDType::Q4K);
        assert_eq!(dtype("blk.3.attn_output.weight"), GgmlDType::Q4K);
        assert_eq!(dtype("blk.3.attn_qkv.bias"), GgmlDType::F32);
        assert_eq!(dtype("blk.3.ffn_norm.weight"), GgmlDType::F32);
        let more: Vec<usize> =
            (0..12).filter(|layer| dtype(&format!("blk.{layer}.ffn_down.weight")) == GgmlDType::Q6K).collect();
        assert_eq!(more, [0, 3, 6, 9, 10, 11]);
    }

    #[test]
    fn rows_that_are_not_whole_blocks_get_a_type_that_fits() {
        assert_eq!(that_fits(GgmlDType::Q4K, 512), GgmlDType::Q4K);
        assert_eq!(that_fits(GgmlDType::Q4K, 192), GgmlDType::Q5_0);
        assert_eq!(that_fits(GgmlDType::Q5K, 192), GgmlDType::Q5_1);
        assert_eq!(that_fits(GgmlDType::Q6K, 192), GgmlDType::Q8_0);
        assert_eq!(that_fits(GgmlDType::Q8_0, 144), GgmlDType::F16);
        assert_eq!(that_fits(GgmlDType::Q6K, 144), GgmlDType::F16);
    }

    #[test]
    fn names_come_back() {
        for (name, format) in FORMATS {
            assert_eq!((name.parse::<WeightFormat>(), format.to_string()), (Ok(format), name.to_owned()));
        }
        assert!("q9".parse::<WeightFormat>().unwrap_err().contains("q4_k_m"));
    }
}

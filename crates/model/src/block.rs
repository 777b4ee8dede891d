//! One transformer block: attention, then an MLP, each with its residual sum and layer norm.

use crate::cache::Cache;
use crate::config::{Kind, ModelConfig};
use crate::gpt::{Pass, Weights};
use crate::params::block_name;
use candle_core::{Result, Tensor};
use ops::{
    Mask, attention, attention_weights, dropout, gelu, layer_norm, linear, merge_heads, self_attention, split_heads,
};

/// `x·weight + bias`, with the weight as `[in, out]`.
#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(weights: &Weights, name: &str) -> Result<Self> {
        Ok(Self { weight: weights.get(&format!("{name}.weight"))?, bias: weights.get(&format!("{name}.bias"))? })
    }

    /// `[N, in]` → `[N, out]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight, &self.bias)
    }
}

/// Layer norm with its gain and bias.
#[derive(Debug)]
pub(crate) struct Norm {
    gain: Tensor,
    bias: Tensor,
    eps: f32,
}

impl Norm {
    pub(crate) fn new(weights: &Weights, name: &str, config: &ModelConfig) -> Result<Self> {
        Ok(Self {
            gain: weights.get(&format!("{name}.weight"))?,
            bias: weights.get(&format!("{name}.bias"))?,
            eps: config.layer_norm_eps as f32,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.gain, &self.bias, self.eps)
    }
}

/// Block number `layer` of a model.
#[derive(Debug)]
pub struct Block {
    layer: usize,
    norm_first: bool,
    n_head: usize,
    mask: Mask,
    attention_dropout: f64,
    residual_dropout: f64,
    ln_1: Norm,
    c_attn: Linear,
    attn_proj: Linear,
    ln_2: Norm,
    c_fc: Linear,
    mlp_proj: Linear,
}

impl Block {
    pub(crate) fn new(config: &ModelConfig, weights: &Weights, layer: usize) -> Result<Self> {
        let name = |part: &str| format!("{}.{part}", block_name(layer));
        Ok(Self {
            layer,
            norm_first: config.kind != Kind::Gpt1,
            n_head: config.n_head,
            mask: config.mask(layer),
            attention_dropout: config.attention_dropout,
            residual_dropout: config.residual_dropout,
            ln_1: Norm::new(weights, &name("ln_1"), config)?,
            c_attn: Linear::new(weights, &name("attn.c_attn"))?,
            attn_proj: Linear::new(weights, &name("attn.c_proj"))?,
            ln_2: Norm::new(weights, &name("ln_2"), config)?,
            c_fc: Linear::new(weights, &name("mlp.c_fc"))?,
            mlp_proj: Linear::new(weights, &name("mlp.c_proj"))?,
        })
    }

    /// `x`: residual stream `[B, T, D]`, which the result is too. GPT-1 normalizes each sum (Radford et al. 2018, after
    /// Vaswani et al. 2017); GPT-2 and 3 normalize what each sublayer reads (Radford et al. 2019, §2.3).
    ///
    /// # Errors
    /// When the shapes do not fit, or `cache` has no room for `T` more tokens.
    pub(crate) fn forward(&self, x: &Tensor, pass: Pass, cache: Option<&mut Cache>) -> Result<Tensor> {
        if self.norm_first {
            let x = (x + self.attend(&self.ln_1.forward(x)?, pass, cache)?)?; // [B, T, D]
            &x + self.mlp(&self.ln_2.forward(&x)?, pass)? // [B, T, D]
        } else {
            let x = self.ln_1.forward(&(x + self.attend(x, pass, cache)?)?)?; // [B, T, D]
            self.ln_2.forward(&(&x + self.mlp(&x, pass)?)?) // [B, T, D]
        }
    }

    /// How much each token takes of each earlier one: `x` `[B, T, D]` → `[B, H, T, T]`, rows summing to 1.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(crate) fn attention_weights(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let read = if self.norm_first { self.ln_1.forward(x)? } else { x.clone() };
        let qkv = self.c_attn.forward(&read.reshape((b * t, d))?)?.reshape((b, t, 3 * d))?;
        let [queries, keys, _] = split_heads(&qkv, self.n_head)?; // [B, H, T, K]
        attention_weights(&queries, &keys, self.mask)
    }

    fn attend(&self, x: &Tensor, pass: Pass, cache: Option<&mut Cache>) -> Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let qkv = self.c_attn.forward(&x.reshape((b * t, d))?)?.reshape((b, t, 3 * d))?;
        let drop = pass.dropout(self.attention_dropout, self.site(0));
        let mixed = match cache {
            None => self_attention(&qkv, self.n_head, self.mask, drop)?, // [B, T, D]
            Some(cache) => {
                let [queries, keys, values] = split_heads(&qkv, self.n_head)?; // [B, H, T, K]
                let (layer, len, context) = cache.layer(self.layer);
                let (keys, values) = layer.extend(&keys, &values, len, context)?; // [B, H, past + T, K]
                match len {
                    0 => self_attention(&qkv, self.n_head, self.mask, drop)?,
                    _ => merge_heads(&attention(&queries, &keys, &values, self.mask, drop)?)?,
                }
            }
        };
        self.leave(&self.attn_proj.forward(&mixed.reshape((b * t, d))?)?.reshape((b, t, d))?, pass, self.site(1))
    }

    fn mlp(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let wide = gelu(&self.c_fc.forward(&x.reshape((b * t, d))?)?)?; // [B·T, 4·D]
        self.leave(&self.mlp_proj.forward(&wide)?.reshape((b, t, d))?, pass, self.site(2))
    }

    /// Dropout on the way back to the residual stream.
    fn leave(&self, x: &Tensor, pass: Pass, site: u32) -> Result<Tensor> {
        match pass.dropout(self.residual_dropout, site) {
            Some(at) => dropout(x, at),
            None => Ok(x.clone()),
        }
    }

    /// Number of this block's dropout place `place` in the model; 0 is the embeddings'.
    fn site(&self, place: u32) -> u32 {
        1 + 3 * self.layer as u32 + place
    }
}

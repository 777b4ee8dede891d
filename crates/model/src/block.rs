//! Block number `layer` of a model, from its configuration and weights.

use crate::config::ModelConfig;
use crate::layout::block_name;
use crate::params::Params;
use candle_core::Result;
use gptkit_ops::{Block, Linear, Norm};
use std::sync::Arc;

/// # Errors
/// When `params` are not those of a model of this shape.
pub(crate) fn block(config: &ModelConfig, params: &Params, layer: usize) -> Result<Block> {
    let name = |part: &str| format!("{}.{part}", block_name(layer));
    Ok(Block {
        norm_first: !config.kind.norms_sums(),
        n_head: config.n_head,
        mask: config.mask(layer),
        ln_1: norm(config, params, &name("ln_1"))?,
        c_attn: linear(params, &name("attn.c_attn"))?,
        attn_proj: linear(params, &name("attn.c_proj"))?,
        ln_2: norm(config, params, &name("ln_2"))?,
        c_fc: linear(params, &name("mlp.c_fc"))?,
        mlp_proj: linear(params, &name("mlp.c_proj"))?,
    })
}

/// The layer norm called `name`.
///
/// # Errors
/// When there is none.
pub(crate) fn norm(config: &ModelConfig, params: &Params, name: &str) -> Result<Norm> {
    Ok(Norm {
        gain: Arc::clone(params.get(&format!("{name}.weight"))?),
        bias: Arc::clone(params.get(&format!("{name}.bias"))?),
        eps: config.layer_norm_eps as f32,
    })
}

fn linear(params: &Params, name: &str) -> Result<Linear> {
    Ok(Linear {
        weight: Arc::clone(params.get(&format!("{name}.weight"))?),
        bias: Arc::clone(params.get(&format!("{name}.bias"))?),
    })
}

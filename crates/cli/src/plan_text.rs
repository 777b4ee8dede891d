//! Lines that the plans of all stages have.

use gptkit_data::progress::grouped;
use gptkit_model::{Kind, ModelConfig};

/// Two lines on a model: its architecture beside `name`, and its number of parameters.
pub(crate) fn shape(name: &str, m: &ModelConfig) -> String {
    let kind = match m.kind {
        Kind::Gpt1 => "GPT-1",
        Kind::Gpt2 => "GPT-2",
        Kind::Gpt3 => "GPT-3",
        Kind::Lstm => "LSTM",
        Kind::Bert => "BERT",
    };
    let heads = if m.kind == Kind::Lstm { String::new() } else { format!("{} heads · ", m.n_head) };
    format!(
        "{name:13}{kind} · {} layers · {heads}width {} · context {} · vocabulary {}\nparameters   {}\n",
        m.n_layer,
        m.d_model,
        m.context,
        m.vocab_size,
        grouped(m.n_params())
    )
}

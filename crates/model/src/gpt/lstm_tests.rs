//! The LSTM in the transformer's place.

use crate::config::Kind;
use crate::config::tests::tiny;
use crate::gpt::Gpt;
use crate::weights::Weights;
use crate::{Input, ModelConfig, Packing, Params, Pass};
use candle_core::{Device, Tensor};
use gptkit_ops::Precision;
use gptkit_ops::check::assert_close;

const TRAIN: Pass = Pass::Train { seed: 1, first_row: 0, recompute: false };

fn lstm(dropout: f64) -> (Gpt, Params) {
    let config = ModelConfig { embedding_dropout: dropout, residual_dropout: dropout, ..tiny(Kind::Lstm) };
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    (Gpt::new(&config, &params, Precision::F32).unwrap(), params)
}

fn tokens(rows: u32, t: u32) -> Tensor {
    let ids: Vec<u32> = (0..rows * t).map(|i| (i * 7 + i / 5) % 17).collect();
    Tensor::from_vec(ids, (rows as usize, t as usize), &Device::Cpu).unwrap()
}

#[test]
fn every_parameter_receives_a_gradient() {
    let (lstm, params) = lstm(0.1);
    let ids = tokens(2, 12);
    let input = Input::windows(&ids).unwrap();
    Weights::from(params.clone()).begin_update().backward(|| lstm.loss(&input, &ids, TRAIN, 1.0)).unwrap();
    for (name, parameter) in params.iter() {
        let gradient = parameter.gradient().unwrap_or_else(|| panic!("no gradient reaches {name}"));
        let largest = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(largest > 0.0, "{name} has a gradient of zeros");
    }
}

/// Each sequence of a packed batch as if it stood alone, and no token as if it saw a later one.
#[test]
fn a_token_is_read_after_those_of_its_sequence_alone() {
    let (lstm, _) = lstm(0.0);
    let ids: Vec<u32> = tokens(1, 12).flatten_all().unwrap().to_vec1().unwrap();
    let hidden = |sequences: &[&[u32]]| {
        let input = Input::ragged(sequences.iter().copied(), &Device::Cpu).unwrap();
        lstm.hidden(&input, Pass::Eval).unwrap()
    };
    let packed = hidden(&[&ids[..5], &ids[5..]]);
    assert_close("first", &packed.narrow(1, 0, 5).unwrap(), &hidden(&[&ids[..5]]), 1e-6);
    assert_close("second", &packed.narrow(1, 5, 7).unwrap(), &hidden(&[&ids[5..]]), 1e-6);
    assert_close("cut", &hidden(&[&ids[..4]]), &packed.narrow(1, 0, 4).unwrap(), 1e-6);
}

#[test]
fn dropout_belongs_to_the_row_not_to_the_batch() {
    let (lstm, _) = lstm(0.3);
    let ids = tokens(4, 6);
    let hidden = |from: usize, n: usize| {
        let pass = Pass::Train { seed: 3, first_row: 10 + from as u64, recompute: false };
        lstm.hidden(&Input::windows(&ids.narrow(0, from, n).unwrap()).unwrap(), pass).unwrap()
    };
    assert_close("rows 2 and 3", &hidden(2, 2), &hidden(0, 4).narrow(0, 2, 2).unwrap(), 1e-6);
}

/// One token after the other, and what a transformer alone can do.
#[test]
fn it_writes_but_does_not_attend() {
    let (lstm, params) = lstm(0.0);
    let ids: Vec<u32> = tokens(1, 9).flatten_all().unwrap().to_vec1().unwrap();
    let whole = lstm.logits(&Input::windows(&tokens(1, 9)).unwrap(), Pass::Eval).unwrap();
    let mut cache = lstm.cache();
    for (n, part) in [&ids[..5], &ids[5..6], &ids[6..]].into_iter().enumerate() {
        let next = lstm.next_logits(&Input::ragged([part], &Device::Cpu).unwrap(), &mut cache).unwrap();
        let end = [5, 6, 9][n];
        assert_close("next", &next, &whole.narrow(1, end - 1, 1).unwrap().squeeze(1).unwrap(), 1e-5);
    }
    let packing = Packing { precision: Precision::F32, quantized: Some(gptkit_ops::Quantized::Q8_0) };
    let refused = [lstm.attention(&tokens(1, 9)).map(drop), params.packed(lstm.config(), packing).map(drop)];
    for error in refused {
        assert!(error.unwrap_err().to_string().contains("does not support kind = \"lstm\""));
    }
    let error = lstm.hidden(&Input::windows(&tokens(1, 13)).unwrap(), Pass::Eval).unwrap_err().to_string();
    assert!(error.contains("13 tokens is longer than the context of 12"), "{error}");
}

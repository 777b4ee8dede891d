//! The same weights and tokens give the same logits, bit for bit, however the tokens are read.

use super::*;
use crate::config::Kind;
use crate::config::tests::tiny;
use crate::packing::Packing;
use gptkit_ops::Quantized;
use gptkit_ops::check::draw;

const CONTEXT: usize = 70;
/// Longer than a span of keys that attention weighs together, which is 256.
const LONG_CONTEXT: usize = 600;

/// A model of drawn weights. Heads are of `d_model / 2`; bands reach over more than a span of keys at long contexts.
fn model(kind: Kind, d_model: usize, context: usize, precision: Precision, to: Option<Quantized>) -> Gpt {
    let band = (kind == Kind::Gpt3).then_some(context / 2);
    let config = ModelConfig { d_model, context, band, ..tiny(kind) };
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    for (n, (_, parameter)) in params.iter().enumerate() {
        let noise = (draw(n as u64, parameter.var().dims()) * 0.3).unwrap();
        parameter.set(&(parameter.tensor(false) + noise).unwrap()).unwrap();
    }
    let params = params.packed(&config, Packing { precision, quantized: to }).unwrap();
    Gpt::new(&config, &params, precision).unwrap()
}

fn sequence(number: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((number * 5 + i * (number + 3) + i * i / 7) % 17) as u32).collect()
}

/// The bits of the logits after the new tokens of each row.
fn next(model: &Gpt, new: &[&[u32]], cache: &mut Cache) -> Vec<Vec<u32>> {
    let input = Input::ragged(new.iter().copied(), &Device::Cpu).unwrap();
    let logits: Vec<Vec<f32>> = model.next_logits(&input, cache).unwrap().to_vec2().unwrap();
    assert!(logits.iter().flatten().all(|x| x.is_finite()));
    logits.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
}

/// The bits of the logits after each token of `tokens`, which are read one by one.
fn one_by_one(model: &Gpt, tokens: &[u32]) -> Vec<Vec<u32>> {
    let mut cache = model.cache();
    tokens.iter().map(|token| next(model, &[&[*token]], &mut cache).remove(0)).collect()
}

fn check(what: &str, model: &Gpt, lens: &[usize]) {
    let tokens = sequence(0, model.config().context);
    let expected = one_by_one(model, &tokens);
    assert!((1..expected.len()).all(|n| expected[n] != expected[n - 1]), "{what}: logits depend on the token");
    for &len in lens {
        let whole = next(model, &[&tokens[..len]], &mut model.cache());
        assert_eq!(whole[0], expected[len - 1], "{what}: a prompt of {len} tokens as a whole");
    }
    for size in [3, 16, 17, 33] {
        let (mut cache, mut len) = (model.cache(), 0);
        for piece in tokens.chunks(size) {
            len += piece.len();
            assert_eq!(next(model, &[piece], &mut cache)[0], expected[len - 1], "{what}: {len} tokens by {size}");
        }
    }
    let mut cache = model.cache();
    next(model, &[&tokens[..]], &mut cache);
    for &prefix in lens.iter().rev().filter(|&&len| len < tokens.len()) {
        cache.truncate(prefix);
        // Of another sequence, and removed again.
        next(model, &[&sequence(1, (tokens.len() - prefix).min(9))], &mut cache);
        cache.truncate(prefix);
        let mut copy = cache.copies(&[0]).unwrap();
        let last = next(model, &[&tokens[prefix..]], &mut copy);
        assert_eq!(last[0], expected[tokens.len() - 1], "{what}: after a prefix of {prefix} tokens");
        let token = next(model, &[&tokens[prefix..prefix + 1]], &mut cache);
        assert_eq!(token[0], expected[prefix], "{what}: a token after a prefix of {prefix} tokens");
    }
}

/// `n` rows, of which each turn reads single tokens of some and pieces of others.
fn check_batch(what: &str, model: &Gpt, n: usize) {
    let all: Vec<Vec<u32>> = (0..n).map(|row| sequence(row, CONTEXT - row % 5)).collect();
    let mut cache = model.cache();
    let mut lens = vec![0; n];
    for turn in 0..4 {
        let count = |row: usize| [1, 1 + row % 3, 16 + row % 2, 33][(row + turn) % 4];
        let new: Vec<&[u32]> = (0..n).map(|row| &all[row][lens[row]..][..count(row)]).collect();
        let bits = next(model, &new, &mut cache);
        for (row, bits) in bits.iter().enumerate() {
            lens[row] += new[row].len();
            let alone = next(model, &[&all[row][..lens[row]]], &mut model.cache());
            assert_eq!(bits, &alone[0], "{what}: row {row} of {n} after {} tokens", lens[row]);
        }
    }
}

#[test]
fn tokens_give_the_same_bits_in_prompts_pieces_and_batches() {
    for precision in [Precision::F32, Precision::Bf16] {
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3, Kind::Lstm] {
            for d_model in [16, 48, 80] {
                let model = model(kind, d_model, CONTEXT, precision, None);
                let what = format!("{kind:?} of width {d_model} in {precision:?}");
                check(&what, &model, &(1..=CONTEXT).collect::<Vec<_>>());
                [2, 7, 34].into_iter().for_each(|n| check_batch(&what, &model, n));
            }
        }
    }
}

#[test]
fn tokens_give_the_same_bits_with_quantized_weights() {
    for precision in [Precision::F32, Precision::Bf16] {
        let (q8, q4) = (Some(Quantized::Q8_0), Some(Quantized::Q4K));
        // The same widths without quantization tell which of both is at fault.
        for (to, d_model) in [(None, 96), (None, 256), (q8, 96), (q8, 256), (q4, 256)] {
            let model = model(Kind::Gpt3, d_model, CONTEXT, precision, to);
            let what = format!("{to:?} of width {d_model} in {precision:?}");
            check(&what, &model, &[1, 2, 4, 5, 31, 32, 33, 69]);
            check_batch(&what, &model, 5);
        }
    }
}

#[test]
fn tokens_give_the_same_bits_at_long_contexts() {
    for precision in [Precision::F32, Precision::Bf16] {
        for kind in [Kind::Gpt2, Kind::Gpt3] {
            let model = model(kind, 80, LONG_CONTEXT, precision, None);
            let what = format!("{kind:?} in {precision:?}");
            check(&what, &model, &[100, 255, 256, 257, 400, 511, 512, 513, LONG_CONTEXT]);
        }
    }
}

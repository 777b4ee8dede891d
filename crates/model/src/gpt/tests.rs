use super::*;
use crate::config::Kind;
use crate::config::tests::tiny;
use crate::packing::Packing;
use crate::weights::Weights;
use gptkit_ops::Quantized;
use gptkit_ops::check::assert_close;

const KINDS: [Kind; 3] = [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3];
const TRANSFORMERS: [Kind; 4] = [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3, Kind::Bert];

fn windows(rows: u32, t: u32) -> Input {
    Input::windows(&tokens(rows, t)).unwrap()
}

fn tokens(rows: u32, t: u32) -> Tensor {
    let ids: Vec<u32> = (0..rows * t).map(|i| (i * 7 + i / 5) % 17).collect();
    Tensor::from_vec(ids, (rows as usize, t as usize), &Device::Cpu).unwrap()
}

fn params(config: &ModelConfig) -> Params {
    Params::init(config, 1, &Device::Cpu).unwrap()
}

fn model(config: &ModelConfig, params: &Params) -> Gpt {
    Gpt::reader(config, params, Precision::F32).unwrap()
}

const TRAIN: Pass = Pass::Train { seed: 1, first_row: 0, recompute: false };

#[test]
fn every_parameter_receives_a_gradient() {
    // One that gets none is a layer that silently never trains.
    for kind in TRANSFORMERS {
        let config = ModelConfig {
            embedding_dropout: 0.1,
            attention_dropout: 0.1,
            residual_dropout: 0.1,
            n_inner: (kind == Kind::Gpt2).then_some(12),
            tie_word_embeddings: kind == Kind::Bert,
            ..tiny(kind)
        };
        let params = params(&config);
        let loss = || model(&config, &params).loss(&windows(2, 12), &tokens(2, 12), TRAIN, 1.0);
        Weights::from(params.clone()).begin_update().backward(loss).unwrap();
        for (name, parameter) in params.iter() {
            let grad = parameter.gradient().unwrap_or_else(|| panic!("{kind:?}: no gradient reaches {name}"));
            let largest = grad.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(largest > 0.0, "{kind:?}: {name} has a gradient of zeros");
        }
    }
}

#[test]
fn recomputed_blocks_give_the_same_loss_and_gradients() {
    for kind in TRANSFORMERS {
        let config =
            ModelConfig { embedding_dropout: 0.1, attention_dropout: 0.1, residual_dropout: 0.1, ..tiny(kind) };
        let params = params(&config);
        let model = model(&config, &params);
        let ids = tokens(2, 12);
        let run = |recompute| {
            let pass = Pass::Train { seed: 1, first_row: 0, recompute };
            let loss = || model.loss(&Input::windows(&ids)?, &ids, pass, 0.5);
            let loss = Weights::from(params.clone()).begin_update().backward(loss).unwrap();
            (loss, params.iter().map(|(_, parameter)| parameter.gradient().unwrap()).collect::<Vec<_>>())
        };
        let ((loss, whole), (again, recomputed)) = (run(false), run(true));
        assert_close("loss", &again, &loss, 0.0);
        for ((a, b), (name, _)) in recomputed.iter().zip(&whole).zip(params.iter()) {
            assert_close(&format!("{kind:?} {name}"), a, b, 0.0);
        }
    }
}

#[test]
fn an_evaluation_keeps_no_graph() {
    let config = tiny(Kind::Gpt2);
    let logits = model(&config, &params(&config)).logits(&windows(2, 5), Pass::Eval).unwrap();
    assert!(!logits.track_op());
}

#[test]
fn attention_sums_to_one_and_keeps_to_its_mask() {
    for kind in TRANSFORMERS {
        let config = tiny(kind);
        let model = model(&config, &params(&config));
        let layers = model.attention(&tokens(1, 12)).unwrap();
        assert_eq!(layers.len(), 3);
        for (layer, weights) in layers.iter().enumerate() {
            let heads: Vec<Vec<Vec<f32>>> = weights.squeeze(0).unwrap().to_vec3().unwrap();
            for (i, row) in heads.iter().flat_map(|head| head.iter().enumerate()) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                let seen = config.mask(layer).visible(i);
                assert!(row.iter().enumerate().all(|(j, &w)| seen.contains(&j) == (w > 0.0)), "{kind:?} {layer} {i}");
            }
        }
    }
}

#[test]
fn logits_with_a_cache_equal_those_without() {
    for kind in KINDS {
        let config = tiny(kind);
        let model = model(&config, &params(&config));
        let ids = tokens(2, 12);
        let whole = model.logits(&Input::windows(&ids).unwrap(), Pass::Eval).unwrap();
        let mut cache = model.cache();
        let mut at = 0;
        for n in [5, 1, 1, 4, 1] {
            let new = Input::windows(&ids.narrow(1, at, n).unwrap()).unwrap();
            let next = model.next_logits(&new, &mut cache).unwrap();
            at += n;
            let expected = whole.narrow(1, at - 1, 1).unwrap().squeeze(1).unwrap();
            assert_close(&format!("{kind:?} after {at}"), &next, &expected, 1e-5);
        }
    }
}

/// Rows of `all` in a batch, and how many tokens of each it has read.
type Rows = Vec<(usize, usize)>;

/// Reads as many tokens more of `rows` as `counts` says, and compares with fresh passes over each row.
fn step((what, tolerance): (&str, f32), model: &Gpt, cache: &mut Cache, rows: &mut Rows, counts: &[usize]) {
    let all: Vec<Vec<u32>> = tokens(4, 12).to_vec2().unwrap();
    let new = rows.iter().zip(counts).map(|(&(row, len), count)| &all[row][len..len + count]);
    let next = model.next_logits(&Input::ragged(new, &Device::Cpu).unwrap(), cache).unwrap();
    rows.iter_mut().zip(counts).for_each(|((_, len), count)| *len += count);
    assert_eq!(cache.lens(), rows.iter().map(|row| row.1).collect::<Vec<_>>(), "{what}");
    for (n, &(row, len)) in rows.iter().enumerate() {
        let whole = Input::ragged([&all[row][..len]], &Device::Cpu).unwrap();
        let whole = model.logits(&whole, Pass::Eval).unwrap().squeeze(0).unwrap();
        let (next, expected) = (next.narrow(0, n, 1).unwrap(), whole.narrow(0, len - 1, 1).unwrap());
        assert_close(&format!("{what}: row {row} after {len}"), &next, &expected, tolerance);
    }
}

fn check_unequal_rows(what: &str, tolerance: f32, model: &Gpt, empty: impl Fn() -> Cache) {
    let step = |cache: &mut _, rows: &mut _, counts: &[_]| step((what, tolerance), model, cache, rows, counts);
    let (mut cache, mut rows) = (empty(), vec![(0, 0), (1, 0), (2, 0)]);
    for counts in [[5, 2, 7], [1, 1, 1], [2, 1, 3], [1, 4, 1]] {
        step(&mut cache, &mut rows, &counts);
    }
    cache.keep(&[2, 0, 0]).unwrap();
    cache.truncate(10);
    let mut rows = vec![(2, 10), (0, 9), (0, 9)];
    step(&mut cache, &mut rows, &[1, 1, 3]);
    let (mut other, mut others) = (empty(), vec![(3, 0), (1, 0)]);
    step(&mut other, &mut others, &[4, 6]);
    cache.append(other.copies(&[1, 0]).unwrap()).unwrap();
    let mut rows = vec![(3, 4), (1, 6)];
    step(&mut other, &mut rows, &[1, 2]);
    let mut last = cache.split_off(4).unwrap();
    assert_eq!((cache.lens(), last.lens()), (&[11, 10, 12, 6][..], &[4][..]), "{what}");
    step(&mut last, &mut vec![(3, 4)], &[2]);
    last.truncate(4);
    cache.append(last).unwrap();
    // Sequences that have no tokens yet, before and after others.
    let mut mixed = empty().with_empty(1);
    mixed.append(other.take_first().unwrap()).unwrap();
    mixed.append(empty().with_empty(2)).unwrap();
    let mut rows = vec![(2, 0), (3, 5), (0, 0), (1, 0)];
    step(&mut mixed, &mut rows, &[3, 1, 1, 2]);
    step(&mut mixed, &mut rows, &[1, 1, 1, 1]);
    step(&mut other, &mut vec![(1, 8)], &[2]);
    cache.keep(&[0, 1, 3, 4]).unwrap();
    let mut rows = vec![(2, 11), (0, 10), (1, 6), (3, 4)];
    step(&mut cache, &mut rows, &[1, 2, 1, 5]);
    let again = Input::ragged([&[1u32][..]; 4], &Device::Cpu).unwrap();
    let error = model.next_logits(&again, &mut cache).unwrap_err().to_string();
    assert!(error.contains("13 tokens is longer than the context of 12"), "{what}: {error}");
    let fewer = Input::ragged([&[1u32][..]], &Device::Cpu).unwrap();
    cache.truncate(3);
    let error = model.next_logits(&fewer, &mut cache).unwrap_err().to_string();
    assert!(error.contains("4 sequences received tokens of 1"), "{what}: {error}");
    let error = cache.keep(&[4]).unwrap_err().to_string();
    assert!(error.contains("4 sequences has no sequence 4"), "{what}: {error}");
    cache.truncate(0);
    step(&mut cache, &mut vec![(1, 0)], &[1]);
}

#[test]
fn a_cache_of_unequal_rows_equals_fresh_passes_on_every_device() {
    for kind in KINDS {
        let config = tiny(kind);
        let model = model(&config, &params(&config));
        check_unequal_rows(&format!("{kind:?}"), 1e-5, &model, || model.cache());
        let tensors = || Cache::of_tensors(config.n_layer, config.context, Precision::F32);
        check_unequal_rows(&format!("{kind:?} in tensors"), 1e-5, &model, tensors);
    }
}

fn packing(to: Quantized) -> Packing {
    Packing { precision: Precision::F32, quantized: Some(to) }
}

#[test]
fn a_cache_of_unequal_rows_serves_quantized_weights() {
    let config = ModelConfig { d_model: 256, ..tiny(Kind::Gpt2) };
    let packed = params(&config).packed(&config, packing(Quantized::Q8_0)).unwrap();
    let model = model(&config, &packed);
    // What products read is rounded to 8 bits too: the last bit of a sum may move it by one of them.
    check_unequal_rows("Q8_0", 0.02, &model, || model.cache());
}

#[test]
fn quantized_weights_stay_near_and_refuse_other_widths() {
    let config = ModelConfig { d_model: 256, ..tiny(Kind::Gpt2) };
    let exact = model(&config, &params(&config)).logits(&windows(2, 5), Pass::Eval).unwrap();
    let largest = exact.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    for (to, share) in [(Quantized::Q8_0, 0.03), (Quantized::Q4K, 0.3)] {
        let gpt = model(&config, &params(&config).packed(&config, packing(to)).unwrap());
        let near = gpt.logits(&windows(2, 5), Pass::Eval).unwrap();
        assert_close(&format!("{to:?}"), &near, &exact, share * largest);
        let off = (&near - &exact).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off > 0.0, "{to:?} changed nothing");
    }
    let config = tiny(Kind::Gpt2);
    let error = Params::init(&config, 1, &Device::Cpu).unwrap().packed(&config, packing(Quantized::Q8_0));
    assert!(error.unwrap_err().to_string().contains("width of 8 cannot be divided into blocks of 32"));
}

#[test]
fn the_cache_keeps_the_rows_it_is_told_to() {
    let config = tiny(Kind::Gpt2);
    let model = model(&config, &params(&config));
    let ids = tokens(3, 6);
    let mut cache = model.cache();
    model.next_logits(&Input::windows(&ids.narrow(1, 0, 5).unwrap()).unwrap(), &mut cache).unwrap();
    cache.keep(&[2, 0]).unwrap();
    let rows = Tensor::new(&[2u32, 0], &Device::Cpu).unwrap();
    let picked = ids.index_select(&rows, 0).unwrap();
    let new = Input::windows(&picked.narrow(1, 5, 1).unwrap()).unwrap();
    let next = model.next_logits(&new, &mut cache).unwrap();
    let whole = model
        .logits(&Input::windows(&picked).unwrap(), Pass::Eval)
        .unwrap()
        .narrow(1, 5, 1)
        .unwrap()
        .squeeze(1)
        .unwrap();
    assert_close("rows 2 and 0", &next, &whole, 1e-5);
}

#[test]
fn a_window_over_the_context_is_refused() {
    let config = tiny(Kind::Gpt2);
    let model = model(&config, &params(&config));
    let error = model.logits(&windows(1, 13), Pass::Eval).unwrap_err();
    assert!(error.to_string().contains("13 tokens is longer than the context of 12"), "{error}");
}

#[test]
fn only_a_masked_model_sees_later_tokens() {
    let ids: Vec<u32> = tokens(1, 12).flatten_all().unwrap().to_vec1().unwrap();
    let mut other = ids.clone();
    other[11] = (other[11] + 1) % 17;
    for kind in TRANSFORMERS {
        let config = tiny(kind);
        let model = model(&config, &params(&config));
        // Alone, and after another sequence of the same window, which nothing sees.
        for stem in [&[][..], &[3, 4]] {
            let first = |ids: &[u32]| {
                let sequences = [stem, ids].into_iter().filter(|s| !s.is_empty());
                let input = Input::ragged(sequences, &Device::Cpu).unwrap();
                model.logits(&input, Pass::Eval).unwrap().narrow(1, 0, stem.len() + 5).unwrap()
            };
            let change = (first(&ids) - first(&other)).unwrap().abs().unwrap();
            let most = |x: Tensor| x.max_all().unwrap().to_scalar::<f32>().unwrap();
            assert_eq!(most(change.narrow(1, stem.len(), 5).unwrap()) > 1e-5, kind == Kind::Bert, "{kind:?}");
            if !stem.is_empty() {
                assert_eq!(most(change.narrow(1, 0, stem.len()).unwrap()), 0.0, "{kind:?}");
            }
        }
    }
}

#[test]
fn a_masked_model_does_not_write() {
    let config = tiny(Kind::Bert);
    let params = params(&config);
    let error = Gpt::new(&config, &params, Precision::F32).unwrap_err().to_string();
    assert!(error.contains("does not support kind = \"bert\""), "{error}");
    let model = model(&config, &params);
    let error = model.next_logits(&windows(1, 3), &mut model.cache()).unwrap_err().to_string();
    assert!(error.contains("bidirectional attention"), "{error}");
}

#[test]
fn a_fresh_model_knows_nothing() {
    // The loss of first weights is near the logarithm of the vocabulary, but for a token's own repetition: tied
    // embeddings make that a little likelier.
    let ids: Vec<Vec<u32>> = tokens(3, 12).to_vec2().unwrap();
    let others: Vec<u32> = ids.concat().iter().map(|id| (id + 7) % 17).collect();
    let targets = Tensor::from_vec(others, (3, 12), &Device::Cpu).unwrap();
    for kind in KINDS {
        let config = ModelConfig { init_std: Some(0.02), ..tiny(kind) };
        let model = model(&config, &params(&config));
        let loss = model.loss(&windows(3, 12), &targets, Pass::Eval, 1.0).unwrap().to_scalar::<f32>().unwrap();
        assert!((loss - 17f32.ln()).abs() < 0.1, "{kind:?}: {loss}");
    }
}

#[test]
fn dropout_belongs_to_the_row_not_to_the_batch() {
    let config = ModelConfig { attention_dropout: 0.3, residual_dropout: 0.3, ..tiny(Kind::Gpt2) };
    let model = model(&config, &params(&config));
    let ids = tokens(4, 6);
    let logits = |from: usize, n: usize| {
        let pass = Pass::Train { seed: 3, first_row: 10 + from as u64, recompute: false };
        model.logits(&Input::windows(&ids.narrow(0, from, n).unwrap()).unwrap(), pass).unwrap()
    };
    assert_close("rows 2 and 3", &logits(2, 2), &logits(0, 4).narrow(0, 2, 2).unwrap(), 1e-6);
}

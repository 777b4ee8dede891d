use super::*;
use crate::check::{assert_close, draw};
use crate::cpu::{Cpu, Level};
use crate::dropout::Dropout;
use crate::gradient_watch::watch_gradients;
use crate::linear::Linear;
use crate::parameter::Parameter;
use candle_core::{Device, Var};
use proptest::collection::vec;
use proptest::prelude::*;

const D: usize = 12;

struct Model {
    trunk: Arc<Trunk>,
    parameters: Vec<(String, Arc<Parameter>)>,
}

impl Model {
    fn parameter(&mut self, name: &str, shape: &[usize], mean: f64) -> Arc<Parameter> {
        let values = ((draw(self.parameters.len() as u64, shape) * 0.3).unwrap() + mean).unwrap();
        let parameter = Arc::new(Parameter::new(&values).unwrap());
        self.parameters.push((name.to_owned(), Arc::clone(&parameter)));
        parameter
    }

    fn norm(&mut self) -> Norm {
        Norm { gain: self.parameter("gain", &[D], 1.0), bias: self.parameter("norm's bias", &[D], 0.0), eps: 1e-5 }
    }

    fn linear(&mut self, width: usize, out: usize) -> Linear {
        Linear { weight: self.parameter("weight", &[width, out], 0.0), bias: self.parameter("bias", &[out], 0.0) }
    }
}

/// Three blocks, every second banded as in GPT-3, of drawn weights.
fn model(norm_first: bool) -> Model {
    let mut model = Model { trunk: Arc::new(Trunk::new(Vec::new(), None)), parameters: Vec::new() };
    let blocks = (0..3)
        .map(|layer| Block {
            norm_first,
            n_head: 2,
            mask: if layer % 2 == 1 { Mask::Banded { width: 4 } } else { Mask::Causal },
            ln_1: model.norm(),
            c_attn: model.linear(D, 3 * D),
            attn_proj: model.linear(D, D),
            ln_2: model.norm(),
            c_fc: model.linear(D, 4 * D),
            mlp_proj: model.linear(4 * D, D),
        })
        .collect();
    let ln_f = norm_first.then(|| model.norm());
    model.trunk = Arc::new(Trunk::new(blocks, ln_f));
    model
}

fn windows(b: usize, t: usize) -> Arc<Sequences> {
    Arc::new(Sequences::windows(b, t))
}

fn drops() -> Vec<DropoutSites> {
    let at = |site| Some(Dropout { p: 0.2, seed: 7, site, first_row: 3 });
    (0..3)
        .map(|l| DropoutSites {
            attention: at(3 * l),
            attended: at(3 * l + 1),
            mlp: at(3 * l + 2),
            ..DropoutSites::default()
        })
        .collect()
}

type Forward = fn(&Arc<Trunk>, &Tensor, &Arc<Sequences>, Precision, &[DropoutSites], SaveForBackward) -> Result<Tensor>;

/// The CPU's loops, and the path of other devices.
const PATHS: [Forward; 2] = [Trunk::forward, device::trunk::forward];

/// The one proof that covers a whole model: output and every gradient, with and without dropout, kept and made again.
#[test]
fn the_loops_agree_with_candles_operations_forward_and_backward() {
    for norm_first in [true, false] {
        let Model { trunk, parameters } = model(norm_first);
        let (x, dy) = (Var::from_tensor(&draw(90, &[2, 7, D])).unwrap(), draw(91, &[2, 7, D]));
        for drops in [vec![], drops()] {
            let plain = trunk.plain(x.as_tensor(), &windows(2, 7), &drops, true).unwrap();
            let grads = (&plain * &dy).unwrap().sum_all().unwrap().backward().unwrap();
            let saved = [SaveForBackward::All, SaveForBackward::Inputs];
            for (forward, keep) in PATHS.into_iter().flat_map(|forward| saved.map(|keep| (forward, keep))) {
                let fast = forward(&trunk, x.as_tensor(), &windows(2, 7), Precision::F32, &drops, keep).unwrap();
                assert_close("y", &fast, &plain, 2e-5);
                let fast_grads = (&fast * &dy).unwrap().sum_all().unwrap().backward().unwrap();
                assert_close("dx", fast_grads.get(&x).unwrap(), grads.get(&x).unwrap(), 1e-4);
                for (name, parameter) in &parameters {
                    let gradient = parameter.gradient().unwrap_or_else(|| panic!("none reaches {name}"));
                    assert_close(name, &gradient, grads.get(parameter.var()).unwrap(), 2e-4);
                    parameter.clear_gradient();
                }
            }
            for forward in PATHS {
                let keep = SaveForBackward::Nothing;
                let alone = forward(&trunk, x.as_tensor(), &windows(2, 7), Precision::F32, &drops, keep).unwrap();
                assert_close("without a graph", &alone, &plain, 2e-5);
                assert!(!alone.track_op());
            }
        }
    }
}

/// Output and gradients of both paths differ by a millionth of their size at most, since they add in other orders; by two where
/// the processor rounds each product before it adds it.
#[test]
fn the_path_of_other_devices_computes_what_the_cpus_loops_do() {
    let most = if Cpu::get().level == Level::Portable { 2e-6 } else { 1e-6 };
    let length = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    for (norm_first, drops) in [true, false].into_iter().flat_map(|first| [(first, vec![]), (first, drops())]) {
        let Model { trunk, parameters } = model(norm_first);
        let (x, dy) = (Var::from_tensor(&draw(90, &[2, 7, D])).unwrap(), draw(91, &[2, 7, D]));
        let [expected, found] = PATHS.map(|forward| {
            let saved = SaveForBackward::All;
            let y = forward(&trunk, x.as_tensor(), &windows(2, 7), Precision::F32, &drops, saved).unwrap();
            let grads = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
            let mut results = vec![("y".to_owned(), y.detach()), ("dx".to_owned(), grads.get(&x).unwrap().clone())];
            for (name, parameter) in &parameters {
                results.push((name.clone(), parameter.gradient().unwrap()));
                parameter.clear_gradient();
            }
            results
        });
        for ((name, expected), (_, found)) in expected.iter().zip(&found) {
            let apart = length(&(expected - found).unwrap()) / length(expected);
            assert!(apart <= most, "{name}: {apart:e}");
        }
    }
}

/// bf16 rounds what products read to 8 bits: a few parts in a hundred of the largest, never another sign of the whole.
#[test]
fn bf16_stays_near_f32() {
    for (norm_first, forward) in [true, false].into_iter().flat_map(|first| PATHS.map(|forward| (first, forward))) {
        let Model { trunk, parameters } = model(norm_first);
        let (x, dy) = (Var::from_tensor(&draw(90, &[2, 7, D])).unwrap(), draw(91, &[2, 7, D]));
        let gradients = |precision| {
            let y = forward(&trunk, x.as_tensor(), &windows(2, 7), precision, &[], SaveForBackward::All).unwrap();
            let grads = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
            let taken: Vec<Tensor> = parameters.iter().map(|(_, p)| p.gradient().unwrap()).collect();
            parameters.iter().for_each(|(_, p)| p.clear_gradient());
            (y, grads.get(&x).unwrap().clone(), taken)
        };
        let (exact, rounded) = (gradients(Precision::F32), gradients(Precision::Bf16));
        let near = |name: &str, a: &Tensor, b: &Tensor| {
            let largest = b.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert_close(name, a, b, 0.05 * largest);
        };
        near("y", &rounded.0, &exact.0);
        near("dx", &rounded.1, &exact.1);
        for (((name, _), a), b) in parameters.iter().zip(&rounded.2).zip(&exact.2) {
            near(name, a, b);
        }
    }
}

#[test]
fn tokens_one_by_one_give_what_they_give_together() {
    for norm_first in [true, false] {
        let Model { trunk, .. } = model(norm_first);
        let x = draw(90, &[2, 9, D]);
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 0.1)] {
            let whole = trunk.forward(&x, &windows(2, 9), precision, &[], SaveForBackward::Nothing).unwrap();
            let mut cache = Cache::new(3, 9, precision, &Device::Cpu);
            let mut at = 0;
            for n in [4, 1, 1, 3] {
                let y = trunk.step(&x.narrow(1, at, n).unwrap(), &windows(2, n), &mut cache).unwrap();
                assert_close("y", &y, &whole.narrow(1, at, n).unwrap(), tolerance);
                at += n;
            }
            let error = trunk.step(&x.narrow(1, 0, 1).unwrap(), &windows(2, 1), &mut cache).unwrap_err();
            assert!(error.to_string().contains("cannot hold 1 more after 9"), "{error}");
        }
    }
}

/// What is done to a batch.
#[derive(Debug, Clone)]
enum Deed {
    Step(Vec<usize>),
    Keep(Vec<usize>),
    Append(Vec<usize>),
    Truncate(usize),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        5 => vec(1usize..4, 8).prop_map(Deed::Step),
        1 => vec(0usize..8, 0..5).prop_map(Deed::Keep),
        1 => vec(0usize..2, 1..3).prop_map(Deed::Append),
        1 => (0usize..9).prop_map(Deed::Truncate),
    ];
    vec(deed, 1..10)
}

/// Does `deeds` to a batch in `empty()`, and compares each step with whole passes over its sequences.
fn check_deeds(trunk: &Arc<Trunk>, deeds: &[Deed], tolerance: f32, empty: impl Fn() -> Cache) {
    const CONTEXT: usize = 11;
    let mut seed = 0;
    let mut numbers = |n: usize| {
        seed += 1;
        draw(seed, &[n * D]).to_vec1::<f32>().unwrap()
    };
    let whole = |x: &[f32]| {
        let t = x.len() / D;
        let x = Tensor::from_slice(x, (1, t, D), &Device::Cpu).unwrap();
        trunk.forward(&x, &windows(1, t), Precision::F32, &[], SaveForBackward::Nothing).unwrap()
    };
    let step = |cache: &mut Cache, new: &[Vec<f32>]| {
        let n = new.concat().len() / D;
        let starts = new.iter().scan(0, |at, x| Some(std::mem::replace(at, *at + (x.len() / D) as u32)));
        let starts: Vec<u32> = starts.collect();
        let sequences = Sequences::packed(n, [&*starts]).unwrap();
        trunk.step(&Tensor::from_vec(new.concat(), (1, n, D), &Device::Cpu).unwrap(), &sequences, cache).unwrap()
    };
    let mut others = empty();
    let other = [numbers(3), numbers(5)];
    step(&mut others, &other);
    let (mut cache, mut rows) = (empty(), Vec::<Vec<f32>>::new());
    for deed in deeds {
        match deed {
            Deed::Step(counts) => {
                if rows.is_empty() {
                    rows = vec![Vec::new(); 3];
                }
                rows.truncate(8);
                if cache.lens().len() > 8 {
                    cache.keep(&[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
                }
                if rows.iter().zip(counts).any(|(row, count)| row.len() / D + count > CONTEXT) {
                    continue;
                }
                let new: Vec<_> = rows.iter().zip(counts).map(|(_, &count)| numbers(count)).collect();
                let y = step(&mut cache, &new);
                let mut at = 0;
                for (row, new) in rows.iter_mut().zip(new) {
                    row.extend(&new);
                    let (t, n) = (row.len() / D, new.len() / D);
                    let expected = whole(row).narrow(1, t - n, n).unwrap();
                    assert_close("y", &y.narrow(1, at, n).unwrap(), &expected, tolerance);
                    at += n;
                }
            }
            Deed::Keep(_) | Deed::Append(_) | Deed::Truncate(_) if rows.is_empty() => {}
            Deed::Keep(numbers) => {
                let numbers: Vec<u32> = numbers.iter().map(|n| (n % rows.len()) as u32).collect();
                cache.keep(&numbers).unwrap();
                rows = numbers.iter().map(|&n| rows[n as usize].clone()).collect();
            }
            Deed::Append(numbers) => {
                let numbers: Vec<u32> = numbers.iter().map(|&n| n as u32).collect();
                cache.append(others.copies(&numbers).unwrap()).unwrap();
                rows.extend(numbers.iter().map(|&n| other[n as usize].clone()));
            }
            Deed::Truncate(len) => {
                cache.truncate(*len);
                rows.iter_mut().for_each(|row| row.truncate(len * D));
                rows.retain(|row| !row.is_empty());
            }
        }
        assert_eq!(cache.lens(), rows.iter().map(|row| row.len() / D).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_batch_of_any_past_goes_on_as_each_sequence_alone(deeds in deeds(), norm_first: bool) {
        let Model { trunk, .. } = model(norm_first);
        check_deeds(&trunk, &deeds, 2e-5, || Cache::new(3, 11, Precision::F32, &Device::Cpu));
        check_deeds(&trunk, &deeds, 2e-5, || Cache::of_tensors(3, 11, Precision::F32));
        check_deeds(&trunk, &deeds, 0.15, || Cache::new(3, 11, Precision::Bf16, &Device::Cpu));
    }
}

#[test]
fn what_stays_is_not_moved_and_copies_share_what_neither_changes() {
    let Model { trunk, .. } = model(true);
    let mut cache = Cache::new(3, 1000, Precision::F32, &Device::Cpu);
    let places = |cache: &Cache| {
        let LayerCaches::F32(pasts) = &cache.layers else { panic!("on the CPU") };
        pasts[0].places()
    };
    trunk.step(&draw(1, &[3, 60, D]), &windows(3, 60), &mut cache).unwrap();
    let first = places(&cache);
    for n in 0..9 {
        trunk.step(&draw(n, &[3, 1, D]), &windows(3, 1), &mut cache).unwrap();
    }
    let held = places(&cache);
    assert!(held.iter().flatten().all(|pieces| pieces.len() == 2), "{held:?}, for 69 tokens");
    assert!(held.iter().flatten().zip(first.iter().flatten()).all(|(now, before)| now[0] == before[0]));
    cache.keep(&[2, 0, 2]).unwrap();
    assert_eq!(places(&cache), [held[2].clone(), held[0].clone(), held[2].clone()]);
    trunk.step(&draw(9, &[3, 1, D]), &windows(3, 1), &mut cache).unwrap();
    let [one, _, other] = &places(&cache)[..] else { panic!("three rows") };
    assert!(one.iter().zip(other).all(|(one, other)| one[0] == other[0] && one[1] != other[1]));
}

#[test]
fn an_empty_batch_is_no_trouble() {
    let Model { trunk, .. } = model(true);
    let x = Tensor::zeros((0, 7, D), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert_eq!(
        trunk.forward(&x, &windows(0, 7), Precision::F32, &[], SaveForBackward::Nothing).unwrap().dims(),
        [0, 7, D]
    );
}

/// Of two passes, which share blocks, the one that goes back last completes gradients. Beside candle's operations, nothing is
/// complete before the end.
#[test]
fn gradients_are_reported_block_by_block_as_they_are_complete() {
    let model = model(true);
    let x = Var::from_tensor(&draw(1, &[1, 5, D])).unwrap();
    let pass = |keep| model.trunk.forward(x.as_tensor(), &windows(1, 5), Precision::F32, &[], keep).unwrap();
    let plain = || model.trunk.plain(x.as_tensor(), &windows(1, 5), &[], true).unwrap();
    let blocks = |f: &dyn Fn() -> Tensor| -> Vec<usize> {
        let (complete, received) = std::sync::mpsc::channel();
        watch_gradients(complete, || f().sum_all().unwrap().backward().unwrap());
        let found: Vec<Arc<Parameter>> = received.into_iter().collect();
        let block_of = |one: &Arc<Parameter>| {
            let has = |block: &Block| block.parameters().into_iter().any(|parameter| Arc::ptr_eq(parameter, one));
            model.trunk.blocks.iter().position(has).unwrap()
        };
        assert!(found.len().is_multiple_of(12));
        found.chunks(12).map(|of_block| block_of(&of_block[0])).collect()
    };
    for path in PATHS {
        for keep in [SaveForBackward::All, SaveForBackward::Inputs] {
            let pass = || path(&model.trunk, x.as_tensor(), &windows(1, 5), Precision::F32, &[], keep).unwrap();
            assert_eq!(blocks(&pass), [2, 1, 0]);
        }
    }
    assert_eq!(blocks(&|| (pass(SaveForBackward::All) * pass(SaveForBackward::All)).unwrap()), [2, 1, 0]);
    assert_eq!(blocks(&|| (pass(SaveForBackward::All) * pass(SaveForBackward::Nothing)).unwrap()), [2, 1, 0]);
    assert_eq!(blocks(&|| (pass(SaveForBackward::All) * plain()).unwrap()), [0; 0]);
}

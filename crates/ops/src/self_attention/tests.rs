use super::*;
use crate::check::{assert_close, assert_gradient, draw};
use crate::sequence_head::{BLOCK, SPAN};
use candle_core::{Device, Var};

const MASKS: [Mask; 5] =
    [Mask::Causal, Mask::Banded { width: 1 }, Mask::Banded { width: 3 }, Mask::Banded { width: 100 }, Mask::Full];
const DROP: Dropout = Dropout { p: 0.2, seed: 1, site: 0, first_row: 3 };

fn numbers(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Mixed values and gradient of the projection by the loops.
fn run(qkv: &Tensor, dmixed: &Tensor, n_head: usize, mask: Mask, drop: Option<Dropout>) -> (Tensor, Tensor) {
    let (b, t, _) = qkv.dims3().unwrap();
    run_packed(Precision::F32, qkv, dmixed, n_head, mask, &Sequences::windows(b, t), drop)
}

fn run_packed(
    precision: Precision,
    qkv: &Tensor,
    dmixed: &Tensor,
    n_head: usize,
    mask: Mask,
    sequences: &Sequences,
    drop: Option<Dropout>,
) -> (Tensor, Tensor) {
    let (b, t, width) = qkv.dims3().unwrap();
    let attention = SelfAttention { sequences, n_head, mask, drop };
    let (mut mixed, mut sums) = (vec![f32::NAN; b * t * width / 3], vec![f32::NAN; b * n_head * t]);
    let qkv = numbers(qkv);
    attention.forward(precision, &qkv, &mut mixed, &mut sums);
    let mut dqkv = vec![f32::NAN; qkv.len()];
    attention.backward(precision, &qkv, (&mixed, &numbers(dmixed)), &sums, &mut dqkv);
    let tensor = |x: Vec<f32>, width: usize| Tensor::from_vec(x, (b, t, width), &Device::Cpu).unwrap();
    (tensor(mixed, width / 3), tensor(dqkv, width))
}

/// Over several blocks, with a last one that is not full; heads of several sizes.
#[test]
fn the_loops_agree_with_candles_operations_forward_and_backward() {
    for (t, d, n_head) in [(2 * BLOCK + 5, 8, 2), (1, 6, 2), (40, 66, 2), (BLOCK, 64, 1)] {
        let qkv = Var::from_tensor(&(draw(1, &[2, t, 3 * d]) * 2.0).unwrap()).unwrap();
        let dmixed = draw(2, &[2, t, d]);
        for mask in MASKS {
            for drop in [None, Some(DROP)] {
                let plain = self_attention(qkv.as_tensor(), n_head, mask, &Sequences::windows(2, t), drop).unwrap();
                let grads = (&plain * &dmixed).unwrap().sum_all().unwrap().backward().unwrap();
                let (mixed, dqkv) = run(qkv.as_tensor(), &dmixed, n_head, mask, drop);
                assert_close("mixed", &mixed, &plain, 1e-5);
                assert_close("dqkv", &dqkv, grads.get(&qkv).unwrap(), 1e-4);
            }
        }
    }
}

/// Keys of one block of queries in several spans, of which a query may see none, or a part, or all.
#[test]
fn spans_add_up() {
    let t = 2 * SPAN + 5;
    let qkv = Var::from_tensor(&(draw(1, &[1, t, 3 * 8]) * 2.0).unwrap()).unwrap();
    let dmixed = draw(2, &[1, t, 8]);
    for mask in [Mask::Causal, Mask::Banded { width: SPAN }, Mask::Banded { width: SPAN + 50 }, Mask::Full] {
        for drop in [None, Some(DROP)] {
            let plain = self_attention(qkv.as_tensor(), 2, mask, &Sequences::windows(1, t), drop).unwrap();
            let grads = (&plain * &dmixed).unwrap().sum_all().unwrap().backward().unwrap();
            let (mixed, dqkv) = run(qkv.as_tensor(), &dmixed, 2, mask, drop);
            assert_close("mixed", &mixed, &plain, 1e-5);
            assert_close("dqkv", &dqkv, grads.get(&qkv).unwrap(), 2e-4);
        }
    }
}

/// Sequences within a block of queries, over several, and of one token; with dropout the plain path draws the same mask.
#[test]
fn packed_sequences_attend_within_themselves() {
    let t = BLOCK + 40;
    let starts: [&[u32]; 2] = [&[0, 1, 30, BLOCK as u32 + 3], &[0, 77]];
    let packed = Sequences::packed(t, starts).unwrap();
    let qkv = Var::from_tensor(&(draw(1, &[2, t, 24]) * 2.0).unwrap()).unwrap();
    let dmixed = draw(2, &[2, t, 8]);
    for mask in MASKS {
        for drop in [None, Some(DROP)] {
            let plain = self_attention(qkv.as_tensor(), 2, mask, &packed, drop).unwrap();
            let grads = (&plain * &dmixed).unwrap().sum_all().unwrap().backward().unwrap();
            let (mixed, dqkv) = run_packed(Precision::F32, qkv.as_tensor(), &dmixed, 2, mask, &packed, drop);
            assert_close("mixed", &mixed, &plain, 1e-5);
            assert_close("dqkv", &dqkv, grads.get(&qkv).unwrap(), 1e-4);
        }
        let (mixed, dqkv) = run_packed(Precision::F32, qkv.as_tensor(), &dmixed, 2, mask, &packed, None);
        for (row, tokens) in [(0, 1..30), (0, BLOCK + 3..t), (1, 0..77)] {
            let cut = |x: &Tensor| x.narrow(0, row, 1).unwrap().narrow(1, tokens.start, tokens.len()).unwrap();
            let alone = run(&cut(&qkv).contiguous().unwrap(), &cut(&dmixed).contiguous().unwrap(), 2, mask, None);
            assert_close("alone", &alone.0, &cut(&mixed), 1e-6);
            assert_close("gradient alone", &alone.1, &cut(&dqkv), 1e-5);
        }
    }
}

/// A stem within a block and over several spans, none, branches of one token and over several blocks: as the plain
/// path, and each branch as if it stood alone after its stem.
#[test]
fn branches_attend_to_their_stem_and_themselves() {
    let sequences: [(usize, &[usize]); 4] = [(SPAN + 30, &[1, BLOCK + 9, 20]), (0, &[7, 3]), (5, &[2]), (40, &[3, 4])];
    let tree = Sequences::branching(sequences).unwrap();
    let t = tree.window();
    let qkv = Var::from_tensor(&(draw(1, &[1, t, 24]) * 2.0).unwrap()).unwrap();
    let dmixed = draw(2, &[1, t, 8]);
    let rows = |x: &Tensor, ranges: &[Range<usize>]| {
        let parts: Vec<Tensor> = ranges.iter().map(|r| x.narrow(1, r.start, r.len()).unwrap()).collect();
        Tensor::cat(&parts, 1).unwrap()
    };
    for mask in [Mask::Causal, Mask::Banded { width: 3 }, Mask::Banded { width: SPAN }, Mask::Full] {
        for drop in [None, Some(DROP)] {
            let plain = self_attention(qkv.as_tensor(), 2, mask, &tree, drop).unwrap();
            let grads = (&plain * &dmixed).unwrap().sum_all().unwrap().backward().unwrap();
            let (mixed, dqkv) = run_packed(Precision::F32, qkv.as_tensor(), &dmixed, 2, mask, &tree, drop);
            assert_close("mixed", &mixed, &plain, 1e-5);
            assert_close("dqkv", &dqkv, grads.get(&qkv).unwrap(), 2e-4);
        }
        if mask == Mask::Full {
            continue; // alone, a stem would see what comes after it
        }
        let (mixed, dqkv) = run_packed(Precision::F32, qkv.as_tensor(), &dmixed, 2, mask, &tree, None);
        let mut stems = Tensor::zeros((1, t, 24), candle_core::DType::F32, &Device::Cpu).unwrap();
        for (n, (stem, lengths)) in sequences.iter().enumerate() {
            let mut start = tree.get(n).start + stem;
            let stem = tree.get(n).start..start;
            for (i, length) in lengths.iter().enumerate() {
                let own = start..start + length;
                start = own.end;
                // The stem's own output counts once.
                let shared = rows(&dmixed, std::slice::from_ref(&stem));
                let shared = if i == 0 { shared } else { shared.zeros_like().unwrap() };
                let d = Tensor::cat(&[shared, rows(&dmixed, std::slice::from_ref(&own))], 1).unwrap();
                let (alone, dalone) = run(&rows(&qkv, &[stem.clone(), own.clone()]), &d, 2, mask, None);
                let last = stem.len()..stem.len() + length;
                assert_close(
                    "alone",
                    &rows(&alone, std::slice::from_ref(&last)),
                    &rows(&mixed, std::slice::from_ref(&own)),
                    1e-5,
                );
                let placed = dalone.pad_with_zeros(1, 0, t - dalone.dim(1).unwrap()).unwrap();
                let order: Vec<u32> = (0..t)
                    .map(|at| match at {
                        at if stem.contains(&at) => at - stem.start,
                        at if own.contains(&at) => at - own.start + stem.len(),
                        _ => t - 1,
                    } as u32)
                    .collect();
                let order = Tensor::from_vec(order, t, &Device::Cpu).unwrap();
                stems = (stems + placed.index_select(&order, 1).unwrap()).unwrap();
            }
        }
        assert_close("gradients of all, added up", &stems, &dqkv, 1e-4);
    }
}

/// With more threads than heads, each head is cut into parts: for every mask, with packed sequences, one of them short, and
/// with branches.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let t = 2 * SPAN + 3 * BLOCK + 5;
    let packed = Sequences::packed(t, [[0, BLOCK as u32 + 3, BLOCK as u32 + 9].as_slice()]).unwrap();
    let branching = [(SPAN + 30, [BLOCK + 9, 3 * BLOCK].as_slice())];
    let branching = Sequences::branching(branching).unwrap();
    for sequences in [Sequences::windows(1, t), packed, branching] {
        let t = sequences.window();
        let (qkv, dmixed) = ((draw(1, &[1, t, 24]) * 2.0).unwrap(), draw(2, &[1, t, 8]));
        for (mask, precision) in MASKS.into_iter().flat_map(|mask| [(mask, Precision::F32), (mask, Precision::Bf16)]) {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let run = || run_packed(precision, &qkv, &dmixed, 2, mask, &sequences, Some(DROP));
                let (mixed, dqkv) = pool.install(run);
                [mixed, dqkv].map(|x| numbers(&x).iter().map(|x| x.to_bits()).collect::<Vec<u32>>())
            };
            let whole = run(1);
            for threads in [4, 7, 13, 40] {
                assert!(run(threads) == whole, "{threads} threads, {mask:?}, {precision:?}");
            }
        }
    }
}

#[test]
fn self_attention_has_the_gradient_of_finite_differences() {
    let windows = Sequences::windows(2, 5);
    for mask in MASKS {
        for drop in [None, Some(DROP)] {
            assert_gradient(&[draw(1, &[2, 5, 12])], 2e-3, |a| self_attention(&a[0], 2, mask, &windows, drop));
        }
    }
}

#[test]
fn a_sequence_is_treated_the_same_in_any_batch() {
    let (qkv, dmixed) = (draw(1, &[3, 9, 12]), draw(2, &[3, 9, 4]));
    let (whole, dwhole) = run(&qkv, &dmixed, 2, Mask::Causal, Some(DROP));
    let drop = Dropout { first_row: DROP.first_row + 2, ..DROP };
    let last = |x: &Tensor| x.narrow(0, 2, 1).unwrap();
    let (one, done) = run(&last(&qkv), &last(&dmixed), 2, Mask::Causal, Some(drop));
    assert_close("last sequence", &one, &last(&whole), 0.0);
    assert_close("last sequence", &done, &last(&dwhole), 0.0);
}

#[test]
fn a_width_that_does_not_divide_is_refused() {
    let error = self_attention(&draw(1, &[2, 5, 12]), 3, Mask::Causal, &Sequences::windows(2, 5), None).unwrap_err();
    assert!(error.to_string().contains("3 heads"), "{error}");
}

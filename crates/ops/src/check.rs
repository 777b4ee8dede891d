//! What tests of every crate compare tensors with.

use candle_core::{DType, Device, Result, Tensor, Var};
use gptkit_rng::keyed::{Draw, Key, normals};

/// Standard normal numbers of the given shape, the same for the same seed.
pub fn draw(seed: u64, shape: &[usize]) -> Tensor {
    let key = Key { seed, draw: Draw::Init { parameter: 0 } };
    let numbers = normals(key, shape.iter().product());
    expect(Tensor::from_vec(numbers, shape, &Device::Cpu))
}

/// Panics unless `actual` and `expected` have one shape and differ nowhere by more than `tolerance`; NaN fails.
#[track_caller]
pub fn assert_close(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(actual.dims(), expected.dims(), "{what}: shapes");
    let (a, e) = (flat(actual), flat(expected));
    for (i, (a, e)) in a.iter().zip(&e).enumerate() {
        let close = (a - e).abs() <= tolerance; // false for NaN
        assert!(close, "{what}: element {i} of {:?} is {a}, expected {e} ± {tolerance}", actual.dims());
    }
}

/// Panics unless the gradients that `f` passes back to each of `arguments` agree with central differences of
/// Σ weight·f, to `tolerance` relative to the largest; and unless each argument gets a gradient.
#[track_caller]
pub fn assert_gradient(arguments: &[Tensor], tolerance: f32, f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    const H: f32 = 1e-2;
    let vars: Vec<Var> = arguments.iter().map(|a| expect(Var::from_tensor(a))).collect();
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = expect(f(&tracked));
    let weight = draw(99, y.dims()); // an uneven sum, so that errors do not cancel
    let grads = expect(expect(&y * &weight).sum_all().and_then(|s| s.backward()));
    let value = |arguments: &[Tensor]| {
        let (y, w) = (flat(&expect(f(arguments))), flat(&weight));
        y.iter().zip(&w).map(|(&y, &w)| f64::from(y) * f64::from(w)).sum::<f64>()
    };
    for (n, argument) in arguments.iter().enumerate() {
        let Some(gradient) = grads.get(&tracked[n]) else { panic!("argument {n} has no gradient") };
        let gradient = flat(gradient);
        let numbers = flat(argument);
        let numeric: Vec<f32> = (0..numbers.len())
            .map(|i| {
                let moved = |h: f32| {
                    let mut numbers = numbers.clone();
                    numbers[i] += h;
                    let mut arguments = arguments.to_vec();
                    arguments[n] = expect(Tensor::from_vec(numbers, argument.dims(), &Device::Cpu));
                    value(&arguments)
                };
                ((moved(H) - moved(-H)) / f64::from(2.0 * H)) as f32
            })
            .collect();
        let largest = numeric.iter().fold(1e-3f32, |m, g| m.max(g.abs()));
        for (i, (g, d)) in gradient.iter().zip(&numeric).enumerate() {
            let close = (g - d).abs() <= tolerance * largest;
            assert!(close, "argument {n}, element {i}: gradient {g}, by differences {d}, largest {largest}");
        }
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    expect(tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()))
}

#[track_caller]
fn expect<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(e) => panic!("{e}"),
    }
}

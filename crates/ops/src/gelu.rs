//! GELU in the tanh form that all GPTs use (Hendrycks & Gimpel 2016, §2): 0.5x(1 + tanh(√(2/π)(x + 0.044715x³))).

use crate::cpu::element::Element;
use crate::cpu::{fused, vectorized};
use crate::exp::exp;
use candle_core::{Result, Tensor};

/// `x`: any shape, which the result has too. In candle's operations.
///
/// # Errors
/// When the tensor's type or device has no such operation.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu()
}

vectorized! {
    /// Rounds `x + bias` to `kept`, and writes its GELU to `y`.
    pub(crate) fn forward[E: Element](x: &[f32], bias: &[f32], kept: &mut [E], y: &mut [E]) {
        for (((x, bias), kept), y) in x.iter().zip(bias).zip(kept).zip(y) {
            *kept = E::of(x + bias);
            let x = kept.get();
            *y = E::of(x * gate::<FUSED>(x).0);
        }
    }
}

vectorized! {
    /// From the input `x` and the gradient `dy` of the output: the output again to `y`, and the input's gradient to `x`.
    pub(crate) fn backward[E: Element](dy: &[f32], x: &mut [E], y: &mut [E]) {
        for ((dy, kept), y) in dy.iter().zip(x).zip(y) {
            let x = kept.get();
            let (gate, slope) = gate::<FUSED>(x);
            *y = E::of(x * gate);
            *kept = E::of(dy * fused::<FUSED>(x, slope, gate));
        }
    }
}

/// 0.5(1 + tanh(u)) = 1/(1 + e^(−2u)), and its derivative.
#[inline(always)]
fn gate<const FUSED: bool>(x: f32) -> (f32, f32) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let square = x * x;
    let u = x * fused::<FUSED>(SQRT_2_OVER_PI * 0.044_715, square, SQRT_2_OVER_PI);
    let gate = 1.0 / (1.0 + exp::<FUSED>(-2.0 * u));
    // Where the gate is shut the derivative is 0, however large x² is.
    let slope = fused::<FUSED>(3.0 * SQRT_2_OVER_PI * 0.044_715, square.min(1e6), SQRT_2_OVER_PI);
    (gate, 2.0 * fused::<FUSED>(-gate, gate, gate) * slope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::assert_gradient;
    use crate::check::draw;

    fn run(x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (mut kept, mut y) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        forward(x, &vec![0.0; x.len()], &mut kept, &mut y);
        let mut again = vec![0.0; x.len()];
        backward(&vec![1.0; x.len()], &mut kept, &mut again);
        assert_eq!(y, again);
        (y, kept)
    }

    #[test]
    fn gelu_and_its_slope_agree_with_their_definitions_in_f64() {
        let x: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 0.005).collect();
        let (y, slopes) = run(&x);
        for ((x, y), slope) in x.iter().zip(y).zip(slopes) {
            let x = f64::from(*x);
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let t = (c * (x + 0.044_715 * x.powi(3))).tanh();
            let expected = 0.5 * x * (1.0 + t);
            assert!((f64::from(y) - expected).abs() < 2e-6, "gelu({x}) = {y}");
            let expected = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044_715 * x * x);
            assert!((f64::from(slope) - expected).abs() < 2e-6, "gelu'({x}) = {slope}");
        }
    }

    #[test]
    fn candles_gelu_has_the_gradient_of_finite_differences() {
        assert_gradient(&[draw(1, &[3, 7])], 1e-3, |x| gelu(&x[0]));
    }

    #[test]
    fn gelu_is_tame_at_the_ends() {
        let (y, slopes) = run(&[-1e20, -100.0, 0.0, 100.0, 1e20]);
        assert!(y[0].abs() < 1e-7 && y[1].abs() < 1e-30, "{y:?}");
        assert_eq!(y[2..], [0.0, 100.0, 1e20]);
        assert!(slopes[0].abs() < 1e-7 && slopes[1].abs() < 1e-30, "{slopes:?}");
        assert_eq!(slopes[2..], [0.5, 1.0, 1.0]);
    }
}

//! The exponential function of softmax and GELU, in a form that compilers turn into vector code.

use crate::cpu::fused;

/// e^x to 2 units in the last place between -87 and 88, where it stays; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Comparisons, not `clamp`: they let NaN through.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    // Adding and subtracting 1.5·2²³ rounds to a whole number n, whose bits are then the sum's lowest.
    const ROUND: f32 = 12_582_912.0;
    let sum = fused::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = sum - ROUND;
    // x − n·ln 2 with ln 2 in two parts, the first exact in every product with n.
    let r = fused::<FUSED>(n, 2.121_944_4e-4, fused::<FUSED>(n, -0.693_359_4, x));
    // Taylor's series: |r| ≤ ½ ln 2, so that the next term is below 6e-9.
    const C: [f32; 8] = [1.0, 1.0, 0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0];
    let series = C[..7].iter().rev().fold(C[7], |p, &c| fused::<FUSED>(p, r, c));
    let power = f32::from_bits(sum.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    series * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_f64() {
        off_by_a_little(exp::<false>);
        off_by_a_little(exp::<true>);
    }

    fn off_by_a_little(exp: fn(f32) -> f32) {
        for i in -86_999..=87_999 {
            let x = i as f32 * 1e-3;
            let expected = f64::from(x).exp();
            let off = (f64::from(exp(x)) / expected - 1.0).abs();
            assert!(off < 2.4e-7, "exp({x}) is off by {off:e}");
        }
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn exp_is_tame_beyond_its_range() {
        let exp = exp::<false>;
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(-1e30) > 0.0);
        assert!(exp(1e30).is_finite());
    }
}

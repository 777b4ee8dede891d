//! The exponential function of softmax and GELU, in a form that compilers turn into vector code.

use crate::cpu::{fused, vectorized};

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

vectorized! {
    /// Writes exp((x − `less`) / `per`) of each of `numbers` to `out`, of the same length: the same bits whatever the processor.
    pub fn exponentials(numbers: &[f32], less: f32, per: f32, out: &mut [f64]) {
        for (out, &x) in out.iter_mut().zip(numbers) {
            *out = exp_f64(f64::from((x - less) / per));
        }
    }
}

/// e^x to 2 units in the last place, 0 below -708, at most e^709; NaN stays NaN. Without fused operations, which round once
/// where processors without them round twice.
#[inline(always)]
fn exp_f64(x: f64) -> f64 {
    let at = if x < -708.0 { -708.0 } else { x };
    let at = if at > 709.0 { 709.0 } else { at };
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5·2⁵², as above
    let sum = at * std::f64::consts::LOG2_E + ROUND;
    let n = sum - ROUND;
    let r = (at - n * 6.931_471_803_691_238e-1) - n * 1.908_214_929_270_587_7e-10;
    // 1/n!: the next term is below 5e-18.
    const C: [f64; 14] = {
        let mut c = [1.0; 14];
        let mut n = 1;
        while n < 14 {
            c[n] = c[n - 1] / n as f64;
            n += 1;
        }
        c
    };
    let series = C[..13].iter().rev().fold(C[13], |p, &c| p * r + c);
    let power = f64::from_bits(sum.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023) << 52);
    if x < -708.0 { 0.0 } else { series * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_standard_library_to_the_last_places() {
        let numbers: Vec<f32> = (-707_000..=709_000).step_by(7).map(|i| i as f32 * 1e-3).collect();
        let mut found = vec![0.0; numbers.len()];
        exponentials(&numbers, 0.0, 1.0, &mut found);
        for (&x, found) in numbers.iter().zip(found) {
            let off = (found / f64::from(x).exp() - 1.0).abs();
            assert!(off < 5e-16, "exp({x}) is off by {off:e}");
        }
        let mut found = [0.0; 4];
        exponentials(&[f32::NEG_INFINITY, 3.0, f32::NAN, -2000.0], 3.0, 0.7, &mut found);
        assert!(found[0] == 0.0 && found[1] == 1.0 && found[2].is_nan() && found[3] == 0.0, "{found:?}");
    }

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

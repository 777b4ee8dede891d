//! Which values charts show, the ends of their axes, and ticks.

use std::ops::RangeInclusive;

/// Values beyond these do not belong to a sound run, and sums of them overflow.
const LARGEST: f64 = 1e30;
/// Points that a line is drawn with at most.
const MAX_POINTS: usize = 600;

/// Whether charts show `value`: not NaN, not infinite, and at most 10³⁰ from 0.
pub fn is_drawn(value: f64) -> bool {
    value.abs() <= LARGEST
}

/// Least and greatest of the values that are drawn, moved apart where they are too near each other to be told apart;
/// 0 to 1 for no values.
pub fn span(values: impl Iterator<Item = f64>) -> RangeInclusive<f64> {
    let drawn = values.filter(|value| is_drawn(*value));
    let (low, high) = drawn.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    if low > high {
        return 0.0..=1.0;
    }
    let largest = low.abs().max(high.abs());
    if high - low > largest * 1e-9 {
        return low..=high;
    }
    let room = (largest * 1e-3).max(0.5);
    low - room..=high + room
}

/// Ends of an axis on which all of `values` that are drawn lie, with a little room; 0 to 1 for no values.
pub fn axis(values: impl Iterator<Item = f64>) -> RangeInclusive<f64> {
    let drawn = values.filter(|value| is_drawn(*value));
    let (low, high) = drawn.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    if low > high {
        return 0.0..=1.0;
    }
    let room = ((high - low) * 0.05).max(low.abs().max(high.abs()) * 1e-3).max(1e-12);
    low - room..=high + room
}

/// Means of `points` in equal groups, few enough to be drawn; groups whose mean is not drawn are left out.
pub fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |group: &[(f64, f64)]| {
        let n = group.len() as f64;
        (group.iter().map(|p| p.0).sum::<f64>() / n, group.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(group).map(mean).filter(|p| is_drawn(p.0) && is_drawn(p.1)).collect()
}

/// A number in three digits: 1500000 → 1.5M.
pub fn short(n: f64) -> String {
    let (value, unit) = match n.abs() {
        a if a >= 1e15 => return format!("{n:.0e}").replace('-', "−"),
        a if a >= 1e12 => (n / 1e12, "T"),
        a if a >= 1e9 => (n / 1e9, "B"),
        a if a >= 1e6 => (n / 1e6, "M"),
        a if a >= 1e3 => (n / 1e3, "k"),
        _ => (n, ""),
    };
    let digits = if unit.is_empty() || value.abs() < 10.0 { 2 } else { usize::from(value.abs() < 100.0) };
    signed(&trimmed(format!("{value:.digits$}"))) + unit
}

/// Labels of `ticks`, which are equally far apart, with as many digits as tell them apart.
pub(crate) fn labels(ticks: &[f64]) -> Vec<String> {
    let largest = ticks.iter().fold(0.0f64, |most, tick| most.max(tick.abs()));
    let step = ticks.windows(2).map(|two| (two[1] - two[0]).abs()).fold(f64::INFINITY, f64::min);
    let label = |&tick: &f64| match tick {
        0.0 => "0".to_owned(),
        _ if largest >= 1e3 || !step.is_finite() => short(tick),
        _ if largest < 1e-2 => signed(&format!("{tick:.1e}").replace(".0e", "e")),
        _ => signed(&format!("{tick:.0$}", (-step.log10() - 1e-9).ceil().clamp(0.0, 9.0) as usize)),
    };
    ticks.iter().map(label).collect()
}

/// With a minus that is as wide as a plus.
fn signed(text: &str) -> String {
    text.replace('-', "−")
}

fn trimmed(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// About `n` round numbers that lie between `low` and `high`.
pub(crate) fn ticks(low: f64, high: f64, n: usize) -> Vec<f64> {
    let rough = (high - low) / n as f64;
    if !rough.is_finite() || rough <= 0.0 {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&step| step >= rough * 0.999).unwrap_or(rough);
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    // Beyond 2⁵³ steps a float has no room for them.
    if last.saturating_sub(first) > 4 * n as i64 {
        return vec![low];
    }
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Ticks of a logarithmic axis between `low` and `high`, which are positive: powers of ten; where there are few, also
/// numbers between them.
pub(crate) fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let of = |steps: &[f64]| -> Vec<f64> {
        let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let all = decades.flat_map(|decade| steps.iter().map(move |step| (step * 10f64.powi(decade), decade)));
        // 1.2 × 10⁰ is not 1.2 otherwise.
        let all = all.map(|(x, decade)| {
            let scale = 10f64.powi(2 - decade.min(2));
            (x * scale).round() / scale
        });
        all.filter(|x| (low..=high).contains(x)).collect()
    };
    let fine: [f64; 13] = [1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.5];
    let choices = [&[1.0][..], &[1.0, 2.0, 5.0], &fine];
    choices.iter().map(|steps| of(steps)).find(|points| points.len() >= 4).unwrap_or_else(|| of(&fine))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a measurement may be, from sound to absurd.
    pub(crate) const VALUES: [f64; 16] = [
        0.0,
        -0.0,
        1.0,
        1.0 + f64::EPSILON,
        -3.5,
        1e-300,
        5e-324,
        1e15,
        1e15 + 0.125,
        1e30,
        -1e30,
        1e300,
        f64::MAX,
        f64::MIN,
        f64::INFINITY,
        f64::NAN,
    ];

    #[test]
    fn an_axis_holds_its_values_and_is_never_a_point() {
        for a in VALUES {
            for b in VALUES {
                for ends in [axis([a, b].into_iter()), span([a, b].into_iter())] {
                    let (start, end) = (*ends.start(), *ends.end());
                    assert!(start.is_finite() && end.is_finite() && end - start > 0.0, "{a} {b}");
                    assert!([a, b].into_iter().all(|x| !is_drawn(x) || ends.contains(&x)), "{a} {b}");
                }
            }
        }
        assert_eq!(axis(std::iter::empty()), 0.0..=1.0);
    }

    #[test]
    fn thinned_points_keep_the_mean() {
        let points: Vec<(f64, f64)> = (0..1200).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let thin = thinned(&points);
        assert_eq!(thin.len(), 600);
        assert!(thin.iter().all(|p| p.1 == 0.5));
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0, 4), [0.0, 0.5, 1.0]);
        assert_eq!(ticks(-0.3, 0.31, 5), [-0.2, 0.0, 0.2]);
        assert_eq!(ticks(0.0, 1_843_200.0, 4), [0.0, 500_000.0, 1_000_000.0, 1_500_000.0]);
        assert_eq!(ticks(3.0, 3.0, 4), [3.0]);
    }

    #[test]
    fn logarithmic_ticks_are_some_and_not_too_many() {
        for (low, high) in [(0.9, 3.0), (1.9, 4.2), (1e9, 3e13), (1.2e4, 9e6), (1e5, 3e6), (2.0, 2.2)] {
            let ticks = log_ticks(low, high);
            assert!((1..=12).contains(&ticks.len()) && ticks.iter().all(|x| (low..=high).contains(x)), "{ticks:?}");
        }
        assert_eq!(log_ticks(0.9, 3.0), [1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0]);
        assert_eq!(log_ticks(5e9, 2e13), [1e10, 1e11, 1e12, 1e13]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, -0.5, 999.0, 1500.0, 742_272.0, 2e6].map(short), ["0", "−0.5", "999", "1.5k", "742k", "2M"]);
        assert_eq!([14_496.0, 1e5, 20.0, 3.25e9, 2e12].map(short), ["14.5k", "100k", "20", "3.25B", "2T"]);
    }

    #[test]
    fn labels_tell_ticks_apart() {
        assert_eq!(labels(&[0.0, 0.5, 1.0]), ["0", "0.5", "1.0"]);
        assert_eq!(labels(&[2.005, 2.01, 2.015]), ["2.005", "2.010", "2.015"]);
        assert_eq!(labels(&[-2e-4, 0.0, 2e-4]), ["−2e−4", "0", "2e−4"]);
        assert_eq!(labels(&[0.0, 500_000.0, 1e6]), ["0", "500k", "1M"]);
    }
}

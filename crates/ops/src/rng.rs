//! Every draw is a pure function of a key and an element's number: nothing to save, the same on any number of threads,
//! and a resumed run draws what it would have drawn.
//!
//! The generator is Philox 4×32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the seed is its
//! key, the purpose and the element's number are its counter.

/// What a draw is for; draws for different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// First values of parameter number `parameter` (in the model's fixed order).
    Init {
        /// Its number.
        parameter: u32,
    },
    /// Which elements dropout removes at place number `site` of the model.
    Dropout {
        /// Its number.
        site: u32,
    },
    /// The token sampled for row `row`; the element is its position.
    Token {
        /// The row of the batch.
        row: u32,
    },
}

impl Draw {
    fn stream(self) -> u64 {
        let (purpose, number) = match self {
            Self::Init { parameter } => (1, parameter),
            Self::Dropout { site } => (2, site),
            Self::Token { row } => (3, row),
        };
        (purpose << 32) | u64::from(number)
    }
}

/// With the number of an element, the whole state of the generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Seed of the run.
    pub seed: u64,
    /// What the draws are for.
    pub draw: Draw,
}

/// Four words, for elements `4 * block .. 4 * block + 4`.
pub fn words(key: Key, block: u64) -> [u32; 4] {
    let stream = key.draw.stream();
    philox(halves(block, stream), [key.seed as u32, (key.seed >> 32) as u32])
}

/// A number in [0, 1) with 24 bits.
pub fn uniform(key: Key, element: u64) -> f32 {
    unit(words(key, element / 4)[(element % 4) as usize])
}

/// `n` numbers in [0, 1): those of elements `first .. first + n`.
pub fn uniforms(key: Key, first: u64, n: usize) -> impl Iterator<Item = f32> {
    let skip = (first % 4) as usize;
    (first / 4..).flat_map(move |block| words(key, block)).skip(skip).take(n).map(unit)
}

/// `n` numbers of the standard normal distribution, by the Box–Muller transform; element pairs share a radius.
pub fn normals(key: Key, n: usize) -> Vec<f32> {
    let pair = |a: u32, b: u32| {
        // (0, 1], so that the logarithm is finite.
        let radius = (-2.0 * ((f64::from(a) + 1.0) / 4_294_967_296.0).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(b) / 4_294_967_296.0;
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    };
    let four = |block| {
        let [a, b, c, d] = words(key, block);
        [pair(a, b), pair(c, d)].into_iter().flatten()
    };
    (0..n.div_ceil(4) as u64).flat_map(four).take(n).collect()
}

/// The upper 24 bits as a fraction: every value is exact in f32.
fn unit(word: u32) -> f32 {
    (word >> 8) as f32 / 16_777_216.0
}

fn halves(low: u64, high: u64) -> [u32; 4] {
    [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32]
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { seed: 7, draw: Draw::Dropout { site: 3 } };

    /// Known answers published with the generator (Random123's kat_vectors, philox4x32 with 10 rounds).
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_run_of_draws_is_the_same_draws_one_by_one() {
        for first in [0, 1, 3, 4, 1_000_003] {
            let run: Vec<f32> = uniforms(KEY, first, 11).collect();
            let single: Vec<f32> = (first..first + 11).map(|e| uniform(KEY, e)).collect();
            assert_eq!(run, single);
        }
    }

    #[test]
    fn seeds_purposes_and_sites_draw_differently() {
        let draws = |seed, draw| uniforms(Key { seed, draw }, 0, 8).collect::<Vec<_>>();
        let base = draws(7, Draw::Dropout { site: 3 });
        assert_ne!(base, draws(8, Draw::Dropout { site: 3 }));
        assert_ne!(base, draws(7, Draw::Dropout { site: 4 }));
        assert_ne!(base, draws(7, Draw::Init { parameter: 3 }));
        assert_ne!(base, draws(7 + (1 << 32), Draw::Dropout { site: 3 }));
    }

    #[test]
    fn uniforms_have_the_moments_of_their_distribution() {
        let n = 100_000;
        let draws: Vec<f64> = uniforms(KEY, 0, n).map(f64::from).collect();
        let mean = draws.iter().sum::<f64>() / n as f64;
        let variance = draws.iter().map(|u| (u - mean).powi(2)).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.004, "mean {mean}"); // 4 standard errors
        assert!((variance - 1.0 / 12.0).abs() < 0.001, "variance {variance}");
        assert!(draws.iter().all(|u| (0.0..1.0).contains(u)));
    }

    #[test]
    fn normals_have_the_moments_of_their_distribution() {
        let n = 100_000;
        let draws: Vec<f64> = normals(KEY, n).into_iter().map(f64::from).collect();
        let moment = |k: i32| draws.iter().map(|z| z.powi(k)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.013, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.018, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.13, "kurtosis {}", moment(4));
    }
}

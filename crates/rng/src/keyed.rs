//! Every draw is a pure function of a key and an element's number: nothing to save, the same on any number of threads,
//! and a resumed run draws what it would have drawn.
//!
//! The generator is Philox 4×32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the seed is its
//! key, the purpose and the element's number are its counter.

use rayon::prelude::*;

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
    /// The tokens of sample number `sample` of a prompt; the element is the prompt's number times 2³² plus the position.
    Token {
        /// Its number.
        sample: u32,
    },
    /// What a masked model is asked of a row's tokens; the element is the row's number times 2³² plus the position.
    Masking,
}

impl Draw {
    /// The upper half of the counter: the purpose, then its number.
    #[inline(always)]
    pub fn stream(self) -> u64 {
        let (purpose, number) = match self {
            Self::Init { parameter } => (1, parameter),
            Self::Dropout { site } => (2, site),
            Self::Token { sample } => (3, sample),
            Self::Masking => (4, 0),
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

/// Numbers drawn together by [`uniform_block`].
pub const UNIFORMS: usize = 64;

/// The numbers in [0, 1) of elements `64 * block .. 64 * (block + 1)`. Sixteen counters go through the rounds side by
/// side, which is vector code.
#[inline(always)]
pub fn uniform_block(key: Key, block: u64) -> [f32; UNIFORMS] {
    const LANES: usize = UNIFORMS / 4;
    let stream = key.draw.stream();
    let number = |lane: usize| block * LANES as u64 + lane as u64;
    let mut counters = [
        std::array::from_fn(|lane| number(lane) as u32),
        std::array::from_fn(|lane| (number(lane) >> 32) as u32),
        [stream as u32; LANES],
        [(stream >> 32) as u32; LANES],
    ];
    let mut keys = [key.seed as u32, (key.seed >> 32) as u32];
    for _ in 0..10 {
        let mut next = [[0u32; LANES]; 4];
        for lane in 0..LANES {
            let counter = [counters[0][lane], counters[1][lane], counters[2][lane], counters[3][lane]];
            let [a, b, c, d] = philox_round(counter, keys);
            (next[0][lane], next[1][lane], next[2][lane], next[3][lane]) = (a, b, c, d);
        }
        counters = next;
        keys = philox_key(keys);
    }
    std::array::from_fn(|i| unit(counters[i % 4][i / 4]))
}

/// `n` numbers of the standard normal distribution, by the Box–Muller transform; element pairs share a radius.
pub fn normals(key: Key, n: usize) -> Vec<f32> {
    let pair = |a: u32, b: u32| {
        // (0, 1], so that the logarithm is finite.
        let radius = (-2.0 * ((f64::from(a) + 1.0) / 4_294_967_296.0).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(b) / 4_294_967_296.0;
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    };
    let mut numbers = vec![0.0; n];
    numbers.par_chunks_mut(4).with_min_len(1024).enumerate().for_each(|(block, four)| {
        let [a, b, c, d] = words(key, block as u64);
        let drawn = [pair(a, b), pair(c, d)];
        four.iter_mut().zip(drawn.as_flattened()).for_each(|(number, z)| *number = *z);
    });
    numbers
}

/// The upper 24 bits as a fraction: every value is exact in f32.
#[inline(always)]
fn unit(word: u32) -> f32 {
    (word >> 8) as f32 / 16_777_216.0
}

#[inline(always)]
fn halves(low: u64, high: u64) -> [u32; 4] {
    [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32]
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        counter = philox_round(counter, key);
        key = philox_key(key);
    }
    counter
}

#[inline(always)]
fn philox_round(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let a = u64::from(counter[0]) * 0xD251_1F53;
    let b = u64::from(counter[2]) * 0xCD9E_8D57;
    [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32]
}

#[inline(always)]
fn philox_key(key: [u32; 2]) -> [u32; 2] {
    [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)]
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
    fn draws_side_by_side_are_the_draws_one_by_one() {
        for block in [0, 1, 5, u64::from(u32::MAX) / 16 + 3] {
            let single: Vec<f32> = (0..UNIFORMS as u64).map(|i| uniform(KEY, block * UNIFORMS as u64 + i)).collect();
            assert_eq!(uniform_block(KEY, block).to_vec(), single);
        }
    }

    #[test]
    fn seeds_purposes_and_sites_draw_differently() {
        let draws = |seed, draw| (0..8).map(|i| uniform(Key { seed, draw }, i)).collect::<Vec<_>>();
        let base = draws(7, Draw::Dropout { site: 3 });
        assert_ne!(base, draws(8, Draw::Dropout { site: 3 }));
        assert_ne!(base, draws(7, Draw::Dropout { site: 4 }));
        assert_ne!(base, draws(7, Draw::Init { parameter: 3 }));
        assert_ne!(base, draws(7 + (1 << 32), Draw::Dropout { site: 3 }));
    }

    #[test]
    fn uniforms_have_the_moments_of_their_distribution() {
        let n = 100_000;
        let draws: Vec<f64> = (0..n as u64).map(|i| f64::from(uniform(KEY, i))).collect();
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

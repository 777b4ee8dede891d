//! The map of a world: roads between the sites, the same for all its stories.

use gptkit_rng::Dice;

use super::words::SITES;

/// How many roads lie between any two sites.
#[derive(Debug, Clone)]
pub(super) struct Map {
    /// `steps[a][b]`: roads on the shortest way from site `a` to site `b` (positions in [`SITES`]).
    pub(super) steps: Vec<Vec<u8>>,
}

impl Map {
    /// A ring through all sites in drawn order, and as many shortcuts again.
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::for_story(seed, u64::MAX);
        let n = SITES.len();
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, dice.below(i + 1));
        }
        let mut steps = vec![vec![u8::MAX / 2; n]; n];
        for i in 0..n {
            for (a, b) in [(order[i], order[(i + 1) % n]), (order[i], order[(i + 3 + dice.below(n - 6)) % n])] {
                (steps[a][b], steps[b][a]) = (1, 1);
            }
            steps[i][i] = 0;
        }
        for via in 0..n {
            for a in 0..n {
                for b in 0..n {
                    steps[a][b] = steps[a][b].min(steps[a][via] + steps[via][b]);
                }
            }
        }
        Self { steps }
    }
}

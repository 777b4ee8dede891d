//! The lowest loss that a budget of compute buys.

/// Of `points`, compute and loss, those that no point with as much compute or less is better than, in order of compute: what
/// the best member reaches with so much.
pub fn frontier(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted: Vec<(f64, f64)> = points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut best = f64::INFINITY;
    sorted.retain(|p| {
        let better = p.1 < best;
        best = best.min(p.1);
        better
    });
    sorted
}

/// The compute at which two runs or more can be compared: from where the second begins to where the last but one ends.
/// Each run is compute and loss, in order.
pub fn contested(runs: &[Vec<(f64, f64)>]) -> Option<(f64, f64)> {
    let second = |mut ends: Vec<f64>| {
        ends.sort_by(f64::total_cmp);
        ends.get(1).copied()
    };
    let low = second(runs.iter().filter_map(|run| run.first()).map(|p| p.0).collect())?;
    let high = -second(runs.iter().filter_map(|run| run.last()).map(|p| -p.0).collect())?;
    (low < high).then_some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two runs that cross: the small one leads first, the large one from 4 on; its start is worse than what is known.
    #[test]
    fn the_frontier_is_what_the_best_member_reaches() {
        let small = vec![(1.0, 3.0), (2.0, 2.6), (3.0, 2.4), (4.0, 2.3), (5.0, 2.35)];
        let large = vec![(3.0, 3.5), (4.0, 2.2), (6.0, 2.2), (8.0, 1.9), (9.0, f64::NAN)];
        assert_eq!(
            frontier(&[small.clone(), large.clone()].concat()),
            [(1.0, 3.0), (2.0, 2.6), (3.0, 2.4), (4.0, 2.2), (8.0, 1.9)]
        );
        assert_eq!(contested(&[small.clone(), large]), Some((3.0, 5.0)));
        assert_eq!(contested(std::slice::from_ref(&small)), None);
        assert_eq!(contested(&[small, vec![(7.0, 1.0), (9.0, 0.9)]]), None);
    }
}

//! What stages took together: two run at a time, so that neither their times nor their memory simply add up.

use crate::stages::StageRecord;

/// What some stages took together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct TogetherTook {
    /// Seconds in which at least one of them ran.
    pub(crate) elapsed_s: f64,
    /// The most memory of those that ran at the same time, if any is known.
    pub(crate) peak_bytes: Option<u64>,
}

/// What `stages` took together.
pub(crate) fn took<'a>(stages: impl Iterator<Item = &'a StageRecord>) -> TogetherTook {
    let stages: Vec<&StageRecord> = stages.collect();
    let begin = |stage: &StageRecord| stage.ended_at - stage.elapsed_s;
    // Older records do not say when they ended: those stages ran one by one.
    let (timed, untimed): (Vec<&StageRecord>, Vec<&StageRecord>) =
        stages.into_iter().partition(|stage| stage.ended_at > 0.0);
    let mut spans: Vec<(f64, f64)> = timed.iter().map(|stage| (begin(stage), stage.ended_at)).collect();
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut elapsed_s, mut reached) = (untimed.iter().map(|stage| stage.elapsed_s).sum::<f64>(), f64::NEG_INFINITY);
    for (from, to) in spans {
        elapsed_s += (to - from.max(reached)).max(0.0);
        reached = reached.max(to);
    }
    // The memory is greatest at some stage's beginning.
    let beside = |at: f64| timed.iter().filter(move |stage| begin(stage) <= at && at < stage.ended_at);
    let together = timed.iter().filter_map(|stage| beside(begin(stage)).map(|stage| stage.peak_bytes).sum());
    let alone = untimed.iter().filter_map(|stage| stage.peak_bytes);
    TogetherTook { elapsed_s, peak_bytes: together.chain(alone).max() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::stage_record;

    #[test]
    fn overlapping_stages_count_once() {
        let stage = |ended_at: f64, elapsed_s: f64, peak_bytes: u64| StageRecord {
            elapsed_s,
            ended_at,
            peak_bytes: Some(peak_bytes),
            ..stage_record("a")
        };
        let stages = [stage(110.0, 10.0, 5), stage(108.0, 4.0, 7), stage(113.0, 3.0, 9), stage(200.0, 20.0, 8)];
        assert_eq!(took(stages.iter()), TogetherTook { elapsed_s: 33.0, peak_bytes: Some(12) });
        let old = [stage(0.0, 2.0, 50), stage(0.0, 3.0, 4)];
        assert_eq!(took(old.iter()), TogetherTook { elapsed_s: 5.0, peak_bytes: Some(50) });
        assert_eq!(took([].iter()), TogetherTook::default());
    }
}

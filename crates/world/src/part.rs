//! What is for training and what is held out: decided by what a record is about, never by its number or seed.

/// Records of one part are about combinations that no record of the other part is about, whatever the seeds: which two
/// people, or which person and which new place or thing, or, for sums, the question itself. One combination in eight is
/// held out; its words all occur in training, in other combinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorldPart {
    /// To learn from.
    Train,
    /// To measure with.
    HeldOut,
}

impl WorldPart {
    /// The part that a combination is in.
    pub(super) fn of(combination: &str) -> Self {
        if blake3::hash(combination.as_bytes()).as_bytes()[0] < 32 { WorldPart::HeldOut } else { WorldPart::Train }
    }
}

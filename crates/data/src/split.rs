//! Which records are for training, and which are held out.

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// For training.
    Train,
    /// For validation and tests; never trained on.
    HeldOut,
}

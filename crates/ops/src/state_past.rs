//! What a recurrent layer was left with after each past token, so that a new token costs one step, and the past can be cut
//! to any length.

/// The past of a batch of sequences of different lengths in one layer.
#[derive(Debug, Default)]
pub(crate) struct StatePast {
    rows: Vec<SequenceStates>,
}

/// Cells and outputs after each token of a sequence, `[T, D]`.
#[derive(Debug, Clone, Default)]
struct SequenceStates {
    cells: Vec<f32>,
    outputs: Vec<f32>,
}

impl StatePast {
    /// Makes room for `n` sequences if there are none.
    pub(crate) fn begin(&mut self, n: usize) {
        if self.rows.is_empty() {
            self.rows = vec![SequenceStates::default(); n];
        }
    }

    /// The cells and outputs of `rows` after their last token, `[rows, D]`; zeros before the first one.
    pub(crate) fn last(&self, rows: &[usize], d: usize) -> (Vec<f32>, Vec<f32>) {
        let none = vec![0.0; d];
        let last = |states: fn(&SequenceStates) -> &Vec<f32>| {
            let of_row = |&row: &usize| states(&self.rows[row]).rchunks_exact(d).next().unwrap_or(&none).to_vec();
            rows.iter().flat_map(of_row).collect()
        };
        (last(|row| &row.cells), last(|row| &row.outputs))
    }

    /// Adds one token to each of `rows`; `cells`, `outputs`: `[rows, D]`.
    pub(crate) fn add(&mut self, rows: &[usize], cells: &[f32], outputs: &[f32], d: usize) {
        for (&row, (cell, output)) in rows.iter().zip(cells.chunks_exact(d).zip(outputs.chunks_exact(d))) {
            self.rows[row].cells.extend_from_slice(cell);
            self.rows[row].outputs.extend_from_slice(output);
        }
    }

    /// Forgets all but the first `len` tokens of sequences that have had `lens`, and with the last of them the sequences.
    pub(crate) fn truncate(&mut self, len: usize, lens: &[usize]) {
        if len == 0 {
            self.rows.clear();
        }
        for (SequenceStates { cells, outputs }, &n) in self.rows.iter_mut().zip(lens) {
            let kept = cells.len() / n.max(1) * len.min(n);
            cells.truncate(kept);
            outputs.truncate(kept);
        }
    }

    /// Keeps the sequences of the given numbers, which it has, in that order.
    pub(crate) fn keep(&mut self, rows: &[u32]) {
        self.rows = rows.iter().map(|&row| self.rows[row as usize].clone()).collect();
    }

    /// Takes out all sequences but the first `n`, of which it has as many.
    pub(crate) fn split_off(&mut self, n: usize) -> Self {
        Self { rows: self.rows.split_off(n) }
    }

    /// Adds the sequences of `other`.
    pub(crate) fn append(&mut self, other: Self) {
        self.rows.extend(other.rows);
    }
}

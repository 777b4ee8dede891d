//! How the result of a product is cut into blocks, which threads work on one by one.

use std::ops::Range;

/// Jobs a thread gets at least, where there are as many: so that threads end together. One where a job packs both
/// matrices, which is done again in each job beside or below it.
pub(crate) const JOBS: usize = 4;
pub(crate) const PACKING_JOBS: usize = 1;
/// What packing a column costs beside packing a row.
pub(crate) const PACKING: f64 = 0.5;
/// The cost of one multiplication and addition, where packing a number of a row costs 1.
const PRODUCT: f64 = 0.05;
/// What reading a packed column costs.
pub(crate) const READING: f64 = 0.1;

/// Blocks of a result of `rows` × `columns`, worked on one by one: ranges of rows and of columns. A block's height is a
/// multiple of `unit.0` and at most `most.0` of these, its width likewise; packing a column costs `right` times as much
/// as packing a row. There are `jobs` a thread, if the result is large enough.
pub(crate) fn blocks(
    (rows, columns): (usize, usize),
    unit: (usize, usize),
    most: (usize, usize),
    right: f64,
    jobs: usize,
) -> Vec<(Range<usize>, Range<usize>)> {
    let threads = rayon::current_num_threads();
    let wanted = jobs * threads;
    let (tall, wide) = (rows.div_ceil(unit.0), columns.div_ceil(unit.1));
    let number = |units: usize, parts: usize| units.div_ceil(units.div_ceil(parts).max(1));
    // Rows are packed once for each block beside another, columns once for each block below another. At the end, threads
    // without a block wait for the others.
    let cost = |&(down, across): &(usize, usize)| {
        let packing = (rows * across) as f64 + right * (columns * down) as f64;
        let jobs = (number(tall, down) * number(wide, across)).max(1);
        (packing + PRODUCT * (rows * columns) as f64) * jobs.next_multiple_of(threads) as f64 / jobs as f64
    };
    let least = tall.div_ceil(most.0).max(1);
    let choices = (least..=tall.min(wanted.max(least + threads - 1)).max(least))
        .map(|down| (down, wanted.div_ceil(down).max(wide.div_ceil(most.1)).clamp(1, wide.max(1))));
    let (down, across) = choices.min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or((1, 1));
    let cut = |size: usize, units: usize, parts: usize, unit: usize| {
        let step = units.div_ceil(parts).max(1) * unit;
        (0..size).step_by(step).map(move |first| first..(first + step).min(size))
    };
    cut(rows, tall, down, unit.0)
        .flat_map(|r| cut(columns, wide, across, unit.1).map(move |c| (r.clone(), c)))
        .collect()
}

//! Products with the transpose of a matrix of few rows, as adapters have: without packing, since a tile of the usual kernels
//! would be mostly empty. Sums are in f32, in an order that depends on the sizes alone.

use crate::cpu::element::Element;
use crate::cpu::{fused, vectorized};
use crate::slices::rows_at_a_time;
use rayon::prelude::*;

/// Rows of the thin matrix whose sums are made together.
const GROUP: usize = 8;
/// Numbers of a row of `x` that are read together.
const LANES: usize = 16;

/// `x`: `[N, width]`; `thin`: `[r, width]`. Returns `factor·x·thinᵀ`, `[N, r]`.
pub(crate) fn multiply_thin<E: Element>(x: &[E], thin: &[f32], width: usize, factor: f32) -> Vec<f32> {
    let rank = thin.len() / width;
    let mut products = vec![0.0; x.len() / width * rank];
    let rows = rows_at_a_time(width);
    products.par_chunks_mut(rows * rank).zip(x.par_chunks(rows * width)).for_each(|(products, x)| {
        products_of_rows::<E>(x, thin, width, factor, products);
    });
    products
}

/// `[N, columns]` → `[columns, N]`.
pub(crate) fn transposed(numbers: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| numbers.iter().skip(column).step_by(columns)).copied().collect()
}

vectorized! {
    /// `y += factor·x`
    pub(crate) fn add_scaled(factor: f32, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = fused::<FUSED>(factor, *x, *y));
    }
}

vectorized! {
    fn products_of_rows[E: Element](x: &[E], thin: &[f32], width: usize, factor: f32, products: &mut [f32]) {
        let rank = thin.len() / width;
        for (x, products) in x.chunks_exact(width).zip(products.chunks_exact_mut(rank)) {
            let (chunks, rest) = x.as_chunks::<LANES>();
            for (products, thin) in products.chunks_mut(GROUP).zip(thin.chunks(GROUP * width)) {
                // A group with fewer rows reads its last one again.
                let last = products.len() - 1;
                let rows: [&[f32]; GROUP] = std::array::from_fn(|r| &thin[r.min(last) * width..][..width]);
                let mut sums = [[0.0f32; LANES]; GROUP];
                for (c, x) in chunks.iter().enumerate() {
                    let x: [f32; LANES] = std::array::from_fn(|lane| x[lane].get());
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        let row = &row[c * LANES..(c + 1) * LANES];
                        for lane in 0..LANES {
                            sums[lane] = fused::<FUSED>(x[lane], row[lane], sums[lane]);
                        }
                    }
                }
                for ((product, sums), row) in products.iter_mut().zip(&sums).zip(&rows) {
                    let tail = &row[chunks.len() * LANES..];
                    let tail: f32 = rest.iter().zip(tail).map(|(x, t)| x.get() * t).sum();
                    *product = factor * (sums.iter().sum::<f32>() + tail);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::element::bf16;

    /// Whole numbers that bf16 holds, so that all sums are exact.
    fn numbers(n: usize, step: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * step) % 13) as f32 - 6.0).collect()
    }

    #[test]
    fn thin_products_are_their_sums() {
        for (n, width, rank) in [(1, 1, 1), (3, 16, 8), (70, 45, 3), (130, 300, 9), (65, 257, 16), (2, 520, 1)] {
            let (x, thin) = (numbers(n * width, 7), numbers(rank * width, 5));
            let rounded: Vec<bf16> = x.iter().map(|&x| bf16::of(x)).collect();
            let at = |i: usize, r: usize| (0..width).map(|k| x[i * width + k] * thin[r * width + k]).sum::<f32>();
            let expected: Vec<f32> =
                (0..n).flat_map(|i| (0..rank).map(move |r| (i, r))).map(|(i, r)| 2.0 * at(i, r)).collect();
            assert_eq!(multiply_thin(&x, &thin, width, 2.0), expected, "{n} × {width}, {rank}");
            assert_eq!(multiply_thin(&rounded, &thin, width, 2.0), expected, "{n} × {width}, {rank}");
        }
    }
}

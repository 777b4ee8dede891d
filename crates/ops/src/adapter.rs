//! What is trained of a weight: all of it, nothing, a low-rank product beside it, or some of its rows.

use crate::cpu::element::Element;
use crate::cpu::{fused, vectorized};
use crate::layer_norm::take;
use crate::matrix::Matrix;
use crate::parameter::Parameter;
use crate::path::Precision;
use crate::product::accumulate;
use crate::slices::{rows_at_a_time, with_f32s};
use crate::thin::multiply_thin;
use candle_core::{Result, Tensor};
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What backward passes compute a gradient for.
#[derive(Debug, Clone, Default)]
pub enum Trained {
    /// All of the weight.
    #[default]
    Whole,
    /// None of it.
    Nothing,
    /// `A` and `B` of a matrix that itself is frozen (Hu et al. 2021).
    LowRank(LowRank),
    /// Some rows of a table.
    Rows(TrainedRows),
}

/// Adapters of a matrix `W`, `[in, out]`, whose place is taken by `W + scale·(B·A)ᵀ`.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[r, in]`.
    pub a: Arc<Parameter>,
    /// `[out, r]`.
    pub b: Arc<Parameter>,
    /// α/r.
    pub scale: f64,
    /// Whether products read the sum; if not, they read `W` alone.
    pub is_on: Arc<AtomicBool>,
}

impl LowRank {
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Changes whenever the sum does.
    pub(crate) fn version(&self) -> [u64; 3] {
        [self.a.n_changes(), self.b.n_changes(), u64::from(self.is_on())]
    }

    /// The sum, for `weights`, `[in, out]`. Gradients of `A` and `B` can be taken of it if `tracked`.
    pub(crate) fn added_to(&self, weights: &Tensor, tracked: bool) -> Result<Tensor> {
        if !tracked && weights.device().is_cpu() {
            // The same bits as in panels.
            let mut sum = vec![0.0; weights.elem_count()];
            with_f32s(weights, |weights| self.write_sum(weights, &mut sum))??;
            return Tensor::from_vec(sum, weights.shape(), weights.device());
        }
        let product = self.a.tensor(tracked).t()?.matmul(&self.b.tensor(tracked).t()?)?;
        weights + (product * self.scale)?
    }

    /// Writes the sum for `weights`, `[in, out]`, to `sum`.
    pub(crate) fn write_sum(&self, weights: &[f32], sum: &mut [f32]) -> Result<()> {
        let ((rank, width), (out, _)) = (self.a.var().dims2()?, self.b.var().dims2()?);
        let mut b = self.b.read(|b| transposed(b, rank))?;
        b.iter_mut().for_each(|number| *number *= self.scale as f32);
        self.a.read(|a| {
            let rows =
                sum.par_chunks_mut(out).zip(weights.par_chunks(out)).enumerate().with_min_len(rows_at_a_time(out));
            rows.for_each(|(row, (sum, weights))| {
                sum.copy_from_slice(weights);
                for (r, b) in b.chunks_exact(out).enumerate() {
                    add_scaled(a[r * width + row], b, sum);
                }
            });
        })
    }

    /// Adds the gradients of `A` and `B`. `x`: input of the product, `[N, in]`; `dy`: gradient of its output, `[N, out]`. The
    /// gradient of the whole matrix, `xᵀ·dy`, is never made.
    pub(crate) fn add_gradients<E: Element, G: Element>(&self, precision: Precision, x: &[E], dy: &[G]) -> Result<()> {
        let ((rank, width), (out, _), scale) = (self.a.var().dims2()?, self.b.var().dims2()?, self.scale as f32);
        let n = x.len() / width;
        let b = self.b.read(|b| transposed(b, rank))?; // [r, out]
        let reduced = self.a.read(|a| multiply_thin(x, a, width, scale))?; // scale·x·Aᵀ, [N, r]
        let dreduced = multiply_thin(dy, &b, out, scale); // scale·dy·B, [N, r]
        let [reduced, dreduced] = [&reduced, &dreduced].map(|product| Matrix::new(product, n, rank, rank).t());
        self.a.add_gradient(|sum, add| accumulate(precision, dreduced, Matrix::new(x, n, width, width), sum, add));
        self.b.add_gradient(|sum, add| {
            let mut gradient = vec![0.0; rank * out]; // of Bᵀ: so that the few rows are those of the left matrix
            accumulate(precision, reduced, Matrix::new(dy, n, out, out), &mut gradient, false);
            take(sum, &transposed(&gradient, out), add);
        });
        Ok(())
    }
}

/// `[N, columns]` → `[columns, N]`.
fn transposed(numbers: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| numbers.iter().skip(column).step_by(columns)).copied().collect()
}

vectorized! {
    /// `y += factor·x`
    fn add_scaled(factor: f32, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = fused::<FUSED>(factor, *x, *y));
    }
}

/// Rows of a table that are trained; the others are frozen.
#[derive(Debug, Clone)]
pub struct TrainedRows {
    ids: Arc<[u32]>,
    /// Row of each id in `values`.
    places: Arc<HashMap<u32, u32>>,
    /// `[ids, D]`.
    values: Arc<Parameter>,
}

impl TrainedRows {
    /// `values`: the rows `ids` of the table, `[ids, D]`.
    pub fn new(ids: &[u32], values: Arc<Parameter>) -> Self {
        let places = ids.iter().copied().zip(0..).collect();
        Self { ids: ids.into(), places: Arc::new(places), values }
    }

    /// Writes the values into the rows of `table`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn write_to(&self, table: &Parameter) -> Result<()> {
        let (n, d) = self.values.var().dims2()?;
        if table.var().device().is_cpu() {
            return self.values.read(|values| {
                table.change(|table| {
                    for (&id, values) in self.ids.iter().zip(values.chunks_exact(d)) {
                        table[id as usize * d..][..d].copy_from_slice(values);
                    }
                })
            })?;
        }
        let at = Tensor::new(&*self.ids, table.var().device())?.unsqueeze(1)?.broadcast_as((n, d))?.contiguous()?;
        table.set(&table.tensor(false).scatter(&at, &self.values.tensor(false), 0)?)
    }

    /// Adds the part of `xᵀ·dy` in these rows. `x`: `[N, V]`; `dy`: `[N, D]`.
    pub(crate) fn add_product_gradient<E: Element, G: Element>(
        &self,
        precision: Precision,
        x: &[E],
        dy: &[G],
    ) -> Result<()> {
        let (n_ids, d) = self.values.var().dims2()?;
        let n = dy.len() / d;
        let row = |row: &[E]| self.ids.iter().map(|&id| row[id as usize]).collect::<Vec<E>>();
        let columns: Vec<E> = x.chunks_exact(x.len() / n.max(1)).flat_map(row).collect();
        let columns = Matrix::new(&columns, n, n_ids, n_ids);
        self.values.add_gradient(|sum, add| accumulate(precision, columns.t(), Matrix::new(dy, n, d, d), sum, add));
        Ok(())
    }

    /// Has `scatter` add rows to the gradient: it is given the row in `values` of each of `ids`, and `u32::MAX` for those that
    /// are frozen.
    pub(crate) fn add_row_gradients(&self, ids: &[u32], scatter: impl FnOnce(&[u32], &mut [f32], bool)) {
        let places: Vec<u32> = ids.iter().map(|id| self.places.get(id).copied().unwrap_or(u32::MAX)).collect();
        self.values.add_gradient(|sum, add| scatter(&places, sum, add));
    }

    /// Adds these rows of `gradient`, that of the table, `[V, D]`.
    pub(crate) fn accumulate(&self, gradient: &Tensor) -> Result<()> {
        self.values.accumulate(&gradient.index_select(&Tensor::new(&*self.ids, gradient.device())?, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, draw};
    use crate::linear::Linear;
    use candle_core::{Device, Var};

    fn parameter(seed: u64, shape: &[usize]) -> Arc<Parameter> {
        Arc::new(Parameter::new(&draw(seed, shape)).unwrap())
    }

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_product_with_adapters_agrees_with_candles_operations_forward_and_backward() {
        let (n, width, out, rank) = (70, 45, 130, 3);
        let linear = Linear { weight: parameter(1, &[width, out]), bias: parameter(2, &[out]) };
        let adapters = LowRank {
            a: parameter(3, &[rank, width]),
            b: parameter(4, &[out, rank]),
            scale: 1.5,
            is_on: Arc::new(AtomicBool::new(true)),
        };
        let (x, dy) = (Var::from_tensor(&draw(5, &[n, width])).unwrap(), draw(6, &[n, out]));
        let write = || {
            let mut y = vec![0.0; n * out];
            linear.write(Precision::F32, &numbers(&x), &mut y).unwrap();
            Tensor::from_vec(y, (n, out), &Device::Cpu).unwrap()
        };
        let unadapted = write();
        linear.weight.train(Trained::LowRank(adapters.clone()));
        let y = linear.plain(&x, true).unwrap();
        assert_close("y", &write(), &y, 1e-4);
        let grads = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
        linear.add_weight_gradients(Precision::F32, &numbers(&x), &numbers(&dy)).unwrap();
        for (name, part) in [("a", &adapters.a), ("b", &adapters.b)] {
            assert_close(name, &part.gradient().unwrap(), grads.get(part.var()).unwrap(), 1e-3);
        }
        assert!(linear.weight.gradient().is_none() && grads.get(linear.weight.var()).is_none());
        // Products see changes of the adapters, and that they are switched off.
        adapters.a.set(&draw(7, &[rank, width])).unwrap();
        assert_close("y", &write(), &linear.plain(&x, false).unwrap(), 1e-4);
        adapters.is_on.store(false, Ordering::Relaxed);
        assert_close("y", &write(), &unadapted, 0.0);
        adapters.is_on.store(true, Ordering::Relaxed);
        let adapted = write();
        linear.weight.merge().unwrap();
        assert!(!linear.weight.is_frozen());
        assert_close("y", &write(), &adapted, 0.0);
    }

    #[test]
    fn trained_rows_have_their_part_of_the_tables_gradient() {
        let (n, v, d) = (9, 20, 5);
        let (whole, table, values) = (parameter(1, &[v, d]), parameter(1, &[v, d]), parameter(2, &[2, d]));
        let ids = [17, 3];
        table.train(Trained::Rows(TrainedRows::new(&ids, Arc::clone(&values))));
        let (x, dy) = (numbers(&draw(3, &[n, v])), numbers(&draw(4, &[n, d])));
        for parameter in [&whole, &table] {
            parameter.add_product_gradient(Precision::F32, &x, &dy).unwrap();
            parameter.add_row_gradients(&[3, 0, 3], |rows, sums, add| {
                assert!(add);
                for &row in rows {
                    if let Some(sum) = sums.get_mut(row as usize * d) {
                        *sum += 1.0;
                    }
                }
            });
        }
        let expected = |gradient: &Tensor| gradient.index_select(&Tensor::new(&ids, &Device::Cpu).unwrap(), 0).unwrap();
        let whole = whole.gradient().unwrap();
        assert_close("rows", &values.gradient().unwrap(), &expected(&whole), 1e-5);
        values.clear_gradient();
        table.accumulate(&whole).unwrap();
        assert_close("rows", &values.gradient().unwrap(), &expected(&whole), 0.0);
        assert!(table.gradient().is_none());
    }
}

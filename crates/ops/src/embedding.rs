//! Rows of a table for each token, and where there are positions a row for each of them.

use crate::device::computed::computed;
use crate::parameter::Parameter;
use crate::slices::{take, u32s};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::Arc;

/// The tables of tokens, `[V, D]`, and of positions, `[C, D]`.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// Of tokens.
    pub tokens: Arc<Parameter>,
    /// Of positions; none where the order of tokens is known otherwise.
    pub positions: Option<Arc<Parameter>>,
}

impl Embedding {
    /// `tokens`: `[B, T]`, u32, at `positions`, one a token. Returns the sum of both tables' rows, `[B, T, D]`.
    ///
    /// # Errors
    /// When a token is not below `V`, a position not below `C`, or their numbers differ.
    pub fn forward(&self, tokens: &Tensor, positions: Vec<u32>, tracked: bool) -> Result<Tensor> {
        if !tokens.device().is_cpu() {
            return self.on_device(tokens, &positions, tracked);
        }
        let tokens = tokens.contiguous()?;
        let gather = Gather { tables: self.clone(), positions };
        // The table of tokens is an argument so that candle knows that a variable is behind the result.
        match tracked {
            true => tokens.apply_op2(&self.tokens.tensor(true), gather),
            false => tokens.apply_op2_no_bwd(&self.tokens.tensor(false), &gather),
        }
    }

    /// In candle's operations, with gradients that are added as they are found.
    fn on_device(&self, tokens: &Tensor, positions: &[u32], tracked: bool) -> Result<Tensor> {
        let value = self.plain(tokens, positions, false)?;
        if !tracked {
            return Ok(value);
        }
        let tables = self.clone();
        let (tokens, positions) = (tokens.flatten_all()?, Tensor::new(positions, tokens.device())?);
        computed(&self.tokens.tensor(true), value, move |dy| {
            let rows = dy.flatten_to(1)?;
            tables.tokens.add_tensor_rows(&tokens, &rows)?;
            if let Some(table) = &tables.positions {
                table.add_tensor_rows(&positions, &rows)?;
            }
            Ok(None)
        })
    }

    /// In candle's differentiable operations: the definition of right.
    ///
    /// # Errors
    /// As [`Embedding::forward`].
    pub fn plain(&self, tokens: &Tensor, positions: &[u32], tracked: bool) -> Result<Tensor> {
        let ((b, t), (_, d)) = (tokens.dims2()?, self.tokens.var().dims2()?);
        let rows = self.tokens.tensor(tracked).index_select(&tokens.flatten_all()?, 0)?;
        let positions = Tensor::from_slice(positions, b * t, tokens.device())?;
        let rows = match &self.positions {
            Some(table) => (rows + table.tensor(tracked).index_select(&positions, 0)?)?,
            None => rows,
        };
        rows.reshape((b, t, d))
    }
}

struct Gather {
    tables: Embedding,
    positions: Vec<u32>,
}

impl CustomOp2 for Gather {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, _s2: &CpuStorage, _l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let ids = u32s(s1, l1, self.name())?;
        let (b, t) = l1.shape().dims2()?;
        let (v, d) = self.tables.tokens.var().dims2()?;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= v) {
            bail!("token {id} is outside the vocabulary of {v}");
        }
        if self.positions.len() != b * t {
            bail!("{} positions for {} tokens", self.positions.len(), b * t);
        }
        let mut out = vec![0.0; b * t * d];
        let row = |n: u32| n as usize * d..(n as usize + 1) * d;
        self.tables.tokens.write_rows(ids, &mut out)?;
        if let Some(table) = &self.tables.positions {
            let (c, _) = table.var().dims2()?;
            if let Some(position) = self.positions.iter().find(|&&position| position as usize >= c) {
                bail!("{} positions exceed the context of {c}", position + 1);
            }
            table.read(|positions| {
                let rows = out.par_chunks_mut(d.max(1)).zip(&self.positions);
                rows.for_each(|(out, &at)| take(out, &positions[row(at)], true));
            })?;
        }
        Ok((CpuStorage::F32(out), Shape::from((b, t, d))))
    }

    fn bwd(
        &self,
        tokens: &Tensor,
        _table: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ids = tokens.flatten_all()?.to_vec1::<u32>()?;
        crate::slices::with_f32s(&dy.contiguous()?, |dy| {
            let d = dy.len() / ids.len().max(1);
            self.tables.tokens.add_row_gradients(&ids, |ids, sums, add| scatter(ids, dy, d, sums, add));
            if let Some(table) = &self.tables.positions {
                table.add_row_gradients(&self.positions, |rows, sums, add| scatter(rows, dy, d, sums, add));
            }
        })?;
        Ok((None, None)) // the tables have theirs already
    }
}

/// Adds row `n` of `dy` to row `ids[n]` of `sums`, in order, each thread to its own rows of `sums`.
fn scatter(ids: &[u32], dy: &[f32], d: usize, sums: &mut [f32], add: bool) {
    const ROWS: usize = 128;
    sums.par_chunks_mut(ROWS * d).enumerate().for_each(|(chunk, sums)| {
        if !add {
            sums.fill(0.0);
        }
        let first = chunk * ROWS;
        for (id, dy) in ids.iter().zip(dy.chunks_exact(d)) {
            if let Some(row) = (*id as usize).checked_sub(first).filter(|&row| (row + 1) * d <= sums.len()) {
                take(&mut sums[row * d..][..d], dy, true);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, draw};
    use candle_core::Device;

    #[test]
    fn gathering_agrees_with_candles_operations_forward_and_backward() {
        let parameter = |seed, shape: &[usize]| Arc::new(Parameter::new(&draw(seed, shape)).unwrap());
        let (table, places) = (parameter(1, &[2100, 3]), parameter(2, &[6, 3]));
        for places in [Some(places), None] {
            let tables = Embedding { tokens: Arc::clone(&table), positions: places };
            let tokens = Tensor::new(&[[7u32, 2099, 7, 0], [7, 1, 1024, 1023]], &Device::Cpu).unwrap();
            let dy = draw(3, &[2, 4, 3]);
            let positions = [1u32, 2, 3, 4, 1, 2, 1, 2];
            let plain = tables.plain(&tokens, &positions, true).unwrap();
            let grads = (&plain * &dy).unwrap().sum_all().unwrap().backward().unwrap();
            let fast = tables.forward(&tokens, positions.to_vec(), true).unwrap();
            assert_close("y", &fast, &plain, 0.0);
            assert_close("y", &tables.forward(&tokens, positions.to_vec(), false).unwrap(), &plain, 0.0);
            for gathered in [fast, tables.on_device(&tokens, &positions, true).unwrap()] {
                assert_close("y", &gathered, &plain, 0.0);
                (&gathered * &dy).unwrap().sum_all().unwrap().backward().unwrap();
                for table in std::iter::once(&tables.tokens).chain(&tables.positions) {
                    assert_close("gradient", &table.gradient().unwrap(), grads.get(table.var()).unwrap(), 1e-6);
                    table.clear_gradient();
                }
            }
        }
    }

    #[test]
    fn tokens_and_positions_that_are_not_there_are_refused() {
        let parameter = |shape: &[usize]| Arc::new(Parameter::new(&draw(1, shape)).unwrap());
        let tables = Embedding { tokens: parameter(&[5, 3]), positions: Some(parameter(&[2, 3])) };
        let forward = |ids: &[u32]| {
            let tokens = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            tables.forward(&tokens, (0..ids.len() as u32).collect(), false).unwrap_err().to_string()
        };
        assert!(forward(&[5]).contains("token 5"));
        assert!(forward(&[0, 0, 0]).contains("context of 2"));
    }
}

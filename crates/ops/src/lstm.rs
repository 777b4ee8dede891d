//! Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000): layers of it one after
//! the other, as one operation for candle, forward and backward through time.
//!
//! Of all tokens at once the products with what a layer reads; step by step those with its own last output. Tokens are
//! worked on by their position, all first ones, then all second ones: the sequences that still go on at a position are the
//! longest, so that each step is one product of contiguous rows. Sequences are divided among the threads, which need not
//! wait for each other until a layer ends.

use crate::cache::{Cache, LayerCaches};
use crate::cpu::{among_the_threads, fused, vectorized};
use crate::dropout::{Dropout, dropout};
use crate::exp::exp;
use crate::linear::Linear;
use crate::matrix::Matrix;
use crate::parameter::Parameter;
use crate::path::Precision;
use crate::product::{accumulate, multiply, multiply_here};
use crate::sequences::Sequences;
use crate::shared::SharedSlice;
use crate::slices::{add_to, f32s, with_f32s};
use crate::step_order::StepOrder;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// A layer's weights. Columns are those of the input gate, the forget gate, the cell's input and the output gate.
#[derive(Debug, Clone)]
pub struct LstmLayer {
    /// From the layer's input, `[D, 4·D]`, with the gates' bias.
    pub input: Linear,
    /// From the layer's last output, `[D, 4·D]`.
    pub hidden: Arc<Parameter>,
}

/// All layers, first to last, of one width.
#[derive(Debug)]
pub struct LstmStack {
    /// First to last.
    pub layers: Vec<LstmLayer>,
}

impl LstmStack {
    /// `x`: `[B, T, D]` with these `sequences`, which the result is too; each sequence begins with a state of zeros. `drops`:
    /// what of each layer's output is dropped for the next one, or after the last (Zaremba et al. 2014: never between steps);
    /// one for each layer, or none at all. With `learn`, the gradient can be taken, once.
    ///
    /// # Errors
    /// When the shapes do not fit, or sequences branch.
    pub fn forward(
        self: &Arc<Self>,
        x: &Tensor,
        sequences: &Arc<Sequences>,
        precision: Precision,
        drops: &[Option<Dropout>],
        learn: bool,
    ) -> Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        if (sequences.n_windows(), sequences.window()) != (b, t) || sequences.are_branching() {
            bail!(
                "the input has {b} windows of {t} tokens; the sequences of an LSTM must match it and have no branches"
            );
        }
        if !x.device().is_cpu() {
            return self.plain(x, sequences, drops, learn);
        }
        let (lstm, sequences) = (Arc::clone(self), Arc::clone(sequences));
        let run = LstmOp { lstm, sequences, precision, drops: drops.to_vec(), learn, kept: Mutex::default() };
        let x = x.contiguous()?;
        if learn { x.apply_op1(run) } else { x.apply_op1_no_bwd(&run) }
    }

    /// As [`LstmStack::forward`] without a graph, for tokens that follow those in `cache`, to which it adds them: sequence by
    /// sequence, row by row. `x`: `[1, N, D]` or `[B, T, D]`, tokens of a sequence one after the other. All but the products
    /// on the CPU is in candle's operations: a baseline writes little.
    ///
    /// # Errors
    /// When the shapes do not fit, a row of `cache` is full, or it is a transformer's.
    pub fn step(&self, x: &Tensor, sequences: &Sequences, precision: Precision, cache: &mut Cache) -> Result<Tensor> {
        let (n, d, device) = (sequences.n_tokens(), x.dim(D::Minus1)?, x.device());
        cache.count(sequences)?;
        let LayerCaches::States(pasts) = &mut cache.layers else {
            bail!("an LSTM cannot use the keys and values of a transformer cache");
        };
        let tokens: Vec<_> = sequences.iter().collect();
        let mut rows = x.reshape((n, d))?;
        for (layer, past) in self.layers.iter().zip(pasts) {
            past.begin(tokens.len());
            let bias = layer.input.bias.tensor(false);
            let gates = product(&rows, &layer.input.weight, precision)?.broadcast_add(&bias)?; // [N, 4·D]
            let mut outputs = vec![0.0; n * d];
            for position in 0..sequences.longest() {
                let longer: Vec<usize> = (0..tokens.len()).filter(|&row| tokens[row].len() > position).collect();
                let places: Vec<u32> = longer.iter().map(|&row| (tokens[row].start + position) as u32).collect();
                let (cells, before) = past.last(&longer, d);
                let of_rows = |values: Vec<f32>| Tensor::from_vec(values, (longer.len(), d), device);
                let before = LstmState { cell: of_rows(cells)?, output: of_rows(before)? };
                let gates = gates.index_select(&Tensor::new(&*places, device)?, 0)?;
                let state = before.next(&(gates + product(&before.output, &layer.hidden, precision)?)?)?;
                let numbers = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
                let (cell, output) = (numbers(&state.cell)?, numbers(&state.output)?);
                past.add(&longer, &cell, &output, d);
                for (&place, output) in places.iter().zip(output.chunks_exact(d)) {
                    outputs[place as usize * d..][..d].copy_from_slice(output);
                }
            }
            rows = Tensor::from_vec(outputs, (n, d), device)?;
        }
        rows.reshape(x.shape())
    }

    /// In candle's differentiable operations: the definition of right, and the path on devices without loops of ours.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn plain(&self, x: &Tensor, sequences: &Sequences, drops: &[Option<Dropout>], tracked: bool) -> Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let goes_on: Vec<f32> = sequences.positions().iter().map(|&position| f32::from(position > 0)).collect();
        let goes_on = Tensor::from_vec(goes_on, (b, t), x.device())?;
        let mut x = x.clone();
        for (n, layer) in self.layers.iter().enumerate() {
            let gates = layer.input.plain(&x.reshape((b * t, d))?, tracked)?.reshape((b, t, 4 * d))?;
            let hidden = layer.hidden.tensor(tracked);
            let none = Tensor::zeros((b, d), DType::F32, x.device())?;
            let mut state = LstmState { cell: none.clone(), output: none };
            let mut outputs = Vec::with_capacity(t);
            for step in 0..t {
                let goes_on = goes_on.narrow(1, step, 1)?; // [B, 1]
                let before = LstmState {
                    cell: state.cell.broadcast_mul(&goes_on)?,
                    output: state.output.broadcast_mul(&goes_on)?,
                };
                state = before.next(&(gates.narrow(1, step, 1)?.squeeze(1)? + before.output.matmul(&hidden)?)?)?;
                outputs.push(state.output.clone());
            }
            x = Tensor::stack(&outputs, 1)?; // [B, T, D]
            if let Some(Some(at)) = drops.get(n) {
                x = dropout(&x, *at)?;
            }
        }
        Ok(x)
    }
}

/// A layer's state after a token of each sequence, in candle's operations.
struct LstmState {
    /// `[B, D]`.
    cell: Tensor,
    /// `[B, D]`.
    output: Tensor,
}

impl LstmState {
    /// The state after one more token; `sums`: those of the gates, `[B, 4·D]`.
    fn next(&self, sums: &Tensor) -> Result<Self> {
        let parts = sums.chunk(4, D::Minus1)?; // [B, D] each
        let (write, keep, show) = (sigmoid(&parts[0])?, sigmoid(&parts[1])?, sigmoid(&parts[3])?);
        let cell = ((keep * &self.cell)? + (write * parts[2].tanh()?)?)?;
        Ok(Self { output: (show * cell.tanh()?)?, cell })
    }
}

/// `x`: `[N, in]`. Returns `x·weight`. On the CPU each row is the same in any batch, which candle's product does not
/// guarantee.
fn product(x: &Tensor, weight: &Parameter, precision: Precision) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return x.matmul(&weight.merged(false)?);
    }
    let ((n, width), (_, out)) = (x.dims2()?, weight.var().dims2()?);
    let panels = weight.panels(precision, false)?;
    let mut y = vec![0.0; n * out];
    with_f32s(&x.contiguous()?, |x| {
        multiply(Matrix::new(x, n, width, width), &panels, &mut y[..], |_, _, sums, y| y.copy_from_slice(sums));
    })?;
    Tensor::from_vec(y, (n, out), x.device())
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// One forward pass, and what it saves for its backward pass.
struct LstmOp {
    lstm: Arc<LstmStack>,
    sequences: Arc<Sequences>,
    precision: Precision,
    drops: Vec<Option<Dropout>>,
    learn: bool,
    kept: Mutex<Option<Vec<SavedLayer>>>,
}

/// What a layer saves for its backward pass; rows in [`StepOrder`].
struct SavedLayer {
    /// Its input, `[N, D]`.
    x: Vec<f32>,
    /// Values of the gates, `[N, 4·D]`; after the backward pass the gradients of their sums.
    gates: Vec<f32>,
    /// Cells, `[N, D]`.
    cells: Vec<f32>,
    /// Its output before dropout, `[N, D]`.
    outputs: Vec<f32>,
}

impl CustomOp1 for LstmOp {
    fn name(&self) -> &'static str {
        "lstm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = layout.shape();
        let (_, _, d) = shape.dims3()?;
        let x = f32s(storage, layout, self.name())?;
        let y = among_the_threads(|| self.forward(x, d))?;
        Ok((CpuStorage::F32(y), shape.clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            bail!("the gradient of a forward pass can be computed only once");
        };
        let (_, _, d) = x.dims3()?;
        let dx = with_f32s(&dy.contiguous()?, |dy| among_the_threads(|| self.backward(dy, d, kept)))??;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

impl LstmOp {
    fn forward(&self, x: &[f32], d: usize) -> Result<Vec<f32>> {
        if x.is_empty() {
            return Ok(Vec::new());
        }
        let order = StepOrder::of(&self.sequences);
        let mut x = order.gather(x, d);
        let mut all = Vec::with_capacity(self.lstm.layers.len());
        for (n, layer) in self.lstm.layers.iter().enumerate() {
            let kept = layer.forward(self.precision, x, &order, d)?;
            x = kept.outputs.clone();
            order.drop(&mut x, self.drops.get(n), self.sequences.window(), d);
            if self.learn {
                all.push(kept);
            }
        }
        if self.learn {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(all);
        }
        Ok(order.scatter(&x, d))
    }

    fn backward(&self, dy: &[f32], d: usize, mut all: Vec<SavedLayer>) -> Result<Vec<f32>> {
        let order = StepOrder::of(&self.sequences);
        let mut dx = order.gather(dy, d);
        for (n, layer) in self.lstm.layers.iter().enumerate().rev() {
            let Some(kept) = all.pop() else { bail!("a layer saved nothing for the backward pass") };
            order.drop(&mut dx, self.drops.get(n), self.sequences.window(), d);
            layer.backward(self.precision, &mut dx, kept, &order, d)?;
        }
        Ok(order.scatter(&dx, d))
    }
}

impl LstmLayer {
    /// `x`: `[N, D]`, rows in `order`.
    fn forward(&self, precision: Precision, x: Vec<f32>, order: &StepOrder, d: usize) -> Result<SavedLayer> {
        let n = x.len() / d;
        let (mut gates, mut cells, mut outputs) = (vec![0.0; 4 * n * d], vec![0.0; n * d], vec![0.0; n * d]);
        self.input.write(precision, &x, &mut gates)?;
        let hidden = self.hidden.panels(precision, false)?;
        let [gate_parts, cell_parts, output_parts] =
            [&mut gates, &mut cells, &mut outputs].map(|x| SharedSlice::new(x));
        order.jobs().for_each(|rows| {
            let none = vec![0.0; rows.len() * d];
            let (mut cells_before, mut outputs_before) = (&*none, &*none);
            for position in 0..order.positions() {
                let places = order.places(position, &rows);
                if places.is_empty() {
                    break;
                }
                let (m, numbers) = (places.len(), places.start * d..places.end * d);
                // SAFETY: the places of a sequence belong to one job, which takes those of each position once.
                let (gates, cells, outputs) = unsafe {
                    let gates = gate_parts.part(4 * numbers.start..4 * numbers.end);
                    (gates, cell_parts.part(numbers.clone()), output_parts.part(numbers))
                };
                if position > 0 {
                    multiply_here(Matrix::new(outputs_before, m, d, d), &hidden, |row, column, sums| {
                        add_to(sums, &mut gates[row * 4 * d + column..][..sums.len()]);
                    });
                }
                let by_row = gates.chunks_exact_mut(4 * d).zip(cells_before.chunks_exact(d));
                let results = cells.chunks_exact_mut(d).zip(outputs.chunks_exact_mut(d));
                for ((gates, before), (cell, output)) in by_row.zip(results) {
                    cell_forward(gates, before, cell, output);
                }
                (cells_before, outputs_before) = (cells, outputs);
            }
        });
        Ok(SavedLayer { x, gates, cells, outputs })
    }

    /// `dx`: gradient of the layer's output, `[N, D]`, changed in place into that of its input. Adds the gradients of the
    /// weights to theirs.
    fn backward(
        &self,
        precision: Precision,
        dx: &mut [f32],
        kept: SavedLayer,
        order: &StepOrder,
        d: usize,
    ) -> Result<()> {
        let SavedLayer { x, mut gates, cells, outputs } = kept;
        let hidden = self.hidden.panels(precision, true)?;
        let (gate_parts, dx_parts) = (SharedSlice::new(&mut gates), SharedSlice::new(dx));
        order.jobs().for_each(|rows| {
            let none = vec![0.0; rows.len() * d];
            let (mut dcells, mut later) = (none.clone(), none.clone());
            for position in (0..order.positions()).rev() {
                let places = order.places(position, &rows);
                let (m, numbers) = (places.len(), places.start * d..places.end * d);
                if m == 0 {
                    continue;
                }
                // SAFETY: as in the forward pass.
                let (gates, doutputs) = unsafe {
                    let gates = gate_parts.part(4 * numbers.start..4 * numbers.end);
                    (gates, dx_parts.part(numbers.clone()))
                };
                add_to(&later[..m * d], doutputs);
                let before = match position.checked_sub(1) {
                    Some(earlier) => &cells[order.places(earlier, &rows).start * d..][..m * d],
                    None => &none[..m * d],
                };
                let states = before.chunks_exact(d).zip(cells[numbers].chunks_exact(d));
                let gradients = doutputs.chunks_exact(d).zip(dcells.chunks_exact_mut(d));
                for ((gates, (before, cell)), (doutput, dcell)) in
                    gates.chunks_exact_mut(4 * d).zip(states).zip(gradients)
                {
                    cell_backward(gates, before, cell, doutput, dcell);
                }
                if position > 0 {
                    multiply_here(Matrix::new(&*gates, m, 4 * d, 4 * d), &hidden, |row, column, sums| {
                        later[row * d + column..][..sums.len()].copy_from_slice(sums);
                    });
                }
            }
        });
        // Each token but the first of a sequence read the output before it.
        let all = 0..order.firsts[1];
        let before = (1..order.positions()).flat_map(|position| {
            let first = order.places(position - 1, &all).start;
            &outputs[first * d..][..order.places(position, &all).len() * d]
        });
        let before: Vec<f32> = before.copied().collect();
        let (n, after) = (before.len() / d, &gates[4 * d * all.end..]);
        self.hidden.add_gradient(|sum, add| {
            let (before, after) = (Matrix::new(&before, n, d, d), Matrix::new(after, n, 4 * d, 4 * d));
            accumulate(precision, before.t(), after, sum, add);
        });
        self.input.add_weight_gradients(precision, &x, &gates)?;
        self.input.backward(precision, &gates, dx, |sums, dx| dx.copy_from_slice(sums))
    }
}

#[inline(always)]
fn gate<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FUSED>(-x))
}

#[inline(always)]
fn tanh<const FUSED: bool>(x: f32) -> f32 {
    fused::<FUSED>(2.0, gate::<FUSED>(2.0 * x), -1.0)
}

vectorized! {
    /// One token: sums of the four gates → their values, in `gates`, `[4·D]`; from the cell `before` the new one and the
    /// output.
    fn cell_forward(gates: &mut [f32], before: &[f32], cell: &mut [f32], output: &mut [f32]) {
        let d = cell.len();
        let (first, second) = gates.split_at_mut(2 * d);
        let ((write, keep), (new, show)) = (first.split_at_mut(d), second.split_at_mut(d));
        let (before, output) = (&before[..d], &mut output[..d]);
        for k in 0..d {
            write[k] = gate::<FUSED>(write[k]);
            keep[k] = gate::<FUSED>(keep[k]);
            new[k] = tanh::<FUSED>(new[k]);
            show[k] = gate::<FUSED>(show[k]);
            cell[k] = fused::<FUSED>(keep[k], before[k], write[k] * new[k]);
            output[k] = show[k] * tanh::<FUSED>(cell[k]);
        }
    }
}

vectorized! {
    /// One token: from the gradients of its output and, in `dcell`, of its cell through the next one, those of the sums, in
    /// the place of the values of the `gates`, and of the cell `before`, in `dcell`.
    fn cell_backward(gates: &mut [f32], before: &[f32], cell: &[f32], doutput: &[f32], dcell: &mut [f32]) {
        let d = cell.len();
        let (first, second) = gates.split_at_mut(2 * d);
        let ((write, keep), (new, show)) = (first.split_at_mut(d), second.split_at_mut(d));
        let (before, doutput, dcell) = (&before[..d], &doutput[..d], &mut dcell[..d]);
        for k in 0..d {
            let shown = tanh::<FUSED>(cell[k]);
            let through = doutput[k] * show[k];
            let dhere = fused::<FUSED>(through, 1.0 - shown * shown, dcell[k]);
            let (of_write, of_new) = (dhere * new[k], dhere * write[k]);
            let (of_keep, of_show) = (dhere * before[k], doutput[k] * shown);
            dcell[k] = dhere * keep[k];
            write[k] = of_write * write[k] * (1.0 - write[k]);
            keep[k] = of_keep * keep[k] * (1.0 - keep[k]);
            new[k] = of_new * (1.0 - new[k] * new[k]);
            show[k] = of_show * show[k] * (1.0 - show[k]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};
    use candle_core::{Device, Var};

    const DROPS: [Option<Dropout>; 2] = [
        Some(Dropout { p: 0.3, seed: 1, site: 0, first_row: 2 }),
        Some(Dropout { p: 0.3, seed: 1, site: 1, first_row: 2 }),
    ];

    /// Two layers of drawn weights, and these.
    fn lstm(d: usize) -> (Arc<LstmStack>, Vec<Arc<Parameter>>) {
        let mut all = Vec::new();
        let mut parameter = |shape: &[usize]| {
            let values = (draw(all.len() as u64 + 10, shape) * 0.4).unwrap();
            all.push(Arc::new(Parameter::new(&values).unwrap()));
            Arc::clone(&all[all.len() - 1])
        };
        let layers = (0..2).map(|_| LstmLayer {
            input: Linear { weight: parameter(&[d, 4 * d]), bias: parameter(&[4 * d]) },
            hidden: parameter(&[d, 4 * d]),
        });
        let layers = layers.collect();
        (Arc::new(LstmStack { layers }), all)
    }

    /// Whole windows in one job and in several; sequences of unequal lengths in windows, of one token too.
    fn shapes() -> Vec<(usize, Sequences)> {
        let starts: [&[u32]; 3] = [&[0, 1, 4], &[0], &[0, 6]];
        vec![
            (6, Sequences::windows(3, 7)),
            (20, Sequences::windows(9, 5)),
            (6, Sequences::windows(2, 1)),
            (6, Sequences::packed(9, starts).unwrap()),
            (10, Sequences::packed(14, [&[0u32, 3, 4, 9, 12][..]]).unwrap()),
        ]
    }

    #[test]
    fn the_loops_agree_with_candles_operations_forward_and_backward() {
        for (d, sequences) in shapes() {
            let (lstm, parameters) = lstm(d);
            let shape = [sequences.n_windows(), sequences.window(), d];
            let (x, dy) = (Var::from_tensor(&draw(1, &shape)).unwrap(), draw(2, &shape));
            let sequences = Arc::new(sequences);
            for drops in [&[][..], &DROPS] {
                let plain = lstm.plain(x.as_tensor(), &sequences, drops, true).unwrap();
                let expected = (&plain * &dy).unwrap().sum_all().unwrap().backward().unwrap();
                let forward = |learn| lstm.forward(x.as_tensor(), &sequences, Precision::F32, drops, learn).unwrap();
                let fast = forward(true);
                assert_close("y", &fast, &plain, 1e-5);
                assert_close("y, without a graph", &forward(false), &fast, 0.0);
                assert!(!forward(false).track_op());
                parameters.iter().for_each(|p| p.clear_gradient());
                let grads = (&fast * &dy).unwrap().sum_all().unwrap().backward().unwrap();
                assert_close("dx", grads.get(&x).unwrap(), expected.get(&x).unwrap(), 1e-5);
                for (n, parameter) in parameters.iter().enumerate() {
                    let (gradient, plain) = (parameter.gradient().unwrap(), expected.get(parameter.var()));
                    // Where all sequences are of one token, nothing goes on: candle's gradient is 0 there too.
                    let tolerance = 2e-5 * (sequences.n_tokens() as f32).sqrt();
                    assert_close(&format!("gradient of parameter {n}"), &gradient, plain.unwrap(), tolerance);
                }
            }
        }
    }

    #[test]
    fn the_definition_has_the_gradient_of_finite_differences() {
        let (lstm, _) = lstm(3);
        for (starts, drops) in [([&[0u32][..], &[0]], &[][..]), ([&[0, 2], &[0, 1]], &DROPS)] {
            let sequences = Sequences::packed(4, starts).unwrap();
            assert_gradient(&[draw(1, &[2, 4, 3])], 2e-3, |x| lstm.plain(&x[0], &sequences, drops, false));
        }
    }

    /// The weights' gradients by the loops, for each element of all parameters.
    #[test]
    fn weights_have_the_gradient_of_finite_differences() {
        let (lstm, parameters) = lstm(3);
        let sequences = Arc::new(Sequences::packed(5, [&[0u32, 2][..], &[0]]).unwrap());
        let (x, dy) = (draw(1, &[2, 5, 3]), draw(2, &[2, 5, 3]));
        let x = Var::from_tensor(&x).unwrap();
        let value = |learn| {
            let y = lstm.forward(x.as_tensor(), &sequences, Precision::F32, &[], learn).unwrap();
            (y * &dy).unwrap().sum_all().unwrap()
        };
        value(true).backward().unwrap();
        for (n, parameter) in parameters.iter().enumerate() {
            let gradient: Vec<f32> = parameter.gradient().unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let values: Vec<f32> = parameter.tensor(false).flatten_all().unwrap().to_vec1().unwrap();
            for (i, gradient) in gradient.iter().enumerate() {
                let moved = |by: f32| {
                    let mut values = values.clone();
                    values[i] += by;
                    parameter.change(|old| old.copy_from_slice(&values)).unwrap();
                    value(false).to_scalar::<f32>().unwrap()
                };
                let measured = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                moved(0.0);
                assert!((measured - gradient).abs() < 3e-3, "{n}, {i}: {measured} by differences, {gradient}");
            }
        }
    }

    /// By hand, of one unit: every weight 1, bias 0, x = 1.
    #[test]
    fn two_steps_are_those_of_the_formulas() {
        let parameter =
            |shape: &[usize], x: f32| Arc::new(Parameter::new(&Tensor::full(x, shape, &Device::Cpu).unwrap()).unwrap());
        let input = Linear { weight: parameter(&[1, 4], 1.0), bias: parameter(&[4], 0.0) };
        let lstm = Arc::new(LstmStack { layers: vec![LstmLayer { input, hidden: parameter(&[1, 4], 1.0) }] });
        let x = Tensor::ones((1, 2, 1), DType::F32, &Device::Cpu).unwrap();
        let windows = Arc::new(Sequences::windows(1, 2));
        let y = lstm.forward(&x, &windows, Precision::F32, &[], false).unwrap();
        // σ(1) = 0.731059, tanh(1) = 0.761594: c₁ = 0.556770, h₁ = 0.731059·tanh(0.556770) = 0.369606.
        // a = 1.369606: σ(a) = 0.797317, tanh(a) = 0.878602: c₂ = 0.797317·0.556770 + 0.797317·0.878602 = 1.144446,
        // h₂ = 0.797317·tanh(1.144446) = 0.650535.
        let expected = Tensor::new(&[[[0.369_606f32], [0.650_535]]], &Device::Cpu).unwrap();
        assert_close("h", &y, &expected, 2e-6);
    }

    #[test]
    fn a_sequence_is_treated_the_same_in_any_batch() {
        let (lstm, _) = lstm(12);
        let x = draw(1, &[9, 6, 12]);
        let run = |from: usize, n: usize| {
            let drops = DROPS.map(|at| at.map(|at| Dropout { first_row: at.first_row + from as u64, ..at }));
            let windows = Arc::new(Sequences::windows(n, 6));
            lstm.forward(&x.narrow(0, from, n).unwrap(), &windows, Precision::F32, &drops, false).unwrap()
        };
        assert_close("last two", &run(7, 2), &run(0, 9).narrow(0, 7, 2).unwrap(), 0.0);
    }

    /// bf16 rounds what products read to 8 bits: a few parts in a hundred of the largest.
    #[test]
    fn bf16_stays_near_f32() {
        let (lstm, parameters) = lstm(20);
        let windows = Arc::new(Sequences::windows(5, 9));
        let (x, dy) = (Var::from_tensor(&draw(1, &[5, 9, 20])).unwrap(), draw(2, &[5, 9, 20]));
        let run = |precision| {
            parameters.iter().for_each(|p| p.clear_gradient());
            let y = lstm.forward(x.as_tensor(), &windows, precision, &[], true).unwrap();
            let grads = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
            let mut all = vec![y, grads.get(&x).unwrap().clone()];
            all.extend(parameters.iter().map(|p| p.gradient().unwrap()));
            all
        };
        for (n, (near, exact)) in run(Precision::Bf16).iter().zip(&run(Precision::F32)).enumerate() {
            let largest = exact.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert_close(&format!("number {n}"), near, exact, 0.05 * largest);
        }
    }

    /// Token by token or several at once, of sequences that leave, come twice and are cut.
    #[test]
    fn steps_over_a_cache_are_those_of_whole_sequences() {
        let (lstm, _) = lstm(6);
        let x = draw(1, &[2, 9, 6]);
        let whole = lstm.forward(&x, &Arc::new(Sequences::windows(2, 9)), Precision::F32, &[], false).unwrap();
        let mut cache = Cache::of_states(2, 9);
        let step = |cache: &mut Cache, rows: &[usize], tokens: std::ops::Range<usize>| {
            let rows: Vec<Tensor> = rows.iter().map(|&row| x.narrow(0, row, 1).unwrap()).collect();
            let x = Tensor::cat(&rows, 0).unwrap().narrow(1, tokens.start, tokens.len()).unwrap();
            lstm.step(&x, &Sequences::windows(rows.len(), tokens.len()), Precision::F32, cache).unwrap()
        };
        let of = |row: usize, tokens: std::ops::Range<usize>| {
            whole.narrow(0, row, 1).unwrap().narrow(1, tokens.start, tokens.len()).unwrap()
        };
        let both = step(&mut cache, &[0, 1], 0..4);
        assert_close("the first of both", &both, &whole.narrow(1, 0, 4).unwrap(), 1e-5);
        cache.keep(&[1, 0, 1]).unwrap();
        let next = step(&mut cache, &[1, 0, 1], 4..5);
        for (row, own) in [(0, 1), (1, 0), (2, 1)] {
            assert_close("one more", &next.narrow(0, row, 1).unwrap(), &of(own, 4..5), 1e-5);
        }
        cache.truncate(2);
        let mut other = cache.copies(&[1]).unwrap();
        assert_eq!(other.lens(), [2]);
        assert_close("after a cut", &step(&mut other, &[0], 2..9), &of(0, 2..9), 1e-5);
        let more = lstm.step(&draw(1, &[1, 8, 6]), &Sequences::windows(1, 8), Precision::F32, &mut other);
        let error = more.unwrap_err().to_string();
        assert!(error.contains("a cache for 9 tokens"), "{error}");
    }

    #[test]
    fn branches_are_refused() {
        let (lstm, _) = lstm(3);
        let tree = Arc::new(Sequences::branching([(2, &[1usize, 2][..])]).unwrap());
        let error = lstm.forward(&draw(1, &[1, 5, 3]), &tree, Precision::F32, &[], false).unwrap_err();
        assert!(error.to_string().contains("no branches"), "{error}");
    }
}

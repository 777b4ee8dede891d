//! One update of Muon (Jordan et al. 2024): the mean of a matrix's gradients, with its singular values brought near 1.
//!
//! The singular values come near 1 by an odd polynomial that is applied five times (Newton-Schulz), which takes matrix
//! products alone. Its coefficients, the update and its scale are those of `torch.optim.Muon`.

use crate::cpu::kernel::Kernel;
use crate::cpu::vectorized;
use crate::matrix::Matrix;
use crate::norm::squares;
use crate::panels::{pack_left_all, pack_right_all};
use crate::parameter::Parameter;
use crate::path::{Path, Precision, with_kernel};
use crate::product::tile;
use crate::scratch::ScratchBuffer;
use crate::slices::with_f32s_mut;
use candle_core::{Result, Tensor, Var, bail};
use rayon::prelude::*;

/// What an update is made with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub momentum: f64,
    /// Decoupled weight decay, relative to `lr`.
    pub weight_decay: f64,
}

/// a, b and c: a singular value s becomes a·s + b·s³ + c·s⁵.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.775, 2.0315];
/// How often.
const ITERATIONS: usize = 5;
/// The least that a matrix is divided by instead of its norm.
const EPS: f64 = 1e-7;
/// Multiplications of a product that are worth handing to another thread.
const WORTH_A_THREAD: usize = 1 << 22;

impl Muon {
    /// The length of the step of a matrix of `width` inputs and `out` outputs.
    fn rate(&self, width: usize, out: usize) -> f64 {
        self.lr * (out as f64 / width as f64).max(1.0).sqrt()
    }
}

/// Updates the weights of `parameter` and the mean of its gradients `mean` in place with its gradient times `scale`; all
/// `[in, n·out]`, where `n_matrices` matrices of `[in, out]` stand side by side, each of which is updated by itself.
/// Products read numbers of `precision`.
///
/// # Errors
/// When the shapes differ or no gradient reaches the parameter.
pub fn muon(
    parameter: &Parameter,
    mean: &Var,
    n_matrices: usize,
    scale: f64,
    precision: Precision,
    muon: &Muon,
) -> Result<()> {
    let (width, columns) = parameter.var().dims2()?;
    if n_matrices == 0 || !columns.is_multiple_of(n_matrices) {
        bail!("{columns} columns cannot be divided into {n_matrices} matrices");
    }
    parameter.with_gradient(
        |gradient| {
            let directions = with_f32s_mut(mean, |mean| {
                let directions = advance(mean, gradient, scale as f32, muon.momentum as f32);
                directions_near_one(precision, &directions, (width, columns), n_matrices)
            })?;
            parameter.change(|weights| apply(weights, &directions, columns, muon))
        },
        |gradient| {
            parameter.changed();
            plain(parameter.var(), mean, n_matrices, gradient, scale, muon)
        },
    )
}

/// mean ← μ·mean + (1 − μ)·g. Returns μ·mean + (1 − μ)·g of the new mean (Nesterov's momentum).
fn advance(mean: &mut [f32], gradient: &[f32], scale: f32, momentum: f32) -> Vec<f32> {
    let mut ahead = vec![0.0; mean.len()];
    let parts = mean.par_chunks_mut(CHUNK).zip(ahead.par_chunks_mut(CHUNK)).zip(gradient.par_chunks(CHUNK));
    parts.for_each(|((mean, ahead), gradient)| advance_part(mean, ahead, gradient, scale, momentum));
    ahead
}

/// Numbers that a thread takes at a time.
const CHUNK: usize = 16 * 1024;

vectorized! {
    fn advance_part(mean: &mut [f32], ahead: &mut [f32], gradient: &[f32], scale: f32, momentum: f32) {
        for ((mean, ahead), gradient) in mean.iter_mut().zip(ahead).zip(gradient) {
            let new = (1.0 - momentum) * (gradient * scale);
            *mean = momentum * *mean + new;
            *ahead = momentum * *mean + new;
        }
    }
}

/// The matrices in `means`, `[in, n·out]`, each `[in, out]`, with singular values near 1.
fn directions_near_one(
    precision: Precision,
    means: &[f32],
    (width, columns): (usize, usize),
    n_matrices: usize,
) -> Vec<Vec<f32>> {
    let out = columns / n_matrices;
    let near_one = |n: usize| {
        let mut x: Vec<f32> = Vec::with_capacity(width * out);
        means.chunks_exact(columns).for_each(|row| x.extend(&row[n * out..(n + 1) * out]));
        with_kernel!(Path::of(precision), K => bring_near_one::<K>(&mut x, width, out));
        x
    };
    (0..n_matrices).into_par_iter().map(near_one).collect()
}

/// weights ← weights·(1 − lr·decay) − rate·direction
fn apply(weights: &mut [f32], directions: &[Vec<f32>], columns: usize, muon: &Muon) {
    let out = columns / directions.len();
    let width = weights.len() / columns;
    let (keep, rate) = ((1.0 - muon.lr * muon.weight_decay) as f32, muon.rate(width, out) as f32);
    for (i, row) in weights.chunks_exact_mut(columns).enumerate() {
        for (weights, direction) in row.chunks_exact_mut(out).zip(directions) {
            step(weights, &direction[i * out..(i + 1) * out], keep, rate);
        }
    }
}

vectorized! {
    fn step(weights: &mut [f32], direction: &[f32], keep: f32, rate: f32) {
        weights.iter_mut().zip(direction).for_each(|(w, direction)| *w = keep * *w - rate * direction);
    }
}

/// `x`: `[rows, columns]`. With G the smaller of XXᵀ and XᵀX, x ← (a + b·G + c·G²)·x or x·(a + b·G + c·G²), over and over.
fn bring_near_one<K: Kernel>(x: &mut Vec<f32>, rows: usize, columns: usize) {
    let norm = squares(x).sqrt().max(EPS);
    scale_by(x, (1.0 / norm) as f32);
    let mut packed = <[ScratchBuffer; 2]>::default();
    let m = rows.min(columns);
    let (mut gram, mut polynomial, mut next) = (vec![0.0; m * m], vec![0.0; m * m], vec![0.0; x.len()]);
    for _ in 0..ITERATIONS {
        let this = Matrix::new(x, rows, columns, columns);
        let (left, right) = if rows <= columns { (this, this.t()) } else { (this.t(), this) };
        product::<K>(left, right, true, &mut packed, &mut gram);
        let square = Matrix::new(&gram, m, m, m);
        product::<K>(square, square, true, &mut packed, &mut polynomial);
        combine(&gram, &mut polynomial, m);
        let polynomial = Matrix::new(&polynomial, m, m, m);
        let (left, right) = if rows <= columns { (polynomial, this) } else { (this, polynomial) };
        product::<K>(left, right, false, &mut packed, &mut next);
        std::mem::swap(x, &mut next);
    }
}

/// `c = a·b`. Of a symmetric product the half below the diagonal is made, and mirrored.
fn product<K: Kernel>(a: Matrix<f32>, b: Matrix<f32>, symmetric: bool, packed: &mut [ScratchBuffer; 2], c: &mut [f32]) {
    pack_left_all::<K, f32>(a, &mut packed[0]);
    pack_right_all::<K, f32>(b, &mut packed[1]);
    let (left, right): (&[K::Left], &[K::Right]) = (packed[0].last(), packed[1].last());
    let (rows, columns, deep) = (a.rows, b.columns, a.columns.next_multiple_of(K::DEPTH));
    let worth = WORTH_A_THREAD.div_ceil((K::ROWS * deep * columns).max(1));
    let strips = c.par_chunks_mut(K::ROWS * columns).enumerate().with_min_len(worth);
    strips.for_each_init(ScratchBuffer::default, |edge, (strip, c)| {
        let row = strip * K::ROWS;
        let n = K::ROWS.min(rows - row);
        let left = &left[row * deep..][..K::ROWS * deep];
        let end = if symmetric { (row + n).min(columns) } else { columns };
        for first in (0..end).step_by(K::COLUMNS) {
            let right = &right[first * deep..][..K::COLUMNS * deep];
            let width = K::COLUMNS.min(columns - first);
            if (n, width) == (K::ROWS, K::COLUMNS) {
                tile::<K, K::Right>(n, left, right, deep, (&mut c[first..], columns), false);
                continue;
            }
            let sums = edge.numbers::<f32>(K::ROWS * K::COLUMNS);
            tile::<K, K::Right>(n, left, right, deep, (&mut *sums, K::COLUMNS), false);
            for (c, sums) in c.chunks_mut(columns).zip(sums.chunks(K::COLUMNS)) {
                c[first..first + width].copy_from_slice(&sums[..width]);
            }
        }
    });
    if symmetric {
        mirror(c, columns);
    }
}

vectorized! {
    /// Copies what is below the diagonal of `x`, `[m, m]`, to above it.
    fn mirror(x: &mut [f32], m: usize) {
        // In blocks, which stay in registers.
        const BLOCK: usize = 16;
        let whole = m / BLOCK * BLOCK;
        for below in (0..whole).step_by(BLOCK) {
            for above in (0..below).step_by(BLOCK) {
                let rows: [[f32; BLOCK]; BLOCK] =
                    std::array::from_fn(|r| std::array::from_fn(|c| x[(below + r) * m + above + c]));
                for c in 0..BLOCK {
                    let column: [f32; BLOCK] = std::array::from_fn(|r| rows[r][c]);
                    x[(above + c) * m + below..][..BLOCK].copy_from_slice(&column);
                }
            }
            for above in below..below + BLOCK {
                for below in above + 1..below + BLOCK {
                    x[above * m + below] = x[below * m + above];
                }
            }
        }
        for below in whole..m {
            for above in 0..below {
                x[above * m + below] = x[below * m + above];
            }
        }
    }
}

vectorized! {
    /// `polynomial`: G², `[m, m]`, which becomes a + b·G + c·G².
    fn combine(gram: &[f32], polynomial: &mut [f32], m: usize) {
        let [a, b, c] = COEFFICIENTS;
        polynomial.iter_mut().zip(gram).for_each(|(polynomial, gram)| *polynomial = b * gram + c * *polynomial);
        polynomial.iter_mut().step_by(m + 1).for_each(|diagonal| *diagonal += a);
    }
}

vectorized! {
    fn scale_by(x: &mut [f32], scale: f32) {
        x.iter_mut().for_each(|x| *x *= scale);
    }
}

/// The definition of right, in candle's operations.
fn plain(weights: &Var, mean: &Var, n_matrices: usize, gradient: &Tensor, scale: f64, muon: &Muon) -> Result<()> {
    let new = (gradient * (scale * (1.0 - muon.momentum)))?;
    mean.set(&((mean.as_tensor() * muon.momentum)? + &new)?)?;
    let ahead = ((mean.as_tensor() * muon.momentum)? + new)?;
    let (width, columns) = weights.dims2()?;
    let out = columns / n_matrices;
    let near_one = ahead.chunk(n_matrices, 1)?.iter().map(plain_near_one).collect::<Result<Vec<_>>>()?;
    let direction = Tensor::cat(&near_one, 1)?;
    let decayed = (weights.as_tensor() * (1.0 - muon.lr * muon.weight_decay))?;
    weights.set(&(decayed - (direction * muon.rate(width, out))?)?.detach())
}

fn plain_near_one(matrix: &Tensor) -> Result<Tensor> {
    let (width, out) = matrix.dims2()?;
    let mut x = if width > out { matrix.t()?.contiguous()? } else { matrix.contiguous()? };
    let norm = f64::from(x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?).max(EPS);
    x = (x / norm)?;
    let [a, b, c] = COEFFICIENTS.map(f64::from);
    for _ in 0..ITERATIONS {
        let gram = x.matmul(&x.t()?)?;
        let polynomial = ((&gram * b)? + (gram.matmul(&gram)? * c)?)?;
        x = ((&x * a)? + polynomial.matmul(&x)?)?;
    }
    if width > out { x.t()?.contiguous() } else { Ok(x) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, draw};
    use candle_core::{DType, Device};

    const MUON: Muon = Muon { lr: 0.02, momentum: 0.95, weight_decay: 0.1 };

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The weights after three updates with their change, `[in, out]`.
    fn three_steps(shape: [usize; 2], n_matrices: usize, precision: Option<Precision>) -> Tensor {
        let parameter = Parameter::new(&draw(1, &shape)).unwrap();
        let mean = Var::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
        for i in 1..=3 {
            let gradient = draw(10 + i, &shape);
            match precision {
                Some(precision) => {
                    let gradient = numbers(&gradient);
                    parameter.clear_gradient();
                    parameter.add_gradient(|sums, _| sums.copy_from_slice(&gradient));
                    muon(&parameter, &mean, n_matrices, 0.5, precision, &MUON).unwrap();
                }
                None => plain(parameter.var(), &mean, n_matrices, &gradient, 0.5, &MUON).unwrap(),
            }
        }
        parameter.var().as_tensor().copy().unwrap()
    }

    /// Of matrices that are wide, tall, square, joined, and of sizes that panels do not divide into.
    #[test]
    fn the_update_in_place_agrees_with_the_plain_one() {
        for (shape, n_matrices) in [([5, 7], 1), ([70, 33], 1), ([40, 120], 3), ([96, 96], 1), ([130, 45], 1)] {
            let expected = three_steps(shape, n_matrices, None);
            assert_close("f32", &three_steps(shape, n_matrices, Some(Precision::F32)), &expected, 1e-4);
            assert_close("bf16", &three_steps(shape, n_matrices, Some(Precision::Bf16)), &expected, 5e-3);
        }
    }

    /// XXᵀ has the squares of the singular values of X on its diagonal only if these are near 1 in all directions.
    #[test]
    fn singular_values_come_near_one() {
        let (m, n) = (48, 200);
        for precision in [Precision::F32, Precision::Bf16] {
            let mut x = numbers(&draw(3, &[m, n]));
            with_kernel!(Path::of(precision), K => bring_near_one::<K>(&mut x, m, n));
            let x = Tensor::from_vec(x, (m, n), &Device::Cpu).unwrap();
            let gram = numbers(&x.matmul(&x.t().unwrap()).unwrap());
            for (at, number) in gram.into_iter().enumerate() {
                let expected = if at / m == at % m { 1.0 } else { 0.0 };
                assert!((number - expected).abs() < 0.5, "{precision:?}: {number} at {at}");
            }
        }
    }

    #[test]
    fn the_half_below_the_diagonal_is_mirrored() {
        for m in [1, 15, 16, 17, 50] {
            let symmetric = |at: usize| (at / m * (at % m) + at / m + at % m) as f32;
            let mut x: Vec<f32> =
                (0..m * m).map(|at| if at % m <= at / m { symmetric(at) } else { f32::NAN }).collect();
            mirror(&mut x, m);
            assert!((0..m * m).all(|at| x[at] == symmetric(at)), "{m}");
        }
    }

    /// What torch.optim.Muon of PyTorch 2.11 makes of such a matrix, in f32 (its own products are in bf16): `lr = 0.02`,
    /// `momentum = 0.95`, `weight_decay = 0.1`, one step.
    #[test]
    fn the_first_step_is_pytorchs() {
        let number = |i: usize| (i * 7 % 11) as f32 - 5.0;
        let shape = (3, 4);
        let parameter = Parameter::new(&Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap()).unwrap();
        let mean = Var::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        parameter.add_gradient(|sums, _| sums.iter_mut().enumerate().for_each(|(i, sum)| *sum = number(i)));
        muon(&parameter, &mean, 1, 1.0, Precision::F32, &MUON).unwrap();
        let expected = Tensor::new(&EXPECTED, &Device::Cpu).unwrap();
        assert_close("weights", parameter.var().as_tensor(), &expected, 1e-5);
    }

    const EXPECTED: [[f32; 4]; 3] = [
        [1.0155627, 0.9931747, 1.0003273, 0.9850981],
        [1.0031573, 1.0098028, 0.9775586, 0.9985292],
        [1.0126739, 0.9910637, 0.997273, 1.0106488],
    ];
}

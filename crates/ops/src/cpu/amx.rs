//! Products of bf16 on matrix tiles (Intel's AMX): 32 × 32 sums in four tiles, from two tiles of each side.
//!
//! A tile holds 16 rows of 64 bytes: 16 rows of a left panel of [`pairs`], or 16 pairs of depth of 16 columns of a right
//! one. Panels begin at multiples of 64 bytes, without which loads take twice as long.
//!
//! - [`bytes`]     products of numbers of few bits on tiles
//! - `emulated`    tiles for tests, on processors without them

pub(crate) mod bytes;
#[cfg(test)]
pub(crate) mod emulated;

use crate::cpu::element::{Element, bf16};
use crate::cpu::kernel::Kernel;
use crate::cpu::pairs;
use crate::cpu::prefetch;
use crate::matrix::Matrix;
use aligned_vec::AVec;
use std::ops::Range;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Amx;

/// Asks the processor whether it has tiles for bf16 and for bytes, and the kernel for permission to use them.
pub(crate) fn permit() -> Result<(), String> {
    use std::arch::x86_64::__cpuid_count;
    // EDX of leaf 7: AMX-BF16, AMX-TILE and AMX-INT8.
    let tiles = (1 << 22) | (1 << 24) | (1 << 25);
    if __cpuid_count(7, 0).edx & tiles != tiles {
        return Err("the CPU has no matrix tiles (AMX)".to_owned());
    }
    if !pairs::are_at_hand() {
        return Err("the CPU has no AVX512-BF16, which matrix tiles (AMX) need".to_owned());
    }
    /// The part of a thread's state that tiles are, which grows by 8 KiB with it.
    const XFEATURE_XTILEDATA: std::ffi::c_int = 18;
    const ARCH_REQ_XCOMP_PERM: std::ffi::c_int = 0x1023;
    // SAFETY: the call takes two numbers and touches no memory.
    if unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } != 0 {
        return Err(format!(
            "the operating system denies the use of matrix tiles (AMX): {}",
            std::io::Error::last_os_error()
        ));
    }
    if sums_are_right() { Ok(()) } else { Err("matrix tiles (AMX) returned wrong sums".to_owned()) }
}

/// Multiplies whole numbers, whose sums are exact, twice. Wrong sums would be a model that learns nothing, without a word.
fn sums_are_right() -> bool {
    const DEPTH: usize = 64;
    let number = |i: usize| bf16::of((i * 7 % 13) as f32 - 6.0);
    let left: Vec<bf16> = (0..32 * DEPTH).map(number).collect();
    let right: Vec<bf16> = (0..DEPTH * 32).map(|i| number(i + 5)).collect();
    let panel = || AVec::<bf16>::from_iter(64, (0..32 * DEPTH).map(|_| bf16::default()));
    let (mut rows, mut columns) = (panel(), panel());
    Amx::pack_left(Matrix::new(&left, 32, DEPTH, DEPTH), 0..32, 0..DEPTH, &mut rows);
    Amx::pack_right(Matrix::new(&right, DEPTH, 32, 32), 0..DEPTH, 0..32, &mut columns);
    let mut sums = AVec::<f32>::from_iter(64, (0..32 * 32).map(|_| f32::NAN));
    for add in [false, true] {
        // SAFETY: the processor has tiles and the system permits them; panels and sums are as large as promised.
        unsafe { Amx::tile(32, rows.as_ptr(), columns.as_ptr(), DEPTH, sums.as_mut_ptr(), 32, add, &[0.0f32; 0]) };
    }
    let expected =
        |i: usize, j: usize| -> f32 { (0..DEPTH).map(|k| left[i * DEPTH + k].get() * right[k * 32 + j].get()).sum() };
    (0..32 * 32).all(|at| sums[at] == 2.0 * expected(at / 32, at % 32))
}

impl Kernel for Amx {
    type Left = bf16;
    type Right = bf16;
    const ROWS: usize = 32;
    const COLUMNS: usize = 32;
    const DEPTH: usize = 32;
    // With 512, panels of both sides take more than the first-level cache; with 128, sums are stored too often.
    const CHUNK: usize = 256;
    const WIDENS: bool = false;

    /// Tiles have 16 rows whether they are used or not.
    fn height(_: usize) -> usize {
        Self::ROWS
    }

    #[inline(always)]
    fn pack_left<T: Element>(matrix: Matrix<T>, rows: Range<usize>, depth: Range<usize>, panel: &mut [bf16]) {
        // SAFETY: the kernel is used where pairs are at hand.
        unsafe { pairs::pack_left::<32, T>(matrix, rows, depth, panel) }
    }

    #[inline(always)]
    fn pack_right<T: Element, S: Element>(
        matrix: Matrix<T>,
        depth: Range<usize>,
        columns: Range<usize>,
        panel: &mut [S],
    ) {
        // SAFETY: as above.
        unsafe { pairs::pack_right(matrix, depth, columns, panel) }
    }

    fn right_index(k: usize, column: usize) -> usize {
        pairs::right_index(k, column)
    }

    unsafe fn tile<S: Element, F: Element>(
        _rows: usize,
        left: *const bf16,
        right: *const S,
        depth: usize,
        c: *mut f32,
        stride: usize,
        add: bool,
        next: &[F],
    ) {
        prefetch(next);
        configure(size_of::<[bf16; 32]>());
        // SAFETY: the tiles are configured; the panels hold `depth`/32 pairs of tiles each, of bf16, the only panels that
        // are packed for tiles; `c` holds 32 rows of 32 numbers. All as the caller promises.
        unsafe { tiles(left, right.cast(), depth / 32, c, stride * size_of::<f32>(), add) }
    }
}

/// Has this thread's tiles be those of products of `depth` bytes of each row and column: four of sums (0 to 3), two of rows (4
/// and 5) and two of columns, whose bytes lie in fours side by side (6 and 7).
#[inline]
fn configure(depth: usize) {
    use std::cell::Cell;
    thread_local! {
        static CONFIGURED: Cell<usize> = const { Cell::new(0) };
    }
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    if CONFIGURED.replace(depth) == depth {
        return;
    }
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    config.row_bytes[..8].fill(64);
    config.row_bytes[4..6].fill(depth as u16);
    config.rows[..8].fill(16);
    config.rows[6..8].fill((depth / 4) as u8);
    // SAFETY: reads the 64 bytes of a valid configuration; only where tiles are permitted does anything call this.
    unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) }
}

/// # Safety
/// The thread's tiles are configured; `blocks` pairs of tiles lie at `left` and at `right`, and 32 rows of 32 numbers,
/// `stride` bytes apart, at `c`.
unsafe fn tiles(left: *const bf16, right: *const bf16, blocks: usize, c: *mut f32, stride: usize, add: bool) {
    // SAFETY: reads and writes what the caller promises; all registers that change are named.
    unsafe {
        std::arch::asm!(
            "test {add}, {add}",
            "jz 2f",
            "tileloadd tmm0, [{c} + {stride}*1]",
            "tileloadd tmm1, [{c} + {stride}*1 + 64]",
            "tileloadd tmm2, [{lower} + {stride}*1]",
            "tileloadd tmm3, [{lower} + {stride}*1 + 64]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            "test {blocks}, {blocks}",
            "jz 5f",
            "4:",
            "tileloadd tmm4, [{left} + {row}*1]",
            "tileloadd tmm6, [{right} + {row}*1]",
            "tileloadd tmm7, [{right} + {row}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{left} + {row}*1 + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, 2048",
            "add {right}, 2048",
            "dec {blocks}",
            "jnz 4b",
            "5:",
            "tilestored [{c} + {stride}*1], tmm0",
            "tilestored [{c} + {stride}*1 + 64], tmm1",
            "tilestored [{lower} + {stride}*1], tmm2",
            "tilestored [{lower} + {stride}*1 + 64], tmm3",
            left = inout(reg) left => _,
            right = inout(reg) right => _,
            blocks = inout(reg) blocks => _,
            row = in(reg) 64usize,
            c = in(reg) c,
            lower = in(reg) c.byte_add(16 * stride),
            stride = in(reg) stride,
            add = in(reg) usize::from(add),
            out("tmm0") _,
            out("tmm1") _,
            out("tmm2") _,
            out("tmm3") _,
            out("tmm4") _,
            out("tmm5") _,
            out("tmm6") _,
            out("tmm7") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_the_first_use_are_right() {
        emulated::install();
        assert!(!pairs::are_at_hand() || sums_are_right());
    }
}

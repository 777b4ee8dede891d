//! Matrix tiles on processors without them, so that every machine tests the code that uses them: a handler of the signal
//! that an unknown instruction raises computes what the instruction would, and goes on after it. (Source of the encodings
//! and of the sums: Intel's Software Developer's Manual, volume 2.)

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::Once;

/// Bytes of a row, and rows, at most.
const ROW: usize = 64;
const ROWS: usize = 16;
/// Prefixes that an instruction's second byte encodes.
const F3: u8 = 2;
const F2: u8 = 3;

thread_local! {
    static TILES: RefCell<Tiles> =
        const { RefCell::new(Tiles { row_bytes: [0; 8], rows: [0; 8], numbers: [[[0; ROW]; ROWS]; 8] }) };
}

/// The configuration and the contents of a thread's tiles.
struct Tiles {
    row_bytes: [usize; 8],
    rows: [usize; 8],
    numbers: [[[u8; ROW]; ROWS]; 8],
}

/// From now on, threads of this process may use tiles.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: zero bytes are a valid action, of which all fields that matter are set.
        let installed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut())
        };
        assert_eq!(installed, 0, "the handler cannot be installed");
    });
}

unsafe extern "C" fn handle(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes the registers of the thread that the signal interrupted.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let code = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: the longest of the instructions has 10 bytes, and code follows all of them.
    let code: [u8; 10] = std::array::from_fn(|i| unsafe { code.add(i).read() });
    match TILES.with_borrow_mut(|tiles| tiles.execute(code, registers)) {
        Some(length) => registers[libc::REG_RIP as usize] += length as i64,
        // The instruction is executed again, and ends the process.
        // SAFETY: the call only resets the signal.
        None => unsafe {
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        },
    }
}

/// The value of a register, by the number that instructions have for it.
fn register(registers: &[i64], number: u8) -> i64 {
    use libc::{REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    use libc::{REG_RAX, REG_RBP, REG_RBX, REG_RCX, REG_RDI, REG_RDX, REG_RSI, REG_RSP};
    let order = [
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11,
        REG_R12, REG_R13, REG_R14, REG_R15,
    ];
    registers[order[usize::from(number)] as usize]
}

/// Where an instruction's memory begins, the bytes between rows, and the instruction's length.
fn memory(code: [u8; 10], registers: &[i64]) -> Option<(i64, i64, usize)> {
    let (extended, form) = (!code[1], code[4]);
    let (base, rows, place) = match form & 7 {
        4 => {
            let (base, index) = (code[5] & 7 | (extended >> 5 & 1) << 3, code[5] >> 3 & 7 | (extended >> 6 & 1) << 3);
            let rows = if index == 4 { 0 } else { register(registers, index) << (code[5] >> 6) };
            (base, rows, 6)
        }
        base => (base | (extended >> 5 & 1) << 3, 0, 5),
    };
    let (offset, length) = match form >> 6 {
        0 if base & 7 == 5 => return None,
        0 => (0, place),
        1 => (i64::from(code[place].cast_signed()), place + 1),
        _ => (i64::from(i32::from_le_bytes(code[place..place + 4].try_into().ok()?)), place + 4),
    };
    Some((register(registers, base) + offset, rows, length))
}

impl Tiles {
    /// Executes the instruction that `code` begins with. Returns its length, or `None` if tiles have no such instruction, or
    /// would refuse it.
    fn execute(&mut self, code: [u8; 10], registers: &[i64]) -> Option<usize> {
        let (prefix, form) = (code[2] & 3, code[4]);
        if code[0] != 0xc4 || code[1] & 31 != 2 || code[2] & 0x84 != 0 {
            return None;
        }
        let tile = usize::from(form >> 3 & 7);
        let (left, right) = (usize::from(form & 7), usize::from(!code[2] >> 3 & 15));
        match (code[3], prefix, form >> 6 == 3) {
            (0x49, 0, false) => {
                let (from, _, length) = memory(code, registers)?;
                // SAFETY: the instruction reads these 64 bytes.
                let config = unsafe { *(from as *const [u8; 64]) };
                self.numbers = [[[0; ROW]; ROWS]; 8];
                for tile in 0..8 {
                    self.row_bytes[tile] =
                        usize::from(u16::from_le_bytes([config[16 + 2 * tile], config[17 + 2 * tile]]));
                    self.rows[tile] = usize::from(config[48 + tile]);
                }
                let fits =
                    self.row_bytes.iter().all(|&bytes| bytes <= ROW) && self.rows.iter().all(|&rows| rows <= ROWS);
                (config[0] == 1 && fits).then_some(length)
            }
            (0x49, F2, true) => {
                self.numbers[tile] = [[0; ROW]; ROWS];
                Some(5)
            }
            (0x4b, F2 | F3, false) => {
                let (first, between, length) = memory(code, registers)?;
                for row in 0..self.rows[tile] {
                    let memory = (first + row as i64 * between) as *mut u8;
                    let numbers = &mut self.numbers[tile][row][..self.row_bytes[tile]];
                    // SAFETY: the instruction reads or writes these bytes.
                    unsafe {
                        if prefix == F2 {
                            memory.copy_to_nonoverlapping(numbers.as_mut_ptr(), numbers.len());
                        } else {
                            memory.copy_from_nonoverlapping(numbers.as_ptr(), numbers.len());
                        }
                    }
                }
                Some(length)
            }
            (0x5c | 0x5e, _, true) if right < 8 => {
                let fits = self.rows[left] == self.rows[tile]
                    && self.row_bytes[right] == self.row_bytes[tile]
                    && self.row_bytes[left] == 4 * self.rows[right];
                match code[3] {
                    _ if !fits => return None,
                    0x5e => self.add_bytes(tile, (left, prefix >= F3), (right, prefix % 2 == 1)),
                    _ if prefix == F3 => self.add_pairs(tile, left, right),
                    _ => return None,
                }
                Some(5)
            }
            _ => None,
        }
    }

    /// Adds the products of bytes, which have a sign or not.
    fn add_bytes(&mut self, sums: usize, (left, left_signed): (usize, bool), (right, right_signed): (usize, bool)) {
        let number = |byte: u8, signed: bool| if signed { i32::from(byte.cast_signed()) } else { i32::from(byte) };
        for row in 0..self.rows[sums] {
            for column in (0..self.row_bytes[sums]).step_by(4) {
                let left = &self.numbers[left][row];
                let product = |k: usize| {
                    let right = self.numbers[right][k / 4][column + k % 4];
                    number(left[k], left_signed) * number(right, right_signed)
                };
                let sum: i32 = (0..4 * self.rows[right]).map(product).sum();
                let held: [u8; 4] = std::array::from_fn(|i| self.numbers[sums][row][column + i]);
                let sum = i32::from_le_bytes(held).wrapping_add(sum);
                self.numbers[sums][row][column..column + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }

    /// Adds the products of numbers in bf16, those at even and at odd depth apart.
    fn add_pairs(&mut self, sums: usize, left: usize, right: usize) {
        let number =
            |bytes: &[u8; ROW], at: usize| f32::from_bits(u32::from_le_bytes([0, 0, bytes[at], bytes[at + 1]]));
        for row in 0..self.rows[sums] {
            for column in (0..self.row_bytes[sums]).step_by(4) {
                let mut halves = [0.0f32; 2];
                for k in 0..self.rows[right] {
                    for (half, sum) in halves.iter_mut().enumerate() {
                        let left = number(&self.numbers[left][row], 4 * k + 2 * half);
                        *sum = left.mul_add(number(&self.numbers[right][k], column + 2 * half), *sum);
                    }
                }
                let held: [u8; 4] = std::array::from_fn(|i| self.numbers[sums][row][column + i]);
                let sum = f32::from_le_bytes(held) + (halves[0] + halves[1]);
                self.numbers[sums][row][column..column + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}

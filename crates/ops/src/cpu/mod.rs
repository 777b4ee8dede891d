//! What this processor can do, found once, and the code that it has us run.
//!
//! - [`bytes`]    products of numbers of 8 and 4 bits
//! - [`element`]  numbers as they are stored: f32, bf16
//! - [`kernel`]   the innermost loop of a matrix product, one file for each set of instructions
//! - [`pairs`]    how instructions for bf16 want their numbers

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod bytes;
#[cfg(target_arch = "x86_64")]
pub(crate) mod dots;
pub(crate) mod element;
pub(crate) mod kernel;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pairs;

use std::fmt;
use std::sync::OnceLock;

/// Vector instructions, narrowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of this kind has.
    Portable,
    /// 256 bits, with fused multiplication and addition.
    Avx2,
    /// 512 bits.
    Avx512,
}

impl Level {
    const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// As [`LIMIT`] names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    fn parse(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|level| level.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{LIMIT} is {name:?}; it must be one of {names}, or unset")
        })
    }
}

/// The instructions in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// Of all loops.
    pub level: Level,
    /// Whether bf16 and quantized products run on matrix tiles (Intel's AMX); if not, why.
    pub tiles: Result<(), String>,
    /// Whether they run on dot products of pairs (AVX512-BF16), where there are no tiles.
    pub dots: bool,
    /// Bytes of a core's second-level cache; 1 MiB where the system does not say.
    pub second_level_bytes: usize,
}

/// Environment variable that keeps tests and measurements from instructions that the processor has: `portable`, `avx2` or
/// `avx512` is the most that is used. It only makes gptkit slower.
pub const LIMIT: &str = "GPTKIT_CPU";

impl Cpu {
    /// This processor. A limit that [`Cpu::limit`] refuses is none; the binary ends before it comes here.
    pub fn get() -> &'static Self {
        static CPU: OnceLock<Cpu> = OnceLock::new();
        CPU.get_or_init(|| Self::find(Self::limit().unwrap_or(None)))
    }

    /// What [`LIMIT`] is set to.
    ///
    /// # Errors
    /// When it is set to anything but the name of a level, exactly as written above.
    pub fn limit() -> Result<Option<Level>, String> {
        std::env::var_os(LIMIT).map(|value| Level::parse(&value.to_string_lossy())).transpose()
    }

    fn find(limit: Option<Level>) -> Self {
        let level = Self::widest().min(limit.unwrap_or(Level::Avx512));
        let tiles = match limit {
            Some(limit) => Err(format!("{LIMIT}={}", limit.name())),
            None if level < Level::Avx512 => Err("the CPU has no AVX-512".to_owned()),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            None => amx::permit(),
            #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
            None => Err("matrix tiles (AMX) are used only on Linux with x86-64".to_owned()),
        };
        let dots = limit.is_none() && Self::has_fast_dots();
        Self { level, tiles, dots, second_level_bytes: Self::second_level_bytes().unwrap_or(1 << 20) }
    }

    /// As Linux says it.
    fn second_level_bytes() -> Option<usize> {
        let size = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok()?;
        let kib: usize = size.trim().strip_suffix('K')?.parse().ok()?;
        Some(kib * 1024).filter(|&bytes| bytes > 0)
    }

    /// Only AMD's have twice the speed of f32 products; Intel's have the same, and round more.
    #[cfg(target_arch = "x86_64")]
    fn has_fast_dots() -> bool {
        use std::arch::x86_64::__cpuid;
        // The vendor's name is in three registers.
        Self::widest() == Level::Avx512 && pairs::are_at_hand() && __cpuid(0).ebx == u32::from_le_bytes(*b"Auth")
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn has_fast_dots() -> bool {
        false
    }

    #[cfg(target_arch = "x86_64")]
    fn widest() -> Level {
        let fused = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (fused, wide) {
            (true, true) => Level::Avx512,
            (true, false) => Level::Avx2,
            _ => Level::Portable,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn widest() -> Level {
        Level::Portable
    }
}

/// Runs `f`, which has many loops over all cores, on one of the threads that share them: a loop begun elsewhere puts its
/// thread to sleep and wakes it again.
pub(crate) fn among_the_threads<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// Has the processor fetch `numbers` into its second-level cache, for a use that is near.
#[inline(always)]
pub(crate) fn prefetch<T>(numbers: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.chunks((64 / size_of::<T>()).max(1)) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: prefetching reads nothing that the program sees; every processor of this kind has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// Has the processor fetch what lies `ahead` bytes after `from`, into its second-level cache: that one waits for more lines of
/// memory at a time than the first-level cache does.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch_ahead<T>(from: *const T, ahead: usize) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: prefetching reads nothing that the program sees, and may name any address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast::<i8>().wrapping_add(ahead)) }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        })
    }
}

/// a·b + c, rounded once where there is an instruction for it; elsewhere that would be a slow call.
#[inline(always)]
pub(crate) fn fused<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Has a function compiled once for each [`Level`], and runs the one that fits the processor. Generic parameters stand
/// in brackets. What the body calls must be `#[inline(always)]` to be compiled along; in the body the constant `FUSED`
/// says whether the instructions have [`fused`] multiplication and addition.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($g:ident : $bound:path),+])? (
        $($arg:ident : $ty:ty),* $(,)?
    ) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<$($($g: $bound,)+)? const FUSED: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    body::<$($($g,)+)? true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    body::<$($($g,)+)? true>($($arg),*)
                }
                match $crate::cpu::Cpu::get().level {
                    // SAFETY: the processor was found to have these instructions.
                    $crate::cpu::Level::Avx512 => return unsafe { avx512 $(::<$($g),+>)? ($($arg),*) },
                    // SAFETY: as above.
                    $crate::cpu::Level::Avx2 => return unsafe { avx2 $(::<$($g),+>)? ($($arg),*) },
                    $crate::cpu::Level::Portable => {}
                }
            }
            body::<$($($g,)+)? { cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
pub(crate) use vectorized;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds() {
        assert_eq!(Cpu::find(Some(Level::Portable)).level, Level::Portable);
        assert!(Cpu::find(Some(Level::Avx2)).level <= Level::Avx2);
        assert_eq!(Cpu::find(Some(Level::Avx512)).tiles, Err("GPTKIT_CPU=avx512".to_owned()));
    }

    #[test]
    fn a_limit_is_a_name_and_nothing_near_it() {
        assert!(Level::ALL.into_iter().all(|level| Level::parse(level.name()) == Ok(level)));
        for wrong in ["", " ", "quantum", "AVX2", "avx2 ", "avx-512", "portable,avx2"] {
            let said = Level::parse(wrong).unwrap_err();
            assert!(said.contains(&format!("{wrong:?}")) && said.contains("portable, avx2, avx512"), "{said}");
        }
    }
}

//! When the allocator gives memory back to the system.

use std::ffi::c_long;

/// `mi_option_purge_delay` of mimalloc, which the library's bindings do not name: milliseconds, or never.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// What mimalloc's header documents as its default; `MIMALLOC_PURGE_DELAY` sets another.
const DEFAULT_PURGE_DELAY: c_long = 1000;
const NEVER: c_long = -1;
const SOON: c_long = 10;

/// Has the allocator never give memory back: a training step takes what the one before it freed, and getting pages from
/// the system costs a quarter of a step. A delay that the user has set, or an option that another version of the library
/// has under this number, is left alone.
pub(crate) fn keep() {
    if purge_delay() == DEFAULT_PURGE_DELAY {
        set_purge_delay(NEVER);
    }
}

/// Runs `load`, which frees memory that nothing takes up again; the allocator gives it back, but not at once: loading takes
/// most of it up again. A delay that the user has set is left alone.
pub(crate) fn give_back_while<R>(load: impl FnOnce() -> R) -> R {
    let delay = purge_delay();
    if ![DEFAULT_PURGE_DELAY, NEVER].contains(&delay) {
        return load();
    }
    set_purge_delay(SOON);
    let loaded = load();
    // What another thread freed is a thread's own until it looks for it.
    rayon::broadcast(|_| collect());
    collect();
    set_purge_delay(delay);
    loaded
}

/// Has the allocator give back all that this thread has free.
fn collect() {
    // SAFETY: the call touches memory that nobody uses.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

fn purge_delay() -> c_long {
    // SAFETY: the call reads a number.
    unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) }
}

fn set_purge_delay(delay: c_long) {
    // SAFETY: the call sets a number.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, delay) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of an option is a promise of no version of the bindings. One test, since all threads share the option.
    #[test]
    fn the_option_of_the_allocator_has_its_documented_default_and_is_restored() {
        assert_eq!(purge_delay(), DEFAULT_PURGE_DELAY);
        assert_eq!(give_back_while(purge_delay), SOON);
        assert_eq!(purge_delay(), DEFAULT_PURGE_DELAY);
    }
}

//! Panics of other libraries on damaged files, as errors in words.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Calls of [`quietly`] that this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// A library panicked; its message, shortened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Panicked {}

/// What `work` returns. A panic in it, on this thread, prints nothing and is an error.
///
/// # Errors
/// When `work` panics.
pub fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if DEPTH.get() == 0 {
                before(info);
            }
        }));
    });
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|payload| Panicked(words(&*payload)))
}

fn words(payload: &(dyn Any + Send)) -> String {
    const LONGEST: usize = 200;
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").lines().next().unwrap_or_default().chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        assert_eq!(quietly(|| 3), Ok(3));
        let n = [3].len();
        assert_eq!(quietly(|| panic!("no {n}\nstack")), Err::<(), _>(Panicked("no 1".to_owned())));
        let nested = quietly(|| quietly(|| panic!("inner")).unwrap_err());
        assert_eq!(nested, Ok(Panicked("inner".to_owned())));
        assert_eq!(DEPTH.get(), 0);
    }
}

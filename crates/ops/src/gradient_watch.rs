//! Which gradients are complete while a backward pass is still running, so that another thread can send them meanwhile.

use crate::block::Block;
use crate::parameter::Parameter;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

thread_local! {
    static WATCH: RefCell<Option<Arc<GradientWatch>>> = const { RefCell::new(None) };
}

/// The passes through blocks of which one loss is computed.
#[derive(Debug)]
pub(crate) struct GradientWatch {
    complete: Sender<Arc<Parameter>>,
    /// Passes whose backward pass is still to come.
    n_passes: AtomicUsize,
}

/// Runs `f`, which computes a loss and its gradients on this thread. Sends to `complete` the parameters of each block as soon as
/// `f` adds nothing more to their gradients; parameters outside of blocks are never sent.
pub fn watch_gradients<R>(complete: Sender<Arc<Parameter>>, f: impl FnOnce() -> R) -> R {
    WATCH.set(Some(Arc::new(GradientWatch { complete, n_passes: AtomicUsize::new(0) })));
    let result = f();
    WATCH.set(None);
    result
}

impl GradientWatch {
    /// To be called where a pass through blocks begins that has a backward pass; None where nobody watches.
    pub(crate) fn pass_begins() -> Option<Arc<Self>> {
        let watch = WATCH.with_borrow(Clone::clone)?;
        watch.n_passes.fetch_add(1, Ordering::Relaxed);
        Some(watch)
    }

    /// To be called in the backward pass after that of `block`.
    pub(crate) fn block_is_done(&self, block: &Block) {
        // Of several passes, which may share a block, the last one to go back completes the gradients.
        if self.n_passes.load(Ordering::Relaxed) == 1 {
            // Whoever does not listen any more has failed, and says so.
            block.parameters().into_iter().for_each(|parameter| _ = self.complete.send(Arc::clone(parameter)));
        }
    }

    /// To be called where the backward pass ends.
    pub(crate) fn pass_ends(&self) {
        self.n_passes.fetch_sub(1, Ordering::Relaxed);
    }
}

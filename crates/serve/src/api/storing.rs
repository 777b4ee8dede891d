//! The store of feedback, used by requests.

use crate::api::error::ApiError;
use crate::app::App;
use axum::http::StatusCode;
use gptkit_feedback::{FeedbackStore, StoreError};
use std::sync::{Arc, PoisonError};

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::UnknownAnswer(_) => {
                Self::not_found("unknown_answer", format!("{error}; send requests with store: true")).about("answer")
            }
            StoreError::DifferentPrompts => Self::invalid("answers", error.to_string()),
            StoreError::DiskFull => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "server_error", "disk_full", error.to_string())
            }
            StoreError::Other(_) => Self::internal(error.to_string()),
        }
    }
}

/// Does `work` with the store, away from the threads that answer requests.
pub(crate) async fn with_store<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&mut FeedbackStore) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ApiError> {
    let app = Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || {
        let Some(store) = &app.feedback else {
            let message = "the server keeps no feedback; start it with --feedback DIR";
            return Err(ApiError::not_found("feedback_off", message));
        };
        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(work(&mut store)?)
    });
    done.await.map_err(|_| ApiError::internal("the store of feedback failed"))?
}

//! Answers that are stored because the request says `store: true`: an answer is on the disk before its end is sent.

use crate::api::storing::with_store;
use crate::app::App;
use crate::engine::job::GenerationJob;
use crate::guard::Requester;
use gptkit_data::dialogue::Message;
use gptkit_feedback::records::{AnswerId, RecordedAnswer};
use gptkit_model::continuation::TokenLogProb;
use gptkit_preferences::settings::StoredSampling;
use serde_json::{Value, json};
use std::sync::Arc;

/// The answers of a request while they are generated.
#[derive(Debug)]
pub(crate) struct KeptAnswers {
    texts: Vec<String>,
    log_probs: Vec<f64>,
    /// All that the answers have in common.
    blank: RecordedAnswer,
}

impl KeptAnswers {
    pub(crate) fn new(app: &App, person: &Requester, request: &str, prompt: &[Message], job: &GenerationJob) -> Self {
        let model = &app.served.writers[job.model];
        let blank = RecordedAnswer {
            id: AnswerId { request: request.to_owned(), choice: 0 },
            person: Some(person.name.clone()),
            model: model.identity.clone(),
            prompt: prompt.to_vec(),
            sampling: sampling(job),
            max_new_tokens: job.options.max_new_tokens as u64,
            stop: job.options.stop.clone(),
            text: String::new(),
            tokens: None,
            log_prob: None,
            finish: String::new(),
            place: None,
        };
        let n = job.options.n_samples;
        Self { texts: vec![String::new(); n], log_probs: vec![0.0; n], blank }
    }

    /// More of an answer.
    pub(crate) fn push(&mut self, index: usize, text: &str, log_probs: &[TokenLogProb]) {
        self.texts[index] += text;
        self.log_probs[index] += log_probs.iter().map(|token| f64::from(token.log_prob)).sum::<f64>();
    }

    /// Stores an answer. When that fails, the answer goes on to the client all the same; feedback on it is refused later.
    pub(crate) async fn end(&mut self, app: &Arc<App>, index: usize, finish: &str, tokens: Vec<u32>) {
        let answer = RecordedAnswer {
            id: AnswerId { choice: index as u64, ..self.blank.id.clone() },
            text: self.texts[index].trim().to_owned(),
            tokens: Some(tokens),
            log_prob: Some(self.log_probs[index]),
            finish: finish.to_owned(),
            ..self.blank.clone()
        };
        if with_store(app, move |store| store.add_answers(&[answer])).await.is_err() {
            app.metrics.feedback_failed();
        }
    }
}

/// The sampling settings of a job, as the commands of gptkit name them.
fn sampling(job: &GenerationJob) -> Value {
    let mut sampling = json!(StoredSampling::from(job.options.sampling.clone()));
    if job.late_ends.after > 0 {
        sampling["min-tokens"] = json!(job.late_ends.after);
    } else if job.ends.is_empty() {
        sampling["ignore-eos"] = json!(true);
    }
    sampling
}

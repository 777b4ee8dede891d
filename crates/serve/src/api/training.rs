//! `GET /api/models/NAME`: what a served model was trained on, as its run folder says.

use crate::api::error::ApiError;
use crate::app::App;
use gptkit_feedback::trace::{ExportSummary, export_at};
use gptkit_train::curves::{CurvePoint, Curves};
use gptkit_train::metrics::SCORE;
use gptkit_train::request::RunRequest;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Points of a curve: each is the mean of as many steps as are needed.
const POINTS: usize = 120;

/// The training of the model `name`; parts that its folder lacks are left out.
pub(crate) async fn of_model(app: &Arc<App>, name: &str) -> Result<Value, ApiError> {
    let Some(folder) = app.served.folder(name).map(Path::to_owned) else {
        return Err(ApiError::not_found("model_not_found", format!("the model {name} is not served")));
    };
    let read = tokio::task::spawn_blocking(move || of_folder(&folder));
    read.await.map_err(|_| ApiError::internal("the run folder of the model cannot be read"))
}

fn of_folder(folder: &Path) -> Value {
    let mut training = json!({});
    if let Some(RunRequest { command, config, models, files, .. }) = RunRequest::read(folder) {
        training["stage"] = json!(command);
        if let Some(base) = models.get("init") {
            training["base"] = json!({ "name": last_part(&base.folder.to_string_lossy()), "weights": base.weights });
        }
        let sources = ["data", "prompts"].into_iter().find_map(|section| config[section]["sources"].as_array());
        let name = |source: &Value| source.as_str().or_else(|| source["path"].as_str()).map(last_part);
        let names: Vec<String> = sources.into_iter().flatten().filter_map(name).collect();
        training["data"] = json!(names);
        // A file that cannot be read is not known to be an export.
        let exports = files.iter().filter_map(|(path, hash)| export_at(path, hash).ok().flatten());
        let exports: Vec<ExportSummary> = exports.collect();
        if !exports.is_empty() {
            training["exports"] = json!(exports);
        }
    }
    if let Ok(curves) = Curves::read(folder) {
        let (metric, title) = if curves.is_ppo() { (SCORE, "reward") } else { ("train_loss", "training loss") };
        let points = curves.metrics.get(metric).map_or(&[][..], Vec::as_slice);
        training["curve"] = json!({ "metric": title, "points": thinned(points) });
        training["steps"] = json!(points.last().map(|last| last.step));
        training["tokens"] = json!(points.last().map(|last| last.tokens));
    }
    training
}

/// The last part of a path: other parts are nobody's business.
fn last_part(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
}

/// Means of neighboring points, as pairs of step and value.
fn thinned(points: &[CurvePoint]) -> Vec<(u64, f64)> {
    let mean = |some: &[CurvePoint]| some.iter().map(|point| point.value).sum::<f64>() / some.len() as f64;
    let means = points.chunks(points.len().div_ceil(POINTS).max(1)).map(|some| (some[some.len() - 1].step, mean(some)));
    means.filter(|(_, value)| value.is_finite()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_feedback::FeedbackStore;
    use gptkit_train::request::RunFolder;

    #[test]
    fn what_a_folder_lacks_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of_folder(folder.path()), json!({}));
        let lines = (1..=500).map(|step| {
            format!(
                r#"{{"step":{step},"tokens":{},"train_loss":{},"learning_rate":0.1,"grad_norm":1.0,"tokens_per_s":9.0}}"#,
                8 * step,
                1000 - step
            )
        });
        let text: String = lines.map(|line| line + "\n").collect();
        gptkit_data::disk::write(&folder.path().join("metrics.jsonl"), text.as_bytes()).unwrap();
        let training = of_folder(folder.path());
        let points = training["curve"]["points"].as_array().unwrap();
        assert_eq!((points.len(), &points[0], &points[99]), (100, &json!([5, 997.0]), &json!([500, 502.0])));
        assert_eq!((&training["steps"], &training["tokens"]), (&json!(500), &json!(4000)));
        assert!(training.get("stage").is_none());
    }

    #[test]
    fn the_exports_that_a_run_read_are_named_unless_they_changed_since() {
        let folder = tempfile::tempdir().unwrap();
        let (run, data) = (folder.path().join("run"), folder.path().join("c.jsonl"));
        let mut store = FeedbackStore::create(folder.path()).unwrap();
        let records = ["ranking-1".parse().unwrap(), "ranking-2".parse().unwrap()];
        let mut export = |text: &str| store.write_export("comparisons", &data, text, &json!({}), &records).unwrap();
        export("{}\n");
        let config = json!({ "data": { "sources": [data] } });
        let request = RunRequest::new("train-rm", &config, &[]).unwrap();
        let RunFolder::New(claim) = request.place(&run).unwrap() else { panic!("it is new") };
        request.save(&claim).unwrap();
        drop(claim.keep().unwrap());
        let read = of_folder(&run)["exports"][0].clone();
        assert_eq!((&read["file"], &read["export"], &read["records"]), (&json!("c.jsonl"), &json!(1), &json!(2)));
        export("{ }\n");
        assert_eq!(of_folder(&run).get("exports"), None);
    }
}

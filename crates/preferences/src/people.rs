//! Simulated people who use a server as the web page does: they take tasks, have the model answer, and rank its answers.
//!
//! The people work at the same time, but take tasks and send feedback in turn. The answers and rankings are therefore a
//! function of the seed, and so is the order in which the server stores them.

use crate::client::PersonClient;
use anyhow::{Context, Result};
use gptkit_data::progress::{Progress, ProgressTask, Unit};
use gptkit_data::synthetic::{SimulatedLabeler, SyntheticInstruction, SyntheticInstructions};
use gptkit_feedback::choices::Item;
use gptkit_rng::order::shuffled;
use gptkit_train::interrupt::{Interrupt, Stop};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A second person ranks the answers of one task in so many, so that the agreement between people can be measured.
const SECOND_OPINION: u64 = 10;
/// Seeds of labelers that belong to one seed of the people.
const MOST_PEOPLE: u64 = 1000;

/// A name and a key that the server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonKey {
    /// The name that feedback is stored under.
    pub name: String,
    /// The key that is sent.
    pub secret: String,
}

/// The prompts that an administrator gives to labelers, and how the model answers them.
#[derive(Debug)]
pub struct LabelingPlan<'a> {
    /// Instructions of the built-in world.
    pub items: &'a [Item],
    /// The world that they are from.
    pub world: &'a SyntheticInstructions,
    /// Name of the served model.
    pub model: &'a str,
    /// Answers to each prompt, from 2 to 9.
    pub k: u64,
    /// Temperature of sampling.
    pub temperature: f64,
    /// Longest answer, in tokens.
    pub max_tokens: u64,
    /// Seed of the answers, of the order in which they are shown, and of the labelers' mistakes.
    pub seed: u64,
}

/// Labelers at a server, and an administrator who gives them tasks.
#[derive(Debug)]
pub struct SimulatedPeople<'a> {
    plan: &'a LabelingPlan<'a>,
    admin: PersonClient,
    labelers: Vec<PersonClient>,
    /// Number of the item of each prompt.
    numbers: HashMap<String, usize>,
}

/// A task as the server hands it out.
#[derive(Debug, Deserialize)]
struct LeasedTask {
    id: i64,
    messages: Value,
    k: u64,
    model: String,
    temperature: f64,
    max_tokens: u64,
    seed: u64,
}

/// The answers to a task.
struct TaskAnswers {
    task: LeasedTask,
    /// Number of the prompt.
    number: usize,
    instruction: SyntheticInstruction,
    /// Id of the response.
    request: String,
    texts: Vec<String>,
}

impl<'a> SimulatedPeople<'a> {
    /// People at the server at `url`, such as `http://127.0.0.1:8000`.
    pub fn new(plan: &'a LabelingPlan<'a>, url: &str, admin: &PersonKey, labelers: &[PersonKey]) -> Self {
        let client = |person: &PersonKey| PersonClient::new(url, &person.secret);
        let text = |item: &Item| item.prompt.last().map(|message| message.content.trim().to_owned());
        let numbers = plan.items.iter().enumerate().filter_map(|(number, item)| Some((text(item)?, number)));
        let numbers = numbers.collect();
        Self { plan, admin: client(admin), labelers: labelers.iter().map(client).collect(), numbers }
    }

    /// The administrator makes a task of each prompt, and the labelers do all of them. Returns why they stopped before the
    /// end, if they did.
    ///
    /// # Errors
    /// When the server refuses a request or cannot be reached.
    pub fn work(&self, interrupt: &Interrupt, progress: &dyn Progress) -> Result<Option<Stop>> {
        for labeler in &self.labelers {
            labeler.post("/api/session", &json!({ "consent": true }))?;
        }
        let LabelingPlan { items, model, k, temperature, max_tokens, seed, .. } = self.plan;
        let prompts: Vec<&str> =
            items.iter().filter_map(|item| item.prompt.last()).map(|message| message.content.as_str()).collect();
        // Second opinions follow the first at once (`judge`), so that they do not depend on who is faster.
        let tasks = json!({
            "prompts": prompts, "repeat_every": 0, "k": k, "model": model, "temperature": temperature, "max_tokens": max_tokens,
            "seed": seed.wrapping_mul(1 << 20) % (1 << 50),
        });
        self.admin.post("/api/tasks", &tasks)?;
        let (takes, sends) = (TurnGate::default(), TurnGate::default());
        let task = progress.task("tasks of simulated people", Some(items.len() as u64), Unit::Items);
        let work = |person: usize| {
            let worked = self.work_of(person, (&takes, &sends), interrupt, &*task);
            if !matches!(worked, Ok(None)) {
                takes.close();
                sends.close();
            }
            worked
        };
        let ends: Vec<_> = std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = (0..self.labelers.len()).map(|person| scope.spawn(move || work(person))).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        let mut stop = None;
        for end in ends {
            let end = end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            stop = stop.or(end);
        }
        Ok(stop)
    }

    /// Person number `person` does every task whose turn is theirs.
    fn work_of(
        &self,
        person: usize,
        (takes, sends): (&TurnGate, &TurnGate),
        interrupt: &Interrupt,
        progress: &dyn ProgressTask,
    ) -> Result<Option<Stop>> {
        for turn in (person..self.plan.items.len()).step_by(self.labelers.len()) {
            if let Some(stop) = interrupt.reason(Duration::ZERO) {
                return Ok(Some(stop));
            }
            if !takes.wait_for(turn as u64) {
                break;
            }
            let task = self.labelers[person].post("/api/tasks/next", &json!({}))?;
            takes.pass();
            let answers = self.answers(person, serde_json::from_value(task["task"].clone())?)?;
            if !sends.wait_for(turn as u64) {
                break;
            }
            self.judge(person, &answers)?;
            sends.pass();
            progress.advance(1);
        }
        Ok(None)
    }

    /// Has the model answer.
    fn answers(&self, person: usize, task: LeasedTask) -> Result<TaskAnswers> {
        let body = json!({
            "model": task.model, "messages": task.messages, "n": task.k, "temperature": task.temperature,
            "max_tokens": task.max_tokens, "seed": task.seed, "store": true,
        });
        let response = self.labelers[person].post("/v1/chat/completions", &body)?;
        let text = |choice: &Value| choice["message"]["content"].as_str().map(|text| text.trim().to_owned());
        let texts: Option<Vec<String>> = response["choices"].as_array().into_iter().flatten().map(text).collect();
        let prompt = task.messages[0]["content"].as_str().unwrap_or_default();
        let number = self.numbers.get(prompt).copied();
        let number = number.with_context(|| format!("task {} has a prompt that nobody knows", task.id))?;
        Ok(TaskAnswers {
            number,
            instruction: self.plan.world.instruction(self.plan.items[number].number_in_world()?),
            request: response["id"].as_str().context("an answer has no id")?.to_owned(),
            texts: texts.context("a choice has no text")?,
            task,
        })
    }

    /// What `person` thinks of the answers, and sometimes what a second person thinks.
    fn judge(&self, person: usize, answers: &TaskAnswers) -> Result<()> {
        let TaskAnswers { task, number, instruction, request, texts } = answers;
        let (number, n) = (*number as u64, texts.len() as u64);
        let labeler = &self.labelers[person];
        let named: Vec<Value> = (0..n).map(|choice| json!({ "request": request, "choice": choice })).collect();
        let shown: Vec<u64> = (0..n).map(|i| shuffled(number * n + i, n, self.plan.seed)).collect();
        let record = json!({ "answers": named, "shown": shown, "blind": true });
        if texts.iter().all(|text| text == &texts[0]) {
            let mut skipped = record;
            skipped["skipped"] = json!("all answers are the same");
            return self.send(labeler, "/api/rankings", &format!("ranking-{number}"), skipped, Some(task.id));
        }
        let second = (person + 1) % self.labelers.len();
        if number % SECOND_OPINION == SECOND_OPINION - 1 && second != person {
            let mut ranked = record.clone();
            ranked["ranking"] = json!(self.ranking(second, answers));
            self.send(&self.labelers[second], "/api/rankings", &format!("second-{number}"), ranked, None)?;
        }
        let ranking = self.ranking(person, answers);
        let best = ranking.iter().position(|&place| place == 1).unwrap_or(0);
        let is_right = |text: &String| instruction.is_followed(text);
        let mut rating = json!({ "answer": named[best], "likert": likert(instruction.gold(&texts[best])) });
        if !is_right(&texts[best]) {
            rating["marks"] = json!(["wrong-task"]);
        }
        self.send(labeler, "/api/ratings", &format!("rating-{number}"), rating, None)?;
        if !texts.iter().any(is_right) {
            let demonstration = json!({ "messages": instruction.dialogue(), "based_on": named[best] });
            self.send(labeler, "/api/demonstrations", &format!("demonstration-{number}"), demonstration, None)?;
        }
        let mut ranked = record;
        ranked["ranking"] = json!(ranking);
        self.send(labeler, "/api/rankings", &format!("ranking-{number}"), ranked, Some(task.id))
    }

    fn ranking(&self, person: usize, answers: &TaskAnswers) -> Vec<u32> {
        let texts: Vec<&str> = answers.texts.iter().map(String::as_str).collect();
        let labeler = SimulatedLabeler::new(self.plan.seed.wrapping_mul(MOST_PEOPLE).wrapping_add(person as u64));
        labeler.rank(&answers.instruction, answers.number as u64, &texts)
    }

    /// Sends a record with an id that is the same when the work is done again.
    fn send(&self, labeler: &PersonClient, path: &str, what: &str, mut record: Value, task: Option<i64>) -> Result<()> {
        record["client_id"] = json!(format!("simulated-{}-{what}", self.plan.seed));
        if let Some(id) = task {
            record["task"] = json!(id);
        }
        labeler.post(path, &record).map(drop)
    }
}

/// Overall quality from 1 to 7 of an answer that is worth `gold`.
fn likert(gold: f64) -> u8 {
    let (least, most) = SyntheticInstruction::GOLD;
    (1.0 + 6.0 * (gold - least) / (most - least)).round() as u8
}

/// Lets threads pass one after the other, in the order of their numbers.
#[derive(Debug, Default)]
struct TurnGate {
    /// The number that may pass, and whether nobody may any more.
    state: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl TurnGate {
    /// Waits for turn number `turn`; false if the gate was closed.
    fn wait_for(&self, turn: u64) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(state, |(now, closed)| *now < turn && !*closed);
        !waited.unwrap_or_else(PoisonError::into_inner).1
    }

    /// Ends the turn.
    fn pass(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        self.changed.notify_all();
    }

    /// Lets everybody who waits go away.
    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_order_and_a_closed_gate_lets_nobody_wait() {
        let (gate, order) = (TurnGate::default(), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for person in 0..4_u64 {
                let (gate, order) = (&gate, &order);
                scope.spawn(move || {
                    for turn in (person..40).step_by(4) {
                        assert!(gate.wait_for(turn));
                        order.lock().unwrap().push(turn);
                        gate.pass();
                    }
                });
            }
        });
        assert_eq!(order.into_inner().unwrap(), (0..40).collect::<Vec<_>>());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| gate.wait_for(100));
            gate.close();
            assert!(!waits.join().unwrap());
        });
    }

    #[test]
    fn ratings_go_from_1_to_7() {
        let (least, most) = SyntheticInstruction::GOLD;
        assert_eq!([least, 0.0, 4.0, most].map(likert), [1, 4, 7, 7]);
    }
}

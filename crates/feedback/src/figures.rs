//! Counts, agreement, win rates and strengths of models, from all feedback.

use crate::people::{AccessRole, PersonFigures};
use crate::store::{FeedbackStore, parsed, stands};
use crate::tasks::KNOWN_BEST;
use anyhow::Result;
use gptkit_stats::{PairOutcome, Share, Strength, strengths};
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Counts of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RecordCounts {
    /// Answers.
    pub completions: u64,
    /// Rankings that count.
    pub rankings: u64,
    /// Ratings that count.
    pub ratings: u64,
    /// Demonstrations that count.
    pub demonstrations: u64,
    /// Rankings that were skipped.
    pub skipped: u64,
    /// Tasks that are not done.
    pub tasks_waiting: u64,
}

/// How often a model's answer is preferred to another model's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelFigures {
    /// Its name.
    pub name: String,
    /// Fingerprint of its weights.
    pub weights: String,
    /// Pairs in which its answer is preferred.
    pub wins: u64,
    /// Pairs in which the other one is.
    pub losses: u64,
    /// Pairs that are tied.
    pub ties: u64,
    /// Wins among all pairs, a tie counted as half; over rankings.
    pub win_rate: Share,
    /// Strength that explains all pairs together (Bradley and Terry 1952).
    pub strength: Strength,
}

/// The number of records that a person wrote on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayFigures {
    /// The day in UTC, such as 2026-11-27.
    pub day: String,
    /// Name of the person.
    pub person: String,
    /// Rankings that count.
    pub rankings: u64,
    /// Ratings that count.
    pub ratings: u64,
    /// Demonstrations that count.
    pub demonstrations: u64,
}

/// All figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeedbackFigures {
    /// Counts of records.
    pub counts: RecordCounts,
    /// Each person.
    pub people: Vec<PersonFigures>,
    /// Each day on which there are records, the newest first, and each person of it.
    pub days: Vec<DayFigures>,
    /// How often two people agree who ranked the same two answers, neither as a tie.
    pub agreement: Option<Share>,
    /// Models that were compared with another one.
    pub models: Vec<ModelFigures>,
    /// How often the longer answer is preferred.
    pub longer_preferred: Option<Share>,
}

/// An answer in a ranking.
struct RankedAnswer {
    completion: i64,
    model: (String, String),
    characters: usize,
    rank: u32,
}

/// A ranking that counts.
struct CountedRanking {
    person: String,
    answers: Vec<RankedAnswer>,
}

impl FeedbackStore {
    /// The figures of `person`, or of all people.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn figures(&self, person: Option<&str>) -> Result<FeedbackFigures> {
        let mut rankings = self.counted_rankings()?;
        let agreement = agreement(&rankings);
        rankings.retain(|ranking| person.is_none_or(|name| name == ranking.person));
        rankings.iter_mut().for_each(|ranking| ranking.answers.retain(|answer| answer.model.0 != KNOWN_BEST));
        Ok(FeedbackFigures {
            counts: self.record_counts(person)?,
            people: self.people(person)?,
            days: self.days(person)?,
            agreement,
            models: model_figures(&rankings),
            longer_preferred: longer_preferred(&rankings),
        })
    }

    fn record_counts(&self, person: Option<&str>) -> Result<RecordCounts> {
        let count = |table: &str, with: &str| -> Result<u64> {
            let sql = format!(
                "SELECT count(*) FROM {table} r LEFT JOIN people p ON p.id = r.person WHERE (?1 IS NULL OR p.name = ?1) {with}"
            );
            Ok(self.connection.query_row(&sql, [person], |row| row.get(0))?)
        };
        let waiting = self.connection.query_row("SELECT count(*) FROM tasks WHERE done = 0", [], |row| row.get(0))?;
        let and_stands = |table: &str| format!("AND {}", stands(table));
        let rankings = and_stands("rankings");
        Ok(RecordCounts {
            completions: count("completions", "")?,
            rankings: count("rankings", &format!("{rankings} AND r.ranking IS NOT NULL"))?,
            ratings: count("ratings", &and_stands("ratings"))?,
            demonstrations: count("demonstrations", &and_stands("demonstrations"))?,
            skipped: count("rankings", &format!("{rankings} AND r.ranking IS NULL AND r.skipped <> 'undone'"))?,
            tasks_waiting: waiting,
        })
    }

    fn people(&self, person: Option<&str>) -> Result<Vec<PersonFigures>> {
        let sql = "SELECT name, role, consented_at IS NOT NULL, excluded_at IS NOT NULL FROM people
            WHERE ?1 IS NULL OR name = ?1 ORDER BY name";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([person], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?))
        })?;
        let mut people = Vec::new();
        for row in rows {
            let (name, role, consent, excluded) = row?;
            let RecordCounts { rankings, ratings, demonstrations, .. } = self.record_counts(Some(&name))?;
            let (role, known_best) = (role.parse().unwrap_or(AccessRole::User), self.known_best(&name)?);
            people.push(PersonFigures { name, role, rankings, ratings, demonstrations, known_best, consent, excluded });
        }
        Ok(people)
    }

    /// How often a person put the known best answer of a task first, with no other answer at its place.
    fn known_best(&self, person: &str) -> Result<Option<Share>> {
        let sql = format!(
            "SELECT r.ranking, k.number FROM rankings r JOIN people p ON p.id = r.person JOIN tasks t ON t.id = r.task
            JOIN ranked k ON k.ranking = r.id AND k.completion = t.known_best
            WHERE r.ranking IS NOT NULL AND p.name = ?1 AND {}",
            stands("rankings")
        );
        let mut statement = self.connection.prepare(&sql)?;
        let found = statement.query_map([person], |row| {
            let (ranks, number): (Vec<u32>, u64) = (parsed(row, 0)?, row.get(1)?);
            let first = ranks.iter().filter(|&&rank| rank == 1).count();
            Ok((f64::from(u8::from(first == 1 && ranks.get(number as usize) == Some(&1))), 1.0))
        })?;
        Ok(share(&found.collect::<Result<Vec<_>, _>>()?))
    }

    fn days(&self, person: Option<&str>) -> Result<Vec<DayFigures>> {
        let of_kind = |table: &str, with: &str| {
            format!("SELECT at, person, '{table}' AS kind FROM {table} r WHERE {} {with}", stands(table))
        };
        let sql = format!(
            "SELECT substr(r.at, 1, 10) AS day, p.name, sum(kind = 'rankings'), sum(kind = 'ratings'),
            sum(kind = 'demonstrations') FROM ({} UNION ALL {} UNION ALL {}) r JOIN people p ON p.id = r.person
            WHERE ?1 IS NULL OR p.name = ?1 GROUP BY day, p.name ORDER BY day DESC, p.name",
            of_kind("rankings", "AND ranking IS NOT NULL"),
            of_kind("ratings", ""),
            of_kind("demonstrations", "")
        );
        let mut statement = self.connection.prepare(&sql)?;
        let days = statement.query_map([person], |row| {
            Ok(DayFigures {
                day: row.get(0)?,
                person: row.get(1)?,
                rankings: row.get(2)?,
                ratings: row.get(3)?,
                demonstrations: row.get(4)?,
            })
        })?;
        Ok(days.collect::<Result<_, _>>()?)
    }

    fn counted_rankings(&self) -> Result<Vec<CountedRanking>> {
        let sql = format!(
            "SELECT r.id, p.name, r.ranking, k.number, c.id, m.name, m.weights, length(c.text)
            FROM rankings r JOIN people p ON p.id = r.person JOIN ranked k ON k.ranking = r.id
            JOIN completions c ON c.id = k.completion JOIN models m ON m.id = c.model
            WHERE r.ranking IS NOT NULL AND p.excluded_at IS NULL AND {} ORDER BY r.id, k.number",
            stands("rankings")
        );
        let mut rankings: BTreeMap<i64, CountedRanking> = BTreeMap::new();
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, person): (i64, String) = (row.get(0)?, row.get(1)?);
            let ranks: Vec<u32> = parsed(row, 2)?;
            let rank = ranks.get(row.get::<_, u64>(3)? as usize).copied().unwrap_or_default();
            let answer = RankedAnswer {
                completion: row.get(4)?,
                model: (row.get(5)?, row.get(6)?),
                characters: row.get::<_, u64>(7)? as usize,
                rank,
            };
            rankings.entry(id).or_insert(CountedRanking { person, answers: Vec::new() }).answers.push(answer);
        }
        Ok(rankings.into_values().collect())
    }
}

/// Each two answers of a ranking.
fn two_of(answers: &[RankedAnswer]) -> impl Iterator<Item = (&RankedAnswer, &RankedAnswer)> {
    answers.iter().enumerate().flat_map(|(i, one)| answers[i + 1..].iter().map(move |other| (one, other)))
}

fn share(clusters: &[(f64, f64)]) -> Option<Share> {
    let clusters: Vec<(f64, f64)> = clusters.iter().copied().filter(|(_, n)| *n > 0.0).collect();
    (!clusters.is_empty()).then(|| Share::of(&clusters))
}

fn agreement(rankings: &[CountedRanking]) -> Option<Share> {
    // The pair of answers → who prefers the first of them.
    let mut pairs: BTreeMap<(i64, i64), Vec<(&str, bool)>> = BTreeMap::new();
    for ranking in rankings {
        for (one, other) in two_of(&ranking.answers).filter(|(one, other)| one.rank != other.rank) {
            let (low, high) = if one.completion < other.completion { (one, other) } else { (other, one) };
            let first = low.rank < high.rank;
            pairs.entry((low.completion, high.completion)).or_default().push((&ranking.person, first));
        }
    }
    let of_pair = |said: &Vec<(&str, bool)>| {
        let two = said.iter().enumerate().flat_map(|(i, one)| said[i + 1..].iter().map(move |other| (one, other)));
        let people: Vec<bool> = two.filter(|(a, b)| a.0 != b.0).map(|(a, b)| a.1 == b.1).collect();
        (people.iter().filter(|&&agree| agree).count() as f64, people.len() as f64)
    };
    share(&pairs.values().map(of_pair).collect::<Vec<_>>())
}

fn model_figures<'a>(rankings: &'a [CountedRanking]) -> Vec<ModelFigures> {
    let pairs = |ranking: &'a CountedRanking| two_of(&ranking.answers).filter(|(one, other)| one.model != other.model);
    let compared = rankings.iter().flat_map(pairs).flat_map(|(one, other)| [&one.model, &other.model]);
    let models: Vec<&(String, String)> = compared.collect::<BTreeSet<_>>().into_iter().collect();
    let index = |answer: &RankedAnswer| models.partition_point(|&model| *model < answer.model);
    let of_ranking = |ranking: &'a CountedRanking| -> Vec<PairOutcome> {
        let outcome = |(one, other): (&RankedAnswer, &RankedAnswer)| PairOutcome {
            pair: [index(one), index(other)],
            score: match one.rank.cmp(&other.rank) {
                Ordering::Less => 1.0,
                Ordering::Equal => 0.5,
                Ordering::Greater => 0.0,
            },
        };
        pairs(ranking).map(outcome).collect()
    };
    let clusters: Vec<Vec<PairOutcome>> = rankings.iter().map(of_ranking).filter(|pairs| !pairs.is_empty()).collect();
    let strengths = strengths(models.len(), &clusters, 0);
    let of_model = |(i, strength): (usize, Strength)| {
        let scores = |outcomes: &Vec<PairOutcome>| -> Vec<f64> {
            let own = outcomes.iter().filter_map(|outcome| match outcome.pair {
                [one, _] if one == i => Some(outcome.score),
                [_, other] if other == i => Some(1.0 - outcome.score),
                _ => None,
            });
            own.collect()
        };
        let scores: Vec<Vec<f64>> = clusters.iter().map(scores).collect();
        let count = |score: f64| scores.iter().flatten().filter(|&&one| one == score).count() as u64;
        let clusters: Vec<(f64, f64)> = scores.iter().map(|own| (own.iter().sum(), own.len() as f64)).collect();
        let (name, weights) = models[i].clone();
        let (wins, losses, ties) = (count(1.0), count(0.0), count(0.5));
        Some(ModelFigures { name, weights, wins, losses, ties, win_rate: share(&clusters)?, strength })
    };
    strengths.into_iter().enumerate().filter_map(of_model).collect()
}

fn longer_preferred(rankings: &[CountedRanking]) -> Option<Share> {
    let of_ranking = |ranking: &CountedRanking| {
        let told_apart = |(one, other): &(&RankedAnswer, &RankedAnswer)| {
            one.rank != other.rank && one.characters != other.characters
        };
        let longer = |(one, other): (&RankedAnswer, &RankedAnswer)| {
            (one.rank < other.rank) == (one.characters > other.characters)
        };
        let pairs: Vec<bool> = two_of(&ranking.answers).filter(told_apart).map(longer).collect();
        (pairs.iter().filter(|&&longer| longer).count() as f64, pairs.len() as f64)
    };
    share(&rankings.iter().map(of_ranking).collect::<Vec<_>>())
}

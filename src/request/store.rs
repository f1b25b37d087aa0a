//! Claiming request numbers and keeping their first answers.
//!
//! The claim is an insert: whoever's row stands is the one who decides. A claim that meets one in flight waits for its
//! end. Numbers that are good for two days claim both rows and have won only with both.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::RequestNumber;
use crate::{
    db::lane::{Tx, WriteError, column},
    partition::{Leaf, plan, query},
    problem::{Code, Refusal},
};

/// A request number with the digest of what was asked under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub number: RequestNumber,
    pub digest: i64,
}

/// What was answered: a body for a status below 400, else a refusal, both as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Arc<str>,
    /// Not decided now, but when the number was first used.
    pub replayed: bool,
}

impl Answer {
    /// The answer to a decision.
    pub fn decided<T: Serialize>(status: u16, decision: Result<T, Refusal>) -> Self {
        let (status, body) = match decision {
            Ok(done) => (status, serde_json::to_string(&done)),
            Err(refusal) => (refusal.code.status(), serde_json::to_string(&refusal)),
        };
        let body = body.expect("answers are plain structs with string keys, which always serialise");
        Self { status, body: body.into(), replayed: false }
    }

    /// Of what was decided before a COMMIT that went astray and what stands now, the answer to give. What stands and is
    /// not what was decided is the answer of another attempt.
    pub fn settled(self, found: Self) -> Self {
        if (self.status, &self.body) == (found.status, &found.body) { self } else { Self { replayed: true, ..found } }
    }

    fn refused(code: Code) -> Self {
        Self::decided::<()>(0, Err(code.into()))
    }
}

/// What became of one request's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The request is the first: decide it.
    Won,
    /// It was answered before, or its number stands for something else.
    Answered(Answer),
    /// Another request of the same batch has the number: it gets the answer of that one, or `request_number_reused`.
    Follows(usize),
}

type Row = (NaiveDate, Uuid);
/// Day, key, digest, status and answer. The last two are missing while the claim is being decided.
pub(super) type FoundRow = (NaiveDate, Uuid, i64, Option<i16>, Option<String>);

fn leaf(row: &Row) -> (Leaf, Row) {
    (plan("request").leaf_date(row.0), *row)
}

/// Claims the numbers of a batch. `None` is a request without a number, which is always decided.
///
/// # Errors
/// [`WriteError::Again`] when a row was in the way that is gone now.
pub async fn claim(tx: &mut Tx<'_>, now: DateTime<Utc>, tickets: &[Option<&Ticket>]) -> Result<Vec<Claim>, WriteError> {
    let mut claims = vec![Claim::Won; tickets.len()];
    let mut first: HashMap<Row, usize> = HashMap::new();
    let mut wanted: Vec<(Row, i64)> = Vec::new();
    let mut clashes: Vec<(usize, usize)> = Vec::new();
    for (position, ticket) in tickets.iter().enumerate() {
        let Some(ticket) = ticket else { continue };
        let rows = || ticket.number.days.iter().map(|day| (day, ticket.number.key));
        if let Some(leader) = rows().find_map(|row| first.get(&row)) {
            // With another body it is refused, unless its own first answer stands: that is looked at below.
            if tickets[*leader].is_some_and(|of| of.digest == ticket.digest) {
                claims[position] = Claim::Follows(*leader);
            } else {
                claims[position] = Claim::Answered(Answer::refused(Code::RequestNumberReused));
                clashes.push((position, *leader));
            }
            continue;
        }
        for row in rows() {
            first.insert(row, position);
            wanted.push((row, ticket.digest));
        }
    }
    let won = insert(tx, now, wanted).await?;

    let mut lost: Vec<Row> = Vec::new();
    let mut give_back: Vec<Row> = Vec::new();
    for (row, position) in &first {
        let ticket = tickets[*position].expect("only requests with a ticket were entered");
        let whole = ticket.number.days.iter().all(|day| won.contains(&(day, ticket.number.key)));
        match (whole, won.contains(row)) {
            (true, _) => {}
            (false, true) => give_back.push(*row),
            (false, false) => lost.push(*row),
        }
    }
    if lost.is_empty() {
        return Ok(claims);
    }
    delete(tx, give_back).await?;
    let answers = find(tx, lost.clone()).await?;
    // The older day first: of two answers the first one counts.
    lost.sort_unstable();
    for row in lost {
        let position = first[&row];
        if claims[position] != Claim::Won {
            continue;
        }
        let ticket = tickets[position].expect("only requests with a ticket were entered");
        let Some((digest, answer)) = answers.get(&row) else {
            return Err(WriteError::Again("a claim that was in the way is gone"));
        };
        for (clash, _) in clashes.iter().filter(|(_, leader)| *leader == position) {
            if tickets[*clash].is_some_and(|clash| clash.digest == *digest) {
                claims[*clash] = Claim::Answered(answer.clone());
            }
        }
        claims[position] = Claim::Answered(if *digest == ticket.digest {
            answer.clone()
        } else {
            Answer::refused(Code::RequestNumberReused)
        });
    }
    // Who follows a request that turned out to be a replay gets the same replay.
    for position in 0..claims.len() {
        if let Claim::Follows(leader) = claims[position]
            && let Claim::Answered(answer) = &claims[leader]
        {
            claims[position] = Claim::Answered(answer.clone());
        }
    }
    Ok(claims)
}

async fn insert(tx: &mut Tx<'_>, now: DateTime<Utc>, wanted: Vec<(Row, i64)>) -> Result<HashSet<Row>, WriteError> {
    let mut statements = Vec::new();
    for (target, rows) in tx.targets(wanted, |(row, _)| leaf(row)) {
        let statement = tx
            .statement(query("request/claim"), target)
            .bind(vec![now; rows.len()])
            .bind(column(&rows, |(_, digest)| *digest))
            .bind(column(&rows, |((_, key), _)| *key))
            .bind(column(&rows, |((day, _), _)| *day));
        statements.push(statement);
    }
    Ok(tx.fetch::<Row>(statements).await?.into_iter().collect())
}

async fn find(tx: &mut Tx<'_>, rows: Vec<Row>) -> Result<HashMap<Row, (i64, Answer)>, WriteError> {
    let mut found = HashMap::with_capacity(rows.len());
    for (day, key, digest, status, answer) in read(tx, rows).await? {
        let (Some(status), Some(body)) = (status, answer) else {
            return Err(WriteError::Inconsistent(format!("request.answer of ({day}, {key}) is missing")));
        };
        let answer = Answer { status: status as u16, body: body.into(), replayed: true };
        found.insert((day, key), (digest, answer));
    }
    Ok(found)
}

async fn read(tx: &mut Tx<'_>, rows: Vec<Row>) -> Result<Vec<FoundRow>, WriteError> {
    let mut statements = Vec::new();
    for (target, rows) in tx.targets(rows, leaf) {
        let statement = tx
            .statement(query("request/find"), target)
            .bind(column(&rows, |row| row.0))
            .bind(column(&rows, |row| row.1));
        statements.push(statement);
    }
    tx.fetch(statements).await
}

/// What was answered under these numbers, with the digest of what was asked; a claim that is being decided has no answer
/// yet and is left out.
pub async fn find_answers(
    tx: &mut Tx<'_>,
    rows: Vec<(NaiveDate, Uuid)>,
) -> Result<HashMap<Row, (i64, Answer)>, WriteError> {
    let answered = |(day, key, digest, status, body): FoundRow| {
        Some(((day, key), (digest, Answer { status: status? as u16, body: body?.into(), replayed: true })))
    };
    Ok(read(tx, rows).await?.into_iter().filter_map(answered).collect())
}

/// Stores the answers of requests whose claim was won, in the transaction of their effects.
pub async fn update_answers(tx: &mut Tx<'_>, answers: &[(&Ticket, &Answer)]) -> Result<(), WriteError> {
    let rows = answers
        .iter()
        .flat_map(|(ticket, answer)| ticket.number.days.iter().map(move |day| ((day, ticket.number.key), *answer)))
        .collect();
    for (target, rows) in tx.targets(rows, |(row, _)| leaf(row)) {
        let statement = tx
            .statement(query("request/update_answer"), target)
            .bind(column(&rows, |(row, _)| row.0))
            .bind(column(&rows, |(row, _)| row.1))
            .bind(column(&rows, |(_, answer)| answer.status as i16))
            .bind(column(&rows, |(_, answer)| answer.body.to_string()));
        tx.write("request", rows.len(), statement).await?;
    }
    Ok(())
}

async fn delete(tx: &mut Tx<'_>, rows: Vec<Row>) -> Result<(), WriteError> {
    for (target, rows) in tx.targets(rows, leaf) {
        let statement = tx
            .statement(query("request/delete"), target)
            .bind(column(&rows, |row| row.0))
            .bind(column(&rows, |row| row.1));
        tx.write("request", rows.len(), statement).await?;
    }
    Ok(())
}

/// What became of a request whose COMMIT went astray. Claims the number, which waits for a commit under way: a plain
/// read could say 'absent' too early. The caller rolls back.
pub async fn look_up(tx: &mut Tx<'_>, now: DateTime<Utc>, ticket: &Ticket) -> Result<Option<Answer>, WriteError> {
    Ok(match claim(tx, now, &[Some(ticket)]).await?.remove(0) {
        Claim::Answered(answer) => Some(Answer { replayed: false, ..answer }),
        Claim::Won | Claim::Follows(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_found_after_a_lost_commit_is_a_replay_when_another_attempt_gave_it() {
        let answer = |body: &str, replayed| Answer { status: 200, body: body.into(), replayed };
        // Committed: first answers stay first answers, and repetitions repetitions.
        for replayed in [false, true] {
            assert_eq!(answer("1", replayed).settled(answer("1", false)), answer("1", replayed));
        }
        assert_eq!(answer("1", false).settled(answer("2", false)), answer("2", true));
    }
}

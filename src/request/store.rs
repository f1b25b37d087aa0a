//! Claiming request numbers and keeping their first answers.
//!
//! A row of `request` is written with its answer, in the transaction of the effects: whoever's row stands is the one
//! who decided. That two do not decide about one number beside each other is seen to before, by a lock in the server's
//! memory that is tried and not waited for: who does not get it is told [`Claim::Busy`]. Should two decide all the same,
//! as beside nodes of a version without these locks, the row of one is in the way of the other's, which is then decided
//! again or put aside. Numbers that are good for two days have two rows.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use sqlx::{FromRow, postgres::PgRow};
use uuid::Uuid;

use super::RequestNumber;
use crate::{
    db::lane::{Statement, Tx, WriteError, column},
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

    /// The number stands for something else.
    pub fn reused() -> Self {
        Self::decided::<()>(0, Err(Code::RequestNumberReused.into()))
    }
}

/// What became of one request's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The request is the first: decide it.
    Won,
    /// It was answered before, or its number stands for something else.
    Answered(Answer),
    /// Another request of the same batch has the number: it gets the answer of that one,
    Follows(usize),
    /// or is refused, if that one is answered and asked for something else.
    Clashes(usize),
    /// Somebody else is deciding about the number.
    Busy,
}

type Row = (NaiveDate, Uuid);
/// Day, key, digest, status and answer.
pub(super) type FoundRow = (NaiveDate, Uuid, i64, Option<i16>, Option<String>);

fn leaf(row: &Row) -> (Leaf, Row) {
    (plan("request").leaf_date(row.0), *row)
}

/// Of locks, those that nobody else has. It names no table.
const TRY_LOCK: &str =
    "select t.lock from (select unnest($1::bigint[]) as lock) as t where pg_try_advisory_xact_lock(t.lock)";

/// The lock of a number. Two numbers may share one, which then wait for each other.
fn lock_of(key: Uuid) -> i64 {
    let (high, low) = key.as_u64_pair();
    (high ^ low).cast_signed()
}

/// Claims the numbers of a batch. `None` is a request without a number, which is always decided. A claim that was won
/// is kept by [`insert_answers`].
///
/// # Errors
/// [`WriteError`], of a statement.
pub async fn claim(tx: &mut Tx<'_>, tickets: &[Option<&Ticket>]) -> Result<Vec<Claim>, WriteError> {
    let (claims, _) = claim_and_fetch::<(i64,)>(tx, tickets, Vec::new()).await?;
    Ok(claims)
}

/// As [`claim`], and in the same message what is run after it, whatever becomes of the claims: the rows of statements.
///
/// # Errors
/// As [`claim`].
pub async fn claim_and_fetch<R>(
    tx: &mut Tx<'_>,
    tickets: &[Option<&Ticket>],
    after: Vec<Statement>,
) -> Result<(Vec<Claim>, Vec<R>), WriteError>
where
    R: for<'r> FromRow<'r, PgRow>,
{
    let mut claims = vec![Claim::Won; tickets.len()];
    let mut first: HashMap<Row, usize> = HashMap::new();
    // Who comes after another with the same number, and whether it says the same.
    let mut second: Vec<(usize, usize, bool)> = Vec::new();
    for (position, ticket) in tickets.iter().enumerate() {
        let Some(ticket) = ticket else { continue };
        let rows = || ticket.number.days.iter().map(|day| (day, ticket.number.key));
        if let Some(leader) = rows().find_map(|row| first.get(&row)) {
            second.push((position, *leader, tickets[*leader].is_some_and(|of| of.digest == ticket.digest)));
        } else {
            first.extend(rows().map(|row| (row, position)));
        }
    }
    if first.is_empty() {
        return Ok((claims, tx.fetch(after).await?));
    }
    let Found { free, answers, fetched } = lock_and_find(tx, first.keys().copied().collect(), after).await?;

    // The older day first: of two answers the first one counts.
    let mut rows: Vec<(Row, usize)> = first.into_iter().collect();
    rows.sort_unstable();
    for (row, position) in rows {
        if claims[position] == Claim::Won {
            let digest = tickets[position].expect("only requests with a ticket were entered").digest;
            claims[position] = claim_of(&row, digest, &free, &answers);
        }
    }
    for (position, leader, says_the_same) in second {
        let ticket = tickets[position].expect("only requests with a ticket were entered");
        claims[position] = match &claims[leader] {
            Claim::Won if says_the_same => Claim::Follows(leader),
            Claim::Won => Claim::Clashes(leader),
            Claim::Busy => Claim::Busy,
            told if says_the_same => told.clone(),
            // Its own first answer may stand.
            _ => {
                let mut rows = ticket.number.days.iter().map(|day| (day, ticket.number.key));
                let told = rows.find_map(|row| answers.get(&row));
                let of_it = told.filter(|(digest, _)| *digest == ticket.digest);
                Claim::Answered(of_it.map_or_else(Answer::reused, |told| told.1.clone()))
            }
        };
    }
    Ok((claims, fetched))
}

/// What one row says of the claim to it.
fn claim_of(row: &Row, digest: i64, free: &HashSet<i64>, answers: &HashMap<Row, (i64, Answer)>) -> Claim {
    match answers.get(row) {
        // What stands, stands, whoever has the lock.
        Some((of, answer)) if *of == digest => Claim::Answered(answer.clone()),
        Some(_) => Claim::Answered(Answer::reused()),
        None if free.contains(&lock_of(row.1)) => Claim::Won,
        None => Claim::Busy,
    }
}

/// What was learned of numbers, with the rows of what was run after that.
struct Found<R> {
    /// The locks that nobody else had.
    free: HashSet<i64>,
    answers: HashMap<Row, (i64, Answer)>,
    fetched: Vec<R>,
}

/// Tries the locks of numbers, then looks what stands under them: by statements of their own, so that what a former
/// holder of the lock has committed is seen.
async fn lock_and_find<R>(tx: &mut Tx<'_>, rows: Vec<Row>, after: Vec<Statement>) -> Result<Found<R>, WriteError>
where
    R: for<'r> FromRow<'r, PgRow>,
{
    let locks: BTreeSet<i64> = rows.iter().map(|(_, key)| lock_of(*key)).collect();
    let try_lock = tx.statement_on_none(TRY_LOCK).bind(Vec::from_iter(locks));
    let find = find_statements(tx, rows);
    let (free, found, fetched): (Vec<(i64,)>, Vec<FoundRow>, Vec<R>) =
        tx.fetch_in_turn(vec![try_lock], find, after).await?;
    let mut answers = HashMap::with_capacity(found.len());
    for (day, key, digest, status, answer) in found {
        let (Some(status), Some(body)) = (status, answer) else {
            return Err(WriteError::Inconsistent(format!("request.answer of ({day}, {key}) is missing")));
        };
        answers.insert((day, key), (digest, Answer { status: status as u16, body: body.into(), replayed: true }));
    }
    Ok(Found { free: free.into_iter().map(|(lock,)| lock).collect(), answers, fetched })
}

fn find_statements(tx: &mut Tx<'_>, rows: Vec<Row>) -> Vec<Statement> {
    let mut statements = Vec::new();
    for (target, rows) in tx.targets(rows, leaf) {
        let statement = tx
            .statement(query("request/find"), target)
            .bind(column(&rows, |row| row.0))
            .bind(column(&rows, |row| row.1));
        statements.push(statement);
    }
    statements
}

/// What was answered under these numbers, with the digest of what was asked.
pub async fn find_answers(
    tx: &mut Tx<'_>,
    rows: Vec<(NaiveDate, Uuid)>,
) -> Result<HashMap<Row, (i64, Answer)>, WriteError> {
    let answered = |(day, key, digest, status, body): FoundRow| {
        Some(((day, key), (digest, Answer { status: status? as u16, body: body?.into(), replayed: true })))
    };
    let statements = find_statements(tx, rows);
    Ok(tx.fetch(statements).await?.into_iter().filter_map(answered).collect())
}

/// Keeps the answers of requests whose claim was won, in the transaction of their effects. Should a number have been
/// answered meanwhile, by somebody who does not try the lock, all are to be decided again.
pub async fn insert_answers(
    tx: &mut Tx<'_>,
    now: DateTime<Utc>,
    answers: &[(&Ticket, &Answer)],
) -> Result<(), WriteError> {
    let rows = answers
        .iter()
        .flat_map(|(ticket, answer)| {
            ticket.number.days.iter().map(move |day| ((day, ticket.number.key), ticket.digest, *answer))
        })
        .collect();
    for (target, rows) in tx.targets(rows, |(row, ..)| leaf(row)) {
        let statement = tx
            .statement(query("request/insert"), target)
            .bind(vec![now; rows.len()])
            .bind(column(&rows, |(_, digest, _)| *digest))
            .bind(column(&rows, |((_, key), ..)| *key))
            .bind(column(&rows, |((day, _), ..)| *day))
            .bind(column(&rows, |(.., answer)| answer.status as i16))
            .bind(column(&rows, |(.., answer)| answer.body.to_string()));
        tx.write_new(rows.len(), statement).await?;
    }
    Ok(())
}

/// What became of a request whose COMMIT went astray. It waits for a commit under way by the lock; and, since a node may
/// be of a version without it, by writing the number's row, which the caller rolls back. A plain read could say 'absent'
/// too early.
///
/// # Errors
/// [`WriteError::Again`] while it is under way.
pub async fn look_up(tx: &mut Tx<'_>, now: DateTime<Utc>, ticket: &Ticket) -> Result<Option<Answer>, WriteError> {
    match claim(tx, &[Some(ticket)]).await?.remove(0) {
        Claim::Answered(answer) => Ok(Some(Answer { replayed: false, ..answer })),
        Claim::Busy => Err(WriteError::Again("the number is being decided about")),
        Claim::Won | Claim::Follows(_) | Claim::Clashes(_) => {
            make_sure_of_none(tx, now, &[ticket]).await?;
            Ok(None)
        }
    }
}

/// Writes rows of numbers that were free, in a transaction that is rolled back.
///
/// # Errors
/// [`WriteError::Again`] when one is not free any more.
pub async fn make_sure_of_none(tx: &mut Tx<'_>, now: DateTime<Utc>, tickets: &[&Ticket]) -> Result<(), WriteError> {
    let none = Answer::decided::<()>(0, Err(Code::RequestNotFound.into()));
    insert_answers(tx, now, &tickets.iter().map(|ticket| (*ticket, &none)).collect::<Vec<_>>()).await?;
    tx.flush().await
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

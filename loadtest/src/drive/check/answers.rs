//! Answers against the database, read from end to end: everything acknowledged is there as it was told, everything unknown
//! is there wholly or not at all.

use std::collections::HashMap;

use anyhow::{Context, ensure};
use chrono::NaiveDate;
use sqlx::PgConnection;
use tessera::{
    clock::{Clock, Zone},
    request::{ClaimDays, Operation, RequestNumber, Source, Window},
};
use uuid::Uuid;

use super::{
    BATCH, Books, Finding,
    books::{code_id, codes_of},
};
use crate::drive::{
    journal::{Done, Sent},
    op::Op,
};

pub(super) const REDEEM: i16 = 1;
const REVERSE: i16 = 2;

/// What the answers show by themselves.
pub(super) struct Told {
    pub acknowledged: Finding,
    pub unknown: Finding,
    /// Issues and claims whose answers were lost and whose grants are stored.
    pub issues_lost: usize,
}

pub(super) async fn examine(conn: &mut PgConnection, books: &Books) -> anyhow::Result<Told> {
    let scopes = scopes(conn).await?;
    let mut told = Told {
        acknowledged: Finding::new("acknowledged", "every acknowledged answer is in the ledger, as it was told"),
        unknown: Finding::new(
            "unknown-whole",
            "a request whose answer was lost was done wholly or not at all, as its number says",
        ),
        issues_lost: 0,
    };
    for batch in books.sent(BATCH) {
        let batch = batch?;
        let statuses = statuses(conn, &scopes, &batch).await?;
        let (done, lost): (Vec<_>, Vec<_>) = batch.iter().zip(statuses).partition(|(sent, _)| sent.done.is_some());
        acknowledged(conn, &done, &mut told.acknowledged).await?;
        unknown(conn, &lost, &mut told.unknown).await?;
        let issues = lost.iter().filter(|(sent, status)| matches!(sent.op, Op::Claim | Op::Issue) && is_grant(*status));
        told.issues_lost += issues.count();
    }
    Ok(told)
}

fn kind_of(op: Op) -> Option<i16> {
    match op {
        Op::Redeem => Some(REDEEM),
        Op::Reverse => Some(REVERSE),
        _ => None,
    }
}

fn is_grant(status: Option<i16>) -> bool {
    status.is_some_and(|status| (200..300).contains(&status))
}

fn stored(status: Option<i16>) -> String {
    status.map_or("nothing".to_owned(), |status| status.to_string())
}

/// The scope of the numbers of each key.
async fn scopes(conn: &mut PgConnection) -> anyhow::Result<HashMap<String, String>> {
    let keys: Vec<(String, String, Option<String>)> = sqlx::query_as(
        "select k.key_id, k.name, s.store_id from api_key k left join store s on s.store_no = k.store_no",
    )
    .fetch_all(conn)
    .await?;
    let scope = |(id, name, store): (String, String, Option<String>)| {
        (id, store.map_or_else(|| format!("key:{name}"), |store| format!("store:{store}")))
    };
    Ok(keys.into_iter().map(scope).collect())
}

/// The status that is stored under each number, in the order of the requests.
async fn statuses(
    conn: &mut PgConnection,
    scopes: &HashMap<String, String>,
    batch: &[Sent],
) -> anyhow::Result<Vec<Option<i16>>> {
    let numbers = batch.iter().map(|sent| number(scopes, sent)).collect::<anyhow::Result<Vec<_>>>()?;
    let (days, keys): (Vec<NaiveDate>, Vec<Uuid>) = numbers.into_iter().unzip();
    let sql = include_str!("../../../sql/requests.sql");
    let rows: Vec<(i64, Option<i16>)> = sqlx::query_as(sql).bind(days).bind(keys).fetch_all(conn).await?;
    let mut statuses = vec![None; batch.len()];
    for (no, status) in rows {
        statuses[no as usize - 1] = status;
    }
    Ok(statuses)
}

/// Where the answer to a request is stored.
fn number(scopes: &HashMap<String, String>, sent: &Sent) -> anyhow::Result<(NaiveDate, Uuid)> {
    let scope = scopes.get(&sent.key_id).with_context(|| format!("the database has no API key {}", sent.key_id))?;
    let operation = Operation::parse(sent.op.name()).with_context(|| format!("{} has no number", sent.op.name()))?;
    let source = Source::parse(&sent.number).map_err(|refusal| anyhow::anyhow!("{}: {refusal}", sent.number))?;
    // However old: this is no request.
    let window = Window { days_back: 36_500, days_ahead: 36_500, ..Window::new(Clock::system().now(), Zone::DEFAULT) };
    let number = RequestNumber::new(scope, operation, &source, &window)
        .map_err(|refusal| anyhow::anyhow!("{}: {refusal}", sent.number))?;
    let ClaimDays::One(day) = number.days else { anyhow::bail!("{} does not carry its day", sent.number) };
    Ok((day, number.key))
}

async fn acknowledged(
    conn: &mut PgConnection,
    told: &[(&Sent, Option<i16>)],
    finding: &mut Finding,
) -> anyhow::Result<()> {
    finding.saw(told.len());
    let mut whole = Vec::with_capacity(told.len());
    for (sent, status) in told {
        let Some(done) = &sent.done else { continue };
        let (op, number) = (sent.op.name(), &sent.number);
        if *status != Some(done.status.cast_signed()) {
            finding.breaks([format!("{op} {number}: answered {}, stored {}", done.status, stored(*status))]);
        }
        if says_what_was_done(sent.op, done) {
            whole.push(*sent);
        } else {
            finding.breaks([format!("{op} {number}: answered without saying what was done: {:?}", done.result)]);
        }
    }
    finding.breaks(ledger(conn, &whole).await?);
    finding.breaks(coupons(conn, &whole).await?);
    finding.breaks(members(conn, &whole).await?);
    Ok(())
}

/// A grant that names no redemption, coupon or member cannot be looked up, so it is not acknowledged as it should be.
fn says_what_was_done(op: Op, done: &Done) -> bool {
    match op {
        Op::Redeem | Op::Reverse | Op::Register => done.result.parse::<i64>().is_ok(),
        Op::Claim | Op::Issue => done.result.split(',').count() == codes_of(done).len(),
        _ => true,
    }
}

/// Uses and undos.
async fn ledger(conn: &mut PgConnection, batch: &[&Sent]) -> anyhow::Result<Vec<String>> {
    let (mut ids, mut codes, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    let (mut orders, mut amounts, mut discounts) = (Vec::new(), Vec::new(), Vec::new());
    for sent in batch {
        let (Some(kind), Some(done)) = (kind_of(sent.op), &sent.done) else { continue };
        ids.push(id(&done.result, sent)?);
        codes.push(code_id(&sent.subject)?);
        kinds.push(kind);
        orders.push(sent.about.as_str());
        // A reversal of the whole carries the amount of the use, which its answer does not tell.
        amounts.push((kind == REDEEM).then_some(sent.amount));
        discounts.push(done.discount);
    }
    let sql = include_str!("../../../sql/ledger.sql");
    let rows = sqlx::query_scalar(sql).bind(ids).bind(codes).bind(kinds).bind(orders).bind(amounts).bind(discounts);
    Ok(rows.fetch_all(conn).await?)
}

/// Claimed and issued coupons.
async fn coupons(conn: &mut PgConnection, batch: &[&Sent]) -> anyhow::Result<Vec<String>> {
    let (mut codes, mut rules, mut members) = (Vec::new(), Vec::new(), Vec::new());
    for sent in batch.iter().filter(|sent| matches!(sent.op, Op::Claim | Op::Issue)) {
        for code in sent.done.iter().flat_map(codes_of) {
            codes.push(code);
            rules.push(id(&sent.subject, sent)?);
            members.push(id(&sent.about, sent)?);
        }
    }
    let sql = include_str!("../../../sql/coupons.sql");
    Ok(sqlx::query_scalar(sql).bind(codes).bind(rules).bind(members).fetch_all(conn).await?)
}

async fn members(conn: &mut PgConnection, batch: &[&Sent]) -> anyhow::Result<Vec<String>> {
    let registered = batch.iter().filter(|sent| sent.op == Op::Register);
    let members = registered.filter_map(|sent| Some((sent, sent.done.as_ref()?)));
    let members = members.map(|(sent, done)| id(&done.result, sent)).collect::<anyhow::Result<Vec<i64>>>()?;
    Ok(sqlx::query_scalar(include_str!("../../../sql/members.sql")).bind(members).fetch_all(conn).await?)
}

fn id(text: &str, sent: &Sent) -> anyhow::Result<i64> {
    text.parse().with_context(|| format!("the journal's {} {} has no id where one is", sent.op.name(), sent.number))
}

/// A request without an answer: with a stored grant its effect is there once, without one it is not.
async fn unknown(conn: &mut PgConnection, lost: &[(&Sent, Option<i16>)], finding: &mut Finding) -> anyhow::Result<()> {
    let uses: Vec<_> = lost.iter().filter_map(|(sent, status)| Some((*sent, *status, kind_of(sent.op)?))).collect();
    finding.saw(uses.len());
    let codes = uses.iter().map(|(sent, ..)| code_id(&sent.subject)).collect::<anyhow::Result<Vec<i64>>>()?;
    let orders: Vec<&str> = uses.iter().map(|(sent, ..)| sent.about.as_str()).collect();
    let kinds: Vec<i16> = uses.iter().map(|(.., kind)| *kind).collect();
    let sql = include_str!("../../../sql/orders.sql");
    let rows: Vec<(i64, i64)> = sqlx::query_as(sql).bind(codes).bind(orders).bind(kinds).fetch_all(conn).await?;
    ensure!(rows.len() == uses.len(), "a row for each request was expected");
    for (no, count) in rows {
        let (sent, status, _) = uses[no as usize - 1];
        if count != i64::from(is_grant(status)) {
            finding.breaks([format!(
                "{} {} of order {}: stored {}, and {count} in the ledger",
                sent.op.name(),
                sent.number,
                sent.about,
                stored(status)
            )]);
        }
    }
    Ok(())
}

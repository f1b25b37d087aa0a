//! Answers against the database: everything acknowledged is there as it was told, everything unknown is there wholly or not
//! at all, and nothing is there that nobody was told of.

use std::collections::{HashMap, HashSet};

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

const REDEEM: i16 = 1;
const REVERSE: i16 = 2;

pub(super) async fn examine(conn: &mut PgConnection, books: &Books, rules: &[i64]) -> anyhow::Result<Vec<Finding>> {
    let statuses = statuses(conn, &books.sent).await?;
    Ok(vec![
        acknowledged(conn, books, &statuses).await?,
        unknown(conn, books, &statuses).await?,
        nothing_else(conn, books, &statuses, rules).await?,
    ])
}

fn kind_of(op: Op) -> Option<i16> {
    match op {
        Op::Redeem => Some(REDEEM),
        Op::Reverse => Some(REVERSE),
        _ => None,
    }
}

/// The status that is stored under each number, in the order of the entries.
async fn statuses(conn: &mut PgConnection, sent: &[Sent]) -> anyhow::Result<Vec<Option<i16>>> {
    let keys: Vec<(String, String, Option<String>)> = sqlx::query_as(
        "select k.key_id, k.name, s.store_id from api_key k left join store s on s.store_no = k.store_no",
    )
    .fetch_all(&mut *conn)
    .await?;
    let scope = |(id, name, store): (String, String, Option<String>)| {
        (id, store.map_or_else(|| format!("key:{name}"), |store| format!("store:{store}")))
    };
    let scopes: HashMap<String, String> = keys.into_iter().map(scope).collect();
    let mut found = Vec::with_capacity(sent.len());
    for batch in sent.chunks(BATCH) {
        let numbers = batch.iter().map(|sent| number(&scopes, sent)).collect::<anyhow::Result<Vec<_>>>()?;
        let (days, keys): (Vec<NaiveDate>, Vec<Uuid>) = numbers.into_iter().unzip();
        let rows: Vec<(i64, Option<i16>)> = sqlx::query_as(include_str!("../../../sql/requests.sql"))
            .bind(days)
            .bind(keys)
            .fetch_all(&mut *conn)
            .await?;
        let mut statuses = vec![None; batch.len()];
        for (no, status) in rows {
            statuses[no as usize - 1] = status;
        }
        found.extend(statuses);
    }
    Ok(found)
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

async fn acknowledged(conn: &mut PgConnection, books: &Books, statuses: &[Option<i16>]) -> anyhow::Result<Finding> {
    let told: Vec<(&Sent, Option<i16>)> =
        books.sent.iter().zip(statuses.iter().copied()).filter(|(sent, _)| sent.done.is_some()).collect();
    let mut broken = Vec::new();
    let mut results = HashSet::new();
    for (sent, status) in &told {
        let Some(done) = &sent.done else { continue };
        if *status != Some(done.status.cast_signed()) {
            let stored = status.map_or("nothing".to_owned(), |status| status.to_string());
            broken.push(format!("{} {}: answered {}, stored {stored}", sent.op.name(), sent.number, done.status));
        }
        if !done.result.is_empty() && !results.insert(done.result.as_str()) {
            broken.push(format!("{} {}: {} was told before", sent.op.name(), sent.number, done.result));
        }
    }
    let (whole, halves): (Vec<&Sent>, Vec<&Sent>) = told
        .iter()
        .map(|(sent, _)| *sent)
        .partition(|sent| sent.done.as_ref().is_none_or(|done| says_what_was_done(sent.op, done)));
    broken.extend(halves.into_iter().map(|sent| {
        let said = sent.done.as_ref().map_or("", |done| done.result.as_str());
        format!("{} {}: answered without saying what was done: {said:?}", sent.op.name(), sent.number)
    }));
    for batch in whole.chunks(BATCH) {
        broken.extend(ledger(conn, batch).await?);
        broken.extend(coupons(conn, batch).await?);
        broken.extend(members(conn, batch).await?);
    }
    let says = "every acknowledged answer is in the ledger, as it was told";
    Ok(Finding::new("acknowledged", says, told.len(), broken))
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
async fn unknown(conn: &mut PgConnection, books: &Books, statuses: &[Option<i16>]) -> anyhow::Result<Finding> {
    let unknown: Vec<(&Sent, Option<i16>)> =
        books.sent.iter().zip(statuses.iter().copied()).filter(|(sent, _)| sent.done.is_none()).collect();
    let mut broken = Vec::new();
    let uses: Vec<_> = unknown.iter().filter_map(|(sent, status)| Some((*sent, *status, kind_of(sent.op)?))).collect();
    for batch in uses.chunks(BATCH) {
        let codes = batch.iter().map(|(sent, ..)| code_id(&sent.subject)).collect::<anyhow::Result<Vec<i64>>>()?;
        let orders: Vec<&str> = batch.iter().map(|(sent, ..)| sent.about.as_str()).collect();
        let kinds: Vec<i16> = batch.iter().map(|(.., kind)| *kind).collect();
        let rows: Vec<(i64, i64)> = sqlx::query_as(include_str!("../../../sql/orders.sql"))
            .bind(codes)
            .bind(orders)
            .bind(kinds)
            .fetch_all(&mut *conn)
            .await?;
        ensure!(rows.len() == batch.len(), "a row for each request was expected");
        for (no, count) in rows {
            let (sent, status, _) = batch[no as usize - 1];
            let granted = status.is_some_and(|status| (200..300).contains(&status));
            if count != i64::from(granted) {
                let stored = status.map_or("nothing".to_owned(), |status| status.to_string());
                broken.push(format!(
                    "{} {} of order {}: stored {stored}, and {count} in the ledger",
                    sent.op.name(),
                    sent.number,
                    sent.about
                ));
            }
        }
    }
    let says = "a request whose answer was lost was done wholly or not at all, as its number says";
    Ok(Finding::new("unknown-whole", says, uses.len(), broken))
}

/// Ledger rows under the run's orders, and coupons of its rules, that no answer told of and no lost answer explains.
async fn nothing_else(
    conn: &mut PgConnection,
    books: &Books,
    statuses: &[Option<i16>],
    rules: &[i64],
) -> anyhow::Result<Finding> {
    let told: HashSet<i64> = books
        .sent
        .iter()
        .filter(|sent| kind_of(sent.op).is_some())
        .filter_map(|sent| sent.done.as_ref()?.result.parse().ok())
        .collect();
    let lost: HashSet<(&str, i16)> = books
        .sent
        .iter()
        .filter(|sent| sent.done.is_none())
        .filter_map(|sent| Some((sent.about.as_str(), kind_of(sent.op)?)))
        .collect();
    let mut broken = Vec::new();
    let mut looked_at = 0;
    let codes: Vec<i64> = books.codes()?.into_iter().collect();
    for (run, codes) in books.runs.iter().flat_map(|run| codes.chunks(BATCH).map(move |codes| (run, codes))) {
        let rows: Vec<(i64, i64, i16, String)> = sqlx::query_as(include_str!("../../../sql/effects.sql"))
            .bind(codes)
            .bind(format!("{run}-"))
            .fetch_all(&mut *conn)
            .await?;
        looked_at += rows.len();
        for (redemption, code, kind, order) in rows {
            if !told.contains(&redemption) && !lost.contains(&(order.as_str(), kind)) {
                broken.push(format!("redemption {redemption} of coupon {code}, order {order}: nobody was told of it"));
            }
        }
    }
    let (more, seen) = coupons_of_nobody(conn, books, statuses, rules).await?;
    broken.extend(more);
    let says = "the ledger and the rules of the run hold nothing that nobody was told of";
    Ok(Finding::new("nothing-else", says, looked_at + seen, broken))
}

/// As many coupons as were told of; and at most one more for each issue or claim whose answer was lost but stored.
async fn coupons_of_nobody(
    conn: &mut PgConnection,
    books: &Books,
    statuses: &[Option<i16>],
    rules: &[i64],
) -> anyhow::Result<(Vec<String>, usize)> {
    let mut told: HashSet<i64> = books.job_coupons.iter().map(|(_, code)| *code).collect();
    let mut lost = 0;
    for (sent, status) in books.sent.iter().zip(statuses) {
        if !matches!(sent.op, Op::Claim | Op::Issue) {
            continue;
        }
        match &sent.done {
            Some(done) => told.extend(codes_of(done)),
            None => lost += usize::from(status.is_some_and(|status| (200..300).contains(&status))),
        }
    }
    let codes: Vec<i64> =
        sqlx::query_scalar(include_str!("../../../sql/issued.sql")).bind(rules).fetch_all(conn).await?;
    let strangers: Vec<&i64> = codes.iter().filter(|code| !told.contains(code)).collect();
    let broken = if strangers.len() == lost {
        Vec::new()
    } else {
        let said = |code: &&i64| format!("coupon {code}: nobody was told of it ({lost} lost answers explain as many)");
        let mut broken: Vec<String> = strangers.iter().map(said).collect();
        if broken.is_empty() {
            broken.push(format!("{lost} issues whose answers were lost are stored, and their coupons are not there"));
        }
        broken
    };
    Ok((broken, codes.len()))
}

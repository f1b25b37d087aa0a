//! Counts against the rows they count: `coupon_stock` over `coupon_index`, `member_rule` over `coupon_receive`.
//!
//! A rule's rows are counted in the snapshot that its count is read in, however many they are, since a count that moves
//! can't be compared in parts; the rules of a chunk are shared out so that a snapshot counts one large rule or many small
//! ones. Only the row of the whole rule (period and store 0) is compared here, and only its coupons: the rest is
//! [`super::part`]'s.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::PgConnection;

use super::{
    pair::{Chunk, Direction, Found, Subject},
    projection,
    report::{Difference, Kind, Repair},
    row::{Cell, Type, Value},
    sample::{COUNTED_ROWS_MAX, Stretch, typed_page_rows},
};
use crate::partition::{Leaf, plan, query};

/// The rules of a stretch that are counted in one snapshot, and whether the leaf ends with them. The statement gives rules
/// with the coupons that they are said to have.
pub(super) async fn counted_rules(
    conn: &mut PgConnection,
    leaf: Leaf,
    statement: &str,
    stretch: &Stretch,
) -> Result<(Vec<i64>, bool), sqlx::Error> {
    let (after, limit) = match stretch {
        Stretch::After(after, limit) => (after.as_ref().map_or(i64::MIN, |key| key[0].as_i64()), *limit),
        Stretch::Rules(rules) => return Ok((rules.clone(), true)),
        Stretch::Pages(_) => return Ok((Vec::new(), true)),
    };
    let sql = query(statement).on(&[leaf]);
    let rows: Vec<(i64, i64)> = sqlx::query_as(sql).bind(after).bind(limit).fetch_all(conn).await?;
    let end = (rows.len() as i64) < limit;
    let (mut rules, mut counted) = (Vec::new(), 0);
    for (rule, living) in rows {
        counted += living;
        if counted > COUNTED_ROWS_MAX && !rules.is_empty() {
            return Ok((rules, false));
        }
        rules.push(rule);
    }
    Ok((rules, end))
}

/// The rules that index rows of a stretch are of, and whether the leaf ends with them.
async fn indexed_rules(
    conn: &mut PgConnection,
    leaf: Leaf,
    stretch: &Stretch,
) -> Result<(Vec<i64>, bool), sqlx::Error> {
    let (after, limit) = match stretch {
        Stretch::After(after, limit) => (after.as_ref().map_or(i64::MIN, |key| key[0].as_i64()), *limit),
        Stretch::Pages(_) | Stretch::Rules(_) => {
            let rows = projection::INDEX.index.read(conn, leaf, stretch).await?;
            let rules: BTreeSet<i64> = rows.iter().map(|row| row.key[0].as_i64()).collect();
            return Ok((rules.into_iter().collect(), true));
        }
    };
    let sql = query("verify/stock_index_rules").on(&[leaf]);
    let rules: Vec<i64> = sqlx::query_scalar(sql).bind(after).bind(limit).fetch_all(conn).await?;
    let end = (rules.len() as i64) < limit;
    Ok((rules, end))
}

pub(super) async fn stock_chunk(
    conn: &mut PgConnection,
    direction: Direction,
    leaf: Leaf,
    stretch: &Stretch,
) -> Result<Chunk, sqlx::Error> {
    let (rules, end) = match direction {
        Direction::Forward => counted_rules(conn, leaf, "verify/stock_rules", stretch).await?,
        Direction::Back => indexed_rules(conn, leaf, stretch).await?,
    };
    let last = rules.last().map(|rule| vec![Value::I64(*rule)]);
    let mut chunk = Chunk { rows: rules.len() as u64, last: last.filter(|_| !end), ..Chunk::default() };
    let suspects = match direction {
        Direction::Forward => {
            let counted = stock_counts(conn, &rules).await?;
            let differs = |rule: &i64| counted.get(rule).is_some_and(|(row, counted)| !agrees(row.as_ref(), *counted));
            rules.into_iter().filter(differs).collect::<Vec<_>>()
        }
        // Rules with a row were counted on the way out.
        Direction::Back => {
            let known = stocks(conn, &rules).await?;
            rules.into_iter().filter(|rule| !known.contains_key(rule)).collect()
        }
    };
    chunk.differed = !suspects.is_empty();
    chunk.suspects = suspects.into_iter().map(|rule| Subject { base: rule, index: None }).collect();
    Ok(chunk)
}

struct Stock {
    issued: i64,
    voided: i64,
    retired: i64,
}

fn agrees(row: Option<&Stock>, counted: i64) -> bool {
    match row {
        Some(row) => row.issued - row.voided == counted + row.retired,
        None => counted == 0,
    }
}

async fn stocks(conn: &mut PgConnection, rules: &[i64]) -> Result<HashMap<i64, Stock>, sqlx::Error> {
    let mut found = HashMap::new();
    for (leaf, rules) in by_leaf("coupon_stock", rules) {
        let rows: Vec<(i64, i64, i64, i64)> =
            sqlx::query_as(query("verify/stock_find").on(&[leaf])).bind(&rules).fetch_all(&mut *conn).await?;
        found.extend(rows.into_iter().map(|(rule, issued, voided, retired)| (rule, Stock { issued, voided, retired })));
    }
    Ok(found)
}

async fn stock_counts(
    conn: &mut PgConnection,
    rules: &[i64],
) -> Result<HashMap<i64, (Option<Stock>, i64)>, sqlx::Error> {
    let mut rows = stocks(conn, rules).await?;
    let mut counts = HashMap::new();
    for (leaf, rules) in by_leaf("coupon_index", rules) {
        let counted: Vec<(i64, i64)> =
            sqlx::query_as(query("verify/stock_count").on(&[leaf])).bind(&rules).fetch_all(&mut *conn).await?;
        counts.extend(counted);
    }
    let one = |rule: &i64| (*rule, (rows.remove(rule), counts.get(rule).copied().unwrap_or(0)));
    Ok(rules.iter().map(one).collect())
}

fn by_leaf(table: &str, ids: &[i64]) -> BTreeMap<Leaf, Vec<i64>> {
    let mut leaves: BTreeMap<Leaf, Vec<i64>> = BTreeMap::new();
    for id in BTreeSet::from_iter(ids) {
        leaves.entry(plan(table).leaf_i64(*id)).or_default().push(*id);
    }
    leaves
}

pub(super) async fn examine_stock(conn: &mut PgConnection, subjects: &[Subject]) -> Result<Vec<Found>, sqlx::Error> {
    let rules: Vec<i64> = subjects.iter().map(|subject| subject.base).collect();
    let counted = stock_counts(conn, &rules).await?;
    let differing = subjects.iter().filter_map(|subject| {
        let (row, counted) = counted.get(&subject.base)?;
        if agrees(row.as_ref(), *counted) {
            return None;
        }
        let key = vec![Value::I64(subject.base), Value::I64(0), Value::I64(0)];
        let difference = match row {
            None => Difference::new(Kind::Missing, "coupon_stock", key, Vec::new()),
            Some(_) => Difference::new(Kind::Altered, "coupon_stock", key, vec!["issued", "voided"]),
        };
        Some(Found { subject: subject.clone(), difference })
    });
    Ok(differing.collect())
}

/// Counts a rule again while its row is locked, which holds up whoever issues coupons of it. What has been voided stays
/// as it is; what was issued follows from the rows.
pub(super) async fn mend_stock(conn: &mut PgConnection, subject: &Subject) -> Result<Repair, sqlx::Error> {
    let leaf = plan("coupon_stock").leaf_i64(subject.base);
    let (rules, zero) = (vec![subject.base], vec![0_i32]);
    for statement in ["coupon_stock/insert_missing", "coupon_stock/lock"] {
        let sql = query(statement).on(&[leaf]);
        sqlx::query(sql).bind(&rules).bind(&zero).bind(&zero).fetch_all(&mut *conn).await?;
    }
    // A statement of its own, so that it sees what was committed before the lock was got.
    let counted = stock_counts(conn, &rules).await?;
    let Some((Some(row), counted)) = counted.get(&subject.base) else { return Ok(Repair::Left("it is not there")) };
    let sql = query("verify/stock_set").on(&[leaf]);
    sqlx::query(sql).bind(&rules).bind(counted + row.retired + row.voided).execute(conn).await?;
    Ok(Repair::Mended)
}

pub(super) async fn taken_chunk(
    conn: &mut PgConnection,
    direction: Direction,
    leaf: Leaf,
    stretch: &Stretch,
) -> Result<Chunk, sqlx::Error> {
    let (pairs, mut chunk): (Vec<(i64, i64)>, Chunk) = match direction {
        Direction::Forward => {
            let pairs = taken_rows(conn, leaf, stretch).await?;
            let last = pairs.last().map(|(member, rule)| vec![Value::I64(*member), Value::I64(*rule)]);
            let chunk = stretch.chunk(pairs.len(), last);
            (pairs, chunk)
        }
        Direction::Back => {
            let side = &projection::RECEIVE.index;
            let rows = side.read(conn, leaf, stretch).await?;
            let rule_at = side.cell_no("rule_id").expect("coupon_receive has a rule");
            let rule = |cells: &[Cell]| Value::of_bytes(Type::I64, cells[rule_at].as_deref()?).map(Value::as_i64);
            let pairs: BTreeSet<_> =
                rows.iter().filter_map(|row| Some((row.key[0].as_i64(), rule(&row.cells)?))).collect();
            let last = rows.last().map(|row| row.key.clone());
            (pairs.into_iter().collect(), stretch.chunk(rows.len(), last))
        }
    };
    let suspects: Vec<(i64, i64)> = match direction {
        Direction::Forward => {
            let counted = taken_counts(conn, &pairs).await?;
            pairs
                .into_iter()
                .filter(|pair| counted.get(pair).is_some_and(|(row, n)| !holds(row.as_ref(), *n)))
                .collect()
        }
        Direction::Back => {
            let known = takens(conn, &pairs).await?;
            pairs.into_iter().filter(|pair| !known.contains_key(pair)).collect()
        }
    };
    chunk.suspects = suspects
        .into_iter()
        .map(|(member, rule)| Subject { base: member, index: Some(vec![Value::I64(rule)]) })
        .collect();
    chunk.differed = !chunk.suspects.is_empty();
    Ok(chunk)
}

/// Members and rules of the rows of a stretch.
async fn taken_rows(conn: &mut PgConnection, leaf: Leaf, stretch: &Stretch) -> Result<Vec<(i64, i64)>, sqlx::Error> {
    let (after, limit) = match stretch {
        Stretch::After(after, limit) => (after.as_ref(), *limit),
        Stretch::Pages(pages) => return typed_page_rows(conn, query("verify/taken_pages").on(&[leaf]), pages).await,
        Stretch::Rules(_) => return Ok(Vec::new()),
    };
    sqlx::query_as(query("verify/taken_walk").on(&[leaf]))
        .bind(after.map(|key| key[0].as_i64()))
        .bind(after.map(|key| key[1].as_i64()))
        .bind(limit)
        .fetch_all(conn)
        .await
}

struct Taken {
    taken: i64,
    retired: i64,
}

fn holds(row: Option<&Taken>, counted: i64) -> bool {
    match row {
        Some(row) => row.taken == counted + row.retired,
        None => counted == 0,
    }
}

async fn takens(conn: &mut PgConnection, pairs: &[(i64, i64)]) -> Result<HashMap<(i64, i64), Taken>, sqlx::Error> {
    let mut by_leaf: BTreeMap<Leaf, (Vec<i64>, Vec<i64>)> = BTreeMap::new();
    for (member, rule) in pairs {
        let of = by_leaf.entry(plan("member_rule").leaf_i64(*member)).or_default();
        of.0.push(*member);
        of.1.push(*rule);
    }
    let mut found = HashMap::new();
    for (leaf, (members, rules)) in by_leaf {
        let rows: Vec<(i64, i64, i32, i32)> = sqlx::query_as(query("verify/taken_find").on(&[leaf]))
            .bind(members)
            .bind(rules)
            .fetch_all(&mut *conn)
            .await?;
        found.extend(rows.into_iter().map(|(member, rule, taken, retired)| {
            ((member, rule), Taken { taken: taken.into(), retired: retired.into() })
        }));
    }
    Ok(found)
}

type TakenCounts = HashMap<(i64, i64), (Option<Taken>, i64)>;

async fn taken_counts(conn: &mut PgConnection, pairs: &[(i64, i64)]) -> Result<TakenCounts, sqlx::Error> {
    let mut rows = takens(conn, pairs).await?;
    let members: Vec<i64> = pairs.iter().map(|(member, _)| *member).collect();
    let mut counts: HashMap<(i64, i64), i64> = HashMap::new();
    for (leaf, members) in by_leaf("coupon_receive", &members) {
        let counted: Vec<(i64, i64, i64)> =
            sqlx::query_as(query("verify/taken_count").on(&[leaf])).bind(&members).fetch_all(&mut *conn).await?;
        counts.extend(counted.into_iter().map(|(member, rule, count)| ((member, rule), count)));
    }
    Ok(pairs.iter().map(|pair| (*pair, (rows.remove(pair), counts.get(pair).copied().unwrap_or(0)))).collect())
}

fn pair_of(subject: &Subject) -> (i64, i64) {
    (subject.base, subject.index.as_ref().map_or(0, |key| key[0].as_i64()))
}

pub(super) async fn examine_taken(conn: &mut PgConnection, subjects: &[Subject]) -> Result<Vec<Found>, sqlx::Error> {
    let pairs: BTreeSet<(i64, i64)> = subjects.iter().map(pair_of).collect();
    let counted = taken_counts(conn, &pairs.into_iter().collect::<Vec<_>>()).await?;
    let differing = subjects.iter().filter_map(|subject| {
        let (member, rule) = pair_of(subject);
        let (row, counted) = counted.get(&(member, rule))?;
        if holds(row.as_ref(), *counted) {
            return None;
        }
        let key = vec![Value::I64(member), Value::I64(rule)];
        let difference = match row {
            None => Difference::new(Kind::Missing, "member_rule", key, Vec::new()),
            Some(_) => Difference::new(Kind::Altered, "member_rule", key, vec!["taken"]),
        };
        Some(Found { subject: subject.clone(), difference })
    });
    Ok(differing.collect())
}

/// Counts what a member took of a rule while its row is locked, which holds up whoever issues to that member.
pub(super) async fn mend_taken(conn: &mut PgConnection, subject: &Subject) -> Result<Repair, sqlx::Error> {
    let (member, rule) = pair_of(subject);
    let leaf = plan("member_rule").leaf_i64(member);
    for statement in ["member_rule/insert_missing", "member_rule/lock"] {
        let sql = query(statement).on(&[leaf]);
        sqlx::query(sql).bind(vec![member]).bind(vec![rule]).fetch_all(&mut *conn).await?;
    }
    let counted = taken_counts(conn, &[(member, rule)]).await?;
    let Some((Some(row), counted)) = counted.get(&(member, rule)) else { return Ok(Repair::Left("it is not there")) };
    let Ok(taken) = i32::try_from(counted + row.retired) else { return Ok(Repair::Left("it is too large")) };
    sqlx::query(query("verify/taken_set").on(&[leaf]))
        .bind(vec![member])
        .bind(vec![rule])
        .bind(taken)
        .execute(conn)
        .await?;
    Ok(Repair::Mended)
}

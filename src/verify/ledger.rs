//! Coupons against the ledger of their uses.
//!
//! The ledger is the truth: `coupon.uses` is the number of its uses that stand, the last use that the coupon names is one
//! of them, and the state follows from both. Within the ledger, a use says how much of it was taken back, and its
//! reversals say the same. Ledger rows are never made or taken away here: what can't be told from them is reported.
//!
//! Both are walked together along the codes, by the coupons' key and by the ledger's index of codes: the rows of a stretch of
//! codes are read from each month at once, so that a run takes as long as there are coupons and uses, however many months
//! there are. A stretch has ten chunks' coupons at most and four times as many uses, some 30 MB of them with chunks of
//! 2,000; only the uses of one single code are all held, however many.
//!
//! Where ledger rows disagree among themselves, the coupon is the third witness: it is reported only if it agrees with
//! neither reading, and a use is corrected only if the coupon takes the side of the reversals.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use super::{
    leaves::{Leaves, ids_of},
    pair::{Chunk, Direction, Found, Subject},
    projection::{INDEX, RECEIVE},
    report::{Difference, Kind, Repair},
    row::Value,
    sample::{Stretch, typed_page_rows},
};
use crate::{
    coupon::decide::Line,
    partition::{Leaf, Query, plan, query},
};

const REDEEM: i16 = 1;
const ISSUED: i16 = 1;
const REDEEMED: i16 = 2;
const VOID: i16 = 3;
/// A business day may be the one before the issue day and so of the month before; one month more for days of other zones.
const MONTHS_BEFORE_ISSUE: i32 = 2;
/// A stretch of codes asks each month of the ledger once, so it is longer than a chunk: with 36 months, 20,000 coupons make
/// 40 statements.
const CHUNKS_PER_STRETCH: i64 = 10;
/// Uses and undos that a stretch holds, for each of its coupons and on the average: with more it ends sooner.
const USES_PER_COUPON_MAX: i64 = 4;

#[derive(Debug, Clone, FromRow)]
struct CouponRow {
    code_id: i64,
    rule_id: i64,
    redemption_id: Option<i64>,
    redeemed_at: Option<DateTime<Utc>>,
    rule_version: i32,
    redeemed_store_no: Option<i32>,
    state: i16,
    uses: i16,
    order_ref: Option<String>,
}

#[derive(Debug, Clone, FromRow)]
struct LedgerRow {
    redemption_id: i64,
    code_id: i64,
    recorded_at: DateTime<Utc>,
    amount: i64,
    discount: i64,
    reverses: Option<i64>,
    reversed: i64,
    returned: i64,
    store_no: i32,
    kind: i16,
    reversed_whole: bool,
    order_ref: String,
    lines: Option<String>,
}

impl CouponRow {
    fn says_used(&self) -> bool {
        self.uses > 0 || self.state == REDEEMED || self.redemption_id.is_some()
    }
}

impl LedgerRow {
    /// None where there are none, or none that can be read.
    fn lines(&self) -> Vec<Line> {
        self.lines.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

/// What the reversals of a use say of it.
#[derive(Debug, Clone, Default)]
struct Back {
    discount: i64,
    amount: i64,
    /// The lines of the use that came back.
    lines: HashSet<String>,
    /// All of it came back.
    whole: bool,
}

/// All that is known of one coupon's uses.
#[derive(Debug, Default)]
struct Case {
    coupon: Option<CouponRow>,
    rows: Vec<LedgerRow>,
    uses_max: Option<i16>,
    month: Month,
}

/// What can be told of the coupons of a month.
#[derive(Debug, Clone, Copy, Default)]
struct Month {
    /// No month in which they may have been used is retired.
    complete: bool,
    /// It is retired or being retired, so that the absence of one says nothing.
    retired: bool,
}

impl Month {
    fn of(leaf: Leaf, leaves: &Leaves) -> Self {
        let ledger = leaves.standing("redemption");
        let complete = !leaves.skipped("redemption").iter().any(|month| month.no >= leaf.no - MONTHS_BEFORE_ISSUE)
            && ledger.first().is_none_or(|first| first.no <= leaf.no);
        // A month that was put away may be gone altogether, also from between others that stayed.
        let retired = !leaves.stands(leaf) && leaves.standing("coupon").last().is_none_or(|last| leaf.no < last.no);
        Self { complete, retired }
    }
}

/// The next stretch of codes on the way out; on the way back the uses of codes that no month of coupons has.
pub(super) async fn chunk(
    conn: &mut PgConnection,
    leaves: &Leaves,
    direction: Direction,
    leaf: Leaf,
    stretch: &Stretch,
) -> Result<Chunk, sqlx::Error> {
    let (cases, mut chunk) = match (stretch, direction) {
        (Stretch::After(after, limit), _) => {
            let after = after.as_ref().map(|key| key[0].as_i64());
            match direction {
                Direction::Forward => together(conn, leaves, leaf, after, limit * CHUNKS_PER_STRETCH).await?,
                Direction::Back => beyond(conn, leaves, leaf, after, *limit).await?,
            }
        }
        (Stretch::Pages(pages), Direction::Forward) => {
            drawn(conn, leaves, leaf, query("verify/ledger_coupon_pages"), pages).await?
        }
        (Stretch::Pages(pages), Direction::Back) => {
            drawn(conn, leaves, leaf, query("verify/ledger_pages"), pages).await?
        }
        (Stretch::Rules(_), _) => Default::default(),
    };
    chunk.suspects = cases
        .iter()
        .filter(|(_, case)| !case.check(leaves).is_empty())
        .map(|(code, _)| Subject { base: *code, index: None })
        .collect();
    chunk.differed = !chunk.suspects.is_empty();
    Ok(chunk)
}

/// The next coupons of a month and the uses of all months with codes up to the last of them. So each side is read once in
/// a run, and what either lacks is seen: a use whose code lies between two coupons is of no coupon.
async fn together(
    conn: &mut PgConnection,
    leaves: &Leaves,
    leaf: Leaf,
    after: Option<i64>,
    coupons_max: i64,
) -> Result<(BTreeMap<i64, Case>, Chunk), sqlx::Error> {
    let Some(ids) = ids_of(leaf) else { return Ok(Default::default()) };
    let after = after.unwrap_or(ids.start - 1);
    let sql = query("verify/ledger_coupon_walk").on(&[leaf]);
    let mut coupons: Vec<CouponRow> = sqlx::query_as(sql).bind(after).bind(coupons_max).fetch_all(&mut *conn).await?;
    let mut until = match coupons.last() {
        Some(last) if coupons.len() as i64 >= coupons_max => last.code_id,
        _ => ids.end - 1,
    };
    let rows = loop {
        // One code has as many uses as it has.
        let rows_max = (until - after > 1).then_some(coupons_max * USES_PER_COUPON_MAX);
        match uses_between(conn, leaves, after, until, rows_max).await? {
            Some(rows) => break rows,
            None => until = after + (until - after) / 2,
        }
    };
    coupons.retain(|coupon| coupon.code_id <= until);
    let chunk = Chunk {
        rows: (coupons.len() + rows.len()) as u64,
        last: (until < ids.end - 1).then(|| vec![Value::I64(until)]),
        ..Chunk::default()
    };
    let month = Month::of(leaf, leaves);
    let mut cases: BTreeMap<i64, Case> = BTreeMap::new();
    for row in rows {
        cases.entry(row.code_id).or_insert_with(|| Case::new(month)).rows.push(row);
    }
    for coupon in coupons {
        let code = coupon.code_id;
        if coupon.says_used() {
            cases.entry(code).or_insert_with(|| Case::new(month)).coupon = Some(coupon);
        } else if let Some(case) = cases.get_mut(&code) {
            case.coupon = Some(coupon);
        }
    }
    load_uses_max(conn, &mut cases).await?;
    Ok((cases, chunk))
}

/// What the ledger says of the codes after one and up to another; None when that is more than so many rows.
async fn uses_between(
    conn: &mut PgConnection,
    leaves: &Leaves,
    after: i64,
    until: i64,
    rows_max: Option<i64>,
) -> Result<Option<Vec<LedgerRow>>, sqlx::Error> {
    let mut rows: Vec<LedgerRow> = Vec::new();
    for month in leaves.standing("redemption") {
        let limit = rows_max.map(|max| max + 1 - rows.len() as i64);
        let sql = query("verify/ledger_range").on(&[month]);
        let found = sqlx::query_as(sql).bind(after).bind(until).bind(limit).fetch_all(&mut *conn).await?;
        rows.extend(found);
        if rows_max.is_some_and(|max| rows.len() as i64 > max) {
            return Ok(None);
        }
    }
    Ok(Some(rows))
}

/// The next uses in a month of the ledger with codes after all months of coupons. Of those before and between them
/// nothing can be said: their months may have been put away.
async fn beyond(
    conn: &mut PgConnection,
    leaves: &Leaves,
    leaf: Leaf,
    after: Option<i64>,
    limit: i64,
) -> Result<(BTreeMap<i64, Case>, Chunk), sqlx::Error> {
    let last = leaves.standing("coupon").last().copied().and_then(ids_of);
    let Some(last) = last else { return Ok(Default::default()) };
    let sql = query("verify/ledger_beyond").on(&[leaf]);
    let codes: Vec<i64> =
        sqlx::query_scalar(sql).bind(after.unwrap_or(last.end - 1)).bind(limit).fetch_all(&mut *conn).await?;
    let chunk = Chunk::ending(codes.len(), limit, codes.last().map(|code| vec![Value::I64(*code)]));
    Ok((load(conn, leaves, &codes.into_iter().collect(), Some(leaf)).await?, chunk))
}

/// The used coupons of pages, or those that pages of the ledger speak of, each with all its uses.
async fn drawn(
    conn: &mut PgConnection,
    leaves: &Leaves,
    leaf: Leaf,
    statement: &Query,
    pages: &[Range<u32>],
) -> Result<(BTreeMap<i64, Case>, Chunk), sqlx::Error> {
    let rows: Vec<(i64, bool)> = typed_page_rows(conn, statement.on(&[leaf]), pages).await?;
    let chunk = Chunk { rows: rows.len() as u64, ..Chunk::default() };
    // A use of a coupon that says it has none is met on the pages of the ledger.
    let codes = rows.into_iter().filter(|(_, used)| *used).map(|(code, _)| code).collect();
    Ok((load(conn, leaves, &codes, Some(leaf)).await?, chunk))
}

pub(super) async fn examine(
    conn: &mut PgConnection,
    leaves: &Leaves,
    subjects: &[Subject],
) -> Result<Vec<Found>, sqlx::Error> {
    let codes = subjects.iter().map(|subject| subject.base).collect();
    let cases = load(conn, leaves, &codes, None).await?;
    let found = cases.iter().flat_map(|(code, case)| {
        let subject = Subject { base: *code, index: None };
        case.check(leaves).into_iter().map(move |difference| Found { subject: subject.clone(), difference })
    });
    Ok(found.collect())
}

/// Reads coupons and their ledger rows. With a leaf, only months from the issue on are read, and that leaf; else all.
async fn load(
    conn: &mut PgConnection,
    leaves: &Leaves,
    codes: &BTreeSet<i64>,
    walked: Option<Leaf>,
) -> Result<BTreeMap<i64, Case>, sqlx::Error> {
    let mut by_leaf: BTreeMap<Leaf, Vec<i64>> = BTreeMap::new();
    let mut cases: BTreeMap<i64, Case> = BTreeMap::new();
    for code in codes {
        by_leaf.entry(plan("coupon").leaf_i64(*code)).or_default().push(*code);
    }
    for (leaf, codes) in &by_leaf {
        let month = Month::of(*leaf, leaves);
        cases.extend(codes.iter().map(|code| (*code, Case::new(month))));
        if leaves.stands(*leaf) {
            let sql = query("verify/ledger_coupon_find").on(&[*leaf]);
            let rows: Vec<CouponRow> = sqlx::query_as(sql).bind(codes).fetch_all(&mut *conn).await?;
            for row in rows {
                let code = row.code_id;
                cases.entry(code).or_default().coupon = Some(row);
            }
        }
    }
    for month in leaves.standing("redemption") {
        let may_hold = |leaf: &Leaf| match walked {
            Some(walked) => month == walked || month.no >= leaf.no - MONTHS_BEFORE_ISSUE,
            None => true,
        };
        let codes: Vec<i64> = by_leaf.iter().filter(|(leaf, _)| may_hold(leaf)).flat_map(|(_, c)| c.clone()).collect();
        if codes.is_empty() {
            continue;
        }
        let sql = query("verify/ledger_find").on(&[month]);
        let rows: Vec<LedgerRow> = sqlx::query_as(sql).bind(codes).fetch_all(&mut *conn).await?;
        for row in rows {
            cases.entry(row.code_id).or_default().rows.push(row);
        }
    }
    load_uses_max(conn, &mut cases).await?;
    Ok(cases)
}

/// How often each of the coupons may be used.
async fn load_uses_max(conn: &mut PgConnection, cases: &mut BTreeMap<i64, Case>) -> Result<(), sqlx::Error> {
    let versions: BTreeSet<(i64, i32)> =
        cases.values().filter_map(|case| case.coupon.as_ref()).map(|row| (row.rule_id, row.rule_version)).collect();
    let uses: Vec<(i64, i32, i16)> = sqlx::query_as(
        "select v.rule_id, v.version, v.uses from unnest($1::bigint[], $2::integer[]) as t (rule_id, version) \
         join coupon_rule_version v on v.rule_id = t.rule_id and v.version = t.version",
    )
    .bind(versions.iter().map(|(rule, _)| *rule).collect::<Vec<_>>())
    .bind(versions.iter().map(|(_, version)| *version).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    let uses: HashMap<(i64, i32), i16> =
        uses.into_iter().map(|(rule, version, uses)| ((rule, version), uses)).collect();
    for case in cases.values_mut() {
        let version = case.coupon.as_ref().map(|row| (row.rule_id, row.rule_version));
        case.uses_max = version.and_then(|version| uses.get(&version).copied());
    }
    Ok(())
}

fn by_reversals(of: &LedgerRow, rows: &[LedgerRow]) -> Back {
    let mut back = Back::default();
    let mut any = false;
    for row in rows.iter().filter(|row| row.kind != REDEEM && row.reverses == Some(of.redemption_id)) {
        any = true;
        back.discount += row.discount;
        back.amount += row.amount;
        back.lines.extend(row.lines().into_iter().map(|line| line.line));
    }
    // A discount of nothing comes back with the first part, and an amount of nothing with any.
    back.whole = any && back.amount >= of.amount && of.lines().iter().all(|line| back.lines.contains(&line.line));
    back
}

impl Case {
    fn new(month: Month) -> Self {
        Self { month, ..Self::default() }
    }

    fn uses(&self) -> impl Iterator<Item = &LedgerRow> {
        self.rows.iter().filter(|row| row.kind == REDEEM)
    }

    /// The number of uses that stand by what the uses say, and by what their reversals say.
    fn standing(&self) -> (i16, i16) {
        let by_use = self.uses().filter(|row| !row.reversed_whole).count();
        let by_reversal = self.uses().filter(|row| !by_reversals(row, &self.rows).whole).count();
        (by_use as i16, by_reversal as i16)
    }

    fn check(&self, leaves: &Leaves) -> Vec<Difference> {
        let mut found = Vec::new();
        let row_key = |row: &LedgerRow| vec![Value::I64(row.redemption_id)];
        let Some(coupon) = &self.coupon else {
            if !self.month.retired {
                let orphan = |row| Difference::new(Kind::Extra, "redemption", row_key(row), vec!["code_id"]);
                found.extend(self.rows.iter().map(orphan));
            }
            return found;
        };
        for row in &self.rows {
            let mut columns = Vec::new();
            if row.kind == REDEEM {
                let back = by_reversals(row, &self.rows);
                let differs = [
                    ("reversed", row.reversed != back.discount),
                    ("returned", row.returned != back.amount),
                    ("lines", row.lines().iter().any(|line| line.returned != back.lines.contains(&line.line))),
                    ("reversed_whole", row.reversed_whole != back.whole),
                ];
                columns.extend(
                    differs.iter().filter(|(_, differs)| self.month.complete && *differs).map(|(name, _)| *name),
                );
                if row.reverses.is_some() {
                    columns.push("reverses");
                }
            } else if !self.names_a_use(row.reverses, leaves) {
                columns.push("reverses");
            }
            if !columns.is_empty() {
                found.push(Difference::new(Kind::Altered, "redemption", row_key(row), columns));
            }
        }
        self.check_coupon(coupon, leaves, &mut found);
        found
    }

    fn names_a_use(&self, id: Option<i64>, leaves: &Leaves) -> bool {
        let Some(id) = id else { return false };
        self.uses().any(|row| row.redemption_id == id) || self.may_be_retired(id, leaves)
    }

    fn may_be_retired(&self, redemption_id: i64, leaves: &Leaves) -> bool {
        !self.month.complete && !leaves.stands(plan("redemption").leaf_i64(redemption_id))
    }

    fn check_coupon(&self, coupon: &CouponRow, leaves: &Leaves, found: &mut Vec<Difference>) {
        let (by_use, by_reversal) = self.standing();
        let (mut counts, mut columns) = ([by_use, by_reversal], Vec::new());
        match coupon.redemption_id {
            None => {
                let with_use = [
                    ("redeemed_at", coupon.redeemed_at.is_some()),
                    ("redeemed_store_no", coupon.redeemed_store_no.is_some()),
                    ("order_ref", coupon.order_ref.is_some()),
                ];
                columns.extend(with_use.iter().filter(|(_, set)| *set).map(|(name, _)| *name));
            }
            Some(id) => match self.uses().find(|row| row.redemption_id == id) {
                Some(row) if row.reversed_whole && by_reversals(row, &self.rows).whole => columns.push("redemption_id"),
                Some(row) => {
                    let of_use = [
                        ("redeemed_at", coupon.redeemed_at != Some(row.recorded_at)),
                        ("redeemed_store_no", coupon.redeemed_store_no != Some(row.store_no)),
                        ("order_ref", coupon.order_ref.as_deref() != Some(row.order_ref.as_str())),
                    ];
                    columns.extend(of_use.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name));
                }
                None if self.may_be_retired(id, leaves) => {}
                // One use fewer than the coupon counts, and it is this one.
                None if counts.into_iter().any(|count| coupon.uses == count + 1)
                    && !self.rows.iter().any(|row| row.redemption_id == id) =>
                {
                    found.push(Difference::new(Kind::Missing, "redemption", vec![Value::I64(id)], Vec::new()));
                    counts = counts.map(|count| count + 1);
                }
                None => columns.push("redemption_id"),
            },
        }
        let agrees = |count: i16| if self.month.complete { coupon.uses == count } else { coupon.uses >= count };
        if !counts.into_iter().any(agrees) {
            columns.push("uses");
        }
        if let Some(max) = self.uses_max.filter(|_| self.month.complete && coupon.state != VOID) {
            let state = |count: i16| if count >= max { REDEEMED } else { ISSUED };
            if !counts.into_iter().any(|count| coupon.state == state(count)) {
                columns.push("state");
            }
        }
        if !columns.is_empty() {
            found.push(Difference::new(Kind::Altered, "coupon", vec![Value::I64(coupon.code_id)], columns));
        }
    }

    /// The coupon as the ledger says.
    fn corrected(&self, coupon: &CouponRow) -> CouponRow {
        let standing: Vec<&LedgerRow> = self.uses().filter(|row| !row.reversed_whole).collect();
        let uses = standing.len() as i16;
        let named = standing.iter().find(|row| Some(row.redemption_id) == coupon.redemption_id);
        let latest = standing.iter().max_by_key(|row| (row.recorded_at, row.redemption_id));
        let last = match named {
            Some(named) => Some(named),
            // After a reversal of the last use the coupon names none, though earlier ones may stand.
            None if coupon.redemption_id.is_none() && coupon.uses == uses => None,
            None => latest,
        };
        let state = match (coupon.state, self.uses_max) {
            (VOID, _) => VOID,
            (_, Some(max)) if uses >= max => REDEEMED,
            (_, Some(_)) => ISSUED,
            (state, None) => state,
        };
        CouponRow {
            redemption_id: last.map(|row| row.redemption_id),
            redeemed_at: last.map(|row| row.recorded_at),
            redeemed_store_no: last.map(|row| row.store_no),
            order_ref: last.map(|row| row.order_ref.clone()),
            state,
            uses,
            ..coupon.clone()
        }
    }
}

/// Brings a use to what its reversals say, if they can be right.
async fn correct_use(conn: &mut PgConnection, row: &mut LedgerRow, back: &Back) -> Result<(), sqlx::Error> {
    let mut lines = row.lines();
    let mut differs = (row.reversed, row.returned, row.reversed_whole) != (back.discount, back.amount, back.whole);
    for line in &mut lines {
        let returned = back.lines.contains(&line.line);
        differs |= line.returned != returned;
        line.returned = returned;
    }
    if !differs || back.discount > row.discount || back.amount > row.amount {
        return Ok(());
    }
    if !lines.is_empty() {
        row.lines = Some(serde_json::to_string(&lines).expect("plain structs with string keys always serialise"));
    }
    sqlx::query(query("redemption/update_reversed").on(&[plan("redemption").leaf_i64(row.redemption_id)]))
        .bind(vec![row.redemption_id])
        .bind(vec![back.discount])
        .bind(vec![back.amount])
        .bind(vec![back.whole])
        .bind(vec![row.lines.clone()])
        .execute(conn)
        .await?;
    (row.reversed, row.returned, row.reversed_whole) = (back.discount, back.amount, back.whole);
    Ok(())
}

/// Brings a coupon, and its index rows with it, to what the ledger says. Its uses and reversals are written only under
/// its lock, so they hold still.
pub(super) async fn mend(conn: &mut PgConnection, subject: &Subject) -> Result<Repair, sqlx::Error> {
    let code = subject.base;
    let leaf = plan("coupon").leaf_i64(code);
    if Leaves::load(conn).await?.stands(leaf) {
        sqlx::query(query("coupon/lock").on(&[leaf])).bind(vec![code]).fetch_all(&mut *conn).await?;
    }
    let leaves = Leaves::load(conn).await?;
    let mut case = load(conn, &leaves, &BTreeSet::from([code]), None).await?.remove(&code).unwrap_or_default();
    let Some(coupon) = case.coupon.clone() else {
        return Ok(Repair::Left("the ledger names a coupon that is not there"));
    };
    if !case.month.complete {
        return Ok(Repair::Left("a part of its ledger is retired"));
    }
    let (by_use, by_reversal) = case.standing();
    let reversals_lead = coupon.uses == by_reversal || coupon.uses != by_use;
    let derived: Vec<Back> = case.rows.iter().map(|row| by_reversals(row, &case.rows)).collect();
    for (row, back) in case.rows.iter_mut().zip(derived) {
        if row.kind == REDEEM && reversals_lead {
            correct_use(conn, row, &back).await?;
        }
    }
    let after = case.corrected(&coupon);
    sqlx::query(query("verify/ledger_set_coupon").on(&[leaf]))
        .bind(vec![code])
        .bind(after.redemption_id)
        .bind(after.redeemed_at)
        .bind(after.redeemed_store_no)
        .bind(after.state)
        .bind(after.uses)
        .bind(after.order_ref.as_deref())
        .execute(&mut *conn)
        .await?;
    if after.state != coupon.state {
        RECEIVE.rewrite(conn, &leaves, code).await?;
        INDEX.rewrite(conn, &leaves, code).await?;
    }
    case.coupon = Some(after);
    if case.check(&leaves).is_empty() {
        Ok(Repair::Mended)
    } else {
        Ok(Repair::Left("uses and reversals in the ledger disagree"))
    }
}

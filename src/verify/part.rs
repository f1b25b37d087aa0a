//! The parts of a rule against what was taken from them: rows of `coupon_stock` by day and by store over the coupons that
//! remember them in `counted`, and money spent over the uses in the ledger that do.
//!
//! A rule is counted in one snapshot with all its rows, and only if it has such rows or a version of it ever limited a
//! day, a store or money. Where months are retired, what their rows said is gone: a day of theirs is passed over, and the
//! sums of a store or the whole may be larger than what is left to count. A rule that has no row at all is found by the
//! pair of `coupon_index` and `coupon_stock`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::DateTime;
use sqlx::PgConnection;

use super::{
    count::counted_rules,
    leaves::{Leaves, ids_of},
    pair::{Chunk, Found, Subject},
    report::{Difference, Kind, Repair},
    row::Value,
    sample::Stretch,
};
use crate::{
    id::{Day, EPOCH_MS, NUMBER_BITS},
    partition::{Leaf, plan, query},
};

/// Bits of `counted`, as `coupon::decide::Part` sets them.
const WHOLE: i16 = 1;
const DAY: i16 = 2;
const STORE: i16 = 4;
/// A business day may be the one before its rule was made and so of the month before; one month more for other zones.
const MONTHS_BEFORE_RULE: i32 = 2;

/// Period and store.
type PartKey = (i32, i32);

#[derive(Debug, Clone, Copy, Default)]
struct Row {
    issued: i64,
    voided: i64,
    retired: i64,
    spent: i64,
}

/// What was taken from a part and is not given back.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    coupons: i64,
    money: i64,
}

/// All that is known of one rule.
#[derive(Debug, Default)]
struct Case {
    rows: BTreeMap<PartKey, Row>,
    taken: BTreeMap<PartKey, Taken>,
    /// A version of it limits stock by day or store.
    limits_stock: bool,
    limits_money: bool,
}

/// A row that is not as the coupons and uses say, and what it should say.
struct Wrong {
    key: PartKey,
    kind: Kind,
    columns: Vec<&'static str>,
    issued: i64,
    spent: i64,
}

pub(super) async fn chunk(
    conn: &mut PgConnection,
    leaves: &Leaves,
    leaf: Leaf,
    stretch: &Stretch,
) -> Result<Chunk, sqlx::Error> {
    let (rules, end) = counted_rules(conn, leaf, "verify/part_rules", stretch).await?;
    let last = rules.last().map(|rule| vec![Value::I64(*rule)]);
    let cases = load(conn, leaves, &rules).await?;
    let suspects: Vec<Subject> = cases
        .iter()
        .filter(|(rule, case)| !case.check(**rule, leaves).is_empty())
        .map(|(rule, _)| Subject { base: *rule, index: None })
        .collect();
    Ok(Chunk {
        rows: cases.values().map(|case| case.rows.len() as u64).sum(),
        last: last.filter(|_| !end),
        differed: !suspects.is_empty(),
        suspects,
        ..Chunk::default()
    })
}

pub(super) async fn examine(
    conn: &mut PgConnection,
    leaves: &Leaves,
    subjects: &[Subject],
) -> Result<Vec<Found>, sqlx::Error> {
    let rules: BTreeSet<i64> = subjects.iter().map(|subject| subject.base).collect();
    let cases = load(conn, leaves, &rules.into_iter().collect::<Vec<_>>()).await?;
    let found = cases.iter().flat_map(|(rule, case)| {
        case.check(*rule, leaves).into_iter().map(|wrong| {
            let key = vec![Value::I64(*rule), Value::I64(wrong.key.0.into()), Value::I64(wrong.key.1.into())];
            let difference = Difference::new(wrong.kind, "coupon_stock", key, wrong.columns);
            Found { subject: Subject { base: *rule, index: None }, difference }
        })
    });
    Ok(found.collect())
}

/// Counts again while the rows are locked, which holds up whoever takes from them.
pub(super) async fn mend(conn: &mut PgConnection, leaves: &Leaves, subject: &Subject) -> Result<Repair, sqlx::Error> {
    let rule = subject.base;
    let leaf = plan("coupon_stock").leaf_i64(rule);
    let wrong = async |conn: &mut PgConnection| {
        let case = load(conn, leaves, &[rule]).await?.remove(&rule).unwrap_or_default();
        Ok::<_, sqlx::Error>(case.check(rule, leaves))
    };
    let keys: BTreeSet<PartKey> = wrong(&mut *conn).await?.into_iter().map(|wrong| wrong.key).collect();
    let columns = |keys: &mut dyn Iterator<Item = PartKey>| {
        let (periods, stores): (Vec<i32>, Vec<i32>) = keys.unzip();
        (vec![rule; periods.len()], periods, stores)
    };
    let (rules, periods, stores) = columns(&mut keys.iter().copied());
    for statement in ["coupon_stock/insert_missing", "coupon_stock/lock"] {
        let sql = query(statement).on(&[leaf]);
        sqlx::query(sql).bind(&rules).bind(&periods).bind(&stores).fetch_all(&mut *conn).await?;
    }
    // Statements of their own, so that they see what was committed before the locks were got.
    let now: Vec<Wrong> = wrong(&mut *conn).await?.into_iter().filter(|wrong| keys.contains(&wrong.key)).collect();
    let (rules, periods, stores) = columns(&mut now.iter().map(|wrong| wrong.key));
    sqlx::query(query("verify/part_set").on(&[leaf]))
        .bind(rules)
        .bind(periods)
        .bind(stores)
        .bind(now.iter().map(|wrong| wrong.issued).collect::<Vec<_>>())
        .bind(now.iter().map(|wrong| wrong.spent).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(Repair::Mended)
}

/// Reads the rows of these rules, and counts where there is something to count.
async fn load(conn: &mut PgConnection, leaves: &Leaves, rules: &[i64]) -> Result<BTreeMap<i64, Case>, sqlx::Error> {
    let mut cases: BTreeMap<i64, Case> = rules.iter().map(|rule| (*rule, Case::default())).collect();
    for (leaf, rules) in by_leaf("coupon_stock", rules) {
        let sql = query("verify/part_find").on(&[leaf]);
        let rows: Vec<(i64, i64, i64, i64, i64, i32, i32)> =
            sqlx::query_as(sql).bind(rules).fetch_all(&mut *conn).await?;
        for (rule, issued, voided, retired, spent, period, store_no) in rows {
            let row = Row { issued, voided, retired, spent };
            cases.entry(rule).or_default().rows.insert((period, store_no), row);
        }
    }
    let limits: Vec<(i64, bool, bool)> = sqlx::query_as(
        "select v.rule_id, bool_or(v.stock_per_day is not null or v.stock_per_store is not null), \
             bool_or(v.budget is not null or v.budget_per_day is not null or v.budget_per_store is not null) \
         from coupon_rule_version v where v.rule_id = any($1) group by v.rule_id",
    )
    .bind(rules)
    .fetch_all(&mut *conn)
    .await?;
    for (rule, stock, money) in limits {
        let case = cases.entry(rule).or_default();
        (case.limits_stock, case.limits_money) = (stock, money);
    }
    let of = |wanted: fn(&Case) -> bool| -> Vec<i64> {
        cases.iter().filter(|(_, case)| wanted(case)).map(|(rule, _)| *rule).collect()
    };
    let (stocks, moneys) = (of(Case::counts_stock), of(Case::counts_money));
    count_coupons(conn, leaves, &stocks, &mut cases).await?;
    sum_money(conn, &moneys, &mut cases).await?;
    Ok(cases)
}

async fn count_coupons(
    conn: &mut PgConnection,
    leaves: &Leaves,
    rules: &[i64],
    cases: &mut BTreeMap<i64, Case>,
) -> Result<(), sqlx::Error> {
    for (leaf, rules) in by_leaf("coupon_index", rules) {
        for month in leaves.standing("coupon") {
            let Some(ids) = ids_of(month) else { continue };
            let sql = query("verify/part_count").on(&[leaf, month]);
            let rows: Vec<(i64, i32, i32, i16, i64)> =
                sqlx::query_as(sql).bind(&rules).bind(ids.start).bind(ids.end).fetch_all(&mut *conn).await?;
            for (rule, day, store_no, counted, coupons) in rows {
                let taken = &mut cases.entry(rule).or_default().taken;
                for key in parts(counted & !WHOLE, day, store_no) {
                    taken.entry(key).or_default().coupons += coupons;
                }
            }
        }
    }
    Ok(())
}

async fn sum_money(conn: &mut PgConnection, rules: &[i64], cases: &mut BTreeMap<i64, Case>) -> Result<(), sqlx::Error> {
    if rules.is_empty() {
        return Ok(());
    }
    let rows: Vec<(i64, i32, i32, i16, i64)> =
        sqlx::query_as(query("verify/part_money").parent()).bind(rules).fetch_all(conn).await?;
    for (rule, day, store_no, counted, money) in rows {
        let taken = &mut cases.entry(rule).or_default().taken;
        for key in parts(counted, day, store_no) {
            taken.entry(key).or_default().money += money;
        }
    }
    Ok(())
}

/// The keys of the parts that bits name.
fn parts(counted: i16, day: i32, store_no: i32) -> impl Iterator<Item = PartKey> {
    let all = [(WHOLE, (0, 0)), (DAY, (day, 0)), (STORE, (0, store_no))];
    all.into_iter().filter(move |(bit, _)| counted & bit != 0).map(|(_, key)| key)
}

fn by_leaf(table: &str, rules: &[i64]) -> HashMap<Leaf, Vec<i64>> {
    let mut leaves: HashMap<Leaf, Vec<i64>> = HashMap::new();
    for rule in rules.iter().collect::<HashSet<_>>() {
        leaves.entry(plan(table).leaf_i64(*rule)).or_default().push(*rule);
    }
    leaves
}

impl Case {
    fn counts_stock(&self) -> bool {
        let part_has_some = |(key, row): (&PartKey, &Row)| *key != (0, 0) && (row.issued, row.retired) != (0, 0);
        self.limits_stock || self.rows.iter().any(part_has_some)
    }

    fn counts_money(&self) -> bool {
        self.limits_money || self.rows.values().any(|row| row.spent != 0)
    }

    fn check(&self, rule: i64, leaves: &Leaves) -> Vec<Wrong> {
        let whole_retired = self.rows.get(&(0, 0)).is_some_and(|row| row.retired != 0);
        let stock_complete = !whole_retired && leaves.skipped("coupon").is_empty();
        let ledger_complete = is_complete(rule, leaves);
        let keys: BTreeSet<PartKey> = self.rows.keys().chain(self.taken.keys()).copied().collect();
        let mut wrongs = Vec::new();
        for key in keys {
            let period = key.0;
            let found = self.rows.get(&key).copied();
            let (row, taken) = (found.unwrap_or_default(), self.taken.get(&key).copied().unwrap_or_default());
            let living = row.issued - row.voided;
            let counted = taken.coupons + row.retired;
            let stock_fits = match key {
                // Of the pair of coupon_index and coupon_stock.
                (0, 0) => true,
                _ if period != 0 && !stands(leaves, "coupon", period) => true,
                _ if period == 0 && !stock_complete => living >= counted,
                _ => living == counted,
            };
            let money_fits = match period {
                0 if !ledger_complete => row.spent >= taken.money,
                0 => row.spent == taken.money,
                day => !stands(leaves, "redemption", day) || row.spent == taken.money,
            };
            if stock_fits && money_fits {
                continue;
            }
            let mut columns = Vec::new();
            if !stock_fits {
                columns.extend(["issued", "voided"]);
            }
            if !money_fits {
                columns.push("spent");
            }
            let kind = if found.is_some() { Kind::Altered } else { Kind::Missing };
            wrongs.push(Wrong {
                key,
                columns: if kind == Kind::Missing { Vec::new() } else { columns },
                kind,
                issued: if stock_fits { row.issued } else { counted + row.voided },
                spent: if money_fits { row.spent } else { taken.money },
            });
        }
        wrongs
    }
}

fn stands(leaves: &Leaves, table: &str, day: i32) -> bool {
    leaves.stands(plan(table).leaf_i64(i64::from(day) << NUMBER_BITS))
}

/// Whether no month in which the rule may have been used is retired.
fn is_complete(rule: i64, leaves: &Leaves) -> bool {
    let made = DateTime::from_timestamp_millis(EPOCH_MS + (rule >> 22));
    let Some(made) = made else { return false };
    let month = plan("redemption").leaf_i64(i64::from(Day::from_date(made.date_naive()).number()) << NUMBER_BITS);
    leaves.skipped("redemption").is_empty()
        && leaves.standing("redemption").first().is_some_and(|first| first.no <= month.no - MONTHS_BEFORE_RULE)
}

//! Locks and releases: that they did what they were told, as the coupons' rows and the outbox have it.
//!
//! Nothing of them stands in the ledger. A coupon's row names the order of its last lock while no release, redemption or
//! other lock has taken it away (one whose time is up says no more), and each lock and each release that let go is an event, kept for some days.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use tessera::{
    event::Kind,
    id::Day,
    partition::{Retain, Split, plan},
};

use super::{
    BATCH, Books, Finding,
    books::{Acts, Count, Part},
};

/// A coupon and an order.
type Key = (i64, Box<str>);
/// What orders did, by coupon.
type Orders<'a> = BTreeMap<i64, Vec<(&'a Key, Acts)>>;

/// Looks at the locks and releases of a part.
pub(super) async fn examine(
    conn: &mut PgConnection,
    books: &Books,
    part: &Part,
    now: DateTime<Utc>,
    finding: &mut Finding,
) -> anyhow::Result<()> {
    let mut orders = Orders::new();
    for (key, acts) in &part.acts {
        orders.entry(key.0).or_default().push((key, *acts));
        finding.saw((acts.locks.most() + acts.releases.most()) as usize);
    }
    let codes: Vec<i64> = orders.keys().copied().collect();
    for codes in codes.chunks(BATCH) {
        let rows: Vec<(i64, Option<String>, bool)> =
            sqlx::query_as(include_str!("../../../sql/held.sql")).bind(codes).fetch_all(&mut *conn).await?;
        let mut lapsed: HashSet<Key> = HashSet::new();
        for (code, holder, is_over) in rows {
            if let (true, Some(order)) = (is_over, &holder) {
                // A release that came too late changed nothing, and was told so all the same.
                lapsed.insert((code, order.as_str().into()));
                continue;
            }
            let acts = orders.get(&code).map_or(&[][..], Vec::as_slice);
            finding.breaks(acts.iter().filter_map(|(key, acts_)| held(key, *acts_, acts.len(), holder.as_deref())));
        }
        if are_events_kept(books, now) {
            finding.breaks(events(conn, books, codes, (&orders, &lapsed), now).await?);
        }
    }
    Ok(())
}

/// What is wrong with the row of a coupon for what an order did, of so many orders; `holder` stands in the row.
fn held((code, order): &Key, acts: Acts, orders: usize, holder: Option<&str>) -> Option<String> {
    let is_holder = holder == Some(&**order);
    let may_let_go = acts.releases.most() + acts.redeems.most() > 0;
    let did_let_go = acts.releases.told + acts.redeems.told > 0;
    if is_holder && did_let_go {
        return Some(format!("coupon {code}: order {order} was told that it let go, and its lock stands"));
    }
    if is_holder && acts.locks.most() == 0 {
        return Some(format!("coupon {code}: locked by order {order}, which never asked"));
    }
    // Others may have taken it when the time of this one was up.
    (!is_holder && acts.locks.told > 0 && !may_let_go && orders == 1).then(|| {
        let holder = holder.unwrap_or("none");
        format!("coupon {code}: order {order} was told that it holds it, and it is locked by {holder}")
    })
}

/// Whether the events of the run's first day are still there, and it is known which orders were the run's.
fn are_events_kept(books: &Books, now: DateTime<Utc>) -> bool {
    if books.runs.is_empty() {
        return false;
    }
    match &plan("event").split {
        Split::Range(range) => range.retain.is_none_or(|retain| {
            let kept = match retain {
                Retain::Days(days) => TimeDelta::days(days.into()),
                Retain::Months(months) => TimeDelta::days(i64::from(months) * 28),
            };
            // Less a day: it is the node's day, not ours.
            now - books.began < kept - TimeDelta::days(1)
        }),
        Split::Hash { .. } => true,
    }
}

/// As many events as answers; each lost answer may be one more.
async fn events(
    conn: &mut PgConnection,
    books: &Books,
    codes: &[i64],
    (orders, lapsed): (&Orders<'_>, &HashSet<Key>),
    now: DateTime<Utc>,
) -> anyhow::Result<Vec<String>> {
    let (from, until) = (Day::from_date(books.began.date_naive()).plus(-1), Day::from_date(now.date_naive()).plus(2));
    let starts: Vec<String> = books.runs.iter().map(|run| format!("{run}-")).collect();
    let kinds = [Kind::CouponLocked.number(), Kind::CouponReleased.number()];
    let rows: Vec<(i64, i16, String, i64)> = sqlx::query_as(include_str!("../../../sql/holds.sql"))
        .bind(codes)
        .bind(&kinds[..])
        .bind(from.first_id())
        .bind(until.first_id())
        .bind(starts)
        .fetch_all(conn)
        .await?;
    let mut seen: HashMap<(i64, i16, String), i64> =
        rows.into_iter().map(|(code, kind, order, count)| ((code, kind, order), count)).collect();
    let mut broken = Vec::new();
    for (key, acts) in codes.iter().filter_map(|code| orders.get(code)).flatten() {
        for (kind, what, count) in [(kinds[0], "locks", acts.locks), (kinds[1], "releases", acts.releases)] {
            let seen = seen.remove(&(key.0, kind, key.1.to_string())).unwrap_or(0);
            let Count { told, lost } = count;
            let fewest = if lapsed.contains(key) && kind == kinds[1] { 0 } else { i64::from(told) };
            if seen < fewest || seen > i64::from(count.most()) {
                let (code, order) = key;
                broken.push(format!("coupon {code}, order {order}: {told} {what} told, {lost} lost, {seen} events"));
            }
        }
    }
    broken.extend(seen.into_keys().map(|(code, kind, order)| {
        let what = if kind == kinds[0] { "locked" } else { "released" };
        format!("coupon {code}: {what} by order {order}, of which nobody was told")
    }));
    Ok(broken)
}

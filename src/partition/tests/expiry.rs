//! What retires leaves: months that are over, fences, crashes in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::PgConnection;

use super::{day, key, sqlstate};
use crate::partition::ddl::{DdlError, LeafOutcome, Locked, create_leaf};
use crate::partition::expire::{self, Alive, Fate};
use crate::partition::router::day_number;
use crate::partition::testdb::{TestDb, ask, execute, noon, pace, today, value};
use crate::partition::upkeep::{self, Ask, Past};
use crate::partition::{Closed, Leaf, Walked, attached, closed, plan, plans, walk};

const OLD: &str = "2023-09-10";

/// A database with a month of `coupons` coupons of two rules and three members, four void, all over.
pub(super) async fn retired_month(coupons: i64) -> (TestDb, Leaf) {
    let db = TestDb::new().await;
    let leaf = plan("coupon").leaf_date(day(OLD));
    let mut locked = db.locked().await;
    create_leaf(&mut locked, leaf).await.unwrap();
    let first = key(OLD, 0);
    let rows = format!(
        "insert into coupon (code_id, rule_id, issued_at, valid_from, valid_until, member_id, legacy_key, rule_version,
             issue_store_no, counted, state)
         select {first} + n, 100 + n % 2, '{OLD}', '{OLD}', '2023-12-01', case when n % 5 > 0 then n % 3 end,
             case when n % 4 = 0 then ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid end, 1, 7, 7,
             case when n % 10 = 0 then 3 when n % 3 = 0 then 2 else 1 end
         from generate_series(1, {coupons}) n;
         insert into coupon_receive (member_id, code_id, rule_id, valid_until, state)
             select member_id, code_id, rule_id, valid_until, state from coupon where member_id is not null;
         insert into coupon_index (rule_id, code_id, valid_until, member_id, state)
             select rule_id, code_id, valid_until, member_id, state from coupon;
         insert into coupon_history_index (legacy_key, code_id)
             select legacy_key, code_id from coupon where legacy_key is not null;
         insert into member_rule (member_id, rule_id, taken)
             select member_id, rule_id, count(*) filter (where state <> 3) from coupon_receive group by 1, 2;
         insert into coupon_stock (rule_id, issued, voided)
             select rule_id, count(*), count(*) filter (where state = 3) from coupon_index group by 1;
         insert into coupon_stock (rule_id, period, store_no, issued, voided)
             select rule_id, part.period, part.store_no, count(*), count(*) filter (where state = 3)
             from coupon_index, (values ({period}, 0), (0, 7)) part (period, store_no) group by 1, 2, 3",
        period = day_number(day(OLD)),
    );
    execute(locked.conn(), &rows).await;
    locked.close().await.unwrap();
    (db, leaf)
}

/// Counts that do not equal living rows and retired ones.
async fn wrong_counts(conn: &mut PgConnection) -> i64 {
    value(
        conn,
        "select (select count(*) from member_rule m where m.taken <> m.retired + (
                 select count(*) from coupon_receive r
                 where r.member_id = m.member_id and r.rule_id = m.rule_id and r.state <> 3))
             + (select count(*) from coupon_stock s where s.issued - s.voided <> s.retired + (
                 select count(*) from coupon_index i where i.rule_id = s.rule_id and i.state <> 3))",
    )
    .await
}

#[tokio::test]
async fn a_month_that_is_over_is_retired_with_its_index_rows_and_exact_counts() {
    let (db, leaf) = retired_month(60).await;
    let mut locked = db.locked().await;
    assert_eq!(wrong_counts(locked.conn()).await, 0);
    let report = upkeep::run(&mut locked, plans(), &ask()).await.unwrap();
    let walked = Walked { coupons: 60, receive: 48, index: 60, history: 15 };
    assert_eq!(report.expired.len(), 1);
    assert_eq!(report.expired[0].fate, Fate::Detached(walked));
    assert_eq!(wrong_counts(locked.conn()).await, 0);
    let conn = locked.conn();
    assert_eq!(
        value::<i64>(conn, "select sum(retired)::bigint from coupon_stock where period = 0 and store_no = 0").await,
        54
    );
    assert_eq!(value::<i64>(conn, "select count(*) from coupon_index").await, 0);
    assert_eq!(value::<i64>(conn, &format!("select count(*) from {}", leaf.retired_name())).await, 60);
    assert!(attached(conn, plan("coupon")).await.unwrap().iter().all(|attached| attached.leaf != Some(leaf)));

    let again = upkeep::run(&mut locked, plans(), &ask()).await.unwrap();
    assert!(again.expired.is_empty());
    assert_eq!(create_leaf(&mut locked, leaf).await.unwrap(), LeafOutcome::Retired);
}

#[tokio::test]
async fn a_crash_in_the_middle_of_the_walk_neither_loses_nor_doubles_a_count() {
    let (db, leaf) = retired_month(60).await;
    let mut locked = db.locked().await;
    expire::fence(&mut locked, leaf).await.unwrap();
    let mut walked = Walked::default();
    let reached = walk::walk_batch(locked.conn(), leaf, i64::MIN, 25, &mut walked).await.unwrap();
    assert_eq!(reached, Some(key(OLD, 25)));
    assert_eq!(wrong_counts(locked.conn()).await, 0);
    // Killed: a comment that lags behind what was done.
    execute(locked.conn(), &format!("comment on table {leaf} is 'tessera: retired up to {}'", key(OLD, 10))).await;
    locked.close().await.unwrap();

    let mut locked = db.locked().await;
    let report = expire::run(&mut locked, plans(), today(), noon(), &pace()).await.unwrap();
    let expected = Walked { coupons: 50, receive: 28, index: 35, history: 9 };
    assert_eq!(report[0].fate, Fate::Detached(expected));
    assert_eq!(wrong_counts(locked.conn()).await, 0);
    assert_eq!(value::<i64>(locked.conn(), "select count(*) from coupon_receive").await, 0);
}

#[tokio::test]
async fn a_living_coupon_keeps_its_month() {
    let (db, leaf) = retired_month(20).await;
    let mut locked = db.locked().await;
    execute(locked.conn(), &format!("update coupon set valid_until = '2027-01-01' where code_id = {}", key(OLD, 1)))
        .await;
    let report = expire::run(&mut locked, plans(), today(), noon(), &pace()).await.unwrap();
    assert_eq!(report[0].fate, Fate::Kept(Alive { valid: 1, reversible: 0 }));
    execute(&mut db.service().await, &format!("update {leaf} set uses = uses where code_id = {}", key(OLD, 1))).await;
    assert_eq!(value::<i64>(locked.conn(), "select count(*) from coupon_index").await, 20);
}

#[tokio::test]
async fn a_month_stays_while_a_till_may_still_send_or_take_back_a_use() {
    let (db, leaf) = retired_month(20).await;
    let mut locked = db.locked().await;
    let rule = "insert into coupon_rule (rule_id, created_at, updated_at, version, state) values (101, now(), now(), 1, 2);
                insert into coupon_rule_version (rule_id, created_at, amount, days_after_issue, version, discount, currency,
                    name, reverse_days) values (101, now(), 1000, 30, 1, 1, 'CNY', 'r', 90)";
    execute(locked.conn(), rule).await;
    let (used, late) = (key(OLD, 1), key(OLD, 7));
    let cases = [
        // A use of ninety days ago may be taken back today, and not tomorrow.
        (format!("uses = 1, redeemed_at = '2026-08-24 12:00Z' where code_id = {used}"), (0, 1)),
        (format!("uses = 1, redeemed_at = '2026-08-24 11:59Z' where code_id = {used}"), (0, 0)),
        // The last use was taken back, and one before it stands: it was no later than the coupon's end.
        (format!("uses = 1, redeemed_at = null, valid_until = '2026-09-01' where code_id = {used}"), (0, 1)),
        // Over, but a till that was cut off may have spent it before.
        (format!("uses = 0, valid_until = '2026-11-01' where code_id in ({used}, {late})"), (2, 0)),
        (format!("valid_until = '2026-10-17 12:00Z' where code_id in ({used}, {late})"), (0, 0)),
        // Of a void one nothing is wanted.
        (format!("state = 3, valid_until = '2027-11-01' where code_id in ({used}, {late})"), (0, 0)),
    ];
    for (change, (valid, reversible)) in cases {
        execute(locked.conn(), &format!("update {leaf} set {change}")).await;
        let found = expire::survey(locked.conn(), leaf, noon(), pace().late_days).await.unwrap().unwrap();
        assert_eq!((found.coupons, found.alive), (20, Alive { valid, reversible }), "{change}");
        if change.contains("2026-10-17") {
            // Where numbers are accepted from a day longer ago, tills may still send it.
            let found = expire::survey(locked.conn(), leaf, noon(), pace().late_days + 1).await.unwrap().unwrap();
            assert_eq!(found.alive, Alive { valid: 2, reversible: 0 });
        }
    }
    execute(locked.conn(), &format!("update {leaf} set state = 1 where code_id = {used}")).await;
    let kept = expire::month(&mut locked, leaf, noon(), &pace()).await.unwrap();
    assert_eq!(kept, Some(Fate::Kept(Alive { valid: 1, reversible: 0 })));
    assert_eq!(
        value::<i64>(locked.conn(), "select count(*) from pg_constraint where conname like '%\\_fence'").await,
        0
    );
}

#[tokio::test]
async fn a_month_is_put_away_by_hand_whatever_its_age_and_only_once() {
    let db = TestDb::new().await;
    let mut locked = db.locked().await;
    let leaf = plan("coupon").leaf_date(day("2026-10-05"));
    execute(
        locked.conn(),
        &format!(
            "insert into coupon (code_id, rule_id, issued_at, valid_from, valid_until, rule_version, state)
                 values ({0}, 100, '2026-10-05', '2026-10-05', '2026-10-06', 1, 3);
             insert into coupon_index (rule_id, code_id, valid_until, state) values (100, {0}, '2026-10-06', 3)",
            key("2026-10-05", 1)
        ),
    )
    .await;
    let asked = BTreeSet::from([leaf, leaf.step(1), leaf.step(-100)]);
    let found = closed(locked.conn(), &asked).await.unwrap();
    assert_eq!(found, BTreeMap::from([(leaf.step(-100), Closed::Absent)]));
    expire::fence(&mut locked, leaf).await.unwrap();
    assert_eq!(closed(locked.conn(), &asked).await.unwrap().get(&leaf), Some(&Closed::Retired));
    let put_away = expire::month(&mut locked, leaf, noon(), &pace()).await.unwrap();
    assert_eq!(put_away, Some(Fate::Detached(Walked { coupons: 1, index: 1, ..Walked::default() })));
    assert_eq!(expire::month(&mut locked, leaf, noon(), &pace()).await.unwrap(), None);
    assert_eq!(expire::survey(locked.conn(), leaf, noon(), pace().late_days).await.unwrap(), None);
    assert_eq!(closed(locked.conn(), &asked).await.unwrap().get(&leaf), Some(&Closed::Retired));
}

#[tokio::test]
async fn a_leaf_of_the_past_that_waits_for_an_import_is_not_retired_empty() {
    let db = TestDb::new().await;
    let mut locked = db.locked().await;
    let past =
        Some(Past { from: day("2017-01-01"), until: Some(day("2017-02-01")), tables: vec!["coupon".to_owned()] });
    let report = upkeep::run(&mut locked, plans(), &Ask { past, ..ask() }).await.unwrap();
    let leaf = plan("coupon").leaf_date(day("2017-01-01"));
    assert_eq!((report.created, report.expired), (vec![leaf], Vec::new()));
    // Nor is one with rows, where the plan is to keep them.
    let insert = "insert into coupon (code_id, rule_id, issued_at, valid_from, valid_until, rule_version, state)";
    execute(locked.conn(), &format!("{insert} values ({}, 1, now(), now(), now(), 1, 3)", key("2017-01-03", 1))).await;
    let kept = plans().keeping(&["coupon=none".parse().unwrap()]);
    assert_eq!(expire::run(&mut locked, kept, today(), noon(), &pace()).await.unwrap(), Vec::new());
    assert_eq!(expire::run(&mut locked, plans(), today(), noon(), &pace()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_count_that_is_missing_stops_the_walk_before_anything_is_lost() {
    let (db, _) = retired_month(20).await;
    let mut locked = db.locked().await;
    execute(locked.conn(), "delete from coupon_stock where rule_id = 101 and period = 0 and store_no = 0").await;
    let error = expire::run(&mut locked, plans(), today(), noon(), &pace()).await.unwrap_err();
    assert!(matches!(error, DdlError::Inconsistent { table: "coupon_stock", .. }), "{error}");
    assert_eq!(value::<i64>(locked.conn(), "select count(*) from coupon_index").await, 20);
}

#[tokio::test]
async fn the_fence_refuses_prepared_writes_and_none_is_lost() {
    let (db, leaf) = retired_month(20).await;
    let (mut by_leaf, mut by_parent) = (db.service().await, db.service().await);
    let code = key(OLD, 1);
    execute(&mut by_leaf, &format!("prepare w as update {leaf} set uses = uses + 1 where code_id = {code}; execute w"))
        .await;
    execute(
        &mut by_parent,
        &format!("prepare w as update coupon set uses = uses + 1 where code_id = {code}; execute w"),
    )
    .await;

    let mut locked = db.locked().await;
    expire::fence(&mut locked, leaf).await.unwrap();
    for conn in [&mut by_leaf, &mut by_parent] {
        let error = conn.execute("execute w").await.unwrap_err();
        assert_eq!(sqlstate(&error), "23514");
        execute(conn, &format!("begin; select 1 from coupon where code_id = {code} for update; rollback")).await;
    }
    let report = expire::run(&mut locked, plans(), today(), noon(), &pace()).await.unwrap();
    assert!(matches!(report[0].fate, Fate::Detached(_)));
    for conn in [&mut by_leaf, &mut by_parent] {
        // By the parent the row is no longer there; by the leaf the statement is refused. Neither writes.
        if let Ok(done) = conn.execute("execute w").await {
            assert_eq!(done.rows_affected(), 0);
        }
    }
    let kept: i16 =
        value(locked.conn(), &format!("select uses from {} where code_id = {code}", leaf.retired_name())).await;
    assert_eq!(kept, 2, "what was granted before the fence is there, and nothing else");
}

#[tokio::test]
async fn a_detachment_that_a_reader_stopped_is_finished_later() {
    let db = TestDb::new().await;
    let leaf = plan("redemption").leaf_date(day(OLD));
    let mut locked = Locked::open(db.options(), plans(), Duration::from_millis(300)).await.unwrap();
    create_leaf(&mut locked, leaf).await.unwrap();
    let row = format!(
        "insert into redemption (redemption_id, code_id, rule_id, recorded_at, amount, discount, rule_version, store_no, \
             kind, order_ref) values ({}, 1, 1, '{OLD}', 1, 1, 1, 1, 1, 'o')",
        key(OLD, 1)
    );
    execute(locked.conn(), &row).await;
    let mut reader = db.connect().await;
    // Holds the parent and a snapshot, which the second half of the detachment waits for, and not the leaf.
    let hold = "begin isolation level repeatable read; lock table only redemption in access share mode; \
                select count(*) from setting";
    execute(&mut reader, hold).await;
    let stopped = expire::run(&mut locked, plans(), today(), noon(), &pace()).await;
    assert!(matches!(stopped, Err(DdlError::Database(_))), "{stopped:?}");
    let pending: i64 = value(locked.conn(), "select count(*) from pg_inherits where inhdetachpending").await;
    assert_eq!(pending, 1);
    execute(&mut reader, "commit").await;
    let report = expire::run(&mut locked, plans(), today(), noon(), &pace()).await.unwrap();
    assert_eq!(report[0].leaf, leaf.retired_name());
    let pending: i64 = value(locked.conn(), "select count(*) from pg_inherits where inhdetachpending").await;
    assert_eq!(pending, 0);
}

#[tokio::test]
async fn a_day_that_is_only_kept_for_a_while_is_dropped() {
    let db = TestDb::new().await;
    let mut locked = db.locked().await;
    let report = expire::run(&mut locked, plans(), day("2026-11-30"), noon(), &pace()).await.unwrap();
    let events: Vec<_> = report.iter().filter(|retired| retired.leaf.starts_with("event")).collect();
    assert_eq!(events.len(), 2, "{report:?}");
    assert!(events.iter().all(|retired| retired.fate == Fate::Dropped));
    let left: bool = value(locked.conn(), "select to_regclass('event_d2026_11_21_retired') is null").await;
    assert!(left);
}

#[tokio::test]
async fn a_fence_that_a_crash_left_on_a_leaf_that_is_not_due_comes_down() {
    let db = TestDb::new().await;
    let mut locked = db.locked().await;
    let leaf = plan("coupon").leaf_date(today());
    expire::fence(&mut locked, leaf).await.unwrap();
    let report = expire::run(&mut locked, plans(), today(), noon(), &pace()).await.unwrap();
    assert_eq!(report[0].fate, Fate::Unfenced);
    let fences: i64 = value(locked.conn(), "select count(*) from pg_constraint where conname like '%\\_fence'").await;
    assert_eq!(fences, 0);
}

#[tokio::test]
async fn keys_of_late_items_are_forgotten_with_the_conflicts_that_they_name() {
    let db = TestDb::new().await;
    let mut locked = db.locked().await;
    let rows = "insert into redemption_late (recorded_at, key, answer)
        select timestamptz '2023-10-30 20:00+00' + n * interval '1 day', gen_random_uuid(), '{}'
        from generate_series(0, 2) n";
    execute(locked.conn(), rows).await;
    let report = upkeep::run(&mut locked, plans(), &ask()).await.unwrap();
    assert_eq!(
        report.late_forgotten, 1,
        "October of 2023 is 36 months ago, November is kept to its end, and begins earlier in the east"
    );
    let left: i64 = value(locked.conn(), "select count(*) from redemption_late").await;
    assert_eq!(left, 2);
    let kept = plans().keeping(&["redemption_conflict=none".parse().unwrap()]);
    execute(locked.conn(), "update redemption_late set recorded_at = '2000-01-01'").await;
    assert_eq!(upkeep::run(&mut locked, kept, &ask()).await.unwrap().late_forgotten, 0);
}

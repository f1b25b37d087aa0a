//! Coupons and the ledger along the codes: each month is asked once for a stretch, and a stretch holds so much.

use super::*;
use crate::partition::plan;

/// How often the indexes of the ledger were descended into in this transaction.
const DESCENTS: &str = "select coalesce(sum(idx_scan), 0)::bigint from pg_stat_xact_user_tables
    where relname like 'redemption\\_m%'";

#[tokio::test]
async fn a_stretch_of_coupons_asks_each_month_of_the_ledger_once() {
    let (_, secrets) = secrets(7);
    let (_db, mut conn) = filled(&secrets).await;
    let sight = Sight { secrets, leaves: Leaves::load(&mut conn).await.unwrap() };
    let leaf = plan("coupon").leaf_i64(code(1));
    let used: i64 =
        value(&mut conn, "select count(*) from coupon_m2026_11 where uses > 0 or redemption_id is not null").await;
    execute(&mut conn, "begin").await;
    let stretch = Stretch::After(None, 2_000);
    let chunk = Pair::Ledger.chunk(&mut conn, &sight, Direction::Forward, leaf, &stretch).await.unwrap();
    assert_eq!((chunk.last, chunk.suspects.len()), (None, 0));
    let months = sight.leaves.standing("redemption").len() as i64;
    // Planning looks at the ends of an index besides.
    let descents: i64 = value(&mut conn, DESCENTS).await;
    assert!((months..=3 * months).contains(&descents), "{descents} of {months} months");
    assert!(used > 20, "{used} used coupons");
}

#[tokio::test]
async fn a_stretch_with_more_uses_than_it_may_hold_ends_sooner_and_a_single_coupon_does_not() {
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    // Sixty uses, where ten coupons are walked at a time with forty.
    let often = code(40) | 1 << 30;
    execute(
        &mut conn,
        &format!(
            "insert into coupon_rule (rule_id, created_at, updated_at, version, state) values (107, now(), now(), 1, 2);
             insert into coupon_rule_version (rule_id, created_at, amount, days_after_issue, version, discount, currency,
                     name, uses)
                 values (107, now(), 1000, 30, 1, 1, 'CNY', 'r', 100);
             insert into redemption (redemption_id, code_id, rule_id, recorded_at, amount, discount, rule_version,
                     store_no, kind, order_ref)
                 select {DAY}::bigint << 41 | n, {often}, 107, now(), 8000, 1000, 1, 1, 1, 'o'
                 from generate_series(2000001::bigint, 2000060) n;
             insert into coupon (code_id, rule_id, issued_at, valid_from, valid_until, rule_version, uses, redemption_id,
                     redeemed_at, redeemed_store_no, order_ref)
                 select code_id, rule_id, now(), now(), now(), 1, 60, redemption_id, recorded_at, 1, 'o' from redemption
                 where redemption_id = {DAY}::bigint << 41 | 2000060;
             insert into coupon_index select rule_id, code_id, valid_until, member_id, state, referrer from coupon
                 where code_id = {often};
             insert into coupon_stock (rule_id, issued) values (107, 1)"
        ),
    )
    .await;
    let one_by_one = VerifySettings { chunk_rows: 1, tables: vec!["redemption".to_owned()], ..settings() };
    let report = verify(&db, &secrets, &one_by_one).await;
    assert!(report.is_clean(), "{}", report.render());
    execute(&mut conn, &format!("update coupon set uses = 61 where code_id = {often}")).await;
    execute(&mut conn, &format!("update coupon set uses = 3 where code_id = {}", code(5))).await;
    let mut expected = [format!("altered coupon ({often}): uses"), format!("altered coupon ({}): uses", code(5))];
    expected.sort();
    assert_eq!(lines(&verify(&db, &secrets, &one_by_one).await), expected);
}

#[tokio::test]
async fn a_month_of_the_ledger_that_is_put_away_under_the_walk_does_not_end_it() {
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    let settings = settings();
    let walkers = vec![walker(&db, &secrets, &settings, None).await];
    let mut run = Run { settings: &settings, sample: None, walkers };
    let away = "alter table redemption_m2026_10 rename to redemption_m2026_10_retired;
        alter table redemption detach partition redemption_m2026_10_retired";
    execute(&mut conn, away).await;
    let report = run.pair(Pair::Ledger).await.unwrap();
    assert_eq!((report.differences, report.rows > 600), (Vec::new(), true));
}

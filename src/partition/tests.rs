//! Tests against PostgreSQL: the router's oracle, DDL beside readers and crashes, the proof's failures.

mod expiry;

use std::time::Duration;

use chrono::NaiveDate;
use rand::{RngCore, SeedableRng};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use uuid::Uuid;

use expiry::retired_month;

use super::ddl::{DdlError, LeafOutcome, Locked, create_leaf};
use super::router::day_number;
use super::testdb::{TestDb, ask, execute, today, value};
use super::upkeep::{self, Ask, Past};
use super::{Leaf, Query, attached, plan, plans, proof};

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn key(date: &str, number: i64) -> i64 {
    day_number(day(date)) << 41 | number
}

fn sqlstate(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).map_or_else(|| error.to_string(), Into::into)
}

// The router

#[tokio::test]
async fn the_router_hashes_as_postgresql_does() {
    let keys: usize = if std::env::var_os("TESSERA_LONG").is_some() { 1_000_000 } else { 100_000 };
    let seed = std::env::var("TESSERA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    println!("TESSERA_SEED={seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut numbers = vec![0, 1, -1, 15, 16, i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1];
    numbers.extend((0..63).flat_map(|bit| [1_i64 << bit, -(1_i64 << bit), (1 << bit) - 1]));
    numbers.extend((0..keys).map(|_| rng.next_u64() as i64));
    let mut uuids = vec![Uuid::nil(), Uuid::max()];
    uuids.extend((0..128).map(|bit| Uuid::from_u128(1 << bit)));
    uuids.extend((0..keys).map(|_| Uuid::from_u128(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()))));

    let db = TestDb::new().await;
    let mut conn = db.connect().await;
    for chunk in numbers.chunks(50_000) {
        let leaves: Vec<i32> = chunk.iter().map(|key| plan("member").leaf_i64(*key).no).collect();
        let wrong: Vec<i64> = sqlx::query_scalar(
            "select k from unnest($1::bigint[], $2::integer[]) t (k, no)
             where not satisfies_hash_partition('member'::regclass, 16, no, k)",
        )
        .bind(chunk)
        .bind(leaves)
        .fetch_all(&mut conn)
        .await
        .unwrap();
        assert_eq!(wrong, Vec::<i64>::new(), "seed {seed}");
    }
    for chunk in uuids.chunks(50_000) {
        let leaves: Vec<i32> = chunk.iter().map(|key| plan("member_key").leaf_uuid(*key).no).collect();
        let wrong: Vec<Uuid> = sqlx::query_scalar(
            "select k from unnest($1::uuid[], $2::integer[]) t (k, no)
             where not satisfies_hash_partition('member_key'::regclass, 16, no, k)",
        )
        .bind(chunk)
        .bind(leaves)
        .fetch_all(&mut conn)
        .await
        .unwrap();
        assert_eq!(wrong, Vec::<Uuid>::new(), "seed {seed}");
    }
}

#[tokio::test]
async fn a_row_sent_to_the_wrong_leaf_is_refused() {
    let db = TestDb::new().await;
    let mut conn = db.service().await;
    let right = plan("event").leaf_date(today());
    let row = format!("values ({}, now(), 1, 1)", key("2026-11-22", 1));
    let into = |leaf: Leaf| format!("insert into {leaf} (event_id, created_at, subject, kind) {row}");
    let error = conn.execute(AssertSqlSafe(into(right.step(1)))).await.unwrap_err();
    assert_eq!(sqlstate(&error), "23514");
    execute(&mut conn, &into(right)).await;
}

// Leaves

#[tokio::test]
async fn upkeep_is_idempotent_and_says_how_far_leaves_reach() {
    let db = TestDb::new().await;
    let mut locked = db.locked().await;
    let first = upkeep::run(&mut locked, plans(), &ask()).await.unwrap();
    assert_eq!((first.created.len(), first.analysed.len()), (0, plans().iter().count()));
    let second = upkeep::run(&mut locked, plans(), &ask()).await.unwrap();
    assert!(second.created.is_empty() && second.granted.is_empty() && second.indexes_built.is_empty());
    assert!(second.referring.is_empty());
    assert!(second.expired.is_empty() && second.existing > 150, "{second:?}");
    assert!(second.ahead.iter().all(|ahead| ahead.enough), "{:?}", second.ahead);

    let owner: String =
        value(locked.conn(), "select pg_get_userbyid(relowner)::text from pg_class where relname = 'coupon_m2026_11'")
            .await;
    assert_eq!(owner, "tessera_owner");
    let options: Vec<String> =
        value(locked.conn(), "select reloptions from pg_class where relname = 'coupon_m2026_11'").await;
    assert_eq!(options, ["fillfactor=85"]);
    let late = upkeep::ahead(&mut db.service().await, plans(), today() + chrono::TimeDelta::days(3)).await.unwrap();
    let event = late.iter().find(|ahead| ahead.table == "event").unwrap();
    assert_eq!((event.leaves, event.enough), (Some(1), false));
}

#[tokio::test]
async fn leaves_of_the_past_are_made_on_request() {
    let db = TestDb::new().await;
    let mut locked = db.locked().await;
    let past = Some(Past { from: day("2026-09-01"), until: None, tables: Vec::new() });
    let past = Ask { past, leaves_only: true, ..ask() };
    let report = upkeep::run(&mut locked, plans(), &past).await.unwrap();
    assert!(report.created.contains(&plan("coupon").leaf_date(day("2026-09-01"))));
    let rights: bool =
        value(locked.conn(), "select has_table_privilege('tessera_service', 'coupon_m2026_09', 'delete')").await;
    assert!(rights);
}

#[tokio::test]
async fn two_processes_make_leaves_one_after_the_other() {
    let db = TestDb::new().await;
    let next = Ask { today: day("2027-02-01"), leaves_only: true, ..ask() };
    let run = || async {
        let mut locked = db.locked().await;
        let report = upkeep::run(&mut locked, plans(), &next).await.unwrap();
        locked.close().await.unwrap();
        report.created.len()
    };
    let (one, two) = tokio::join!(run(), run());
    assert!(one.min(two) == 0 && one.max(two) > 0, "{one} and {two}");

    let _holder = db.locked().await;
    let refused = Locked::open(db.options(), plans(), Duration::from_millis(50)).await;
    assert!(matches!(refused, Err(DdlError::Busy)));
}

#[tokio::test]
async fn a_leaf_is_made_while_readers_and_writers_hold_the_table() {
    let db = TestDb::new().await;
    let mut reader = db.service().await;
    execute(&mut reader, "begin; select count(*) from coupon").await;
    let mut writer = db.service().await;
    execute(&mut writer, "begin; update coupon set uses = uses where code_id = 1").await;
    let mut locked = db.locked().await;
    let leaf = plan("coupon").leaf_date(day("2028-01-01"));
    assert_eq!(create_leaf(&mut locked, leaf).await.unwrap(), LeafOutcome::Created);
    assert_eq!(create_leaf(&mut locked, leaf).await.unwrap(), LeafOutcome::Existing);
    execute(&mut reader, "select count(*) from coupon; commit").await;
}

#[tokio::test]
async fn each_leaf_of_the_family_refers_to_the_leaf_of_its_number_and_to_no_parent() {
    let db = TestDb::new().await;
    let mut conn = db.connect().await;
    let wrong: i64 = value(
        &mut conn,
        "select count(*) from pg_constraint k join pg_inherits i on i.inhrelid = k.conrelid
         where k.contype = 'f' and (not k.convalidated or k.confrelid <> (
             select c.oid from pg_class c
             where c.relname = 'member' || substring(k.conrelid::regclass::text from '_h[0-9]+$')))",
    )
    .await;
    assert_eq!(wrong, 0);
    let family = plans().iter().filter(|plan| plan.beside.as_deref() == Some("member")).count();
    let all =
        "select count(*) from pg_constraint k join pg_inherits i on i.inhrelid = k.conrelid where k.contype = 'f'";
    assert_eq!(value::<i64>(&mut conn, all).await, 16 * family as i64);
    // Of a stranger nothing can be said, whether by the leaf or by the parent.
    let leaf = plan("member_tag").leaf_i64(7);
    for table in [leaf.to_string(), "member_tag".to_owned()] {
        let insert = format!("insert into {table} (member_id, tagged_at, tag, tagged_by) values (7, now(), 'a', 'b')");
        let refused = conn.execute(AssertSqlSafe(insert)).await.unwrap_err();
        assert_eq!(sqlstate(&refused), "23503", "{table}");
    }
    // What was killed between its two steps is ended.
    let add = format!(
        "alter table {leaf} drop constraint {leaf}_member_fk; alter table {leaf} add constraint {leaf}_member_fk \
         foreign key (member_id) references {} (member_id) not valid",
        plan("member").leaf_i64(7)
    );
    execute(&mut conn, &add).await;
    let mut locked = db.locked().await;
    let report = upkeep::run(&mut locked, plans(), &ask()).await.unwrap();
    locked.close().await.unwrap();
    assert_eq!(report.referring, [leaf]);
}

#[tokio::test]
async fn a_leaf_that_a_crash_left_unattached_is_picked_up_with_its_rows() {
    let db = TestDb::new().await;
    let mut locked = db.locked().await;
    let leaf = plan("event").leaf_date(day("2027-01-05"));
    execute(locked.conn(), &format!("create table {leaf} (like event including all)")).await;
    let row = format!(
        "insert into {leaf} (event_id, created_at, subject, kind) values ({}, now(), 1, 1)",
        key("2027-01-05", 1)
    );
    execute(locked.conn(), &row).await;
    assert_eq!(create_leaf(&mut locked, leaf).await.unwrap(), LeafOutcome::PickedUp);
    assert_eq!(value::<i64>(&mut db.service().await, &format!("select count(*) from {leaf}")).await, 1);
    let left: i64 = value(locked.conn(), "select count(*) from pg_constraint where conname like '%\\_bounds'").await;
    assert_eq!(left, 0, "the constraint that saves the scan does not stay");
}

#[tokio::test]
async fn something_else_under_a_leafs_name_is_left_alone() {
    let db = TestDb::new().await;
    let mut locked = db.locked().await;
    let leaf = plan("event").leaf_date(day("2027-01-05"));
    execute(locked.conn(), &format!("create view {leaf} as select 1 as one")).await;
    assert!(matches!(create_leaf(&mut locked, leaf).await, Err(DdlError::Foreign { .. })));
    let wrong = leaf.step(1);
    execute(locked.conn(), &format!("create table {wrong} partition of event {}", leaf.for_values())).await;
    let error = attached(locked.conn(), plan("event")).await.unwrap_err();
    assert!(matches!(error, DdlError::Foreign { .. }), "{error}");
}

#[tokio::test]
async fn a_missing_role_is_said_before_anything_changes() {
    let db = TestDb::new().await;
    let mut conn = db.connect().await;
    execute(&mut conn, "drop table coupon cascade").await;
    let refused = Locked::open(db.options(), plans(), Duration::from_secs(1)).await;
    assert!(matches!(refused, Err(DdlError::ParentMissing(table)) if table == "coupon"));
}

#[tokio::test]
async fn a_new_index_is_built_leaf_by_leaf_and_a_broken_one_goes_first() {
    let db = TestDb::new().await;
    let mut locked = db.locked().await;
    execute(locked.conn(), "create index redemption_rule on only redemption (rule_id)").await;
    execute(
        locked.conn(),
        "create index broken on redemption_m2026_11 (amount); set role postgres; \
         update pg_index set indisvalid = false where indexrelid = 'broken'::regclass; set role tessera_owner",
    )
    .await;
    let report = upkeep::run(&mut locked, plans(), &Ask { leaves_only: true, ..ask() }).await.unwrap();
    assert_eq!(report.indexes_dropped, ["broken"]);
    assert!(report.indexes_built.contains(&"redemption_m2026_11_rule".to_owned()), "{:?}", report.indexes_built);
    let valid: bool =
        value(locked.conn(), "select indisvalid from pg_index where indexrelid = 'redemption_rule'::regclass").await;
    assert!(valid);
}

// The proof

async fn prove(conn: &mut PgConnection, text: &str) -> proof::Proven {
    let query = Query::parse("test/query", text).unwrap();
    proof::run(conn, std::iter::once(&query), |_| {}).await.unwrap().rows.remove(0)
}

const GOOD: &[&str] = &[
    "-- by key\n-- touches: coupon=1\n-- route: coupon=$1\n-- sample: select array[code_id] from coupon limit 1\n\
     select c.code_id from {coupon} c where c.code_id = any($1::bigint[])",
    "-- by join\n-- touches: coupon_receive=1\n-- route: coupon_receive=$1\n\
     -- sample: select array[member_id], array[code_id] from coupon_receive limit 1\n\
     select r.code_id from unnest($1::bigint[], $2::bigint[]) t (m, c) join {coupon_receive} r on r.member_id = t.m \
     and r.code_id = t.c for update of r",
    "-- insert\n-- touches: event=1\n-- route: event=$1\n\
     -- sample: select array[(9822::bigint << 41) + 77], array[now()]\n\
     insert into {event} (event_id, created_at, subject, kind) select t.e, t.at, 1, 1 \
     from unnest($1::bigint[], $2::timestamptz[]) t (e, at) on conflict do nothing returning event_id",
    "-- claim\n-- touches: request=1\n-- route: request=$1\n\
     -- sample: select array['2026-11-22'::date], array['00000000-0000-0000-0000-0000000000a1'::uuid]\n\
     insert into {request} (created_at, digest, key, day) select now(), 1, t.k, t.d \
     from unnest($1::date[], $2::uuid[]) t (d, k) on conflict do nothing",
    "-- update\n-- touches: coupon=1\n-- route: coupon=$1\n-- sample: select code_id from coupon limit 1\n\
     update {coupon} set uses = uses + 1 where code_id = $1",
    "-- wide\n-- touches: coupon_index=all (a report)\n-- sample: select 1::smallint\n\
     select count(*) from {coupon_index} i where i.rule_id >= 0 and i.state = $1",
];

#[tokio::test]
async fn claims_that_hold_are_proved_and_leave_nothing_behind() {
    let (db, _) = retired_month(20).await;
    let mut conn = db.service().await;
    let day = day_number(day("2026-11-22"));
    for text in GOOD {
        let row = prove(&mut conn, &text.replace("9822", &day.to_string())).await;
        assert!(row.ok(), "{row:?}\n{text}");
        assert!(row.buffers > 0);
    }
    assert_eq!(value::<i64>(&mut conn, "select count(*) from event").await, 0);
    assert_eq!(value::<i16>(&mut conn, "select max(uses) from coupon").await, 0);
}

#[tokio::test]
async fn claims_that_do_not_hold_fail_for_the_right_reason() {
    let find = GOOD[0];
    // Routed by a second parameter, which is another thing than the key.
    let second = |value: &str, kind: &str| {
        find.replace("array[code_id]", &format!("array[code_id], {value}"))
            .replace("coupon=$1", "coupon=$2")
            .replace("any($1::bigint[])", &format!("any($1::bigint[]) and $2::{kind} is not null"))
    };
    let cases = [
        // The predicate is missing: all leaves, whole.
        (find.replace("c.code_id = any($1::bigint[])", "$1::bigint[] is not null"), "is read as a whole"),
        (
            "-- a\n-- touches: coupon_index=1\n-- route: coupon_index=$1\n-- sample: select rule_id from coupon_index limit 1\n\
             select i.code_id from {coupon_index} i where i.rule_id + 0 = $1"
                .to_owned(),
            "16 leaves of coupon_index instead of 1",
        ),
        (find.replace("limit 1", "where false"), "the sample finds no row"),
        (find.replace("array[code_id]", "array[code_id + (1::bigint << 40)]"), "nothing is found"),
        (find.replace("-- route: coupon=$1\n", ""), "no route"),
        (find.replace("coupon=$1", "coupon=$2"), "the sample has 1 columns"),
        (second("array['a'::text]", "text[]"), "is no key of coupon"),
        (second("array[code_id + (1::bigint << 46)]", "bigint[]"), "the router says coupon_m2023_10"),
        (find.replace("c.code_id from", "c.nothing from"), "PostgreSQL refuses it"),
    ];
    let (db, leaf) = retired_month(20).await;
    let mut conn = db.connect().await;
    for (text, expected) in cases {
        let row = prove(&mut conn, &text).await;
        assert!(row.failures.iter().any(|failure| failure.contains(expected)), "{expected}: {row:?}\n{text}");
    }
    assert!(prove(&mut conn, find).await.ok());
    // Without its index the leaf is read as a whole, whatever the settings say.
    execute(&mut conn, "alter table coupon drop constraint coupon_pk").await;
    let row = prove(&mut conn, find).await;
    assert!(row.failures.contains(&format!("{leaf} is read as a whole")), "{row:?}");
    conn.close().await.unwrap();
}

#[tokio::test]
async fn the_report_is_a_table_for_people() {
    let (db, _) = retired_month(20).await;
    let mut conn = db.service().await;
    let good = Query::parse("coupon/find", GOOD[0]).unwrap();
    let bad = Query::parse("coupon/bad", &GOOD[0].replace("limit 1", "where false")).unwrap();
    let mut seen = 0;
    let report = proof::run(&mut conn, [&good, &bad].into_iter(), |_| seen += 1).await.unwrap();
    assert!(!report.ok() && seen == 2);
    let text = report.render();
    assert!(text.contains("coupon/find  coupon=1") && text.contains("the sample finds no row"), "{text}");
    assert!(text.ends_with("2 queries, 1 failed\n"), "{text}");
}

//! Fills a database of the benches.

use std::{fmt::Write, time::Duration};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tessera::{
    boot,
    clock::{Clock, Zone},
    db::{
        embedded::SUPERUSER,
        migrate::{self, role},
    },
    id::Day,
    partition::{Locked, plans, upkeep},
};

use super::stage::{RULES, SERIALS, SPREAD, Stage};

const PATIENCE: Duration = Duration::from_secs(30);
const TABLES: [&str; 10] = [
    "coupon",
    "coupon_receive",
    "coupon_index",
    "coupon_stock",
    "member",
    "member_key",
    "member_rule",
    "redemption",
    "request",
    "event",
];
/// Members of one message of COPY.
const PIECE: i64 = 2_000;

/// The schema with its leaves, and the rows of a stage in partitions and in flat tables.
pub async fn fill(stage: &Stage) {
    let server = stage.options(SUPERUSER).database("postgres");
    let mut conn = migrate::connect(&server, PATIENCE).await.expect("a server");
    migrate::bootstrap(&mut conn, &stage.database).await.expect("roles and a database");
    migrate::close(conn).await;
    let owner = stage.options(role::OWNER);
    let now = Clock::system().now();
    boot::migrate_and_upkeep(&owner, PATIENCE, now, Zone::DEFAULT).await.expect("a schema");
    let first = Day::from_number(stage.today.number() - stage.days as i32).expect("a day of this century");
    let ask = upkeep::Ask {
        today: stage.today.to_date(),
        now,
        past: Some(upkeep::Past { from: first.to_date(), until: None, tables: vec!["coupon".to_owned()] }),
        leaves_only: true,
        pace: tessera::partition::expire::Pace::of_window(0),
    };
    let mut locked = Locked::open(&owner, plans(), PATIENCE).await.expect("the lock of the upkeep");
    upkeep::run(&mut locked, plans(), &ask).await.expect("leaves");
    locked.close().await.expect("the lock is given back");

    let mut conn = PgConnection::connect_with(&stage.options(SUPERUSER)).await.expect("a connection");
    fill_members(stage, &mut conn).await;
    let sql = format!("{}{}", rules(), coupons(stage, stage.rows, "public"));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.expect("rows");
    make_flat(&mut conn, "insert into flat.{table} select * from public.{table};").await;
    settle(&mut conn).await;
}

async fn settle(conn: &mut PgConnection) {
    for statement in ["vacuum (analyze)", "checkpoint"] {
        sqlx::raw_sql(statement).execute(&mut *conn).await.expect("a settled database");
    }
}

/// Flat tables beside a built dataset, with rows by formula, unless they are there already. Gives how many coupons they
/// hold, and how many of the dataset's earlier runs have passed.
pub async fn beside(stage: &Stage, rows: i64) -> (i64, i64) {
    let mut conn = PgConnection::connect_with(&stage.options(SUPERUSER)).await.expect("a connection");
    let there: Option<String> = sqlx::query_scalar(
        "select coalesce(obj_description(oid, 'pg_namespace'), '') from pg_namespace where nspname = 'flat'",
    )
    .fetch_optional(&mut conn)
    .await
    .expect("the catalogue");
    if let Some(told) = there {
        let told = told.split_once(' ').and_then(|(rows, used)| Some((rows.parse().ok()?, used.parse().ok()?)));
        // What an earlier run redeemed there may be redeemed again: it costs the same.
        let sql = "truncate flat.redemption, flat.request, flat.event";
        sqlx::raw_sql(sql).execute(&mut conn).await.expect("empty tables");
        return told.expect("schema flat was left half made: drop it");
    }
    println!("[{rows} coupons are put into flat tables, once]");
    make_flat(&mut conn, "").await;
    sqlx::raw_sql(AssertSqlSafe(coupons(stage, rows, "flat"))).execute(&mut conn).await.expect("rows");
    settle(&mut conn).await;
    remember(stage, rows, 0).await;
    (rows, 0)
}

pub async fn remember(stage: &Stage, rows: i64, used: i64) {
    let mut conn = PgConnection::connect_with(&stage.options(SUPERUSER)).await.expect("a connection");
    let sql = format!("comment on schema flat is '{rows} {used}'");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.expect("a comment");
}

/// Members with what a registration at a till gives them: a phone number with its key, a name, a birthday.
async fn fill_members(stage: &Stage, conn: &mut PgConnection) {
    let secrets = stage.secrets();
    let hex = |bytes: Vec<u8>| bytes.iter().fold("\\\\x".to_owned(), |text, byte| text + &format!("{byte:02x}"));
    let (mut members, mut keys) = (Vec::new(), Vec::new());
    for first in (1..=stage.members()).step_by(PIECE as usize) {
        let (mut member_rows, mut key_rows) = (String::new(), String::new());
        for m in first..(first + PIECE).min(stage.members() + 1) {
            let (id, phone) = (stage.member(m).get(), stage.phone(m));
            let sealed = |column: &'static str, plain: &str| hex(secrets.encrypt("member", column, id, plain));
            let (version, key) = secrets.blind_current(phone.kind().number(), phone.normalised());
            let _ = writeln!(
                member_rows,
                "{id}\tnow\tnow\tnow\t{}\t{}\t{}",
                sealed("phone", phone.normalised()),
                sealed("name", &format!("Lin {m}")),
                sealed("birthday", "1990-05-01"),
            );
            let _ = writeln!(key_rows, "{id}\tnow\t{key}\t{version}\t{}", phone.kind().number());
        }
        members.push(member_rows);
        keys.push(key_rows);
    }
    for (into, pieces) in [
        ("copy member (member_id, created_at, updated_at, phone_bound_at, phone, name, birthday) from stdin", members),
        ("copy member_key (member_id, bound_at, key, key_version, kind) from stdin", keys),
    ] {
        let mut copy = conn.copy_in_raw(into).await.expect("a copy");
        for piece in pieces {
            copy.send(piece.into_bytes()).await.expect("rows are taken");
        }
        copy.finish().await.expect("rows are taken");
    }
}

/// Every rule has a stock, as one for a rush has, and it is never used up.
fn rules() -> String {
    format!(
        "insert into coupon_rule (rule_id, created_at, updated_at, version, state) \
         select r, now(), now(), 1, 2 from generate_series(1, {RULES}) r; \
         insert into coupon_rule_version \
             (rule_id, created_at, amount, threshold, stock, version, days_after_issue, discount, currency, name, \
             claimable) \
         select r, now(), 1000, 5000, 1000000000, 1, 30, 1, 'CNY', '10 off 50', true \
         from generate_series(1, {RULES}) r;"
    )
}

/// Coupons by formula with their index rows. In flat tables members are by formula too, as wide as others.
fn coupons(stage: &Stage, rows: i64, schema: &str) -> String {
    let (members, today, days) = ((rows / 4).max(1), stage.today.number(), stage.days);
    let of_members = match schema {
        "flat" => format!(
            "insert into flat.member (member_id, created_at, updated_at, phone_bound_at, phone, name, birthday) \
             select m << 22, now(), now(), now(), decode(repeat('5a', 43), 'hex'), decode(repeat('5a', 38), 'hex'), \
                 decode(repeat('5a', 39), 'hex') from generate_series(1::bigint, {members}) m;"
        ),
        _ => String::new(),
    };
    format!(
        "{of_members} insert into {schema}.coupon \
             (code_id, rule_id, issued_at, valid_from, valid_until, member_id, rule_version) \
         select ({today} - i % {days}) << 41 | i * {SPREAD} % {SERIALS}, i % {RULES} + 1, now(), \
             now() - interval '1 day', now() + interval '30 days', (i % {members} + 1) << 22, 1 \
         from generate_series(1::bigint, {rows}) i order by {today} - i % {days}, i; \
         insert into {schema}.coupon_receive (member_id, code_id, rule_id, valid_until, state) \
         select c.member_id, c.code_id, c.rule_id, c.valid_until, c.state from {schema}.coupon c; \
         insert into {schema}.coupon_index (rule_id, code_id, valid_until, member_id, state) \
         select c.rule_id, c.code_id, c.valid_until, c.member_id, c.state from {schema}.coupon c; \
         insert into {schema}.coupon_stock (rule_id, issued) \
         select c.rule_id, count(*) from {schema}.coupon c group by c.rule_id;"
    )
}

/// Each table once more, unpartitioned, with the storage options of its leaves, and what `then` says of each.
async fn make_flat(conn: &mut PgConnection, then: &str) {
    let mut flat = "create schema flat;".to_owned();
    for table in TABLES {
        let storage: Option<String> = sqlx::query_scalar(
            "select array_to_string(c.reloptions, ', ') from pg_inherits i \
             join pg_class c on c.oid = i.inhrelid where i.inhparent = $1::regclass limit 1",
        )
        .bind(table)
        .fetch_one(&mut *conn)
        .await
        .expect("a leaf");
        let storage = storage.expect("each plan has a fill factor");
        flat += &format!("create table flat.{table} (like public.{table} including all) with ({storage});");
        flat += &then.replace("{table}", table);
    }
    sqlx::raw_sql(AssertSqlSafe(flat)).execute(conn).await.expect("flat tables");
}

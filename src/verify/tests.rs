//! Against PostgreSQL: what is planted is named, exactly, and mended; what is right is left alone.
//!
//! [`plantings`] lists the damages: for each the SQL that does it and the report it must give.

mod ledger;
mod plantings;
mod sample;

use chrono::{DateTime, Utc};
use rand::{SeedableRng, rngs::StdRng};
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use self::plantings::Planting;
use super::{
    leaves::Leaves,
    pair::Sight,
    sample::{Course, Stretch},
    walker::Suspicion,
    *,
};
use crate::{
    member::key,
    partition::testdb::{TestDb, execute, value},
    secret::{SecretFile, Secrets},
};

/// Of one till, so that the tables do not outgrow the walk.
const SALES_MAX: i64 = 2_000;
const MEMBERS: std::ops::Range<i64> = 1_000..1_050;
/// 2026-11-22, the day that the leaves of the test database lie around.
const DAY: i64 = 9_822;

/// The n-th coupon; the fortieth day before today is in the month before.
fn code(n: i64) -> i64 {
    (DAY - n % 40) << 41 | n
}

/// The use of the n-th coupon; its reversal comes 100,000 numbers later.
fn used(n: i64) -> i64 {
    DAY << 41 | n
}

fn secrets(seed: u64) -> (SecretFile, Arc<Secrets>) {
    let file = SecretFile::generate(&mut StdRng::seed_from_u64(seed));
    let secrets = Secrets::new(&file, StdRng::seed_from_u64(seed + 1));
    (file, Arc::new(secrets))
}

fn settings() -> VerifySettings {
    VerifySettings { chunk_rows: 37, settle_max_ms: 50, ..VerifySettings::default() }
}

/// Runs with the rights of the service.
async fn verify(db: &TestDb, secrets: &Arc<Secrets>, settings: &VerifySettings) -> Report {
    let options: PgConnectOptions = db.options().clone().options([("role", "tessera_service")]);
    run(settings, options, Arc::clone(secrets), |_| {}).await.unwrap()
}

/// One walk's connection.
async fn walker(db: &TestDb, secrets: &Arc<Secrets>, settings: &VerifySettings, sample: Option<Sample>) -> Walker {
    let settings = Arc::new(settings.clone());
    Walker::connect(settings, sample, db.options().clone(), Arc::clone(secrets)).await.unwrap()
}

fn lines(report: &Report) -> Vec<String> {
    let mut lines: Vec<String> = report
        .differences()
        .map(|found| Difference { repair: Repair::NotAsked, ..found.clone() }.to_string())
        .collect();
    lines.sort();
    lines
}

/// Coupons used, reversed, void and untouched, of two months, seven rules, fifty members and nobody.
const FILL: &str = "
    insert into coupon_rule (rule_id, created_at, updated_at, version, state)
        select 100 + r, now(), now(), 1, 2 from generate_series(0, 6) r;
    insert into coupon_rule_version (rule_id, created_at, amount, days_after_issue, version, discount, currency, name)
        select 100 + r, now(), 1000, 30, 1, 1, 'CNY', 'r' from generate_series(0, 6) r;
    update coupon_rule_version set stock_per_day = 99, stock_per_store = 999, budget = 99999, budget_per_day = 99999,
        budget_per_store = 99999 where rule_id = 106;
    insert into coupon (code_id, rule_id, issued_at, valid_from, valid_until, member_id, legacy_key, rule_version, referrer)
        select (9822 - n % 40) << 41 | n, 100 + n % 7, now(), now(), now() + interval '30 days',
            case when n % 3 <> 0 then 1000 + n % 50 end, case when n % 10 = 0 then md5('legacy' || n)::uuid end, 1,
            case when n % 4 = 0 then 'E' || n end
        from generate_series(1::bigint, 600) n;
    update coupon set state = 3 where (code_id & 2199023255551) % 13 = 0
        and (code_id & 2199023255551) % 5 <> 0 and (code_id & 2199023255551) % 11 <> 0;
    update coupon set state = 2, uses = 1, redemption_id = 9822::bigint << 41 | (code_id & 2199023255551),
            redeemed_at = issued_at, redeemed_store_no = 1, order_ref = 'o'
        where (code_id & 2199023255551) % 5 = 0;
    insert into redemption (redemption_id, code_id, rule_id, recorded_at, amount, discount, member_id, rule_version,
            store_no, kind, order_ref)
        select redemption_id, code_id, rule_id, redeemed_at, 8000, 1000, member_id, 1, 1, 1, 'o'
        from coupon where uses = 1;
    update coupon set cycles = 1 where (code_id & 2199023255551) % 11 = 0 and uses = 0;
    insert into redemption (redemption_id, code_id, rule_id, recorded_at, amount, discount, member_id, rule_version,
            store_no, kind, order_ref, reversed, returned, reversed_whole, reverses)
        select 9822::bigint << 41 | (code_id & 2199023255551) + k * 100000, code_id, rule_id, now(), 8000, 1000, member_id,
            1, 1, 1 + k, 'o', (1 - k) * 1000, (1 - k) * 8000, k = 0,
            case when k = 1 then 9822::bigint << 41 | (code_id & 2199023255551) end
        from coupon, generate_series(0, 1) k where cycles = 1;
    insert into coupon_receive select member_id, code_id, rule_id, valid_until, state from coupon
        where member_id is not null;
    insert into coupon_index select rule_id, code_id, valid_until, member_id, state, referrer from coupon;
    insert into coupon_history_index select code_id, legacy_key from coupon where legacy_key is not null;
    insert into coupon_stock (rule_id, issued, voided)
        select rule_id, count(*), count(*) filter (where state = 3) from coupon group by rule_id;
    update coupon set counted = 7, issue_store_no = 1 + (code_id & 2199023255551) % 2 where rule_id = 106;
    update redemption set counted = 7, store_no = 1 where rule_id = 106 and kind = 1;
    insert into coupon_stock (rule_id, period, store_no, issued, voided)
        select rule_id, (code_id >> 41)::integer, 0, count(*), count(*) filter (where state = 3) from coupon
        where rule_id = 106 group by 1, 2 union all
        select rule_id, 0, issue_store_no, count(*), count(*) filter (where state = 3) from coupon
        where rule_id = 106 group by 1, 3;
    insert into coupon_stock (rule_id, period, store_no, spent)
        select r.rule_id, k.period, k.store_no, sum(discount - reversed) from redemption r,
            lateral (values (0, 0), ((redemption_id >> 41)::integer, 0), (0, store_no)) k (period, store_no)
        where counted = 7 and kind = 1 group by 1, 2, 3
        on conflict (rule_id, period, store_no) do update set spent = excluded.spent;
    insert into member_rule (member_id, rule_id, taken)
        select member_id, rule_id, count(*) filter (where state <> 3) from coupon where member_id is not null
        group by member_id, rule_id;
";

fn phone(member: i64) -> String {
    format!("+86138{member:08}")
}

fn key_of(secrets: &Secrets, kind: key::Kind, text: &str) -> Uuid {
    secrets.blind_current(kind.number(), text).1
}

async fn fill_members(conn: &mut PgConnection, secrets: &Secrets) {
    let bound: DateTime<Utc> = "2026-11-01T10:00:00.123456Z".parse().unwrap();
    for member in MEMBERS {
        let email = (member % 2 == 0).then(|| format!("m{member}@example.cn"));
        let card = (member % 5 == 0).then(|| format!("CARD{member}"));
        sqlx::query(
            "insert into member (member_id, created_at, updated_at, phone_bound_at, email_bound_at, phone, email)
             values ($1, $2, $2, $2, case when $4::bytea is not null then $2 end, $3, $4)",
        )
        .bind(member)
        .bind(bound)
        .bind(secrets.encrypt("member", "phone", member, &phone(member)))
        .bind(email.as_ref().map(|email| secrets.encrypt("member", "email", member, email)))
        .execute(&mut *conn)
        .await
        .unwrap();
        let mut identifiers = vec![(key::Kind::Phone, phone(member))];
        identifiers.extend(email.map(|email| (key::Kind::Email, email)));
        if let Some(card) = card {
            let (version, own) = secrets.blind_current(key::Kind::Card.number(), &card);
            sqlx::query(
                "insert into member_auth (member_id, bound_at, key, key_version, kind, identifier)
                 values ($1, $2, $3, $4, 4, $5)",
            )
            .bind(member)
            .bind(bound)
            .bind(own)
            .bind(version)
            .bind(secrets.encrypt("member_auth", "identifier", member, &card))
            .execute(&mut *conn)
            .await
            .unwrap();
            identifiers.push((key::Kind::Card, card));
        }
        for (kind, text) in identifiers {
            for (version, key) in secrets.blind(kind.number(), &text) {
                sqlx::query(
                    "insert into member_key (key, member_id, bound_at, key_version, kind) values ($1, $2, $3, $4, $5)",
                )
                .bind(key)
                .bind(member)
                .bind(bound)
                .bind(version)
                .bind(kind as i16)
                .execute(&mut *conn)
                .await
                .unwrap();
            }
        }
    }
}

async fn filled(secrets: &Secrets) -> (TestDb, PgConnection) {
    let db = TestDb::new().await;
    let mut conn = db.connect().await;
    execute(&mut conn, FILL).await;
    fill_members(&mut conn, secrets).await;
    (db, conn)
}

async fn each_is_named_and_mended(plantings: Vec<Planting>) {
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    let clean = verify(&db, &secrets, &settings()).await;
    assert!(clean.is_clean(), "{}", clean.render());
    let legacy: Uuid = value(&mut conn, "select md5('legacy10')::uuid").await;
    for planting in plantings {
        execute(&mut conn, &planting.sql).await;
        let mut expected: Vec<String> =
            planting.report.iter().map(|line| line.replace("<legacy10>", &legacy.to_string())).collect();
        expected.sort();
        let report = verify(&db, &secrets, &settings()).await;
        assert_eq!(lines(&report), expected, "{}", planting.name);
        assert!(!report.is_clean(), "{}", planting.name);
        let together = verify(&db, &secrets, &VerifySettings { jobs: 4, ..settings() }).await;
        assert_eq!(lines(&together), expected, "{}, on several connections", planting.name);
        let counts = |report: &Report| report.pairs.iter().map(|pair| (pair.rows, pair.chunks)).collect::<Vec<_>>();
        assert_eq!(counts(&together), counts(&report), "{}", planting.name);
        let everything = VerifySettings { sample: Some("100%".parse().unwrap()), ..settings() };
        let drawn = verify(&db, &secrets, &everything).await;
        assert_eq!(lines(&drawn), expected, "{}, along all pages", planting.name);
        assert!(!drawn.is_clean(), "{}", planting.name);
        let repaired = verify(&db, &secrets, &VerifySettings { repair: true, ..settings() }).await;
        assert_eq!(repaired.is_clean(), planting.undo.is_none(), "{}: {}", planting.name, repaired.render());
        if let Some(undo) = planting.undo {
            execute(&mut conn, &undo).await;
        }
        let after = verify(&db, &secrets, &settings()).await;
        assert!(after.is_clean(), "{}: {}", planting.name, after.render());
    }
}

#[tokio::test]
async fn what_is_planted_around_coupons_is_named_and_mended() {
    each_is_named_and_mended(plantings::coupon_plantings()).await;
}

#[tokio::test]
async fn what_is_planted_in_counts_is_named_and_mended() {
    each_is_named_and_mended(plantings::count_plantings()).await;
}

#[tokio::test]
async fn what_is_planted_in_the_parts_of_a_rule_is_named_and_mended() {
    each_is_named_and_mended(plantings::part_plantings()).await;
}

#[tokio::test]
async fn what_is_planted_in_the_ledger_is_named_and_mended() {
    each_is_named_and_mended(plantings::ledger_plantings()).await;
}

#[tokio::test]
async fn what_is_planted_around_members_is_named_and_mended() {
    each_is_named_and_mended(plantings::member_plantings(&secrets(7).1)).await;
}

#[tokio::test]
async fn a_repaired_coupon_is_what_its_ledger_says() {
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    execute(&mut conn, &format!("delete from redemption where redemption_id = {}", used(5))).await;
    let report = verify(&db, &secrets, &VerifySettings { repair: true, ..settings() }).await;
    assert!(report.is_clean(), "{}", report.render());
    let rows: String = value(
        &mut conn,
        &format!(
            "select concat_ws(' ', c.state, c.uses, c.redemption_id, c.order_ref, r.state, i.state)
             from coupon c join coupon_receive r using (code_id) join coupon_index i using (code_id)
             where c.code_id = {}",
            code(5)
        ),
    )
    .await;
    assert_eq!(rows, "1 0 1 1");
}

#[tokio::test]
async fn with_the_wrong_keys_nothing_is_deleted() {
    let (_, right) = secrets(7);
    let (db, mut conn) = filled(&right).await;
    let before: i64 = value(&mut conn, "select count(*) from member_key").await;
    let report = verify(&db, &secrets(70).1, &VerifySettings { repair: true, ..settings() }).await;
    assert!(report.differences().all(|found| found.kind == Kind::Unreadable), "{}", report.render());
    assert_eq!(report.differences().count(), MEMBERS.count());
    let after: i64 = value(&mut conn, "select count(*) from member_key").await;
    assert_eq!(before, after);
    assert!(verify(&db, &right, &settings()).await.is_clean());
}

#[tokio::test]
async fn both_live_key_versions_are_compared_and_a_dropped_one_is_extra() {
    let (mut file, _) = secrets(7);
    let mut rng = StdRng::seed_from_u64(8);
    let old = file.blind().next().unwrap().0;
    let new = file.add_blind(&mut rng).unwrap();
    file.set_blind_idle(new, false).unwrap();
    let both = Arc::new(Secrets::new(&file, StdRng::seed_from_u64(9)));
    let (db, mut conn) = filled(&both).await;
    assert!(verify(&db, &both, &settings()).await.is_clean());
    let keys: i64 = value(&mut conn, "select count(*) from member_key").await;
    let lose = async |conn: &mut PgConnection, version: i16| {
        execute(conn, &format!("delete from member_key where key_version = {version} and member_id = 1001")).await;
    };
    // A rotation may still have to make it.
    lose(&mut conn, new).await;
    assert!(verify(&db, &both, &settings()).await.is_clean());
    file.set_blind_current(new).unwrap();
    both.replace(&file).unwrap();
    lose(&mut conn, old).await;
    let report = verify(&db, &both, &VerifySettings { repair: true, ..settings() }).await;
    assert_eq!(report.differences().map(|found| found.kind).collect::<Vec<_>>(), [Kind::Missing; 2]);
    assert!(report.is_clean(), "{}", report.render());
    // It may be deleting it, but a row that stands must be right.
    file.set_blind_idle(old, true).unwrap();
    both.replace(&file).unwrap();
    lose(&mut conn, old).await;
    assert!(verify(&db, &both, &settings()).await.is_clean());
    execute(&mut conn, &format!("update member_key set kind = 2 where key_version = {old} and member_id = 1003")).await;
    let report = verify(&db, &both, &VerifySettings { repair: true, ..settings() }).await;
    assert_eq!(report.differences().map(|found| found.kind).collect::<Vec<_>>(), [Kind::Altered]);
    assert!(report.is_clean(), "{}", report.render());

    file.drop_blind(old).unwrap();
    let one = Arc::new(Secrets::new(&file, StdRng::seed_from_u64(9)));
    // A login's own key is of the old version still, until `keys rotate` has written it again.
    execute(&mut conn, "delete from member_key k using member_auth a where k.member_id = a.member_id and k.kind = 4")
        .await;
    execute(&mut conn, "delete from member_auth").await;
    let report = verify(&db, &one, &VerifySettings { repair: true, ..settings() }).await;
    assert!(report.differences().all(|found| found.kind == Kind::Extra && found.columns == ["key_version"]));
    assert!(report.is_clean(), "{}", report.render());
    let left: i64 = value(&mut conn, "select count(*) from member_key").await;
    assert_eq!(left, (keys - 20) / 2, "of each member with a key of the old version one of the new");
}

#[tokio::test]
async fn a_month_that_is_being_retired_is_passed_over() {
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    // As expiry does it: the fence, then the index rows and counts of some coupons.
    execute(&mut conn, "alter table coupon_m2026_10 add constraint coupon_m2026_10_fence check (false) not valid")
        .await;
    execute(
        &mut conn,
        "with gone as (delete from coupon_index i using coupon_m2026_10 c where i.rule_id = c.rule_id
             and i.code_id = c.code_id and c.code_id % 2 = 0 returning i.rule_id, i.state)
         update coupon_stock s set retired = retired + g.n
         from (select rule_id, count(*) as n from gone where state <> 3 group by rule_id) g
         where g.rule_id = s.rule_id and s.period = 0 and s.store_no = 0",
    )
    .await;
    let report = verify(&db, &secrets, &VerifySettings { repair: true, ..settings() }).await;
    assert_eq!(lines(&report), Vec::<String>::new());
    assert_eq!(report.skipped, ["coupon_m2026_10"]);
    assert!(report.pairs.iter().any(|pair| pair.rows_skipped > 0));
    assert!(report.render().contains("not compared, being retired: coupon_m2026_10"));
    // Once it is gone there is nothing to say of it.
    let gone = "alter table coupon_m2026_10 rename to coupon_m2026_10_retired;
        alter table coupon detach partition coupon_m2026_10_retired";
    execute(&mut conn, gone).await;
    assert_eq!(verify(&db, &secrets, &settings()).await.skipped, Vec::<String>::new());
}

#[tokio::test]
async fn a_pair_with_too_many_differences_is_left_alone() {
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    execute(&mut conn, "delete from coupon_history_index").await;
    let few = VerifySettings { repair: true, differences_max: 20, jobs: 3, ..settings() };
    let report = verify(&db, &secrets, &few).await;
    let pair = report.pairs.iter().find(|pair| pair.cut_short).unwrap();
    assert_eq!((pair.differences.len(), pair.left()), (20, 20));
    assert!(!report.is_clean());
    assert_eq!(value::<i64>(&mut conn, "select count(*) from coupon_history_index").await, 0);
    let report = verify(&db, &secrets, &VerifySettings { repair: true, ..settings() }).await;
    assert!(report.is_clean(), "{}", report.render());
}

#[tokio::test]
async fn a_row_that_both_ways_come_upon_counts_once() {
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    let spoil = "update coupon_index set state = 3 where state = 1 and code_id in (
        select code_id from coupon where state = 1 order by code_id limit 30)";
    execute(&mut conn, spoil).await;
    for jobs in [1, 3] {
        let some = VerifySettings { differences_max: 40, jobs, ..settings() };
        let report = verify(&db, &secrets, &some).await;
        let pair = report.pairs.iter().find(|pair| pair.name == "coupon / coupon_index").unwrap();
        assert_eq!(pair.differences.len(), 30, "{}", report.render());
        assert!(report.pairs.iter().all(|pair| !pair.cut_short), "{}", report.render());
    }
    let report = verify(&db, &secrets, &VerifySettings { repair: true, differences_max: 40, ..settings() }).await;
    assert!(report.is_clean(), "{}", report.render());
}

#[tokio::test]
async fn only_the_pairs_of_the_tables_asked_for_are_compared() {
    let (_, secrets) = secrets(7);
    let (db, _conn) = filled(&secrets).await;
    let some = VerifySettings { tables: vec!["member_rule".to_owned(), "redemption".to_owned()], ..settings() };
    let report = verify(&db, &secrets, &some).await;
    let names: Vec<&str> = report.pairs.iter().map(|pair| pair.name).collect();
    assert_eq!(
        names,
        [
            "coupon / redemption",
            "coupon, redemption / coupon_stock by day, store and money",
            "coupon_receive / member_rule",
            "redemption_conflict / redemption"
        ]
    );
    let unknown = VerifySettings { tables: vec!["voucher".to_owned()], ..settings() };
    let error = run(&unknown, db.options().clone(), secrets, |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "no pair of tables has voucher");
}

#[tokio::test]
async fn conflicts_of_a_busy_till_are_not_each_held_against_all_that_it_sold() {
    const EACH: i64 = 500;
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    let sold = format!(
        "insert into redemption (redemption_id, code_id, rule_id, recorded_at, amount, discount, rule_version, store_no,
             kind, order_ref, register, sequence)
         select {uses} + n, {codes} + n, 101, now(), 1, 1, 1, 7, 1, 'o', '1', n from generate_series(1, {EACH}) n;
         insert into redemption_conflict (conflict_id, recorded_at, redeemed_at, amount, code_id, business_date,
             store_no, sequence, register, order_ref, reason)
         select {uses} + 100000 + n, now(), now(), 1, {codes} + 100000 + n, '2026-11-22', 7, n, '1', 'o', 'coupon_void'
         from generate_series(1, {EACH}) n",
        uses = used(700_000),
        codes = code(0) + 700_000,
    );
    execute(&mut conn, &sold).await;
    let conflicts = VerifySettings { tables: vec!["redemption_conflict".to_owned()], ..settings() };
    let read = "select coalesce(sum(idx_scan), 0)::bigint from pg_stat_user_tables where relname ~ '^redemption_m'";
    let before: i64 = value(&mut conn, read).await;
    assert!(verify(&db, &secrets, &conflicts).await.is_clean());
    let mut looks = 0;
    // The connection of the comparison tells what it read when it ends.
    while value::<i64>(&mut conn, read).await <= before {
        looks += 1;
        assert!(looks < 400, "the leaves were not looked at");
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    let rows: i64 = value(&mut conn, &read.replace("idx_scan", "idx_tup_fetch")).await;
    assert!(rows < EACH, "{rows} rows were read for {EACH} conflicts");
}

/// Issues, redeems and reverses as the lane does, each in one transaction, until told to stop.
async fn till(options: PgConnectOptions, number: i64, stop: &std::sync::atomic::AtomicBool) -> i64 {
    let mut conn = options.connect().await.unwrap();
    let mut done = 0;
    while done < SALES_MAX && !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let n = 1_000_000 * (number + 1) + done;
        let (code, member, rule) = (DAY << 41 | n, 1_000 + n % 50, 100 + n % 7);
        execute(
            &mut conn,
            &format!(
                "begin;
                 insert into member_rule (member_id, rule_id) values ({member}, {rule}) on conflict do nothing;
                 select from member_rule where (member_id, rule_id) = ({member}, {rule}) for update;
                 select from coupon_stock where rule_id = {rule} for update;
                 insert into coupon (code_id, rule_id, issued_at, valid_from, valid_until, member_id, rule_version)
                     values ({code}, {rule}, now(), now(), 'infinity', {member}, 1);
                 insert into coupon_receive values ({member}, {code}, {rule}, 'infinity', 1);
                 insert into coupon_index values ({rule}, {code}, 'infinity', {member}, 1, null);
                 update member_rule set taken = taken + 1 where (member_id, rule_id) = ({member}, {rule});
                 update coupon_stock set issued = issued + 1 where (rule_id, period, store_no) = ({rule}, 0, 0);
                 commit;
                 begin;
                 select from coupon where code_id = {code} for update;
                 update coupon set state = 2, uses = 1, redemption_id = {code}, redeemed_at = now(),
                     redeemed_store_no = 1, order_ref = 'o' where code_id = {code};
                 update coupon_receive set state = 2 where (member_id, code_id) = ({member}, {code});
                 update coupon_index set state = 2 where (rule_id, code_id) = ({rule}, {code});
                 insert into redemption (redemption_id, code_id, rule_id, recorded_at, amount, discount, rule_version,
                     store_no, kind, order_ref) values ({code}, {code}, {rule}, now(), 1, 1, 1, 1, 1, 'o');
                 commit"
            ),
        )
        .await;
        done += 1;
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_tills_run_only_what_was_planted_is_named_and_mended() {
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    let settings = || VerifySettings { chunk_rows: 500, ..settings() };
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let tills: Vec<_> = (0..4)
        .map(|number| {
            let (options, stop) = (db.options().clone(), stop.clone());
            tokio::spawn(async move { till(options, number, &stop).await })
        })
        .collect();
    for round in 0..2 {
        let report = verify(&db, &secrets, &settings()).await;
        assert_eq!(lines(&report), Vec::<String>::new(), "round {round}");
        let half = VerifySettings { sample: Some("50%".parse().unwrap()), seed: Some(round), ..settings() };
        assert_eq!(lines(&verify(&db, &secrets, &half).await), Vec::<String>::new(), "round {round}");
        // Hot rows: the count of a rule that is being issued, an index row, a coupon's uses.
        execute(&mut conn, "update coupon_stock set issued = issued + 7 where rule_id = 101").await;
        execute(&mut conn, &format!("delete from coupon_receive where code_id = {}", code(1))).await;
        execute(&mut conn, &format!("update coupon set uses = 0 where code_id = {}", code(5))).await;
        let expected = [
            format!("altered coupon ({}): uses", code(5)),
            "altered coupon_stock (101,0,0): issued, voided".to_owned(),
            "altered member_rule (1001,101): taken".to_owned(),
            format!("missing coupon_receive (1001,{})", code(1)),
        ];
        assert_eq!(lines(&verify(&db, &secrets, &settings()).await), expected, "round {round}");
        let repaired = verify(&db, &secrets, &VerifySettings { repair: true, ..settings() }).await;
        assert!(repaired.is_clean(), "round {round}: {}", repaired.render());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut done = 0;
    for till in tills {
        done += till.await.unwrap();
    }
    assert!(done > 0);
    let report = verify(&db, &secrets, &settings()).await;
    assert!(report.is_clean(), "after {done} sales: {}", report.render());
    let whole: bool = value(
        &mut conn,
        "select bool_and(s.issued - s.voided = (select count(*) from coupon c where c.rule_id = s.rule_id and c.state <> 3))
         from coupon_stock s where s.period = 0 and s.store_no = 0",
    )
    .await;
    assert!(whole);
}

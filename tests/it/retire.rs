//! Months of coupons that are put away, and months of the past that are made: with the real command, beside servers that
//! sell, killed at any step.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{Datelike, Months, NaiveDate};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tessera::clock::{Clock, Zone};
use tokio::process::{Child, Command};

use crate::support::{
    Pair, Server, TestApp, TestDb,
    command::{said, tessera},
    scaled,
    server::{Client, Keys, Response, fresh_number},
};

const SOON: Duration = Duration::from_secs(60);

fn today() -> NaiveDate {
    Zone::DEFAULT.day_of(Clock::system().now()).to_date()
}

/// A month that is long over, as its first day.
fn old_month() -> NaiveDate {
    today().with_day(1).unwrap() - Months::new(20)
}

fn leaf_of(month: NaiveDate) -> String {
    format!("coupon_m{}", month.format("%Y_%m"))
}

/// `tessera ARGS` with more variables of the environment, not waited for.
fn start(db: &TestDb, args: &[&str], more: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tessera"))
        .args(args)
        .env("DATABASE_URL", db.service_url())
        .env("TESSERA_OWNER_URL", db.owner_url())
        .env("TESSERA_SECRETS_FILE", db.secrets_path())
        .env("TESSERA_LOG", "error")
        .envs(more.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn make(db: &TestDb, month: NaiveDate) {
    let (from, until) = (month.to_string(), (month + Months::new(1)).to_string());
    let made = tessera(db, &["partitions", "make", "--from", &from, "--until", &until, "--tables", "coupon"]).await;
    assert!(made.status.success() && said(&made).contains(&format!("made {}", leaf_of(month))), "{}", said(&made));
}

async fn assert_verified(db: &TestDb) {
    let verified = tessera(db, &["verify"]).await;
    assert!(verified.status.success(), "{}", said(&verified));
}

async fn issue_on(api: &Client, rule: &str, day: NaiveDate, mut body: Value) -> Response {
    body["issued_on"] = json!(day);
    let path = format!("/v1/coupon-rules/{rule}/coupons");
    api.post_numbered(&path, &api.keys.admin, &fresh_number(), body).await
}

fn codes(issued: &Response) -> Vec<String> {
    let items = issued.json["coupons"].as_array().unwrap();
    items.iter().map(|item| item["code"].as_str().unwrap().to_owned()).collect()
}

async fn act(api: &Client, code: &str, what: &str, mut body: Value) -> Response {
    let (path, number) = (format!("/v1/coupons/{code}/{what}"), fresh_number());
    if what != "void" {
        body["store_id"] = json!("S0001");
    }
    api.post_numbered(&path, &api.keys.admin, &number, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_whose_coupons_have_all_ended_is_put_away_and_says_so_ever_after() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let month = old_month();
    let (leaf, named) = (leaf_of(month), month.format("%Y-%m").to_string());
    make(db, month).await;
    let day = month + chrono::TimeDelta::days(9);
    let member = api.member("+8613800000001").await;
    let short = api.rule(json!({"per_member": 100, "stock": 1000})).await;
    let ever = json!({"validity": {"until": "2088-01-01T00:00:00Z"}, "threshold": 0});
    let long = api.rule(ever).await;
    let held = codes(&issue_on(api, &short, day, json!({"member_id": member, "count": 6})).await.expect(201));
    issue_on(api, &short, day, json!({"count": 4, "referrer": "E1"})).await.expect(201);
    let lasting = codes(&issue_on(api, &long, day, json!({"member_id": member, "count": 2})).await.expect(201));
    api.issue(&short, json!({"member_id": member, "count": 3})).await;
    let seen = api.get(&format!("/v1/coupons/{}", held[0]), &api.keys.pos).await.expect(200);
    assert_eq!(seen.json["state"], "expired");
    assert_eq!(
        seen.json["valid_from"],
        Zone::DEFAULT.start_of(day.into()).to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    );
    let used = api.redeem(&lasting[0]).await.expect(200);
    let redemption = used.json["redemption_id"].as_str().unwrap().to_owned();
    assert_verified(db).await;

    let retire = ["retire", "--month", named.as_str()];
    let asked = tessera(db, &["retire", "--month", &named, "--dry-run"]).await;
    assert!(said(&asked).contains("has 12 coupons; stays: 1 coupons can still be used"), "{}", said(&asked));
    let refused = tessera(db, &retire).await;
    assert!(!refused.status.success() && said(&refused).contains("stays: 1 coupons"), "{}", said(&refused));
    // It stays as it was: tills write.
    act(api, &lasting[1], "void", json!({"reason": "test"})).await.expect(200);

    let asked = tessera(db, &["retire", "--month", &named, "--dry-run"]).await;
    assert!(asked.status.success() && said(&asked).contains("can be put away"), "{}", said(&asked));
    assert_eq!(db.count(&format!("select count(*) from {leaf}")).await, 12);
    let done = tessera(db, &retire).await;
    assert!(done.status.success(), "{}", said(&done));
    assert!(said(&done).contains("12 coupons, and their rows by member (8), by rule (12)"), "{}", said(&done));
    assert_verified(db).await;
    let again = tessera(db, &retire).await;
    assert!(again.status.success() && said(&again).contains("was put away before"), "{}", said(&again));

    assert_eq!(db.count(&format!("select count(*) from {leaf}_retired")).await, 12, "the rows are kept");
    let kept = format!("select issued - voided - retired from coupon_stock where rule_id = {short} and period = 0");
    assert_eq!(db.count(&kept).await, 3);
    let counted =
        format!("select (taken - retired)::bigint from member_rule where rule_id = {short} and member_id = {member}");
    assert_eq!(db.count(&counted).await, 3);
    // Every operation says what became of it, and a stranger of the month is a stranger no more.
    let sale = json!({"order_ref": "S0001-1", "amount": 8000});
    for (what, body) in [
        ("redeem", sale.clone()),
        ("lock", json!({"order_ref": "S0001-1", "ttl_secs": 60})),
        ("reverse", json!({"redemption_id": redemption})),
        ("void", json!({"reason": "test"})),
    ] {
        let refused = act(api, &lasting[0], what, body).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (410, "coupon_retired"), "{what}: {}", refused.text);
    }
    let seen = api.get(&format!("/v1/coupons/{}", held[0]), &api.keys.pos).await.expect(410);
    assert_eq!(seen.code(), "coupon_retired");
    // The ledger stays.
    let row = api.get(&format!("/v1/redemptions/{redemption}"), &api.keys.ops).await.expect(200);
    assert_eq!(row.json["code"], json!(lasting[0]));
    let listed = api.get(&format!("/v1/coupon-rules/{short}/coupons"), &api.keys.ops).await.expect(200);
    assert_eq!(listed.json["items"].as_array().unwrap().len(), 3);
    let listed = api.get(&format!("/v1/members/{member}/coupons"), &api.keys.ops).await.expect(200);
    assert_eq!(listed.json["items"].as_array().unwrap().len(), 3);
    // Nothing is issued into it, nor into a month that never was.
    let refused = issue_on(api, &long, day, json!({})).await.expect(409);
    assert_eq!(refused.code(), "month_retired");
    let refused = issue_on(api, &long, day - Months::new(1), json!({})).await.expect(422);
    assert_eq!(refused.code(), "issue_day_unavailable");
    let open = today().format("%Y-%m").to_string();
    let refused = tessera(db, &["retire", "--month", &open]).await;
    assert!(!refused.status.success() && said(&refused).contains("still issued"), "{}", said(&refused));
    let refused = tessera(db, &["retire", "--month", "2003-01"]).await;
    assert!(!refused.status.success() && said(&refused).contains("there is no coupon_m2003_01"), "{}", said(&refused));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_processes_puts_a_month_away_beside_tills_that_want_its_coupons() {
    let pair = Pair::spawn(&[]).await;
    let (db, [one, other]) = (&pair.db, pair.clients());
    let month = old_month();
    let named = month.format("%Y-%m").to_string();
    make(db, month).await;
    let old = one.rule(json!({"stock": 100_000})).await;
    let member = one.member("+8613800000001").await;
    let mut wanted = Vec::new();
    for _ in 0..3 {
        let body = json!({"member_id": member, "count": 100});
        wanted.extend(codes(&issue_on(one, &old, month, body).await.expect(201)));
    }
    let now = one.rule(json!({"stock": 100_000})).await;
    let (gone, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let tills: Vec<_> = [one, other]
        .into_iter()
        .flat_map(|api| (0..4).map(move |till| (api.clone(), till)))
        .map(|(api, till)| {
            let (wanted, now, member) = (wanted.clone(), now.clone(), member.clone());
            let (gone, begun) = (Arc::clone(&gone), Arc::clone(&begun));
            tokio::spawn(async move {
                let mut answers = [0_usize; 2];
                for code in wanted.iter().cycle().skip(till * 5).step_by(7) {
                    let fresh = api.issue(&now, json!({"member_id": member})).await;
                    api.redeem(&fresh[0]).await.expect(200);
                    // The last months' coupons are void now, gone, or void already.
                    let answer = act(&api, code, "void", json!({"reason": "test"})).await;
                    match (answer.status.as_u16(), answer.code()) {
                        (200, _) | (409, "coupon_void") => answers[0] += 1,
                        (410, "coupon_retired") => answers[1] += 1,
                        _ => panic!("{}", answer.text),
                    }
                    begun.fetch_add(1, Ordering::Relaxed);
                    if gone.load(Ordering::Relaxed) {
                        break;
                    }
                }
                answers
            })
        })
        .collect();
    let deadline = tokio::time::Instant::now() + SOON;
    while begun.load(Ordering::Relaxed) < 8 {
        assert!(tokio::time::Instant::now() < deadline, "the tills did not begin");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let slow = ["retire", "--month", &named, "--batch-rows", "10", "--pause-ms", "5"];
    let (first, second) = tokio::join!(tessera(db, &slow), tessera(db, &slow));
    let told = [said(&first), said(&second)];
    assert!(first.status.success() && second.status.success(), "{told:?}");
    assert_eq!(told.iter().filter(|text| text.contains("is put away")).count(), 1, "{told:?}");
    assert_eq!(told.iter().filter(|text| text.contains("was put away before")).count(), 1, "{told:?}");
    gone.store(true, Ordering::Relaxed);
    let mut heard = [0, 0];
    for till in tills {
        let answers = till.await.unwrap();
        heard = [heard[0] + answers[0], heard[1] + answers[1]];
    }
    assert!(heard.iter().all(|answers| *answers > 0), "{heard:?}: the tills came before the fence or after it only");
    // Some met the fence itself, and were decided again.
    let mut retries = false;
    for api in [one, other] {
        let metrics = api.send(api.raw(reqwest::Method::GET, "/metrics")).await.expect(200).text;
        retries |= metrics.contains("tessera_lane_retries_total{writer=\"coupon\"}");
    }
    assert!(retries, "nobody met the fence: nothing was tested");
    // Whoever comes now meets a month that is gone.
    let late = act(other, &wanted[0], "void", json!({"reason": "test"})).await;
    assert_eq!((late.status.as_u16(), late.code()), (410, "coupon_retired"));
    assert_eq!(db.count(&format!("select count(*) from coupon_index where rule_id = {old}")).await, 0);
    assert_eq!(
        db.count(&format!("select issued - voided - retired from coupon_stock where rule_id = {old}")).await,
        0,
        "what was made void was given back, and the rest moved"
    );
    assert_verified(db).await;
}

/// Waits for a condition that SQL knows.
async fn until(db: &TestDb, what: &str) {
    let deadline = tokio::time::Instant::now() + SOON;
    let mut conn = db.sql().await;
    while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(what.to_owned())).fetch_one(&mut conn).await.unwrap() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the backend of a killed process is gone, and its lock with it.
async fn until_nobody_works(db: &TestDb) {
    until(
        db,
        "select not exists (select from pg_stat_activity where application_name = 'tessera upkeep'
             and datname = current_database())",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retirement_killed_at_any_step_goes_on_where_it_was() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let month = old_month();
    let (leaf, named) = (leaf_of(month), month.format("%Y-%m").to_string());
    make(db, month).await;
    let member = api.member("+8613800000001").await;
    let rule = api.rule(json!({"stock": 100_000})).await;
    let walks = scaled(2, 18);
    let coupons = walks as i64 * 100 + 100;
    for _ in 0..coupons / 100 {
        issue_on(api, &rule, month, json!({"member_id": member, "count": 100})).await.expect(201);
    }
    let left = format!("(select count(*) from coupon_index where rule_id = {rule})");
    let retire = ["retire", "--month", named.as_str(), "--batch-rows", "7", "--pause-ms", "2"];
    for walk in 1..=walks as i64 {
        let mut process = start(db, &retire, &[]);
        until(db, &format!("select {left} < {}", coupons - walk * 80)).await;
        process.kill().await.unwrap();
        until_nobody_works(db).await;
        assert_verified(db).await;
        // Nothing was moved that was not deleted, and the other way round.
        let moved = format!(
            "select issued - voided - retired - {left} from coupon_stock where rule_id = {rule} and period = 0"
        );
        assert_eq!(db.count(&moved).await, 0, "walk {walk}");
        assert!(db.count(&format!("select {left}")).await > 0, "it came to its end: nothing was tested");
    }
    // Renamed, and waiting for one who may still see it.
    let mut reader = db.sql().await;
    sqlx::raw_sql("begin isolation level repeatable read; lock table only coupon in access share mode; select count(*) from setting")
        .execute(&mut reader)
        .await
        .unwrap();
    let mut process = start(db, &retire, &[]);
    until(db, &format!("select to_regclass('{leaf}_retired') is not null")).await;
    process.kill().await.unwrap();
    sqlx::raw_sql("commit").execute(&mut reader).await.unwrap();
    until_nobody_works(db).await;
    assert_verified(db).await;
    let done = tessera(db, &retire).await;
    assert!(done.status.success(), "{}", said(&done));
    assert_verified(db).await;
    assert_eq!(db.count(&format!("select {left}")).await, 0);
    assert_eq!(
        db.count(&format!("select retired from coupon_stock where rule_id = {rule} and period = 0")).await,
        coupons
    );
    assert_eq!(db.count(&format!("select retired::bigint from member_rule where rule_id = {rule}")).await, coupons);
    assert_eq!(db.count("select count(*) from pg_inherits where inhdetachpending").await, 0);
    let attached = format!("select count(*) from pg_inherits where inhrelid = '{leaf}_retired'::regclass");
    assert_eq!(db.count(&attached).await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_planted_in_a_month_that_is_put_away_is_passed_over_and_what_is_planted_beside_it_is_not() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let month = old_month();
    let leaf = leaf_of(month);
    make(db, month).await;
    let rule = api.rule(json!({})).await;
    issue_on(api, &rule, month, json!({"count": 20})).await.expect(201);
    let fresh = api.rule(json!({})).await;
    api.issue(&fresh, json!({"count": 5})).await;
    let mut sql = db.sql().await;
    let fence = format!("alter table {leaf} add constraint {leaf}_fence check (false) not valid");
    sqlx::raw_sql(AssertSqlSafe(fence)).execute(&mut sql).await.unwrap();
    let plant = |rule: &str| {
        format!(
            "update coupon_index set state = 3 where code_id = (select min(code_id) from coupon_index where rule_id = {rule})"
        )
    };
    // The counts follow the index rows, whatever the month.
    let count = format!("update coupon_stock set voided = voided + 1 where rule_id = {rule}");
    for planted in [plant(&rule), count] {
        sqlx::raw_sql(AssertSqlSafe(planted)).execute(&mut sql).await.unwrap();
    }
    assert_verified(db).await;
    sqlx::raw_sql(AssertSqlSafe(plant(&fresh))).execute(&mut sql).await.unwrap();
    let verified = tessera(db, &["verify"]).await;
    assert!(!verified.status.success() && said(&verified).contains("altered coupon_index"), "{}", said(&verified));
    let mended = tessera(db, &["verify", "--repair"]).await;
    assert!(mended.status.success(), "{}", said(&mended));
    // A month that is gone altogether, from between others: its ledger speaks of coupons that nobody has.
    let early = month - Months::new(2);
    make(db, early).await;
    let ever = api.rule(json!({"validity": {"until": "2088-01-01T00:00:00Z"}})).await;
    let used = codes(&issue_on(api, &ever, early, json!({})).await.expect(201));
    api.redeem(&used[0]).await.expect(200);
    let named = early.format("%Y-%m").to_string();
    let done = tessera(db, &["retire", "--month", &named]).await;
    assert!(done.status.success(), "{}", said(&done));
    make(db, early - Months::new(1)).await;
    sqlx::raw_sql(AssertSqlSafe(format!("drop table {}_retired", leaf_of(early)))).execute(&mut sql).await.unwrap();
    assert_verified(db).await;
    let gone = api.get(&format!("/v1/coupons/{}", used[0]), &api.keys.pos).await.expect(404);
    assert_eq!(gone.code(), "coupon_not_found", "nothing is left that could tell");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_year_long_ago_is_made_and_lived_in_and_kept() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let kept = [("TESSERA_RETAIN", "coupon=none,redemption=none,request=none"), ("TESSERA_REQUEST_DAYS_BACK", "5000")];
    let run = async |args: &[&str], more: &[(&str, &str)]| {
        let output = start(&db, args, more).wait_with_output().await.unwrap();
        (output.status.success(), said(&output))
    };
    // Numbers that are accepted for longer than they are kept could be used twice.
    let (served, told) = run(&["serve", "--listen", "127.0.0.1:0"], &kept[1..]).await;
    assert!(!served && told.contains("--retain request=none"), "{told}");
    let make =
        ["partitions", "make", "--from", "2017-03", "--until", "2017-05", "--tables", "coupon,redemption,request"];
    let (made, told) = run(&make, &[]).await;
    assert!(made && told.contains("request is kept for 37 days: none was made before"), "{told}");
    assert!(told.contains("what is put there is retired by the next upkeep"), "{told}");
    let (made, told) = run(&make, &kept).await;
    assert!(made && told.contains("made request_d2017_03_01") && !told.contains("kept for"), "{told}");
    assert!(told.contains("61 leaves made"), "{told}");

    let server = Server::spawn(&db, &keys, &kept).await;
    let api = &server.client;
    let rule = api.rule(json!({"validity": {"until": "2088-01-01T00:00:00Z"}, "uses": 2})).await;
    let short = api.rule(json!({"validity": {"days_after_issue": 30}})).await;
    let day: NaiveDate = "2017-03-10".parse().unwrap();
    let lasting = codes(&issue_on(api, &rule, day, json!({"count": 2})).await.expect(201));
    let over = issue_on(api, &short, day, json!({})).await.expect(201);
    assert_eq!(
        over.json["coupons"][0]["valid_until"], "2017-04-09T16:00:00.000Z",
        "valid from the day of its issue on"
    );
    assert_eq!(over.json["coupons"][0]["state"], "expired");
    let sale = json!({"store_id": "S0001", "register": "2", "business_date": "2017-03-20", "sequence": 1, "order_ref": "A",
                      "amount": 8000});
    let path = format!("/v1/coupons/{}/redeem", lasting[0]);
    let used = api.post(&path, &api.keys.pos, sale.clone()).await.expect(200);
    let again = api.post(&path, &api.keys.pos, sale).await.expect(200);
    assert_eq!((again.header("idempotency-replayed"), &again.json), (Some("true"), &used.json));
    assert_eq!(db.count("select count(*) from coupon_m2017_03").await, 3);
    assert_eq!(db.count("select count(*) from redemption_m2017_03").await, 1);
    assert_eq!(db.count("select count(*) from request_d2017_03_20").await, 1);
    // The ledger has no such month, and says so.
    let sale = json!({"store_id": "S0001", "business_date": "2017-06-20", "order_ref": "A", "amount": 8000});
    let number = fresh_number();
    let refused = api.post_numbered(&format!("/v1/coupons/{}/redeem", lasting[1]), &api.keys.pos, &number, sale).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (409, "month_retired"), "{}", refused.text);
    // Nor is there a place for numbers of those days.
    let sale = json!({"store_id": "S0001", "register": "2", "business_date": "2017-06-20", "sequence": 2, "order_ref": "A",
                      "amount": 8000});
    let refused = api.post(&format!("/v1/coupons/{}/redeem", lasting[1]), &api.keys.pos, sale).await.expect(422);
    assert_eq!(refused.code(), "request_number_expired");
    // Upkeep takes none of it away, as long as it is kept so.
    let (kept_up, told) = run(&["partitions", "upkeep"], &kept).await;
    assert!(kept_up && !told.contains("put away") && !told.contains("dropped"), "{told}");
    assert_verified(&db).await;
    assert_eq!(db.count("select count(*) from coupon_m2017_03").await, 3);
    // By the plans of everybody it is over: the coupons that can still be used keep their month, the ledger has its time.
    let (kept_up, told) = run(&["partitions", "upkeep"], &[]).await;
    assert!(kept_up && told.contains("coupon_m2017_03 stays: 2 coupons can still be used"), "{told}");
    assert!(
        told.contains("redemption_m2017_03 is put away") && told.contains("request_d2017_03_20 is dropped"),
        "{told}"
    );
    assert_verified(&db).await;
    let path = format!("/v1/coupons/{}/reverse", lasting[0]);
    let body = json!({"store_id": "S0001", "redemption_id": used.json["redemption_id"]});
    let refused = api.post_numbered(&path, &api.keys.pos, &fresh_number(), body).await.expect(404);
    assert_eq!(refused.code(), "redemption_not_found");
}

//! Who did what to members: each change once, in windows and lists that stand still.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Datelike, Days, Months, NaiveTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};
use tessera::{chain::key::Role, clock::Clock, id::Day};

use crate::support::{
    Pair, TestApp, TestDb,
    command::{said, tessera},
    scaled,
    server::{Client, Keys, Response, make_key, make_store, settings},
};

async fn patch(api: &Client, member: &str, key: &str, body: Value) -> Response {
    let patch = api.raw(Method::PATCH, &format!("/v1/members/{member}")).bearer_auth(key);
    api.send(patch.header("if-match", "*").json(&body)).await
}

/// All rows of a list, page by page, with how many pages there were.
async fn all(api: &Client, path: &str, key: &str) -> (Vec<Value>, usize) {
    let (mut rows, mut pages, mut next) = (Vec::new(), 0, String::new());
    let joint = if path.contains('?') { '&' } else { '?' };
    loop {
        let page = api.get(&format!("{path}{next}"), key).await.expect(200);
        rows.extend(page.json["items"].as_array().unwrap().iter().cloned());
        pages += 1;
        match page.json["next_cursor"].as_str() {
            Some(cursor) => next = format!("{joint}cursor={cursor}"),
            None => return (rows, pages),
        }
    }
}

fn ids(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["log_id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_in_the_log_once_however_many_change_at_once() {
    let pair = Arc::new(Pair::spawn(&[]).await);
    let mut members = Vec::new();
    for n in 0..4 {
        members.push(pair.a.client.member(&format!("+861380000000{n}")).await);
    }
    let members = Arc::new(members);
    let (workers, each) = (64, scaled(4, 40));
    let mut tasks = Vec::new();
    for worker in 0..workers {
        let (pair, members) = (Arc::clone(&pair), Arc::clone(&members));
        tasks.push(tokio::spawn(async move {
            let api = pair.clients()[worker % 2];
            for n in 0..each {
                let member = &members[(worker + n) % members.len()];
                // Half of them change nothing, and leave nothing.
                let body = if n % 2 == 0 { json!({"nickname": format!("n{worker}-{n}")}) } else { json!({}) };
                patch(api, member, &pair.keys.ops, body).await.expect(200);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let changes = (workers * each.div_ceil(2)) as i64;
    assert_eq!(pair.db.count("select count(*) from change_log").await, changes);
    assert_eq!(pair.db.count("select count(*) from event where kind = 2").await, changes);
    let unlike = "select count(*) from (select l.member_id, count(*) as rows,
            count(distinct (l.body::jsonb ->> 'version')) as versions, max((l.body::jsonb ->> 'version')::int) as last
        from change_log l group by l.member_id) l join member m using (member_id)
        where l.rows <> m.version - 1 or l.versions <> l.rows or l.last <> m.version";
    assert_eq!(pair.db.count(unlike).await, 0, "a version without its row, or with two");
    assert_eq!(pair.db.count("select count(*) from register_log").await, 4);
    let mut listed = 0;
    for member in members.iter() {
        let path = format!("/v1/members/{member}/changes?limit=7");
        let (rows, _) = all(&pair.b.client, &path, &pair.keys.ops).await;
        let ids = ids(&rows);
        assert!(ids.is_sorted_by(|a, b| a > b), "newest first, none twice");
        listed += rows.len() as i64;
    }
    assert_eq!(listed, changes);
}

/// The first instant of a day.
fn start(day: chrono::NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_window_runs_over_months_and_ends_three_months_back() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let clock = Clock::system();
    let today = clock.now().date_naive();
    let first = today.with_day(1).unwrap();
    let last_month = first.checked_sub_months(Months::new(1)).unwrap();
    let made = tessera(&db, &["partitions", "upkeep", "--from", &last_month.to_string()]).await;
    assert!(made.status.success(), "{}", said(&made));
    // Events of so long ago are not kept: their leaves are made by hand.
    for day in [first.pred_opt().unwrap(), first] {
        let (leaf, from) = (day.format("event_d%Y_%m_%d"), Day::from_date(day));
        let make = format!(
            "create table if not exists {leaf} partition of event for values from ({}) to ({});
             grant select, insert, update, delete on {leaf} to {}",
            from.first_id(),
            from.plus(1).first_id(),
            tessera::db::migrate::role::SERVICE,
        );
        db.sql().await.execute(sqlx::raw_sql(AssertSqlSafe(make))).await.unwrap();
    }
    let app = TestApp::on(&db, keys, settings(), clock.clone()).await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = api.member("+8613800000001").await;
    let set = |at: DateTime<Utc>| clock.set_offset_ms((at - clock.raw_now()).num_milliseconds());
    // The last second of one month, and the first of the next.
    set(start(first) - chrono::TimeDelta::milliseconds(600));
    patch(api, &member, &keys.ops, json!({"nickname": "before"})).await.expect(200);
    set(start(first) + chrono::TimeDelta::milliseconds(1));
    patch(api, &member, &keys.ops, json!({"nickname": "after"})).await.expect(200);
    let leaves = app.db.count("select count(distinct tableoid) from change_log").await;
    assert_eq!(leaves, 2, "each row is in the leaf of its month");
    let path = format!("/v1/members/{member}/changes?limit=1");
    let (rows, pages) = all(api, &path, &keys.ops).await;
    let versions: Vec<&Value> = rows.iter().map(|row| &row["details"]["version"]).collect();
    assert_eq!((versions, pages), (vec![&json!(3), &json!(2)], 2));
    assert!(rows.iter().all(|row| row.get("actor").is_none() && row["what"] == "core"), "{rows:?}");
    // The operator asks by month, and finds each row in its own.
    for (month, version) in [(last_month, 2), (first, 3)] {
        let path = format!("/v1/logs/changes?from={month}");
        let (rows, _) = all(api, &path, &keys.ops).await;
        assert_eq!(rows.len(), 1, "{month}");
        assert_eq!(rows[0]["details"]["version"], version);
        assert_eq!((&rows[0]["actor"], &rows[0]["member_id"]), (&json!("test-ops-2"), &json!(member)));
    }
    // The row of the last day of the month before is in the window of its third month to the day, and not the day after.
    let old = Day::from_date(first.checked_sub_days(chrono::Days::new(1)).unwrap());
    let end = old.to_date().checked_add_months(Months::new(3)).unwrap();
    let shown = async |day: chrono::NaiveDate| {
        set(start(day) + chrono::TimeDelta::hours(23));
        all(api, &path, &keys.ops).await.0.len()
    };
    // Three months before a day that its month lacks is the last day of that month.
    let mut day = end;
    while day.checked_sub_months(Months::new(3)).unwrap() <= old.to_date() {
        assert_eq!(shown(day).await, 2, "{day}");
        day = day.checked_add_days(Days::new(1)).unwrap();
    }
    assert_eq!(shown(day).await, 1, "{day}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_list_finds_what_its_filter_says_and_nothing_else() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let mut sql = app.db.sql().await;
    make_store(&mut sql, "S0002").await;
    let other_till = make_key(&mut sql, Role::Pos, Some("S0002"), 77).await;
    let member = api.member("+8613800000001").await;
    let web = json!({"phone": "+8613800000002", "source": "web", "name": "Lin Xiaoming"});
    api.post("/v1/members", &other_till, web).await.expect(201);
    for (key, body) in [
        (&keys.pos, json!({"nickname": "one"})),
        (&other_till, json!({"name": "Lin Xiaoming"})),
        (&keys.ops, json!({"state": "frozen"})),
        (&keys.ops, json!({"state": "normal"})),
    ] {
        patch(api, &member, key, body).await.expect(200);
    }
    for (path, key, rows) in [
        ("changes", &keys.ops, 4),
        ("changes?store=S0001", &keys.ops, 1),
        ("changes?store=S0002", &keys.admin, 1),
        ("changes?actor=test-ops-2", &keys.ops, 2),
        ("changes?actor=test-ops-2&store=S0001", &keys.ops, 0),
        ("changes?what=core", &keys.ops, 2),
        ("changes?what=state", &keys.ops, 2),
        ("changes?what=erased", &keys.ops, 0),
        ("registrations", &keys.ops, 2),
        ("registrations?source=web", &keys.ops, 1),
        ("registrations?store=S0002", &keys.ops, 1),
        ("registrations?actor=test-pos-0", &keys.ops, 1),
        ("audits", &keys.admin, 0),
    ] {
        let path = format!("/v1/logs/{path}");
        let (found, _) = all(api, &path, key).await;
        assert_eq!(found.len(), rows, "{path}: {found:?}");
        for secret in ["Xiaoming", "13800000001", "13800000002"] {
            assert!(!format!("{found:?}").contains(secret), "{path} tells {secret}");
        }
    }
    let at_store = api.get("/v1/logs/changes?store=S0002", &keys.ops).await.expect(200);
    assert_eq!(at_store.json["items"][0]["store_id"], "S0002");
    assert_eq!(at_store.json["items"][0]["details"]["fields"], json!(["name"]));
    for (query, status, code) in [
        ("store=S9999", 404, "store_not_found"),
        ("from=2026-10-31&until=2026-11-01", 400, "malformed_query"),
        ("from=2026-11-02&until=2026-11-01", 400, "malformed_query"),
        ("what=nothing", 400, "malformed_query"),
        ("from=yesterday", 400, "malformed_query"),
    ] {
        let answer = api.get(&format!("/v1/logs/changes?{query}"), &keys.ops).await.expect(status);
        assert_eq!(answer.code(), code, "{query}");
    }
    api.get("/v1/logs/audits", &keys.ops).await.expect(403);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_stand_still_while_rows_are_added_and_never_read_more_than_so_many() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = api.member("+8613800000001").await;
    for n in 0..10 {
        patch(api, &member, &keys.ops, json!({"nickname": format!("n{n}")})).await.expect(200);
    }
    let (before, _) = all(api, "/v1/logs/changes", &keys.ops).await;
    let (mut seen, mut next) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/logs/changes?limit=3{next}"), &keys.ops).await.expect(200);
        seen.extend(ids(page.json["items"].as_array().unwrap()));
        patch(api, &member, &keys.ops, json!({"nickname": "meanwhile"})).await.expect(200);
        match page.json["next_cursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    let unique: BTreeSet<i64> = seen.iter().copied().collect();
    assert_eq!(unique.len(), seen.len(), "a row came twice");
    assert!(ids(&before).iter().all(|row| unique.contains(row)), "a row was lost");
    // A cursor is of its own list.
    let foreign = api.get(&format!("/v1/logs/changes?what=core{next}"), &keys.ops).await.expect(400);
    assert_eq!(foreign.code(), "malformed_query");

    // One row far below many that do not fit: found after pages that each looked at their share.
    let rows = 25_000;
    let fill = format!(
        "insert into change_log (log_id, member_id, created_at, what, actor, body)
         select max.log_id + n, 1, now(), 1, 'crowd', '{{}}'
         from (select max(log_id) as log_id from change_log) max, generate_series(1, {rows}) n"
    );
    app.db.sql().await.execute(AssertSqlSafe(fill)).await.unwrap();
    let (rare, pages) = all(api, "/v1/logs/changes?actor=test-ops-2", &keys.ops).await;
    assert!(rare.len() >= 14 && pages == 3, "{} rows on {pages} pages", rare.len());
    let (crowd, _) = all(api, "/v1/logs/changes?actor=crowd&limit=200", &keys.ops).await;
    assert_eq!(crowd.len(), rows);
    app.stop().await;
}

//! Issue jobs: whom they reach, what they refuse, and that stock and limits stay exact whatever else runs.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use chrono::Days;
use serde_json::{Value, json};
use sqlx::Executor;
use tessera::{
    clock::{Clock, Zone},
    job::{Kind, file::FileReader, runner::Work, store},
};

use crate::{
    lane::Node,
    support::{
        Pair, Server, TestApp, TestDb,
        coupon_job::{
            act, assert_exact, begin_count, begin_file, begin_import, codes_of, done_at, failed_rows, job_at, jobs_of,
            send_file, until_at,
        },
        job::rows,
        scaled,
        server::{Client, Keys, fresh_number, settings},
    },
};

/// Members in the database itself: phones +8613700000000 and on.
async fn members(api: &Client, count: usize) -> Vec<String> {
    let mut file = "phone\n".to_owned();
    (0..count).for_each(|n| file.push_str(&format!("137{n:08}\n")));
    let job = crate::support::job::begin(api, "", file).await;
    assert_eq!(rows(&crate::support::job::done(api, &job).await).0, count as i64);
    let mut ids = Vec::new();
    for n in [0, count - 1] {
        let body = json!({"phone": format!("+86137{n:08}")});
        let found = api.post("/v1/members/lookup", &api.keys.pos, body).await.expect(200).json;
        ids.push(found["member_id"].as_str().unwrap().to_owned());
    }
    ids
}

fn phones(range: std::ops::Range<usize>) -> String {
    let mut file = "phone\n".to_owned();
    range.for_each(|n| file.push_str(&format!("137{n:08}\n")));
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_looked_at_and_each_row_gets_its_coupons_or_its_reason() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let ids = members(api, 20).await;
    let frozen = format!("/v1/members/{}", ids[1]);
    let patch = api.raw(reqwest::Method::PATCH, &frozen).bearer_auth(&api.keys.ops).header("if-match", "*");
    api.send(patch.json(&json!({"state": "frozen"}))).await.expect(200);
    let rule = api.rule(json!({"per_member": 2, "stock": 30})).await;
    let file = format!(
        "phone,referrer,count\n13700000000,E1001,2\n13700000001,,\n13700000001,,2\n13799999999,,1\n{}\n\
         13700000019,,1\nnobody,,1\n,,1\n13700000002,,0\n13700000003,E 1,1\n13700000004,,1,1\n",
        "13700000005,,1"
    );
    let made = send_file(api, &jobs_of(&rule), file).await.expect(201);
    let preview = &made.json["preview"];
    assert_eq!(made.json["state"], "ready");
    let seen = |name: &str| preview[name].as_i64().unwrap_or(-1);
    assert_eq!((seen("rows"), seen("members"), seen("coupons"), seen("rows_failed")), (11, 3, 6, 7), "{preview}");
    assert_eq!((seen("money_at_risk"), seen("stock_left")), (6_000, 30), "{preview}");
    assert_eq!(preview["warnings"], json!([]));

    let path = made.header("location").unwrap().to_owned();
    act(api, &path, "start").await.expect(200);
    let job = done_at(api, &path).await;
    assert_eq!(rows(&job), (3, 0, 8), "{job}");
    let codes: Vec<(i64, String)> = failed_rows(api, &path).await;
    let codes: Vec<(i64, &str)> = codes.iter().map(|(row, code)| (*row, code.as_str())).collect();
    assert_eq!(
        codes,
        [
            (3, "member_limit_reached"),
            (4, "member_not_found"),
            (6, "member_frozen"),
            (7, "identifier_invalid"),
            (8, "identifier_missing"),
            (9, "value_invalid"),
            (10, "value_invalid"),
            (11, "row_malformed"),
        ]
    );
    // What was issued is like any other coupon, and is listed with its codes.
    let made = codes_of(api, &path).await;
    assert_eq!(made.len(), 4);
    assert_eq!(made.iter().map(|(code, _)| code).collect::<BTreeSet<_>>().len(), 4);
    let coupon = api.get(&format!("/v1/coupons/{}", made[0].0), &api.keys.pos).await.expect(200).json;
    assert_eq!((&coupon["member_id"], &coupon["referrer"]), (&json!(ids[0]), &json!("E1001")));
    api.redeem(&made[0].0).await.expect(200);
    assert_exact(&app.db, 4).await;
    let told = "select sum((body::jsonb ->> 'count')::bigint)::bigint from event where kind = 10";
    assert_eq!(app.db.count(told).await, 4);

    // Roles, other rules, and files that are none.
    let other = api.rule(json!({})).await;
    let wrong = path.replace(&rule, &other);
    assert_eq!(api.get(&wrong, &api.keys.ops).await.expect(404).code(), "job_not_found");
    assert_eq!(api.get(&format!("{path}/codes"), &api.keys.ops).await.expect(403).code(), "role_forbidden");
    for bad in ["", "name\nLin\n", "phone,email\n1,2\n", "phone,shoe\n1,2\n", "phone,phone\n1,2\n"] {
        assert_eq!(send_file(api, &jobs_of(&rule), bad).await.expect(422).code(), "file_invalid", "{bad}");
    }
    let missing = jobs_of("1");
    assert_eq!(send_file(api, &missing, "phone\n").await.expect(404).code(), "rule_not_found");
    let listed = api.get(&jobs_of(&rule), &api.keys.ops).await.expect(200).json;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_beyond_its_stock_waits_to_be_looked_at_and_gives_out_what_there_is() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let discount = json!({"type": "percent_off", "basis_points": 1000});
    let rule = api.rule(json!({"stock": 700, "discount": discount, "budget": 5000})).await;
    let number = fresh_number();
    let path = format!("{}?start=true", jobs_of(&rule));
    let send = |count: usize| api.post_numbered(&path, &api.keys.marketing, &number, json!({ "count": count }));
    let made = send(1000).await.expect(201);
    assert_eq!(made.json["state"], "ready", "{}", made.text);
    assert_eq!(made.json["preview"]["warnings"], json!(["stock_exhausted", "budget_exhausted"]));
    assert_eq!(made.json["preview"]["money_at_risk"], Value::Null);
    // The same number and count is the same job; another count is not.
    let again = send(1000).await.expect(201);
    assert_eq!(again.json["job_id"], made.json["job_id"]);
    assert_eq!(send(999).await.expect(409).code(), "request_number_reused");
    let job = made.header("location").unwrap().to_owned();
    act(api, &job, "start").await.expect(200);
    let ended = done_at(api, &job).await;
    assert_eq!(rows(&ended), (700, 0, 300), "{ended}");
    assert_eq!(failed_rows(api, &job).await, [(701, "stock_exhausted".to_owned())]);
    assert_exact(&app.db, 700).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_paused_pauses_its_jobs() {
    let db = TestDb::new().await;
    let mut settings = settings();
    settings.jobs.job_slice_rows = 50;
    let app = TestApp::on(&db, Keys::make(&db).await, settings, Clock::system()).await;
    let api = &app.client;
    let rule = api.rule(json!({})).await;
    let job = begin_count(api, &rule, 20_000).await;
    until_at(api, &job, |job| job["rows_ok"].as_i64().unwrap() > 0).await;
    let rule_path = format!("/v1/coupon-rules/{rule}");
    act(api, &rule_path, "pause").await.expect(200);
    let paused = until_at(api, &job, |job| job["state"] == "paused").await;
    assert_eq!(paused["error"], "rule_not_active", "{paused}");
    act(api, &rule_path, "resume").await.expect(200);
    let resumed = act(api, &job, "resume").await.expect(200).json;
    assert_eq!((&resumed["state"], resumed["error"].is_null()), (&json!("running"), true));
    act(api, &job, "cancel").await.expect(200);
    let ended = job_at(api, &job).await;
    let made = db.count("select count(*) from coupon").await;
    assert_eq!(ended["rows_ok"].as_i64(), Some(made), "{ended}");
    assert_exact(&db, made).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_issue_as_of_a_day_of_the_past() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let rule = api.rule(json!({"validity": {"days_after_issue": 2}})).await;
    let today = Zone::DEFAULT.day_of(app.clock.now());
    let first = today.first_of_month();
    let on = |day: tessera::id::Day| format!("{}?start=true&issued_on={day}", jobs_of(&rule));
    let body = json!({"count": 3});
    let refused = api.post_numbered(&on(first), &api.keys.marketing, &fresh_number(), body.clone()).await.expect(403);
    assert_eq!(refused.code(), "role_forbidden");
    let tomorrow = tessera::id::Day::from_date(today.to_date() + Days::new(1));
    assert_eq!(
        api.post_numbered(&on(tomorrow), &api.keys.admin, &fresh_number(), body.clone()).await.expect(422).code(),
        "invalid_field"
    );
    let long_ago = "2009-05-01".parse().unwrap();
    let refused = api.post_numbered(&on(long_ago), &api.keys.admin, &fresh_number(), body.clone()).await.expect(422);
    assert_eq!(refused.code(), "issue_day_unavailable");
    let job = api
        .post_numbered(&on(first), &api.keys.admin, &fresh_number(), body)
        .await
        .expect(201)
        .header("location")
        .unwrap()
        .to_owned();
    done_at(api, &job).await;
    let code = &codes_of(api, &job).await[0].0;
    let coupon = api.get(&format!("/v1/coupons/{code}"), &api.keys.pos).await.expect(200).json;
    let start = Zone::DEFAULT.start_of(first);
    let instant = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    assert_eq!(coupon["issued_at"], instant(start));
    assert_eq!(coupon["valid_until"], instant(start + chrono::TimeDelta::days(3)));

    let path = format!("/v1/coupon-rules/{rule}/coupons");
    let single = json!({"count": 1, "issued_on": first.to_string()});
    let refused = api.post_numbered(&path, &api.keys.marketing, &fresh_number(), single.clone()).await.expect(403);
    assert_eq!(refused.code(), "role_forbidden");
    let made = api.post_numbered(&path, &api.keys.admin, &fresh_number(), single).await.expect(201).json;
    assert_eq!(made["coupons"][0]["valid_from"], instant(start));
    let late = json!({"count": 1, "issued_on": "2009-05-01"});
    let refused = api.post_numbered(&path, &api.keys.admin, &fresh_number(), late).await.expect(422);
    assert_eq!(refused.code(), "issue_day_unavailable");
    let days = "select count(distinct code_id >> 41) from coupon";
    assert_eq!(app.db.count(days).await, 1);
    assert_exact(&app.db, 4).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_process_is_killed_goes_on_elsewhere_with_no_coupon_twice() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let more = [("TESSERA_JOB_LEASE", "500ms"), ("TESSERA_JOB_SLICE_ROWS", "20")];
    let (kills, rows_each) = (scaled(3, 20), 4_000);
    let mut working = Server::spawn(&db, &keys, &more).await;
    members(&working.client, 100).await;
    let rule = working.client.rule(json!({"per_member": 1000})).await;
    let count = kills * rows_each;
    let mut file = "phone\n".to_owned();
    (0..count).for_each(|n| file.push_str(&format!("137{:08}\n", n % 100)));
    let job = begin_file(&working.client, &rule, "", file).await;
    let mut seen = 0;
    for _ in 0..kills {
        let next = Server::spawn(&db, &keys, &more).await;
        let moved = until_at(&next.client, &job, |job| job["rows_done"].as_i64().unwrap() > seen).await;
        assert_eq!(moved["state"], "running", "the file is too small for the test: {moved}");
        seen = moved["rows_done"].as_i64().unwrap();
        // SAFETY: kill takes plain numbers; the process is a child that was not waited for.
        unsafe { libc::kill(working.pid() as libc::pid_t, libc::SIGKILL) };
        working.child.wait().await.unwrap();
        working = next;
    }
    let ended = done_at(&working.client, &job).await;
    assert_eq!((ended["state"].as_str(), rows(&ended)), (Some("done"), (count as i64, 0, 0)), "{ended}");
    assert_exact(&db, count as i64).await;
    assert_eq!(
        db.count("select count(*) from member_rule where taken <> (select count(*) from coupon) / 100").await,
        0
    );
    // Every coupon is the job's: its ranges name each once and nothing else.
    assert_eq!(db.count("select sum(coupons)::bigint from job_range").await, count as i64);
    let listed = codes_of(&working.client, &job).await;
    assert!(listed.iter().all(|(_, state)| state == "issued"), "a code without a coupon");
    assert_eq!(listed.iter().map(|(code, _)| code).collect::<BTreeSet<_>>().len(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_on_one_stock_give_out_no_more_than_there_is() {
    let more = [("TESSERA_JOBS_AT_ONCE", "1"), ("TESSERA_JOB_SLICE_ROWS", "130")];
    let pair = Pair::spawn(&more).await;
    let [a, b] = pair.clients();
    let rule = a.rule(json!({"stock": 3_000})).await;
    let (one, other) = tokio::join!(begin_count(a, &rule, 2_000), begin_count(b, &rule, 2_000));
    // Requests take from it meanwhile.
    let claims = async {
        let path = format!("/v1/coupon-rules/{rule}/coupons");
        let mut taken = 0;
        for n in 0..40 {
            let api = [a, b][n % 2];
            let answer = api.post_numbered(&path, &api.keys.marketing, &fresh_number(), json!({"count": 7})).await;
            match answer.status.as_u16() {
                201 => taken += 7,
                _ => assert_eq!(answer.code(), "stock_exhausted", "{}", answer.text),
            }
        }
        taken
    };
    let (one, other, taken) = tokio::join!(done_at(a, &one), done_at(b, &other), claims);
    let (one, other) = (rows(&one), rows(&other));
    assert_eq!(one.0 + other.0 + taken, 3_000, "{one:?} {other:?} {taken}");
    assert_eq!(one.0 + other.0 + one.2 + other.2, 4_000);
    assert_exact(&pair.db, 3_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_members_hold_under_claims_jobs_and_imports_at_once() {
    let pair = Pair::spawn(&[("TESSERA_JOB_SLICE_ROWS", "40")]).await;
    let [a, b] = pair.clients();
    let members = members(a, 60).await;
    let rule = a.rule(json!({"per_member": 5, "claimable": true})).await;
    let shape = json!({"name": "old", "length_min": 8, "length_max": 8, "alphabet": "0123456789"});
    a.post("/v1/legacy-code-shapes", &a.keys.ops, shape).await.expect(201);
    let day = Zone::DEFAULT.day_of(Clock::system().now());
    let mut file = "phone\n".to_owned();
    let mut old = "code,rule_id,issued_on,phone\n".to_owned();
    for n in 0..240 {
        file.push_str(&format!("137{:08}\n", n % 60));
        old.push_str(&format!("{n:08},{rule},{day},137{:08}\n", n % 60));
    }
    // Both nodes know the shape after its time.
    let known = Instant::now() + Duration::from_millis(2_100);
    tokio::time::sleep_until(known.into()).await;
    let (job, import) = tokio::join!(begin_file(a, &rule, "", file), begin_import(b, old));
    let claims = async {
        let path = format!("/v1/coupon-rules/{rule}/claim");
        let mut taken = 0;
        for n in 0..20 {
            let api = [a, b][n % 2];
            let body = json!({"member_id": members[n / 2 % 2]});
            let answer = api.post_numbered(&path, &api.keys.marketing, &fresh_number(), body).await;
            match answer.status.as_u16() {
                201 => taken += 1,
                _ => assert_eq!(answer.code(), "member_limit_reached", "{}", answer.text),
            }
        }
        taken
    };
    let (job, import, taken) = tokio::join!(done_at(a, &job), done_at(b, &import), claims);
    let (job, import) = (rows(&job), rows(&import));
    assert_eq!(job.0 + import.0 + taken, 300, "{job:?} {import:?} {taken}: 60 members take 5 each");
    assert_eq!(pair.db.count("select count(*) from member_rule where taken <> 5").await, 0);
    let known = pair.db.count("select count(*) from coupon_history_index").await;
    assert_eq!(known, import.0, "no claim of a refused row is left");
    assert_exact(&pair.db, 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_and_redemptions_that_race_agree_on_each_coupon() {
    let pair = Pair::spawn(&[("TESSERA_JOB_SLICE_ROWS", "25")]).await;
    let [a, b] = pair.clients();
    let rule = a.rule(json!({"stock": 400})).await;
    let job = begin_count(a, &rule, 400).await;
    assert_eq!(act(a, &job, "undo").await.status.as_u16() / 100, 4, "one that runs, or is done by now");
    done_at(a, &job).await;
    let codes: Vec<String> = codes_of(a, &job).await.into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes.len(), 400);
    let redeem = async {
        let mut tasks = tokio::task::JoinSet::new();
        for (n, part) in codes.chunks(50).enumerate() {
            let (api, part) = ([a, b][n % 2].clone(), part.to_vec());
            tasks.spawn(async move {
                let mut used = 0;
                for code in part.iter().rev().step_by(2) {
                    let answer = api.redeem(code).await;
                    match answer.code() {
                        "" => used += 1,
                        other => assert_eq!(other, "coupon_void", "{}", answer.text),
                    }
                }
                used
            });
        }
        tasks.join_all().await.into_iter().sum::<i64>()
    };
    let undo = async {
        let made = act(b, &job, "undo").await.expect(201);
        let path = made.header("location").unwrap().to_owned();
        (done_at(b, &path).await, path)
    };
    let (used, (undone, path)) = tokio::join!(redeem, undo);
    assert_eq!(rows(&undone), (400 - used, 0, used), "{undone}");
    let failed = failed_rows(b, &path).await;
    assert!(failed.iter().all(|(_, code)| code == "coupon_already_redeemed"), "{failed:?}");
    // Each that failed is the one of that row.
    let states: Vec<String> = codes_of(b, &job).await.into_iter().map(|(_, state)| state).collect();
    for (row, _) in &failed {
        assert_eq!(states[*row as usize - 1], "redeemed", "{row}");
    }
    assert_eq!(states.iter().filter(|state| *state == "void").count() as i64, 400 - used);
    assert_eq!(pair.db.count("select count(*) from redemption").await, used);
    assert_exact(&pair.db, used).await;
    // Asked again it is the same undo, and the stock is there again.
    let again = act(a, &job, "undo").await.expect(201);
    assert_eq!(again.header("location"), Some(path.as_str()));
    let refill = begin_count(a, &rule, (400 - used) as usize).await;
    assert_eq!(rows(&done_at(a, &refill).await).0, 400 - used);
    assert_exact(&pair.db, 400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_job_is_not_stuck_behind_a_large_one() {
    let db = TestDb::new().await;
    let mut settings = settings();
    settings.jobs.jobs_at_once = 1;
    settings.jobs.job_slice_rows = 50;
    let app = TestApp::on(&db, Keys::make(&db).await, settings, Clock::system()).await;
    let api = &app.client;
    members(api, 10).await;
    let rule = api.rule(json!({})).await;
    let large = begin_count(api, &rule, 1_000_000).await;
    until_at(api, &large, |job| job["rows_ok"].as_i64().unwrap() > 0).await;
    let small = begin_file(api, &rule, "", phones(0..10)).await;
    assert_eq!(rows(&done_at(api, &small).await), (10, 0, 0));
    let running = job_at(api, &large).await;
    assert_eq!(running["state"], "running", "{running}");
    act(api, &large, "cancel").await.expect(200);
    // What it made can be taken back like that of any job that has ended.
    let undo = act(api, &large, "undo").await.expect(201).header("location").unwrap().to_owned();
    let undone = done_at(api, &undo).await;
    assert_eq!(Some(rows(&undone).0), job_at(api, &large).await["rows_ok"].as_i64(), "{undone}");
    assert_exact(&db, 10).await;
    app.stop().await;
}

/// Rows that coupons were written in, those that were taken back among them.
async fn written(db: &TestDb, least: i64) -> i64 {
    let started = Instant::now();
    loop {
        let sum = "select coalesce(sum(n_tup_ins), 0)::bigint from pg_stat_user_tables where relname like 'coupon_m%'";
        let rows = db.count(sum).await;
        if rows >= least || started.elapsed() > Duration::from_secs(30) {
            return rows;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_over_an_empty_stock_writes_nothing_more_and_ends() {
    let db = TestDb::new().await;
    let mut settings = settings();
    settings.jobs.job_slice_rows = 50;
    let app = TestApp::on(&db, Keys::make(&db).await, settings, Clock::system()).await;
    let api = &app.client;
    members(api, 300).await;
    let rule = api.rule(json!({"stock": 120})).await;
    // Its preview warns, so it waits for somebody who means it.
    let path = begin_count(api, &rule, 1_000_000).await;
    act(api, &path, "start").await.expect(200);
    let ended = done_at(api, &path).await;
    assert_eq!((ended["state"].as_str(), rows(&ended)), (Some("done"), (120, 0, 999_880)), "{ended}");
    // Rows of a file are refused each with its own reason.
    let mut file = phones(0..300);
    file.push_str("13799999999\n");
    let path = begin_file(api, &rule, "", file).await;
    act(api, &path, "start").await.expect(200);
    let ended = done_at(api, &path).await;
    assert_eq!(rows(&ended), (0, 0, 301), "{ended}");
    assert_eq!(failed_rows(api, &path).await.last().map(|(_, code)| code.as_str()), Some("stock_exhausted"));
    let last = db.count("select count(*) from job_failure where code = 'member_not_found'").await;
    assert_eq!(last, 1);
    assert_eq!(written(&db, 120).await, 120, "a slice was copied and taken back");
    assert_exact(&db, 120).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_month_that_is_put_away_fail_and_the_job_ends() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let rule = api.rule(json!({})).await;
    let shape = json!({"name": "old", "length_min": 8, "length_max": 8, "alphabet": "0123456789"});
    api.post("/v1/legacy-code-shapes", &api.keys.ops, shape).await.expect(201);
    let today = Zone::DEFAULT.day_of(Clock::system().now());
    let issued = begin_count(api, &rule, 7).await;
    assert_eq!(rows(&done_at(api, &issued).await), (7, 0, 0));
    let waiting = api.post_numbered(&jobs_of(&rule), &api.keys.marketing, &fresh_number(), json!({"count": 500})).await;
    let waiting = waiting.expect(201).header("location").unwrap().to_owned();
    let leaf = format!("coupon_{}", today.to_date().format("m%Y_%m"));
    let fence = format!("alter table {leaf} add constraint {leaf}_fence check (false) not valid");
    sqlx::query(sqlx::AssertSqlSafe(fence)).execute(&mut db.sql().await).await.unwrap();
    act(api, &waiting, "start").await.expect(200);
    let ended = done_at(api, &waiting).await;
    assert_eq!((ended["state"].as_str(), rows(&ended)), (Some("done"), (0, 0, 500)), "{ended}");
    assert_eq!(failed_rows(api, &waiting).await, [(1, "month_retired".to_owned())]);
    let import = begin_import(api, format!("code,rule_id,issued_on\n00000001,{rule},{today}\n")).await;
    assert_eq!(rows(&done_at(api, &import).await), (0, 0, 1));
    assert_eq!(failed_rows(api, &import).await, [(1, "month_retired".to_owned())]);
    // Nor is there anything to be taken back in it.
    let undo = act(api, &issued, "undo").await.expect(201).header("location").unwrap().to_owned();
    assert_eq!(rows(&done_at(api, &undo).await), (0, 0, 7));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_month_has_no_partition_waits_for_it() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let rule = api.rule(json!({})).await;
    let made = api.post_numbered(&jobs_of(&rule), &api.keys.marketing, &fresh_number(), json!({"count": 500})).await;
    let job = made.expect(201).header("location").unwrap().to_owned();
    let leaf = format!("coupon_{}", Zone::DEFAULT.day_of(Clock::system().now()).to_date().format("m%Y_%m"));
    let mut sql = db.sql().await;
    let bounds = "select pg_get_expr(relpartbound, oid) from pg_class where relname = $1";
    let bounds: String = sqlx::query_scalar(bounds).bind(&leaf).fetch_one(&mut sql).await.unwrap();
    let mut run = async |text: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut sql).await.unwrap();
    };
    run(format!("alter table coupon detach partition {leaf}; alter table {leaf} rename to put_aside")).await;
    act(api, &job, "start").await.expect(200);
    let paused = until_at(api, &job, |job| job["state"] != "running").await;
    assert_eq!((&paused["state"], &paused["error"]), (&json!("paused"), &json!("issue_day_unavailable")), "{paused}");
    run(format!("alter table put_aside rename to {leaf}; alter table coupon attach partition {leaf} {bounds}")).await;
    act(api, &job, "resume").await.expect(200);
    assert_eq!(rows(&done_at(api, &job).await), (500, 0, 0));
    assert_exact(db, 500).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_asked_for_again_takes_what_came_back_since() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let rule = api.rule(json!({"stock": 10})).await;
    let job = begin_count(api, &rule, 5).await;
    done_at(api, &job).await;
    let codes: Vec<String> = codes_of(api, &job).await.into_iter().map(|(code, _)| code).collect();
    let used = api.redeem(&codes[3]).await.expect(200);
    let undo = async || act(api, &job, "undo").await.expect(201).header("location").unwrap().to_owned();
    let first = undo().await;
    assert_eq!(rows(&done_at(api, &first).await), (4, 0, 1));
    assert_eq!(undo().await, first, "its use stands");
    let body = json!({"store_id": "S0001", "redemption_id": used.json["redemption_id"]});
    let path = format!("/v1/coupons/{}/reverse", codes[3]);
    api.post_numbered(&path, &api.keys.pos, &fresh_number(), body).await.expect(200);
    let second = undo().await;
    assert_ne!(second, first);
    assert_eq!(rows(&done_at(api, &second).await), (1, 4, 0));
    assert_eq!(undo().await, second);
    assert_exact(db, 0).await;
    app.stop().await;
}

/// A slice of a count is read under one version of the rule and written under the next.
#[tokio::test(flavor = "multi_thread")]
async fn coupons_of_a_count_go_by_the_stock_that_the_rule_has_when_they_are_written() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let node = Node::start(db, settings()).await;
    let issue = &node.app.jobs.coupons().issue;
    let write = async |rule: &str, stock: Value| {
        let (path, number) = (jobs_of(rule), fresh_number());
        let made = api.post_numbered(&path, &api.keys.marketing, &number, json!({"count": 20})).await.expect(201);
        let job_id = made.json["job_id"].as_str().unwrap().parse().unwrap();
        let mut conn = db.sql().await;
        let job = store::get_job(&mut conn, Kind::IssueJob, job_id).await.unwrap();
        let mut file = FileReader::new(node.app.office.clone(), db.secrets().into(), job_id, job.bytes);
        let slice = issue.prepare(&job, &mut file, job.checkpoint(), 100).await.unwrap();
        let path = format!("/v1/coupon-rules/{rule}");
        let patch = api.raw(reqwest::Method::PATCH, &path).bearer_auth(&api.keys.marketing).header("if-match", "*");
        api.send(patch.json(&json!({ "stock": stock }))).await.expect(200);
        node.app.desk.rules.forget_all();
        conn.execute("begin").await.unwrap();
        let progress = issue.write(&mut conn, &job, &slice, node.app.clock.now()).await.unwrap();
        conn.execute("commit").await.unwrap();
        let first = progress.failures.first().map(|failure| (failure.ordinal, failure.code.clone()));
        (progress.ok, progress.failed(), first)
    };
    let rule = api.rule(json!({})).await;
    let left = Some((8, "stock_exhausted".to_owned()));
    assert_eq!(write(&rule, json!(7)).await, (7, 13, left));
    let rule = api.rule(json!({"stock": 7})).await;
    assert_eq!(write(&rule, Value::Null).await, (20, 0, None));
    assert_eq!(db.count("select count(*) from coupon").await, 27);
    assert_eq!(db.count("select count(*) from coupon_index").await, 27);
    node.app.stop().await;
    app.stop().await;
}

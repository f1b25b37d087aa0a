//! Jobs: in two processes at once, through kills, paused, cancelled, stopped, and their files when they are old.

use std::time::Duration;

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;
use tessera::{clock::Clock, job::store};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    races::all,
    support::{
        Pair, Server, TestApp, TestDb,
        job::{assert_members, assert_verified, begin, clean, done, job, rows, send, until},
        scaled,
        server::{Keys, settings},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_file_twice_at_once_doubles_nothing() {
    let pair = Pair::spawn(&[("TESSERA_JOBS_AT_ONCE", "1"), ("TESSERA_JOB_SLICE_ROWS", "250")]).await;
    let count = scaled(10_000, 200_000);
    let file = clean(count);
    let jobs = tokio::join!(begin(&pair.a.client, "", file.clone()), begin(&pair.b.client, "", file));
    let (one, other) = tokio::join!(done(&pair.a.client, &jobs.0), done(&pair.b.client, &jobs.1));
    let (one, other) = (rows(&one), rows(&other));
    let count = count as i64;
    assert_eq!((one.0 + other.0, one.1 + other.1, one.2 + other.2), (count, count, 0), "{one:?} {other:?}");
    assert_members(&pair.db, count).await;
    // One event of each job tells how many it brought.
    let told = "select sum((body::jsonb ->> 'members')::bigint)::bigint * 10 + count(*) from event where kind = 5";
    assert_eq!(pair.db.count(told).await, count * 10 + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_process_is_killed_goes_on_elsewhere_with_no_row_twice_and_none_lost() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let more = [("TESSERA_JOB_LEASE", "500ms"), ("TESSERA_JOB_SLICE_ROWS", "20")];
    let (kills, rows_each) = (scaled(3, 20), 4_000);
    let count = kills * rows_each;
    // Every tenth row is refused, and named once.
    let mut file = clean(count);
    file.push_str(&"12,,Lin\n".repeat(count / 10));
    let mut working = Server::spawn(&db, &keys, &more).await;
    let job_id = begin(&working.client, "", file).await;
    let mut seen = 0;
    for _ in 0..kills {
        let next = Server::spawn(&db, &keys, &more).await;
        // Both may work on it; whoever holds it is killed with it in hand.
        let moved = until(&next.client, &job_id, |job| job["rows_done"].as_i64().unwrap() > seen).await;
        assert_eq!(moved["state"], "running", "the file is too small for the test: {moved}");
        seen = moved["rows_done"].as_i64().unwrap();
        let killed = working.pid();
        // SAFETY: kill takes plain numbers; the process is a child that was not waited for.
        unsafe { libc::kill(killed as libc::pid_t, libc::SIGKILL) };
        working.child.wait().await.unwrap();
        working = next;
    }
    let job = done(&working.client, &job_id).await;
    assert_eq!((job["state"].as_str(), rows(&job)), (Some("done"), (count as i64, 0, count as i64 / 10)), "{job}");
    assert_eq!(db.count("select count(*) from job_failure").await, count as i64 / 10);
    assert_members(&db, count as i64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_looked_at_started_paused_resumed_and_cancelled() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let mut settings = settings();
    settings.jobs.jobs_at_once = 1;
    settings.jobs.job_slice_rows = 50;
    let app = TestApp::on(&db, keys, settings, Clock::system()).await;
    let api = &app.client;
    let act = async |job_id: &str, act: &str| {
        let path = format!("/v1/member-imports/{job_id}/{act}");
        api.send(api.raw(Method::POST, &path).bearer_auth(&api.keys.ops)).await
    };
    let large = begin(api, "?start=false&file_name=large.csv", clean(10_000)).await;
    let waiting = job(api, &large).await;
    assert_eq!((waiting["state"].as_str(), rows(&waiting)), (Some("ready"), (0, 0, 0)), "{waiting}");
    let preview = &waiting["preview"];
    assert_eq!(preview["columns"][0], json!({"column": "phone", "taken_for": "identifier phone"}));
    assert!((9_000..11_000).contains(&preview["rows_estimate"].as_i64().unwrap()), "{preview}");
    assert_eq!(act(&large, "pause").await.expect(409).code(), "job_state_forbidden");

    act(&large, "start").await.expect(200);
    act(&large, "start").await.expect(200);
    until(api, &large, |job| job["rows_done"].as_i64().unwrap() > 0).await;
    let paused = act(&large, "pause").await.expect(200).json;
    assert_eq!(paused["state"], "paused");
    // A small one passes it by, and it has not moved.
    let small = begin(api, "", "email\nlin@example.cn\n").await;
    assert_eq!(rows(&done(api, &small).await), (1, 0, 0));
    assert_eq!(job(api, &large).await["rows_done"], paused["rows_done"]);

    act(&large, "resume").await.expect(200);
    // One hand, and the small one does not wait for the large one's end.
    let small = begin(api, "", "email\nmei@example.cn\n").await;
    assert_eq!(rows(&done(api, &small).await), (1, 0, 0));
    let running = job(api, &large).await;
    assert_eq!(running["state"], "running", "{running}");
    assert!(running["rows_done"].as_i64() > paused["rows_done"].as_i64(), "it went on: {running}");

    let cancelled = act(&large, "cancel").await.expect(200).json;
    assert_eq!(cancelled["state"], "cancelled");
    act(&large, "cancel").await.expect(200);
    for refused in ["start", "pause", "resume"] {
        assert_eq!(act(&large, refused).await.expect(409).json["state"], "cancelled");
    }
    let made = cancelled["rows_ok"].as_i64().unwrap();
    assert_eq!(db.count("select count(*) from member").await, made + 2, "what was done stays, and no more came");
    assert_eq!(act("1", "cancel").await.expect(404).code(), "job_not_found");
    let listed = api.get("/v1/member-imports?state=cancelled", &api.keys.ops).await.expect(200).json;
    assert_eq!(listed["items"][0]["file_name"], "large.csv");
    assert_verified(&db).await;
    app.stop().await;
}

/// A server whose jobs go in small slices.
async fn slow(db: &TestDb, keys: &Keys, clock: Clock) -> TestApp {
    let mut settings = settings();
    settings.jobs.job_slice_rows = 20;
    TestApp::on(db, keys.clone(), settings, clock).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_gives_its_jobs_back_and_another_goes_on_at_once() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let app = slow(&db, &keys, Clock::system()).await;
    let job_id = begin(&app.client, "", clean(4_000)).await;
    until(&app.client, &job_id, |job| job["rows_done"].as_i64().unwrap() > 0).await;
    app.stop().await;
    let held = "select count(*) from job where lease_until > clock_timestamp() or lease_holder is not null";
    assert_eq!(db.count(held).await, 0, "its lease of 15 s need not lapse");
    assert_eq!(db.count("select count(*) from job where state = 4").await, 1, "it was too fast for the test");
    let other = TestApp::on(&db, keys, settings(), Clock::system()).await;
    let job = done(&other.client, &job_id).await;
    assert_eq!(rows(&job), (4_000, 0, 0), "{job}");
    assert_members(&db, 4_000).await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_kept_for_seven_days_and_its_failures_longer() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let app = slow(&db, &keys, Clock::system()).await;
    let ended = begin(&app.client, "", "phone\n12\n13800000001\n").await;
    done(&app.client, &ended).await;
    let waits = begin(&app.client, "?start=false", clean(10)).await;
    // An upload that broke off: its sender is gone.
    let broken = "insert into job (job_id, created_at, updated_at, kind, state, created_by, options)
                  values (7, now(), now(), 1, 1, 'key:x', '{}')";
    sqlx::query(broken).execute(&mut db.sql().await).await.unwrap();
    app.stop().await;
    for (days, chunks) in [(6, 2), (8, 0)] {
        let clock = Clock::system();
        clock.set_offset_ms(TimeDelta::days(days).num_milliseconds());
        let app = slow(&db, &keys, clock).await;
        // Files are looked through when a node starts; uploads come first.
        until_count(&db, "select count(*) from job where state = 1", 0).await;
        until_count(&db, "select count(*) from job_chunk", chunks).await;
        let state = if days < 7 { json!("ready") } else { json!("failed") };
        let job = until(&app.client, &waits, |job| job["state"] == state).await;
        assert_eq!(job["error"].is_null(), days < 7, "{job}");
        assert_eq!(db.count("select count(*) from job_failure").await, 1);
        app.stop().await;
    }
    let app = slow(&db, &keys, Clock::system()).await;
    assert_eq!(job(&app.client, &waits).await["error"], "file_expired");
    assert_eq!(rows(&job(&app.client, &ended).await), (1, 0, 1));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_given_up_is_resumed_and_one_whose_file_expired_is_not() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let app = slow(&db, &keys, Clock::system()).await;
    let api = &app.client;
    let resume = async |job_id: &str| {
        let path = format!("/v1/member-imports/{job_id}/resume");
        api.send(api.raw(Method::POST, &path).bearer_auth(&api.keys.ops)).await
    };
    let job_id = begin(api, "?start=false", clean(50)).await;
    let fail = async |error: &str| {
        let fail = format!("update job set state = 9, error = '{error}', attempts = 151, finished_at = now()");
        sqlx::query(sqlx::AssertSqlSafe(fail)).execute(&mut db.sql().await).await.unwrap();
    };
    fail("file_expired").await;
    assert_eq!(resume(&job_id).await.expect(409).code(), "job_state_forbidden");
    fail("gave_up").await;
    resume(&job_id).await.expect(200);
    let job = done(api, &job_id).await;
    assert_eq!((job["state"].as_str(), rows(&job), job["error"].is_null()), (Some("done"), (50, 0, 0), true), "{job}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_lease_lapsed_does_not_fail_a_job_that_another_works_on() {
    let db = TestDb::new().await;
    let insert = "insert into job (job_id, created_at, updated_at, kind, state, created_by, options)
                  values (7, now(), now(), 1, 4, 'key:x', '{}')";
    sqlx::query(insert).execute(&mut db.sql().await).await.unwrap();
    let (mut conn, now) = (db.sql().await, tessera::clock::Clock::system().now());
    let (slow, other) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let job_id = store::lease_job(&mut conn, slow, Duration::ZERO, now).await.unwrap().expect("a job").job_id;
    let taken_over = until_leased(&db, other).await;
    assert_eq!(taken_over, job_id);
    assert!(!store::fail_job(&mut conn, job_id, slow, "gave_up", now).await.unwrap());
    assert_eq!(db.count("select count(*) from job where state = 4").await, 1);
    assert!(store::fail_job(&mut conn, job_id, other, "gave_up", now).await.unwrap());
}

/// Takes over a job whose lease has lapsed.
async fn until_leased(db: &TestDb, holder: uuid::Uuid) -> tessera::id::JobId {
    let mut conn = db.sql().await;
    for _ in 0..400 {
        let leased =
            store::lease_job(&mut conn, holder, Duration::from_secs(15), tessera::clock::Clock::system().now())
                .await
                .unwrap();
        if let Some(job) = leased {
            return job.job_id;
        }
    }
    panic!("no lease lapsed");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_jobs_asked_for_at_once_in_two_processes_as_many_are_made_as_may_be_open() {
    let more = [("TESSERA_JOBS_OPEN_MAX", "3"), ("TESSERA_UPLOADS_AT_ONCE", "64")];
    let pair = Pair::spawn(&more).await;
    for round in 1..=scaled(3, 30) {
        let answers = all(pair.clients(), async |client, _| send(client, "?start=false", clean(1)).await).await;
        let made = answers.iter().filter(|answer| answer.status.is_success()).count();
        assert_eq!(made, 3, "round {round}");
        for refused in answers.iter().filter(|answer| !answer.status.is_success()) {
            assert_eq!((refused.status.as_u16(), refused.code()), (409, "job_limit_reached"), "{}", refused.text);
        }
        let open = "select count(*) from job where state in (1, 3, 4, 5)";
        assert_eq!(pair.db.count(open).await, 3);
        let end = "update job set state = 8, finished_at = now()";
        sqlx::query(end).execute(&mut pair.db.sql().await).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_files_come_in_as_may_at_once_and_the_next_is_asked_to_come_again() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let mut settings = settings();
    settings.jobs.uploads_at_once = 1;
    let app = TestApp::on(&db, keys, settings, Clock::system()).await;
    let api = &app.client;
    // A file that stops coming half-way.
    let file = clean(3);
    let (half, rest) = file.split_at(file.len() / 2);
    let mut sender = TcpStream::connect(api.base.strip_prefix("http://").unwrap()).await.unwrap();
    let head = format!(
        "POST /v1/member-imports HTTP/1.1\r\nhost: tessera\r\nauthorization: Bearer {}\r\ncontent-type: text/csv\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{half}",
        api.keys.ops,
        file.len()
    );
    sender.write_all(head.as_bytes()).await.unwrap();
    until_count(&db, "select count(*) from job where state = 1", 1).await;
    for _ in 0..2 {
        let refused = send(api, "", clean(1)).await.expect(429);
        assert_eq!(
            (refused.code(), refused.header("retry-after")),
            ("too_many_requests", Some("10")),
            "{}",
            refused.text
        );
    }
    assert_eq!(db.count("select count(*) from job").await, 1, "what is refused leaves nothing");
    sender.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    sender.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    // The place is free, also after one whose sender went away.
    let mut gone = TcpStream::connect(api.base.strip_prefix("http://").unwrap()).await.unwrap();
    gone.write_all(head.as_bytes()).await.unwrap();
    until_count(&db, "select count(*) from job where state = 1", 1).await;
    drop(gone);
    let mut sent = send(api, "", clean(3)).await;
    for _ in 0..6000 {
        if sent.status != 429 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        sent = send(api, "", clean(3)).await;
    }
    let job = done(api, sent.expect(201).json["job_id"].as_str().unwrap()).await;
    assert_eq!(rows(&job).2, 0, "{job}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_jobs_are_bounded_kept_failures_too_and_jobs_that_ended_go_after_their_days() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let mut settings = settings();
    settings.jobs.jobs_open_max = 1;
    let app = TestApp::on(&db, keys.clone(), settings, Clock::system()).await;
    let api = &app.client;
    let first = begin(api, "?start=false", "phone\n1\n2\n3\n").await;
    let refused = send(api, "", clean(1)).await.expect(409);
    assert_eq!((refused.code(), &refused.json["limit"]), ("job_limit_reached", &json!(1)));
    // As if all but one of the failures that are kept were there.
    let sql = "update job set rows_failed = 99999";
    sqlx::query(sql).execute(&mut db.sql().await).await.unwrap();
    let path = format!("/v1/member-imports/{first}/start");
    api.send(api.raw(Method::POST, &path).bearer_auth(&api.keys.ops)).await.expect(200);
    let job = done(api, &first).await;
    assert_eq!((rows(&job).2, &job["failures_cut"]), (100_002, &json!(true)), "{job}");
    assert_eq!(db.count("select count(*) from job_failure").await, 1);
    begin(api, "?start=false", clean(1)).await;
    app.stop().await;
    for (days, jobs) in [(89, 2), (91, 1)] {
        let clock = Clock::system();
        clock.set_offset_ms(TimeDelta::days(days).num_milliseconds());
        let app = slow(&db, &keys, clock).await;
        until_count(&db, "select count(*) from job_chunk", 0).await;
        // The one that waited has failed by now, and is kept for as long from then on.
        until_count(&db, "select count(*) from job", jobs).await;
        app.stop().await;
    }
    assert_eq!(db.count("select count(*) from job_failure").await, 0);
}

async fn until_count(db: &TestDb, sql: &str, count: i64) {
    for _ in 0..6000 {
        if db.count(sql).await == count {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{sql} is not {count}");
}

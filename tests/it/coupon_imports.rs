//! Coupons of older systems: brought in once, named where they are wrong, and used by their old codes from then on.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use tessera::clock::{Clock, Zone};

use crate::support::{
    Server, TestApp, TestDb,
    coupon_job::{assert_exact, begin_import, done_at, failed_rows, send_file, until_at},
    job::rows,
    scaled,
    server::{Client, Keys, Response, fresh_number, settings},
};

async fn shape(api: &Client, name: &str, (min, max): (i64, i64), alphabet: &str) -> Response {
    let body = json!({"name": name, "length_min": min, "length_max": max, "alphabet": alphabet});
    api.post("/v1/legacy-code-shapes", &api.keys.ops, body).await
}

fn today() -> tessera::id::Day {
    Zone::DEFAULT.day_of(Clock::system().now())
}

async fn coupon(api: &Client, code: &str) -> Value {
    api.get(&format!("/v1/coupons/{code}"), &api.keys.pos).await.expect(200).json
}

#[tokio::test(flavor = "multi_thread")]
async fn coupons_come_in_as_they_were_and_are_used_by_their_old_codes() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    shape(api, "digits", (8, 12), "0123456789").await.expect(201);
    shape(api, "letters", (6, 6), "ABCDEFGHXYZ").await.expect(201);
    let member = api.member("+8613800000001").await;
    let rule = api.rule(json!({})).await;
    let twice = api.rule(json!({"uses": 2})).await;
    let day = today();
    let file = format!(
        "code,rule_id,issued_on,phone,state,uses,redeemed_at,store_id,order_ref,amount,discount\n\
         00000001,{rule},{day},13800000001,issued,,,,,,\n\
         00000002,{rule},{day},,redeemed,,{day},S0001,OLD-1,8000,1000\n\
         00000003,{rule},{day},13800000001,void,,,,,,\n\
         00000004,{twice},{day},,issued,1,{day},S0001,,,\n\
         abc-xyz,{rule},{day},,,,,,,,\n\
         00000006,{twice},{day},,redeemed,2,{day},S0001,OLD-2,500,100\n"
    );
    let job = begin_import(api, file.clone()).await;
    assert_eq!(rows(&done_at(api, &job).await), (6, 0, 0), "{:?}", failed_rows(api, &job).await);
    let first = coupon(api, "0000 0001").await;
    assert_eq!(
        (&first["member_id"], &first["is_legacy"], &first["state"]),
        (&json!(member), &json!(true), &json!("issued"))
    );
    assert_eq!(coupon(api, "00000002").await["state"], "redeemed");
    assert_eq!(coupon(api, "00000003").await["state"], "void");
    assert_eq!(coupon(api, "00000004").await["uses"], 1);
    assert_eq!(coupon(api, "AbCxYz").await["state"], "issued", "a shape without lower case does not mind it");
    // Ours works besides, and names the same coupon.
    assert_eq!(coupon(api, first["code"].as_str().unwrap()).await, first);
    assert_eq!(app.db.count("select count(*) from redemption").await, 4);
    assert_exact(&app.db, 5).await;

    // The same file again doubles nothing.
    let again = begin_import(api, file).await;
    assert_eq!(rows(&done_at(api, &again).await), (0, 6, 0), "{:?}", failed_rows(api, &again).await);
    assert_exact(&app.db, 5).await;

    // Every operation takes the old code.
    let post = async |what: &str, key: &str, body: Value| {
        api.post_numbered(&format!("/v1/coupons/{what}"), key, &fresh_number(), body).await
    };
    let sale = json!({"store_id": "S0001", "order_ref": "N-1", "amount": 8000});
    let lock = json!({"store_id": "S0001", "order_ref": "N-1"});
    assert_eq!(post("00000001/lock", &keys.pos, lock).await.expect(200).json["state"], "locked");
    post("00000001/release", &keys.pos, json!({"order_ref": "N-1"})).await.expect(200);
    let used = post("00000001/redeem", &keys.pos, sale.clone()).await.expect(200).json;
    assert_eq!((&used["code"], &used["discount"]), (&first["code"], &json!(1000)));
    assert_eq!(post("00000002/redeem", &keys.pos, sale.clone()).await.expect(409).json["order_ref"], "OLD-1");
    let undo = json!({"store_id": "S0001", "redemption_id": used["redemption_id"]});
    post("00000001/reverse", &keys.pos, undo).await.expect(200);
    post("ABCXYZ/bind", &keys.marketing, json!({"member_id": member})).await.expect(200);
    post("ABCXYZ/void", &keys.marketing, json!({"reason": "test"})).await.expect(200);
    let basket = json!({"store_id": "S0001", "order_ref": "N-2", "amount": 20000,
        "coupons": [{"code": "00000001"}, {"code": "00000004"}]});
    api.post_numbered("/v1/redemptions", &keys.pos, &fresh_number(), basket).await.expect(200);
    // A use that came with the file is reversed like any other, and gives no budget back.
    let before = coupon(api, "00000002").await;
    let undo = json!({"store_id": "S0001", "redemption_id": before["redemption_id"]});
    post("00000002/reverse", &keys.pos, undo).await.expect(200);
    assert_eq!(coupon(api, "00000002").await["state"], "issued");
    assert_exact(&app.db, 4).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_row_is_named_and_the_others_come_in() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    shape(api, "digits", (8, 8), "0123456789").await.expect(201);
    shape(api, "ours", (16, 16), "0123456789ABCDEFGHJKMNPQRSTVWXYZ").await.expect(201);
    let rule = api.rule(json!({"stock": 5, "per_member": 1})).await;
    let member = api.member("+8613800000001").await;
    let ours = api.issue(&rule, json!({"member_id": member})).await.remove(0);
    let day = today();
    let many = [
        (format!("00000001,{rule},{day},,,,"), ""),
        (format!("00000001,{rule},{day},,,,"), "legacy_code_repeated"),
        (format!("{ours},{rule},{day},,,,"), "coupon_code_collides"),
        (format!("1234,{rule},{day},,,,"), "legacy_shape_unknown"),
        (format!(",{rule},{day},,,,"), "code_missing"),
        (format!("00000002,1,{day},,,,"), "rule_not_found"),
        (format!("00000003,{rule},2099-01-01,,,,"), "date_invalid"),
        (format!("00000004,{rule},2009-01-01,,,,"), "issue_day_unavailable"),
        (format!("00000005,{rule},{day},13900000000,,,"), "member_not_found"),
        (format!("00000006,{rule},{day},13800000001,,,"), "member_limit_reached"),
        (format!("00000007,{rule},{day},,lost,,"), "value_invalid"),
        (format!("00000008,{rule},{day},,redeemed,,"), "date_invalid"),
        (format!("00000009,{rule},{day},,redeemed,{day},S9999"), "store_not_found"),
        (format!("00000010,{rule},{day},,redeemed,{day},S0001"), ""),
        (format!("00000011,{rule},{day},,,"), "row_malformed"),
        (format!("00000012,{rule},{day},,,,"), ""),
        (format!("00000013,{rule},{day},,void,,"), ""),
        (format!("00000014,{rule},{day},,,,"), ""),
        (format!("00000015,{rule},{day},,,,"), "stock_exhausted"),
        (format!("00000016,{rule},{day},,void,,"), ""),
    ];
    let mut file = "code,rule_id,issued_on,phone,state,redeemed_at,store_id\n".to_owned();
    many.iter().for_each(|(row, _)| file.push_str(&format!("{row}\n")));
    let job = begin_import(api, file).await;
    let ended = done_at(api, &job).await;
    let failed: BTreeMap<i64, String> = failed_rows(api, &job).await.into_iter().collect();
    for (row, (text, code)) in (1..).zip(&many) {
        assert_eq!(failed.get(&row).map_or("", String::as_str), *code, "{text}");
    }
    assert_eq!(rows(&ended), (6, 0, 14), "{ended}");
    // One, four imported that live; of the refused ones no claim is left.
    assert_exact(&app.db, 5).await;
    assert_eq!(app.db.count("select count(*) from coupon_history_index").await, 6);
    // By another file the same code is another coupon's, or the same.
    let other = api.rule(json!({})).await;
    let file =
        format!("code,rule_id,issued_on\n00000001,{other},{day}\n00000012,{rule},{day}\n00000012,{rule},{day}\n");
    let job = begin_import(api, file).await;
    assert_eq!(rows(&done_at(api, &job).await), (0, 1, 2));
    let expected = [(1, "legacy_code_taken".to_owned()), (3, "legacy_code_repeated".to_owned())];
    assert_eq!(failed_rows(api, &job).await, expected);
    for bad in ["", "code,rule_id\n", "code,rule_id,issued_on,shoe\n", "code,rule_id,issued_on,phone,email\n"] {
        assert_eq!(send_file(api, "/v1/coupon-imports", bad).await.expect(422).code(), "file_invalid", "{bad}");
    }
    // Nothing of what stood in a row is told.
    let text = api.get(&format!("{job}/failures"), &api.keys.ops).await.expect(200).text;
    assert!(!text.contains("0000001"), "{text}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_comes_twice_in_a_file_is_named_however_far_apart() {
    let db = TestDb::new().await;
    let mut settings = settings();
    settings.jobs.job_slice_rows = 10;
    let app = TestApp::on(&db, Keys::make(&db).await, settings, Clock::system()).await;
    let api = &app.client;
    shape(api, "digits", (8, 8), "0123456789").await.expect(201);
    let (rule, day) = (api.rule(json!({})).await, today());
    let mut file = "code,rule_id,issued_on\n".to_owned();
    (0..95).for_each(|n| file.push_str(&format!("{:08},{rule},{day}\n", n % 90)));
    let job = begin_import(api, file).await;
    assert_eq!(rows(&done_at(api, &job).await), (90, 0, 5));
    let failed = failed_rows(api, &job).await;
    assert!(failed.iter().all(|(row, code)| *row > 90 && code == "legacy_code_repeated"), "{failed:?}");
    assert_exact(&db, 90).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cost_their_sender_and_shapes_stay() {
    let db = TestDb::new().await;
    let mut settings = settings();
    settings.limits.bad_codes_per_minute = 3;
    let app = TestApp::on(&db, Keys::make(&db).await, settings, Clock::system()).await;
    let (api, keys) = (&app.client, &app.client.keys);
    // Without a shape it is a bad code.
    let get = async |code: &str, key: &str| api.get(&format!("/v1/coupons/{code}"), key).await;
    assert_eq!(get("12345678", &keys.admin).await.expect(422).code(), "coupon_code_invalid");
    shape(api, "digits", (8, 8), "0123456789").await.expect(201);
    assert_eq!(shape(api, "digits", (4, 8), "01").await.expect(409).code(), "legacy_shape_exists");
    assert_eq!(shape(api, "narrow", (9, 8), "01").await.expect(422).code(), "invalid_field");
    assert_eq!(shape(api, "double", (8, 8), "011").await.expect(422).code(), "invalid_field");
    let listed = api.get("/v1/legacy-code-shapes", &keys.marketing).await.expect(200).json;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    // With one it is looked for, and counts as a bad code all the same.
    for _ in 0..3 {
        assert_eq!(get("12345678", &keys.pos).await.expect(404).code(), "coupon_not_found");
    }
    assert_eq!(get("12345678", &keys.pos).await.expect(429).code(), "too_many_bad_codes");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_process_is_killed_goes_on_elsewhere_with_nothing_twice() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let more = [("TESSERA_JOB_LEASE", "500ms"), ("TESSERA_JOB_SLICE_ROWS", "20")];
    let kills = scaled(3, 20);
    let count = kills * 3_000;
    let mut working = Server::spawn(&db, &keys, &more).await;
    shape(&working.client, "digits", (8, 8), "0123456789").await.expect(201);
    let (rule, day) = (working.client.rule(json!({})).await, today());
    let mut file = "code,rule_id,issued_on,state,redeemed_at,store_id\n".to_owned();
    for n in 0..count {
        let used = if n % 5 == 0 { format!("redeemed,{day},S0001") } else { ",,".to_owned() };
        file.push_str(&format!("{n:08},{rule},{day},{used}\n"));
    }
    let job = begin_import(&working.client, file.clone()).await;
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
    // The same file again, in larger slices.
    let other = Server::spawn(&db, &keys, &[]).await;
    drop(working);
    let api = &other.client;
    let again = api.raw(Method::POST, "/v1/coupon-imports").bearer_auth(&keys.ops).header("content-type", "text/csv");
    let again = api.send(again.body(file)).await.expect(201).header("location").unwrap().to_owned();
    assert_eq!(rows(&done_at(api, &again).await), (0, count as i64, 0));
    assert_eq!(db.count("select count(*) from redemption").await, count as i64 / 5);
    assert_eq!(db.count("select count(*) from coupon_history_index").await, count as i64);
    assert_exact(&db, count as i64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shape_that_is_registered_later_changes_no_code_that_came_in_before() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    shape(api, "y2", (12, 12), "klKL0123456789_").await.expect(201);
    let rule = api.rule(json!({})).await;
    let (one, other) = (api.member("+8613800000001").await, api.member("+8613800000002").await);
    let day = today();
    let file = format!(
        "code,rule_id,issued_on,member_id\nkl_L00000001,{rule},{day},{one}\nKL_L00000001,{rule},{day},{other}\n"
    );
    let job = begin_import(api, file.clone()).await;
    assert_eq!(rows(&done_at(api, &job).await), (2, 0, 0));
    // It sorts before, and minds no case.
    shape(api, "y1", (12, 12), "KL0123456789_").await.expect(201);
    let job = begin_import(api, file).await;
    assert_eq!(rows(&done_at(api, &job).await), (0, 2, 0), "sent twice, nothing doubles");
    assert_eq!(coupon(api, "kl_L00000001").await["member_id"], json!(one));
    assert_eq!(coupon(api, "KL_L00000001").await["member_id"], json!(other));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_tells_of_a_use_that_is_unknown_here_is_no_repetition() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    shape(api, "digits", (8, 8), "0123456789").await.expect(201);
    let rule = api.rule(json!({})).await;
    let day = today();
    let file =
        |state: &str| format!("code,rule_id,issued_on,state,redeemed_at,store_id\n00000001,{rule},{day},{state}\n");
    let job = begin_import(api, file("issued,,")).await;
    assert_eq!(rows(&done_at(api, &job).await), (1, 0, 0));
    let job = begin_import(api, file(&format!("redeemed,{day},S0001"))).await;
    assert_eq!(rows(&done_at(api, &job).await), (0, 0, 1));
    assert_eq!(failed_rows(api, &job).await, [(1, "legacy_code_taken".to_owned())]);
    app.stop().await;
}

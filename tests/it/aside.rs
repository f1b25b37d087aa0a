//! Requests that need what somebody else holds: they wait by themselves, and those that came with them do not.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tessera::{
    clock::Clock,
    coupon::desk::DeskError,
    db::lane::LaneError,
    id::CodeId,
    request::{Operation, store::Ticket},
};
use tokio::task::JoinHandle;

use crate::{
    lane::{Node, SOON, assert_verified, patient, until, waiting_for_locks},
    support::{
        Server, TestApp, TestDb,
        offline::{assert_once, item, reasons, upload, with},
        proxy::{Cut, Proxy},
        server::{Client, Keys, fresh_number, settings},
    },
};

type Told = Result<(u16, bool), DeskError>;

fn spawn(node: &Arc<Node>, ticket: &Ticket, code_id: CodeId) -> JoinHandle<Told> {
    let (node, ticket) = (Arc::clone(node), ticket.clone());
    tokio::spawn(async move { node.redeem(ticket, code_id).await.map(|(answer, _)| (answer.status, answer.replayed)) })
}

async fn begin(db: &TestDb, sql: String) -> PgConnection {
    let mut conn = db.sql().await;
    sqlx::raw_sql(AssertSqlSafe(format!("begin; {sql}"))).execute(&mut conn).await.unwrap();
    conn
}

async fn hold_row(db: &TestDb, code: &str) -> PgConnection {
    let code_id = db.secrets().codes().parse(code).unwrap();
    begin(db, format!("select code_id from coupon where code_id = {code_id} for update")).await
}

/// Coupons of one holder.
async fn coupons(api: &Client, count: usize) -> Vec<String> {
    let member = api.member("+8613800000001").await;
    let rule = api.rule(json!({"threshold": 0})).await;
    api.issue(&rule, json!({"member_id": member, "count": count})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_silent_node_holds_keeps_only_those_waiting_who_ask_for_it() {
    let app = TestApp::spawn().await;
    let db = app.db.clone();
    let codes = coupons(&app.client, 20).await;
    let proxy = Proxy::start(&db);
    let silent = Arc::new(Node::start(&db.through(proxy.socket_dir()), patient()).await);
    // One writer, who waits for locks longer than this test does.
    let node = Arc::new(Node::start(&db, patient()).await);
    let ids: Vec<CodeId> = codes.iter().map(|code| node.code_id(code)).collect();

    proxy.arm(Cut::Silence);
    let number = silent.ticket(Operation::Redeem);
    let lost = spawn(&silent, &number, ids[0]);
    until("it is silent before its commit", async || proxy.cuts() == 1).await;
    let again = spawn(&node, &number, ids[0]);
    let other = spawn(&node, &node.ticket(Operation::Redeem), ids[0]);
    for ids in ids[1..].chunks(5) {
        let tickets: Vec<Ticket> = ids.iter().map(|_| node.ticket(Operation::Redeem)).collect();
        let answers = join_all(ids.iter().zip(&tickets).map(|(id, ticket)| spawn(&node, ticket, *id))).await;
        assert!(answers.into_iter().all(|told| told.unwrap().unwrap() == (200, false)));
    }
    assert!(!again.is_finished() && !other.is_finished());
    assert_eq!(db.count("select count(distinct key) from request where status = 200").await, 19);

    // The server learns that it is gone.
    proxy.refuse();
    let told = [again.await.unwrap().unwrap(), other.await.unwrap().unwrap()];
    assert!(told == [(200, false), (409, false)] || told == [(409, false), (200, false)], "{told:?}");
    assert!(lost.await.unwrap().is_err());
    assert_eq!(db.count("select count(*) from redemption").await, 20);
    assert_verified(&db).await;
    silent.app.stop().await;
    node.app.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_ends_the_transaction_of_a_silent_node() {
    let app = TestApp::spawn().await;
    let db = app.db.clone();
    let codes = coupons(&app.client, 1).await;
    let proxy = Proxy::start(&db);
    let mut soon = settings();
    soon.lane.lane_wait_max = Duration::from_secs(1);
    let silent = Arc::new(Node::start(&db.through(proxy.socket_dir()), soon).await);
    let node = Arc::new(Node::start(&db, patient()).await);
    let code_id = node.code_id(&codes[0]);

    proxy.arm(Cut::Silence);
    let number = silent.ticket(Operation::Redeem);
    let lost = spawn(&silent, &number, code_id);
    until("it is silent before its commit", async || proxy.cuts() == 1).await;
    let repeated = spawn(&node, &number, code_id).await.unwrap().unwrap();
    // It may ask what became of its commit when the repetition has been answered.
    let first = lost.await.unwrap();
    assert_eq!(repeated, (200, false));
    assert!(matches!(first, Ok((200, true)) | Err(DeskError::Lane(LaneError::OutcomeUnknown))), "{first:?}");
    assert_eq!(db.count("select count(*) from redemption").await, 1);
    assert_verified(&db).await;
    silent.app.stop().await;
    node.app.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_somebody_answers_without_its_lock_is_answered_by_that() {
    let app = TestApp::spawn().await;
    let codes = coupons(&app.client, 2).await;
    let node = Arc::new(Node::start(&app.db, patient()).await);
    let ids: Vec<CodeId> = codes.iter().map(|code| node.code_id(code)).collect();
    let number = node.ticket(Operation::Redeem);
    let row = |ticket: &Ticket| {
        let day = ticket.number.days.iter().next().unwrap();
        format!(
            "insert into request (created_at, digest, key, day, status, answer)
            values (now(), {}, '{}', '{day}', 200, '{{}}')",
            ticket.digest, ticket.number.key
        )
    };
    let mut other = begin(&app.db, row(&number)).await;
    let waiting = spawn(&node, &number, ids[0]);
    until("its row is in the way", async || waiting_for_locks(&app.db).await == 1).await;
    sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), (200, true));
    assert_eq!(app.db.count("select count(*) from redemption").await, 0);
    // It may as well give up.
    let number = node.ticket(Operation::Redeem);
    let other = begin(&app.db, row(&number)).await;
    let waiting = spawn(&node, &number, ids[1]);
    until("its row is in the way", async || waiting_for_locks(&app.db).await == 1).await;
    other.close().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), (200, false));
    assert_verified(&app.db).await;
    node.app.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_told_again_whoever_holds_the_coupon() {
    let app = TestApp::spawn().await;
    let codes = coupons(&app.client, 1).await;
    let node = Arc::new(Node::start(&app.db, patient()).await);
    let (number, code_id) = (node.ticket(Operation::Redeem), node.code_id(&codes[0]));
    assert_eq!(spawn(&node, &number, code_id).await.unwrap().unwrap(), (200, false));
    assert_eq!(spawn(&node, &number, code_id).await.unwrap().unwrap(), (200, true));
    // That was rolled back: it keeps nothing for which it would wait for the disk.
    let committed = "select count(*) from coupon where pg_xact_status(xmax::text::xid8) = 'committed'";
    assert_eq!(app.db.count(committed).await, 0);
    let holder = hold_row(&app.db, &codes[0]).await;
    assert_eq!(spawn(&node, &number, code_id).await.unwrap().unwrap(), (200, true));
    holder.close().await.unwrap();
    assert_verified(&app.db).await;
    node.app.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_waited_too_long_is_told_so_and_nothing_is_done() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let mut soon = settings();
    soon.lane.lane_wait_max = Duration::from_millis(400);
    soon.lane.lane_lock_timeout = Duration::from_millis(50);
    let app = TestApp::on(&db, keys, soon, Clock::system()).await;
    let api = &app.client;
    let codes = coupons(api, 2).await;
    let code_id = db.secrets().codes().parse(&codes[0]).unwrap();
    let held = [
        format!("select code_id from coupon where code_id = {code_id} for update"),
        "select member_id from member for update".to_owned(),
        // A row that is waited for, in the lane of every request.
        format!("select code_id from coupon_receive where code_id = {code_id} for update"),
    ];
    let number = fresh_number();
    let redeem = async |code: &str, number: &str| {
        let body = json!({"store_id": "S0001", "order_ref": "S0001-0093", "amount": 8000});
        api.post_numbered(&format!("/v1/coupons/{code}/redeem"), &api.keys.pos, number, body).await
    };
    for sql in held {
        let holder = begin(&db, sql).await;
        let refused = redeem(&codes[0], &number).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (503, "unavailable"), "{}", refused.text);
        assert!(refused.text.contains("another request holds"), "{}", refused.text);
        assert!(refused.header("retry-after").is_some());
        assert_eq!(db.count("select count(*) from request where status = 200").await, 0);
        holder.close().await.unwrap();
    }
    redeem(&codes[0], &number).await.expect(200);
    assert_eq!(db.count("select count(*) from redemption").await, 1);
    assert_verified(&db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_waits_whole_and_its_neighbours_do_not() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let long = [("TESSERA_LANE_WRITERS", "1"), ("TESSERA_LANE_WAIT_MAX", "20s"), ("TESSERA_LANE_LOCK_TIMEOUT", "20s")];
    let server = Server::spawn(&db, &keys, &long).await;
    let api = &server.client;
    let codes = coupons(api, 14).await;
    let now = Clock::system().now();
    let holder = hold_row(&db, &codes[0]).await;
    let send = |register: &'static str, codes: &[String], late: bool| {
        let api = api.clone();
        let mut items: Vec<_> = codes.iter().enumerate().map(|(n, code)| item(n, code, now)).collect();
        if late {
            let at = now - chrono::TimeDelta::days(400);
            items.push(with(item(90, &codes[0], at), json!({"code": codes[1]})));
        }
        tokio::spawn(async move { upload(&api, register, &items).await })
    };
    // In one batch with a neighbour, behind an upload that waits. Of one register twice: the second has the same numbers.
    let gate = begin(&db, "lock table request in access exclusive mode".to_owned()).await;
    let first = send("0", &codes[12..], false);
    until("the writer waits", async || waiting_for_locks(&db).await == 1).await;
    let waiting = [send("1", &codes[..4], true), send("1", &codes[..4], true)];
    let neighbour = send("6", &codes[13..], false);
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.close().await.unwrap();
    assert_eq!(reasons(&first.await.unwrap().expect(200)), ["", ""]);
    assert_eq!(reasons(&neighbour.await.unwrap().expect(200)), ["coupon_already_redeemed"]);
    until("both are put aside again and again", async || put_aside(api).await >= 10).await;
    for n in 0..4 {
        let answer = send(["2", "3", "4", "5"][n], &codes[4 + 2 * n..6 + 2 * n], false).await.unwrap().expect(200);
        assert_eq!(reasons(&answer), ["", ""]);
    }
    assert!(waiting.iter().all(|upload| !upload.is_finished()));
    assert_eq!(db.count("select count(*) from redemption").await, 10);
    holder.close().await.unwrap();
    for upload in waiting {
        let answer = upload.await.unwrap().expect(200);
        assert_eq!(reasons(&answer), ["", "", "", "", "request_number_expired"]);
    }
    assert_once(&db, 16).await;
    assert_eq!(db.count("select count(*) from redemption_late where answer is null").await, 0);
    assert_verified(&db).await;
}

/// How often uploads have been put aside.
async fn put_aside(api: &Client) -> u64 {
    let metrics = api.send(api.raw(Method::GET, "/metrics")).await.expect(200).text;
    let line = metrics.lines().find(|line| line.starts_with("tessera_lane_put_aside_total{writer=\"offline\"}"));
    line.and_then(|line| line.split(' ').next_back()).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_finishes_those_who_wait_aside() {
    let app = TestApp::spawn().await;
    let codes = coupons(&app.client, 2).await;
    let node = Arc::new(Node::start(&app.db, patient()).await);
    let holder = hold_row(&app.db, &codes[0]).await;
    let waiting = spawn(&node, &node.ticket(Operation::Redeem), node.code_id(&codes[0]));
    // The one writer had its turn before this one's.
    until("it waits", async || node.app.lane.waiting().1 == 1).await;
    assert_eq!(spawn(&node, &node.ticket(Operation::Redeem), node.code_id(&codes[1])).await.unwrap().unwrap().0, 200);
    let stopping = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.app.stop().await }
    });
    let late = async || {
        let told = spawn(&node, &node.ticket(Operation::Redeem), node.code_id(&codes[1])).await.unwrap();
        matches!(told, Err(DeskError::Lane(LaneError::Stopping)))
    };
    until("nobody is let in any more", late).await;
    assert!(!waiting.is_finished() && !stopping.is_finished());
    holder.close().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), (200, false));
    tokio::time::timeout(SOON, stopping).await.expect("it stops").unwrap();
    assert_eq!(app.db.count("select count(*) from redemption").await, 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reversal_of_what_is_held_keeps_nobody_else_waiting() {
    let app = TestApp::spawn().await;
    let codes = coupons(&app.client, 8).await;
    let used = app.client.redeem(&codes[0]).await.expect(200);
    let redemption_id = used.json["redemption_id"].as_str().unwrap().parse().unwrap();
    let node = Arc::new(Node::start(&app.db, patient()).await);
    // As a reversal holds them.
    let code_id = node.code_id(&codes[0]);
    let rows = format!(
        "select from coupon where code_id = {code_id} for update;
        select from redemption where redemption_id = {redemption_id} for update"
    );
    let holder = begin(&app.db, rows).await;
    let reversal = {
        let (node, ticket) = (Arc::clone(&node), node.ticket(Operation::Reverse));
        tokio::spawn(async move { node.reverse(ticket, code_id, redemption_id).await.unwrap().0.status })
    };
    until("it waits", async || node.app.lane.waiting().1 == 1).await;
    for code in &codes[1..] {
        let told = spawn(&node, &node.ticket(Operation::Redeem), node.code_id(code)).await.unwrap().unwrap();
        assert_eq!(told, (200, false));
    }
    assert!(!reversal.is_finished());
    holder.close().await.unwrap();
    assert_eq!(reversal.await.unwrap(), 200);
    assert_verified(&app.db).await;
    node.app.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_not_called_used_by_a_request_that_is_put_aside() {
    let app = TestApp::spawn().await;
    let codes = coupons(&app.client, 2).await;
    let node = Arc::new(Node::start(&app.db, patient()).await);
    let holder = hold_row(&app.db, &codes[0]).await;
    // So that both are of one batch, behind one that waits.
    let gate = begin(&app.db, "lock table request in access exclusive mode".to_owned()).await;
    let first = spawn(&node, &node.ticket(Operation::Redeem), node.code_id(&codes[1]));
    until("the writer waits", async || waiting_for_locks(&app.db).await == 1).await;
    let number = node.ticket(Operation::Redeem);
    let other = Ticket { digest: 2, ..number.clone() };
    let tills = [&number, &other].map(|ticket| spawn(&node, ticket, node.code_id(&codes[0])));
    until("both wait", async || node.app.lane.waiting().1 == 2).await;
    gate.close().await.unwrap();
    assert_eq!(first.await.unwrap().unwrap(), (200, false));
    // Others pass by.
    let told = spawn(&node, &node.ticket(Operation::Redeem), node.code_id(&codes[1])).await.unwrap().unwrap();
    assert_eq!(told, (409, false));
    assert!(tills.iter().all(|till| !till.is_finished()));
    holder.close().await.unwrap();
    let mut told = Vec::new();
    for till in tills {
        told.push(till.await.unwrap().unwrap().0);
    }
    told.sort_unstable();
    assert_eq!(told, [200, 409]);
    assert_eq!(app.db.count("select count(*) from redemption").await, 2);
    assert_eq!(node.app.lane.waiting(), (0, 0));
    node.app.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_counter_in_vain_waits_alone() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let mut long = settings();
    (long.lane.lane_writers, long.lane.lane_wait_max) = (1, SOON);
    let app = TestApp::on(&db, keys, long, Clock::system()).await;
    let api = &app.client;
    let codes = coupons(api, 40).await;
    let limited = api.rule(json!({"threshold": 0, "budget": 1_000_000})).await;
    let limited = api.issue(&limited, json!({"count": 4})).await;
    api.redeem(&limited[0]).await.expect(200);
    let holder = begin(&db, "select from coupon_stock where spent > 0 for update".to_owned()).await;
    let waiting: Vec<_> = limited[1..]
        .iter()
        .map(|code| {
            let (api, code) = (api.clone(), code.clone());
            tokio::spawn(async move { api.redeem(&code).await })
        })
        .collect();
    until("the counter is waited for", async || waiting_for_locks(&db).await == 1).await;
    for codes in codes.chunks(8) {
        for answer in join_all(codes.iter().map(|code| api.redeem(code))).await {
            answer.expect(200);
        }
    }
    assert!(waiting.iter().all(|till| !till.is_finished()));
    holder.close().await.unwrap();
    for till in waiting {
        till.await.unwrap().expect(200);
    }
    assert_eq!(db.count("select count(*) from redemption").await, 44);
    assert_verified(&db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basket_with_a_coupon_that_is_held_takes_none_of_the_others() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let app = TestApp::on(&db, keys, patient(), Clock::system()).await;
    let api = &app.client;
    let codes = coupons(api, 3).await;
    let holder = hold_row(&db, &codes[1]).await;
    let basket = {
        let api = api.clone();
        let coupons: Vec<_> = codes.iter().map(|code| json!({"code": code})).collect();
        let body = json!({"store_id": "S0001", "order_ref": "S0001-0093", "amount": 80_000, "coupons": coupons});
        tokio::spawn(async move { api.post_numbered("/v1/redemptions", &api.keys.pos, &fresh_number(), body).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    api.redeem(&codes[2]).await.expect(200);
    assert!(!basket.is_finished());
    holder.close().await.unwrap();
    let refused = basket.await.unwrap().expect(409);
    assert_eq!(refused.code(), "coupon_already_redeemed");
    assert_eq!(db.count("select count(*) from redemption").await, 1);
    assert_verified(&db).await;
    app.stop().await;
}

//! Two processes see each other's changes within the stated bound, and one that was stopped for longer does not trust
//! its memory when it wakes.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use tessera::{
    chain::{
        cache::REVOKED_WITHIN,
        key::{Role, update_key_revoked},
    },
    clock::Clock,
    event::tail::COHERENCE_BOUND,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use crate::support::{
    Pair, scaled,
    server::{Client, Response, make_key},
};

/// Asks until the answer is new. An old answer is good only for a question that was put within the bound.
async fn follows(what: &str, bound: Duration, ask: impl AsyncFn() -> Response, is_new: impl Fn(&Response) -> bool) {
    let acknowledged = Instant::now();
    loop {
        let asked = acknowledged.elapsed();
        let answer = ask().await;
        if is_new(&answer) {
            return;
        }
        assert!(asked <= bound, "{what}: an old answer {asked:?} after the change: {}", answer.text);
    }
}

/// Asks until the answer comes from memory: before that there is nothing that could be old.
async fn warm(client: &Client, member: &str) -> Response {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = client.get(&format!("/v1/members/{member}"), &client.keys.pos).await.expect(200);
        if answer.header("server-timing").is_some_and(|cost| !cost.contains("db;")) {
            return answer;
        }
        assert!(Instant::now() < deadline, "members are not kept in memory");
    }
}

async fn patch(client: &Client, member: &str, change: Value) -> Response {
    let request = client.raw(Method::PATCH, &format!("/v1/members/{member}")).bearer_auth(&client.keys.ops);
    client.send(request.header("if-match", "*").json(&change)).await.expect(200)
}

async fn pause(client: &Client, rule: &str) {
    let request = client.raw(Method::POST, &format!("/v1/coupon-rules/{rule}/pause")).bearer_auth(&client.keys.ops);
    client.send(request).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_changed_on_one_node_is_seen_on_the_other_within_the_bound() {
    let pair = Pair::spawn(&[]).await;
    let [a, b] = pair.clients();
    let member = a.member("+8613800000001").await;
    let by_phone = json!({"phone": "+8613800000001"});
    for round in 0..scaled(8, 50) {
        // The change is made on either node in turn.
        let (here, there) = if round % 2 == 0 { (a, b) } else { (b, a) };
        warm(there, &member).await;
        let nickname = json!(format!("Linlin {round}"));
        let answer = patch(here, &member, json!({"nickname": nickname})).await;
        assert_eq!(answer.json["nickname"], nickname);
        let own = here.get(&format!("/v1/members/{member}"), &here.keys.pos).await;
        assert_eq!(own.json["nickname"], nickname, "on its own node a change is seen at once");
        let get = async || there.get(&format!("/v1/members/{member}"), &there.keys.pos).await.expect(200);
        follows("get", COHERENCE_BOUND, get, |answer| answer.json["nickname"] == nickname).await;
        let find = there.post("/v1/members/lookup", &there.keys.pos, by_phone.clone()).await.expect(200);
        assert_eq!(find.json["nickname"], nickname, "what was forgotten is forgotten for every question");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_paused_on_one_node_stops_redeeming_on_the_other_within_the_bound() {
    let pair = Pair::spawn(&[]).await;
    let [a, b] = pair.clients();
    // More uses than tills can ask for in the time.
    let rule = a.rule(json!({"uses": 1000})).await;
    let codes = a.issue(&rule, json!({"count": 10})).await;
    let next = AtomicUsize::new(0);
    let redeem = async || b.redeem(&codes[next.fetch_add(1, Ordering::Relaxed) % codes.len()]).await;
    redeem().await.expect(200);
    pause(a, &rule).await;
    follows("pause", COHERENCE_BOUND, &redeem, |answer| answer.code() == "rule_not_active").await;
    assert_eq!(a.redeem(&codes[0]).await.expect(422).json["rule_state"], json!("paused"));
    let resume = a.raw(Method::POST, &format!("/v1/coupon-rules/{rule}/resume")).bearer_auth(&a.keys.ops);
    a.send(resume).await.expect(200);
    follows("resume", COHERENCE_BOUND, &redeem, |answer| answer.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_opens_nothing_on_any_node_after_its_bound() {
    let pair = Pair::spawn(&[]).await;
    let mut conn = pair.db.sql().await;
    let key = make_key(&mut conn, Role::Ops, None, 77).await;
    for client in pair.clients() {
        client.get("/v1/stores", &key).await.expect(200);
    }
    update_key_revoked(&mut conn, "test-ops-77", Clock::system().now()).await.unwrap();
    let refused = |answer: &Response| answer.code() == "unauthenticated";
    let on = async |client: &Client| {
        follows("key", REVOKED_WITHIN, async || client.get("/v1/stores", &key).await, refused).await;
        // For good.
        client.get("/v1/stores", &key).await.expect(401);
    };
    let [a, b] = pair.clients();
    tokio::join!(on(a), on(b));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_registered_on_one_node_is_found_on_the_other_at_once() {
    let pair = Pair::spawn(&[]).await;
    let [a, b] = pair.clients();
    for n in 0..scaled(20, 200) {
        let (here, there) = if n % 2 == 0 { (a, b) } else { (b, a) };
        let phone = format!("+861380000{n:04}");
        let look_up = async || there.post("/v1/members/lookup", &there.keys.pos, json!({"phone": phone})).await;
        // That there was nobody is not remembered.
        assert_eq!(look_up().await.expect(404).code(), "member_not_found");
        let member = here.member(&phone).await;
        assert_eq!(look_up().await.expect(200).json["member_id"], json!(member));
        there.get(&format!("/v1/members/{member}"), &there.keys.pos).await.expect(200);
    }
}

/// A process under a signal.
async fn signal(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status().await.unwrap();
    assert!(sent.success());
}

/// Waits until every thread stands still.
async fn until_stopped(pid: u32) {
    let stands = |state: &str| state.starts_with("T");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let all = threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| stands(state))
        });
        if all {
            return;
        }
        assert!(Instant::now() < deadline, "the process does not stop");
        tokio::task::yield_now().await;
    }
}

/// Puts a request where the process will find it first of all when it wakes.
async fn put(client: &Client, method: &str, path: &str, key: &str, more: &str, body: &str) -> TcpStream {
    let host = client.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n{more}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stood_still_longer_than_the_bound_answers_with_what_is_new() {
    let pair = Pair::spawn(&[]).await;
    let [a, b] = pair.clients();
    let member = a.member("+8613800000001").await;
    let rule = a.rule(json!({})).await;
    let codes = a.issue(&rule, json!({"count": 2})).await;
    let mut conn = pair.db.sql().await;
    let key = make_key(&mut conn, Role::Ops, None, 78).await;
    b.get("/v1/stores", &key).await.expect(200);
    b.redeem(&codes[0]).await.expect(200);
    warm(b, &member).await;

    let pid = pair.b.pid();
    signal(pid, "-STOP").await;
    until_stopped(pid).await;
    patch(a, &member, json!({"nickname": "Linlin"})).await;
    pause(a, &rule).await;
    update_key_revoked(&mut conn, "test-ops-78", Clock::system().now()).await.unwrap();
    let get = put(b, "GET", &format!("/v1/members/{member}"), &b.keys.pos, "", "").await;
    let lookup = put(b, "POST", "/v1/members/lookup", &b.keys.pos, "", r#"{"phone":"+8613800000001"}"#).await;
    let redeem = format!("/v1/coupons/{}/redeem", codes[1]);
    let body = r#"{"store_id":"S0001","order_ref":"S0001-0093","amount":8000}"#;
    let redeem = put(b, "POST", &redeem, &b.keys.pos, "idempotency-key: 93\r\n", body).await;
    let stores = put(b, "GET", "/v1/stores", &key, "", "").await;
    // The longer of the two bounds passes: time itself is what is tested here.
    tokio::time::sleep(REVOKED_WITHIN.max(COHERENCE_BOUND) + Duration::from_millis(100)).await;
    signal(pid, "-CONT").await;

    let (get, lookup, redeem, stores) = tokio::join!(answer(get), answer(lookup), answer(redeem), answer(stores));
    assert!(get.contains(r#""nickname":"Linlin""#), "{get}");
    assert!(lookup.contains(r#""nickname":"Linlin""#), "{lookup}");
    assert!(redeem.contains("rule_not_active"), "{redeem}");
    assert!(stores.contains("unauthenticated"), "{stores}");
    // And then it keeps up again.
    warm(b, &member).await;
    patch(a, &member, json!({"nickname": "Lin"})).await;
    let get = async || b.get(&format!("/v1/members/{member}"), &b.keys.pos).await.expect(200);
    follows("get", COHERENCE_BOUND, get, |answer| answer.json["nickname"] == "Lin").await;
}

//! Identifiers over two processes: each has one owner at every moment, and everybody knows whose it is within a second.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use tessera::event::tail::COHERENCE_BOUND;

use crate::{
    races::{WORKERS, all, assert_clean},
    support::{
        Pair, TestApp, TestDb, scaled,
        server::{Client, Response},
    },
};

const PHONE: &str = "+8613800000001";

async fn post_key(client: &Client, member: &str, what: &str, body: Value) -> Response {
    client.post(&format!("/v1/members/{member}/keys{what}"), &client.keys.ops, body).await
}

async fn keys(client: &Client, member: &str) -> Vec<Value> {
    let listed = client.get(&format!("/v1/members/{member}/keys"), &client.keys.pos).await.expect(200);
    listed.json["items"].as_array().unwrap().clone()
}

/// Kind, mask, whether it is what the member shows, whether it was proved.
fn shown(keys: &[Value]) -> Vec<(String, String, bool, bool)> {
    let text = |key: &Value, field: &str| key[field].as_str().unwrap().to_owned();
    let one = |key: &Value| {
        (text(key, "kind"), text(key, "mask"), key["primary"] == json!(true), !key["verified_at"].is_null())
    };
    keys.iter().map(one).collect()
}

fn row(kind: &str, mask: &str, primary: bool, verified: bool) -> (String, String, bool, bool) {
    (kind.to_owned(), mask.to_owned(), primary, verified)
}

async fn release(client: &Client, member: &str, key_id: &str) -> Response {
    let path = format!("/v1/members/{member}/keys/{key_id}");
    client.send(client.raw(Method::DELETE, &path).bearer_auth(&client.keys.ops)).await
}

/// Whose a phone is, by looking it up.
async fn owner(client: &Client, phone: &str) -> Option<String> {
    let found = client.post("/v1/members/lookup", &client.keys.pos, json!({"phone": phone})).await;
    found.json["member_id"].as_str().map(str::to_owned)
}

async fn owners(db: &TestDb) -> i64 {
    db.count("select count(distinct member_id) from member_key where kind = 1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_are_added_verified_changed_and_released() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let member = api.member(PHONE).await;
    // Added twice, it is there once; the answer is the list.
    for _ in 0..2 {
        let body = json!({"external": "row-key:T_USER:42", "proof": "login"});
        let added = post_key(api, &member, "", body).await.expect(200);
        assert_eq!(
            shown(added.json["items"].as_array().unwrap()),
            [row("phone", "+86138****0001", true, false), row("row_key", "row-key:T***", false, true)]
        );
    }
    let found = api.post("/v1/members/lookup", &api.keys.pos, json!({"external": "row-key:T_USER:42"})).await;
    assert_eq!(found.expect(200).json["member_id"], json!(member));
    post_key(api, &member, "", json!({"email": "lin@example.cn"})).await.expect(200);
    post_key(api, &member, "/verify", json!({"phone": PHONE, "proof": "sms"})).await.expect(200);
    let refused = post_key(api, &member, "/verify", json!({"phone": "+8613800000009", "proof": "sms"})).await;
    assert_eq!(refused.expect(404).code(), "member_key_not_found");
    // Changed, and once more for a till that lost its answer.
    for _ in 0..2 {
        let body = json!({"phone": "+8613800000002", "proof": "sms"});
        let changed = post_key(api, &member, "/change", body).await.expect(200);
        let all = changed.json["items"].as_array().unwrap();
        assert!(shown(all).contains(&row("phone", "+86138****0002", true, true)), "{}", changed.text);
        assert_eq!(all.len(), 3);
    }
    assert_eq!(owner(api, PHONE).await, None);
    assert_eq!(owner(api, "+8613800000002").await.as_deref(), Some(&*member));
    // A second phone stands behind the first, and takes its place.
    post_key(api, &member, "", json!({"phone": "+8613800000003"})).await.expect(200);
    let of = |keys: &[Value], mask: &str| {
        keys.iter().find(|key| key["mask"] == json!(mask)).unwrap()["key_id"].as_str().unwrap().to_owned()
    };
    let first = of(&keys(api, &member).await, "+86138****0002");
    release(api, &member, &first).await.expect(204);
    assert_eq!(release(api, &member, &first).await.expect(404).code(), "member_key_not_found");
    assert_eq!(
        shown(&keys(api, &member).await),
        [
            row("row_key", "row-key:T***", false, true),
            row("email", "l***@example.cn", true, false),
            row("phone", "+86138****0003", true, false)
        ]
    );
    let shown_phone = api.get(&format!("/v1/members/{member}"), &api.keys.pos).await.expect(200);
    assert_eq!(shown_phone.json["phone"], json!("+86138****0003"));
    // The last one stays.
    for mask in ["row-key:T***", "l***@example.cn"] {
        let key_id = of(&keys(api, &member).await, mask);
        release(api, &member, &key_id).await.expect(204);
    }
    let last = of(&keys(api, &member).await, "+86138****0003");
    assert_eq!(release(api, &member, &last).await.expect(422).code(), "member_key_last");
    // Another's is another's, and is told as at a registration.
    let other = api.member(PHONE).await;
    let refused = post_key(api, &other, "", json!({"phone": "+8613800000003"})).await.expect(409);
    assert_eq!((refused.code(), &refused.json["member_id"]), ("member_key_taken", &json!(member)));
    assert!(!refused.text.contains("13800000003"));
    let refused = post_key(api, &other, "/change", json!({"phone": "+8613800000003"})).await.expect(409);
    assert_eq!(refused.code(), "member_key_taken");
    let what = "select string_agg(what::text, ',' order by log_id) = '10,10,14,11,10,10,11,11,11' from change_log where member_id = ";
    assert_eq!(app.db.count(&format!("select ({what}{member})::int::bigint")).await, 1);
    assert_eq!(app.db.count("select count(*) from change_log where body ~ '1380000|example|T_USER'").await, 0);
    let db = app.db.clone();
    app.stop().await;
    assert_clean(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_has_a_new_owner_is_handed_over_and_written_down() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let (old, new) = (api.member(PHONE).await, api.member("+8613800000002").await);
    let body = json!({"phone": PHONE, "proof": "sms", "reason": "new_owner"});
    for _ in 0..2 {
        let moved = post_key(api, &new, "/transfer", body.clone()).await.expect(200);
        assert!(moved.json["items"].to_string().contains("+86138****0001"), "{}", moved.text);
    }
    // It was the last of the old owner, who is found by id.
    assert_eq!(keys(api, &old).await, Vec::<Value>::new());
    assert_eq!(owner(api, PHONE).await.as_deref(), Some(&*new));
    api.get(&format!("/v1/members/{old}"), &api.keys.pos).await.expect(200);
    let db = app.db.clone();
    assert_eq!(db.count("select count(*) from audit_log where what = 4").await, 1);
    let logged = format!(
        "select count(*) from change_log where (member_id, what) in (({new}, 12), ({old}, 13)) and body !~ '1380000'"
    );
    assert_eq!(db.count(&logged).await, 2);
    // A till may not, and nobody's phone is added.
    let path = format!("/v1/members/{new}/keys/transfer");
    assert_eq!(api.post(&path, &api.keys.pos, body).await.expect(403).code(), "role_forbidden");
    let body = json!({"phone": "+8613800000003", "proof": "document", "reason": "mistake"});
    post_key(api, &old, "/transfer", body).await.expect(200);
    assert_eq!(owner(api, "+8613800000003").await.as_deref(), Some(&*old));
    app.stop().await;
    assert_clean(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_moved_back_and_forth_by_all_has_one_owner_at_every_moment() {
    let pair = Pair::spawn(&[]).await;
    let [a, _] = pair.clients();
    let members = [a.member(PHONE).await, a.member("+8613800000002").await];
    let race = all(pair.clients(), async |client, worker| {
        for turn in 0..scaled(4, 40) {
            let member = &members[(worker + turn) % 2];
            let body = json!({"phone": PHONE, "proof": "sms", "reason": "new_owner"});
            let moved = post_key(client, member, "/transfer", body).await.expect(200);
            assert!(moved.json["items"].to_string().contains("+86138****0001"), "{}", moved.text);
        }
    });
    // Each look is one snapshot.
    const HELD: &str = "select count(*) from member_key where kind = 1";
    let mut conn = pair.db.sql().await;
    let watch = async {
        loop {
            let found: i64 = sqlx::query_scalar(HELD).fetch_one(&mut conn).await.unwrap();
            assert_eq!(found, 2, "two phones, each with one owner");
        }
    };
    tokio::select! {
        _ = race => {}
        () = watch => unreachable!("it has no end"),
    }
    let twisted = "select count(*) from member m where (m.phone is null) <> (m.phone_bound_at is null)";
    assert_eq!(pair.db.count(twisted).await, 0);
    assert_eq!(pair.db.count("select count(*) from audit_log where what = 4").await % 2, {
        let back_home = owner(a, PHONE).await.as_deref() == Some(&*members[0]);
        i64::from(!back_home)
    });
    assert_clean(&pair.db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_identifier_added_by_all_goes_to_one_and_the_others_learn_to_whom() {
    let pair = Pair::spawn(&[]).await;
    let [a, _] = pair.clients();
    let mut members = Vec::new();
    for n in 0..8 {
        members.push(a.member(&format!("+861380000010{n}")).await);
    }
    let wanted = json!({"external": "crm:7"});
    let answers =
        all(pair.clients(), async |client, worker| post_key(client, &members[worker % 8], "", wanted.clone()).await)
            .await;
    let won: Vec<usize> = (0..WORKERS).filter(|worker| answers[*worker].status.is_success()).collect();
    let winner = won[0] % 8;
    assert_eq!(won.len(), WORKERS / 8, "all that wanted it for the same member have it");
    for (worker, answer) in answers.iter().enumerate() {
        assert_eq!(worker % 8 == winner, answer.status.is_success(), "{}", answer.text);
        if worker % 8 != winner {
            assert_eq!(answer.code(), "member_key_taken");
            assert_eq!(answer.json["member_id"], json!(members[winner]));
        }
    }
    assert_eq!(pair.db.count("select count(*) from member_auth").await, 1);
    assert_eq!(pair.db.count("select count(*) from change_log where what = 10").await, 1);
    assert_clean(&pair.db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_wanted_by_changes_and_registrations_at_once_goes_to_one() {
    let pair = Pair::spawn(&[]).await;
    let [a, _] = pair.clients();
    for round in 0..scaled(3, 20) {
        let phone = format!("+86139000000{round:02}");
        let mut members = Vec::new();
        for n in 0..4 {
            members.push(a.member(&format!("+86138{round:04}000{n}")).await);
        }
        let won = AtomicUsize::new(0);
        all(pair.clients(), async |client, worker| {
            let answer = if worker % 4 == 0 {
                client.post("/v1/members", &client.keys.pos, json!({"phone": phone})).await
            } else {
                post_key(client, &members[worker % 4], "/change", json!({"phone": phone})).await
            };
            match answer.status.as_u16() {
                200 | 201 => drop(won.fetch_add(1, Ordering::Relaxed)),
                status => assert_eq!((status, answer.code()), (409, "member_key_taken"), "{}", answer.text),
            }
        })
        .await;
        // One registration, or the changes of one member, of which all but the first find it done.
        let won = won.into_inner();
        assert!(won == 1 || won == WORKERS / 4, "{won}");
        assert!(owner(a, &phone).await.is_some());
    }
    let twice = "select count(*) from (select key from member_key group by key having count(*) > 1) x";
    assert_eq!(pair.db.count(twice).await, 0);
    assert!(owners(&pair.db).await > 0);
    assert_clean(&pair.db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_learns_within_a_second_whose_an_identifier_is() {
    let pair = Pair::spawn(&[]).await;
    let [a, b] = pair.clients();
    let (one, two) = (a.member(PHONE).await, a.member("+8613800000002").await);
    let learns = async |what: &str, is_new: &dyn Fn(Option<&str>) -> bool| {
        let acknowledged = Instant::now();
        loop {
            let asked = acknowledged.elapsed();
            let now = owner(b, PHONE).await;
            if is_new(now.as_deref()) {
                return;
            }
            assert!(asked <= COHERENCE_BOUND, "{what}: {now:?} {asked:?} after the change");
            tokio::task::yield_now().await;
        }
    };
    for _ in 0..scaled(2, 20) {
        let deadline = Instant::now() + Duration::from_secs(5);
        // The other node has it in memory.
        for _ in 0..3 {
            assert_eq!(owner(b, PHONE).await.as_deref(), Some(&*one));
            assert!(Instant::now() < deadline);
        }
        let body = json!({"phone": PHONE, "proof": "sms", "reason": "new_owner"});
        post_key(a, &two, "/transfer", body).await.expect(200);
        assert_eq!(owner(a, PHONE).await.as_deref(), Some(&*two), "at once where it was done");
        learns("transfer", &|now| now == Some(&*two)).await;
        let held = keys(a, &two).await;
        let held = held.iter().find(|key| key["mask"] == json!("+86138****0001")).unwrap();
        release(a, &two, held["key_id"].as_str().unwrap()).await.expect(204);
        learns("release", &|now| now.is_none()).await;
        post_key(a, &one, "", json!({"phone": PHONE})).await.expect(200);
        learns("add", &|now| now == Some(&*one)).await;
    }
    assert_clean(&pair.db).await;
}

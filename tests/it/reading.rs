//! Reading members: masks by role, batches, entity tags.

use reqwest::Method;
use serde_json::{Value, json};
use tessera::chain::key::Role;

use crate::support::{
    TestApp, scaled,
    server::{Response, fresh_number},
};

/// A member with everything that is masked or hidden.
fn person() -> Value {
    json!({"phone": "+8613800000001", "email": "lin@example.cn", "username": "linlin", "name": "Lin Xiaoming",
        "nickname": "Linlin", "gender": "female", "birthday": "1990-05-01", "source": "store", "store_id": "S0001",
        "external": ["web:42"]})
}

/// What stands in [`person`] and nobody may read in an ordinary answer.
const SECRETS: [&str; 8] =
    ["13800000001", "3800000001", "lin@", "lin@example.cn", "Xiaoming", "1990-05-01", "web:42", "linlin\""];

fn token(app: &TestApp, role: Role) -> String {
    let keys = &app.client.keys;
    match role {
        Role::Pos => keys.pos.clone(),
        Role::Marketing => keys.marketing.clone(),
        Role::Ops => keys.ops.clone(),
        Role::Admin => keys.admin.clone(),
    }
}

#[track_caller]
fn shown_as(role: Role, what: &str, member: &Value, text: &str) {
    let hidden = role == Role::Marketing;
    let masked = |mask: &str| if hidden { Value::Null } else { json!(mask) };
    for (field, expected) in [
        ("phone", masked("+86138****0001")),
        ("email", masked("l***@example.cn")),
        ("name", masked("L*")),
        ("birthday", json!("1990-**-**")),
        ("nickname", json!("Linlin")),
        ("gender", json!("female")),
        ("level", json!(0)),
        ("store_id", json!("S0001")),
    ] {
        assert_eq!(member[field], expected, "{what}: {field} to {role}");
    }
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} tells {role} {secret}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_shows_a_role_what_the_table_of_masks_says() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let number = fresh_number();
    let made = api.post_numbered("/v1/members", &api.keys.admin, &number, person()).await.expect(201);
    shown_as(Role::Admin, "register", &made.json, &made.text);
    let member = made.json["member_id"].as_str().unwrap().to_owned();
    let path = format!("/v1/members/{member}");
    for role in Role::ALL {
        let key = token(&app, *role);
        // Twice: from the table and from memory.
        for _ in 0..2 {
            let got = api.get(&path, &key).await.expect(200);
            shown_as(*role, "get", &got.json, &got.text);
            let found = api.post("/v1/members/lookup", &key, json!({"external": "web:42"})).await.expect(200);
            assert_eq!(found.text, got.text, "a look-up and a get show the same");
            let many = api.post("/v1/members/batch", &key, json!({"member_ids": [member]})).await.expect(200);
            assert_eq!(many.json["items"][0], got.json, "a batch and a get show the same");
            shown_as(*role, "batch", &many.json["items"][0], &many.text);
        }
        if *role != Role::Marketing {
            let patch = api.raw(Method::PATCH, &path).bearer_auth(&key).header("if-match", "*");
            let changed = api.send(patch.json(&json!({"name": "Lin Xiaoming"}))).await.expect(200);
            shown_as(*role, "patch", &changed.json, &changed.text);
        }
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_registration_shows_who_repeats_it_what_its_role_may_see() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let body = json!({"phone": "+8613800000001", "name": "Lin", "nickname": "Linlin"});
    let number = fresh_number();
    for replayed in [None, Some("true")] {
        let answer = api.post_numbered("/v1/members", &api.keys.marketing, &number, body.clone()).await.expect(201);
        assert_eq!(answer.header("idempotency-replayed"), replayed);
        assert_eq!((&answer.json["phone"], &answer.json["name"]), (&Value::Null, &Value::Null), "{}", answer.text);
        assert_eq!(answer.json["nickname"], "Linlin");
        assert!(answer.header("location").is_some() && answer.header("etag").is_some());
    }
    let asked = format!("/v1/requests/register/{number}");
    let stored = api.get(&asked, &api.keys.marketing).await.expect(200).json["answer"].take();
    assert_eq!((stored.get("phone"), stored.get("name"), &stored["nickname"]), (None, None, &json!("Linlin")));
    // Nor does a refusal describe whose phone it was.
    let number = fresh_number();
    for _ in 0..2 {
        let refused = api.post_numbered("/v1/members", &api.keys.marketing, &number, body.clone()).await.expect(409);
        assert_eq!((refused.code(), &refused.json["kind"]), ("member_key_taken", &json!("phone")));
        assert!(!refused.text.contains("****"), "{}", refused.text);
    }
    let stored = api.get(&format!("/v1/requests/register/{number}"), &api.keys.marketing).await.expect(200);
    assert!(stored.json["answer"]["code"] == "member_key_taken" && !stored.text.contains("****"), "{}", stored.text);
    let refused = api.post("/v1/members", &api.keys.pos, body).await.expect(409);
    assert_eq!(refused.json["mask"], "+86138****0001");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn marketing_sees_no_more_beside_the_member_than_of_it() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let path = format!("/v1/members/{}", api.member("+8613800000001").await);
    let put = api.raw(Method::PUT, &format!("{path}/profiles/mall")).bearer_auth(&keys.pos);
    api.send(put.json(&json!({"real_name": "Lin", "id_card": "11010519491231002X"}))).await.expect(201);
    for (rest, items) in [("/profiles/mall", false), ("/profiles", true)] {
        let of = |answer: Response| if items { answer.json["items"][0].clone() } else { answer.json };
        let shown = of(api.get(&format!("{path}{rest}"), &keys.pos).await.expect(200));
        assert_eq!((&shown["real_name"], &shown["id_card"]), (&json!("L*"), &json!("1****X")));
        let shown = of(api.get(&format!("{path}{rest}"), &keys.marketing).await.expect(200));
        assert_eq!((shown.get("real_name"), shown.get("id_card"), &shown["line"]), (None, None, &json!("mall")));
    }
    for rest in ["/addresses", "/addresses/1", "/devices", "/location"] {
        let refused = api.get(&format!("{path}{rest}"), &keys.marketing).await.expect(403);
        assert_eq!(refused.code(), "role_forbidden", "{rest}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_in_the_order_asked_and_names_what_is_missing() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let mut ids = Vec::new();
    for n in 0..scaled(40, 200) {
        ids.push(api.member(&format!("+86138000{n:05}")).await);
    }
    let ask = async |ids: &[String]| -> Response {
        api.post("/v1/members/batch", &api.keys.pos, json!({ "member_ids": ids })).await
    };
    let ids_of = |answer: &Response| -> Vec<String> {
        let items = answer.json["items"].as_array().unwrap();
        items.iter().map(|item| item["member_id"].as_str().unwrap().to_owned()).collect()
    };
    let forward = ask(&ids).await.expect(200);
    assert_eq!(ids_of(&forward), ids);
    assert_eq!(forward.json["missing"], json!([]));
    let mut mixed: Vec<String> = ids.iter().rev().cloned().collect();
    mixed.insert(1, "1".to_owned());
    mixed.push(ids[0].clone());
    mixed.push(i64::MAX.to_string());
    let answer = ask(&mixed).await.expect(200);
    let wanted: Vec<String> = mixed.iter().filter(|id| *id != "1" && **id != i64::MAX.to_string()).cloned().collect();
    assert_eq!(ids_of(&answer), wanted);
    assert_eq!(answer.json["missing"], json!(["1", i64::MAX.to_string()]));
    // What changed shows at once on the node that changed it, and never from a batch that was kept.
    let patch = api.raw(Method::PATCH, &format!("/v1/members/{}", ids[0])).bearer_auth(&api.keys.ops);
    api.send(patch.header("if-match", "*").json(&json!({"nickname": "Linlin"}))).await.expect(200);
    assert_eq!(ask(&ids[..1]).await.json["items"][0]["nickname"], "Linlin");
    for (ids, code) in [(vec![], "invalid_field"), (vec!["1".to_owned(); 201], "invalid_field")] {
        assert_eq!(ask(&ids).await.expect(422).code(), code);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_known_in_its_version_is_not_sent_again() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let member = api.member("+8613800000001").await;
    let path = format!("/v1/members/{member}");
    let get = async |tag: &str| {
        api.send(api.raw(Method::GET, &path).bearer_auth(&api.keys.pos).header("if-none-match", tag)).await
    };
    let first = api.get(&path, &api.keys.pos).await.expect(200);
    let tag = first.header("etag").unwrap().to_owned();
    assert_eq!(first.header("vary"), Some("authorization"), "another role is shown something else under this tag");
    let known = get(&tag).await.expect(304);
    assert_eq!((known.text.as_str(), known.header("etag")), ("", Some(tag.as_str())));
    let patch = api.raw(Method::PATCH, &path).bearer_auth(&api.keys.ops).header("if-match", &tag);
    api.send(patch.json(&json!({"nickname": "Linlin"}))).await.expect(200);
    get(&tag).await.expect(200);
    app.stop().await;
}

//! What requests cost: statements and leaves of each route, frozen.

use std::sync::Arc;

use serde_json::{Value, json};
use tessera::{
    db::lane::{Lane, LaneSettings, Target, Tx, WriteError, Writer},
    partition::{plan, query},
};

use crate::support::{
    TestApp, TestDb,
    coupon_job::{begin_import, done_at},
    offline::item,
    server::{Client, Response, fresh_number},
};

/// `12 statements, 9 leaves`, or the cache.
fn cost(response: &Response) -> String {
    let timing = response.header("server-timing").unwrap();
    match timing.split_once("desc=\"").and_then(|(_, rest)| rest.split_once('"')) {
        Some((cost, _)) => cost.to_owned(),
        None if timing.contains("cache") => "from the cache".to_owned(),
        None => "nothing".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_costs_is_frozen_by_route() {
    let app = TestApp::spawn().await;
    let rule = app.client.rule(json!({"per_member": 1000, "stock": 100_000})).await;
    // The first of each warms what every later one finds: stores, rules, keys, numbers, prepared statements. A pause of
    // the machine lets caches lapse, or be passed by, in the middle of a pass; then a line costs a read more than it
    // does: what counts is the least of two passes.
    lines(&app, &rule, 0).await;
    let passes = [lines(&app, &rule, 1).await, lines(&app, &rule, 2).await];
    app.stop().await;
    insta::assert_snapshot!(cheapest(&passes), @"
    register, two identifiers: 5 statements, 5 leaves
    lookup, cold: 2 statements, 2 leaves
    lookup, warm: from the cache
    get member, cold: 1 statements, 1 leaves
    get member, warm: from the cache
    get 200 members of 16 leaves, cold: 16 statements, 16 leaves
    get 3 members, warm: from the cache
    list keys: 2 statements, 2 leaves
    add key: 7 statements, 7 leaves
    add key, again: 3 statements, 3 leaves
    verify key: 6 statements, 6 leaves
    change phone: 9 statements, 9 leaves
    take e-mail over: 14 statements, 14 leaves
    release key: 7 statements, 7 leaves
    erase: 15 statements, 15 leaves
    erase, again: 1 statements, 1 leaves
    give out 1 to a member: 14 statements, 13 leaves
    give out 10 to a member: 14 statements, 13 leaves
    give out 1 anonymous: 9 statements, 8 leaves
    get wallet, for a basket: 1 statements, 1 leaves
    lookup with usable coupons, warm: 1 statements, 1 leaves
    list coupons of a member: 1 statements, 1 leaves
    list issued coupons of a member: 1 statements, 1 leaves
    list coupons of a rule: 1 statements, 1 leaves
    list void coupons of a rule: 1 statements, 1 leaves
    list coupons of a rule by referrer: 1 statements, 1 leaves
    reveal phone and name: 2 statements, 2 leaves
    reveal identifiers: 3 statements, 3 leaves
    list changes of a member: 1 statements, 4 leaves
    list changes: 1 statements, 1 leaves
    list registrations of a store: 1 statements, 1 leaves
    list audits: 1 statements, 1 leaves
    list audits of a member: 1 statements, 1 leaves
    get coupon: 1 statements, 1 leaves
    redeem, held: 10 statements, 9 leaves
    redeem, held, replayed: 3 statements, 2 leaves
    redeem, held, refused: 5 statements, 4 leaves
    redeem, anonymous: 8 statements, 7 leaves
    reverse, held: 11 statements, 10 leaves
    claim, stock in all and of the day: 14 statements, 13 leaves
    validate, anonymous: 1 statements, 1 leaves
    validate, held, three budgets: 3 statements, 3 leaves
    lock, anonymous: 7 statements, 5 leaves
    lock, held: 7 statements, 6 leaves
    release: 6 statements, 5 leaves
    release, again: 4 statements, 3 leaves
    bind: 12 statements, 11 leaves
    redeem, held, three budgets, a use left: 11 statements, 10 leaves
    reverse half, three budgets: 11 statements, 10 leaves
    void, held: 15 statements, 14 leaves
    void, anonymous: 10 statements, 9 leaves
    redeem a basket of three: 12 statements, 10 leaves
    redeem a basket of three, refused: 7 statements, 6 leaves
    redeem, held, floating number: 12 statements, 11 leaves
    get redemption: 1 statements, 1 leaves
    get request: 1 statements, 1 leaves
    upload 1, anonymous: 11 statements, 8 leaves
    upload 10, anonymous: 11 statements, 8 leaves
    upload 10, replayed: 3 statements, 1 leaves
    upload 10 that do not fit: 9 statements, 6 leaves
    get conflict: 1 statements, 1 leaves
    resolve conflict: 4 statements, 4 leaves
    list conflicts of a store: 1 statements, 1 leaves
    list conflicts of all: 1 statements, 1 leaves
    totals: 2 statements, 2 leaves
    totals by rule: 3 statements, 3 leaves
    get request, floating number, none: 2 statements, 2 leaves
    get coupon by an old code: 2 statements, 2 leaves
    ");
}

/// Line by line the pass that cost the least.
fn cheapest([one, other]: &[String; 2]) -> String {
    assert_eq!(one.lines().count(), other.lines().count());
    let price = |line: &str| {
        let figures = line.rsplit_once(": ").map_or("", |(_, cost)| cost);
        figures.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok()).collect::<Vec<_>>()
    };
    one.lines().zip(other.lines()).map(|(a, b)| if price(b) < price(a) { b } else { a }.to_owned() + "\n").collect()
}

/// Each route once.
async fn lines(app: &TestApp, rule: &str, pass: u8) -> String {
    let (api, keys) = (&app.client, &app.client.keys);
    let phone = format!("+861380000000{}", pass);
    let mut table = String::new();
    let mut line = |name: &str, response: &Response| table.push_str(&format!("{name}: {}\n", cost(response)));

    let body = json!({"phone": phone, "email": format!("lin{pass}@example.cn")});
    let made = api.post("/v1/members", &keys.pos, body).await.expect(201);
    line("register, two identifiers", &made);
    let member = made.json["member_id"].as_str().unwrap().to_owned();
    // Cold: a node that has not seen the member yet.
    let other = TestApp::on(&app.db, keys.clone(), crate::support::server::settings(), app.clock.clone()).await;
    other.client.get(&format!("/v1/coupon-rules/{rule}"), &keys.pos).await.expect(200);
    let by_phone = json!({"phone": phone});
    line("lookup, cold", &other.client.post("/v1/members/lookup", &keys.pos, by_phone.clone()).await.expect(200));
    line("lookup, warm", &other.client.post("/v1/members/lookup", &keys.pos, by_phone).await.expect(200));
    other.stop().await;
    let other = TestApp::on(&app.db, keys.clone(), crate::support::server::settings(), app.clock.clone()).await;
    other.client.get(&format!("/v1/coupon-rules/{rule}"), &keys.pos).await.expect(200);
    let path = format!("/v1/members/{member}");
    line("get member, cold", &other.client.get(&path, &keys.pos).await.expect(200));
    line("get member, warm", &other.client.get(&path, &keys.pos).await.expect(200));
    // Strangers are looked for as well, so that one id for each leaf and more need not be members.
    let mut ids: Vec<String> = (1..200).map(|id: i64| (id * 1_000_003).to_string()).collect();
    ids.push(member.clone());
    let batch = json!({ "member_ids": ids });
    let cold = TestApp::on(&app.db, keys.clone(), crate::support::server::settings(), app.clock.clone()).await;
    line(
        "get 200 members of 16 leaves, cold",
        &cold.client.post("/v1/members/batch", &keys.pos, batch).await.expect(200),
    );
    cold.stop().await;
    let batch = json!({"member_ids": [member, member, member]});
    line("get 3 members, warm", &other.client.post("/v1/members/batch", &keys.pos, batch).await.expect(200));
    other.stop().await;
    key_lines(app, pass, &mut line).await;

    let path = format!("/v1/coupon-rules/{rule}/coupons");
    let issue = async |body: Value| api.post_numbered(&path, &keys.marketing, &number(), body).await.expect(201);
    let held = issue(json!({"member_id": member})).await;
    line("give out 1 to a member", &held);
    line("give out 10 to a member", &issue(json!({"member_id": member, "count": 10})).await);
    let anonymous = issue(json!({})).await;
    line("give out 1 anonymous", &anonymous);
    let code = |issued: &Response| issued.json["coupons"][0]["code"].as_str().unwrap().to_owned();
    let (held, anonymous) = (code(&held), code(&anonymous));
    reading_lines(api, (&member, &phone), rule, &mut line).await;
    line("get coupon", &api.get(&format!("/v1/coupons/{held}"), &keys.pos).await.expect(200));
    till_lines(app, pass, (rule, &member), (&held, &anonymous), &mut line).await;
    table
}

/// What reading of a member costs, its wallet and the logs.
async fn reading_lines(
    api: &Client,
    (member, phone): (&str, &str),
    rule: &str,
    line: &mut impl FnMut(&str, &Response),
) {
    let mut read = async |name: &str, method: reqwest::Method, path: &str, body: Option<Value>| {
        let request = || {
            let request = api.raw(method.clone(), path).bearer_auth(&api.keys.admin);
            match &body {
                Some(body) => request.json(body),
                None => request,
            }
        };
        // Twice: a rule's head is kept for seconds.
        api.send(request()).await.expect(200);
        line(name, &api.send(request()).await.expect(200));
    };
    let path = |rest: &str| format!("/v1/members/{member}/{rest}");
    let (get, post) = (reqwest::Method::GET, reqwest::Method::POST);
    let basket = json!({"amount": 8000, "currency": "CNY", "store_id": "S0001"});
    read("get wallet, for a basket", post.clone(), &path("wallet"), Some(basket)).await;
    let found = "/v1/members/lookup?coupons=usable";
    read("lookup with usable coupons, warm", post.clone(), found, Some(json!({"phone": phone}))).await;
    read("list coupons of a member", get.clone(), &path("coupons"), None).await;
    read("list issued coupons of a member", get.clone(), &path("coupons?state=issued"), None).await;
    let of_rule = |filter: &str| format!("/v1/coupon-rules/{rule}/coupons{filter}");
    read("list coupons of a rule", get.clone(), &of_rule(""), None).await;
    read("list void coupons of a rule", get.clone(), &of_rule("?state=void&limit=200"), None).await;
    read("list coupons of a rule by referrer", get.clone(), &of_rule("?referrer=E1001&state=issued"), None).await;
    let reveal = |fields: Value| Some(json!({"fields": fields, "reason": "ticket 4711"}));
    read("reveal phone and name", post.clone(), &path("reveal"), reveal(json!(["phone", "name"]))).await;
    read("reveal identifiers", post, &path("reveal"), reveal(json!(["identifiers"]))).await;
    read("list changes of a member", get.clone(), &path("changes"), None).await;
    read("list changes", get.clone(), "/v1/logs/changes", None).await;
    read("list registrations of a store", get.clone(), "/v1/logs/registrations?store=S0001", None).await;
    read("list audits", get.clone(), "/v1/logs/audits", None).await;
    read("list audits of a member", get, &format!("/v1/logs/audits?member_id={member}"), None).await;
}

/// What a till costs: with a coupon of a member and an anonymous one.
async fn till_lines(
    app: &TestApp,
    pass: u8,
    (rule, member): (&str, &str),
    (held, anonymous): (&str, &str),
    line: &mut impl FnMut(&str, &Response),
) {
    let (api, keys) = (&app.client, &app.client.keys);
    let today = tessera::clock::Zone::DEFAULT.day_of(app.clock.now()).to_string();
    let sale = |sequence: u8| {
        json!({"store_id": "S0001", "register": "2", "business_date": today, "sequence": sequence,
        "order_ref": "S0001-0093", "amount": 8000})
    };
    let redeem = async |code: &str, sequence: u8| {
        api.post(&format!("/v1/coupons/{code}/redeem"), &keys.pos, sale(sequence + 10 * pass)).await
    };
    let used = redeem(held, 1).await.expect(200);
    line("redeem, held", &used);
    line("redeem, held, replayed", &redeem(held, 1).await.expect(200));
    line("redeem, held, refused", &redeem(held, 2).await.expect(409));
    line("redeem, anonymous", &redeem(anonymous, 3).await.expect(200));
    let undo = json!({"store_id": "S0001", "redemption_id": used.json["redemption_id"]});
    let path = format!("/v1/coupons/{held}/reverse");
    line("reverse, held", &api.post_numbered(&path, &keys.pos, &number(), undo).await.expect(200));
    life_lines(app, member, line).await;
    // A number that no clock made is good for two days: two claims.
    let floating = fresh_number();
    let path = format!("/v1/coupons/{held}/redeem");
    let body = json!({"store_id": "S0001", "order_ref": "S0001-0094", "amount": 8000});
    line("redeem, held, floating number", &api.post_numbered(&path, &keys.pos, &floating, body).await.expect(200));
    let id = used.json["redemption_id"].as_str().unwrap();
    line("get redemption", &api.get(&format!("/v1/redemptions/{id}"), &keys.pos).await.expect(200));
    let path = format!("/v1/requests/redeem/till:S0001:2:{today}:{}", 1 + 10 * pass);
    line("get request", &api.get(&path, &keys.pos).await.expect(200));
    let codes = api.issue(rule, json!({"count": 10})).await;
    let now = tessera::clock::Clock::system().now();
    let fits: Vec<Value> = codes.iter().enumerate().map(|(n, code)| item(n + 1, code, now)).collect();
    // The same coupons under other numbers: used already.
    let misfits: Vec<Value> = codes.iter().enumerate().map(|(n, code)| item(n + 101, code, now)).collect();
    let register = (7 + pass).to_string();
    let upload = async |items: &[Value]| {
        let body = json!({"store_id": "S0001", "register": register, "items": items});
        api.post("/v1/pos/offline-redemptions", &keys.pos, body).await.expect(200)
    };
    line("upload 1, anonymous", &upload(&fits[..1]).await);
    line("upload 10, anonymous", &upload(&fits).await);
    line("upload 10, replayed", &upload(&fits).await);
    let conflicts = upload(&misfits).await;
    line("upload 10 that do not fit", &conflicts);
    let conflict = format!("/v1/pos/conflicts/{}", conflicts.json["items"][0]["conflict_id"].as_str().unwrap());
    line("get conflict", &api.get(&conflict, &keys.pos).await.expect(200));
    let resolve = api.raw(reqwest::Method::POST, &format!("{conflict}/resolve")).bearer_auth(&keys.ops);
    let resolve = resolve.header("if-match", "*").json(&json!({"how": "dismissed", "note": "no loss"}));
    line("resolve conflict", &api.send(resolve).await.expect(200));
    line("list conflicts of a store", &api.get("/v1/pos/conflicts", &keys.pos).await.expect(200));
    line("list conflicts of all", &api.get("/v1/pos/conflicts", &keys.ops).await.expect(200));
    line("totals", &api.get("/v1/pos/totals", &keys.pos).await.expect(200));
    line("totals by rule", &api.get("/v1/pos/totals?by_rule=true", &keys.pos).await.expect(200));
    let path = format!("/v1/requests/redeem/{}-none", floating);
    line("get request, floating number, none", &api.get(&path, &keys.pos).await.expect(404));
    // A coupon of an older system: one look-up more.
    let shape = json!({"name": "digits", "length_min": 8, "length_max": 8, "alphabet": "0123456789"});
    api.post("/v1/legacy-code-shapes", &keys.ops, shape).await;
    let old = format!("0000000{}", pass);
    let job = begin_import(api, format!("code,rule_id,issued_on\n{old},{rule},{today}\n")).await;
    assert_eq!(done_at(api, &job).await["rows_ok"], 1);
    line("get coupon by an old code", &api.get(&format!("/v1/coupons/{old}"), &keys.pos).await.expect(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_family_of_a_member_costs_is_frozen_by_route() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = api.member("+8613800000001").await;
    let mut table = String::new();
    let mut send = async |name: &str, path: &str, body: Option<Value>| {
        let method: reqwest::Method = name.split(' ').next().unwrap().parse().unwrap();
        let request = api.raw(method, &format!("/v1/members/{member}{path}")).bearer_auth(&keys.ops);
        let request = if name.starts_with("PATCH") { request.header("if-match", "*") } else { request };
        let answer = api.send(if let Some(body) = body { request.json(&body) } else { request }).await;
        assert!(answer.status.is_success(), "{name}: {}", answer.text);
        table.push_str(&format!("{name}: {}\n", cost(&answer)));
        answer.json
    };
    let road = |n: u8| Some(json!({"receiver": "Lin", "detail": format!("Road {n}")}));
    send("POST first address", "/addresses", road(1)).await;
    let second = send("POST another address", "/addresses", road(2)).await;
    send("POST the same address", "/addresses", road(2)).await;
    let path = format!("/addresses/{}", second["address_id"].as_str().unwrap());
    send("POST another default", &format!("{path}/default"), None).await;
    send("PATCH address", &path, Some(json!({"label": "home"}))).await;
    send("GET address", &path, None).await;
    send("GET addresses", "/addresses", None).await;
    send("DELETE the default address", &path, None).await;
    send("PUT new device", "/devices", Some(json!({"device_id": "d"}))).await;
    send("PUT the same device", "/devices", Some(json!({"device_id": "d"}))).await;
    send("GET devices", "/devices", None).await;
    send("PUT location", "/location", Some(json!({"city": "Wuhan"}))).await;
    send("GET location", "/location", None).await;
    send("PUT new profile", "/profiles/mall", Some(json!({}))).await;
    send("PATCH profile", "/profiles/mall", Some(json!({"user_type": "courier"}))).await;
    send("GET profile", "/profiles/mall", None).await;
    send("GET profiles of two lines", "/profiles", None).await;
    send("PUT role", "/roles/mall/clerk", None).await;
    send("GET roles", "/roles", None).await;
    send("POST tags", "/tags", Some(json!({"add": ["a", "b"]}))).await;
    send("POST other tags", "/tags", Some(json!({"add": ["c"], "remove": ["a"]}))).await;
    send("GET tags", "/tags", None).await;
    app.stop().await;
    insta::assert_snapshot!(table, @"
    POST first address: 5 statements, 5 leaves
    POST another address: 5 statements, 5 leaves
    POST the same address: 2 statements, 2 leaves
    POST another default: 6 statements, 6 leaves
    PATCH address: 5 statements, 5 leaves
    GET address: 1 statements, 1 leaves
    GET addresses: 1 statements, 1 leaves
    DELETE the default address: 6 statements, 6 leaves
    PUT new device: 5 statements, 5 leaves
    PUT the same device: 2 statements, 2 leaves
    GET devices: 1 statements, 1 leaves
    PUT location: 5 statements, 5 leaves
    GET location: 1 statements, 1 leaves
    PUT new profile: 5 statements, 5 leaves
    PATCH profile: 5 statements, 5 leaves
    GET profile: 1 statements, 1 leaves
    GET profiles of two lines: 2 statements, 2 leaves
    PUT role: 5 statements, 5 leaves
    GET roles: 1 statements, 1 leaves
    POST tags: 5 statements, 5 leaves
    POST other tags: 6 statements, 6 leaves
    GET tags: 1 statements, 1 leaves
    ");
}

/// What a coupon costs besides being issued and redeemed.
async fn life_lines(app: &TestApp, member: &str, line: &mut impl FnMut(&str, &Response)) {
    let (api, keys) = (&app.client, &app.client.keys);
    let limits = json!({"stock": 1000, "stock_per_day": 1000, "budget": 1_000_000, "budget_per_day": 1_000_000,
        "budget_per_store": 1_000_000, "uses": 2, "claimable": true});
    let rule = api.rule(limits).await;
    let plain = api.rule(json!({})).await;
    let post = async |path: &str, body: Value| api.post_numbered(path, &keys.admin, &number(), body).await;
    let claim = format!("/v1/coupon-rules/{rule}/claim");
    post(&claim, json!({"member_id": member})).await.expect(201);
    let claimed = post(&claim, json!({"member_id": member})).await.expect(201);
    line("claim, stock in all and of the day", &claimed);
    let held = claimed.json["coupons"][0]["code"].as_str().unwrap().to_owned();
    let codes = api.issue(&rule, json!({"count": 3})).await;
    let others = api.issue(&plain, json!({"count": 2})).await;
    let act = async |code: &str, what: &str, body: Value| post(&format!("/v1/coupons/{code}/{what}"), body).await;
    let sale = json!({"store_id": "S0001", "order_ref": "S0001-0095", "amount": 8000});
    line("validate, anonymous", &act(&others[0], "validate", sale.clone()).await.expect(200));
    line("validate, held, three budgets", &act(&held, "validate", sale.clone()).await.expect(200));
    let hold = json!({"store_id": "S0001", "order_ref": "S0001-0095"});
    line("lock, anonymous", &act(&codes[0], "lock", hold.clone()).await.expect(200));
    line("lock, held", &act(&held, "lock", hold).await.expect(200));
    line("release", &act(&codes[0], "release", json!({"order_ref": "S0001-0095"})).await.expect(200));
    line("release, again", &act(&codes[0], "release", json!({"order_ref": "S0001-0095"})).await.expect(200));
    line("bind", &act(&codes[0], "bind", json!({"member_id": member})).await.expect(200));
    let used = act(&held, "redeem", sale.clone()).await.expect(200);
    line("redeem, held, three budgets, a use left", &used);
    let undo = json!({"store_id": "S0001", "redemption_id": used.json["redemption_id"], "amount": 4000});
    line("reverse half, three budgets", &act(&held, "reverse", undo).await.expect(200));
    line("void, held", &act(&codes[0], "void", json!({"reason": "printed twice"})).await.expect(200));
    line("void, anonymous", &act(&codes[1], "void", json!({"reason": "printed twice"})).await.expect(200));
    let mut basket = sale;
    basket["coupons"] = json!([{"code": codes[2]}, {"code": others[0]}, {"code": others[1]}]);
    line("redeem a basket of three", &post("/v1/redemptions", basket.clone()).await.expect(200));
    line("redeem a basket of three, refused", &post("/v1/redemptions", basket).await.expect(409));
}

/// What identifiers cost, an erasure and an export.
async fn key_lines(app: &TestApp, pass: u8, line: &mut impl FnMut(&str, &Response)) {
    let (api, keys) = (&app.client, &app.client.keys);
    let member = api.member(&format!("+861390000000{}", pass)).await;
    let path = format!("/v1/members/{member}");
    let post = async |what: &str, body: Value| api.post(&format!("{path}{what}"), &keys.ops, body).await.expect(200);
    line("list keys", &api.get(&format!("{path}/keys"), &keys.pos).await.expect(200));
    let username = json!({"username": format!("user{pass}")});
    let added = post("/keys", username.clone()).await;
    line("add key", &added);
    line("add key, again", &post("/keys", username.clone()).await);
    line("verify key", &post("/keys/verify", json!({"username": username["username"], "proof": "login"})).await);
    line("change phone", &post("/keys/change", json!({"phone": format!("+861390000001{}", pass)})).await);
    let taken = json!({"email": format!("lin{pass}@example.cn"), "proof": "email", "reason": "new_owner"});
    line("take e-mail over", &post("/keys/transfer", taken).await);
    let key_id = added.json["items"][1]["key_id"].as_str().unwrap();
    let delete = |path: &str| api.send(api.raw(reqwest::Method::DELETE, path).bearer_auth(&keys.ops));
    line("release key", &delete(&format!("{path}/keys/{key_id}")).await.expect(204));
    // All leaves of the logs, of which there are as many as months.
    let logs = "select count(*) from pg_inherits where inhparent in ('register_log'::regclass, 'change_log'::regclass)";
    let exported = post("/export", json!({})).await;
    assert_eq!(cost(&exported), format!("15 statements, {} leaves", 11 + app.db.count(logs).await));
    line("erase", &delete(&path).await.expect(200));
    line("erase, again", &delete(&path).await.expect(200));
}

/// A number that lives on one day, as clients are told to send.
fn number() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// A request that does what no request may: one statement for each leaf.
struct Looping;

impl Writer for Looping {
    type Op = ();
    type Answer = ();

    const NAME: &'static str = "looping";

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<()>]) -> Result<Vec<Option<()>>, WriteError> {
        for member_id in 0..40_i64 {
            let leaf = plan("member").leaf_i64(member_id);
            let sql = tx.sql(query("member/standing"), Target::Leaf(leaf));
            sqlx::query(sql).bind(vec![member_id]).fetch_all(tx.conn().await?).await?;
        }
        let sql = tx.sql(query("member/standing"), Target::Parent(16));
        sqlx::query(sql).bind((0..40_i64).collect::<Vec<_>>()).fetch_all(tx.conn().await?).await?;
        tx.plain();
        Ok(vec![Some(()); ops.len()])
    }

    async fn look_up(&self, _: &mut Tx<'_>, _: &()) -> Result<Option<()>, WriteError> {
        Ok(None)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_loops_over_leaves_is_counted_as_such() {
    let db = TestDb::new().await;
    let lane = Lane::start(db.service(), LaneSettings::default());
    let ((), cost) = lane.writer(Looping).write(()).await.unwrap();
    assert_eq!((cost.statements, cost.leaves), (42, 56));
    lane.stop().await;
}

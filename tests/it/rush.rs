//! Rushes on what is scarce: 64 workers over two server processes, with batching on and with batches forced to one. Stock
//! and money are exact to the unit, in all, by day and by store; SQL and `verify` say so afterwards.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use crate::{
    races::{Arena, WORKERS, in_both_settings, one_winner},
    support::{
        scaled,
        server::{Client, Response, fresh_number},
    },
};

impl Arena {
    /// A till does something to a coupon.
    async fn act(&self, client: &Client, worker: usize, code: &str, what: &str, mut body: Value) -> Response {
        let (store_id, key) = self.till(worker);
        if !matches!(what, "release" | "bind") {
            body["store_id"] = json!(store_id);
        }
        insist(client, &format!("/v1/coupons/{code}/{what}"), key, body).await
    }

    async fn sell(&self, client: &Client, worker: usize, code: &str, amount: i64) -> Response {
        let body = json!({"order_ref": format!("order-{worker}"), "amount": amount});
        self.act(client, worker, code, "redeem", body).await
    }

    /// Living coupons or money of a rule by what a row of `coupon_stock` says.
    async fn stock(&self, rule: &str, what: &str, which: &str) -> i64 {
        let sql =
            format!("select coalesce(sum({what}), 0)::bigint from coupon_stock where rule_id = {rule} and {which}");
        self.db().count(&sql).await
    }
}

/// Asks again under the same number while the service has too much to do.
async fn insist(client: &Client, path: &str, key: &str, body: Value) -> Response {
    let number = fresh_number();
    loop {
        let answer = client.post_numbered(path, key, &number, body.clone()).await;
        if answer.code() != "overloaded" {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

const WHOLE: &str = "period = 0 and store_no = 0";
const DAY: &str = "period <> 0";
const STORES: &str = "store_no <> 0";

/// Answers by status and code, of which only these may be.
fn by_code(answers: &[Response], allowed: &[&str]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        assert!(answer.status.is_success() || allowed.contains(&answer.code()), "{}", answer.text);
        *counts.entry(answer.code().to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_exact_in_all_by_day_and_by_store() {
    in_both_settings(async |arena: &Arena| {
        let more = scaled(1, 10) as i64;
        // The day ends the first rush, the stores the second, the whole the third.
        for (whole, day, store, given, scope) in
            [(200, 90, 80, 90, "day"), (200, 190, 50, 100, "store"), (70, 80, 60, 70, "total")]
        {
            let (whole, day, store, given) = (whole * more, day * more, store * more, given * more);
            let limits = json!({"stock": whole, "stock_per_day": day.min(whole), "stock_per_store": store});
            let rule = arena.client().rule(limits).await;
            let path = format!("/v1/coupon-rules/{rule}/coupons");
            let next = AtomicI64::new(0);
            let answers = arena
                .all(async |client, worker| {
                    let mut answers = Vec::new();
                    // Every third asks for two, which may be more than is left.
                    while next.fetch_add(1, Ordering::Relaxed) < 3 * given {
                        let body = json!({"count": 1 + i64::from(worker % 3 == 0)});
                        let till = &arena.till(worker).1;
                        answers.push(insist(client, &path, till, body).await);
                    }
                    answers
                })
                .await;
            let answers: Vec<Response> = answers.into_iter().flatten().collect();
            by_code(&answers, &["stock_exhausted"]);
            let scopes = |scope: &str| answers.iter().any(|answer| answer.json["scope"] == json!(scope));
            assert!(scopes(scope), "{scope} never ended it");
            // Those that asked for two leave one behind at most: single ones take it.
            for (_, key) in [arena.till(0), arena.till(2)] {
                loop {
                    let answer = arena.client().post_numbered(&path, key, &fresh_number(), json!({"count": 1})).await;
                    if !answer.status.is_success() {
                        break;
                    }
                }
            }
            let living = "issued - voided";
            assert_eq!(arena.stock(&rule, living, WHOLE).await, given, "{scope}");
            assert_eq!(arena.stock(&rule, living, DAY).await, given);
            assert_eq!(arena.stock(&rule, living, STORES).await, given);
            let coupons = format!("select count(*) from coupon where rule_id = {rule}");
            assert_eq!(arena.db().count(&coupons).await, given);
            let fullest = format!(
                "select max(n) from (select count(*) n from coupon where rule_id = {rule}
                group by issue_store_no) s"
            );
            assert!(arena.db().count(&fullest).await <= store);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_exact_in_all_by_day_and_by_store_while_uses_come_back() {
    in_both_settings(async |arena: &Arena| {
        for (whole, day, store, spent) in
            [(9_000, 5_000, 4_000, 5_000), (9_000, 8_000, 3_000, 6_000), (4_000, 4_000, 3_500, 4_000)]
        {
            let limits = json!({"discount": {"type": "amount_off", "amount": 100}, "threshold": 0, "budget": whole,
                "budget_per_day": day, "budget_per_store": store, "reverse": {"cycles": 1000}});
            let rule = arena.client().rule(limits).await;
            let codes = arena.client().issue(&rule, json!({"count": 128})).await;
            let back = AtomicUsize::new(0);
            let answers = arena
                .all(async |client, worker| {
                    let mut answers = Vec::new();
                    for (n, code) in [&codes[worker], &codes[worker + WORKERS]].into_iter().enumerate() {
                        let answer = arena.sell(client, worker, code, 8000).await;
                        // A fourth of the goods come back at once, some of them in part, at the other store.
                        if answer.status.is_success() && worker % 4 == n {
                            let id = answer.json["redemption_id"].clone();
                            let body = match worker % 8 {
                                0 | 1 => json!({"redemption_id": id}),
                                _ => json!({"redemption_id": id, "amount": 2000}),
                            };
                            arena.act(client, worker + 2, code, "reverse", body).await.expect(200);
                            back.fetch_add(1, Ordering::Relaxed);
                        }
                        answers.push(answer);
                    }
                    answers
                })
                .await;
            let answers: Vec<Response> = answers.into_iter().flatten().collect();
            let counts = by_code(&answers, &["budget_exhausted"]);
            assert!(back.into_inner() > 0 && counts.len() == 2, "{counts:?}");
            let ledger = format!(
                "select coalesce(sum(discount - reversed), 0)::bigint from redemption
                where rule_id = {rule} and kind = 1"
            );
            for part in [WHOLE, DAY, STORES] {
                assert_eq!(arena.stock(&rule, "spent", part).await, arena.db().count(&ledger).await, "{part}");
            }
            // What came back is spent again, down to what no use fits in.
            let free = codes.iter().enumerate().filter(|(n, _)| {
                let answer = &answers[2 * (n % WORKERS) + n / WORKERS];
                !answer.status.is_success()
            });
            let free: Vec<&String> = free.map(|(_, code)| code).collect();
            for worker in [0, 2] {
                for code in &free {
                    if arena.sell(arena.client(), worker, code, 8000).await.code() == "budget_exhausted" {
                        break;
                    }
                }
            }
            for part in [WHOLE, DAY, STORES] {
                let got = arena.stock(&rule, "spent", part).await;
                assert!(got <= spent && got > spent - 200, "{part}: {got} of {spent}");
            }
            let fullest = format!("select max(spent) from coupon_stock where rule_id = {rule} and store_no <> 0");
            assert!(arena.db().count(&fullest).await <= store);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_claims_as_many_as_the_limit_and_a_void_one_makes_room() {
    in_both_settings(async |arena: &Arena| {
        let rule = arena.client().rule(json!({"per_member": 3, "stock": 1000, "claimable": true})).await;
        let member = arena.client().member("+8613800000001").await;
        let path = format!("/v1/coupon-rules/{rule}/claim");
        for round in 0..2 {
            let answers = arena
                .all(async |client, worker| {
                    let till = &arena.till(worker).1;
                    insist(client, &path, till, json!({"member_id": member})).await
                })
                .await;
            let counts = by_code(&answers, &["member_limit_reached"]);
            assert_eq!(counts.get(""), Some(&if round == 0 { 3 } else { 1 }), "{counts:?}");
            let db = arena.db();
            assert_eq!(db.count(&format!("select taken::bigint from member_rule where member_id = {member}")).await, 3);
            let living = format!("select count(*) from coupon_receive where member_id = {member} and state <> 3");
            assert_eq!(db.count(&living).await, 3);
            assert_eq!(arena.stock(&rule, "issued - voided", WHOLE).await, 3);
            // By all at once, so that one of them does it.
            let claimed = answers.iter().find(|answer| answer.status.is_success()).unwrap();
            let code = claimed.json["coupons"][0]["code"].as_str().unwrap();
            let void = format!("/v1/coupons/{code}/void");
            let reason = json!({"reason": "given back"});
            let voided =
                arena.all(async |client, _| insist(client, &void, &client.keys.ops, reason.clone()).await).await;
            one_winner(&voided, 200, "coupon_void");
        }
        assert_eq!(
            arena.db().count(&format!("select taken::bigint from member_rule where member_id = {member}")).await,
            2
        );
        assert_eq!(arena.stock(&rule, "voided", WHOLE).await, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_baskets_with_one_coupon_in_common_one_is_spent_and_of_the_others_nothing() {
    in_both_settings(async |arena: &Arena| {
        let limits = json!({"budget": 1_000_000, "budget_per_day": 1_000_000});
        let (own, shared) = (arena.client().rule(limits).await, arena.client().rule(json!({})).await);
        let codes = arena.client().issue(&own, json!({"count": 2 * WORKERS})).await;
        let common = arena.client().issue(&shared, json!({"count": 1})).await.remove(0);
        let answers = arena
            .all(async |client, worker| {
                let (store_id, key) = arena.till(worker);
                // The common one stands first, in the middle or last.
                let mut coupons = vec![json!({"code": codes[worker]}), json!({"code": codes[worker + WORKERS]})];
                coupons.insert(worker % 3, json!({"code": common}));
                let body = json!({"store_id": store_id, "order_ref": format!("order-{worker}"), "amount": 8000,
                    "coupons": coupons});
                insist(client, "/v1/redemptions", key, body).await
            })
            .await;
        let (winner, _) = one_winner(&answers, 200, "coupon_already_redeemed");
        for (worker, answer) in answers.iter().enumerate().filter(|(_, answer)| !answer.status.is_success()) {
            assert_eq!(answer.json["position"], json!(worker % 3), "{}", answer.text);
        }
        assert_eq!((&winner.json["discount"], &winner.json["payable"]), (&json!(3000), &json!(5000)));
        let db = arena.db();
        assert_eq!(db.count("select count(*) from redemption").await, 3);
        assert_eq!(db.count("select count(*) from coupon where uses > 0").await, 3);
        assert_eq!(db.count("select count(distinct order_ref) from coupon where uses > 0").await, 1);
        assert_eq!(db.count("select count(*) from event where kind = 11").await, 3);
        for part in [WHOLE, DAY] {
            assert_eq!(arena.stock(&own, "spent", part).await, 2000, "{part}");
        }
        // What the losers wanted is free, for each of them.
        for (worker, answer) in answers.iter().enumerate().take(8) {
            let status = if answer.status.is_success() { 409 } else { 200 };
            arena.sell(arena.client(), worker, &codes[worker], 8000).await.expect(status);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_order_of_64_gets_the_lock_and_one_member_of_eight_the_coupon() {
    in_both_settings(async |arena: &Arena| {
        let rule = arena.client().rule(json!({})).await;
        let codes = arena.client().issue(&rule, json!({"count": 2})).await;
        let order = |worker: usize| json!({"order_ref": format!("order-{worker}")});
        let locks =
            arena.all(async |client, worker| arena.act(client, worker, &codes[0], "lock", order(worker)).await).await;
        let (winner, losers) = one_winner(&locks, 200, "coupon_locked");
        for loser in losers {
            assert_eq!(loser.json["locked_until"], winner.json["lock"]["until"]);
        }
        let held = winner.json["lock"]["order_ref"].as_str().unwrap().to_owned();
        assert_eq!(arena.db().count("select count(*) from coupon where lock_order is not null").await, 1);
        assert_eq!(arena.db().count("select count(*) from event where kind = 13").await, 1);
        // All redeem, each for its own order, and the others release: only the one that holds it can.
        let sales = arena
            .all(async |client, worker| match worker % 2 {
                0 if order(worker)["order_ref"] != json!(held) => {
                    arena.act(client, worker, &codes[0], "release", order(worker)).await
                }
                _ => arena.sell(client, worker, &codes[0], 8000).await,
            })
            .await;
        let counts = by_code(&sales, &["coupon_locked", "coupon_already_redeemed"]);
        assert_eq!(counts.get(""), Some(&1), "{counts:?}");
        let sold = format!("select count(*) from redemption where order_ref = '{held}'");
        assert_eq!(arena.db().count(&sold).await, 1);

        // Bind against bind: the same member again changes nothing.
        let mut members = Vec::new();
        for n in 0..8 {
            members.push(arena.client().member(&format!("+861380000000{n}")).await);
        }
        let bound = arena
            .all(async |client, worker| {
                arena.act(client, worker, &codes[1], "bind", json!({"member_id": members[worker % 8]})).await
            })
            .await;
        let counts = by_code(&bound, &["coupon_held"]);
        assert_eq!(counts, BTreeMap::from([(String::new(), 8), ("coupon_held".to_owned(), 56)]));
        let db = arena.db();
        assert_eq!(db.count("select count(*) from coupon_receive").await, 1);
        assert_eq!(db.count("select sum(taken)::bigint from member_rule").await, 1);
        assert_eq!(db.count("select count(*) from event where kind = 16").await, 1);
        let one = "select count(*) from coupon c join coupon_receive r on r.member_id = c.member_id
            join coupon_index i on i.member_id = c.member_id";
        assert_eq!(db.count(one).await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_come_back_by_all_at_once_add_up_to_the_use() {
    in_both_settings(async |arena: &Arena| {
        let limits =
            json!({"discount": {"type": "amount_off", "amount": 1001}, "budget": 100_000, "budget_per_store": 100_000});
        let rule = arena.client().rule(limits).await;
        let codes = arena.client().issue(&rule, json!({"count": 2})).await;
        // By amount: together they return twice what was sold.
        let sold = arena.sell(arena.client(), 0, &codes[0], 8000).await.expect(200);
        let answers = arena
            .all(async |client, worker| {
                let body = json!({"redemption_id": sold.json["redemption_id"], "amount": 250});
                arena.act(client, worker, &codes[0], "reverse", body).await
            })
            .await;
        let whole = "redemption_already_reversed";
        let counts = by_code(&answers, &[whole]);
        assert_eq!(counts, BTreeMap::from([(String::new(), 32), (whole.to_owned(), 32)]));
        check_parts(&answers);
        // By lines, each named by two: every line comes back once.
        let (store_id, key) = arena.till(0);
        let lines: Vec<Value> = (0..32).map(|n| json!({"line": n.to_string(), "amount": 250})).collect();
        let body = json!({"store_id": store_id, "order_ref": "o", "amount": 8000, "lines": lines});
        let path = format!("/v1/coupons/{}/redeem", codes[1]);
        let sold = arena.client().post_numbered(&path, key, &fresh_number(), body).await.expect(200);
        let answers = arena
            .all(async |client, worker| {
                let line = json!([(worker / 2).to_string()]);
                let body = json!({"redemption_id": sold.json["redemption_id"], "lines": line});
                arena.act(client, worker, &codes[1], "reverse", body).await
            })
            .await;
        let counts = by_code(&answers, &[whole, "redemption_line_reversed"]);
        assert_eq!(counts.get(""), Some(&32), "{counts:?}");
        check_parts(&answers);
        let db = arena.db();
        for part in [WHOLE, STORES] {
            assert_eq!(arena.stock(&rule, "spent", part).await, 0, "{part}");
        }
        assert_eq!(db.count("select count(*) from coupon where uses = 0 and cycles = 1 and state = 1").await, 2);
        assert_eq!(db.count("select count(*) from redemption where kind = 2").await, 64);
        assert_eq!(db.count("select sum(discount)::bigint from redemption where kind = 2").await, 2002);
    })
    .await;
}

/// 1,001 came back in all, and one answer says that it was the last.
#[track_caller]
fn check_parts(answers: &[Response]) {
    let done: Vec<&Value> =
        answers.iter().filter(|answer| answer.status.is_success()).map(|answer| &answer.json).collect();
    assert_eq!(done.iter().map(|part| part["discount"].as_i64().unwrap()).sum::<i64>(), 1001);
    assert_eq!(done.iter().filter(|part| part["whole"] == json!(true)).count(), 1);
    let most = done.iter().map(|part| part["returned"].as_i64().unwrap()).max();
    assert_eq!(most, Some(8000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_is_void_or_redeemed_and_never_both() {
    in_both_settings(async |arena: &Arena| {
        let rule = arena.client().rule(json!({"per_member": 1000, "stock": 1000, "stock_per_store": 1000})).await;
        let member = arena.client().member("+8613800000001").await;
        let path = format!("/v1/coupon-rules/{rule}/coupons");
        let body = json!({"member_id": member, "count": 32});
        let issued = arena.client().post_numbered(&path, &arena.till(0).1, &fresh_number(), body).await.expect(201);
        let codes: Vec<&str> =
            issued.json["coupons"].as_array().unwrap().iter().map(|coupon| coupon["code"].as_str().unwrap()).collect();
        // Two workers for each coupon: one sells it, the other makes it void.
        let answers = arena
            .all(async |client, worker| {
                let code = codes[worker / 2];
                // Who begins is as likely the one as the other.
                if (worker / 4 + worker) % 2 == 0 {
                    arena.sell(client, worker, code, 8000).await
                } else {
                    let path = format!("/v1/coupons/{code}/void");
                    insist(client, &path, &client.keys.ops, json!({"reason": "stolen"})).await
                }
            })
            .await;
        by_code(&answers, &["coupon_void", "coupon_already_redeemed"]);
        for both in answers.chunks(2) {
            assert_eq!(both.iter().filter(|answer| answer.status.is_success()).count(), 1, "{both:?}");
        }
        let db = arena.db();
        let void = db.count("select count(*) from coupon where state = 3 and uses = 0").await;
        let redeemed = db.count("select count(*) from coupon where state = 2 and uses = 1").await;
        assert_eq!(void + redeemed, 32);
        assert_eq!(db.count("select count(*) from redemption").await, redeemed);
        for part in [WHOLE, STORES] {
            assert_eq!(arena.stock(&rule, "voided", part).await, void, "{part}");
        }
        assert_eq!(db.count("select taken::bigint from member_rule").await, redeemed);
    })
    .await;
}

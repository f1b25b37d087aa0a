//! Races: 64 tills at once over two server processes on one database, with batching on and with batches forced to one.
//! The answers say who won; SQL and `verify` say whether it is true.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tessera::{
    app::App,
    chain::{StoreId, key::Role},
    clock::{Clock, Zone},
    coupon::desk::{Desk, RedeemRequest, Till},
    db::lane::Cost,
    request::{
        Operation, RequestNumber, Source, Window,
        store::{Answer, Ticket},
    },
    verify::{self, VerifySettings},
};
use tokio::sync::Barrier;

use crate::{
    lane::hold,
    support::{
        Pair, TestApp, TestDb, scaled,
        server::{Client, Keys, Response, fresh_number, make_key, make_store, settings},
    },
};

pub const WORKERS: usize = 64;

/// Two processes with a till's key for each of two stores.
pub struct Arena {
    pub pair: Pair,
    tills: [(&'static str, String); 2],
}

impl Arena {
    async fn open(batch_max: &str) -> Self {
        let pair = Pair::spawn(&[("TESSERA_WRITE_BATCH_MAX", batch_max)]).await;
        let mut conn = pair.db.sql().await;
        make_store(&mut conn, "S0002").await;
        let second = make_key(&mut conn, Role::Pos, Some("S0002"), 99).await;
        let tills = [("S0001", pair.keys.pos.clone()), ("S0002", second)];
        Self { pair, tills }
    }

    /// For what is done before the race and after it.
    pub fn client(&self) -> &Client {
        &self.pair.a.client
    }

    pub fn db(&self) -> &TestDb {
        &self.pair.db
    }

    /// Store and key of a worker: each store is on both servers.
    pub fn till(&self, worker: usize) -> &(&'static str, String) {
        &self.tills[worker / 2 % 2]
    }

    async fn redeem(&self, client: &Client, worker: usize, code: &str) -> Response {
        let (store_id, key) = self.till(worker);
        let body = json!({"store_id": store_id, "order_ref": format!("order-{worker}"), "amount": 8000});
        client.post_numbered(&format!("/v1/coupons/{code}/redeem"), key, &fresh_number(), body).await
    }

    async fn reverse(&self, client: &Client, worker: usize, code: &str, redemption_id: &str) -> Response {
        let (store_id, key) = self.till(worker);
        let body = json!({"store_id": store_id, "redemption_id": redemption_id});
        client.post_numbered(&format!("/v1/coupons/{code}/reverse"), key, &fresh_number(), body).await
    }

    pub async fn all<T>(&self, work: impl AsyncFn(&Client, usize) -> T) -> Vec<T> {
        all(self.pair.clients(), work).await
    }
}

/// Runs a race with batching on and with batches of one, each on a database of its own that must be clean afterwards.
pub async fn in_both_settings(race: impl AsyncFn(&Arena)) {
    for batch_max in ["64", "1"] {
        eprintln!("TESSERA_WRITE_BATCH_MAX={batch_max}");
        let arena = Arena::open(batch_max).await;
        race(&arena).await;
        assert_clean(arena.db()).await;
    }
}

/// All workers, every other one on each server, begin together. Gives what each got, in the order of the workers.
pub async fn all<T>(clients: [&Client; 2], work: impl AsyncFn(&Client, usize) -> T) -> Vec<T> {
    let (barrier, work) = (Barrier::new(WORKERS), &work);
    let workers = (0..WORKERS).map(|worker| {
        let (client, barrier) = (clients[worker % 2], &barrier);
        async move {
            // Each has its connection already, so that nothing but the race is left.
            client.send(client.raw(Method::GET, "/healthz")).await.expect(200);
            barrier.wait().await;
            work(client, worker).await
        }
    });
    join_all(workers).await
}

pub async fn assert_clean(db: &TestDb) {
    let report = verify::run(&VerifySettings::default(), db.service(), db.secrets(), |_| {}).await.unwrap();
    assert!(report.is_clean() && !report.pairs.is_empty(), "{}", report.render());
    assert_eq!(db.count("select count(*) from request where status is null or answer is null").await, 0);
}

/// The one answer with this status; every other is a refusal with this code.
#[track_caller]
pub fn one_winner<'a>(answers: &'a [Response], status: u16, code: &str) -> (&'a Response, Vec<&'a Response>) {
    let (mut won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status.is_success());
    assert_eq!((won.len(), lost.len()), (1, WORKERS - 1), "{answers:?}");
    for answer in &lost {
        assert_eq!((answer.status.as_u16(), answer.code()), (409, code), "{}", answer.text);
    }
    let winner = won.remove(0);
    assert_eq!(winner.status.as_u16(), status);
    (winner, lost)
}

/// One of them was decided, and all the others are that answer again.
#[track_caller]
fn one_effect(answers: &[Response], status: u16) {
    let replayed = answers.iter().filter(|answer| answer.header("idempotency-replayed") == Some("true")).count();
    assert_eq!(replayed, WORKERS - 1);
    for answer in answers {
        assert_eq!((answer.status.as_u16(), &answer.text), (status, &answers[0].text));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_tills_with_one_coupon_one_wins_and_the_others_learn_when_and_where() {
    in_both_settings(async |arena: &Arena| {
        let rule = arena.client().rule(json!({})).await;
        let member = arena.client().member("+8613800000001").await;
        let mut codes = arena.client().issue(&rule, json!({"count": 2})).await;
        codes.extend(arena.client().issue(&rule, json!({"member_id": member})).await);
        for code in &codes {
            let answers = arena.all(async |client, worker| arena.redeem(client, worker, code).await).await;
            let (winner, losers) = one_winner(&answers, 200, "coupon_already_redeemed");
            for loser in losers {
                for field in ["redeemed_at", "store_id", "redemption_id", "order_ref"] {
                    assert_eq!(loser.json[field], winner.json[field], "{field} in {}", loser.text);
                }
            }
            assert!(winner.json["store_id"].as_str().is_some_and(|store_id| store_id.starts_with("S000")));
        }
        let db = arena.db();
        assert_eq!(db.count("select count(*) from coupon where state = 2 and uses = 1").await, 3);
        assert_eq!(db.count("select count(*) from redemption").await, 3);
        assert_eq!(db.count("select sum(discount)::bigint from redemption where kind = 1").await, 3000);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_is_issued_to_its_last_coupon_and_not_one_more() {
    let (stock, claims) = (scaled(200, 1000), scaled(1000, 5000));
    in_both_settings(async |arena: &Arena| {
        let rule = arena.client().rule(json!({"stock": stock})).await;
        let path = format!("/v1/coupon-rules/{rule}/coupons");
        let next = AtomicUsize::new(0);
        let granted = arena
            .all(async |client, _| {
                let mut granted = Vec::new();
                while next.fetch_add(1, Ordering::Relaxed) < claims {
                    let answer =
                        client.post_numbered(&path, &client.keys.marketing, &fresh_number(), json!({"count": 1})).await;
                    match answer.status.as_u16() {
                        201 => granted.push(answer.json["coupons"][0]["code"].as_str().unwrap().to_owned()),
                        status => assert_eq!((status, answer.code()), (409, "stock_exhausted"), "{}", answer.text),
                    }
                }
                granted
            })
            .await;
        let codes: HashSet<String> = granted.iter().flatten().cloned().collect();
        assert_eq!((granted.iter().flatten().count(), codes.len()), (stock, stock));
        let (db, stock) = (arena.db(), stock as i64);
        assert_eq!(db.count("select issued - voided from coupon_stock where period = 0 and store_no = 0").await, stock);
        for table in ["coupon", "coupon_index"] {
            assert_eq!(db.count(&format!("select count(*) from {table} where rule_id = {rule}")).await, stock);
        }
        // What does not fit as a whole is not issued in part, and what is left is said.
        let answer = arena
            .client()
            .post_numbered(&path, &arena.pair.keys.marketing, &fresh_number(), json!({"count": 2}))
            .await
            .expect(409);
        assert_eq!((answer.code(), &answer.json["left"]), ("stock_exhausted", &json!(0)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_takes_as_many_as_the_limit_and_not_one_more() {
    in_both_settings(async |arena: &Arena| {
        let rule = arena.client().rule(json!({"per_member": 3, "stock": 1000})).await;
        let member = arena.client().member("+8613800000001").await;
        let path = format!("/v1/coupon-rules/{rule}/coupons");
        let answers = arena
            .all(async |client, worker| {
                let (_, till) = arena.till(worker);
                client.post_numbered(&path, till, &fresh_number(), json!({"member_id": member})).await
            })
            .await;
        let (took, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status.is_success());
        assert_eq!(took.len(), 3);
        for answer in refused {
            assert_eq!((answer.status.as_u16(), answer.code()), (409, "member_limit_reached"), "{}", answer.text);
            assert_eq!((&answer.json["limit"], &answer.json["taken"]), (&json!(3), &json!(3)));
        }
        let db = arena.db();
        assert_eq!(db.count(&format!("select taken::bigint from member_rule where member_id = {member}")).await, 3);
        assert_eq!(db.count(&format!("select count(*) from coupon where member_id = {member}")).await, 3);
        assert_eq!(db.count(&format!("select count(*) from coupon_receive where member_id = {member}")).await, 3);
        assert_eq!(db.count("select issued from coupon_stock").await, 3, "a refused claim takes no stock");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_use_reversed_by_all_is_reversed_once() {
    in_both_settings(async |arena: &Arena| {
        let rule = arena.client().rule(json!({})).await;
        let code = &arena.client().issue(&rule, json!({"count": 1})).await[0];
        let used = arena.client().redeem(code).await.expect(200);
        let redemption_id = used.json["redemption_id"].as_str().unwrap();
        let answers = arena.all(async |client, worker| arena.reverse(client, worker, code, redemption_id).await).await;
        let (winner, _) = one_winner(&answers, 200, "redemption_already_reversed");
        assert_eq!(winner.json["reverses"], json!(redemption_id));
        let db = arena.db();
        assert_eq!(db.count("select count(*) from redemption where kind = 2").await, 1);
        assert_eq!(db.count("select count(*) from coupon where state = 1 and uses = 0 and cycles = 1").await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_redeemed_and_reversed_by_all_at_once_never_has_two_standing_uses() {
    const TWISTED: &str = "select count(*) from coupon c where c.uses > 1 or (c.uses = 1) <> (c.state = 2) or c.uses <> \
        (select count(*) from redemption r where r.code_id = c.code_id and r.kind = 1 and not r.reversed_whole)";
    in_both_settings(async |arena: &Arena| {
        let rule = arena.client().rule(json!({"reverse": {"cycles": 1000}})).await;
        let code = &arena.client().issue(&rule, json!({"count": 1})).await[0];
        let (redeemed, reversed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let race = arena.all(async |client, worker| {
            for _ in 0..scaled(3, 15) {
                // Whoever has the coupon, its use is taken back: as often as not by several at once.
                let answer = arena.redeem(client, worker, code).await;
                match answer.status.as_u16() {
                    200 => drop(redeemed.fetch_add(1, Ordering::Relaxed)),
                    status => assert_eq!((status, answer.code()), (409, "coupon_already_redeemed"), "{}", answer.text),
                }
                let redemption_id = answer.json["redemption_id"].as_str().expect("both name the use that stands");
                let answer = arena.reverse(client, worker, code, redemption_id).await;
                match answer.status.as_u16() {
                    200 => drop(reversed.fetch_add(1, Ordering::Relaxed)),
                    status => {
                        assert_eq!((status, answer.code()), (409, "redemption_already_reversed"), "{}", answer.text);
                    }
                }
            }
        });
        // Each look is one snapshot, taken while tills are at it.
        let mut conn = arena.db().sql().await;
        let looks = AtomicUsize::new(0);
        let watch = async {
            loop {
                assert_eq!(sqlx::query_scalar::<_, i64>(TWISTED).fetch_one(&mut conn).await.unwrap(), 0);
                looks.fetch_add(1, Ordering::Relaxed);
            }
        };
        tokio::select! {
            _ = race => {}
            () = watch => unreachable!("it has no end"),
        }
        assert!(looks.into_inner() > 0);
        let (redeemed, reversed) = (redeemed.into_inner() as i64, reversed.into_inner() as i64);
        assert!(reversed > 1, "nothing was taken back: this was no race");
        let db = arena.db();
        assert_eq!(db.count(TWISTED).await, 0);
        assert_eq!(db.count("select count(*) from redemption where kind = 1").await, redeemed);
        assert_eq!(db.count("select count(*) from redemption where kind = 2").await, reversed);
        assert_eq!(db.count("select count(distinct reverses) from redemption where kind = 2").await, reversed);
        assert_eq!(db.count("select uses::bigint from coupon").await, redeemed - reversed);
        assert_eq!(db.count("select cycles::bigint from coupon").await, reversed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_number_sent_64_times_has_one_effect_and_64_equal_answers() {
    in_both_settings(async |arena: &Arena| {
        let rule = arena.client().rule(json!({})).await;
        let codes = arena.client().issue(&rule, json!({"count": 3})).await;
        let (pos, marketing) = (&arena.pair.keys.pos, &arena.pair.keys.marketing);
        let redeem = |code: &str| format!("/v1/coupons/{code}/redeem");
        let db = arena.db();
        assert_eq!(db.count("select count(*) from request").await, 2);

        // A till's own number.
        let today = Zone::DEFAULT.day_of(Clock::system().now()).to_string();
        let body = json!({"store_id": "S0001", "register": "2", "business_date": today, "sequence": 417,
            "order_ref": "S0001-0093", "amount": 8000});
        let answers = arena.all(async |client, _| client.post(&redeem(&codes[0]), pos, body.clone()).await).await;
        one_effect(&answers, 200);
        assert_eq!(db.count("select count(*) from request").await, 3);

        // A floating one, which stands on two days.
        let body = json!({"store_id": "S0001", "order_ref": "S0001-0094", "amount": 8000});
        let send = async |client: &Client, _| client.post_numbered(&redeem(&codes[1]), pos, "94", body.clone()).await;
        let answers = arena.all(send).await;
        one_effect(&answers, 200);
        assert_eq!(db.count("select count(*) from request").await, 5);

        // A refusal is an answer like any other.
        let send = async |client: &Client, _| client.post_numbered(&redeem(&codes[1]), pos, "95", body.clone()).await;
        let answers = arena.all(send).await;
        one_effect(&answers, 409);
        assert_eq!(answers[0].code(), "coupon_already_redeemed");
        assert_eq!(db.count("select count(*) from redemption").await, 2);

        // Issuing.
        let path = format!("/v1/coupon-rules/{rule}/coupons");
        let send = async |client: &Client, _| client.post_numbered(&path, marketing, "more", json!({"count": 5})).await;
        one_effect(&arena.all(send).await, 201);
        assert_eq!(db.count("select count(*) from coupon").await, 3 + 5);

        // Registering.
        let phone = json!({"phone": "+8613800000001"});
        let send = async |client: &Client, _| client.post_numbered("/v1/members", pos, "lin", phone.clone()).await;
        one_effect(&arena.all(send).await, 201);
        assert_eq!(db.count("select count(*) from member").await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_number_with_64_bodies_is_good_for_one_of_them() {
    in_both_settings(async |arena: &Arena| {
        let rule = arena.client().rule(json!({})).await;
        let codes = arena.client().issue(&rule, json!({"count": WORKERS})).await;
        let answers = arena
            .all(async |client, worker| {
                let body = json!({"store_id": "S0001", "order_ref": "S0001-0093", "amount": 8000});
                let path = format!("/v1/coupons/{}/redeem", codes[worker]);
                client.post_numbered(&path, &client.keys.pos, "93", body).await
            })
            .await;
        let (winner, _) = one_winner(&answers, 200, "request_number_reused");
        let db = arena.db();
        assert_eq!(db.count("select count(*) from redemption").await, 1);
        assert_eq!(db.count("select count(*) from coupon where uses > 0").await, 1);
        let id = winner.json["redemption_id"].as_str().unwrap();
        let stored = format!("select count(*) from request where status = 200 and strpos(answer, '{id}') > 0");
        assert_eq!(db.count(&stored).await, 2, "its answer stands on both days");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_floating_number_sent_by_all_across_midnight_of_the_business_day_has_one_effect() {
    for batch_max in [64, 1] {
        eprintln!("TESSERA_WRITE_BATCH_MAX={batch_max}");
        let db = TestDb::new().await;
        let keys = Keys::make(&db).await;
        let mut settings = settings();
        settings.lane.write_batch_max = batch_max;
        let today = Zone::DEFAULT.day_of(Clock::system().now());
        let midnight = Zone::DEFAULT.start_of(today.plus(1));
        let node = |at| TestApp::on(&db, keys.clone(), settings.clone(), Clock::fixed(at));
        let before = node(midnight - chrono::TimeDelta::microseconds(1)).await;
        let after = node(midnight).await;
        let rule = before.client.rule(json!({})).await;
        let codes = before.client.issue(&rule, json!({"count": 6})).await;
        let send = async |client: &Client, code: &str| {
            let body = json!({"store_id": "S0001", "order_ref": "S0001-0093", "amount": 8000});
            client.post_numbered(&format!("/v1/coupons/{code}/redeem"), &keys.pos, &format!("no-{code}"), body).await
        };
        for code in &codes[..4] {
            let answers = all([&before.client, &after.client], async |client, _| send(client, code).await).await;
            one_effect(&answers, 200);
        }
        // And one after the other, in either order.
        for (code, first, second) in [(&codes[4], &before, &after), (&codes[5], &after, &before)] {
            let answer = send(&first.client, code).await.expect(200);
            let again = send(&second.client, code).await;
            assert_eq!(
                (again.text.as_str(), again.header("idempotency-replayed")),
                (answer.text.as_str(), Some("true"))
            );
        }
        assert_eq!(db.count("select count(*) from redemption").await, 6);
        assert_eq!(db.count("select count(*) from coupon where uses = 1").await, 6);
        let rows = "select count(*) from request where status = 200";
        assert_eq!(db.count(rows).await, 2 * 6, "each stands on two days");
        let shared = format!("{rows} and day = '{today}'");
        assert_eq!(db.count(&shared).await, 6, "of which this one is on both sides of midnight");
        before.stop().await;
        after.stop().await;
        assert_clean(&db).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_phone_registered_by_all_has_one_member() {
    in_both_settings(async |arena: &Arena| {
        let answers = arena
            .all(async |client, worker| {
                let phone = ["+8613800000001", "138 0000 0001", "+86 138-0000-0001", "13800000001"][worker / 2 % 4];
                // An e-mail that is free, so that losers have something to give back.
                let body = json!({"phone": phone, "email": format!("lin{worker}@example.cn")});
                client.post("/v1/members", &arena.till(worker).1, body).await
            })
            .await;
        let (winner, losers) = one_winner(&answers, 201, "member_key_taken");
        for loser in losers {
            assert_eq!((&loser.json["kind"], &loser.json["member_id"]), (&json!("phone"), &winner.json["member_id"]));
        }
        let member = winner.json["member_id"].as_str().unwrap();
        let db = arena.db();
        assert_eq!(db.count("select count(*) from member").await, 1);
        assert_eq!(db.count("select count(*) from member_key").await, 2);
        assert_eq!(db.count(&format!("select count(*) from member_key where member_id = {member}")).await, 2);
        assert_eq!(db.count("select count(*) from event").await, 1);
        // What the losers gave back is free.
        let loser = answers.iter().position(|answer| !answer.status.is_success()).unwrap();
        let body = json!({"email": format!("lin{loser}@example.cn")});
        arena.client().post("/v1/members", &arena.pair.keys.pos, body).await.expect(201);
    })
    .await;
}

/// A lane with one writer, which is held by a lock while requests gather behind it.
struct HeldLane {
    app: Arc<App>,
    db: TestDb,
    till: Till,
    blocker: PgConnection,
}

impl HeldLane {
    /// The writer waits for the leaf of this coupon.
    async fn hold(db: &TestDb, held: &str) -> Self {
        let mut settings = settings();
        settings.lane.lane_writers = 1;
        settings.lane.lane_lock_timeout = Duration::from_secs(5);
        let app =
            App::start(settings, db.service(), db.secrets(), Clock::system(), uuid::Uuid::new_v4()).await.unwrap();
        let store = app.stores.get(&StoreId::parse("S0001").unwrap()).await.unwrap();
        let till = Till {
            store_no: store.store_no,
            store_id: "S0001".into(),
            register: None,
            sequence: None,
            business_day: app.zone.day_of(app.clock.now()),
            regions: [].into(),
        };
        let blocker = hold(db, app.secrets.codes().parse(held).unwrap()).await;
        Self { app, db: db.clone(), till, blocker }
    }

    fn redeem(&self, code: &str) -> tokio::task::JoinHandle<(Answer, Cost)> {
        let window = Window::new(self.app.clock.now(), self.app.zone);
        let number = Source::Key(fresh_number());
        let number = RequestNumber::new("store:S0001", Operation::Redeem, &number, &window).unwrap();
        let ask = RedeemRequest {
            code_id: self.app.secrets.codes().parse(code).unwrap(),
            till: self.till.clone(),
            order_ref: "S0001-0093".into(),
            amount: 8000,
            currency: None,
            member_id: None,
            lines: Vec::new(),
        };
        let desk: Desk = self.app.desk.clone();
        tokio::spawn(async move { desk.redeem(Ticket { number, digest: 1 }, ask).await.unwrap() })
    }

    async fn until_waiting(&self, requests: usize) {
        until(async || self.app.lane.waiting().1 == requests).await;
    }

    async fn until_blocked(&self) {
        let blocked =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        until(async || self.db.count(blocked).await == 1).await;
    }

    async fn release(&mut self) {
        sqlx::query("rollback").execute(&mut self.blocker).await.unwrap();
    }
}

/// Looks until it is so, or for longer than the lane waits for a lock.
async fn until(is_so: impl AsyncFn() -> bool) {
    let look = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(6), look).await.expect("it did not come to that");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_batch_a_multi_use_coupon_is_used_twice_and_a_single_use_one_once() {
    let maker = TestApp::spawn().await;
    let (single, multi) = (maker.client.rule(json!({})).await, maker.client.rule(json!({"uses": 2})).await);
    let singles = maker.client.issue(&single, json!({"count": 2})).await;
    let multi = maker.client.issue(&multi, json!({"count": 1})).await.remove(0);

    let mut lane = HeldLane::hold(&maker.db, &singles[0]).await;
    let first = lane.redeem(&singles[0]);
    lane.until_blocked().await;
    // The order of arrival is the order of the answers.
    let mut waiting = Vec::new();
    for code in [&multi, &singles[1], &multi, &singles[1], &multi] {
        waiting.push(lane.redeem(code));
        lane.until_waiting(waiting.len()).await;
    }
    lane.release().await;
    assert_eq!(first.await.unwrap().0.status, 200);
    let mut answers: Vec<(u16, Value)> = Vec::new();
    for answer in waiting {
        let (answer, cost) = answer.await.unwrap();
        assert_eq!((cost.batch, answer.replayed), (5, false));
        answers.push((answer.status, serde_json::from_str(&answer.body).unwrap()));
    }
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 409, 409]);
    let shown = |no: usize| (&answers[no].1["uses"], &answers[no].1["state"]);
    assert_eq!(shown(0), (&json!(1), &json!("issued")));
    assert_eq!(shown(2), (&json!(2), &json!("redeemed")));
    // Each refusal names the last use that was granted before it in the same batch.
    for (refused, granted) in [(3, 1), (4, 2)] {
        let (refused, granted) = (&answers[refused].1, &answers[granted].1);
        assert_eq!(refused["code"], json!("coupon_already_redeemed"));
        assert!(refused.to_string().contains("\"store_id\":\"S0001\""), "{refused}");
        assert!(refused.to_string().contains(granted["redemption_id"].as_str().unwrap()), "{refused}");
    }
    assert_eq!(maker.db.count("select count(*) from redemption").await, 4);
    assert_eq!(maker.db.count("select count(distinct xmin::text) from redemption").await, 2, "two transactions");
    lane.blocker.close().await.unwrap();
    lane.app.stop().await;
    let db = maker.db.clone();
    maker.stop().await;
    assert_clean(&db).await;
}

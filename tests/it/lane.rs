//! The lane under pressure: neighbours of a batch, poison, resets, lost connections, full queues.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tessera::{
    app::App,
    chain::{StoreId, store::get_store},
    clock::Clock,
    config::Settings,
    coupon::{
        decide::Returned,
        desk::{DeskError, IssueRequest, RedeemRequest, ReverseRequest, Till},
    },
    db::lane::{Cost, LaneError},
    id::{CodeId, RedemptionId, StoreNo},
    partition::plan,
    request::{
        Operation, RequestNumber, Source, Window,
        store::{Answer, Ticket},
    },
    verify::{self, VerifySettings},
};
use tokio::io::AsyncWriteExt;

use crate::support::{
    TestApp, TestDb,
    proxy::{Cut, Proxy},
    scaled,
    server::{Client, Keys, Response, fresh_number, settings},
};

pub const SOON: Duration = Duration::from_secs(20);

/// Waits for a condition, with a bound.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < SOON, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn assert_verified(db: &TestDb) {
    let report = verify::run(&VerifySettings::default(), db.service(), db.secrets(), |_| {}).await.unwrap();
    assert!(report.is_clean(), "{}", report.render());
}

/// Sessions of this database that hold a transaction open and do nothing.
pub async fn idle_in_transaction(db: &TestDb) -> i64 {
    db.count(
        "select count(*) from pg_stat_activity \
         where datname = current_database() and state like 'idle in transaction%'",
    )
    .await
}

pub async fn waiting_for_locks(db: &TestDb) -> i64 {
    db.count("select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'")
        .await
}

/// Holds the leaf of a coupon until it is dropped or closed: unlike for a row, everybody waits for it.
pub async fn hold(db: &TestDb, code_id: CodeId) -> PgConnection {
    let mut conn = db.sql().await;
    let leaf = plan("coupon").leaf_i64(code_id.get());
    let sql = format!("begin; lock table {leaf} in access exclusive mode");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn
}

/// Patient with locks: tests hold some to have a queue behind them.
pub fn patient() -> Settings {
    let mut settings = settings();
    settings.lane.lane_writers = 1;
    settings.lane.lane_wait_max = SOON;
    settings.lane.batch_timeout = SOON;
    settings.lane.lane_lock_timeout = SOON;
    settings.lane.lane_statement_timeout = SOON;
    settings
}

/// A node without HTTP: what a handler calls, called by the test.
pub struct Node {
    pub app: Arc<App>,
    store_no: StoreNo,
}

impl Node {
    pub async fn start(db: &TestDb, settings: Settings) -> Self {
        let holder = uuid::Uuid::new_v4();
        let app = App::start(settings, db.service(), db.secrets(), Clock::system(), holder).await.unwrap();
        let store = get_store(&mut db.sql().await, &StoreId::parse("S0001").unwrap()).await.unwrap();
        Self { app, store_no: store.store_no }
    }

    pub fn ticket(&self, operation: Operation) -> Ticket {
        let window = Window::new(self.app.clock.now(), self.app.zone);
        let number = RequestNumber::new("store:S0001", operation, &Source::Key(fresh_number()), &window).unwrap();
        Ticket { number, digest: 1 }
    }

    fn till(&self) -> Till {
        Till {
            store_no: self.store_no,
            store_id: "S0001".into(),
            register: None,
            sequence: None,
            business_day: self.app.zone.day_of(self.app.clock.now()),
            regions: [].into(),
        }
    }

    pub async fn redeem(&self, ticket: Ticket, code_id: CodeId) -> Result<(Answer, Cost), DeskError> {
        let ask = RedeemRequest {
            code_id,
            till: self.till(),
            order_ref: fresh_number(),
            amount: 8000,
            currency: None,
            member_id: None,
            lines: Vec::new(),
        };
        self.app.desk.redeem(ticket, ask).await
    }

    pub async fn reverse(
        &self,
        ticket: Ticket,
        code_id: CodeId,
        redemption_id: RedemptionId,
    ) -> Result<(Answer, Cost), DeskError> {
        let ask =
            ReverseRequest { code_id, redemption_id, till: self.till(), order_ref: None, returned: Returned::Whole };
        self.app.desk.reverse(ticket, ask).await
    }

    pub fn code_id(&self, code: &str) -> CodeId {
        self.app.secrets.codes().parse(code).unwrap()
    }
}

/// A redemption at S0001 under a number and an order of the test's choice.
async fn redeem(api: &Client, code: &str, number: &str, order: &str, amount: i64) -> Response {
    let body = json!({"store_id": "S0001", "order_ref": order, "amount": amount});
    api.post_numbered(&format!("/v1/coupons/{code}/redeem"), &api.keys.pos, number, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_never_swap_between_neighbours_of_a_batch() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let app = TestApp::on(&db, keys, patient(), Clock::system()).await;
    let api = &app.client;
    let rule = api.rule(json!({})).await;
    let codes = api.issue(&rule, json!({"count": 160})).await;
    // Every fourth has been spent by another order, every other fourth is asked for too small a sale.
    for code in codes.iter().step_by(4) {
        redeem(api, code, &fresh_number(), &format!("first-{code}"), 8000).await.expect(200);
    }
    let stall = hold(&db, db.secrets().codes().parse(&codes[1]).unwrap()).await;
    let tills: Vec<_> = codes
        .iter()
        .enumerate()
        .map(|(position, code)| {
            let (api, code) = (api.clone(), code.clone());
            tokio::spawn(async move {
                let amount = if position % 4 == 2 { 100 + position as i64 } else { 6000 + position as i64 };
                let order = format!("order-{position}");
                (position, redeem(&api, &code, &fresh_number(), &order, amount).await)
            })
        })
        .collect();
    until("a batch waits", async || waiting_for_locks(&db).await == 1).await;
    stall.close().await.unwrap();
    let mut granted: HashMap<i64, (i64, String, i64)> = HashMap::new();
    for till in tills {
        let (position, answer) = till.await.unwrap();
        match position % 4 {
            0 => assert_eq!(
                (answer.code(), &answer.json["order_ref"]),
                ("coupon_already_redeemed", &json!(format!("first-{}", codes[position]))),
                "{}",
                answer.text
            ),
            2 => assert_eq!((answer.status.as_u16(), answer.code()), (422, "coupon_below_threshold")),
            _ => {
                let answer = answer.expect(200).json;
                assert_eq!(answer["code"], json!(codes[position]));
                assert_eq!(answer["order_ref"], json!(format!("order-{position}")));
                assert_eq!(answer["payable"], json!(5000 + position));
                let id = answer["redemption_id"].as_str().unwrap().parse().unwrap();
                let code_id = db.secrets().codes().parse(&codes[position]).unwrap().get();
                granted.insert(id, (code_id, format!("order-{position}"), 6000 + position as i64));
            }
        }
    }
    assert_eq!(granted.len(), 80);
    let rows: Vec<(i64, i64, String, i64)> = sqlx::query_as(
        "select redemption_id, code_id, order_ref, amount from redemption where order_ref like 'order-%'",
    )
    .fetch_all(&mut db.sql().await)
    .await
    .unwrap();
    let ledger: HashMap<_, _> = rows.into_iter().map(|(id, code, order, amount)| (id, (code, order, amount))).collect();
    assert_eq!(ledger, granted);
    let looks = codes.iter().map(|code| async move {
        let seen = api.get(&format!("/v1/coupons/{code}"), &api.keys.pos).await.expect(200);
        assert_eq!(seen.json["code"], json!(code));
    });
    futures_util::future::join_all(looks).await;
    assert_verified(&db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_request_fails_alone() {
    let app = TestApp::spawn().await;
    let rule = app.client.rule(json!({})).await;
    let codes = app.client.issue(&rule, json!({"count": 9})).await;
    let node = Arc::new(Node::start(&app.db, patient()).await);
    let ids: Vec<CodeId> = codes.iter().map(|code| node.code_id(code)).collect();
    let poison = ids[4];
    let plant = format!("alter table redemption add constraint poison check (code_id <> {poison}) not valid");
    sqlx::raw_sql(AssertSqlSafe(plant)).execute(&mut app.db.sql().await).await.unwrap();

    let stall = hold(&app.db, ids[8]).await;
    let spawn = |code_id: CodeId, ticket: Ticket| {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.redeem(ticket, code_id).await })
    };
    let first = spawn(ids[8], node.ticket(Operation::Redeem));
    until("the first batch waits", async || waiting_for_locks(&app.db).await == 1).await;
    let tickets: Vec<Ticket> = (0..8).map(|_| node.ticket(Operation::Redeem)).collect();
    let neighbours: Vec<_> = ids[..8].iter().zip(&tickets).map(|(id, ticket)| spawn(*id, ticket.clone())).collect();
    until("the neighbours wait", async || node.app.lane.waiting().1 == 8).await;
    stall.close().await.unwrap();
    assert_eq!(first.await.unwrap().unwrap().0.status, 200);
    for (position, neighbour) in neighbours.into_iter().enumerate() {
        match neighbour.await.unwrap() {
            Ok((answer, cost)) => {
                assert_eq!((answer.status, cost.batch), (200, 8), "{}", answer.body);
                assert_ne!(position, 4);
            }
            Err(DeskError::Lane(LaneError::Failed(_))) => assert_eq!(position, 4),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(app.db.count("select count(*) from redemption").await, 8);
    // The claim of the poisoned one is gone with it, so that its number is good for another attempt.
    let heal = "alter table redemption drop constraint poison";
    sqlx::raw_sql(heal).execute(&mut app.db.sql().await).await.unwrap();
    let (answer, _) = node.redeem(tickets[4].clone(), poison).await.unwrap();
    assert_eq!((answer.status, answer.replayed), (200, false));
    assert_eq!(app.db.count("select count(*) from redemption").await, 9);
    assert_verified(&app.db).await;
    node.app.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_cancellations_and_resets_leave_nothing_open_and_nothing_half_done() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let rule = api.rule(json!({"stock": 10_000})).await;
    let codes = api.issue(&rule, json!({"count": 500})).await;
    let address = api.base.strip_prefix("http://").unwrap().to_owned();
    let numbers: Vec<String> = codes.iter().map(|_| fresh_number()).collect();
    let mut rng = StdRng::seed_from_u64(500);
    let mut tills = Vec::new();
    for (position, (code, number)) in codes.iter().zip(&numbers).enumerate() {
        let (api, code, number, address) = (api.clone(), code.clone(), number.clone(), address.clone());
        let patience = Duration::from_micros(rng.random_range(0..12_000));
        let (whole, part) = (rng.random_bool(0.7), rng.random_range(0.0..1.0));
        tills.push(tokio::spawn(async move {
            if position % 2 == 0 {
                let _ = tokio::time::timeout(patience, redeem(&api, &code, &number, &code, 8000)).await;
                return;
            }
            let body = json!({"store_id": "S0001", "order_ref": code, "amount": 8000}).to_string();
            let text = format!(
                "POST /v1/coupons/{code}/redeem HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
                 idempotency-key: {number}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                api.keys.pos,
                body.len(),
            );
            let sent = if whole { text.len() } else { (text.len() as f64 * part) as usize };
            let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
            socket.write_all(&text.as_bytes()[..sent]).await.unwrap();
            tokio::time::sleep(patience).await;
            // Closed with a reset, whatever is under way.
            socket.set_zero_linger().unwrap();
        }));
        if position % 25 == 24 {
            for till in tills.drain(..) {
                till.await.unwrap();
            }
        }
    }
    until("nothing is open", async || idle_in_transaction(db).await == 0).await;
    let done_before = db.count("select count(*) from redemption").await;
    assert!((1..500).contains(&done_before), "{done_before} of 500 were done: nothing was tested");
    for (code, number) in codes.iter().zip(&numbers) {
        let answer = redeem(api, code, number, code, 8000).await.expect(200);
        let stored = api.get(&format!("/v1/requests/redeem/{number}"), &api.keys.pos).await.expect(200);
        assert_eq!(stored.json["answer"], answer.json);
    }
    for (sql, wanted) in [
        ("select count(*) from redemption", 500),
        ("select count(distinct code_id) from redemption", 500),
        ("select count(*) from coupon where state = 2 and uses = 1", 500),
        ("select count(*) from request where status is null", 0),
        ("select count(*) from event where kind = (select kind from event order by event_id desc limit 1)", 500),
    ] {
        assert_eq!(db.count(sql).await, wanted, "{sql}");
    }
    assert_eq!(idle_in_transaction(db).await, 0);
    assert_verified(db).await;
    app.stop().await;
}

/// Sends so many redemptions at once while a connection is cut, repeats each, and compares.
async fn cut_and_compare(api: &Client, db: &TestDb, proxy: &Proxy, cut: Cut, codes: &[String]) {
    let cuts = proxy.cuts();
    proxy.arm(cut);
    let tills = codes.iter().map(|code| async move {
        let (number, order) = (fresh_number(), format!("{cut:?}-{code}"));
        let answer = redeem(api, code, &number, &order, 8000).await;
        (code, number, order, answer)
    });
    let answers = futures_util::future::join_all(tills).await;
    assert_eq!(proxy.cuts(), cuts + 1, "{cut:?} was not met");
    for (code, number, order, first) in answers {
        assert!(matches!(first.status.as_u16(), 200 | 503), "{cut:?}: {}", first.text);
        let asked = format!("/v1/requests/redeem/{number}");
        let told = api.get(&asked, &api.keys.pos).await;
        let rows = format!("select count(*) from redemption where order_ref = '{order}'");
        let done = db.count(&rows).await;
        match (told.status.as_u16(), done) {
            (200, 1) | (404, 0) => {}
            other => panic!("{cut:?}: asking gives {other:?}"),
        }
        if first.status == 200 {
            assert_eq!((told.status.as_u16(), &told.json["answer"]), (200, &first.json), "{cut:?}");
        } else {
            assert!(first.header("retry-after").is_some());
        }
        let again = redeem(api, code, &number, &order, 8000).await.expect(200);
        let told = api.get(&asked, &api.keys.pos).await.expect(200);
        assert_eq!(told.json["answer"], again.json);
        if first.status == 200 {
            assert_eq!((again.header("idempotency-replayed"), &again.text), (Some("true"), &first.text));
        }
        if cut == Cut::AfterCommit {
            // A repetition by itself has no COMMIT that it could lose.
            let cuts = proxy.cuts();
            proxy.arm(cut);
            let once_more = redeem(api, code, &number, &order, 8000).await.expect(200);
            assert_eq!((once_more.header("idempotency-replayed"), &once_more.text), (Some("true"), &again.text));
            assert_eq!(proxy.cuts(), cuts);
            proxy.disarm();
        }
        assert_eq!(db.count(&rows).await, 1, "{cut:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_at_any_step_of_a_commit_leaves_the_truth_and_one_effect() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let proxy = Proxy::start(&db);
    let app = TestApp::on(&db.through(proxy.socket_dir()), keys, settings(), Clock::system()).await;
    let api = &app.client;
    let rule = api.rule(json!({})).await;
    let rounds = scaled(1, 10);
    for _ in 0..rounds {
        for cut in Cut::ALL {
            let codes = api.issue(&rule, json!({"count": 9})).await;
            cut_and_compare(api, &db, &proxy, cut, &codes[..1]).await;
            cut_and_compare(api, &db, &proxy, cut, &codes[1..]).await;
        }
    }
    let wanted = (rounds * Cut::ALL.len() * 9) as i64;
    assert_eq!(db.count("select count(*) from redemption").await, wanted);
    assert_eq!(idle_in_transaction(&db).await, 0);
    assert_verified(&db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_database_gives_503_at_once_and_recovers_by_itself() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let proxy = Proxy::start(&db);
    let mut settings = settings();
    settings.lane.batch_timeout = Duration::from_secs(1);
    let app = TestApp::on(&db.through(proxy.socket_dir()), keys, settings, Clock::system()).await;
    let api = &app.client;
    let rule = api.rule(json!({})).await;
    let codes = api.issue(&rule, json!({"count": 10})).await;
    redeem(api, &codes[0], &fresh_number(), "warm", 8000).await.expect(200);

    proxy.refuse();
    let number = fresh_number();
    for _ in 0..5 {
        let asked = Instant::now();
        let refused = [
            redeem(api, &codes[1], &number, "away", 8000).await,
            api.get(&format!("/v1/coupons/{}", codes[1]), &api.keys.pos).await,
            api.post("/v1/members/lookup", &api.keys.pos, json!({"phone": "+8613800000009"})).await,
        ];
        assert!(asked.elapsed() < Duration::from_secs(3), "three answers took {:?}", asked.elapsed());
        for answer in refused {
            assert_eq!((answer.status.as_u16(), answer.code()), (503, "unavailable"), "{}", answer.text);
            assert!(answer.header("retry-after").is_some());
        }
    }
    proxy.open();
    until("the database is found again", async || redeem(api, &codes[1], &number, "away", 8000).await.status == 200)
        .await;

    // One that takes connections and says nothing is worse than one that is away: bounds of time end the wait.
    proxy.stall();
    let number = fresh_number();
    let asked = Instant::now();
    let answer = redeem(api, &codes[2], &number, "silent", 8000).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.header("retry-after").is_some());
    assert!(asked.elapsed() < Duration::from_secs(12), "the answer took {:?}", asked.elapsed());
    proxy.open();
    until("the database speaks again", async || redeem(api, &codes[2], &number, "silent", 8000).await.status == 200)
        .await;
    assert_eq!(db.count("select count(*) from redemption").await, 3);
    assert_verified(&db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_and_keeps_what_it_took() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let mut settings = patient();
    settings.lane.queue_max = 8;
    let app = TestApp::on(&db, keys, settings, Clock::system()).await;
    let api = &app.client;
    let rule = api.rule(json!({})).await;
    let codes = api.issue(&rule, json!({"count": 41})).await;
    let stall = hold(&db, db.secrets().codes().parse(&codes[40]).unwrap()).await;
    let spawn = |code: &String| {
        let (api, code) = (api.clone(), code.clone());
        tokio::spawn(async move { redeem(&api, &code, &fresh_number(), &code, 8000).await })
    };
    let first = spawn(&codes[40]);
    until("the writer waits", async || waiting_for_locks(&db).await == 1).await;
    let tills: Vec<_> = codes[..40].iter().map(spawn).collect();
    // All but the eight that fit are answered while nothing moves.
    until("the rest is refused", async || tills.iter().filter(|till| till.is_finished()).count() == 32).await;
    stall.close().await.unwrap();
    first.await.unwrap().expect(200);
    let mut granted = 0;
    for till in tills {
        let answer = till.await.unwrap();
        if answer.status == 200 {
            granted += 1;
            continue;
        }
        assert_eq!((answer.status.as_u16(), answer.code()), (503, "overloaded"));
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(granted, 8);
    assert_eq!(db.count("select count(*) from redemption").await, 9);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shuffled_batches_by_leaf_and_by_parent_do_not_deadlock() {
    let batches = scaled(500, 10_000) as u64;
    let setup = TestApp::spawn().await;
    let (api, db) = (&setup.client, setup.db.clone());
    let rules =
        [api.rule(json!({})).await, api.rule(json!({"uses": 1000})).await, api.rule(json!({"uses": 1000})).await];
    let (mut codes, mut members) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let member = api.member(&format!("+86138000001{number:02}")).await;
        for rule in &rules {
            codes.extend(api.issue(rule, json!({"member_id": member})).await);
        }
        members.push(member);
    }
    setup.stop().await;

    let mut nodes = Vec::new();
    for leaves_max in [0, 3] {
        let mut settings = settings();
        (settings.lane.lane_writers, settings.lane.write_batch_max) = (2, 12);
        settings.lane.leaves_max = leaves_max;
        nodes.push(Arc::new(Node::start(&db, settings).await));
    }
    let ids: Arc<Vec<CodeId>> = Arc::new(codes.iter().map(|code| nodes[0].code_id(code)).collect());
    let (rules, members) = (Arc::new(rules), Arc::new(members));
    // A request in a batch of n is an nth of a batch.
    let done = Arc::new(AtomicU64::new(0));
    let tills: Vec<_> = (0..48)
        .map(|till| {
            let node = Arc::clone(&nodes[till % 2]);
            let (ids, rules, members, done) = (ids.clone(), rules.clone(), members.clone(), done.clone());
            tokio::spawn(async move {
                let mut rng = StdRng::seed_from_u64(till as u64);
                let mut redeemed: Vec<(CodeId, Value)> = Vec::new();
                while done.load(Ordering::Relaxed) < batches * 1_000_000 {
                    let cost = one_request(&node, &mut rng, &ids, &rules[..], &members, &mut redeemed).await;
                    done.fetch_add(1_000_000 / u64::from(cost.batch.max(1)), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for till in tills {
        till.await.unwrap();
    }
    for node in &nodes {
        node.app.stop().await;
    }
    // A session says what it counted when it ends at the latest.
    until("the sessions are gone", async || {
        db.count(
            "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'tessera%'",
        )
        .await
            == 0
    })
    .await;
    assert_eq!(db.count("select deadlocks from pg_stat_database where datname = current_database()").await, 0);
    assert_verified(&db).await;
}

/// Redeems, takes back or issues at random.
async fn one_request(
    node: &Node,
    rng: &mut StdRng,
    ids: &[CodeId],
    rules: &[String],
    members: &[String],
    redeemed: &mut Vec<(CodeId, Value)>,
) -> Cost {
    let choice = rng.random_range(0..10);
    let code_id = *ids.choose(rng).unwrap();
    let (answer, cost) = if choice == 0 {
        let ask = IssueRequest {
            rule_id: rules.choose(rng).unwrap().parse().unwrap(),
            member_id: Some(members.choose(rng).unwrap().parse().unwrap()),
            count: 1,
            referrer: None,
            claimed: false,
            issued_on: None,
            store_no: None,
        };
        node.app.desk.issue(node.ticket(Operation::Issue), ask).await.unwrap()
    } else if choice < 5
        && let Some((code_id, redemption_id)) = redeemed.pop()
    {
        let redemption_id = redemption_id.as_str().unwrap().parse().unwrap();
        node.reverse(node.ticket(Operation::Reverse), code_id, redemption_id).await.unwrap()
    } else {
        let (answer, cost) = node.redeem(node.ticket(Operation::Redeem), code_id).await.unwrap();
        if answer.status == 200 {
            let body: Value = serde_json::from_str(&answer.body).unwrap();
            redeemed.push((code_id, body["redemption_id"].clone()));
        }
        (answer, cost)
    };
    assert!(matches!(answer.status, 200 | 201 | 409 | 422), "{}", answer.body);
    cost
}

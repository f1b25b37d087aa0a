//! Uploads of what tills did offline, at once, against tills that are online, and wherever they broke off: nothing twice
//! and nothing lost.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use tessera::clock::Clock;

use crate::{
    races::assert_clean,
    support::{
        Pair, Server, TestDb,
        offline::{UPLOAD, assert_once, item, reasons, upload, with},
        scaled,
        server::{Client, Keys},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn one_upload_sent_by_16_at_once_over_two_processes_happens_once() {
    for batch_max in ["64", "1"] {
        let pair = Pair::spawn(&[("TESSERA_WRITE_BATCH_MAX", batch_max)]).await;
        let api = &pair.a.client;
        let rule = api.rule(json!({"uses": 2, "budget": 40_000})).await;
        let codes = api.issue(&rule, json!({"count": 30})).await;
        let now = Clock::system().now();
        // Each coupon three times, and numbers with two contents.
        let mut items: Vec<Value> = (0..90).map(|n| item(n, &codes[n % 30], now)).collect();
        items.extend((0..5).map(|n| with(item(n, &codes[n], now), json!({"amount": 9000}))));
        let answers = join_all((0..16).map(|worker| {
            let (client, items) = (pair.clients()[worker % 2], &items);
            async move { upload(client, "1", items).await.expect(200) }
        }))
        .await;
        for answer in &answers {
            assert_eq!(answer.json["items"], answers[0].json["items"]);
        }
        let told = reasons(&answers[0]);
        assert_eq!(told.iter().filter(|reason| reason.is_empty()).count(), 40, "{told:?}");
        assert!(told[90..].iter().all(|reason| *reason == "request_number_reused"), "{told:?}");
        let new: i64 = answers.iter().map(|answer| 95 - answer.json["repeated"].as_i64().unwrap()).sum();
        assert_eq!(new, 95, "each was decided once");
        assert_once(&pair.db, 95).await;
        assert_eq!(pair.db.count("select spent from coupon_stock where store_no = 0 and period = 0").await, 40_000);
        assert_clean(&pair.db).await;
    }
}

/// Uses of coupons are exact, and told by the ledger.
async fn assert_uses(db: &TestDb, most: i64) {
    let twisted = "select count(*) from coupon c where c.uses <> (select count(*) from redemption r
        where r.code_id = c.code_id and r.kind = 1 and not r.reversed_whole)";
    assert_eq!(db.count(twisted).await, 0);
    assert!(db.count("select max(uses)::bigint from coupon").await <= most);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_against_tills_online_spend_each_use_once() {
    const UPLOADS: usize = 8;
    for batch_max in ["64", "1"] {
        let pair = Pair::spawn(&[("TESSERA_WRITE_BATCH_MAX", batch_max)]).await;
        let api = &pair.a.client;
        let rule = api.rule(json!({"uses": 3})).await;
        let codes = api.issue(&rule, json!({"count": 40})).await;
        let now = Clock::system().now();
        let online = AtomicUsize::new(0);
        let uploads = join_all((0..UPLOADS).map(|worker| {
            let (client, codes) = (pair.clients()[worker % 2], &codes);
            async move {
                let mut rng = StdRng::seed_from_u64(worker as u64);
                let items: Vec<Value> =
                    (0..30).map(|n| item(n, &codes[rng.random_range(0..codes.len())], now)).collect();
                upload(client, &format!("up{worker}"), &items).await.expect(200)
            }
        }));
        let tills = join_all((0..8).map(|worker| {
            let (client, codes, online) = (pair.clients()[worker % 2], &codes, &online);
            async move {
                for n in 0..20 {
                    let answer = client.redeem(&codes[(worker * 7 + n * 3) % codes.len()]).await;
                    match answer.status.as_u16() {
                        200 => drop(online.fetch_add(1, Ordering::Relaxed)),
                        status => assert_eq!((status, answer.code()), (409, "coupon_already_redeemed")),
                    }
                }
            }
        }));
        let (answers, _) = tokio::join!(uploads, tills);
        let told: Vec<&str> = answers.iter().flat_map(reasons).collect();
        assert!(told.iter().all(|reason| ["", "coupon_already_redeemed"].contains(reason)), "{told:?}");
        let accepted = told.iter().filter(|reason| reason.is_empty()).count();
        let db = &pair.db;
        assert_once(db, UPLOADS * 30).await;
        let used = db.count("select sum(uses)::bigint from coupon").await;
        assert_eq!(used as usize, accepted + online.into_inner());
        assert_uses(db, 3).await;
        assert_clean(db).await;
    }
}

/// A till that sends its day in parts, each until it is answered.
async fn send_all(
    clients: &tokio::sync::watch::Receiver<Client>,
    register: &str,
    items: &[Value],
    sent: &AtomicUsize,
) -> Vec<Value> {
    let mut answers = Vec::new();
    for part in items.chunks(15) {
        let body = json!({"store_id": "S0001", "register": register, "items": part});
        let answer = loop {
            let client = clients.borrow().clone();
            let request = client.raw(Method::POST, UPLOAD).bearer_auth(&client.keys.pos).json(&body);
            match client.try_send(request).await {
                Ok(answer) if answer.status == 200 => break answer,
                Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text),
                // It is being killed: there will be another.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        sent.fetch_add(1, Ordering::SeqCst);
        answers.extend(answer.json["items"].as_array().unwrap().iter().cloned());
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_whose_server_is_killed_are_sent_again_with_nothing_twice_and_nothing_lost() {
    const TILLS: usize = 4;
    let (kills, each) = (scaled(3, 20), scaled(300, 2000));
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let more = [("TESSERA_WRITE_BATCH_MAX", "7")];
    let mut server = Server::spawn(&db, &keys, &more).await;
    let rule = server.client.rule(json!({"uses": 2})).await;
    let codes = server.client.issue(&rule, json!({"count": 500})).await;
    let (switch, clients) = tokio::sync::watch::channel(server.client.clone());
    let now = Clock::system().now();
    let items = |till: usize| -> Vec<Value> {
        (0..each)
            .map(|n| item(n, if n % 10 == 9 { "no code" } else { &codes[(n * (till + 1)) % codes.len()] }, now))
            .collect()
    };
    let sent = AtomicUsize::new(0);
    let parts = TILLS * each.div_ceil(15);
    let tills = join_all((0..TILLS).map(|till| {
        let (clients, sent, items) = (&clients, &sent, items(till));
        async move { send_all(clients, &till.to_string(), &items, sent).await }
    }));
    let killer = async {
        for kill in 0..kills {
            // When a good part more has been answered, in the middle of the next.
            while sent.load(Ordering::SeqCst) < (kill + 1) * parts / (kills + 2) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            server.child.kill().await.unwrap();
            server = Server::spawn(&db, &keys, &more).await;
            switch.send_replace(server.client.clone());
        }
    };
    let (first, ()) = tokio::join!(tills, killer);
    assert_once(&db, TILLS * each).await;
    // All again: what was heard is what stands.
    for (till, first) in first.iter().enumerate() {
        let again = send_all(&clients, &till.to_string(), &items(till), &sent).await;
        assert_eq!(&again, first);
    }
    assert_once(&db, TILLS * each).await;
    assert_uses(&db, 2).await;
    assert_clean(&db).await;
}

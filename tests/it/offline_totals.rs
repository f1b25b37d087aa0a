//! What a day of a store comes to, with what its tills did while they were cut off.

use std::collections::{HashMap, HashSet};

use chrono::TimeDelta;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use sqlx::Row;
use tessera::id::Day;

use crate::{
    races::assert_clean,
    support::{
        TestDb,
        offline::{at_noon, day_of, item, noon, upload, with},
        scaled,
        server::{Client, fresh_number, make_store},
    },
};

/// The sums of a day in plain SQL: of a kind of rows, by register.
async fn sums(db: &TestDb, day: Day, condition: &str) -> HashMap<Option<String>, [i64; 3]> {
    let sql = format!(
        "select register, count(*), sum(amount)::bigint, coalesce(sum(discount), 0)::bigint from {condition} \
         and store_no = (select store_no from store where store_id = 'S0001') group by register"
    );
    let sql = sql.replace("DAY", &day.number().to_string());
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut db.sql().await).await.unwrap();
    rows.iter().map(|row| (row.get(0), [row.get(1), row.get(2), row.get(3)])).collect()
}

/// The totals equal what the rows of ledger and conflicts add up to.
async fn assert_reconciled(api: &Client, db: &TestDb, day: Day) -> Value {
    let path = format!("/v1/pos/totals?store=S0001&business_date={day}&by_rule=true");
    let totals = api.get(&path, &api.keys.ops).await.expect(200).json;
    let of = |sum: &Value| ["count", "amount", "discount"].map(|name| sum[name].as_i64().unwrap());
    let (mut net, mut registers) = (0, HashSet::new());
    let ledger = "redemption where redemption_id >> 41 = DAY and";
    for (name, conditions) in [
        ("redemptions", format!("{ledger} kind = 1")),
        ("offline", format!("{ledger} kind = 1 and occurred_at is not null")),
        ("reversals_whole", format!("{ledger} kind = 2 and reversed_whole")),
        ("reversals_partial", format!("{ledger} kind = 2 and not reversed_whole")),
        ("conflicts", "redemption_conflict where conflict_id >> 41 = DAY".to_owned()),
    ] {
        let expected = sums(db, day, &conditions).await;
        let at = |one: &Value| of(if name == "conflicts" { &one["conflicts"] } else { &one["ledger"][name] });
        let mut all = [0; 3];
        for register in totals["registers"].as_array().unwrap() {
            let key = register["register"].as_str().map(str::to_owned);
            let sum = at(register);
            assert_eq!(sum, expected.get(&key).copied().unwrap_or_default(), "{name} of {key:?}");
            all = [all[0] + sum[0], all[1] + sum[1], all[2] + sum[2]];
            registers.insert(key);
        }
        assert!(expected.keys().all(|register| registers.contains(register)), "{name}: a register is missing");
        assert_eq!(at(&totals), all, "{name} in all");
        match name {
            "redemptions" => net += all[2],
            "reversals_whole" | "reversals_partial" => net -= all[2],
            _ => {}
        }
        if name != "conflicts" {
            let by_rule = totals["rules"].as_array().unwrap().iter().map(|rule| of(&rule["ledger"][name]));
            let by_rule = by_rule.fold([0; 3], |sum, one| [sum[0] + one[0], sum[1] + one[1], sum[2] + one[2]]);
            assert_eq!(by_rule, all, "{name} by rule");
        }
    }
    assert_eq!(totals["ledger"]["net_discount"].as_i64(), Some(net));
    totals
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_of_a_random_day_are_the_sums_of_the_ledger_and_late_uploads_change_their_own_day() {
    let seed: u64 = std::env::var("TESSERA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    eprintln!("TESSERA_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let app = at_noon().await;
    let (api, db, now) = (&app.client, &app.db, noon());
    let (today, yesterday) = (day_of(now), day_of(now).plus(-1));
    make_store(&mut db.sql().await, "S0002").await;
    app.clock.set_offset_ms(-86_400_000);
    let percent = json!({"type": "percent_off", "basis_points": 1234});
    let rules =
        [api.rule(json!({"uses": 3})).await, api.rule(json!({"uses": 3, "discount": percent, "threshold": 0})).await];
    let mut codes = Vec::new();
    for rule in &rules {
        codes.extend(api.issue(rule, json!({"count": 40})).await);
    }
    app.clock.set_offset_ms(0);
    let mut used: Vec<(String, String, i64)> = Vec::new();
    for sequence in 0..scaled(150, 2000) {
        let (store, register) =
            if rng.random_bool(0.2) { ("S0002", "1") } else { ("S0001", ["1", "2", "3", ""][rng.random_range(0..4)]) };
        let mut till =
            json!({"store_id": store, "business_date": if rng.random_bool(0.2) { yesterday } else { today }});
        if !register.is_empty() {
            till["register"] = json!(register);
            till["sequence"] = json!(sequence);
        }
        let (path, body) = if used.is_empty() || rng.random_bool(0.6) {
            let code = &codes[rng.random_range(0..codes.len())];
            let amount = rng.random_range(5000..99_999);
            let sale = json!({"order_ref": format!("o{sequence}"), "amount": amount});
            (format!("/v1/coupons/{code}/redeem"), with(till, sale))
        } else {
            let (code, redemption, amount) = &used[rng.random_range(0..used.len())];
            let part = json!({"redemption_id": redemption, "amount": rng.random_range(1..*amount)});
            let undo = if rng.random_bool(0.5) { json!({"redemption_id": redemption}) } else { part };
            (format!("/v1/coupons/{code}/reverse"), with(till, undo))
        };
        let answer = api.post_numbered(&path, &api.keys.admin, &fresh_number(), body.clone()).await;
        if answer.status == 200 && path.ends_with("redeem") {
            let id = answer.json["redemption_id"].as_str().unwrap().to_owned();
            used.push((answer.json["code"].as_str().unwrap().to_owned(), id, body["amount"].as_i64().unwrap()));
        } else if answer.status != 200 {
            assert!([409, 422].contains(&answer.status.as_u16()), "{}", answer.text);
        }
    }
    for kind in ["kind = 1", "kind = 2 and reversed_whole", "kind = 2 and not reversed_whole"] {
        assert!(db.count(&format!("select count(*) from redemption where {kind}")).await > 5, "{kind}: a poor day");
    }
    let before = [assert_reconciled(api, db, yesterday).await, assert_reconciled(api, db, today).await];
    // What was done yesterday and comes now is yesterday's.
    let fresh = api.issue(&rules[0], json!({"count": 3})).await;
    let late: Vec<Value> = codes
        .iter()
        .chain(&fresh)
        .enumerate()
        .map(|(n, code)| item(5000 + n, code, now - TimeDelta::days(1) + TimeDelta::minutes(n as i64)))
        .collect();
    let sent = upload(api, "2", &late).await.expect(200);
    let (accepted, conflicts) = (&sent.json["accepted"], &sent.json["conflicts"]);
    assert!(accepted.as_i64() > Some(5) && conflicts.as_i64() >= Some(3), "{accepted} {conflicts}");
    let after = assert_reconciled(api, db, yesterday).await;
    assert_eq!(&after["ledger"]["offline"]["count"], accepted);
    assert_eq!(&after["conflicts"]["count"], conflicts);
    assert_ne!(after, before[0]);
    assert_eq!(assert_reconciled(api, db, today).await, before[1], "today's is untouched");
    // A till asks for its own store's, of today if it does not say.
    let own = api.get("/v1/pos/totals", &api.keys.pos).await.expect(200).json;
    assert_eq!((&own["ledger"], &own["rules"]), (&before[1]["ledger"], &Value::Null));
    let foreign = api.get("/v1/pos/totals?store=S0002", &api.keys.pos).await.expect(403);
    assert_eq!(foreign.code(), "store_forbidden");
    assert_clean(db).await;
    app.stop().await;
}

//! A share of every leaf: what lies on a page that is drawn is found, and of the rest nothing is said.

use std::collections::BTreeSet;

use super::*;
use crate::partition::{Leaf, plan};

const SEED: u64 = 3;

fn sampled(share: &str) -> VerifySettings {
    VerifySettings { sample: Some(share.parse().unwrap()), seed: Some(SEED), chunk_rows: 500, ..settings() }
}

/// 20,000 coupons more of rule 100, so that leaves have pages to draw from; every fifth is used.
const MORE: &str = "
    insert into coupon (code_id, rule_id, issued_at, valid_from, valid_until, member_id, rule_version, state, uses,
            redemption_id, redeemed_at, redeemed_store_no, order_ref)
        select 9822::bigint << 41 | n, 100, now(), now(), now(), 1000 + n % 50, 1, 1 + (n % 5 = 0)::int, (n % 5 = 0)::int,
            case when n % 5 = 0 then 9822::bigint << 41 | n end, case when n % 5 = 0 then now() end,
            case when n % 5 = 0 then 1 end, case when n % 5 = 0 then 'o' end
        from generate_series(1000001::bigint, 1020000) n;
    insert into redemption (redemption_id, code_id, rule_id, recorded_at, amount, discount, rule_version, store_no, kind,
            order_ref)
        select redemption_id, code_id, rule_id, redeemed_at, 8000, 1000, 1, 1, 1, 'o' from coupon
        where uses = 1 and code_id & 2199023255551 > 1000000;
    insert into coupon_receive select member_id, code_id, rule_id, valid_until, state from coupon
        where code_id & 2199023255551 > 1000000;
    insert into coupon_index select rule_id, code_id, valid_until, member_id, state, referrer from coupon
        where code_id & 2199023255551 > 1000000;
    update coupon_stock set issued = issued + 20000 where rule_id = 100;
    insert into member_rule (member_id, rule_id, taken)
        select member_id, 100, count(*) filter (where state <> 3) from coupon where member_id is not null and rule_id = 100
        group by member_id
        on conflict (member_id, rule_id) do update set taken = excluded.taken;
";

/// Leaf and page of a row.
async fn place(conn: &mut PgConnection, table: &str, condition: &str) -> (Leaf, u64) {
    let sql = format!(
        "select tableoid::regclass || ' ' || split_part(trim(both '()' from ctid::text), ',', 1) from {table}
         where {condition}"
    );
    let text: String = value(conn, &sql).await;
    let (leaf, page) = text.split_once(' ').unwrap();
    (plan(table).leaf_of_name(leaf).unwrap(), page.parse().unwrap())
}

async fn pages(conn: &mut PgConnection, leaf: Leaf) -> u64 {
    value::<i64>(conn, &format!("select pg_relation_size('{leaf}') / 8192")).await as u64
}

async fn is_drawn(conn: &mut PgConnection, sample: Sample, table: &str, condition: &str) -> bool {
    let (leaf, page) = place(conn, table, condition).await;
    let pages = pages(conn, leaf).await;
    sample.draw(leaf, 0..pages).contains(&page)
}

/// Of every hundredth coupon those on a page that is drawn, and the others.
async fn coupons(conn: &mut PgConnection, sample: Sample, table: &str) -> (Vec<i64>, Vec<i64>) {
    let (mut drawn, mut others) = (Vec::new(), Vec::new());
    for n in (1_000_005..1_020_000).step_by(100) {
        let code: i64 = DAY << 41 | n;
        if is_drawn(conn, sample, table, &format!("code_id = {code}")).await { &mut drawn } else { &mut others }
            .push(code);
    }
    (drawn, others)
}

#[tokio::test]
async fn a_sample_finds_what_lies_on_its_pages_both_ways_and_names_what_it_did_not_look_at() {
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    execute(&mut conn, MORE).await;
    assert!(verify(&db, &secrets, &settings()).await.is_clean());
    let clean = verify(&db, &secrets, &sampled("10%")).await;
    assert!(clean.is_clean(), "{}", clean.render());
    assert!(clean.render().ends_with("clean as far as looked at\n"), "{}", clean.render());
    let sample = clean.sample.unwrap();
    // Every table that is walked is looked at, and of what has many pages about a tenth.
    let walked: BTreeSet<_> = clean.pairs.iter().flat_map(|pair| pair.looked.iter().map(|one| one.table)).collect();
    let tables = PAIRS.iter().flat_map(|pair| pair.directions().iter().map(|direction| pair.walked(*direction)));
    assert_eq!(walked, tables.collect());
    let of_coupons = &clean.pairs[0].looked[0];
    assert_eq!((of_coupons.table, of_coupons.unit), ("coupon", Unit::Pages));
    assert!(of_coupons.looked * 5 < of_coupons.of, "{of_coupons:?}");
    let named = format!("{} of {} pages of coupon", of_coupons.of - of_coupons.looked, of_coupons.of);
    assert!(clean.render().contains(&format!("not checked: coupon / redemption: {named}; ")), "{}", clean.render());
    assert!(clean.pairs[0].rows < 5_000, "{} rows for a tenth of 25,000", clean.pairs[0].rows);

    let (drawn, others) = coupons(&mut conn, sample, "coupon").await;
    let (on, off) = (drawn[0], others[0]);
    for (sql, of_code) in [
        ("update coupon_receive set valid_until = now() + interval '1 day' where code_id = ", "altered coupon_receive"),
        ("delete from coupon_index where code_id = ", "missing coupon_index"),
        ("delete from redemption where code_id = ", "missing redemption"),
    ] {
        execute(&mut conn, &format!("begin; {sql}{on}; {sql}{off}; commit")).await;
        let whole = lines(&verify(&db, &secrets, &settings()).await);
        let found = lines(&verify(&db, &secrets, &sampled("10%")).await);
        let of = |lines: &[String], code: i64| {
            lines.iter().any(|line| line.starts_with(of_code) && line.contains(&code.to_string()))
        };
        assert!(of(&whole, on) && of(&whole, off), "{sql}: {whole:?}");
        assert!(of(&found, on), "{sql}: {found:?}");
        assert!(found.iter().all(|line| whole.contains(line)), "{sql}: {found:?} {whole:?}");
        let repaired = verify(&db, &secrets, &VerifySettings { repair: true, ..settings() }).await;
        assert!(repaired.is_clean(), "{sql}: {}", repaired.render());
    }
    // On the way back: index rows of coupons that are not there, on pages that are drawn and on others.
    let (drawn, others) = coupons(&mut conn, sample, "coupon_receive").await;
    let gone = [drawn[1], others[1], drawn[2], others[2]];
    let mut expected = Vec::new();
    for (code, table) in gone.iter().flat_map(|code| [(code, "coupon_receive"), (code, "coupon_index")]) {
        if is_drawn(&mut conn, sample, table, &format!("code_id = {code}")).await {
            expected.push((table, *code));
        }
    }
    let list = gone.map(|code| code.to_string()).join(", ");
    execute(&mut conn, &format!("delete from coupon where code_id in ({list})")).await;
    let report = verify(&db, &secrets, &sampled("10%")).await;
    let extra = report.differences().filter(|found| found.kind == Kind::Extra && found.table != "redemption");
    let mut found: Vec<_> = extra.map(|found| (found.table, found.key[1])).collect();
    let mut expected: Vec<_> = expected.into_iter().map(|(table, code)| (table, Value::I64(code))).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(expected.len() >= 2 && expected.len() < 8, "{expected:?}");
}

#[tokio::test]
async fn in_a_sample_rules_are_drawn_and_each_of_them_is_counted_whole() {
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    execute(&mut conn, "insert into coupon_stock (rule_id) select generate_series(1000, 1399)").await;
    execute(
        &mut conn,
        "update coupon_stock set issued = issued + 1 where (period, store_no) = (0, 0);
         insert into coupon_stock (rule_id, period, spent) select rule_id, 9822, 7 from coupon_stock
             where (period, store_no) = (0, 0)
             on conflict (rule_id, period, store_no) do update set spent = coupon_stock.spent + 7",
    )
    .await;
    let report = verify(&db, &secrets, &sampled("10%")).await;
    let sample = report.sample.unwrap();
    let mut by_leaf: HashMap<Leaf, Vec<u64>> = HashMap::new();
    for rule in (100..107).chain(1000..1400) {
        by_leaf.entry(plan("coupon_stock").leaf_i64(rule as i64)).or_default().push(rule);
    }
    let drawn: BTreeSet<u64> = by_leaf.into_iter().flat_map(|(leaf, rules)| sample.draw(leaf, rules)).collect();
    assert!((16..100).contains(&drawn.len()), "{drawn:?}");
    for name in ["coupon_index / coupon_stock", "coupon, redemption / coupon_stock by day, store and money"] {
        let pair = report.pairs.iter().find(|pair| pair.name == name).unwrap();
        let found: BTreeSet<u64> = pair.differences.iter().map(|found| found.key[0].as_i64() as u64).collect();
        assert_eq!(found, drawn, "{name}");
        let named = format!("{} of 407 rules of coupon_stock", 407 - drawn.len());
        assert!(pair.not_checked().contains(&named), "{:?}", pair.not_checked());
        assert!(pair.not_checked().last().unwrap().starts_with("whether the rows that were counted are right"));
    }
}

#[tokio::test]
async fn a_sample_of_everything_leaves_nothing_unchecked() {
    let (_, secrets) = secrets(7);
    let (db, _conn) = filled(&secrets).await;
    let report = verify(&db, &secrets, &sampled("100%")).await;
    assert!(report.is_clean(), "{}", report.render());
    assert!(report.pairs.iter().all(|pair| !pair.looked.is_empty() && pair.not_checked().is_empty()));
    assert!(!report.render().contains("not checked"), "{}", report.render());
}

#[tokio::test]
async fn a_sample_is_not_repaired() {
    let (_, secrets) = secrets(7);
    let db = TestDb::new().await;
    let both = VerifySettings { repair: true, ..sampled("10%") };
    let error = run(&both, db.options().clone(), secrets, |_| {}).await.unwrap_err();
    assert!(matches!(error, VerifyError::SampleRepaired), "{error}");
}

#[tokio::test]
async fn a_month_that_is_put_away_under_a_sample_is_not_said_to_be_looked_at() {
    let (_, secrets) = secrets(7);
    let (db, mut conn) = filled(&secrets).await;
    let settings = sampled("100%");
    let sample = Some(Sample { share: settings.sample.unwrap(), seed: SEED });
    let mut walker = walker(&db, &secrets, &settings, sample).await;
    let october = plan("coupon").leaf_of_name("coupon_m2026_10").unwrap();
    let has = pages(&mut conn, october).await;
    let mut report = PairReport::default();
    let course = walker.course(Pair::Ledger, Direction::Forward, october, &mut report).await.unwrap();
    assert!(matches!(course, Course::Drawn(_)));
    execute(&mut conn, "alter table coupon_m2026_10 rename to coupon_m2026_10_retired").await;
    execute(&mut conn, "alter table coupon detach partition coupon_m2026_10_retired").await;
    let mut suspicion = Suspicion::default();
    let stretch = Stretch::Pages(vec![0..1, 3..4]);
    let chunk =
        walker.standing_chunk(Pair::Ledger, Direction::Forward, october, &stretch, &mut suspicion).await.unwrap();
    assert!(chunk.is_none());
    assert_eq!(report.not_checked(), [format!("{has} of {has} pages of coupon")]);
}

//! The dataset builder against real PostgreSQL: what it makes is whole, provable and served, and it takes away what it made.

#[allow(dead_code, reason = "the harness of the service's own tests, of which a part is used")]
#[path = "../../../tests/it/support/db.rs"]
mod db;
mod driven;
mod site;

use loadtest::dataset::{Dataset, Fate, Manifest};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tessera::{
    member::key::Kind,
    partition::{plans, proof, queries},
    verify,
};

use db::TestDb;
use site::{Site, loadtest};

/// Tables that the tests of this binary add to the schema.
const MORE_SCHEMA: &str = "";
const SMALL: [&str; 8] = ["--members", "3K", "--coupons", "20K", "--seed", "7", "--no-raw", "--anyway"];

fn manifest_path(db: &TestDb) -> std::path::PathBuf {
    db.secrets_path().with_file_name(format!("{}.json", db.name))
}

async fn built(db: &TestDb, more: &[&str]) -> Manifest {
    let path = manifest_path(db);
    let output = loadtest(db, &[&["build"], &SMALL[..], &["--manifest", path.to_str().unwrap()], more].concat()).await;
    assert!(output.status.success(), "{}", site::said(&output));
    Manifest::load(&path).unwrap()
}

async fn service(db: &TestDb) -> PgConnection {
    PgConnection::connect_with(&db.service()).await.unwrap()
}

/// A digest of all rows by table, whatever order they are in. When an event was written is not its content.
async fn digests(db: &TestDb) -> Vec<(String, i64, Option<String>)> {
    let mut conn = db.sql().await;
    let mut found = Vec::new();
    let office = ["store", "region", "register", "coupon_rule", "coupon_rule_version", "legacy_code_shape"];
    let leafed = plans().iter().map(|plan| plan.table.as_str());
    for table in leafed.chain(office) {
        let what = if table == "event" { "(to_jsonb(t) - 'xid')::text" } else { "t::text" };
        let statement =
            format!("select count(*), md5(string_agg(md5({what}), '' order by md5({what}))) from {table} t");
        let (rows, digest) = sqlx::query_as(AssertSqlSafe(statement)).fetch_one(&mut conn).await.unwrap();
        found.push((table.to_owned(), rows, digest));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_built_dataset_is_clean_provable_and_served() {
    let db = TestDb::new().await;
    let manifest = built(&db, &[]).await;
    let dataset = Dataset::new(&manifest.shape);
    let report = verify::run(&Default::default(), db.service(), db.secrets(), |_| {}).await.unwrap();
    assert!(report.is_clean(), "{}", report.render());
    assert_eq!(report.pairs.len(), 9);
    let report = proof::run(&mut service(&db).await, queries(), |_| {}).await.unwrap();
    assert!(report.ok(), "{}", report.render());
    for (table, rows) in [("member", 3_000), ("coupon", 20_000), ("coupon_index", 20_000)] {
        assert_eq!(manifest.rows[table], rows);
        assert_eq!(db.count(&format!("select count(*) from {table}")).await, rows as i64);
    }
    let site = Site::open(&db).await;
    looked_up(&site, &manifest, &dataset).await;
    redeemed(&site, &manifest, &dataset).await;
    answers_are_the_ledgers(&db).await;
    as_wide_as_the_apis(&db, &site, &manifest, &dataset).await;
    driven::by_two_generators(&db, &site, &manifest_path(&db)).await;
    site.close().await;
}

/// A member is found by each identifier, with the coupons that it holds.
async fn looked_up(site: &Site, manifest: &Manifest, dataset: &Dataset) {
    let key = &manifest.keys.admin;
    for n in [0, 1, 2, 1_499, 2_999] {
        let member = dataset.member(n);
        for (kind, text) in member.identifiers() {
            let found = site.post("/v1/members/lookup", key, json!({ kind.name(): text })).await.expect(200);
            assert_eq!(found.json["member_id"], member.member_id.to_string(), "{kind}");
        }
    }
    let holder = (0..3_000).find(|n| dataset.held_by(*n) > 3).unwrap();
    let path = format!("/v1/members/{}/coupons?limit=200", dataset.member_id(holder));
    let list = site.get(&path, key).await.expect(200);
    assert_eq!(list.json["items"].as_array().unwrap().len(), dataset.held_by(holder) as usize);
    let now = tessera::clock::Clock::system().now();
    let owner = (0..20_000).filter_map(|ticket| dataset.usable(ticket, now)).find_map(|coupon| coupon.holder).unwrap();
    let path = format!("/v1/members/{}/wallet", dataset.member_id(owner));
    let wallet = site.post(&path, key, json!({})).await.expect(200);
    let coupons = wallet.json["items"].as_array().unwrap();
    let usable = dataset.coupons_of(owner).filter(|n| dataset.coupon(*n).is_usable(now)).count();
    assert_eq!(coupons.len(), usable, "{}", wallet.text);
}

/// Usable coupons are redeemed once, by their code and by the code that they had in an older system.
async fn redeemed(site: &Site, manifest: &Manifest, dataset: &Dataset) {
    let codes = site.secrets.codes();
    let now = tessera::clock::Clock::system().now();
    let store = "S00001";
    let redeem = async |code: &str, number: &str| {
        let body = json!({"store_id": store, "order_ref": number, "amount": 1_000_000});
        site.post_numbered(&format!("/v1/coupons/{code}/redeem"), &manifest.keys.pos[store], number, body).await
    };
    let mut usable = (0..20_000).filter_map(|ticket| dataset.usable(ticket, now));
    let own = usable.next().unwrap();
    let old = usable.find(|coupon| coupon.is_legacy).unwrap();
    for (n, code) in [dataset.text(&codes, &own), dataset.legacy_code(old.n)].into_iter().enumerate() {
        let done = redeem(&code, &format!("one-{n}")).await.expect(200);
        assert_eq!(done.json["state"], "redeemed");
        assert_eq!(redeem(&code, &format!("two-{n}")).await.expect(409).json["code"], "coupon_already_redeemed");
    }
    let spent = (0..20_000).map(|n| dataset.coupon(n)).find(|coupon| matches!(coupon.fate, Fate::Redeemed(_))).unwrap();
    let refused = redeem(&dataset.text(&codes, &spent), "spent").await.expect(409);
    assert_eq!(refused.json["code"], "coupon_already_redeemed");
}

/// The answer that is kept with a number says what the ledger says.
async fn answers_are_the_ledgers(db: &TestDb) {
    let mut conn = service(db).await;
    let answers: Vec<String> =
        sqlx::query_scalar("select answer from request where answer like '%redemption_id%' limit 20")
            .fetch_all(&mut conn)
            .await
            .unwrap();
    assert!(!answers.is_empty());
    for answer in answers {
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let id: i64 = answer["redemption_id"].as_str().unwrap().parse().unwrap();
        let row: (i64, String) = sqlx::query_as("select discount, order_ref from redemption where redemption_id = $1")
            .bind(id)
            .fetch_one(&mut conn)
            .await
            .unwrap();
        assert_eq!(
            (row.0, row.1.as_str()),
            (answer["discount"].as_i64().unwrap(), answer["order_ref"].as_str().unwrap())
        );
    }
}

/// A member that registers with what a built one has takes as many bytes in each table.
async fn as_wide_as_the_apis(db: &TestDb, site: &Site, manifest: &Manifest, dataset: &Dataset) {
    let all = |n: &u64| {
        let member = dataset.member(*n);
        member.identifiers().len() == 4
            && member.name().is_some()
            && member.birthday().is_some()
            && member.nickname().is_some()
            && member.attributes().is_some()
            && member.home_store().is_some()
    };
    let like = dataset.member((0..3_000).find(all).unwrap());
    // Another person with texts of the same length.
    let other = |text: String| {
        let mut digits = text.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().to_owned();
        let at = text.rfind(&digits).unwrap();
        digits = "9".repeat(digits.len());
        format!("{}{digits}", &text[..at])
    };
    let text = |kind| like.identifiers().into_iter().find(|(one, _)| *one == kind).unwrap().1;
    let body = json!({
        "phone": "+8618999999999",
        "email": text(Kind::Email).replacen('m', "w", 1),
        "card": other(text(Kind::Card)),
        "external": [other(text(Kind::External))],
        "name": like.name(), "birthday": like.birthday(), "nickname": like.nickname(), "gender": like.gender(),
        "source": like.source(), "store_id": loadtest::dataset::store_id(like.home_store().unwrap()),
        "attributes": serde_json::from_str::<Value>(&like.attributes().unwrap()).unwrap(),
    });
    let made = site.post_numbered("/v1/members", &manifest.keys.admin, "like", body).await.expect(201);
    let id: i64 = made.json["member_id"].as_str().unwrap().parse().unwrap();
    let mut conn = service(db).await;
    for table in ["member", "member_auth", "member_key"] {
        let statement =
            format!("select count(*), sum(pg_column_size(t.*))::bigint from {table} t where member_id = $1");
        let mut sizes = Vec::new();
        for id in [like.member_id.get(), id] {
            let size: (i64, i64) =
                sqlx::query_as(AssertSqlSafe(statement.clone())).bind(id).fetch_one(&mut conn).await.unwrap();
            sizes.push(size);
        }
        assert_eq!(sizes[0], sizes[1], "{table}: built, by the API");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_build_goes_on_and_ends_equal() {
    let (whole, killed) = (TestDb::new().await, TestDb::new().await);
    let at = ["--at", "2026-11-20T08:00:00Z"];
    built(&whole, &at).await;
    let manifest = killed.secrets_path().with_file_name("killed.json");
    let args = [&["build"], &SMALL[..], &at[..], &["--manifest", manifest.to_str().unwrap()]].concat();
    let mut conn = killed.sql().await;
    for leaves in [1, 25, 90] {
        let mut child = site::command(&killed, &args).spawn().unwrap();
        for _ in 0..2_400 {
            let done: Option<i64> = sqlx::query_scalar(
                "select case when to_regclass('loadtest.leaf') is not null then
                     (xpath('/row/c/text()', query_to_xml('select count(*) c from loadtest.leaf', false, true, '')))[1]::text::bigint
                 end",
            )
            .fetch_one(&mut conn)
            .await
            .unwrap();
            if done.unwrap_or(0) >= leaves || child.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        child.kill().await.unwrap();
    }
    assert!(!manifest.exists(), "it was to be killed before its end");
    built(&killed, &at).await;
    assert_eq!(digests(&killed).await, digests(&whole).await);
    let report = verify::run(&Default::default(), killed.service(), killed.secrets(), |_| {}).await.unwrap();
    assert!(report.is_clean(), "{}", report.render());
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_takes_away_what_was_built_and_refuses_what_was_not() {
    let (db, fresh) = (TestDb::new().await, TestDb::new().await);
    let empty = digests(&fresh).await;
    let refused = loadtest(&db, &["drop"]).await;
    assert!(site::said(&refused).contains("was not filled by"), "{}", site::said(&refused));
    built(&db, &[]).await;
    // The same again changes nothing; another is refused.
    let before = digests(&db).await;
    built(&db, &[]).await;
    assert_eq!(digests(&db).await, before);
    let other = loadtest(&db, &["build", "--members", "4K", "--coupons", "20K", "--seed", "7"]).await;
    assert!(site::said(&other).contains("holds a dataset of seed 7"), "{}", site::said(&other));
    // A row of somebody else's keeps all of it.
    let stranger = "insert into member (member_id, created_at, updated_at) values (1, now(), now())";
    let mut conn = db.sql().await;
    sqlx::raw_sql(stranger).execute(&mut conn).await.unwrap();
    let refused = loadtest(&db, &["drop"]).await;
    assert!(!refused.status.success() && site::said(&refused).contains("--with-all"), "{}", site::said(&refused));
    assert_eq!(db.count("select count(*) from member").await, 3_001);
    sqlx::raw_sql("delete from member where member_id = 1").execute(&mut conn).await.unwrap();
    let dropped = loadtest(&db, &["drop"]).await;
    assert!(dropped.status.success(), "{}", site::said(&dropped));
    assert_eq!(digests(&db).await, empty);
    // Whoever has rows is not built over.
    sqlx::raw_sql(stranger).execute(&mut conn).await.unwrap();
    let refused = loadtest(&db, &[&["build"], &SMALL[..]].concat()).await;
    assert!(site::said(&refused).contains("must be empty"), "{}", site::said(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_since_keeps_a_drop_away_and_one_that_failed_can_be_built_or_dropped_again() {
    let (db, fresh) = (TestDb::new().await, TestDb::new().await);
    built(&db, &[]).await;
    let before = digests(&db).await;
    let mut conn = db.sql().await;
    let key = "insert into api_key (created_at, store_no, role, key_id, name, secret_sha256)
        select now(), store_no, role, 'abcdefghijkl', 'till-1', sha256('x') from api_key where store_no is not null limit 1";
    for (made, says, undone) in [
        (
            "insert into store (store_id, name, created_at, updated_at) values ('MINE', 'Mine', now(), now())",
            "store has 1 row",
            "delete from store where store_id = 'MINE'",
        ),
        (
            "insert into coupon_rule (rule_id, created_at, updated_at, version, state) values (1, now(), now(), 1, 2)",
            "coupon_rule has 1 row",
            "delete from coupon_rule where rule_id = 1",
        ),
        (key, "api_key has 1 row", "delete from api_key where name = 'till-1'"),
    ] {
        sqlx::raw_sql(made).execute(&mut conn).await.unwrap();
        let refused = loadtest(&db, &["drop"]).await;
        assert!(site::said(&refused).contains(says), "{}", site::said(&refused));
        sqlx::raw_sql(undone).execute(&mut conn).await.unwrap();
    }
    assert_eq!(digests(&db).await, before);
    // What no drop knows of keeps a store: the leaves are gone by then, and no build takes them for filled.
    let keeper =
        "create table keeper (store_no integer references store); insert into keeper select min(store_no) from store";
    sqlx::raw_sql(keeper).execute(&mut conn).await.unwrap();
    let failed = loadtest(&db, &["drop"]).await;
    assert!(!failed.status.success() && site::said(&failed).contains("keeper"), "{}", site::said(&failed));
    assert_eq!(db.count("select count(*) from loadtest.leaf where leaf <> 'coupon_stock'").await, 0);
    built(&db, &[]).await;
    assert_eq!(digests(&db).await, before);
    // Keys of stores go when everything is to go.
    sqlx::raw_sql("drop table keeper").execute(&mut conn).await.unwrap();
    sqlx::raw_sql(key).execute(&mut conn).await.unwrap();
    let dropped = loadtest(&db, &["drop", "--with-all"]).await;
    assert!(dropped.status.success(), "{}", site::said(&dropped));
    assert_eq!(digests(&db).await, digests(&fresh).await);
}

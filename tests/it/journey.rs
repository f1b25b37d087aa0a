//! A real grocery chain's year of coupons, through the API alone: rules for each campaign's coupon, coupons issued by jobs as
//! of 2017, a tenth of them brought in as codes of an older system, and what was redeemed sent by tills afterwards, in a
//! stream salted with what cannot be.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use chrono::{Days, NaiveDate};
use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row;

use crate::support::{
    TestApp, TestDb,
    command::{said, tessera},
    coupon_job::{begin_import, done_at, failed_rows, jobs_of, send_file},
    job::{assert_verified, begin, done, rows},
    server::{Client, Keys, make_store, settings},
};

/// The external system that the households come from.
const SYSTEM: &str = "journey";
/// Tables whose rows of 2017 are to stay, though their plans would let them go.
const KEPT: [&str; 4] = ["coupon=none", "redemption=none", "redemption_conflict=none", "request=none"];
/// Jobs at a time.
const JOBS: usize = 4;
/// One redemption of the data in so many is followed by one that cannot be.
const SALT: usize = 25;

type Household = u32;

/// A coupon of a campaign: one rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Coupon {
    campaign: u32,
    upc: String,
}

/// The files, read and joined.
struct Journey {
    households: String,
    dates: BTreeMap<u32, (NaiveDate, NaiveDate)>,
    members: BTreeMap<u32, Vec<Household>>,
    coupons: Vec<Coupon>,
    /// In the order of their dates.
    redemptions: Vec<(NaiveDate, Household, Coupon)>,
}

fn read(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/journey").join(name);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("the data of the journey, {}: {error}", path.display()))
}

fn fields(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().skip(1).map(|line| line.split(',').collect())
}

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

impl Journey {
    fn read() -> Self {
        let dates =
            fields(&read("campaigns.csv")).map(|row| (row[0].parse().unwrap(), (date(row[2]), date(row[3])))).collect();
        let mut members: BTreeMap<u32, Vec<Household>> = BTreeMap::new();
        for row in fields(&read("campaign_members.csv")) {
            members.entry(row[0].parse().unwrap()).or_default().push(row[1].parse().unwrap());
        }
        let coupon = |campaign: &str, upc: &str| Coupon { campaign: campaign.parse().unwrap(), upc: upc.to_owned() };
        let coupons = fields(&read("coupons.csv")).map(|row| coupon(row[0], row[1])).collect();
        let mut redemptions: Vec<_> = fields(&read("redemptions.csv"))
            .map(|row| (date(row[3]), row[0].parse().unwrap(), coupon(row[2], row[1])))
            .collect();
        redemptions.sort();
        Self { households: read("members.csv"), dates, members, coupons, redemptions }
    }

    fn holders(&self, coupon: &Coupon) -> &[Household] {
        &self.members[&coupon.campaign]
    }

    fn issued_on(&self, coupon: &Coupon) -> NaiveDate {
        self.dates[&coupon.campaign].0
    }

    fn ends_on(&self, coupon: &Coupon) -> NaiveDate {
        self.dates[&coupon.campaign].1
    }

    fn issued(&self) -> usize {
        self.coupons.iter().map(|coupon| self.holders(coupon).len()).sum()
    }
}

/// A tenth of the coupons had been issued by an older system.
fn is_old(household: Household) -> bool {
    household % 10 == 7
}

/// What the older system called a coupon.
fn old_code(rule: usize, household: Household) -> String {
    format!("J-{rule:04}-{household:05}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_year_of_coupons_comes_out_as_it_was_and_what_cannot_be_is_set_aside() {
    let journey = Journey::read();
    assert_eq!((journey.issued(), journey.redemptions.len()), (475_951, 1_257), "the data is whole");
    let app = at_2017().await;
    let (api, db) = (&app.client, &app.db);
    let members = bring_in_households(api, &journey).await;
    let rules = make_rules(api, &journey).await;
    let codes = issue(api, &journey, &rules).await;
    bring_in_old(api, &journey, &rules).await;
    assert_issued(db, &journey, &rules).await;

    let till = Tills { journey: &journey, members: &members, codes: &codes };
    let stream = till.stream(db);
    let expected: BTreeMap<&str, usize> = stream.iter().fold(BTreeMap::new(), |mut found, sent| {
        *found.entry(sent.reason).or_default() += 1;
        found
    });
    send(api, &stream).await;
    assert_redeemed(db, &journey, &rules).await;
    assert_conflicts(db, &expected).await;
    // A till that is not sure sends everything again.
    send(api, &stream).await;
    assert_redeemed(db, &journey, &rules).await;
    assert_conflicts(db, &expected).await;
    assert_totals(api, &journey).await;

    assert_verified(db).await;
    // Each query must find something, also those of what the journey does not do.
    let patch = api.raw(Method::PATCH, &format!("/v1/members/{}", members.values().next().unwrap()));
    api.send(patch.bearer_auth(&api.keys.ops).header("if-match", "*").json(&json!({"name": "Lin"}))).await.expect(200);
    let proved = tessera(db, &["prove"]).await;
    assert!(proved.status.success(), "{}", said(&proved));
    app.stop().await;
}

/// A chain whose leaves reach back to 2017, and whose request numbers do.
async fn at_2017() -> TestApp {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    make_store(&mut db.sql().await, "S0002").await;
    let made =
        tessera(&db, &["partitions", "make", "--from", "2017-02", "--until", "2018-04", "--retain", &KEPT.join(",")])
            .await;
    assert!(made.status.success(), "{}", said(&made));
    let mut settings = settings();
    settings.partitions.retain = KEPT.iter().map(|keep| keep.parse().unwrap()).collect();
    settings.chain.request_days_back = 36_500;
    TestApp::on(&db, keys, settings, tessera::clock::Clock::system()).await
}

/// Household → member.
async fn bring_in_households(api: &Client, journey: &Journey) -> HashMap<Household, String> {
    let system = json!({"system": SYSTEM, "name": "Journey", "id_shape": "number"});
    api.post("/v1/external-systems", &api.keys.admin, system).await.expect(201);
    let names = journey.households.lines().next().unwrap().split(',').skip(1);
    let names: String = names.map(|name| format!(",attr.{name}")).collect();
    let query = format!("?columns=external:{SYSTEM}{names}&file_name=members.csv");
    let job = done(api, &begin(api, &query, journey.households.clone()).await).await;
    assert_eq!((job["state"].as_str(), rows(&job)), (Some("done"), (1373, 0, 0)), "{job}");
    let households = fields(&journey.households).map(|row| row[0].parse().unwrap()).collect::<Vec<Household>>();
    stream::iter(households)
        .map(async |household| {
            let body = json!({"external": format!("{SYSTEM}:{household}")});
            let found = api.post("/v1/members/lookup", &api.keys.pos, body).await.expect(200).json;
            (household, found["member_id"].as_str().unwrap().to_owned())
        })
        .buffer_unordered(JOBS)
        .collect()
        .await
}

/// Each coupon of a campaign is a rule: 1.00 off, twice at most, while the campaign lasts, at one store.
async fn make_rules(api: &Client, journey: &Journey) -> Vec<String> {
    let rule = async |coupon: &Coupon| {
        let (from, until) = (journey.issued_on(coupon), journey.ends_on(coupon) + Days::new(1));
        api.rule(json!({
            "name": format!("campaign {} coupon {}", coupon.campaign, coupon.upc),
            "discount": {"type": "amount_off", "amount": 100}, "threshold": 0, "uses": 2, "stores": {"in": ["S0001"]},
            "validity": {"from": format!("{from}T00:00:00+08:00"), "until": format!("{until}T00:00:00+08:00")},
        }))
        .await
    };
    stream::iter(&journey.coupons).map(rule).buffered(JOBS).collect().await
}

/// Issues all but the old ones, a job for each rule. Code by rule and member.
async fn issue(api: &Client, journey: &Journey, rules: &[String]) -> HashMap<(usize, String), String> {
    let job = async |(at, coupon): (usize, &Coupon)| {
        let households = journey.holders(coupon).iter().filter(|household| !is_old(**household));
        let rows: String = households.clone().map(|household| format!("{SYSTEM}:{household}\n")).collect();
        let path = format!("{}?start=true&issued_on={}", jobs_of(&rules[at]), journey.issued_on(coupon));
        let made = send_file(api, &path, format!("external\n{rows}")).await.expect(201);
        let path = made.header("location").unwrap();
        let job = done_at(api, path).await;
        let issued = job["rows_ok"].as_u64().unwrap() as usize;
        assert_eq!((job["state"].as_str(), issued), (Some("done"), households.count()), "{job}");
        let codes = codes_of_holders(api, path).await;
        assert_eq!(codes.len(), issued, "{coupon:?}");
        codes.into_iter().map(move |(code, member)| ((at, member), code)).collect::<Vec<_>>()
    };
    let jobs = stream::iter(journey.coupons.iter().enumerate()).map(job).buffer_unordered(JOBS);
    jobs.flat_map(stream::iter).collect().await
}

/// Code and holder of each coupon of a job.
async fn codes_of_holders(api: &Client, path: &str) -> Vec<(String, String)> {
    let text = api.get(&format!("{path}/codes"), &api.keys.marketing).await.expect(200).text;
    let rows = fields(&text).map(|row| (row[1].to_owned(), row[3].to_owned()));
    rows.collect()
}

/// What the older system had issued: one file for all of its rules.
async fn bring_in_old(api: &Client, journey: &Journey, rules: &[String]) {
    let shape = json!({"name": "journey", "length_min": 12, "length_max": 12, "alphabet": "J-0123456789"});
    api.post("/v1/legacy-code-shapes", &api.keys.admin, shape).await.expect(201);
    let mut file = "code,rule_id,issued_on,external,state\n".to_owned();
    let mut sent = 0;
    for (at, coupon) in journey.coupons.iter().enumerate() {
        for household in journey.holders(coupon).iter().filter(|household| is_old(**household)) {
            let (code, day) = (old_code(at, *household), journey.issued_on(coupon));
            file.push_str(&format!("{code},{},{day},{SYSTEM}:{household},issued\n", rules[at]));
            sent += 1;
        }
    }
    let path = begin_import(api, file).await;
    let job = done_at(api, &path).await;
    let failed = failed_rows(api, &path).await;
    assert_eq!((rows(&job), failed), ((sent, 0, 0), Vec::new()), "{job}");
}

async fn assert_issued(db: &TestDb, journey: &Journey, rules: &[String]) {
    for table in ["coupon", "coupon_receive", "coupon_index"] {
        assert_eq!(db.count(&format!("select count(*) from {table}")).await, journey.issued() as i64, "{table}");
    }
    let old: usize =
        journey.coupons.iter().map(|c| journey.holders(c).iter().filter(|one| is_old(**one)).count()).sum();
    assert_eq!(db.count("select count(*) from coupon_history_index").await, old as i64);
    let by_rule = "select rule_id::text as rule, count(*) as coupons from coupon_index group by 1";
    let by_rule: HashMap<String, i64> = sqlx::query(by_rule)
        .fetch_all(&mut db.sql().await)
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    for (rule, coupon) in rules.iter().zip(&journey.coupons) {
        assert_eq!(by_rule[rule], journey.holders(coupon).len() as i64, "{coupon:?}");
    }
}

/// An item as a till sends it, and what it is to be refused with; "" when it fits.
struct Sent {
    store: &'static str,
    item: Value,
    reason: &'static str,
}

struct Tills<'a> {
    journey: &'a Journey,
    members: &'a HashMap<Household, String>,
    codes: &'a HashMap<(usize, String), String>,
}

impl Tills<'_> {
    fn rule(&self, coupon: &Coupon) -> usize {
        self.journey.coupons.iter().position(|one| one == coupon).unwrap()
    }

    fn code(&self, household: Household, coupon: &Coupon) -> String {
        let rule = self.rule(coupon);
        if is_old(household) {
            return old_code(rule, household);
        }
        self.codes[&(rule, self.members[&household].clone())].clone()
    }

    fn item(&self, sequence: usize, day: NaiveDate, code: &str) -> Value {
        json!({"business_date": day, "sequence": sequence, "redeemed_at": format!("{day}T12:00:00+08:00"), "code": code,
            "amount": 1000, "order_ref": format!("basket-{sequence}")})
    }

    /// Somebody who holds this coupon and never used it.
    fn unused(&self, coupon: &Coupon) -> Household {
        let used = |household: &Household| {
            self.journey.redemptions.iter().any(|(_, who, what)| who == household && what == coupon)
        };
        *self.journey.holders(coupon).iter().find(|household| !used(household)).unwrap()
    }

    /// The redemptions of the data in their order, with what cannot be among them.
    fn stream(&self, db: &TestDb) -> Vec<Sent> {
        let mut stream: Vec<Sent> = Vec::new();
        let mut uses: HashMap<(Household, &Coupon), usize> = HashMap::new();
        for (at, (day, household, coupon)) in self.journey.redemptions.iter().enumerate() {
            let code = self.code(*household, coupon);
            let sequence = stream.len();
            stream.push(Sent { store: "S0001", item: self.item(sequence, *day, &code), reason: "" });
            let used = uses.entry((*household, coupon)).or_default();
            *used += 1;
            if *used == 2 {
                let third = self.item(stream.len(), *day, &code);
                stream.push(Sent { store: "S0001", item: third, reason: "coupon_already_redeemed" });
            }
            if at % SALT == 0 {
                let salt = self.salt(db, stream.len(), at / SALT, *day, coupon, &stream[sequence].item);
                stream.push(salt);
            }
        }
        stream
    }

    /// One that cannot be, of each kind in turn.
    fn salt(&self, db: &TestDb, sequence: usize, kind: usize, day: NaiveDate, coupon: &Coupon, last: &Value) -> Sent {
        let code = self.code(self.unused(coupon), coupon);
        let item = |day: NaiveDate, code: &str| self.item(sequence, day, code);
        let at = |store, item, reason| Sent { store, item, reason };
        match kind % 8 {
            0 => at("S0001", item(self.journey.issued_on(coupon) - Days::new(3), &code), "coupon_not_yet_valid"),
            1 => at("S0001", item(self.journey.ends_on(coupon) + Days::new(1), &code), "coupon_expired"),
            2 => {
                let mut stranger = item(day, &code);
                let holder = self.unused(coupon);
                let other = self.members.iter().find(|(household, _)| **household != holder).unwrap().1;
                stranger["member_id"] = json!(other);
                at("S0001", stranger, "coupon_holder_mismatch")
            }
            3 => at("S0002", item(day, &code), "coupon_not_for_store"),
            4 => {
                let mut reused = item(day, &code);
                reused["sequence"] = last["sequence"].clone();
                at("S0001", reused, "request_number_reused")
            }
            5 => {
                let unknown = db.secrets().codes().mint(day.to_string().parse().unwrap(), 1_000_000_007).unwrap();
                at("S0001", item(day, &unknown.to_string()), "coupon_not_found")
            }
            6 => at("S0001", item(day, &old_code(9_999, 1)), "coupon_not_found"),
            _ => at("S0001", item(day, "no code at all"), "coupon_code_invalid"),
        }
    }
}

/// In its order, in uploads of up to 100 of one store.
async fn send(api: &Client, stream: &[Sent]) {
    let uploads = stream.chunk_by(|one, next| one.store == next.store).flat_map(|run| run.chunks(100));
    for upload in uploads {
        let items: Vec<&Value> = upload.iter().map(|sent| &sent.item).collect();
        let body = json!({"store_id": upload[0].store, "register": "1", "items": items});
        let answer = api.post("/v1/pos/offline-redemptions", &api.keys.ops, body).await.expect(200);
        for (sent, item) in upload.iter().zip(answer.json["items"].as_array().unwrap()) {
            assert_eq!(item["reason"].as_str().unwrap_or_default(), sent.reason, "{}: {item}", sent.item);
        }
    }
}

/// By campaign and day, the ledger has what the files have.
async fn assert_redeemed(db: &TestDb, journey: &Journey, rules: &[String]) {
    let mut expected: BTreeMap<(u32, NaiveDate), i64> = BTreeMap::new();
    for (day, _, coupon) in &journey.redemptions {
        *expected.entry((coupon.campaign, *day)).or_default() += 1;
    }
    let campaigns: HashMap<&str, u32> =
        rules.iter().map(String::as_str).zip(journey.coupons.iter().map(|coupon| coupon.campaign)).collect();
    let ledger = "select rule_id::text, (occurred_at at time zone 'Asia/Shanghai')::date, count(*)
        from redemption where kind = 1 group by 1, 2";
    let mut found: BTreeMap<(u32, NaiveDate), i64> = BTreeMap::new();
    for row in sqlx::query(ledger).fetch_all(&mut db.sql().await).await.unwrap() {
        let (rule, day, count): (String, NaiveDate, i64) = (row.get(0), row.get(1), row.get(2));
        *found.entry((campaigns[rule.as_str()], day)).or_default() += count;
    }
    assert_eq!(found, expected);
    let twice = "select count(*) from coupon where uses = 2 and state = 2";
    assert_eq!(db.count(twice).await, 17, "households that used a coupon twice");
}

async fn assert_conflicts(db: &TestDb, expected: &BTreeMap<&str, usize>) {
    let by_reason = "select reason, count(*) from redemption_conflict group by 1";
    let rows = sqlx::query(by_reason).fetch_all(&mut db.sql().await).await.unwrap();
    let found: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected: BTreeMap<String, i64> = expected
        .iter()
        .filter(|(reason, _)| !reason.is_empty())
        .map(|(reason, count)| ((*reason).to_owned(), *count as i64))
        .collect();
    assert_eq!(found, expected);
}

/// The ends of some days, to the smallest unit.
async fn assert_totals(api: &Client, journey: &Journey) {
    let mut days: BTreeMap<NaiveDate, i64> = BTreeMap::new();
    for (day, ..) in &journey.redemptions {
        *days.entry(*day).or_default() += 1;
    }
    for (day, uses) in days.iter().step_by(20) {
        let path = format!("/v1/pos/totals?store=S0001&business_date={day}");
        let totals = api.get(&path, &api.keys.ops).await.expect(200).json;
        let all = &totals["ledger"]["redemptions"];
        let found = (all["count"].as_i64(), all["discount"].as_i64());
        assert_eq!(found, (Some(*uses), Some(*uses * 100)), "{day}: {totals}");
    }
}

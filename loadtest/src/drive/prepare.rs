//! Makes what a run needs, through the public API: stores, rules, members by import, coupons by issue jobs. Members are the
//! same at each run; rules and coupons are the run's own, so that its books can be checked apart from everything else.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, ensure};
use chrono::NaiveDate;
use futures_util::future::join_all;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::{Value, json};

use super::{
    arrivals::skewed,
    http::Target,
    journal::{Entry, Pen},
    keys::{Keys, store_name},
    office::{self, Office},
    workload::Workload,
    world::{Coupon, Person, Shop, World},
};

/// Connections that look members up at once.
const AT_ONCE: usize = 8;

/// What preparing needs to know.
pub struct Preparer<'a> {
    pub target: &'a Target,
    pub keys: &'a Keys,
    pub workload: &'a Workload,
    /// To make, in all.
    pub coupons: usize,
    pub seed: u64,
    /// Names the run in its rules.
    pub run: &'a str,
    /// The day of which coupons are issued, if not today.
    pub issued_on: Option<NaiveDate>,
}

impl Preparer<'_> {
    /// Stores, members and rules, and the coupons that the workload wants.
    ///
    /// # Errors
    /// Says what the server would not do.
    pub async fn all(&self, pen: &mut Pen) -> anyhow::Result<World> {
        let mut office = Office::open(self.target, &self.keys.admin).await?;
        let mut world = World { shops: self.shops(&mut office).await?, ..World::default() };
        world.people = self.people(&mut office).await?;
        world.rules = self.rules().await?;
        self.coupons(&mut office, &mut world, self.coupons, pen).await?;
        Ok(world)
    }

    /// The run's own rules.
    ///
    /// # Errors
    /// Says what the server would not do.
    pub async fn rules(&self) -> anyhow::Result<Vec<String>> {
        let mut office = Office::open(self.target, &self.keys.admin).await?;
        let mut rules = Vec::new();
        for n in 0..self.workload.prepare.rules {
            rules.push(self.rule(&mut office, n).await?);
        }
        Ok(rules)
    }

    /// The stores of the `pos` keys; without any, stores of our own that the admin key speaks for.
    async fn shops(&self, office: &mut Office) -> anyhow::Result<Vec<Shop>> {
        if !self.keys.pos.is_empty() {
            let shops =
                self.keys.pos.iter().map(|(store_id, key)| Shop { store_id: store_id.clone(), key: key.clone() });
            return Ok(shops.collect());
        }
        let mut shops = Vec::new();
        for n in 1..=self.workload.prepare.stores {
            let store_id = store_name(n);
            let body = json!({"store_id": store_id, "name": format!("Load {n}")});
            office.post("/v1/stores", &body, "store_exists").await?;
            shops.push(Shop { store_id, key: self.keys.admin.clone() });
        }
        Ok(shops)
    }

    async fn people(&self, office: &mut Office) -> anyhow::Result<Vec<Person>> {
        let count = self.workload.prepare.members;
        let rows: String = (0..count).map(|n| format!("{},Load {n}\n", phone(n))).collect();
        let job = office.upload("/v1/member-imports", format!("phone,name\n{rows}")).await?;
        let ended = office.ended(&job).await?;
        ensure!(ended["rows_failed"] == json!(0), "members could not be imported: {ended}");
        let looking = (0..AT_ONCE).map(async |part| {
            let mut office = Office::open(self.target, &self.keys.admin).await?;
            let mut found = Vec::new();
            for n in (part..count).step_by(AT_ONCE) {
                let reply = office.post("/v1/members/lookup", &json!({"phone": phone(n)}), "").await?;
                let view: Value = office::json(&reply)?;
                let member_id = view["member_id"].as_str().context("a member has an id")?.to_owned();
                found.push((n, Person { member_id, phone: phone(n) }));
            }
            anyhow::Ok(found)
        });
        let mut found = Vec::with_capacity(count);
        for part in join_all(looking).await {
            found.extend(part?);
        }
        found.sort_by_key(|(n, _)| *n);
        Ok(found.into_iter().map(|(_, person)| person).collect())
    }

    async fn rule(&self, office: &mut Office, n: usize) -> anyhow::Result<String> {
        let rule = &self.workload.rule;
        let mut body = json!({
            "name": format!("load {} {n}", self.run), "discount": {"type": "amount_off", "amount": rule.amount},
            "currency": "CNY", "threshold": rule.threshold, "validity": {"days_after_issue": 365}, "uses": rule.uses,
            "claimable": rule.claimable, "state": "active",
        });
        for (name, value) in [
            ("stock", rule.stock),
            ("stock_per_store", rule.stock_per_store),
            ("per_member", rule.per_member),
            ("budget", rule.budget),
            ("budget_per_store", rule.budget_per_store),
        ] {
            if let Some(value) = value {
                body[name] = json!(value);
            }
        }
        let view: Value = office::json(&office.post("/v1/coupon-rules", &body, "").await?)?;
        view["rule_id"].as_str().map(str::to_owned).context("a rule has an id")
    }

    /// Issues so many coupons more, spread over rules and members, and shuffles them.
    ///
    /// # Errors
    /// Says what the server would not do.
    pub async fn coupons(
        &self,
        office: &mut Office,
        world: &mut World,
        count: usize,
        pen: &mut Pen,
    ) -> anyhow::Result<()> {
        if count == 0 {
            return Ok(());
        }
        let mut rng = StdRng::seed_from_u64(self.seed ^ world.coupons.len() as u64);
        let by_id: HashMap<&str, u32> =
            world.people.iter().zip(0..).map(|(person, n)| (person.member_id.as_str(), n)).collect();
        let rules = world.rules.len();
        let mut made = Vec::with_capacity(count);
        for (n, rule) in world.rules.iter().enumerate() {
            let here = count / rules + usize::from(n < count % rules);
            // In order, so that the same seed gives the same coupons to the same members.
            let mut wanted: BTreeMap<usize, usize> = BTreeMap::new();
            for _ in 0..here {
                *wanted.entry(skewed(&mut rng, world.people.len(), self.workload.skew)).or_default() += 1;
            }
            let codes = self.issue(office, rule, &world.people, wanted, pen).await?;
            for (code, member) in codes {
                let holder = *by_id.get(member.as_str()).context("a job issued to a stranger")?;
                made.push(Coupon { code: code.into(), holder });
            }
        }
        made.shuffle(&mut rng);
        world.coupons.extend(made);
        Ok(())
    }

    /// One job; gives codes and holders.
    async fn issue(
        &self,
        office: &mut Office,
        rule: &str,
        people: &[Person],
        wanted: BTreeMap<usize, usize>,
        pen: &mut Pen,
    ) -> anyhow::Result<Vec<(String, String)>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut csv = "member_id,count\n".to_owned();
        for (place, mut count) in wanted {
            // The most of a row.
            while count > 0 {
                let now = count.min(1_000);
                csv.push_str(&format!("{},{now}\n", people[place].member_id));
                count -= now;
            }
        }
        let day = self.issued_on.map_or(String::new(), |day| format!("&issued_on={day}"));
        let job = office.upload(&format!("/v1/coupon-rules/{rule}/issue-jobs?start=true{day}"), csv).await;
        let job = job.with_context(|| match self.issued_on {
            Some(day) => format!("coupons of {day} need their month's leaf: `tessera partitions make --from {day}`"),
            None => "coupons could not be issued".to_owned(),
        })?;
        let ended = office.ended(&job).await?;
        ensure!(ended["rows_failed"] == json!(0), "coupons could not be issued: {ended}");
        journal_job(office, &job, &ended, pen).await
    }
}

/// Notes a job that has ended and its coupons; gives codes and holders.
///
/// # Errors
/// When the server does not tell its codes.
pub async fn journal_job(
    office: &mut Office,
    path: &str,
    ended: &Value,
    pen: &mut Pen,
) -> anyhow::Result<Vec<(String, String)>> {
    let number = |value: &Value| value.as_str().and_then(|text| text.parse::<i64>().ok());
    let job_id = number(&ended["job_id"]).context("a job has an id")?;
    let rule_id = number(&ended["options"]["rule_id"]).context("a job has a rule")?;
    let reply = office.get(&format!("{path}/codes")).await?;
    let text = std::str::from_utf8(&reply.body)?;
    let codes: Vec<(String, String)> = text
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            Some(((*fields.get(1)?).to_owned(), (*fields.get(3)?).to_owned()))
        })
        .collect();
    pen.write(&Entry::Job { job_id, rule_id, coupons: codes.len() as i64 });
    for (code, _) in &codes {
        pen.write(&Entry::JobCoupon { job_id, code: code.clone() });
    }
    Ok(codes)
}

/// The phone of the n-th member that a run makes for itself.
pub fn phone(n: usize) -> String {
    format!("+86199{n:08}")
}

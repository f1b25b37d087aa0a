//! A till: one connection, one thing at a time, and what it sends for each arrival.
//!
//! Every request has an instant at which it is due, fixed by the schedule: the arrival's, and for the further steps of a
//! sale so many milliseconds of thinking after the one before. Latency counts from there, also when the till was busy, the
//! step before was late or the server stood still.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use chrono::NaiveDate;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Deserialize;
use serde_json::json;

use super::{
    arrivals::{Due, skewed},
    engine::{Bench, Shared},
    http::{Ask, Connection, Lost, Reply},
    journal::{Done, Entry, Sent},
    office::code_of,
    op::Op,
    record::{End, Times},
    workload::{Arrival, CouponChoice},
    world::{Coupon, Person, Shop, World},
};

/// Longest that an order holds a coupon; longer than any sale.
const LOCK_SECS: u32 = 600;

/// A till at work.
pub struct Till {
    pub shared: Arc<Shared>,
    pub bench: Rc<RefCell<Bench>>,
    pub connection: Connection,
    pub alarm: super::alarm::Alarm,
    /// Of [`World::shops`].
    pub shop: usize,
    pub register: String,
    pub sequence: u32,
}

/// What a request is about, for the journal.
#[derive(Default)]
struct About<'a> {
    subject: &'a str,
    about: &'a str,
    amount: i64,
}

/// How a step ended.
enum Step {
    Granted(Reply),
    /// As the workload expects: the sale ends here.
    Refused,
    Failed,
}

/// The parts of answers that the journal keeps.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    redemption_id: Option<String>,
    member_id: Option<String>,
    discount: i64,
    coupons: Vec<AnswerCoupon>,
}

#[derive(Deserialize)]
struct AnswerCoupon {
    code: String,
}

impl Answer {
    fn result(self) -> (String, i64) {
        let Self { redemption_id, member_id, discount, coupons } = self;
        if coupons.is_empty() {
            (redemption_id.or(member_id).unwrap_or_default(), discount)
        } else {
            (coupons.into_iter().map(|coupon| coupon.code).collect::<Vec<_>>().join(","), 0)
        }
    }
}

impl Till {
    fn world(&self) -> &World {
        &self.shared.world
    }

    fn shop(&self) -> &Shop {
        &self.world().shops[self.shop]
    }

    /// Does what an arrival asks for.
    pub async fn serve(&mut self, due: Due) {
        let mut rng = StdRng::seed_from_u64(due.seed);
        match due.kind {
            Arrival::Sale => self.sale(due.at, &mut rng).await,
            Arrival::Lookup => {
                let person = self.person(&mut rng);
                self.lookup(due.at, &person.phone).await;
            }
            Arrival::Member => {
                let path = format!("/v1/members/{}", self.person(&mut rng).member_id);
                self.read(Op::Member, due.at, &path, None).await;
            }
            Arrival::Wallet => {
                let person = self.person(&mut rng);
                self.wallet(due.at, &person.member_id, self.amount(&mut rng)).await;
            }
            Arrival::Coupon | Arrival::Validate => self.look_at_coupon(due, &mut rng).await,
            Arrival::Claim | Arrival::Issue => self.issue(due, &mut rng).await,
            Arrival::Register => {
                let username = format!("l{}-{}-{}", self.shared.run, self.register, self.sequence);
                let body = json!({"username": username, "name": "Load"}).to_string();
                self.write_by_header(Op::Register, due.at, "/v1/members", body, About::default()).await;
            }
        }
    }

    fn person(&self, rng: &mut StdRng) -> Person {
        let world = self.world();
        world.people[skewed(rng, world.people.len(), self.shared.workload.skew)].clone()
    }

    fn amount(&self, rng: &mut StdRng) -> i64 {
        let rule = &self.shared.workload.rule;
        rule.threshold.max(rule.amount) + rng.random_range(0..20_000)
    }

    fn any_coupon(&self, rng: &mut StdRng) -> Option<Coupon> {
        let world = self.world();
        let len = world.coupons.len();
        (len > 0).then(|| world.coupons[skewed(rng, len, self.shared.workload.skew)].clone())
    }

    /// The coupon that a sale brings.
    fn coupon(&self, rng: &mut StdRng) -> Option<Coupon> {
        match self.shared.workload.coupons {
            CouponChoice::Shared => self.any_coupon(rng),
            CouponChoice::EachOnce => {
                let place = self.bench.borrow_mut().next_coupon();
                let world = self.world();
                // Spent: they begin anew, are refused, and the run says so.
                (!world.coupons.is_empty()).then(|| world.coupons[place % world.coupons.len()].clone())
            }
        }
    }

    async fn look_at_coupon(&mut self, due: Due, rng: &mut StdRng) {
        let Some(coupon) = self.any_coupon(rng) else { return };
        if due.kind == Arrival::Coupon {
            self.read(Op::Coupon, due.at, &format!("/v1/coupons/{}", coupon.code), None).await;
        } else {
            let body = json!({"store_id": self.shop().store_id, "amount": self.amount(rng)}).to_string();
            self.read(Op::Validate, due.at, &format!("/v1/coupons/{}/validate", coupon.code), Some(body)).await;
        }
    }

    async fn issue(&mut self, due: Due, rng: &mut StdRng) {
        let person = self.person(rng);
        let rules = &self.world().rules;
        let rule = rules[rng.random_range(0..rules.len())].clone();
        let (op, path) = if due.kind == Arrival::Claim {
            (Op::Claim, format!("/v1/coupon-rules/{rule}/claim"))
        } else {
            (Op::Issue, format!("/v1/coupon-rules/{rule}/coupons"))
        };
        let about = About { subject: &rule, about: &person.member_id, amount: 0 };
        let body = json!({"member_id": person.member_id}).to_string();
        self.write_by_header(op, due.at, &path, body, about).await;
    }

    async fn lookup(&mut self, due: Duration, phone: &str) -> bool {
        let body = json!({"phone": phone}).to_string();
        matches!(self.read(Op::Lookup, due, "/v1/members/lookup", Some(body)).await, Step::Granted(_))
    }

    async fn wallet(&mut self, due: Duration, member_id: &str, amount: i64) -> bool {
        let body = json!({"amount": amount, "currency": "CNY", "store_id": self.shop().store_id}).to_string();
        let path = format!("/v1/members/{member_id}/wallet");
        matches!(self.read(Op::Wallet, due, &path, Some(body)).await, Step::Granted(_))
    }

    /// Look-up, wallet, lock, redeem, return: as far as it goes. Steps after one that failed are counted as not sent.
    async fn sale(&mut self, mut due: Duration, rng: &mut StdRng) {
        let Some(coupon) = self.coupon(rng) else { return };
        let person = self.world().people[coupon.holder as usize].clone();
        let shares = self.shared.workload.sale.clone();
        let (wallet, lock) = (rng.random_bool(shares.wallet), rng.random_bool(shares.lock));
        let (give_up, back) = (lock && rng.random_bool(shares.give_up), rng.random_bool(shares.reverse));
        let mut steps = vec![Op::Lookup];
        steps.extend(wallet.then_some(Op::Wallet));
        steps.extend(lock.then_some(Op::Lock));
        steps.push(if give_up { Op::Release } else { Op::Redeem });
        steps.extend((back && !give_up).then_some(Op::Reverse));
        let order = format!("{}-{}-{}", self.shared.run, self.register, self.sequence);
        let amount = self.amount(rng);
        let mut redemption = String::new();
        for (no, &op) in steps.iter().enumerate() {
            if no > 0 {
                due += self.think(rng);
                self.wait(due).await;
            }
            let sale = Sale { code: &coupon.code, order: &order, amount, redemption: &redemption };
            let step = match op {
                Op::Lookup => granted(self.lookup(due, &person.phone).await),
                Op::Wallet => granted(self.wallet(due, &person.member_id, amount).await),
                op => self.sale_step(op, due, &sale).await,
            };
            match step {
                Step::Granted(reply) if op == Op::Redeem => {
                    let answer: Answer = serde_json::from_slice(&reply.body).unwrap_or_default();
                    redemption = answer.redemption_id.unwrap_or_default();
                }
                Step::Granted(_) => {}
                Step::Refused => return,
                Step::Failed => {
                    let mut bench = self.bench.borrow_mut();
                    steps[no + 1..].iter().for_each(|op| bench.record.skipped(*op));
                    return;
                }
            }
        }
    }

    fn think(&self, rng: &mut StdRng) -> Duration {
        let [least, most] = self.shared.workload.think_ms;
        Duration::from_micros(rng.random_range(u64::from(least) * 1_000..=u64::from(most) * 1_000))
    }

    /// Until a step is due. How late the generator wakes is its own doing; that the step before took longer is not.
    async fn wait(&mut self, due: Duration) {
        let at = self.shared.start() + due;
        if at > std::time::Instant::now() {
            // A timer that fails makes the step early, and nothing worse.
            let _ = self.alarm.until(at).await;
            let late = self.shared.elapsed().saturating_sub(due);
            self.bench.borrow_mut().record.lateness.record(late);
        }
    }

    async fn sale_step(&mut self, op: Op, due: Duration, sale: &Sale<'_>) -> Step {
        let path = format!("/v1/coupons/{}/{}", sale.code, op.name());
        let (store_id, day) = (self.shop().store_id.clone(), self.business_day());
        let about = About { subject: sale.code, about: sale.order, amount: 0 };
        let mut body = json!({"store_id": store_id, "register": self.register, "business_date": day});
        match op {
            Op::Release => {
                let body = json!({"order_ref": sale.order}).to_string();
                return self.write_by_header(op, due, &path, body, about).await;
            }
            Op::Lock => body["ttl_secs"] = json!(LOCK_SECS),
            Op::Redeem => body["amount"] = json!(sale.amount),
            _ => body["redemption_id"] = json!(sale.redemption),
        }
        body["order_ref"] = json!(sale.order);
        let sequence = self.next_sequence();
        body["sequence"] = json!(sequence);
        let number = format!("till:{store_id}:{}:{day}:{sequence}", self.register);
        let amount = if op == Op::Redeem { sale.amount } else { 0 };
        self.write(op, due, &path, body.to_string(), number, None, About { amount, ..about }).await
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    fn business_day(&self) -> NaiveDate {
        self.shared.business_day()
    }

    /// A write whose number stands in a header.
    async fn write_by_header(&mut self, op: Op, due: Duration, path: &str, body: String, about: About<'_>) -> Step {
        let sequence = self.next_sequence();
        let number = format!("till:{}:{}:{}:{sequence}", self.shop().store_id, self.register, self.business_day());
        let header = [("idempotency-key", number.clone())];
        self.write(op, due, path, body, number, Some(&header), about).await
    }

    #[expect(clippy::too_many_arguments, reason = "all of a write")]
    async fn write(
        &mut self,
        op: Op,
        due: Duration,
        path: &str,
        body: String,
        number: String,
        header: Option<&[(&'static str, String)]>,
        about: About<'_>,
    ) -> Step {
        let key = self.shop().key.clone();
        let ask = Ask::post(path, &key, body).with(header.unwrap_or_default());
        let outcome = self.send(op, due, ask).await;
        let done = match &outcome {
            Ok(reply) if reply.status < 300 => {
                let answer: Answer = serde_json::from_slice(&reply.body).unwrap_or_default();
                let (result, discount) = answer.result();
                Some(Done { status: reply.status, result, discount })
            }
            // It may have been done: the checker looks whether it was, wholly.
            Ok(reply) if reply.status >= 500 => None,
            Err(Lost::Broken | Lost::Timeout | Lost::CutOff) => None,
            _ => return self.step(outcome),
        };
        let (subject, about, amount) = (about.subject.to_owned(), about.about.to_owned(), about.amount);
        let sent = Sent { op, done, key_id: key.id.clone(), number, subject, about, amount };
        self.bench.borrow_mut().pen.write(&Entry::Write(sent));
        self.step(outcome)
    }

    async fn read(&mut self, op: Op, due: Duration, path: &str, body: Option<String>) -> Step {
        let key = self.shop().key.clone();
        let ask = match body {
            Some(body) => Ask::post(path, &key, body),
            None => Ask::get(path, &key),
        };
        let outcome = self.send(op, due, ask).await;
        self.step(outcome)
    }

    fn step(&self, outcome: Result<Reply, Lost>) -> Step {
        match outcome {
            Ok(reply) if reply.status < 300 => Step::Granted(reply),
            Ok(reply) if self.shared.expects(&code_of(&reply)) => Step::Refused,
            _ => Step::Failed,
        }
    }

    /// Sends, waits and records.
    async fn send(&mut self, op: Op, due: Duration, ask: Ask<'_>) -> Result<Reply, Lost> {
        let (sent, outcome) = self.connection.ask_until(ask, &self.shared.stop).await;
        let sent = sent.saturating_duration_since(self.shared.start());
        let times = Times { due, sent, done: self.shared.elapsed() };
        let mut bench = self.bench.borrow_mut();
        match &outcome {
            Ok(reply) if reply.status < 300 => bench.record.request(op, times, End::Ok, reply.timing),
            Ok(reply) => {
                let code = code_of(reply);
                let code = if code.is_empty() { reply.status.to_string() } else { code };
                let end = if self.shared.expects(&code) { End::Refused(&code) } else { End::Failed(&code) };
                bench.record.request(op, times, end, reply.timing);
            }
            Err(lost) => bench.record.request(op, times, End::Failed(lost.name()), Default::default()),
        }
        outcome
    }
}

/// What the steps of a sale share.
struct Sale<'a> {
    code: &'a str,
    order: &'a str,
    amount: i64,
    redemption: &'a str,
}

fn granted(granted: bool) -> Step {
    let nothing = Reply { status: 200, body: Default::default(), location: None, timing: Default::default() };
    if granted { Step::Granted(nothing) } else { Step::Failed }
}

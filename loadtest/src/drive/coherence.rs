//! Nodes under load: what is changed on one is seen on another within the stated bound.
//!
//! A change is acknowledged by one node; then another is asked until it shows it. An old answer is allowed to a question
//! that was put within the bound after the acknowledgement, and to no later one, however long the answer took. That the
//! reading node's memory holds the old state is made sure by asking it before the change. Members (a nickname) and rules
//! (paused and resumed, seen in what `validate` says) take turns, and so do the nodes.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tessera::event::tail::COHERENCE_BOUND;

use super::{
    http::{Ask, Target},
    keys::Key,
    office::{self, Office},
    record::Hist,
    stop::Stop,
    workload::Coherence,
    world::World,
};

/// A change that nobody saw after this long was lost.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// What was seen of changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Coherent {
    /// The bound that Tessera states, in microseconds.
    pub bound_us: u64,
    pub changes: u64,
    /// Changes after which the other node gave an old answer at least once.
    pub seen_old: u64,
    /// From the acknowledgement to the last question that got an old answer.
    pub staleness: Hist,
    /// Old answers to questions put after the bound.
    pub violations: u64,
    /// Changes that were never seen.
    pub lost: u64,
    /// The first few violations.
    pub examples: Vec<String>,
}

impl Default for Coherent {
    fn default() -> Self {
        let bound_us = COHERENCE_BOUND.as_micros() as u64;
        let (changes, seen_old, violations, lost) = (0, 0, 0, 0);
        Self { bound_us, changes, seen_old, staleness: Hist::fine(), violations, lost, examples: Vec::new() }
    }
}

impl Coherent {
    pub fn failures(&self) -> Vec<String> {
        let mut why = Vec::new();
        if self.violations > 0 {
            why.push(format!(
                "{} of {} changes were answered for with the state before, more than {:.1} s after their acknowledgement: {}",
                self.violations,
                self.changes,
                self.bound_us as f64 / 1e6,
                self.examples.join("; ")
            ));
        }
        if self.lost > 0 {
            why.push(format!("{} of {} changes were not seen within {LOST_AFTER:?}", self.lost, self.changes));
        }
        if self.changes == 0 {
            why.push("no change was made on one node and looked for on another".to_owned());
        }
        why
    }

    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.changes += other.changes;
        self.seen_old += other.seen_old;
        self.staleness.add(&other.staleness);
        self.violations += other.violations;
        self.lost += other.lost;
        self.examples.extend(other.examples.iter().cloned());
        self
    }
}

/// Makes changes until the time is over or it is to stop, and counts what was seen of them.
///
/// # Errors
/// When there are not two nodes, or one of them cannot be asked.
pub async fn run(
    targets: &[Target],
    key: &Key,
    world: &World,
    settings: &Coherence,
    until: Instant,
    stop: &Stop,
    seen: &mut Coherent,
) -> anyhow::Result<()> {
    ensure!(targets.len() >= 2, "coherence is between nodes: name two with --url, or more");
    let mut offices = Vec::new();
    for target in targets {
        offices.push(Office::open(target, key).await?);
    }
    let mut probe = Probe::make(&mut offices[0], world).await?;
    let pause = Duration::from_secs_f64(1.0 / settings.changes_per_second.max(0.01));
    let ask_every = Duration::from_millis(u64::from(settings.ask_every_ms));
    let mut round = 0;
    while Instant::now() < until && !stop.is_asked() {
        let next = Instant::now() + pause;
        let (here, there) = (round % offices.len(), (round + 1) % offices.len());
        let what = if round / offices.len() % 2 == 0 { What::Member } else { What::Rule };
        probe.warm(&mut offices[there], what).await?;
        let wanted = probe.change(&mut offices[here], what, round).await?;
        let acknowledged = Instant::now();
        seen.changes += 1;
        let mut oldest = None;
        loop {
            let asked = acknowledged.elapsed();
            if probe.ask(&mut offices[there], what).await? == wanted {
                break;
            }
            oldest = Some(asked);
            if asked > COHERENCE_BOUND {
                seen.violations += 1;
                if seen.examples.len() < 5 {
                    let (here, there) = (&targets[here].url, &targets[there].url);
                    seen.examples.push(format!("{what:?} changed at {here}, old at {there} after {asked:.1?}"));
                }
                if asked > LOST_AFTER {
                    seen.lost += 1;
                    break;
                }
            }
            tokio::time::sleep(ask_every).await;
        }
        if let Some(oldest) = oldest {
            seen.seen_old += 1;
            seen.staleness.record(oldest);
        }
        round += 1;
        stop.is_going_at(next).await;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum What {
    Member,
    Rule,
}

/// A member, a rule and a coupon of its own.
struct Probe {
    member: String,
    rule: String,
    code: String,
    store: String,
    paused: bool,
}

impl Probe {
    async fn make(office: &mut Office, world: &World) -> anyhow::Result<Self> {
        let username = format!("probe-{}", office::fresh_number());
        let member: Value = office::json(&office.post("/v1/members", &json!({"username": username}), "").await?)?;
        let member = member["member_id"].as_str().context("a member has an id")?.to_owned();
        let rule = json!({
            "name": "coherence", "discount": {"type": "amount_off", "amount": 100}, "currency": "CNY",
            "validity": {"days_after_issue": 30}, "state": "active",
        });
        let rule: Value = office::json(&office.post("/v1/coupon-rules", &rule, "").await?)?;
        let rule = rule["rule_id"].as_str().context("a rule has an id")?.to_owned();
        let path = format!("/v1/coupon-rules/{rule}/coupons");
        let issued: Value = office::json(&office.post(&path, &json!({"count": 1}), "").await?)?;
        let code = issued["coupons"][0]["code"].as_str().context("a coupon has a code")?.to_owned();
        let store = world.shops.first().context("a run has a store")?.store_id.clone();
        Ok(Self { member, rule, code, store, paused: false })
    }

    /// Asks twice, so that the node has it in memory.
    async fn warm(&self, office: &mut Office, what: What) -> anyhow::Result<()> {
        self.ask(office, what).await?;
        self.ask(office, what).await?;
        Ok(())
    }

    /// Changes it; gives what is to be seen.
    async fn change(&mut self, office: &mut Office, what: What, round: usize) -> anyhow::Result<String> {
        match what {
            What::Member => {
                let nickname = format!("round {round}");
                let (path, body) = (format!("/v1/members/{}", self.member), json!({"nickname": nickname}).to_string());
                let (key, any) = (office.key.clone(), [("if-match", "*".to_owned())]);
                let patch = Ask { method: Method::PATCH, ..Ask::post(&path, &key, body).with(&any) };
                let reply = office.ask(patch).await?;
                ensure!(reply.status == 200, "PATCH {path}: {}", office::problem(&reply));
                Ok(nickname)
            }
            What::Rule => {
                let act = if self.paused { "resume" } else { "pause" };
                let path = format!("/v1/coupon-rules/{}/{act}", self.rule);
                let key = office.key.clone();
                let reply = office.ask(Ask { body: None, ..Ask::post(&path, &key, "") }).await?;
                ensure!(reply.status == 200, "POST {path}: {}", office::problem(&reply));
                self.paused = !self.paused;
                Ok(if self.paused { "rule_not_active" } else { "" }.to_owned())
            }
        }
    }

    async fn ask(&self, office: &mut Office, what: What) -> anyhow::Result<String> {
        match what {
            What::Member => {
                let view: Value = office::json(&office.get(&format!("/v1/members/{}", self.member)).await?)?;
                Ok(view["nickname"].as_str().unwrap_or_default().to_owned())
            }
            What::Rule => {
                let path = format!("/v1/coupons/{}/validate", self.code);
                let body = json!({"store_id": self.store, "amount": 10_000});
                let view: Value = office::json(&office.post(&path, &body, "").await?)?;
                Ok(view["why"].as_str().unwrap_or_default().to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::drive::world::Shop;

    /// What there is to see, and since when, with what was there before.
    #[derive(Default)]
    struct Truth {
        nicknames: [String; 2],
        paused: bool,
        changed: Option<Instant>,
    }

    /// As much of a Tessera as the probe asks, which sees changes so much later.
    async fn node(truth: Arc<Mutex<Truth>>, lag: Duration) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&truth), lag));
            }
        });
        Target::parse(&url, None).unwrap()
    }

    async fn answer(mut stream: TcpStream, truth: Arc<Mutex<Truth>>, lag: Duration) {
        let mut asked = Vec::new();
        loop {
            let head = asked.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
            let text = String::from_utf8_lossy(&asked).to_lowercase();
            let length =
                text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
            let Some(whole) = head.map(|head| head + length.unwrap_or(0)).filter(|whole| asked.len() >= *whole) else {
                match stream.read_buf(&mut asked).await {
                    Ok(1..) => continue,
                    _ => return,
                }
            };
            let text = String::from_utf8_lossy(&asked[..whole]).into_owned();
            asked.drain(..whole);
            let body = reply(&text, &mut truth.lock().unwrap(), lag).to_string();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    fn reply(asked: &str, truth: &mut Truth, lag: Duration) -> Value {
        let knows = truth.changed.is_none_or(|changed| changed.elapsed() >= lag);
        let (method, path) = asked.split_once(' ').unwrap();
        let path = path.split(' ').next().unwrap();
        match path.rsplit('/').next().unwrap() {
            "coupons" => json!({"coupons": [{"code": "c"}]}),
            "pause" | "resume" => {
                (truth.paused, truth.changed) = (path.ends_with("pause"), Some(Instant::now()));
                json!({})
            }
            "validate" if truth.paused == knows => json!({"why": "rule_not_active"}),
            "validate" => json!({}),
            _ if method == "PATCH" => {
                let body: Value = serde_json::from_str(asked.split("\r\n\r\n").nth(1).unwrap()).unwrap();
                let new = body["nickname"].as_str().unwrap().to_owned();
                truth.nicknames = [std::mem::take(&mut truth.nicknames[1]), new];
                truth.changed = Some(Instant::now());
                json!({})
            }
            _ => json!({"member_id": "1", "rule_id": "1", "nickname": truth.nicknames[usize::from(knows)]}),
        }
    }

    #[tokio::test]
    async fn a_node_that_is_behind_by_more_than_the_bound_is_seen_and_one_within_it_is_not() {
        for (lag, is_broken) in [(COHERENCE_BOUND / 4, false), (COHERENCE_BOUND * 2, true)] {
            let truth = Arc::new(Mutex::new(Truth::default()));
            let targets = [node(Arc::clone(&truth), Duration::ZERO).await, node(truth, lag).await];
            let key = Key::new("tsk_a_b").unwrap();
            let world = World { shops: vec![Shop { store_id: "L0001".into(), key: key.clone() }], ..World::default() };
            let settings = Coherence { changes_per_second: 100.0, ask_every_ms: 5 };
            // A member and a rule, each changed on either node.
            let until = Instant::now() + lag + Duration::from_millis(200);
            let mut seen = Coherent::default();
            run(&targets, &key, &world, &settings, until, &Stop::never(), &mut seen).await.unwrap();
            assert_eq!(seen.violations > 0, is_broken, "behind by {lag:?}: {seen:?}");
            assert_eq!(seen.failures().is_empty(), !is_broken);
            assert!(seen.seen_old > 0 && seen.lost == 0, "{seen:?}");
            assert!(seen.staleness.max() <= lag.as_micros() as u64 * 101 / 100, "{seen:?}");
        }
    }
}

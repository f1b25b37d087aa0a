//! The open loop: threads that each run a part of the schedule with a part of the tills.
//!
//! Arrivals come by the clock whatever the server does. A free till takes the next one; when none is free they queue, and
//! the wait counts. A thread is one event loop, so that the generator costs little; its own lateness is measured with
//! everything else and makes a run invalid that says more of the generator than of the server.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use chrono::{Datelike, Days, NaiveDate};
use futures_util::{StreamExt, stream};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::LocalSet,
};

use super::{
    alarm::Alarm,
    arrivals::{Due, Schedule},
    http::{Connection, Target},
    journal::{Journal, Pen},
    record::{End, NEVER_SENT, Record, Times},
    till::Till,
    workload::{Arrival, BusinessDays, Workload},
    world::World,
};
use crate::drive::op::Op;

/// Connections of a thread that are made at once.
const CONNECT_AT_ONCE: usize = 32;
/// How long after the end of the schedule what waits is still sent.
const AFTER: Duration = Duration::from_secs(30);

/// What a run needs besides its world.
#[derive(Clone)]
pub struct Plan {
    pub workload: Workload,
    pub targets: Vec<Target>,
    pub seed: u64,
    /// Of the generators that share the load: which, of how many.
    pub part: usize,
    pub parts: usize,
    pub threads: usize,
    /// Names the run in orders, registers and usernames.
    pub run: String,
    /// The chain's business day.
    pub today: NaiveDate,
    pub timeout: Duration,
}

/// What all tills of a run know.
pub struct Shared {
    pub workload: Workload,
    pub world: Arc<World>,
    pub run: String,
    today: NaiveDate,
    start: OnceLock<Instant>,
}

impl Shared {
    /// The start of the schedule.
    pub fn start(&self) -> Instant {
        *self.start.get_or_init(Instant::now)
    }

    pub fn elapsed(&self) -> Duration {
        self.start().elapsed()
    }

    pub fn expects(&self, code: &str) -> bool {
        self.workload.expect.iter().any(|expected| expected == code)
    }

    /// The tills' business day now.
    pub fn business_day(&self) -> NaiveDate {
        match self.workload.business_days {
            None => self.today,
            Some(days) => {
                let (first, last) = days_of(days, self.today);
                let all = (last - first).num_days() as f64 + 1.0;
                let at = (self.elapsed().as_secs_f64() / self.workload.seconds * all) as u64;
                (first + Days::new(at)).min(last)
            }
        }
    }
}

/// The first and the last business day of a run.
pub fn days_of(days: BusinessDays, today: NaiveDate) -> (NaiveDate, NaiveDate) {
    match days {
        BusinessDays::OverMonthEnd => {
            let month = today.with_day(1).unwrap_or(today);
            // Three days of the month that ended, and as many of this one as there were, at most three.
            (month - Days::new(3), today.min(month + Days::new(2)))
        }
    }
}

/// What a thread's tills write to.
pub struct Bench {
    pub record: Record,
    pub pen: Pen,
    coupons: usize,
    step: usize,
}

impl Bench {
    /// The place of the next coupon that none has had.
    pub fn next_coupon(&mut self) -> usize {
        let place = self.coupons;
        self.coupons += self.step;
        place
    }
}

/// What came of a run.
pub struct Outcome {
    pub record: Record,
    /// The first coupon that no sale has had.
    pub coupons_next: usize,
    /// When the schedule began.
    pub started_at: chrono::DateTime<chrono::Utc>,
}

/// Runs a workload to its end. `begun` is told when the schedule begins.
///
/// # Errors
/// When the server cannot be reached at the start, or a thread dies.
pub async fn run(
    plan: &Plan,
    world: Arc<World>,
    journal: &Journal,
    begun: impl FnOnce(Instant),
) -> anyhow::Result<Outcome> {
    let shared = Arc::new(Shared {
        workload: plan.workload.clone(),
        world,
        run: plan.run.clone(),
        today: plan.today,
        start: OnceLock::new(),
    });
    let (start, started) = watch::channel(false);
    let (ready, mut readies) = mpsc::channel::<anyhow::Result<()>>(plan.threads);
    let threads: Vec<_> = (0..plan.threads)
        .map(|thread| {
            let (plan, shared, pen) = (plan.clone(), Arc::clone(&shared), journal.pen());
            let (ready, started) = (ready.clone(), started.clone());
            let name = format!("tills {thread}");
            std::thread::Builder::new().name(name).spawn(move || part(thread, &plan, shared, pen, ready, started))
        })
        .collect::<Result<_, _>>()?;
    drop(ready);
    let mut failed = None;
    for _ in 0..plan.threads {
        match readies.recv().await {
            Some(Ok(())) => {}
            Some(Err(error)) => failed = Some(error),
            None => break,
        }
    }
    if let Some(error) = failed {
        // Threads that wait for the start end when nobody can give it any more.
        drop(start);
        return Err(error);
    }
    let at = *shared.start.get_or_init(|| Instant::now() + Duration::from_millis(50));
    let started_at = tessera::clock::Clock::system().now();
    begun(at);
    start.send_replace(true);
    let joined =
        tokio::task::spawn_blocking(move || threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>());
    let mut record = Record::new(plan.workload.seconds);
    let mut coupons_next = shared.world.coupons_from;
    for done in joined.await? {
        match done {
            Ok(Ok((theirs, coupons))) => {
                record.add(&theirs, 0.0);
                coupons_next = coupons_next.max(coupons);
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => bail!("a thread of the generator panicked"),
        }
    }
    Ok(Outcome { record, coupons_next, started_at })
}

/// A thread's part: its own event loop, tills and stream of arrivals.
fn part(
    thread: usize,
    plan: &Plan,
    shared: Arc<Shared>,
    pen: Pen,
    ready: mpsc::Sender<anyhow::Result<()>>,
    mut started: watch::Receiver<bool>,
) -> anyhow::Result<(Record, usize)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let (own, parts) = (plan.part * plan.threads + thread, plan.parts * plan.threads);
        let coupons = shared.world.coupons_from + thread;
        let record = Record::new(plan.workload.seconds);
        let bench = Rc::new(RefCell::new(Bench { record, pen, coupons, step: plan.threads }));
        let tills = match connect(thread, plan, &shared, &bench).await {
            Ok(tills) => tills,
            Err(error) => {
                let _ = ready.send(Err(error)).await;
                return Ok((Record::new(plan.workload.seconds), 0));
            }
        };
        ready.send(Ok(())).await?;
        if started.wait_for(|started| *started).await.is_err() {
            return Ok((Record::new(plan.workload.seconds), 0));
        }
        let queue = Rc::new(Queue::default());
        let working: Vec<_> =
            tills.into_iter().map(|till| tokio::task::spawn_local(work(till, Rc::clone(&queue)))).collect();
        let schedule = Schedule::new(&plan.workload, plan.seed, own, parts);
        dispatch(schedule, &shared, &queue, &bench).await?;
        give_up(&shared, plan, &queue, &bench).await;
        let mut reconnects = 0;
        for till in working {
            reconnects += till.await?;
        }
        let mut bench = bench.borrow_mut();
        bench.record.reconnects = reconnects;
        bench.record.waiting_max = queue.longest.get();
        let coupons = bench.coupons;
        Ok((std::mem::replace(&mut bench.record, Record::new(1.0)), coupons))
    })
}

/// Makes the thread's tills and connects them, before anything is due.
async fn connect(
    thread: usize,
    plan: &Plan,
    shared: &Arc<Shared>,
    bench: &Rc<RefCell<Bench>>,
) -> anyhow::Result<Vec<Till>> {
    let own = (0..plan.workload.tills).filter(|no| no % plan.threads == thread);
    let till = async |no: usize| {
        let target = plan.targets[no % plan.targets.len()].clone();
        let mut connection = Connection::new(target, plan.timeout);
        connection.connect().await?;
        let alarm = Alarm::new()
            .context("too many open files: raise `ulimit -n` to three times the tills, or ask for fewer")?;
        anyhow::Ok(Till {
            shared: Arc::clone(shared),
            bench: Rc::clone(bench),
            connection,
            alarm,
            // Tills of one store speak to all nodes.
            shop: (no / plan.targets.len()) % shared.world.shops.len(),
            register: format!("{}-{no}", short(&shared.run)),
            sequence: 0,
        })
    };
    let tills: Vec<anyhow::Result<Till>> = stream::iter(own).map(till).buffered(CONNECT_AT_ONCE).collect().await;
    tills.into_iter().collect()
}

/// A word of eight letters for the name of a run: registers have no room for more, and two runs of one day that shared
/// them would send each other's request numbers.
fn short(run: &str) -> String {
    let hash = run
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    let letter = |n: u32| char::from_digit((hash / 36_u64.pow(n) % 36) as u32, 36).unwrap_or('0');
    (0..8).map(letter).collect()
}

/// Arrivals that wait for a till of the thread.
#[derive(Default)]
struct Queue {
    waiting: RefCell<VecDeque<Due>>,
    closed: Cell<bool>,
    wake: Notify,
    longest: Cell<u64>,
}

impl Queue {
    fn push(&self, due: Due) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.push_back(due);
        self.longest.set(self.longest.get().max(waiting.len() as u64));
        drop(waiting);
        self.wake.notify_one();
    }

    fn take(&self) -> Option<Due> {
        self.waiting.borrow_mut().pop_front()
    }

    async fn next(&self) -> Option<Due> {
        loop {
            if let Some(due) = self.take() {
                return Some(due);
            }
            if self.closed.get() {
                return None;
            }
            self.wake.notified().await;
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.wake.notify_waiters();
    }
}

async fn work(mut till: Till, queue: Rc<Queue>) -> u64 {
    while let Some(due) = queue.next().await {
        till.serve(due).await;
    }
    till.connection.made.saturating_sub(1)
}

/// Hands arrivals over at their instants.
async fn dispatch(schedule: Schedule, shared: &Shared, queue: &Queue, bench: &RefCell<Bench>) -> anyhow::Result<()> {
    let alarm = Alarm::new()?;
    for due in schedule {
        alarm.until(shared.start() + due.at).await?;
        let late = shared.elapsed().saturating_sub(due.at);
        bench.borrow_mut().record.lateness.record(late);
        queue.push(due);
        // A burst must not keep the answers of others waiting.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Lets the tills finish what waits, for as long as is reasonable; the rest counts as failed.
async fn give_up(shared: &Shared, plan: &Plan, queue: &Queue, bench: &RefCell<Bench>) {
    queue.close();
    let until = shared.start() + Duration::from_secs_f64(plan.workload.seconds) + AFTER;
    while !queue.waiting.borrow().is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while let Some(due) = queue.take() {
        let now = shared.elapsed();
        let times = Times { due: due.at, sent: now, done: now };
        bench.borrow_mut().record.request(first_op(due.kind), times, End::Failed(NEVER_SENT), Default::default());
    }
}

/// The request that an arrival begins with.
fn first_op(kind: Arrival) -> Op {
    match kind {
        Arrival::Sale | Arrival::Lookup => Op::Lookup,
        Arrival::Member => Op::Member,
        Arrival::Wallet => Op::Wallet,
        Arrival::Coupon => Op::Coupon,
        Arrival::Validate => Op::Validate,
        Arrival::Claim => Op::Claim,
        Arrival::Issue => Op::Issue,
        Arrival::Register => Op::Register,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_of_different_runs_and_trials_differ_and_are_short_enough() {
        let names = (0..1_000).flat_map(|n| [format!("mhx{n:05}"), format!("mhxk2ab3-t{n}"), format!("mhxk2ab3p{n}")]);
        let words: std::collections::HashSet<String> = names.map(|name| short(&name)).collect();
        assert_eq!(words.len(), 3_000);
        assert!(words.iter().all(|word| word.len() == 8), "with a till's number they fit into 16 letters");
    }

    #[test]
    fn the_days_of_a_month_s_end_lie_on_both_sides_of_it() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        for (today, first, last) in [
            ("2026-11-22", "2026-10-29", "2026-11-03"),
            ("2026-11-01", "2026-10-29", "2026-11-01"),
            ("2026-03-31", "2026-02-26", "2026-03-03"),
        ] {
            assert_eq!(days_of(BusinessDays::OverMonthEnd, day(today)), (day(first), day(last)));
        }
    }
}

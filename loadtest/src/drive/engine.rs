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
use tessera::clock::{Clock, Zone};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::LocalSet,
};

use super::{
    alarm::Alarm,
    arrivals::{Due, Schedule},
    http::{Connection, Target},
    journal::{Journal, Pen},
    record::{End, GENERATOR_BEHIND, NEVER_SENT, Record, Times},
    stop::Stop,
    till::Till,
    workload::{Arrival, BusinessDays, Workload},
    world::World,
};
use crate::drive::op::Op;

/// Connections of a thread that are made at once.
const CONNECT_AT_ONCE: usize = 32;
/// How long after the end of the schedule what waits is still sent.
pub const AFTER: Duration = Duration::from_secs(30);
/// Arrivals that wait for a till at once, unless the command line says otherwise.
pub const WAITING_MAX: u64 = 100_000;

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
    /// The server's.
    pub clock: Clock,
    /// The chain's.
    pub zone: Zone,
    pub timeout: Duration,
    /// Arrivals that may wait for a till at once, of all threads together.
    pub waiting_max: u64,
    /// How long after its end what waits is still sent.
    pub after: Duration,
    pub stop: Stop,
}

impl Plan {
    /// The chain's business day.
    pub fn today(&self) -> NaiveDate {
        self.zone.day_of(self.clock.now()).to_date()
    }
}

/// What all tills of a run know.
pub struct Shared {
    pub workload: Workload,
    pub world: Arc<World>,
    pub run: String,
    pub stop: Stop,
    clock: Clock,
    zone: Zone,
    /// The chain's business day when it began.
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

    /// The tills' business day now; over a midnight it becomes the next.
    pub fn business_day(&self) -> NaiveDate {
        match self.workload.business_days {
            None => self.zone.day_of(self.clock.now()).to_date(),
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
    /// For how long requests were due, where it was stopped before its end.
    pub stopped_after: Option<Duration>,
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
        stop: plan.stop.clone(),
        clock: plan.clock.clone(),
        zone: plan.zone,
        today: plan.today(),
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
    let started_at = plan.clock.now();
    begun(at);
    start.send_replace(true);
    let joined =
        tokio::task::spawn_blocking(move || threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>());
    let mut record = Record::new(plan.workload.seconds);
    let (mut coupons_next, mut stopped_after) = (shared.world.coupons_from, None);
    for done in joined.await? {
        match done {
            Ok(Ok(theirs)) => {
                record.add(&theirs.record, 0.0);
                coupons_next = coupons_next.max(theirs.coupons_next);
                stopped_after = stopped_after.max(theirs.stopped_after);
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => bail!("a thread of the generator panicked"),
        }
    }
    Ok(Outcome { record, coupons_next, started_at, stopped_after })
}

/// What came of a thread's part.
#[derive(Default)]
struct Part {
    record: Record,
    coupons_next: usize,
    stopped_after: Option<Duration>,
}

/// A thread's part: its own event loop, tills and stream of arrivals.
fn part(
    thread: usize,
    plan: &Plan,
    shared: Arc<Shared>,
    pen: Pen,
    ready: mpsc::Sender<anyhow::Result<()>>,
    mut started: watch::Receiver<bool>,
) -> anyhow::Result<Part> {
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
                return Ok(Part::default());
            }
        };
        ready.send(Ok(())).await?;
        if started.wait_for(|started| *started).await.is_err() {
            return Ok(Part::default());
        }
        let queue = Rc::new(Queue::new(plan.waiting_max.div_ceil(plan.threads as u64)));
        let work = |till| work(till, Rc::clone(&queue), shared.stop.clone());
        let working: Vec<_> = tills.into_iter().map(|till| tokio::task::spawn_local(work(till))).collect();
        let schedule = Schedule::new(&plan.workload, plan.seed, own, parts);
        let stopped_after = dispatch(schedule, &shared, &queue, &bench).await?;
        let due_for = stopped_after.unwrap_or(Duration::from_secs_f64(plan.workload.seconds));
        give_up(&shared, shared.start() + due_for + plan.after, &queue, &bench).await;
        let mut reconnects = 0;
        for till in working {
            reconnects += till.await?;
        }
        let mut bench = bench.borrow_mut();
        bench.record.reconnects = reconnects;
        bench.record.waiting_max = queue.longest.get();
        let coupons_next = bench.coupons;
        Ok(Part { record: std::mem::take(&mut bench.record), coupons_next, stopped_after })
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

/// Arrivals that wait for a till of the thread: no more than it has room for, so that a server that hangs does not make
/// the generator grow.
struct Queue {
    waiting: RefCell<VecDeque<Due>>,
    waiting_max: u64,
    closed: Cell<bool>,
    wake: Notify,
    longest: Cell<u64>,
}

impl Queue {
    fn new(waiting_max: u64) -> Self {
        let (waiting, closed) = (RefCell::default(), Cell::new(false));
        Self { waiting, waiting_max, closed, wake: Notify::new(), longest: Cell::new(0) }
    }

    /// Takes one more. When it is full the one that has waited longest goes away unsent, and is given back.
    fn push(&self, due: Due) -> Option<Due> {
        let mut waiting = self.waiting.borrow_mut();
        let gone = if waiting.len() as u64 >= self.waiting_max { waiting.pop_front() } else { None };
        waiting.push_back(due);
        self.longest.set(self.longest.get().max(waiting.len() as u64));
        drop(waiting);
        self.wake.notify_one();
        gone
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

async fn work(mut till: Till, queue: Rc<Queue>, stop: Stop) -> u64 {
    while let Some(due) = queue.next().await {
        till.serve(due).await;
        // What still waits then was never sent.
        if stop.is_cut_off() {
            break;
        }
    }
    till.connection.made.saturating_sub(1)
}

/// Hands arrivals over at their instants. Says for how long, if it was stopped before the last of them.
async fn dispatch(
    schedule: Schedule,
    shared: &Shared,
    queue: &Queue,
    bench: &RefCell<Bench>,
) -> anyhow::Result<Option<Duration>> {
    let alarm = Alarm::new()?;
    for due in schedule {
        tokio::select! {
            biased;
            () = shared.stop.asked() => return Ok(Some(shared.elapsed().min(due.at))),
            rung = alarm.until(shared.start() + due.at) => rung?,
        }
        let late = shared.elapsed().saturating_sub(due.at);
        bench.borrow_mut().record.lateness.record(late);
        if let Some(gone) = queue.push(due) {
            unsent(gone, GENERATOR_BEHIND, shared, bench);
        }
        // A burst must not keep the answers of others waiting.
        tokio::task::yield_now().await;
    }
    Ok(None)
}

/// Lets the tills finish what waits, for as long as is reasonable; the rest counts as failed.
async fn give_up(shared: &Shared, until: Instant, queue: &Queue, bench: &RefCell<Bench>) {
    queue.close();
    while !queue.waiting.borrow().is_empty() && Instant::now() < until {
        tokio::select! {
            () = shared.stop.cut_off() => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    while let Some(due) = queue.take() {
        unsent(due, NEVER_SENT, shared, bench);
    }
}

/// Counts an arrival that no till took, with the time that it waited.
fn unsent(due: Due, why: &str, shared: &Shared, bench: &RefCell<Bench>) {
    let now = shared.elapsed();
    let times = Times { due: due.at, sent: now, done: now };
    bench.borrow_mut().record.request(first_op(due.kind), times, End::Failed(why), Default::default());
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
    use crate::drive::{
        keys::Key,
        stop::Stopper,
        world::{Person, Shop},
    };

    /// A server that takes what it is sent and never answers, and a load of look-ups on it.
    async fn against_one_that_hangs(
        waiting_max: u64,
        after: Duration,
        timeout: Duration,
    ) -> (Plan, Stopper, Arc<World>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::parse(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        let mut workload = Workload::load("lookup-only").unwrap();
        (workload.rate, workload.seconds, workload.tills) = (1_000.0, 1.0, 2);
        let (stopper, stop) = Stop::new();
        let (targets, run) = (vec![target], "r".to_owned());
        let plan = Plan {
            workload,
            targets,
            seed: 1,
            part: 0,
            parts: 1,
            threads: 1,
            run,
            clock: Clock::system(),
            zone: Zone::DEFAULT,
            timeout,
            waiting_max,
            after,
            stop,
        };
        let shops = vec![Shop { store_id: "L0001".into(), key: Key::new("tsk_a_b").unwrap() }];
        let people = vec![Person { member_id: "1".into(), phone: "+8613800000001".into() }];
        (plan, stopper, Arc::new(World { shops, people, ..World::default() }))
    }

    fn errors(record: &Record, name: &str) -> u64 {
        record.ops.values().filter_map(|stats| stats.errors.get(name)).sum()
    }

    #[tokio::test]
    async fn a_server_that_hangs_does_not_make_the_generator_grow() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(&dir.path().join("journal")).unwrap();
        let (plan, _stopper, world) =
            against_one_that_hangs(50, Duration::from_millis(10), Duration::from_millis(1_200)).await;
        let outcome = run(&plan, world, &journal, |_| {}).await.unwrap();
        let record = &outcome.record;
        assert_eq!(record.waiting_max, 50);
        // What did not fit is said, and every arrival is counted once.
        let due = Schedule::new(&plan.workload, plan.seed, 0, 1).count() as u64;
        let behind = errors(record, GENERATOR_BEHIND);
        assert!(behind > 0 && behind + 50 + 2 >= due, "{behind} of {due}");
        assert_eq!(record.requests(), due);
        // They waited for the others, and count with that time.
        assert!(record.latency().at(1.0) > 1_000 && record.latency().at(50.0) > 10_000);
        assert_eq!(outcome.stopped_after, None);
    }

    #[tokio::test]
    async fn a_load_that_is_stopped_ends_within_its_bound_whatever_the_server_does() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(&dir.path().join("journal")).unwrap();
        let hour = Duration::from_secs(3_600);
        let (mut plan, stopper, world) = against_one_that_hangs(WAITING_MAX, hour, hour).await;
        plan.workload.seconds = 3_600.0;
        let (begun, begins) = tokio::sync::oneshot::channel();
        let running = run(&plan, world, &journal, |at| begun.send(at).unwrap());
        let stopping = async {
            tokio::time::sleep_until((begins.await.unwrap() + Duration::from_millis(200)).into()).await;
            stopper.stop(Duration::from_millis(100)).await;
        };
        let both = async { tokio::join!(running, stopping).0 };
        let outcome = tokio::time::timeout(Duration::from_secs(60), both).await.expect("it ends").unwrap();
        let after = outcome.stopped_after.unwrap();
        assert!(after >= Duration::from_millis(150) && after < Duration::from_secs(60), "{after:?}");
        // Two tills had a request each, if they had begun by then, and the rest waited.
        let cut_off = errors(&outcome.record, crate::drive::http::Lost::CutOff.name());
        assert!(cut_off <= 2, "{cut_off}");
        assert_eq!(errors(&outcome.record, NEVER_SENT), outcome.record.requests() - cut_off);
    }

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

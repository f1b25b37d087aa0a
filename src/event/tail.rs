//! The tail: each node follows the events of all nodes, to forget what others have changed.
//!
//! A transaction takes its event ids early and commits late, so ids do not become visible in their order. The tail
//! therefore does not follow ids but snapshots: each poll takes a snapshot and reads what this one sees and the one
//! before did not. Those are the events between the two, each exactly once, however long its transaction ran; nothing
//! has to be remembered of single events. The index on `xid` serves it, from the older snapshot's `xmin` on. Leaves are
//! read from yesterday's to tomorrow's, since the clock that dated an event need not be ours; the statement goes through
//! the parent, so that a leaf that is not there yet is no error.
//!
//! A poll that succeeded lets the caches be used until [`COHERENCE_BOUND`] after it *began*, and not before everything
//! it found was forgotten. So a cached answer is never older than that: readers compare the clock themselves
//! ([`Bypass`]). Everything is forgotten where the tail cannot know what it missed: at its first poll, after every
//! reconnect (after a crash the server may give the number of a transaction a second time), after a pause or a jump of
//! the clock, and when more has changed than is worth looking at one by one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::MissedTickBehavior;

use super::Kind;
use crate::{
    cache::Bypass,
    clock::Clock,
    id::{Day, EventId},
    partition::query,
};

/// A cached answer is at most this much older than the change that another node acknowledged.
pub const COHERENCE_BOUND: Duration = Duration::from_secs(1);
/// How often a node asks, unless a setting says otherwise.
pub const POLL_EVERY: Duration = Duration::from_millis(200);
/// More than this many changes in one poll, and all is forgotten instead.
pub const EVENTS_MAX: usize = 10_000;
/// After a pause this long nothing is caught up: the leaves that hold it may be out of the window.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Entries that are forgotten at once; each may wait for a load under way.
const FORGET_AT_ONCE: usize = 64;
/// What concerns caches. Redemptions and the like stay in the database.
const KINDS: [Kind; 5] =
    [Kind::MemberChanged, Kind::MemberKeyMoved, Kind::RuleChanged, Kind::StoreChanged, Kind::ApiKeyChanged];

/// What the tail tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailEvent {
    pub event_id: EventId,
    pub kind: Kind,
    pub subject: i64,
}

/// What a node does with what it hears.
#[derive(Clone)]
pub struct Forget {
    /// Forgets what one event concerns. Done when the future is.
    pub one: Arc<dyn Fn(TailEvent) -> BoxFuture<'static, ()> + Send + Sync>,
    /// Forgets everything.
    pub all: Arc<dyn Fn() + Send + Sync>,
}

/// Follows the events until the future is dropped. One task a node; it survives whatever the database does.
pub async fn run(connect: PgConnectOptions, clock: Clock, poll_every: Duration, bypass: Bypass, forget: Forget) {
    let mut tail = Tail::new(connect, clock, bypass, forget);
    let mut ticks = tokio::time::interval(poll_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        match tail.poll().await {
            Ok(_) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the events can be followed again");
                }
            }
            Err(error) => {
                metrics::counter!("tessera_tail_failures_total").increment(1);
                // Said once: that the database is away is said by others every second.
                if !std::mem::replace(&mut failing, true) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot follow the events; caches are bypassed when their time is up");
                }
            }
        }
    }
}

/// The tail of one node, for stepping by hand; [`run`] steps it by the clock.
pub struct Tail {
    connect: PgConnectOptions,
    clock: Clock,
    bypass: Bypass,
    forget: Forget,
    conn: Option<PgConnection>,
    before: Option<Poll>,
}

/// A poll that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Poll {
    began: Instant,
    day: Day,
    /// As PostgreSQL writes it.
    snapshot: String,
}

/// What a poll did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// Forgot what so many events concern.
    Followed(usize),
    ForgotAll,
}

impl Tail {
    pub fn new(connect: PgConnectOptions, clock: Clock, bypass: Bypass, forget: Forget) -> Self {
        // A plan for these very bounds: it names three leaves, where a generic one locks all of them each time. Without
        // statistics, on a young leaf, a bitmap of the whole primary key looks as good as the index on xid.
        let connect = connect.application_name("tessera tail").options([
            ("plan_cache_mode", "force_custom_plan"),
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("statement_timeout", "1000"),
            ("default_transaction_read_only", "on"),
        ]);
        Self { connect, clock, bypass, forget, conn: None, before: None }
    }

    /// Asks once what happened, forgets it, and lets the caches be used for another while.
    ///
    /// # Errors
    /// Those of the database, or a time-out at [`COHERENCE_BOUND`]. The next poll connects anew.
    pub async fn poll(&mut self) -> Result<Polled, sqlx::Error> {
        let began = Instant::now();
        let day = Day::from_date(self.clock.now().date_naive());
        let before = self.before.take().filter(|before| before.reaches(began, day));
        // Taken out, so that a poll that is dropped halfway leaves nothing half-read behind.
        let conn = self.conn.take();
        let asked = ask(&self.connect, conn, before.as_ref(), day);
        let (conn, snapshot, events) = match tokio::time::timeout(COHERENCE_BOUND, asked).await {
            Ok(answered) => answered?,
            Err(_) => return Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        };
        let polled = match events {
            Some(events) if events.len() <= EVENTS_MAX => {
                stream::iter(&events).for_each_concurrent(FORGET_AT_ONCE, |event| (self.forget.one)(*event)).await;
                Polled::Followed(events.len())
            }
            _ => {
                metrics::counter!("tessera_tail_gaps_total").increment(1);
                (self.forget.all)();
                Polled::ForgotAll
            }
        };
        self.conn = Some(conn);
        self.before = Some(Poll { began, day, snapshot });
        self.bypass.fresh_until(began + COHERENCE_BOUND);
        Ok(polled)
    }
}

impl Poll {
    /// Whether what happened since then can be read: the window of leaves covers it.
    fn reaches(&self, now: Instant, day: Day) -> bool {
        now.duration_since(self.began) <= PAUSE_MAX && day.since(self.day).abs() <= 1
    }
}

/// Takes a snapshot and reads what lies between it and the one before. No events are given where there is none before,
/// or where the connection is a new one.
async fn ask(
    connect: &PgConnectOptions,
    conn: Option<PgConnection>,
    before: Option<&Poll>,
    day: Day,
) -> Result<(PgConnection, String, Option<Vec<TailEvent>>), sqlx::Error> {
    let (mut conn, before) = match conn {
        Some(conn) => (conn, before),
        None => (PgConnection::connect_with(connect).await?, None),
    };
    let snapshot: String = sqlx::query_scalar("select pg_current_snapshot()::text").fetch_one(&mut conn).await?;
    let events = match before {
        // No transaction has ended: there is nothing to read, and an idle chain costs no more than this.
        Some(before) if before.snapshot == snapshot => Some(Vec::new()),
        Some(before) => Some(read(&mut conn, before, &snapshot, day).await?),
        None => None,
    };
    Ok((conn, snapshot, events))
}

async fn read(conn: &mut PgConnection, before: &Poll, snapshot: &str, day: Day) -> Result<Vec<TailEvent>, sqlx::Error> {
    let (from, until) = (before.day.min(day).plus(-1), before.day.max(day).plus(2));
    let rows: Vec<(EventId, i16, i64)> = sqlx::query_as(query("event/tail").parent())
        .bind(from.first_id())
        .bind(until.first_id())
        .bind(&before.snapshot)
        .bind(snapshot)
        .bind(KINDS.map(Kind::number))
        .bind(EVENTS_MAX as i64 + 1)
        .fetch_all(conn)
        .await?;
    // A kind that this version does not know is not asked for.
    let event = |(event_id, kind, subject)| Some(TailEvent { event_id, kind: Kind::from_number(kind)?, subject });
    Ok(rows.into_iter().filter_map(event).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(began: Instant, day: &str) -> Poll {
        Poll { began, day: day.parse().unwrap(), snapshot: "10:10:".into() }
    }

    #[test]
    fn a_short_pause_is_caught_up_and_a_long_one_or_a_jump_of_the_clock_is_not() {
        let began = Instant::now();
        let before = poll(began, "2026-11-22");
        let reaches = |after: Duration, day: &str| before.reaches(began + after, day.parse().unwrap());
        assert!(reaches(POLL_EVERY, "2026-11-22"));
        assert!(reaches(PAUSE_MAX, "2026-11-23"), "over midnight");
        assert!(reaches(POLL_EVERY, "2026-11-21"), "a clock set back over midnight");
        assert!(!reaches(PAUSE_MAX + Duration::from_millis(1), "2026-11-22"));
        assert!(!reaches(POLL_EVERY, "2026-11-24"));
        assert!(!reaches(POLL_EVERY, "2026-11-20"));
    }

    #[tokio::test]
    async fn a_tail_without_a_database_leaves_the_caches_bypassed() {
        let nobody = PgConnectOptions::new_without_pgpass().socket("/nonexistent");
        let bypass = Bypass::stale();
        let forget = Forget { one: Arc::new(|_| Box::pin(async {})), all: Arc::new(|| {}) };
        let mut tail = Tail::new(nobody, Clock::system(), bypass.clone(), forget);
        assert!(tail.poll().await.is_err());
        assert!(bypass.is_set());
    }

    #[test]
    fn what_tills_do_all_day_does_not_travel() {
        for kind in [Kind::CouponsIssued, Kind::CouponRedeemed, Kind::CouponReversed, Kind::MemberRegistered] {
            assert!(!KINDS.contains(&kind));
        }
    }
}

//! Numbers leased in blocks from table `id_block`: serials of coupons, numbers of redemptions and events.
//!
//! The database hands out a block once, ever; a block lost with its process is a gap, which is normal. Within a
//! process each number is given once, to one caller. A refill is asked for once at a time, however many wait for it,
//! and ahead of need when little is left, so that callers normally don't wait at all.
//!
//! Numbers come in no promised order, and they don't tell when they were used.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use thiserror::Error;

use super::NUMBER_END;

/// Most numbers that one call may ask for.
pub const BLOCK_NUMBERS_MAX: i64 = 1 << 20;

/// Leases so many numbers from the database; see [`lease_block`] for what it would run.
pub type Refill = Arc<dyn Fn(i64) -> BoxFuture<'static, Result<Range<i64>, BlockError>> + Send + Sync>;

/// Why there are no numbers. Shared by all who waited for the same refill.
#[derive(Debug, Clone, Error)]
pub enum BlockError {
    #[error("a call may take at most {BLOCK_NUMBERS_MAX} numbers, not {asked}")]
    TooMany { asked: usize },
    #[error("there is no counter {name:?} in id_block")]
    NoCounter { name: String },
    #[error("counter {name:?} has fewer than {asked} numbers left")]
    UsedUp { name: String, asked: i64 },
    #[error("a refill of {asked} numbers gave {got:?}")]
    Malformed { asked: i64, got: Range<i64> },
    #[error("numbers could not be leased from the database")]
    Database(#[source] Arc<sqlx::Error>),
    #[error("no connection to lease numbers with")]
    NoConnection(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// Gives out numbers of one counter. Clones share them.
#[derive(Clone)]
pub struct Counter(Arc<Shared>);

struct Shared {
    refill: Refill,
    block: i64,
    low_water: i64,
    stock: Mutex<Stock>,
    /// Held by whoever refills; the others wait here.
    gate: tokio::sync::Mutex<()>,
    prefetching: AtomicBool,
}

#[derive(Default)]
struct Stock {
    blocks: VecDeque<Range<i64>>,
    left: i64,
    /// Refills that have ended, and how the last one did.
    refills: u64,
    failure: Option<BlockError>,
}

impl Stock {
    /// Moves up to `want` numbers into `out`.
    fn take(&mut self, want: usize, out: &mut Vec<i64>) {
        while out.len() < want {
            let Some(block) = self.blocks.front_mut() else { return };
            let end = block.end.min(block.start + (want - out.len()) as i64);
            out.extend(block.start..end);
            self.left -= end - block.start;
            block.start = end;
            if block.is_empty() {
                self.blocks.pop_front();
            }
        }
    }

    fn put(&mut self, block: Range<i64>) {
        if !block.is_empty() {
            self.left += block.end - block.start;
            self.blocks.push_back(block);
        }
    }
}

impl Counter {
    /// A counter that leases `block` numbers at a time, and again when fewer than a quarter of that are left.
    pub fn new(block: i64, refill: Refill) -> Self {
        let block = block.clamp(1, BLOCK_NUMBERS_MAX);
        Self(Arc::new(Shared {
            refill,
            block,
            low_water: block / 4,
            stock: Mutex::default(),
            gate: tokio::sync::Mutex::new(()),
            prefetching: AtomicBool::new(false),
        }))
    }

    /// `n` numbers that nobody else has or will get.
    ///
    /// # Errors
    /// [`BlockError`] when `n` is too large or the refill failed; numbers taken meanwhile go back.
    pub async fn next(&self, n: usize) -> Result<Vec<i64>, BlockError> {
        if n > BLOCK_NUMBERS_MAX as usize {
            return Err(BlockError::TooMany { asked: n });
        }
        let mut numbers = Vec::with_capacity(n);
        loop {
            let refills = {
                let mut stock = self.0.stock();
                stock.take(n, &mut numbers);
                stock.refills
            };
            let missing = (n - numbers.len()) as i64;
            if missing == 0 {
                break;
            }
            if let Err(error) = self.0.refill_after(refills, missing).await {
                self.0.give_back(&numbers);
                return Err(error);
            }
        }
        self.prefetch_if_low();
        Ok(numbers)
    }

    /// One number.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_one(&self) -> Result<i64, BlockError> {
        self.next(1).await.map(|numbers| numbers[0])
    }

    fn prefetch_if_low(&self) {
        let (left, refills) = {
            let stock = self.0.stock();
            (stock.left, stock.refills)
        };
        if left >= self.0.low_water || self.0.prefetching.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            // A failure is met again, and reported, by the next caller who needs a number.
            let _ = shared.refill_after(refills, 0).await;
            shared.prefetching.store(false, Ordering::Release);
        });
    }
}

impl Shared {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        // The sections under this lock don't panic between two writes that belong together.
        self.stock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Refills unless somebody did since `seen` refills; their failure is then the answer for all who waited.
    async fn refill_after(&self, seen: u64, missing: i64) -> Result<(), BlockError> {
        let _gate = self.gate.lock().await;
        {
            let stock = self.stock();
            if stock.refills != seen {
                return stock.failure.clone().map_or(Ok(()), Err);
            }
        }
        let asked = self.block.max(missing);
        let outcome = (self.refill)(asked).await.and_then(|got| {
            let sound = got.start >= 0 && got.end <= NUMBER_END && got.end - got.start == asked;
            if sound { Ok(got) } else { Err(BlockError::Malformed { asked, got }) }
        });
        let mut stock = self.stock();
        stock.refills += 1;
        match outcome {
            Ok(block) => {
                stock.put(block);
                stock.failure = None;
                Ok(())
            }
            Err(error) => {
                stock.failure = Some(error.clone());
                Err(error)
            }
        }
    }

    fn give_back(&self, numbers: &[i64]) {
        let mut stock = self.stock();
        for run in numbers.chunk_by(|a, b| a + 1 == *b) {
            stock.put(run[0]..run[run.len() - 1] + 1);
        }
    }
}

/// Leases `n` numbers of the counter `name`, in one statement.
///
/// # Errors
/// [`BlockError::NoCounter`], [`BlockError::UsedUp`] at the end of the 41 bits, [`BlockError::Database`].
pub async fn lease_block(conn: &mut PgConnection, name: &str, n: i64) -> Result<Range<i64>, BlockError> {
    let next = sqlx::query_file_scalar!("sql/queries/id_block/lease.sql", name, n).fetch_optional(conn).await.map_err(
        |error| match error.as_database_error() {
            // The check keeps `next` inside 41 bits.
            Some(refused) if refused.is_check_violation() => BlockError::UsedUp { name: name.to_owned(), asked: n },
            _ => BlockError::Database(Arc::new(error)),
        },
    )?;
    let next = next.ok_or_else(|| BlockError::NoCounter { name: name.to_owned() })?;
    Ok(next - n..next)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::AtomicI64;

    use super::*;

    /// A database of one counter: gives the next block, counts its calls, yields in between.
    struct Source {
        next: AtomicI64,
        calls: AtomicI64,
        under_way: AtomicI64,
        fails: AtomicBool,
    }

    fn source() -> Arc<Source> {
        Arc::new(Source {
            next: AtomicI64::new(1),
            calls: AtomicI64::new(0),
            under_way: AtomicI64::new(0),
            fails: AtomicBool::new(false),
        })
    }

    fn refill(source: &Arc<Source>) -> Refill {
        let source = Arc::clone(source);
        Arc::new(move |n| {
            let source = Arc::clone(&source);
            Box::pin(async move {
                source.calls.fetch_add(1, Ordering::SeqCst);
                assert_eq!(source.under_way.fetch_add(1, Ordering::SeqCst), 0, "one refill at a time");
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                source.under_way.fetch_sub(1, Ordering::SeqCst);
                if source.fails.load(Ordering::SeqCst) {
                    return Err(BlockError::NoCounter { name: "test".into() });
                }
                let start = source.next.fetch_add(n, Ordering::SeqCst);
                Ok(start..start + n)
            })
        })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_number_is_given_twice_however_many_ask() {
        let source = source();
        let counter = Counter::new(100, refill(&source));
        let tasks: Vec<_> = (0..64)
            .map(|task| {
                let counter = counter.clone();
                tokio::spawn(async move {
                    let mut numbers = Vec::new();
                    for call in 0..50 {
                        numbers.extend(counter.next(1 + (task * 7 + call * 13) % 300).await.unwrap());
                    }
                    numbers
                })
            })
            .collect();
        let mut numbers = Vec::new();
        for task in tasks {
            numbers.extend(task.await.unwrap());
        }
        let distinct: HashSet<_> = numbers.iter().copied().collect();
        assert_eq!(distinct.len(), numbers.len());
        assert!(distinct.iter().all(|n| (1..source.next.load(Ordering::SeqCst)).contains(n)));
    }

    #[tokio::test]
    async fn a_call_gets_exactly_what_it_asked_for_across_blocks() {
        let source = source();
        let counter = Counter::new(10, refill(&source));
        assert_eq!(counter.next(0).await.unwrap(), Vec::<i64>::new());
        assert_eq!(counter.next(25).await.unwrap(), (1..=25).collect::<Vec<_>>());
        assert_eq!(counter.next_one().await.unwrap(), 26);
        assert!(matches!(counter.next(1 << 21).await, Err(BlockError::TooMany { asked: 2_097_152 })));
    }

    #[tokio::test]
    async fn many_who_wait_share_one_refill() {
        let source = source();
        let counter = Counter::new(10_000, refill(&source));
        futures_util::future::join_all((0..500).map(|_| counter.next_one())).await;
        assert_eq!(source.calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn when_little_is_left_the_next_block_is_fetched_ahead() {
        let source = source();
        let counter = Counter::new(100, refill(&source));
        counter.next(75).await.unwrap();
        assert_eq!(source.calls.load(Ordering::SeqCst), 1, "a quarter is left");
        counter.next(1).await.unwrap();
        while source.next.load(Ordering::SeqCst) == 101 {
            tokio::task::yield_now().await;
        }
        assert_eq!(source.calls.load(Ordering::SeqCst), 2);
        assert_eq!(counter.next(100).await.unwrap(), (77..=176).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_failed_refill_fails_all_who_waited_once_and_the_next_call_tries_again() {
        let source = source();
        source.fails.store(true, Ordering::SeqCst);
        let counter = Counter::new(10, refill(&source));
        let outcomes = futures_util::future::join_all((0..100).map(|_| counter.next(3))).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(BlockError::NoCounter { .. }))));
        assert_eq!(source.calls.load(Ordering::SeqCst), 1);
        source.fails.store(false, Ordering::SeqCst);
        assert_eq!(counter.next(3).await.unwrap(), vec![1, 2, 3]);
    }

    #[tokio::test]
    async fn numbers_taken_before_a_refill_failed_go_back() {
        let source = source();
        let counter = Counter::new(10, refill(&source));
        counter.next(2).await.unwrap();
        source.fails.store(true, Ordering::SeqCst);
        assert!(counter.next(20).await.is_err());
        assert_eq!(counter.next(8).await.unwrap(), (3..=10).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_caller_who_goes_away_leaves_a_gap_and_no_deadlock() {
        let source = source();
        let counter = Counter::new(10, refill(&source));
        {
            let mut call = Box::pin(counter.next(5));
            assert!(futures_util::poll!(&mut call).is_pending(), "in the middle of the refill");
        }
        source.under_way.store(0, Ordering::SeqCst);
        assert_eq!(counter.next(5).await.unwrap().len(), 5);
    }

    #[tokio::test]
    async fn a_refill_that_gives_something_else_is_refused() {
        for got in [0..5, -10..0, NUMBER_END - 5..NUMBER_END + 5] {
            let given = got.clone();
            let counter = Counter::new(10, Arc::new(move |_| Box::pin(std::future::ready(Ok(given.clone())))));
            let error = counter.next(1).await.unwrap_err();
            assert_eq!(error.to_string(), format!("a refill of 10 numbers gave {got:?}"));
        }
    }
}

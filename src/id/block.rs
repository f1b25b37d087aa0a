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
    let next: Option<i64> = sqlx::query_scalar("update id_block set next = next + $2 where name = $1 returning next")
        .bind(name)
        .bind(n)
        .fetch_optional(conn)
        .await
        .map_err(|error| match error.as_database_error() {
            // The check keeps `next` inside 41 bits.
            Some(refused) if refused.is_check_violation() => BlockError::UsedUp { name: name.to_owned(), asked: n },
            _ => BlockError::Database(Arc::new(error)),
        })?;
    let next = next.ok_or_else(|| BlockError::NoCounter { name: name.to_owned() })?;
    Ok(next - n..next)
}

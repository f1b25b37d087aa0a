//! The end of a load before its time: the first signal stops what arrives, and a second one the process.
//!
//! What is in flight when it is asked to stop may end within [`IN_FLIGHT_MAX`]. What has not ended by then is cut off and
//! counts as an answer that was lost: the checker looks what became of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// How long what is in flight may take to end.
pub const IN_FLIGHT_MAX: Duration = Duration::from_secs(30);
/// Exit code of a process that was told twice: as a shell has it for an interrupted one.
pub const EXIT_AT_ONCE: i32 = 130;

/// How far the stopping of a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Going,
    /// Nothing more arrives.
    Stopping,
    /// Nothing more is waited for.
    CutOff,
}

/// What the parts of a load look at. Clones look at the same.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Phase>);

/// What stops a load; nothing does when it is dropped.
#[derive(Debug)]
pub struct Stopper(watch::Sender<Phase>);

impl Stop {
    pub fn new() -> (Stopper, Self) {
        let (sender, receiver) = watch::channel(Phase::Going);
        (Stopper(sender), Self(receiver))
    }

    /// One that is never asked for.
    #[cfg(test)]
    pub fn never() -> Self {
        Self::new().1
    }

    pub fn is_asked(&self) -> bool {
        *self.0.borrow() >= Phase::Stopping
    }

    /// Whether nothing more is waited for.
    pub fn is_cut_off(&self) -> bool {
        *self.0.borrow() >= Phase::CutOff
    }

    /// Done when nothing more may arrive.
    pub async fn asked(&self) {
        self.reached(Phase::Stopping).await;
    }

    /// Done when nothing more is waited for.
    pub async fn cut_off(&self) {
        self.reached(Phase::CutOff).await;
    }

    async fn reached(&self, phase: Phase) {
        if self.0.clone().wait_for(|now| *now >= phase).await.is_err() {
            // Nobody can ask any more.
            std::future::pending::<()>().await;
        }
    }

    /// Sleeps until the instant; false when it is asked to stop before.
    pub async fn is_going_at(&self, at: std::time::Instant) -> bool {
        tokio::select! {
            biased;
            () = self.asked() => false,
            () = tokio::time::sleep_until(at.into()) => true,
        }
    }
}

impl Stopper {
    /// Stops what arrives, and cuts off what is in flight when its time is up.
    pub async fn stop(&self, in_flight_max: Duration) {
        self.0.send_replace(Phase::Stopping);
        tokio::time::sleep(in_flight_max).await;
        self.0.send_replace(Phase::CutOff);
    }
}

/// Listens to SIGINT and SIGTERM.
pub struct Signals {
    stop: Stop,
    is_over: Arc<AtomicBool>,
}

impl Signals {
    /// From now on.
    ///
    /// # Errors
    /// When the process may not handle signals.
    pub fn listen() -> std::io::Result<Self> {
        let (mut interrupts, mut terms) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (stopper, stop) = Stop::new();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        tokio::spawn(async move {
            come(&mut interrupts, &mut terms).await;
            if over.load(Ordering::Relaxed) {
                end_at_once();
            }
            let secs = IN_FLIGHT_MAX.as_secs();
            eprintln!("stopping: nothing more arrives, and what is in flight has {secs} s; once more ends at once");
            tokio::join!(stopper.stop(IN_FLIGHT_MAX), async {
                come(&mut interrupts, &mut terms).await;
                end_at_once();
            });
        });
        Ok(Self { stop, is_over })
    }

    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// The load is over and what it measured is kept: from now on a first signal ends the process, too.
    pub fn over(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

async fn come(interrupts: &mut Signal, terms: &mut Signal) {
    tokio::select! {
        _ = interrupts.recv() => {}
        _ = terms.recv() => {}
    }
}

fn end_at_once() -> ! {
    eprintln!("ended at once");
    std::process::exit(EXIT_AT_ONCE)
}

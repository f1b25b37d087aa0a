//! Waking at an instant to within some ten microseconds. The runtime's own timers go by whole milliseconds, which would
//! add as much to the latency of every request that a schedule began.

#[cfg(target_os = "linux")]
mod precise {
    use std::{
        io,
        os::fd::OwnedFd,
        time::{Duration, Instant},
    };

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::io::{Interest, unix::AsyncFd};

    /// One sleeper's timer.
    pub struct Alarm(AsyncFd<OwnedFd>);

    impl Alarm {
        /// # Errors
        /// When the process has as many open files as it may.
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that lie about their descriptor; an OwnedFd does not"
        )]
        pub fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            Ok(Self(AsyncFd::with_interest(timer, Interest::READABLE)?))
        }

        /// Sleeps until the instant; at once when it is past.
        ///
        /// # Errors
        /// Those of the timer; none in practice.
        pub async fn until(&self, at: Instant) -> io::Result<()> {
            loop {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(());
                }
                self.arm(left)?;
                let mut ready = self.0.readable().await?;
                let mut ticks = [0; 8];
                match rustix::io::read(self.0.get_ref(), &mut ticks) {
                    Ok(_) => ready.clear_ready(),
                    Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                    Err(error) => return Err(error.into()),
                }
            }
        }

        fn arm(&self, left: Duration) -> io::Result<()> {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let it_value =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos().max(1)) };
            let once = Itimerspec { it_interval: zero, it_value };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod precise {
    use std::{io, time::Instant};

    /// One sleeper's timer: the runtime's, to the millisecond. The report's lateness shows it.
    pub struct Alarm;

    impl Alarm {
        /// # Errors
        /// None.
        pub fn new() -> io::Result<Self> {
            Ok(Self)
        }

        /// # Errors
        /// None.
        pub async fn until(&self, at: Instant) -> io::Result<()> {
            tokio::time::sleep_until(at.into()).await;
            Ok(())
        }
    }
}

pub use precise::Alarm;

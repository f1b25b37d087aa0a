//! The short way of a lone read: who finds nobody else at the lane asks the database itself, over a connection kept for
//! that, and spares the two hand-overs between tasks.
//!
//! There is one such connection, so two never go this way at once: whoever comes meanwhile waits for a worker as always,
//! and a rush is batched. The rule of the lane stands: a read that has begun is not the handler's. One that is given up in
//! the middle is ended by the lane's runtime, and the connection is whole afterwards. It is opened there, too, since a
//! runtime of a handler may end before it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tokio::runtime::Handle;

use super::{conn::LaneConn, queue::Queue};

pub(super) struct Short {
    runtime: Handle,
    queue: Arc<Queue>,
    /// Away while it is used, opened, or closed for good.
    conn: Mutex<Option<LaneConn>>,
}

impl Short {
    /// In the lane's runtime.
    pub fn new(conn: LaneConn, queue: Arc<Queue>) -> Arc<Self> {
        Arc::new(Self { runtime: Handle::current(), queue, conn: Mutex::new(Some(conn)) })
    }

    /// The connection, for one who entered the queue and found nobody: it leaves the queue when it is done. None when the
    /// connection is away or not open yet; then it will be for one of the next.
    pub fn take(self: &Arc<Self>) -> Option<Loan> {
        let conn = self.conn.lock().expect("no code panics while it holds the connection").take()?;
        if conn.is_open() {
            return Some(Loan { conn: Some(conn), short: Arc::clone(self) });
        }
        self.make_ready(conn);
        None
    }

    /// Opens the connection and renews its plans where that is due, and puts it back.
    fn make_ready(self: &Arc<Self>, mut conn: LaneConn) {
        let short = Arc::clone(self);
        self.runtime.spawn(async move {
            // Who comes next learns whether it failed: it finds it closed again.
            let _ = conn.get().await;
            conn.renew_plans().await;
            short.put(conn);
            if short.queue.is_stopping() {
                short.close().await;
            }
        });
    }

    fn put(&self, conn: LaneConn) {
        *self.conn.lock().expect("no code panics while it holds the connection") = Some(conn);
    }

    /// Closes the connection. The queue has stopped, so nobody takes it any more; one that is being made ready is closed by
    /// who makes it.
    pub async fn close(&self) {
        let conn = self.conn.lock().expect("no code panics while it holds the connection").take();
        if let Some(conn) = conn {
            conn.close().await;
        }
    }

    /// Does it here, and in the lane's runtime when whoever waits for it goes away.
    pub fn to_its_end<F>(&self, doing: F) -> ToItsEnd<F>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        ToItsEnd { doing: Some(Box::pin(doing)), runtime: self.runtime.clone() }
    }
}

/// The connection on loan, and its borrower's place in the queue. Both go back when this is dropped.
pub(super) struct Loan {
    conn: Option<LaneConn>,
    short: Arc<Short>,
}

impl Loan {
    pub fn conn(&mut self) -> &mut LaneConn {
        self.conn.as_mut().expect("it is there until it is dropped")
    }

    /// Gives the connection back, which is lost, and leaves the place to the borrower, who waits for a worker then.
    pub fn lost(mut self) {
        if let Some(mut conn) = self.conn.take() {
            conn.discard();
            self.short.put(conn);
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        if conn.has_old_plans() {
            self.short.make_ready(conn)
        } else {
            self.short.put(conn)
        }
        self.short.queue.leave(1);
    }
}

/// A future that is not given up.
pub(super) struct ToItsEnd<F: Future + Send + 'static>
where
    F::Output: Send,
{
    doing: Option<Pin<Box<F>>>,
    runtime: Handle,
}

impl<F: Future + Send + 'static> Future for ToItsEnd<F>
where
    F::Output: Send,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Timers that it makes are the lane's as well.
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        let doing = self.doing.as_mut().expect("a future is not polled after its end");
        let outcome = doing.as_mut().poll(context);
        if outcome.is_ready() {
            self.doing = None;
        }
        outcome
    }
}

impl<F: Future + Send + 'static> Drop for ToItsEnd<F>
where
    F::Output: Send,
{
    fn drop(&mut self) {
        // One that panicked must not be asked again.
        if let Some(doing) = self.doing.take().filter(|_| !std::thread::panicking()) {
            self.runtime.spawn(doing);
        }
    }
}

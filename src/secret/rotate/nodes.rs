//! Waiting for nodes to follow, and for what was begun before.

use std::time::{Duration, Instant};

use super::{RotateError, Run};
use crate::secret::{
    Holding,
    watch::{LiveNode, list_live_nodes},
};

const NODES_POLL: Duration = Duration::from_millis(100);
const HORIZON_POLL: Duration = Duration::from_millis(20);

impl Run<'_> {
    /// Waits until this is true of every node that lives, then until every transaction that is open now has ended:
    /// from then on nothing is written as before.
    pub(super) async fn followed(&mut self, what: &str, is: impl Fn(&Holding) -> bool) -> Result<(), RotateError> {
        let deadline = Instant::now() + Duration::from_secs(self.pace.patience.into());
        loop {
            let lacking = self.lacking(&is).await?;
            if lacking.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                return Err(refusal(what, &lacking));
            }
            tokio::time::sleep(NODES_POLL).await;
        }
        self.settle(deadline).await
    }

    /// As [`Run::followed`], without waiting for nodes.
    pub(super) async fn demand(&mut self, what: &str, is: impl Fn(&Holding) -> bool) -> Result<(), RotateError> {
        let lacking = self.lacking(&is).await?;
        if lacking.is_empty() { Ok(()) } else { Err(refusal(what, &lacking)) }
    }

    async fn lacking(&mut self, is: impl Fn(&Holding) -> bool) -> Result<Vec<LiveNode>, RotateError> {
        let mut nodes = list_live_nodes(&mut self.conn).await?;
        nodes.retain(|node| !node.holding.as_ref().is_some_and(&is));
        Ok(nodes)
    }

    async fn settle(&mut self, deadline: Instant) -> Result<(), RotateError> {
        let horizon: i64 = sqlx::query_scalar("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
            .fetch_one(&mut self.conn)
            .await?;
        loop {
            let oldest: i64 = sqlx::query_scalar("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
                .fetch_one(&mut self.conn)
                .await?;
            if oldest >= horizon {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let why =
                    "a transaction stays open in the database (see pg_stat_activity); ask again when it has ended";
                return Err(RotateError::Refused(why.to_owned()));
            }
            tokio::time::sleep(HORIZON_POLL).await;
        }
    }
}

fn refusal(what: &str, lacking: &[LiveNode]) -> RotateError {
    let nodes: Vec<String> = lacking.iter().map(|node| node.node.to_string()).collect();
    RotateError::Refused(format!(
        "not every node {what}: node {} does not; see that it reads the same secrets and that its log has no error, \
         or stop it (its lease ends within 30 seconds)",
        nodes.join(", ")
    ))
}

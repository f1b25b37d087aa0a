//! A node follows its secrets, and says in its row of `id_node` which keys it has.
//!
//! What it says is true of everything that ends from then on: it is said after the writes have ended that began before
//! the change. A node first takes its row, then looks at the secrets, then serves: whoever changes them and then looks
//! at the rows misses nobody. It has a change at most one pause ([`SecretSettings::every`]) and the longest write after
//! it was made.
//!
//! [`SecretSettings::every`]: crate::config::SecretSettings::every

use std::{sync::Arc, time::Duration};

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Holding, Secrets};
use crate::{
    db::{lane::Lane, pool::Office},
    id::{Day, MemberIdMinter, NodeLease},
};

/// What a node has said of itself, with the lease it said it under.
type Said = (i16, Uuid, Holding);

/// Follows the secrets of a node.
pub struct Watch {
    pub secrets: Arc<Secrets>,
    pub minter: Arc<MemberIdMinter>,
    pub lane: Lane,
    pub office: Office,
    pub every: Duration,
}

impl Watch {
    /// Looks at the secrets and says what is there, for the first time.
    pub async fn begin(self) -> Following {
        let mut following = Following { watch: self, said: None, complained: String::new() };
        following.look().await;
        following
    }
}

/// A watch that has begun.
pub struct Following {
    watch: Watch,
    said: Option<Said>,
    complained: String,
}

impl Following {
    /// Looks again and again, for as long as the node runs.
    pub async fn go_on(mut self) {
        loop {
            tokio::time::sleep(self.watch.every).await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let secrets = Arc::clone(&self.watch.secrets);
        let looked = tokio::task::spawn_blocking(move || secrets.refresh()).await;
        match looked {
            Ok(Ok(true)) => tracing::info!(holding = ?self.watch.secrets.holding(), "the secrets have changed"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                // Once, not every second; what was loaded goes on serving.
                let text = error.to_string();
                if text != self.complained {
                    tracing::error!(error = &error as &dyn std::error::Error, "the secrets cannot be loaded again");
                    self.complained = text;
                }
                return;
            }
            Err(_) => return,
        }
        self.complained.clear();
        let lease = self.watch.minter.lease();
        let now = (lease.node(), lease.holder(), self.watch.secrets.holding());
        if self.said.as_ref() == Some(&now) {
            return;
        }
        self.watch.lane.quiesce().await;
        match self.say(&lease, &now.2).await {
            Ok(true) => self.said = Some(now),
            // The number is another's: the next look finds the new lease.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a node could not say which keys it has");
            }
        }
    }

    async fn say(&self, lease: &NodeLease, holding: &Holding) -> Result<bool, crate::db::pool::Error> {
        let mut conn = self.watch.office.get().await?;
        Ok(update_holding(&mut conn, lease, holding).await?)
    }
}

async fn update_holding(conn: &mut PgConnection, lease: &NodeLease, holding: &Holding) -> Result<bool, sqlx::Error> {
    let said = sqlx::query_file!(
        "sql/queries/id_node/update_keys.sql",
        lease.node(),
        lease.holder(),
        holding.check_from.to_date(),
        i16::from(holding.pii_current),
        &holding.pii.iter().map(|id| i16::from(*id)).collect::<Vec<_>>(),
        holding.blind_current,
        &holding.blind_written,
        &holding.blind
    );
    let said = said.execute(conn).await?;
    Ok(said.rows_affected() == 1)
}

/// A node whose lease runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveNode {
    pub node: i16,
    /// None: it has not said yet, or is of a version that does not say.
    pub holding: Option<Holding>,
}

struct NodeRow {
    node: i16,
    check_from: Option<Day>,
    pii_current: Option<i16>,
    pii: Option<Vec<i16>>,
    blind_current: Option<i16>,
    blind_written: Option<Vec<i16>>,
    blind: Option<Vec<i16>>,
}

impl NodeRow {
    fn holding(self) -> Option<Holding> {
        let small = |id: i16| u8::try_from(id).ok();
        Some(Holding {
            pii_current: small(self.pii_current?)?,
            pii: self.pii?.into_iter().map(small).collect::<Option<_>>()?,
            blind_current: self.blind_current?,
            blind_written: self.blind_written?,
            blind: self.blind?,
            check_from: self.check_from?,
        })
    }
}

/// The nodes whose leases run, with the keys they have.
///
/// # Errors
/// What the database says.
pub async fn list_live_nodes(conn: &mut PgConnection) -> Result<Vec<LiveNode>, sqlx::Error> {
    let rows = sqlx::query_file_as!(NodeRow, "sql/queries/id_node/list_live.sql").fetch_all(conn).await?;
    Ok(rows.into_iter().map(|row| LiveNode { node: row.node, holding: row.holding() }).collect())
}

//! Rules in memory. A version never changes; a head does, and is forgotten when an event says so.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    rule::{Rule, RuleState, RuleVersion},
    rule_store,
    world::World,
};
use crate::{
    cache::{Bypass, Cache, Found},
    config::CacheSettings,
    db::lane::{Tx, WriteError},
    id::RuleId,
};

/// A rule and its versions weigh about this much, in bytes.
const WEIGHT: u32 = 512;
/// A pause reaches every node by the event, and a node that falls behind those reads past its memory; this is for what both
/// should miss.
const HEAD_TTL: Duration = Duration::from_secs(60);
const VERSION_TTL: Duration = Duration::from_secs(3600);

#[derive(Clone)]
pub struct RuleBook {
    heads: Cache<RuleId, Rule>,
    versions: Cache<(RuleId, i32), RuleVersion>,
}

impl RuleBook {
    /// Heads and versions may take an eighth each of the memory that caches have.
    pub fn new(settings: &CacheSettings, bypass: Bypass) -> Self {
        let bytes_max = settings.eighths(1);
        let head_ttl = settings.cache_ttl.min(HEAD_TTL);
        Self {
            heads: Cache::new("rule", bytes_max, head_ttl, bypass, |_, _| WEIGHT),
            // What never changes need not be bypassed.
            versions: Cache::new("rule_version", bytes_max, VERSION_TTL, Bypass::default(), |_, _| WEIGHT),
        }
    }

    /// A rule, with whether it came from memory.
    pub async fn get<E, C>(
        &self,
        rule_id: RuleId,
        connect: impl Future<Output = Result<C, E>> + Send,
    ) -> Result<Found<Rule>, E>
    where
        E: From<sqlx::Error> + Send + Sync + 'static,
        C: std::ops::DerefMut<Target = sqlx::PgConnection> + Send,
    {
        if let Some(rule) = self.heads.peek(&rule_id).await {
            return Ok(Some((rule, true)));
        }
        // The connection first: a batch that holds locks may want the same entry, and must not wait for the office.
        let mut conn = connect.await?;
        let load = async { Ok::<_, E>(rule_store::find_rule(&mut conn, rule_id).await?) };
        self.heads.get(&rule_id, load).await
    }

    /// Versions with the states of their rules, and how many statements that took: none when memory holds them. Those
    /// that do not exist are left out.
    pub(super) async fn versions<E, C>(
        &self,
        wanted: &BTreeSet<(RuleId, i32)>,
        connect: impl Future<Output = Result<C, E>> + Send,
    ) -> Result<(HashMap<(RuleId, i32), (Arc<RuleVersion>, RuleState)>, u32), E>
    where
        E: From<sqlx::Error> + Send + Sync + 'static,
        C: std::ops::DerefMut<Target = sqlx::PgConnection> + Send,
    {
        let mut found = HashMap::with_capacity(wanted.len());
        let mut missing = Vec::new();
        for &(rule_id, version) in wanted {
            let known = match self.heads.peek(&rule_id).await {
                Some(head) if head.current.version == version => Some((Arc::clone(&head.current), head.state)),
                Some(head) => self.versions.peek(&(rule_id, version)).await.map(|known| (known, head.state)),
                None => None,
            };
            match known {
                Some(known) => drop(found.insert((rule_id, version), known)),
                None => missing.push((rule_id, version)),
            }
        }
        if missing.is_empty() {
            return Ok((found, 0));
        }
        let (mut conn, mut asked) = (connect.await?, 0);
        for (rule_id, version) in missing {
            let load = async { Ok::<_, E>(rule_store::find_rule(&mut conn, rule_id).await?) };
            let Some((head, known)) = self.heads.get(&rule_id, load).await? else { continue };
            asked += u32::from(!known);
            if head.current.version == version {
                found.insert((rule_id, version), (Arc::clone(&head.current), head.state));
                continue;
            }
            let load = async { Ok::<_, E>(rule_store::find_version(&mut conn, rule_id, version).await?) };
            let Some((of, known)) = self.versions.get(&(rule_id, version), load).await? else { continue };
            asked += u32::from(!known);
            found.insert((rule_id, version), (of, head.state));
        }
        Ok((found, asked))
    }

    pub async fn forget(&self, rule_id: RuleId) {
        self.heads.forget(&rule_id).await;
    }

    pub fn forget_all(&self) {
        self.heads.forget_all();
    }

    /// Brings a batch the versions and states that its coupons speak of.
    pub(super) async fn load_for(
        &self,
        tx: &mut Tx<'_>,
        world: &mut World,
        issued: &BTreeSet<RuleId>,
    ) -> Result<(), WriteError> {
        let wanted: BTreeSet<(RuleId, i32)> =
            world.coupons.values().map(|coupon| (coupon.rule_id, coupon.rule_version)).collect();
        for (rule_id, version) in wanted {
            let load = async {
                tx.plain();
                Ok::<_, WriteError>(rule_store::find_version(tx.conn().await?, rule_id, version).await?)
            };
            let Some((found, _)) = self.versions.get(&(rule_id, version), load).await? else {
                return Err(WriteError::Inconsistent(format!("coupon.rule_version {version} of {rule_id} is missing")));
            };
            world.rules.insert((rule_id, version), found);
        }
        let coupons = world.coupons.values().map(|coupon| coupon.rule_id);
        let heads: BTreeSet<RuleId> = coupons.chain(issued.iter().copied()).collect();
        for rule_id in heads {
            let load = async {
                tx.plain();
                Ok::<_, WriteError>(rule_store::find_rule(tx.conn().await?, rule_id).await?)
            };
            let Some((head, _)) = self.heads.get(&rule_id, load).await? else {
                return Err(WriteError::Inconsistent(format!("coupon.rule_id {rule_id} is no rule")));
            };
            world.heads.insert(rule_id, head);
        }
        Ok(())
    }
}

//! A member's coupons, by one statement on one leaf.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use crate::{
    coupon::{StateName, list::state_of},
    db::lane::Read,
    id::{CodeId, MemberId, RuleId},
    partition::{Leaf, plan, query},
};

/// A row of `coupon_receive`.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Held {
    pub code_id: CodeId,
    pub rule_id: RuleId,
    /// Exclusive.
    pub valid_until: DateTime<Utc>,
    state: i16,
    pub rule_version: i32,
}

impl Held {
    /// The state at this instant, as far as this row knows: a lock does not show here.
    pub fn state(&self, now: DateTime<Utc>) -> StateName {
        state_of(self.state, self.valid_until, now)
    }
}

/// The newest coupons of a member below a code, so many at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeldKey {
    pub member_id: MemberId,
    /// Exclusive.
    pub before: CodeId,
    pub rows_max: i64,
}

/// `coupon_receive/list`.
pub struct ListHeld;

impl Read for ListHeld {
    type Key = HeldKey;
    type Row = Arc<[Held]>;

    fn leaf(&self, key: &HeldKey) -> Leaf {
        plan("coupon_receive").leaf_i64(key.member_id.get())
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        keys: &[HeldKey],
    ) -> Result<HashMap<HeldKey, Arc<[Held]>>, sqlx::Error> {
        #[derive(FromRow)]
        struct Placed {
            position: i64,
            #[sqlx(flatten)]
            held: Held,
        }
        let rows: Vec<Placed> = sqlx::query_as(query("coupon_receive/list").on(&[leaf]))
            .bind(keys.iter().map(|key| key.member_id).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.before.get()).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.rows_max).collect::<Vec<_>>())
            .fetch_all(conn)
            .await?;
        let mut lists: Vec<Vec<Held>> = vec![Vec::new(); keys.len()];
        for row in rows {
            lists[row.position as usize].push(row.held);
        }
        Ok(keys.iter().cloned().zip(lists.into_iter().map(Arc::from)).collect())
    }
}

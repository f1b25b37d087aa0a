//! Which leaves of the range tables stand, and which are on their way out.
//!
//! A month that is being retired is fenced (`check (false) not valid`), renamed, detached, in this order; from the fence
//! on its index rows go away behind it, so comparing them would report what is meant. Read it in the transaction that
//! compares: a fence that stands in the snapshot stood before the first index row went.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::partition::{Leaf, plan};

const RANGED: [&str; 2] = ["coupon", "redemption"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Standing,
    Retiring,
}

/// The months of `coupon` and `redemption`. Leaves of hash tables always stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Leaves(BTreeMap<Leaf, State>);

impl Leaves {
    pub async fn load(conn: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let mut leaves = BTreeMap::new();
        for table in RANGED {
            let rows: Vec<(String, bool, bool)> = sqlx::query_as(
                "select c.relname::text, i.inhrelid is not null and not i.inhdetachpending, exists (
                     select from pg_constraint k
                     where k.conrelid = c.oid and k.contype = 'c' and not k.convalidated
                         and pg_get_constraintdef(k.oid) like 'CHECK (false)%'
                 )
                 from pg_class c
                 left join pg_inherits i on i.inhrelid = c.oid and i.inhparent = to_regclass($1)
                 where c.relkind = 'r' and pg_table_is_visible(c.oid) and c.relname like $1 || '\\_m%'",
            )
            .bind(table)
            .fetch_all(&mut *conn)
            .await?;
            for (name, attached, fenced) in rows {
                let renamed = name.strip_suffix("_retired");
                let Some(leaf) = plan(table).leaf_of_name(renamed.unwrap_or(&name)) else { continue };
                let standing = attached && !fenced && renamed.is_none();
                leaves.insert(leaf, if standing { State::Standing } else { State::Retiring });
            }
        }
        Ok(Self(leaves))
    }

    /// Whether rows of the leaf are to be compared.
    pub fn stands(&self, leaf: Leaf) -> bool {
        leaf.plan.range().is_none() || self.0.get(&leaf) == Some(&State::Standing)
    }

    /// Whether the leaf is fenced, detached or kept as retired.
    pub fn retiring(&self, leaf: Leaf) -> bool {
        self.0.get(&leaf) == Some(&State::Retiring)
    }

    /// The leaves of a table that stand, in key order.
    pub fn standing(&self, table: &str) -> Vec<Leaf> {
        let plan = plan(table);
        if plan.range().is_none() {
            return plan.hash_leaves().collect();
        }
        let ours = self.0.iter().filter(|(leaf, state)| leaf.plan.table == table && **state == State::Standing);
        ours.map(|(leaf, _)| *leaf).collect()
    }

    /// The leaves of a table that are on their way out.
    pub fn skipped(&self, table: &str) -> Vec<Leaf> {
        let ours = self.0.iter().filter(|(leaf, state)| leaf.plan.table == table && **state == State::Retiring);
        ours.map(|(leaf, _)| *leaf).collect()
    }
}

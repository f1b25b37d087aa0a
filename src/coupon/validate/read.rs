//! What a decision needs besides the coupon, read without locks.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::{
    coupon::world::{Stock, StockKey},
    db::lane::Read,
    id::{MemberId, RuleId},
    member::Standing,
    partition::{Leaf, plan, query},
};

/// `member/find_standing`.
pub struct FindStanding;

impl Read for FindStanding {
    type Key = MemberId;
    type Row = Standing;

    fn leaf(&self, key: &MemberId) -> Leaf {
        plan("member").leaf_i64(key.get())
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        keys: &[MemberId],
    ) -> Result<HashMap<MemberId, Standing>, sqlx::Error> {
        let sql = query("member/find_standing").on(&[leaf]);
        let rows: Vec<(MemberId, i16, i16, bool)> = sqlx::query_as(sql).bind(keys).fetch_all(conn).await?;
        let standing = |(member_id, state, kind, muted)| {
            let read = Standing::from_numbers(member_id, state, kind, muted);
            Ok((member_id, read.map_err(|error| sqlx::Error::Decode(error.into()))?))
        };
        rows.into_iter().map(standing).collect()
    }
}

/// `coupon_stock/find`.
pub struct FindStock;

impl Read for FindStock {
    type Key = StockKey;
    type Row = Stock;

    fn leaf(&self, key: &StockKey) -> Leaf {
        plan("coupon_stock").leaf_i64(key.0.get())
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        keys: &[StockKey],
    ) -> Result<HashMap<StockKey, Stock>, sqlx::Error> {
        let rows: Vec<(RuleId, i64, i64, i64, i32, i32)> = sqlx::query_as(query("coupon_stock/find").on(&[leaf]))
            .bind(keys.iter().map(|key| key.0.get()).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.1).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.2).collect::<Vec<_>>())
            .fetch_all(conn)
            .await?;
        let stock = |(rule, issued, voided, spent, period, store_no)| {
            ((rule, period, store_no), Stock { issued, voided, spent })
        };
        Ok(rows.into_iter().map(stock).collect())
    }
}

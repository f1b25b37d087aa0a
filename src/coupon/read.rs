//! Reads of coupons and ledger rows through the lane.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{
    Coupon,
    store::{CouponRow, RedemptionRow},
    world::Redemption,
};
use crate::{
    db::lane::{Read, WriteError},
    id::{CodeId, RedemptionId},
    partition::{Leaf, plan, query},
};

/// `coupon/find`.
pub struct FindCoupon;

impl Read for FindCoupon {
    type Key = CodeId;
    type Row = Coupon;

    fn leaf(&self, key: &CodeId) -> Leaf {
        plan("coupon").leaf_i64(key.get())
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        keys: &[CodeId],
    ) -> Result<HashMap<CodeId, Coupon>, sqlx::Error> {
        let sql = query("coupon/find").on(&[leaf]);
        let rows: Vec<CouponRow> = sqlx::query_as(sql).bind(keys).fetch_all(conn).await?;
        rows.into_iter().map(|row| Ok((row.code_id, row.into_coupon().map_err(undecodable)?))).collect()
    }
}

/// `redemption/find`.
pub struct FindRedemption;

impl Read for FindRedemption {
    type Key = RedemptionId;
    type Row = Redemption;

    fn leaf(&self, key: &RedemptionId) -> Leaf {
        plan("redemption").leaf_i64(key.get())
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        keys: &[RedemptionId],
    ) -> Result<HashMap<RedemptionId, Redemption>, sqlx::Error> {
        let sql = query("redemption/find").on(&[leaf]);
        let rows: Vec<RedemptionRow> = sqlx::query_as(sql).bind(keys).fetch_all(conn).await?;
        rows.into_iter().map(|row| Ok((row.redemption_id, row.into_redemption().map_err(undecodable)?))).collect()
    }
}

fn undecodable(error: WriteError) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

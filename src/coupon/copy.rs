//! Many new coupons with their index rows, straight into leaves.

use std::collections::BTreeMap;

use super::{
    Coupon,
    store::{coupon_leaf, index_leaf, receive_leaf},
};
use crate::{
    db::{
        copy::{self, CopyRows},
        lane::{Tx, WriteError, expect_rows},
    },
    partition::Leaf,
};

const COUPON: &[&str] = &[
    "code_id",
    "rule_id",
    "issued_at",
    "valid_from",
    "valid_until",
    "member_id",
    "redemption_id",
    "redeemed_at",
    "legacy_key",
    "rule_version",
    "issue_store_no",
    "redeemed_store_no",
    "state",
    "uses",
    "counted",
    "order_ref",
    "referrer",
];
const COUPON_RECEIVE: &[&str] = &["member_id", "code_id", "rule_id", "valid_until", "state", "rule_version"];
const COUPON_INDEX: &[&str] = &["rule_id", "code_id", "valid_until", "member_id", "state", "referrer"];

/// Writes many new coupons with their index rows, straight into leaves. They are of no lock and were never reversed.
pub(super) async fn copy_coupons(tx: &mut Tx<'_>, mut coupons: Vec<&Coupon>) -> Result<(), WriteError> {
    coupons.sort_unstable_by_key(|c| c.code_id);
    let base = by_leaf(&coupons, |c| Some(coupon_leaf(c.code_id)));
    let received = by_leaf(&coupons, |c| c.holder.map(receive_leaf));
    let index = by_leaf(&coupons, |c| Some(index_leaf(c.rule_id)));
    for (leaf, coupons) in base {
        copy(tx, "coupon", leaf, COUPON, &coupons, put_base).await?;
    }
    for (leaf, coupons) in received {
        copy(tx, "coupon_receive", leaf, COUPON_RECEIVE, &coupons, put_received).await?;
    }
    for (leaf, coupons) in index {
        copy(tx, "coupon_index", leaf, COUPON_INDEX, &coupons, put_index).await?;
    }
    Ok(())
}

async fn copy(
    tx: &mut Tx<'_>,
    table: &'static str,
    leaf: Leaf,
    columns: &'static [&'static str],
    coupons: &[&Coupon],
    put: fn(&mut CopyRows, &Coupon),
) -> Result<(), WriteError> {
    let copied = copy::send_as_made(tx.conn().await?, leaf, columns, coupons, |rows, c| put(rows, c)).await?;
    expect_rows(table, coupons.len(), copied)
}

fn by_leaf<'a>(coupons: &[&'a Coupon], leaf_of: impl Fn(&Coupon) -> Option<Leaf>) -> BTreeMap<Leaf, Vec<&'a Coupon>> {
    let mut leaves: BTreeMap<Leaf, Vec<&Coupon>> = BTreeMap::new();
    for coupon in coupons {
        if let Some(leaf) = leaf_of(coupon) {
            leaves.entry(leaf).or_default().push(coupon);
        }
    }
    leaves
}

fn put_base(rows: &mut CopyRows, c: &Coupon) {
    let last = c.last_use.as_ref();
    rows.row()
        .i64(c.code_id.get())
        .i64(c.rule_id.get())
        .instant(c.issued_at)
        .instant(c.valid_from)
        .instant(c.valid_until)
        .opt(c.holder, |row, member_id| row.i64(member_id.get()))
        .opt(last, |row, last| row.i64(last.redemption_id.get()))
        .opt(last, |row, last| row.instant(last.at))
        .opt(c.legacy_key, |row, key| row.uuid(key))
        .i32(c.rule_version)
        .opt(c.issue_store_no, |row, store_no| row.i32(store_no.get()))
        .opt(last, |row, last| row.i32(last.store_no.get()))
        .i16(c.state.number())
        .i16(c.uses)
        .i16(c.counted)
        .opt(last, |row, last| row.text(&last.order_ref))
        .opt(c.referrer.as_deref(), |row, referrer| row.text(referrer));
}

/// Of a coupon that has a holder.
fn put_received(rows: &mut CopyRows, c: &Coupon) {
    rows.row()
        .opt(c.holder, |row, member_id| row.i64(member_id.get()))
        .i64(c.code_id.get())
        .i64(c.rule_id.get())
        .instant(c.valid_until)
        .i16(c.state.number())
        .i32(c.rule_version);
}

fn put_index(rows: &mut CopyRows, c: &Coupon) {
    rows.row()
        .i64(c.rule_id.get())
        .i64(c.code_id.get())
        .instant(c.valid_until)
        .opt(c.holder, |row, member_id| row.i64(member_id.get()))
        .i16(c.state.number())
        .opt(c.referrer.as_deref(), |row, referrer| row.text(referrer));
}

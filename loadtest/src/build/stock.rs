//! `coupon_stock`: what has been taken of each rule, counted over all coupons on all cores.

use std::collections::BTreeMap;

use anyhow::ensure;
use sqlx::PgConnection;
use tessera::{
    db::copy::CopyRows,
    partition::{Leaf, plan},
};

use super::rows::COUPON_STOCK;
use crate::dataset::{Dataset, Fate};

pub const TABLE: &str = "coupon_stock";
const DAY: i16 = 2;
const STORE: i16 = 4;

/// Issued, voided, spent.
type Taken = [i64; 3];
/// Rule of the dataset, day, store.
type Part = (usize, i32, i32);

/// Copies the counts into their leaves, which are attached and small. In the caller's transaction; gives the rows.
///
/// # Errors
/// The database's.
pub async fn insert(conn: &mut PgConnection, dataset: &Dataset, threads: usize) -> anyhow::Result<u64> {
    let counts = count(dataset, threads);
    let mut leaves: BTreeMap<Leaf, CopyRows> = BTreeMap::new();
    for ((rule, period, store_no), [issued, voided, spent]) in &counts {
        let rule_id = dataset.rules[*rule].rule_id.get();
        let rows = leaves.entry(plan(TABLE).leaf_i64(rule_id)).or_insert_with(|| CopyRows::new(COUPON_STOCK));
        rows.row().i64(rule_id).i64(*issued).i64(*voided).i64(*spent).i32(*period).i32(*store_no);
    }
    let mut copied = 0;
    for (leaf, rows) in leaves {
        copied += rows.send(conn, leaf).await?;
    }
    ensure!(copied == counts.len() as u64, "{copied} of {} counts were copied", counts.len());
    Ok(copied)
}

fn count(dataset: &Dataset, threads: usize) -> BTreeMap<Part, Taken> {
    let share = dataset.shape.coupons.div_ceil(threads as u64);
    let counts = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads as u64)
            .map(|part| {
                let range = part * share..((part + 1) * share).min(dataset.shape.coupons);
                scope.spawn(move || count_some(dataset, range))
            })
            .collect();
        parts.into_iter().map(|part| part.join().expect("counting does not panic")).collect::<Vec<_>>()
    });
    let mut all: BTreeMap<Part, Taken> = (0..dataset.rules.len()).map(|rule| ((rule, 0, 0), [0; 3])).collect();
    for (part, taken) in counts.into_iter().flatten() {
        let sum = all.entry(part).or_default();
        sum.iter_mut().zip(taken).for_each(|(sum, taken)| *sum += taken);
    }
    all
}

fn count_some(dataset: &Dataset, range: std::ops::Range<u64>) -> BTreeMap<Part, Taken> {
    let mut whole = vec![[0; 3]; dataset.rules.len()];
    let mut parts: BTreeMap<Part, Taken> = BTreeMap::new();
    for n in range {
        let coupon = dataset.coupon(n);
        let voided = i64::from(coupon.fate == Fate::Void);
        let spent = match &coupon.fate {
            Fate::Redeemed(used) if used.counted > 0 => used.discount,
            _ => 0,
        };
        let add = |taken: &mut Taken, spent| {
            taken[0] += 1;
            taken[1] += voided;
            taken[2] += spent;
        };
        add(&mut whole[coupon.rule], spent);
        if coupon.counted & DAY != 0 {
            add(parts.entry((coupon.rule, coupon.day.number(), 0)).or_default(), 0);
        }
        if let Some(store) = coupon.issue_store.filter(|_| coupon.counted & STORE != 0) {
            add(parts.entry((coupon.rule, 0, store as i32)).or_default(), 0);
        }
    }
    parts.extend(whole.into_iter().enumerate().map(|(rule, taken)| ((rule, 0, 0), taken)));
    parts
}

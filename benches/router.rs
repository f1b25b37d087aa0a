//! The router beside a plain hash of the same keys: what it costs to agree with PostgreSQL.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tessera::partition::plan;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::support::{Bench, report::is_quick};

const KEYS: usize = 4_096;

fn numbers() -> Vec<i64> {
    (0..KEYS as u64).map(|n| (xxh3_64(&n.to_le_bytes()) >> 1) as i64).collect()
}

fn uuids() -> Vec<Uuid> {
    numbers().iter().map(|n| Uuid::from_u128(u128::from(n.unsigned_abs()) << 64 | 0x9E37_79B9_7F4A_7C15)).collect()
}

fn by_reference(bytes: &[u8]) -> i32 {
    (xxh3_64(bytes) % 16) as i32
}

/// Time per key of two functions measured in turns, so that both see the same machine.
fn ratio<K: Copy>(bench: &mut Bench, name: &str, keys: &[K], ours: impl Fn(K) -> i32, reference: impl Fn(K) -> i32) {
    let mut spent = [Duration::ZERO; 2];
    let rounds = if is_quick() { 40 } else { 400 };
    for _ in 0..rounds {
        let start = Instant::now();
        for key in keys {
            let _ = black_box(ours(black_box(*key)));
        }
        spent[0] += start.elapsed();
        let start = Instant::now();
        for key in keys {
            let _ = black_box(reference(black_box(*key)));
        }
        spent[1] += start.elapsed();
    }
    let [ours, reference] = spent.map(|spent| spent.as_nanos() as f64 / (rounds * keys.len()) as f64);
    let beside = format!("xxh3 % 16: {reference:.1} ns");
    bench.report.add(
        "router",
        &format!("route a {name} key"),
        1,
        format!("{ours:.1} ns"),
        beside,
        ours / reference,
        "",
    );
}

pub fn run(bench: &mut Bench) {
    let (member, member_key, coupon) = (plan("member"), plan("member_key"), plan("coupon"));
    let (numbers, uuids) = (numbers(), uuids());
    let codes: Vec<i64> = numbers.iter().map(|n| (n % 14_600) << 41 | n & 0xFFFF).collect();
    let mut group = bench.criterion.benchmark_group("router");
    let mut next = 0;
    let mut at = move || {
        next = (next + 1) % KEYS;
        next
    };
    group.bench_function("bigint", |b| b.iter(|| member.leaf_i64(numbers[at()]).no));
    group.bench_function("uuid", |b| b.iter(|| member_key.leaf_uuid(uuids[at()]).no));
    group.bench_function("month", |b| b.iter(|| coupon.leaf_i64(codes[at()]).no));
    group.bench_function("xxh3 % 16", |b| b.iter(|| by_reference(&numbers[at()].to_le_bytes())));
    group.finish();
    ratio(bench, "bigint", &numbers, |key| member.leaf_i64(key).no, |key| by_reference(&key.to_le_bytes()));
    ratio(bench, "uuid", &uuids, |key| member_key.leaf_uuid(key).no, |key| by_reference(key.as_bytes()));
    ratio(bench, "month", &codes, |key| coupon.leaf_i64(key).no, |key| by_reference(&key.to_le_bytes()));
}

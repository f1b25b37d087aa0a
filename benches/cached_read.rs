//! A cached member, found by id with the bytes that show it, beside a plain moka get of an `Arc`.

use std::{
    convert::Infallible,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use tessera::{
    cache::{Bypass, Cache},
    clock::Clock,
    id::MemberId,
    member::{Gender, Kind, Member, Source, State, cache::Shown},
};

use crate::support::{Bench, report::is_quick};

const MEMBERS: i64 = 50_000;
const CALLS: i64 = 20_000;

fn member(member_id: MemberId) -> Member {
    let now = Clock::system().now();
    Member {
        member_id,
        state: State::Normal,
        kind: Kind::Ordinary,
        phone: Some("+86138****0001".to_owned()),
        email: Some("l***@example.cn".to_owned()),
        name: Some("L*".to_owned()),
        nickname: None,
        signature: None,
        gender: Gender::Female,
        birthday: Some("1990-**-**".to_owned()),
        source: Source::Store,
        store_id: Some(Arc::from("S0001")),
        level: 0,
        muted: false,
        avatar: None,
        attributes: None,
        erased_at: None,
        version: 1,
        created_at: now,
        updated_at: now,
    }
}

/// Ids in an order without locality.
fn id(call: i64) -> MemberId {
    MemberId::new((call * 1_000_003 % MEMBERS) << 22).expect("not negative")
}

async fn by_cache(cache: &Cache<MemberId, Shown>, call: i64) -> usize {
    let load = async { Ok::<_, Infallible>(None) };
    let (shown, _) = cache.get(&id(call), load).await.expect("it cannot fail").expect("it is in memory");
    shown.json.clone().len()
}

async fn by_moka(cache: &moka::future::Cache<MemberId, Arc<Shown>>, call: i64) -> usize {
    cache.get(&id(call)).await.expect("it is in memory").json.clone().len()
}

pub fn run(bench: &mut Bench) {
    let runtime = bench.runtime;
    // As the service has it: with a deadline that the tail of events moves on.
    let bypass = Bypass::stale();
    bypass.fresh_until(Instant::now() + Duration::from_secs(3_600));
    let ttl = Duration::from_secs(300);
    let cache = Cache::new("member", 1 << 30, ttl, bypass, |_: &MemberId, shown: &Shown| 400 + shown.json.len() as u32);
    let plain = moka::future::Cache::builder().max_capacity(1 << 30).time_to_live(ttl).build();
    runtime.block_on(async {
        for call in 0..MEMBERS {
            let member_id = id(call);
            let load = async { Ok::<_, Infallible>(Some(Shown::new(member(member_id)))) };
            cache.get(&member_id, load).await.expect("it cannot fail");
            plain.insert(member_id, Arc::new(Shown::new(member(member_id)))).await;
        }
    });

    let mut group = bench.criterion.benchmark_group("cached_read/cached member");
    let mut call = 0;
    let mut next = move || {
        call += 1;
        call
    };
    group.bench_function("cache", |b| b.to_async(runtime).iter(|| by_cache(&cache, next())));
    group.bench_function("moka", |b| b.to_async(runtime).iter(|| by_moka(&plain, next())));
    group.finish();

    let turns = if is_quick() { 7 } else { 21 };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        for turn in 0..turns {
            let calls = turn * CALLS..(turn + 1) * CALLS;
            let began = Instant::now();
            for call in calls.clone() {
                black_box(by_cache(&cache, call).await);
            }
            ours.push(began.elapsed());
            let began = Instant::now();
            for call in calls {
                black_box(by_moka(&plain, call).await);
            }
            theirs.push(began.elapsed());
        }
    });
    ours.sort_unstable();
    theirs.sort_unstable();
    let nanos = |took: &[Duration]| took[took.len() / 2].as_nanos() as f64 / CALLS as f64;
    let (ours, theirs) = (nanos(&ours), nanos(&theirs));
    bench.report.add(
        "cached_read",
        "cached member, with its bytes",
        1,
        format!("{ours:.0} ns"),
        format!("moka, an Arc: {theirs:.0} ns"),
        ours / theirs,
        "",
    );
}

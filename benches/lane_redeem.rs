//! A redemption through the lane, all its tables, durable, beside the same writes on flat tables with a transaction each.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use criterion::{Criterion, criterion_group, criterion_main};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use sqlx::PgConnection;
use support::{Caller, Measure, Reference, Side, best, compare, report::Report, stage::Stage};
use tessera::{
    cache::Bypass,
    chain::names::StoreNames,
    clock::{Clock, Zone},
    config::Settings,
    coupon::{
        decide::{Place, Redeem},
        rule_cache::RuleBook,
        writer::{Act, CouponOp, CouponWriter, Doubts},
    },
    db::lane::{Lane, WriterHandle},
    id::{Day, EventId, RedemptionId, StoreNo},
    request::{ClaimDays, RequestNumber, store::Ticket},
};
use uuid::Uuid;

/// Two leaves, or three: what is redeemed was issued of late.
const DAYS: i64 = 60;

/// Coupons in an order that has nothing to do with their keys, each handed out once.
struct Supply {
    stage: &'static Stage,
    order: Vec<i64>,
    next: AtomicUsize,
}

impl Supply {
    fn new(stage: &'static Stage) -> Arc<Self> {
        let mut order: Vec<i64> = (1..=stage.rows).collect();
        order.shuffle(&mut StdRng::seed_from_u64(5));
        Arc::new(Self { stage, order, next: AtomicUsize::new(0) })
    }

    /// The number of a redemption, and the coupon of it.
    fn take(&self) -> (i64, i64) {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        (at as i64, *self.order.get(at).expect("every coupon was redeemed: raise TESSERA_BENCH_ROWS"))
    }

    fn taken(&self) -> i64 {
        self.next.load(Ordering::Relaxed) as i64
    }
}

struct ByLane {
    supply: Arc<Supply>,
    writer: WriterHandle<CouponWriter>,
    store_no: StoreNo,
}

impl Caller for ByLane {
    async fn call(&mut self) {
        let (number, coupon) = self.supply.take();
        let stage = self.supply.stage;
        let today: Day = stage.today;
        let redeem = Redeem {
            code_id: stage.coupon(coupon).0,
            redemption_id: RedemptionId::from_parts(today, number).expect("it fits"),
            event_id: EventId::from_parts(today, number).expect("it fits"),
            place: Place {
                store_no: self.store_no,
                store_id: Arc::from("S0001"),
                regions: Arc::from([]),
                register: Some("2".to_owned()),
                sequence: Some(417),
            },
            order_ref: format!("S0001-{number}"),
            amount: 8_000,
            lines: Vec::new(),
            currency: None,
            member_id: None,
            occurred_at: None,
        };
        let number = RequestNumber { key: key(number), days: ClaimDays::One(today.to_date()) };
        let op = CouponOp { ticket: Ticket { number, digest: 1 }, act: Act::Redeem(redeem) };
        let (answer, _) = self.writer.write(op).await.expect("the lane answers");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

fn key(number: i64) -> Uuid {
    Uuid::from_u64_pair((number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15), number as u64)
}

/// One connection that does what a plain service would: each redemption is a transaction of single-row statements.
struct ByTransaction {
    supply: Arc<Supply>,
    conn: PgConnection,
    clock: Clock,
}

impl Caller for ByTransaction {
    async fn call(&mut self) {
        let (number, coupon) = self.supply.take();
        self.redeem(number, coupon).await.expect("the reference redeems");
    }
}

impl ByTransaction {
    async fn redeem(&mut self, number: i64, coupon: i64) -> Result<(), sqlx::Error> {
        let stage = self.supply.stage;
        let (code_id, member_id, rule_id) = stage.coupon(coupon);
        let (day, now) = (stage.today.to_date(), self.clock.now());
        let id = RedemptionId::from_parts(stage.today, number).expect("it fits").get();
        let order_ref = format!("S0001-{number}");
        let answer = format!(
            r#"{{"redemption_id":"{id}","code":"7K3M-0000-0000-0000","state":"redeemed","discount":1000,"payable":7000,"currency":"CNY","uses":1,"uses_max":1,"redeemed_at":"{now:?}","store_id":"S0001","order_ref":"{order_ref}"}}"#
        );
        let conn = &mut self.conn;
        sqlx::raw_sql("begin").execute(&mut *conn).await?;
        sqlx::query(CLAIM).bind(now).bind(1_i64).bind(key(number)).bind(day).fetch_one(&mut *conn).await?;
        sqlx::query(LOCK).bind(code_id).fetch_one(&mut *conn).await?;
        sqlx::query("select m.member_id, m.state, m.kind from flat.member m where m.member_id = $1")
            .bind(member_id)
            .fetch_one(&mut *conn)
            .await?;
        let mut rows = 0;
        rows += sqlx::query("update flat.request set status = 200, answer = $3 where day = $1 and key = $2")
            .bind(day)
            .bind(key(number))
            .bind(&answer)
            .execute(&mut *conn)
            .await?
            .rows_affected();
        rows += sqlx::query(USE)
            .bind(code_id)
            .bind(id)
            .bind(now)
            .bind(&order_ref)
            .execute(&mut *conn)
            .await?
            .rows_affected();
        rows += sqlx::query("update flat.coupon_receive set state = 2 where member_id = $1 and code_id = $2")
            .bind(member_id)
            .bind(code_id)
            .execute(&mut *conn)
            .await?
            .rows_affected();
        rows += sqlx::query("update flat.coupon_index set state = 2 where rule_id = $1 and code_id = $2")
            .bind(rule_id)
            .bind(code_id)
            .execute(&mut *conn)
            .await?
            .rows_affected();
        rows += sqlx::query(LEDGER)
            .bind(id)
            .bind(code_id)
            .bind(rule_id)
            .bind(now)
            .bind(member_id)
            .bind(&order_ref)
            .execute(&mut *conn)
            .await?
            .rows_affected();
        rows += sqlx::query(
            "insert into flat.event (event_id, created_at, subject, kind, body) values ($1, $2, $3, 1, $4)",
        )
        .bind(id)
        .bind(now)
        .bind(code_id)
        .bind(&answer)
        .execute(&mut *conn)
        .await?
        .rows_affected();
        assert_eq!(rows, 6);
        sqlx::raw_sql("commit").execute(&mut *conn).await?;
        Ok(())
    }
}

const CLAIM: &str = "insert into flat.request (created_at, digest, key, day) values ($1, $2, $3, $4) \
     on conflict (day, key) do nothing returning day, key";
const LOCK: &str = "select c.code_id, c.rule_id, c.issued_at, c.valid_from, c.valid_until, c.member_id, \
     c.redemption_id, c.redeemed_at, c.lock_until, c.legacy_key, c.rule_version, c.issue_store_no, \
     c.redeemed_store_no, c.state, c.uses, c.cycles, c.lock_order, c.order_ref, c.referrer \
     from flat.coupon c where c.code_id = $1 for update";
const USE: &str = "update flat.coupon set redemption_id = $2, redeemed_at = $3, redeemed_store_no = 1, state = 2, \
     uses = 1, order_ref = $4 where code_id = $1";
const LEDGER: &str = "insert into flat.redemption (redemption_id, code_id, rule_id, recorded_at, amount, discount, \
     member_id, rule_version, store_no, sequence, kind, register, order_ref) \
     values ($1, $2, $3, $4, 8000, 1000, $5, 1, 1, 417, 1, '2', $6)";

fn by_transactions(supply: &Arc<Supply>, tasks: usize, calls: usize) -> Side<ByTransaction> {
    let candidates = [1, 4, 16, 64].into_iter().filter(|&clients| clients <= tasks && (tasks == 1) == (clients == 1));
    let sides = candidates.map(|clients| {
        let conns = supply.stage.connect(clients).into_iter();
        let callers =
            conns.map(|conn| ByTransaction { supply: Arc::clone(supply), conn, clock: Clock::system() }).collect();
        Side::new(format!("flat, sqlx, a transaction each, {clients} clients"), callers)
    });
    best(&supply.stage.runtime, calls, sides.collect())
}

fn lane_redeem(criterion: &mut Criterion) {
    let stage: &'static Stage = Box::leak(Box::new(Stage::new(DAYS)));
    let mut report = Report::new("lane_redeem");
    let lane = {
        let _in_runtime = stage.runtime.enter();
        Lane::start(stage.service(), support::stage::lane_settings())
    };
    let writer = lane.writer(CouponWriter {
        clock: Clock::system(),
        zone: Zone::DEFAULT,
        rules: RuleBook::new(&Settings::default().cache, Bypass::default()),
        stores: StoreNames::default(),
        doubts: Doubts::default(),
    });
    let (ours, theirs) = (Supply::new(stage), Supply::new(stage));
    // Every coupon is redeemed once: the rounds together must not need more than there are.
    let share = stage.rows as usize / 1_200;
    for (tasks, calls, measure, goal) in [
        (1, share, Measure::P50, "≤ 1.1"),
        (16, share * 6, Measure::Rate, "≥ 1.5"),
        (64, share * 16, Measure::Rate, "≥ 3"),
    ] {
        let callers = (0..tasks)
            .map(|_| ByLane { supply: Arc::clone(&ours), writer: writer.clone(), store_no: StoreNo::new(1) })
            .collect();
        let mut by_lane = Side::new("lane", callers);
        let mut by_transaction = by_transactions(&theirs, tasks, calls);
        compare(
            criterion,
            &mut report,
            &stage.runtime,
            ("redeem through the lane", tasks, calls),
            &mut by_lane,
            &mut [Reference { side: &mut by_transaction, measure, goal }],
        );
    }
    report.finish();
    stage.runtime.block_on(lane.stop());
    // A figure of writes that were not made would be worth nothing.
    for (schema, redeemed) in [("public", ours.taken()), ("flat", theirs.taken())] {
        for (table, condition) in [
            ("coupon", "state = 2"),
            ("coupon_receive", "state = 2"),
            ("coupon_index", "state = 2"),
            ("redemption", "true"),
            ("request", "status = 200"),
            ("event", "true"),
        ] {
            let found = stage.count(&format!("select count(*) from {schema}.{table} where {condition}"));
            assert_eq!(found, redeemed, "{schema}.{table}");
        }
    }
    stage.end();
}

criterion_group! {
    name = benches;
    config = support::report::criterion(10, 1, 1_000);
    targets = lane_redeem
}
criterion_main!(benches);

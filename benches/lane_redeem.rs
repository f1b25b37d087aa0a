//! A redemption through the lane, all its tables, durable, beside the same writes on flat tables with a transaction each.

use std::sync::Arc;

use tessera::{
    app::App,
    coupon::desk::RedeemRequest,
    request::{ClaimDays, RequestNumber, store::Ticket},
};

use crate::support::{
    Bench, Caller, Measure, Path, Reference, Side, best,
    built::AMOUNT,
    clients, compare,
    pgbench::Pgbench,
    report::is_quick,
    stage::{Stage, request_key},
};

const FILE: &str = "lane_redeem";

/// A till that has no way to go but the lane.
pub struct ByLane {
    pub stage: &'static Stage,
    pub app: Arc<App>,
}

impl ByLane {
    pub fn callers(stage: &'static Stage, app: &Arc<App>, tasks: usize) -> Vec<Self> {
        (0..tasks).map(|_| Self { stage, app: Arc::clone(app) }).collect()
    }
}

impl Caller for ByLane {
    async fn call(&mut self) {
        let stage = self.stage;
        let (number, code_id) = stage.take();
        let ask = RedeemRequest {
            code_id,
            till: stage.till(),
            order_ref: format!("S0001-{number}"),
            amount: AMOUNT,
            lines: Vec::new(),
            currency: None,
            member_id: None,
        };
        let number = RequestNumber { key: request_key(number), days: ClaimDays::One(stage.today.to_date()) };
        let (answer, _) = self.app.desk.redeem(Ticket { number, digest: 1 }, ask).await.expect("the lane answers");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// What a plain service would do: each redemption is a transaction of single-row statements.
fn script(stage: &Stage) -> String {
    let [code, member, rule] = stage.expressions();
    let day = stage.today.to_date();
    let id = format!("({} << 41) | :n", stage.today.number());
    // As long as ours.
    let answer = format!(
        "'{{\"redemption_id\":\"' || :id || '\",\"code\":\"' || :code || '\",\"state\":\"redeemed\",\"discount\":1000,\
         \"payable\":7000,\"currency\":\"CNY\",\"uses\":1,\"uses_max\":1,\"redeemed_at\":\"{day}T12:00:00.000000Z\",\
         \"store_id\":\"S0001\",\"order_ref\":\"S0001-' || :n || '\"}}'"
    );
    format!(
        "\\set i {}
\\set code {code}
\\set member {member}
\\set rule {rule}
\\set id {id}
begin;
select r.digest, r.status, r.answer from flat.request r where r.day = date '{day}' and r.key = md5(:n::text)::uuid;
select c.code_id, c.rule_id, c.issued_at, c.valid_from, c.valid_until, c.member_id, c.redemption_id, c.redeemed_at, \
         c.lock_until, c.legacy_key, c.rule_version, c.issue_store_no, c.redeemed_store_no, c.state, c.uses, c.cycles, \
         c.counted, c.lock_order, c.order_ref, c.referrer, c.void_reason \
         from flat.coupon c where c.code_id = :code for update;
select m.member_id, m.state, m.kind, m.muted from flat.member m where m.member_id = :member for share;
insert into flat.request (created_at, digest, key, day, status, answer) \
         values (now(), 1, md5(:n::text)::uuid, date '{day}', 200, {answer});
update flat.coupon set redemption_id = :id, redeemed_at = now(), redeemed_store_no = 1, state = 2, uses = 1, \
         order_ref = 'S0001-' || :n where code_id = :code;
update flat.coupon_receive set state = 2 where member_id = :member and code_id = :code;
update flat.coupon_index set state = 2 where rule_id = :rule and code_id = :code;
insert into flat.redemption (redemption_id, code_id, rule_id, recorded_at, amount, discount, member_id, rule_version, \
         store_no, kind, register, order_ref) \
         values (:id, :code, :rule, now(), 8000, 1000, :member, 1, 1, 1, '2', 'S0001-' || :n);
insert into flat.event (event_id, created_at, subject, kind, body) values (:id, now(), :code, 1, {answer});
commit;
",
        stage.nth_expression()
    )
}

pub fn run(bench: &mut Bench, stage: &'static Stage, app: &Arc<App>) {
    // Every coupon is redeemed once: the rounds of all benches together must not need more than there are.
    let share = stage.share();
    let in_all = if stage.is_resident() { "redeem 64" } else { "redeem uniform 64" };
    for (tasks, calls, measures) in [
        (1, share.div_ceil(2), &[(Measure::P50, "redeem p50 1"), (Measure::Rate, "")]),
        (16, share * 6, &[(Measure::Rate, "redeem 16"), (Measure::P99, "")]),
        (64, share * 14, &[(Measure::Rate, in_all), (Measure::P99, "")]),
    ] {
        let mut ours = Side::new("lane", ByLane::callers(stage, app, tasks));
        let candidates = if is_quick() { vec![tasks.min(16)] } else { clients(tasks) };
        let sides = candidates
            .into_iter()
            .map(|clients| Pgbench::new(stage, "flat, a transaction each", clients, &script(stage), true));
        let mut theirs = best(stage.runtime, calls, sides.collect());
        let path = Path { file: FILE, path: "redeem through the lane", tasks, calls };
        compare(bench, path, &mut ours, &mut [Reference { side: &mut theirs, measures }]);
    }
}

/// A figure of writes that were not made would be worth nothing.
///
/// # Panics
/// When a table has not as many rows of redemptions as were made.
pub fn verify(stage: &'static Stage) {
    let (ours, theirs) = stage.taken();
    for (schema, redeemed) in [("public", ours), ("flat", theirs)] {
        for (table, condition) in [
            ("coupon", "state = 2"),
            ("coupon_receive", "state = 2"),
            ("coupon_index", "state = 2"),
            ("redemption", "true"),
            ("request", "status = 200"),
        ] {
            let found = stage.count(&format!("select count(*) from {schema}.{table} where {condition}"));
            assert_eq!(found, redeemed, "{schema}.{table}");
        }
    }
}

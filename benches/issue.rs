//! Coupons issued one by one, beside the same rows on flat tables; and everybody claiming of one rule at once, beside the same
//! claims spread over many.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tessera::{
    app::App,
    coupon::desk::IssueRequest,
    id::{MemberId, RuleId},
    request::{ClaimDays, RequestNumber, store::Ticket},
};

use crate::support::{
    Bench, Caller, Measure, Path, Reference, Side, compare,
    pgbench::Pgbench,
    report::is_quick,
    stage::{RULES, Stage, request_key},
};

const FILE: &str = "issue";

/// Apart from the numbers of redemptions.
static NUMBER: AtomicI64 = AtomicI64::new(1 << 40);

/// A member takes a coupon of one of so many rules.
struct Claim {
    stage: &'static Stage,
    app: Arc<App>,
    rules: i64,
}

impl Claim {
    fn callers(stage: &'static Stage, app: &Arc<App>, tasks: usize, rules: i64) -> Vec<Self> {
        (0..tasks).map(|_| Self { stage, app: Arc::clone(app), rules }).collect()
    }
}

impl Caller for Claim {
    async fn call(&mut self) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let member_id: MemberId = self.stage.member(number % self.stage.members() + 1);
        let ask = IssueRequest {
            rule_id: RuleId::new(number % self.rules + 1).expect("an id"),
            member_id: Some(member_id),
            count: 1,
            store_no: None,
            referrer: None,
            claimed: true,
            issued_on: None,
        };
        let day = ClaimDays::One(self.stage.today.to_date());
        let ticket = Ticket { number: RequestNumber { key: request_key(number), days: day }, digest: 1 };
        let (answer, _) = self.app.desk.issue(ticket, ask).await.expect("the lane answers");
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
}

/// The same rows by a transaction of single-row statements. The stock is one row for each rule, and so is what a member
/// has taken.
fn script(stage: &Stage) -> String {
    let (day, today) = (stage.today.to_date(), stage.today.number());
    format!(
        "\\set rule random(1, {RULES})
\\set member random(1, {}) << 22
\\set code ({today} << 41) | random(1 << 39, 1 << 40)
begin;
select r.digest, r.status, r.answer from flat.request r where r.day = date '{day}' and r.key = md5(:code::text)::uuid;
select m.member_id, m.state, m.kind, m.muted from flat.member m where m.member_id = :member for share;
insert into flat.coupon_stock (rule_id, issued) values (:rule, 1) \
         on conflict (rule_id, period, store_no) do update set issued = coupon_stock.issued + 1;
insert into flat.member_rule (member_id, rule_id, last_taken_at, taken) values (:member, :rule, now(), 1) \
         on conflict (member_id, rule_id) do update set taken = member_rule.taken + 1, last_taken_at = now();
insert into flat.coupon (code_id, rule_id, issued_at, valid_from, valid_until, member_id, rule_version) \
         values (:code, :rule, now(), now(), now() + interval '30 days', :member, 1);
insert into flat.coupon_receive (member_id, code_id, rule_id, valid_until, state) \
         values (:member, :code, :rule, now() + interval '30 days', 1);
insert into flat.coupon_index (rule_id, code_id, valid_until, member_id, state) \
         values (:rule, :code, now() + interval '30 days', :member, 1);
insert into flat.request (created_at, digest, key, day, status, answer) \
         values (now(), 1, md5(:code::text)::uuid, date '{day}', 201, '{{\"coupons\":[{{\"code\":\"' || :code || '\",\"state\":\"issued\",\
         \"valid_from\":\"{day}T12:00:00.000Z\",\"valid_until\":\"{day}T16:00:00.000Z\",\"member_id\":\"' || :member || '\"}}]}}');
insert into flat.event (event_id, created_at, subject, kind, body) values (:code, now(), :rule, 1, \
         '{{\"rule_id\":\"' || :rule || '\",\"rule_version\":1,\"member_id\":\"' || :member || '\",\"count\":1}}');
commit;
",
        stage.members()
    )
}

pub fn run(bench: &mut Bench, stage: &'static Stage, app: &Arc<App>) {
    for (tasks, calls, measure) in [(1, 100, Measure::P50), (64, 2_000, Measure::Rate)] {
        let calls = if is_quick() { calls / 20 } else { calls };
        let mut ours = Side::new("lane", Claim::callers(stage, app, tasks, RULES));
        let mut theirs = Pgbench::new(stage, "flat, a transaction each", tasks.min(16), &script(stage), false);
        let path = Path { file: FILE, path: "issue to a member, one by one", tasks, calls };
        compare(bench, path, &mut ours, &mut [Reference { side: &mut theirs, measures: &[(measure, "")] }]);
    }
    let (tasks, calls) = (64, if is_quick() { 300 } else { 3_000 });
    let mut ours = Side::new("one rule", Claim::callers(stage, app, tasks, 1));
    let mut theirs = Side::new("1,000 rules", Claim::callers(stage, app, tasks, RULES));
    let path = Path { file: FILE, path: "claim rush on one rule", tasks, calls };
    let measures = &[(Measure::Rate, "claim rush"), (Measure::P99, "")];
    compare(bench, path, &mut ours, &mut [Reference { side: &mut theirs, measures }]);
}

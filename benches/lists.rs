//! The first page of a member's coupons and of a rule's, beside the same question to a flat table.

use std::sync::Arc;

use rand::{Rng, SeedableRng, rngs::StdRng};
use sqlx::PgConnection;
use tessera::{
    app::App,
    coupon::{
        list::{Filter, list_of_rule},
        wallet::{HeldKey, ListHeld},
    },
    db::lane::Reader,
    id::{CodeId, RuleId},
};

use crate::support::{
    Bench, Caller, Measure, Path, Reference, Side, best, clients, compare,
    report::is_quick,
    stage::{RULES, Stage},
};

const FILE: &str = "lists";
const PAGE: i64 = 50;
const OF_MEMBER: &str = "select r.code_id, r.rule_id, r.valid_until, r.state, r.rule_version \
     from {}.coupon_receive r where r.member_id = $1 and r.code_id < $2 order by r.code_id desc limit $3";
const OF_RULE: &str = "select i.code_id, i.valid_until, i.member_id, i.state, i.referrer \
     from {}.coupon_index i where i.rule_id = $1 and i.code_id >= $2 order by i.code_id limit $3";

struct Draw(&'static Stage, StdRng);

impl Draw {
    fn new(stage: &'static Stage, caller: usize) -> Self {
        Self(stage, StdRng::seed_from_u64(caller as u64))
    }

    fn member(&mut self) -> i64 {
        self.0.member(self.1.random_range(1..=self.0.members())).get()
    }

    fn rule(&mut self) -> i64 {
        self.0.rule(self.1.random_range(0..RULES)).get()
    }
}

struct OfMember(Draw, Reader<ListHeld>);

impl Caller for OfMember {
    async fn call(&mut self) {
        let member_id = tessera::id::MemberId::new(self.0.member()).expect("an id");
        let before = CodeId::MAX;
        let (held, _) = self.1.find(HeldKey { member_id, before, rows_max: PAGE }).await.expect("the lane answers");
        assert!(held.is_some());
    }
}

/// What the route does: a connection of the office for each page.
struct OfRule(Draw, Arc<App>);

impl Caller for OfRule {
    async fn call(&mut self) {
        let rule_id = RuleId::new(self.0.rule()).expect("an id");
        let mut conn = self.1.office.get().await.expect("a connection");
        let now = self.1.clock.now();
        let page = list_of_rule(&mut conn, rule_id, &Filter::default(), now, None, PAGE).await.expect("a page");
        assert!(!page.rows.is_empty());
    }
}

struct ByQuery {
    draw: Draw,
    conn: PgConnection,
    of_member: bool,
    sql: &'static str,
}

impl Caller for ByQuery {
    async fn call(&mut self) {
        let (id, bound) = match self.of_member {
            true => (self.draw.member(), i64::MAX),
            false => (self.draw.rule(), 0),
        };
        let rows = sqlx::query(self.sql).bind(id).bind(bound).bind(PAGE).fetch_all(&mut self.conn).await.expect("rows");
        assert!(rows.len() as i64 <= PAGE);
    }
}

fn reference(stage: &'static Stage, of_member: bool, tasks: usize, calls: usize) -> Side<ByQuery> {
    let sql: &'static str = if of_member { OF_MEMBER } else { OF_RULE }.replace("{}", stage.beside()).leak();
    let sides = clients(tasks).into_iter().map(|clients| {
        let conns = stage.connect(clients).into_iter().enumerate();
        // Others than ours, which it would find in memory after us.
        let draw = |caller| Draw::new(stage, caller + 1_000);
        let callers = conns.map(|(caller, conn)| ByQuery { draw: draw(caller), conn, of_member, sql }).collect();
        Side::new(format!("{}, sqlx, {clients} clients", stage.beside()), callers)
    });
    best(stage.runtime, calls, sides.collect())
}

pub fn run(bench: &mut Bench, stage: &'static Stage, app: &Arc<App>) {
    let held = app.lane.reader(ListHeld);
    for (tasks, calls, measure) in [(1, 1_000, Measure::P50), (64, 8_000, Measure::Rate)] {
        let calls = if is_quick() { calls / 20 } else { calls };
        let callers = (0..tasks).map(|caller| OfMember(Draw::new(stage, caller), held.clone())).collect();
        let mut ours = Side::new("lane", callers);
        let mut theirs = reference(stage, true, tasks, calls);
        let path = Path { file: FILE, path: "list of a member's coupons", tasks, calls };
        compare(bench, path, &mut ours, &mut [Reference { side: &mut theirs, measures: &[(measure, "")] }]);

        let callers = (0..tasks).map(|caller| OfRule(Draw::new(stage, caller), Arc::clone(app))).collect();
        let mut ours = Side::new("office", callers);
        let calls = calls / 2;
        let mut theirs = reference(stage, false, tasks, calls);
        let path = Path { file: FILE, path: "list of a rule's coupons, 50 of them", tasks, calls };
        compare(bench, path, &mut ours, &mut [Reference { side: &mut theirs, measures: &[(measure, "")] }]);
    }
}

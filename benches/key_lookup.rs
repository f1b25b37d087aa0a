//! The member who says a phone number: its blind key, the row of the key and the row of the member through the lane, beside
//! one query that joins flat tables.

use std::sync::Arc;

use rand::{Rng, SeedableRng, rngs::StdRng};
use sqlx::{PgConnection, Row};
use tessera::{app::App, config::Settings};

use crate::support::{
    Bench, Caller, Measure, Path, Reference, Side, best, clients, compare,
    report::is_quick,
    stage::{Stage, settings},
};

const FILE: &str = "key_lookup";
const JOIN: &str = "select m.member_id, m.created_at, m.updated_at, m.phone_bound_at, m.email_bound_at, m.erased_at, \
     m.version, m.home_store_no, m.state, m.kind, m.gender, m.source, m.level, m.muted, m.phone, m.email, m.name, \
     m.birthday, m.nickname, m.signature from {}.member_key k join {}.member m on m.member_id = k.member_id \
     where k.key = $1";

struct Draw {
    stage: &'static Stage,
    rng: StdRng,
}

impl Draw {
    fn new(stage: &'static Stage, caller: usize) -> Self {
        Self { stage, rng: StdRng::seed_from_u64(caller as u64) }
    }

    fn next(&mut self) -> i64 {
        self.rng.random_range(1..=self.stage.members())
    }
}

/// As a look-up at a till does it: a member that is found is decrypted, masked and rendered.
struct ByLane {
    draw: Draw,
    app: Arc<App>,
}

impl Caller for ByLane {
    async fn call(&mut self) {
        let m = self.draw.next();
        let (shown, cost) = self.app.members.book.find_by(&self.draw.stage.phone(m)).await.expect("the lane answers");
        assert_eq!(shown.expect("every member is there").member.member_id, self.draw.stage.member(m));
        assert_eq!(cost.statements, 2, "nothing is remembered");
    }
}

struct ByJoin {
    draw: Draw,
    app: Arc<App>,
    conn: PgConnection,
    sql: &'static str,
}

impl Caller for ByJoin {
    async fn call(&mut self) {
        let m = self.draw.next();
        let phone = self.draw.stage.phone(m);
        let (_, key) = self.app.secrets.blind_current(phone.kind().number(), phone.normalised());
        let row = sqlx::query(self.sql).bind(key).fetch_one(&mut self.conn).await.expect("a row");
        assert_eq!(row.get::<i64, _>(0), self.draw.stage.member(m).get());
    }
}

pub fn run(bench: &mut Bench, stage: &'static Stage) {
    let mut settings: Settings = settings();
    settings.cache.cache_bytes_max = 0;
    let app = stage.app(settings);
    let sql: &'static str = JOIN.replace("{}", stage.beside()).leak();
    for (tasks, calls, measure) in [(1, 2_000, Measure::P50), (64, 16_000, Measure::Rate)] {
        let calls = if is_quick() { calls / 20 } else { calls };
        let callers = (0..tasks).map(|caller| ByLane { draw: Draw::new(stage, caller), app: Arc::clone(&app) });
        let mut ours = Side::new("lane, shown", callers.collect());
        let sides = clients(tasks).into_iter().map(|clients| {
            let conns = stage.connect(clients).into_iter().enumerate();
            let callers = conns
                .map(|(caller, conn)| ByJoin {
                    draw: Draw::new(stage, caller + 1_000),
                    app: Arc::clone(&app),
                    conn,
                    sql,
                })
                .collect();
            Side::new(format!("a join, {}, sqlx, {clients} clients", stage.beside()), callers)
        });
        let mut theirs = best(stage.runtime, calls, sides.collect());
        let path = Path { file: FILE, path: "member by phone, not cached", tasks, calls };
        compare(bench, path, &mut ours, &mut [Reference { side: &mut theirs, measures: &[(measure, "")] }]);
    }
    stage.runtime.block_on(app.stop());
}

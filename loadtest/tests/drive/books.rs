//! The checker against a run on real PostgreSQL: it sees what is broken on purpose, and nothing else.

use loadtest::drive::{
    check::{self, Books, Finding},
    journal::{Entry, Journal, Reader, Sent},
    op::Op,
    result::Run,
};
use sqlx::{AssertSqlSafe, PgConnection};
use tessera::{clock::Clock, event::Kind};

use super::support::{Ground, broken, text};

/// Breaks the database in a transaction, or the books in memory, and sees who notices.
struct Breaker {
    conn: PgConnection,
    run: Run,
    /// What the run's journal holds, or is to hold.
    entries: Vec<Entry>,
    dir: tempfile::TempDir,
}

impl Breaker {
    /// The books as they are now, so many things at a time.
    fn books(&self, at_once: usize) -> Books {
        let path = self.dir.path().join("journal");
        let journal = Journal::create(&path).unwrap();
        let mut pen = journal.pen();
        self.entries.iter().for_each(|entry| pen.write(entry));
        drop(pen);
        journal.close().unwrap();
        let mut books = Books::open(&[path], vec![self.run.run.clone()], self.run.started_at).unwrap();
        books.at_once = at_once;
        books
    }

    /// What the checker finds, which does not depend on how much it holds at once.
    async fn finds(&mut self) -> Vec<Finding> {
        let (whole, parts) = (self.books(usize::MAX), self.books(self.entries.len() / 4));
        assert!(whole.parts() == 1 && parts.parts() > 2);
        let now = Clock::system().now();
        let found = check::examine(&mut self.conn, &whole, now).await.unwrap();
        let by_parts = check::examine(&mut self.conn, &parts, now).await.unwrap();
        let counts = |found: &[Finding]| {
            found.iter().map(|one| (one.name.clone(), one.looked_at, one.broken)).collect::<Vec<_>>()
        };
        assert_eq!(counts(&found), counts(&by_parts));
        found
    }

    fn sent(&mut self) -> impl Iterator<Item = &mut Sent> {
        self.entries.iter_mut().filter_map(|entry| match entry {
            Entry::Write(sent) => Some(sent),
            _ => None,
        })
    }

    async fn sees(&mut self, sql: &str) -> Vec<Finding> {
        sqlx::raw_sql("begin").execute(&mut self.conn).await.unwrap();
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.conn).await;
        let done = done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(done.rows_affected() > 0, "{sql}: nothing to break");
        let books = self.books(self.entries.len() / 2);
        let findings = check::examine(&mut self.conn, &books, Clock::system().now()).await.unwrap();
        sqlx::raw_sql("rollback").execute(&mut self.conn).await.unwrap();
        findings
    }

    /// Result and order of a write of the run that still stands.
    fn acknowledged(&mut self, op: Op) -> (String, String) {
        let undone: Vec<String> =
            self.sent().filter(|sent| sent.op == Op::Reverse).map(|sent| sent.about.clone()).collect();
        let stands = |sent: &&mut Sent| sent.op == op && sent.done.is_some() && !undone.contains(&sent.about);
        let sent = self.sent().find(stands).unwrap();
        (sent.done.as_ref().unwrap().result.clone(), sent.about.clone())
    }

    async fn assert_seen(&mut self, name: &str, sql: &str) {
        let findings = self.sees(sql).await;
        assert!(broken(&findings).contains(&name), "{name}: {sql}\n{}", check::render(&findings));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_invariant_that_is_broken_on_purpose_is_seen() {
    let ground = Ground::make(2).await;
    let node = ground.node().await;
    let out = ground.path("a.json");
    ground.loadtest(&["run", "--workload", "smoke", "--url", &node.url, "--out", text(&out)]).await.unwrap();
    let run = Run::load(&out).unwrap();
    assert!(check::books_of(&run).unwrap().jobs.len() > 2, "prepared ones, and those beside the tills");
    let entries: Vec<Entry> = Reader::open(&run.journals[0]).unwrap().collect::<anyhow::Result<_>>().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut breaker = Breaker { conn: ground.sql().await, run, entries, dir };
    let (use_, order) = breaker.acknowledged(Op::Redeem);
    let (claimed, _) = breaker.acknowledged(Op::Issue);
    let whole = breaker.finds().await;
    assert!(broken(&whole).is_empty(), "{}", check::render(&whole));

    let coupon = format!("(select code_id from redemption where redemption_id = {use_})");
    let rule = format!("(select rule_id from redemption where redemption_id = {use_})");
    let version = format!("update coupon_rule_version set {{}} where rule_id = {rule}");
    let with = |what: &str| version.replace("{}", what);
    let stock = |what: &str, part: &str| format!("update coupon_stock set {what} where rule_id = {rule} and {part}");
    let whole_rule = "period = 0 and store_no = 0";
    for (name, sql) in [
        ("jobs", format!("delete from coupon where code_id = {coupon}")),
        ("jobs", "update job_range set coupons = coupons + 1".to_owned()),
        ("stock-agrees", stock("issued = issued + 1", whole_rule)),
        ("stock-agrees", format!("delete from coupon_index where rule_id = {rule} and code_id = {coupon}")),
        ("stock-agrees", stock("issued = issued + 1", "store_no <> 0")),
        ("stock-kept", with("stock = 1")),
        ("stock-kept", with("stock_per_store = 0")),
        ("money-agrees", stock("spent = spent + 1", whole_rule)),
        ("money-agrees", stock("spent = spent + 1", "store_no <> 0")),
        ("money-agrees", format!("update redemption set discount = discount + 1 where redemption_id = {use_}")),
        ("money-kept", with("budget = 1")),
        ("money-kept", with("budget_per_store = 1")),
        ("uses-kept", format!("update coupon set uses = uses + 1 where code_id = {coupon}")),
        ("uses-kept", with("uses = 3")),
        ("one-winner", format!("update coupon set order_ref = 'another' where code_id = {coupon}")),
        ("one-winner", format!("update coupon set redemption_id = null where code_id = {coupon}")),
        ("one-winner", second_use(&use_)),
        ("member-limit", with("per_member = 1")),
        ("member-limit", format!("update member_rule set taken = taken + 1 where rule_id = {rule}")),
        // Taken, and nothing there: what a claim that was refused must not leave.
        ("member-limit", format!("insert into member_rule (member_id, rule_id, taken) values (1, {rule}, 1)")),
        ("index-agrees", format!("update coupon_index set state = 3 where rule_id = {rule} and code_id = {coupon}")),
        ("index-agrees", format!("delete from coupon_receive where code_id = {coupon}")),
        ("acknowledged", format!("delete from redemption where redemption_id = {use_}")),
        ("acknowledged", format!("update redemption set amount = amount + 1 where redemption_id = {use_}")),
        ("acknowledged", "delete from request".to_owned()),
        ("acknowledged", format!("update coupon set member_id = 1 where code_id = {}", check_code(&claimed))),
        ("nothing-else", second_use(&use_)),
    ] {
        breaker.assert_seen(name, &sql).await;
    }
    lost_answers(&mut breaker, &order).await;
    empty_answers(&mut breaker, &order).await;
    answers_told_twice(&mut breaker).await;
    locks(&mut breaker).await;
}

/// A grant that does not say what it granted.
async fn empty_answers(breaker: &mut Breaker, order: &str) {
    let entries = breaker.entries.clone();
    for op in [Op::Redeem, Op::Issue] {
        let of = |sent: &&mut Sent| sent.op == op && (op != Op::Redeem || sent.about == order) && sent.done.is_some();
        breaker.sent().find(of).unwrap().done.as_mut().unwrap().result.clear();
        let found = breaker.finds().await;
        assert!(broken(&found).contains(&"acknowledged"), "{op:?}: {}", check::render(&found));
        breaker.entries = entries.clone();
    }
}

/// One redemption, coupon or member for two requests.
async fn answers_told_twice(breaker: &mut Breaker) {
    let entries = breaker.entries.clone();
    for op in [Op::Redeem, Op::Issue, Op::Register] {
        let twice = breaker.sent().find(|sent| sent.op == op && sent.done.is_some()).unwrap().clone();
        breaker.entries.push(Entry::Write(twice));
        let found = breaker.finds().await;
        assert_eq!(broken(&found), ["acknowledged"], "{op:?}: {}", check::render(&found));
        breaker.entries = entries.clone();
    }
}

/// Locks and releases that were told and did nothing, and such that nobody was told of.
async fn locks(breaker: &mut Breaker) {
    let entries = breaker.entries.clone();
    let released = breaker.sent().find(|sent| sent.op == Op::Release && sent.done.is_some()).unwrap().clone();
    let (code, order) = (check_code(&released.subject), released.about.clone());
    let event = |kind: Kind| format!("delete from event where subject = {code} and kind = {}", kind.number());
    let lock = |order: &str| {
        format!(
            "update coupon set lock_order = '{order}', lock_until = now() + interval '1 hour' where code_id = {code}"
        )
    };
    // Told and not done; let go and still held; as the outbox and as the coupon has it.
    breaker.assert_seen("locks-kept", &event(Kind::CouponLocked)).await;
    breaker.assert_seen("locks-kept", &event(Kind::CouponReleased)).await;
    breaker.assert_seen("locks-kept", &lock(&order)).await;
    // Its release was never sent: then it holds, and nobody was told of the event.
    breaker.entries.retain(|entry| !matches!(entry, Entry::Write(sent) if *sent == released));
    let found = breaker.finds().await;
    assert_eq!(broken(&found), ["locks-kept"], "{}", check::render(&found));
    breaker.assert_seen("locks-kept", &event(Kind::CouponReleased)).await;
    // Where it does hold all is well.
    let held = format!("{}; {}", event(Kind::CouponReleased), lock(&order));
    let found = breaker.sees(&held).await;
    assert!(broken(&found).is_empty(), "{}", check::render(&found));
    // An answer that was lost explains one that was done, and one that was not.
    let lost = Sent { done: None, ..released };
    breaker.entries.push(Entry::Write(lost));
    let found = breaker.finds().await;
    assert!(broken(&found).is_empty(), "{}", check::render(&found));
    let found = breaker.sees(&held).await;
    assert!(broken(&found).is_empty(), "{}", check::render(&found));
    breaker.entries = entries;
}

/// A second use of the same coupon under the same order, as a double redemption would leave it.
fn second_use(use_: &str) -> String {
    format!(
        "create temp table twice on commit drop as select * from redemption where redemption_id = {use_};
        update twice set redemption_id = redemption_id + 1000000000, order_ref = order_ref || '-2';
        insert into redemption select * from twice"
    )
}

fn check_code(code: &str) -> i64 {
    check::code_id(code).unwrap()
}

/// Of a redemption whose answer is taken out of the books: whole, and absent, are fine; halves are not.
async fn lost_answers(breaker: &mut Breaker, order: &str) {
    let entries = breaker.entries.clone();
    let lose = |sent: &mut Sent| sent.op == Op::Redeem && sent.about == order && sent.done.take().is_some();
    assert!(breaker.sent().any(lose));
    let whole = breaker.finds().await;
    assert!(broken(&whole).is_empty(), "{}", check::render(&whole));
    let half = format!("delete from redemption where order_ref = '{order}'");
    breaker.assert_seen("unknown-whole", &half).await;
    breaker.assert_seen("unknown-whole", "delete from request").await;
    // Nobody sent it at all.
    let is_it = |sent: &Sent| sent.op == Op::Redeem && sent.about == order;
    breaker.entries.retain(|entry| !matches!(entry, Entry::Write(sent) if is_it(sent)));
    let found = breaker.finds().await;
    assert!(broken(&found).contains(&"nothing-else"), "{}", check::render(&found));
    breaker.entries = entries;
}

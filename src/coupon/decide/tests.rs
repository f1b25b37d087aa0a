//! The transition table of [`crate::coupon`], cell by cell, and the precedence of codes, refusal by refusal.

mod money;

use chrono::TimeDelta;

use super::*;
use crate::{
    clock::Zone,
    coupon::{
        Lock as Hold, State, StateName, Use,
        rule::{Discount, Limit, Places, Undo},
        world::{LedgerKind, MemberRule, Stock},
    },
    id::{Day, RedemptionId, RuleId},
    member,
};

const MEMBER: i64 = 70;
const OTHER: i64 = 71;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn today() -> Day {
    Zone::default().day_of(at(0))
}

fn rule_id() -> RuleId {
    "1".parse().unwrap()
}

fn member_id(number: i64) -> MemberId {
    number.to_string().parse().unwrap()
}

fn code(number: i64) -> CodeId {
    CodeId::from_parts(today(), number).unwrap()
}

fn use_no(day: Day, number: i64) -> RedemptionId {
    RedemptionId::from_parts(day, number).unwrap()
}

fn event() -> EventId {
    EventId::from_parts(today(), 1).unwrap()
}

fn place(store_no: i32) -> Place {
    Place {
        store_no: StoreNo::new(store_no),
        store_id: format!("S{store_no}").into(),
        regions: [Arc::from("east")].into(),
        register: None,
        sequence: None,
    }
}

fn free() -> State {
    State::Issued { lock: None }
}

fn locked(order: &str, until: i64) -> State {
    State::Issued { lock: Some(Hold { order_ref: order.to_owned(), until: at(until) }) }
}

/// 10 off, twice usable, with all limits far away; one coupon of it.
struct Stage {
    world: World,
}

impl Stage {
    fn new(change: impl FnOnce(&mut RuleVersion)) -> Self {
        let mut rule = RuleVersion::plain(rule_id(), Discount::AmountOff { amount: 1000 });
        rule.uses = 2;
        change(&mut rule);
        let mut world = World::new(at(0), Zone::default());
        let rule = Arc::new(rule);
        world.rules.insert((rule_id(), 1), Arc::clone(&rule));
        let (state, revision) = (RuleState::Active, 1);
        let head = Rule { state, revision, created_at: at(-900), updated_at: at(-900), current: rule };
        world.heads.insert(rule_id(), Arc::new(head));
        let normal = Standing { state: member::State::Normal, kind: member::Kind::Ordinary, muted: false };
        for number in [MEMBER, OTHER] {
            world.members.insert(member_id(number), normal);
            let count = MemberRule { taken: 1, last_taken_at: None };
            world.member_rules.insert((member_id(number), rule_id()), count);
        }
        let mut stage = Self { world };
        stage.stock_rows();
        stage
    }

    /// Every row that any decision here may ask for.
    fn stock_rows(&mut self) {
        for day in -2..3 {
            for store in 0..4 {
                for period in [0, today().plus(day).number()] {
                    let stock = Stock { issued: 5, voided: 0, spent: 0 };
                    self.world.stocks.insert((rule_id(), period, store), stock);
                }
            }
        }
    }

    fn head(&mut self, change: impl FnOnce(&mut Rule)) {
        change(Arc::make_mut(self.world.heads.get_mut(&rule_id()).unwrap()));
    }

    /// Changes the version that coupons were issued with, which is the current one as well.
    fn rule(&mut self, change: impl Fn(&mut RuleVersion)) {
        change(Arc::make_mut(self.world.rules.get_mut(&(rule_id(), 1)).unwrap()));
        self.head(|head| change(Arc::make_mut(&mut head.current)));
    }

    fn standing(&mut self, state: member::State, kind: member::Kind) {
        self.world.members.insert(member_id(MEMBER), Standing { state, kind, muted: false });
    }

    /// A coupon in a state, with so many uses that stand, each in the ledger.
    fn coupon(&mut self, number: i64, state: State, uses: i16) -> &mut Coupon {
        for n in 1..=i64::from(uses) {
            let row = self.use_of(code(number), use_no(today(), n));
            self.world.redemptions.insert(row.redemption_id, row);
        }
        let last = |redemption_id| Use { redemption_id, at: at(-50), store_no: StoreNo::new(1), order_ref: "a".into() };
        let coupon = Coupon {
            code_id: code(number),
            rule_id: rule_id(),
            rule_version: 1,
            holder: None,
            issued_at: at(-100),
            valid_from: at(-100),
            valid_until: at(100),
            state,
            uses,
            cycles: 0,
            counted: 1,
            last_use: (uses > 0).then(|| last(use_no(today(), uses.into()))),
            issue_store_no: None,
            referrer: None,
            legacy_key: None,
            void_reason: None,
        };
        self.world.coupons.insert(coupon.code_id, coupon);
        self.world.coupons.get_mut(&code(number)).unwrap()
    }

    fn use_of(&self, code_id: CodeId, redemption_id: RedemptionId) -> Redemption {
        Redemption {
            redemption_id,
            kind: LedgerKind::Redeem,
            code_id,
            rule_id: rule_id(),
            rule_version: 1,
            member_id: None,
            recorded_at: at(-50),
            amount: 8000,
            discount: 1000,
            reverses: None,
            reversed: 0,
            returned: 0,
            counted: 0,
            lines: Vec::new(),
            reversed_whole: false,
            store_no: StoreNo::new(1),
            register: None,
            sequence: None,
            order_ref: "a".into(),
            occurred_at: None,
        }
    }

    fn act(&mut self, act: Do) -> Result<StateName, Code> {
        let code_id = code(7);
        let done = match act {
            Do::Lock => lock(&mut self.world, &lock_by("a", 60)).map(|held| held.state),
            Do::Release => {
                let op = Release { code_id, event_id: event(), order_ref: Some("a".into()) };
                release(&mut self.world, &op).map(|held| held.state)
            }
            Do::Redeem => redeem(&mut self.world, &sale(7, 8000), 8000).map(|redeemed| redeemed.state),
            Do::Reverse => reverse(&mut self.world, &undo(Returned::Whole)).map(|reversed| reversed.state),
            Do::Void => void(&mut self.world, &void_op()).map(|voided| voided.state),
            Do::Bind => bind(&mut self.world, &bind_to(MEMBER)).map(|bound| bound.state),
        };
        done.map_err(|refusal| refusal.code)
    }

    fn now(&self) -> &Coupon {
        &self.world.coupons[&code(7)]
    }

    fn coupon_mut(&mut self) -> &mut Coupon {
        self.world.coupons.get_mut(&code(7)).unwrap()
    }

    fn use_mut(&mut self) -> &mut Redemption {
        self.world.redemptions.get_mut(&use_no(today(), 1)).unwrap()
    }

    fn spent(&self, period: i32, store_no: i32) -> i64 {
        self.world.stocks[&(rule_id(), period, store_no)].spent
    }

    fn voided(&self, period: i32, store_no: i32) -> i64 {
        self.world.stocks[&(rule_id(), period, store_no)].voided
    }
}

#[derive(Debug, Clone, Copy)]
enum Do {
    Lock,
    Release,
    Redeem,
    Reverse,
    Void,
    Bind,
}

fn lock_by(order: &str, secs: i64) -> Lock {
    Lock {
        code_id: code(7),
        event_id: event(),
        place: place(1),
        order_ref: order.into(),
        ttl: TimeDelta::seconds(secs),
        member_id: None,
    }
}

fn sale(number: i64, amount: i64) -> Redeem {
    Redeem {
        code_id: code(number),
        redemption_id: use_no(today(), 900 + number),
        event_id: event(),
        place: place(1),
        order_ref: "a".into(),
        amount,
        lines: Vec::new(),
        currency: None,
        member_id: None,
        occurred_at: None,
    }
}

/// Of the first use of the coupon.
fn undo(returned: Returned) -> Reverse {
    Reverse {
        code_id: code(7),
        redemption_id: use_no(today(), 1),
        reversal_id: use_no(today(), 990),
        event_id: event(),
        place: place(2),
        order_ref: None,
        returned,
    }
}

fn void_op() -> Void {
    Void { code_id: code(7), event_id: event(), reason: "printed twice".into() }
}

fn bind_to(number: i64) -> Bind {
    Bind { code_id: code(7), event_id: event(), member_id: member_id(number) }
}

#[test]
fn every_cell_of_the_transition_table_holds() {
    use Code::{
        CouponAlreadyRedeemed as Spent, CouponExpired as Late, CouponLocked as Held, CouponNotFound as Unknown,
        CouponVoid as Gone, RedemptionNotFound as NoUse,
    };
    use StateName::{Expired, Issued, Locked, Redeemed, Void};
    type Cells = [Result<StateName, Code>; 6];
    // State, uses that stand of two, and whether it is still valid; then lock, release, redeem, reverse, void, bind.
    type Row = (Option<(State, i16)>, i64, Cells);
    let issued = Ok(Issued);
    let rows: Vec<Row> = vec![
        (None, 100, [Err(Unknown); 6]),
        (Some((free(), 0)), 100, [Ok(Locked), issued, issued, Err(NoUse), Ok(Void), issued]),
        (Some((locked("a", 10), 0)), 100, [Ok(Locked), issued, issued, Err(NoUse), Ok(Void), Err(Held)]),
        (Some((locked("b", 10), 0)), 100, [Err(Held), Err(Held), Err(Held), Err(NoUse), Ok(Void), Err(Held)]),
        // One that ran out is none.
        (Some((locked("b", 0), 0)), 100, [Ok(Locked), issued, issued, Err(NoUse), Ok(Void), issued]),
        (Some((free(), 1)), 100, [Ok(Locked), issued, Ok(Redeemed), issued, Err(Spent), issued]),
        (Some((locked("a", 10), 1)), 100, [Ok(Locked), issued, Ok(Redeemed), Ok(Locked), Err(Spent), Err(Held)]),
        (Some((locked("b", 10), 1)), 100, [Err(Held), Err(Held), Err(Held), Ok(Locked), Err(Spent), Err(Held)]),
        (Some((State::Redeemed, 2)), 100, [Err(Spent), Err(Spent), Err(Spent), issued, Err(Spent), Err(Spent)]),
        (Some((State::Void, 0)), 100, [Err(Gone); 6]),
        (Some((free(), 0)), 0, [Err(Late), Ok(Expired), Err(Late), Err(NoUse), Ok(Void), Err(Late)]),
        (Some((locked("b", 10), 0)), 0, [Err(Held), Err(Held), Err(Held), Err(NoUse), Ok(Void), Err(Held)]),
        (Some((free(), 1)), 0, [Err(Late), Ok(Expired), Err(Late), Ok(Expired), Err(Spent), Err(Late)]),
        (Some((State::Redeemed, 2)), 0, [Err(Spent), Err(Spent), Err(Spent), Ok(Expired), Err(Spent), Err(Spent)]),
        (Some((State::Void, 0)), 0, [Err(Gone); 6]),
    ];
    for (number, (state, valid_until, cells)) in rows.into_iter().enumerate() {
        let acts = [Do::Lock, Do::Release, Do::Redeem, Do::Reverse, Do::Void, Do::Bind];
        for (act, expected) in acts.into_iter().zip(cells) {
            let mut stage = Stage::new(|_| {});
            if let Some((state, uses)) = state.clone() {
                stage.coupon(7, state, uses).valid_until = at(valid_until);
            }
            let before = stage.world.coupons.get(&code(7)).cloned();
            assert_eq!(stage.act(act), expected, "{act:?}, row {number}");
            let after = stage.world.coupons.get(&code(7)).cloned();
            if expected.is_err() {
                assert_eq!(after, before, "{act:?}, row {number}: a refusal changes nothing");
                assert!(stage.world.changed.coupons.is_empty() && stage.world.changed.events.is_empty());
                assert!(stage.world.changed.new_redemptions.is_empty());
            } else if let (Some(before), Some(after)) = (before, after) {
                let (uses, cycles) = match act {
                    Do::Redeem => (1, 0),
                    Do::Reverse => (-1, 1),
                    _ => (0, 0),
                };
                assert_eq!((after.uses - before.uses, after.cycles - before.cycles), (uses, cycles), "row {number}");
                assert_eq!(stage.world.changed.events.len(), usize::from(after != before), "{act:?}, row {number}");
            }
        }
    }
}

/// What stands in the way of an operation, and how it is taken out of it.
type Obstacle<T> = (Code, fn(&mut Stage, &mut T));

/// With all obstacles in the way the first is told; without it the next, until there is none.
fn told_in_order<T>(
    mut stage: Stage,
    mut op: T,
    obstacles: &[Obstacle<T>],
    act: impl Fn(&mut World, &T) -> Result<(), Refusal>,
) {
    for (number, (expected, mend)) in obstacles.iter().enumerate() {
        let told = act(&mut stage.world, &op).unwrap_err();
        assert_eq!(told.code, *expected, "obstacle {number}");
        mend(&mut stage, &mut op);
    }
    act(&mut stage.world, &op).unwrap();
}

/// Everything that can stand against using a coupon stands against it, but for the coupon, which is unknown.
fn hostile() -> Stage {
    let mut stage = Stage::new(|rule| {
        rule.threshold = 5000;
        rule.places = Places { stores_in: Some(vec![StoreNo::new(3)]), ..Places::default() };
        rule.budget = Limit { total: Some(999), per_day: Some(999), per_store: Some(999) };
    });
    stage.head(|head| head.state = RuleState::Paused);
    stage.standing(member::State::Cancelled, member::Kind::Operations);
    stage
}

/// The held coupon of [`hostile`], in a state.
fn put(stage: &mut Stage, state: State) {
    let coupon = stage.coupon(7, state, 0);
    coupon.holder = Some(member_id(MEMBER));
    (coupon.valid_from, coupon.valid_until) = (at(10), at(-10));
}

#[test]
fn redeeming_tells_of_the_first_thing_in_its_way() {
    let op = Redeem {
        redemption_id: use_no(today().plus(-2), 9),
        currency: Some("USD".into()),
        member_id: Some(member_id(OTHER)),
        ..sale(7, 4000)
    };
    let obstacles: [Obstacle<Redeem>; 18] = [
        (Code::CouponNotFound, |stage, _| put(stage, State::Void)),
        (Code::CouponVoid, |stage, _| put(stage, State::Redeemed)),
        (Code::CouponAlreadyRedeemed, |stage, _| put(stage, locked("b", 10))),
        (Code::CouponLocked, |stage, _| put(stage, free())),
        (Code::MemberCancelled, |stage, _| stage.standing(member::State::Frozen, member::Kind::Operations)),
        (Code::MemberFrozen, |stage, _| stage.standing(member::State::Normal, member::Kind::Operations)),
        (Code::MemberKindForbidden, |stage, _| stage.standing(member::State::Normal, member::Kind::Ordinary)),
        (Code::CouponHolderMismatch, |_, op| op.member_id = Some(member_id(MEMBER))),
        (Code::RuleNotActive, |stage, _| stage.head(|head| head.state = RuleState::Ended)),
        (Code::CouponNotForStore, |stage, _| stage.rule(|rule| rule.places = Places::default())),
        (Code::CouponNotYetValid, |_, op| op.redemption_id = use_no(today().plus(-1), 9)),
        (Code::CouponNotYetValid, |stage, _| stage.coupon_mut().valid_from = at(0)),
        (Code::CouponExpired, |stage, _| stage.coupon_mut().valid_until = at(1)),
        (Code::CouponCurrencyMismatch, |_, op| op.currency = Some("CNY".into())),
        (Code::CouponBelowThreshold, |_, op| op.amount = 5000),
        (Code::BudgetExhausted, |stage, _| stage.rule(|rule| rule.budget.total = Some(1000))),
        (Code::BudgetExhausted, |stage, _| stage.rule(|rule| rule.budget.per_day = None)),
        (Code::BudgetExhausted, |stage, _| stage.rule(|rule| rule.budget.per_store = Some(1000))),
    ];
    told_in_order(hostile(), op, &obstacles, |world, op| redeem(world, op, op.amount).map(drop));
}

#[test]
fn locking_tells_of_the_first_thing_in_its_way() {
    let op = Lock { member_id: Some(member_id(OTHER)), ..lock_by("a", 60) };
    let obstacles: [Obstacle<Lock>; 12] = [
        (Code::CouponNotFound, |stage, _| put(stage, State::Void)),
        (Code::CouponVoid, |stage, _| put(stage, State::Redeemed)),
        (Code::CouponAlreadyRedeemed, |stage, _| put(stage, locked("b", 10))),
        (Code::CouponLocked, |stage, _| put(stage, free())),
        (Code::MemberCancelled, |stage, _| stage.standing(member::State::Frozen, member::Kind::Operations)),
        (Code::MemberFrozen, |stage, _| stage.standing(member::State::Normal, member::Kind::Operations)),
        (Code::MemberKindForbidden, |stage, _| stage.standing(member::State::Normal, member::Kind::Ordinary)),
        (Code::CouponHolderMismatch, |_, op| op.member_id = None),
        (Code::RuleNotActive, |stage, _| stage.head(|head| head.state = RuleState::Active)),
        (Code::CouponNotForStore, |_, op| op.place = place(3)),
        (Code::CouponNotYetValid, |stage, _| stage.coupon_mut().valid_from = at(0)),
        (Code::CouponExpired, |stage, _| stage.coupon_mut().valid_until = at(1)),
    ];
    told_in_order(hostile(), op, &obstacles, |world, op| lock(world, op).map(drop));
}

#[test]
fn binding_tells_of_the_first_thing_in_its_way() {
    let mut stage = hostile();
    stage.rule(|rule| rule.per_member = Some(1));
    let obstacles: [Obstacle<Bind>; 11] = [
        (Code::CouponNotFound, |stage, _| {
            put(stage, State::Void);
            stage.coupon_mut().holder = Some(member_id(OTHER));
        }),
        (Code::CouponHeld, |stage, _| stage.coupon_mut().holder = None),
        (Code::CouponVoid, |stage, _| stage.coupon_mut().state = State::Redeemed),
        (Code::CouponAlreadyRedeemed, |stage, _| stage.coupon_mut().state = locked("a", 10)),
        (Code::CouponLocked, |stage, op| {
            stage.coupon_mut().state = free();
            op.member_id = member_id(72);
        }),
        (Code::MemberNotFound, |_, op| op.member_id = member_id(MEMBER)),
        (Code::MemberCancelled, |stage, _| stage.standing(member::State::Frozen, member::Kind::Operations)),
        (Code::MemberFrozen, |stage, _| stage.standing(member::State::Normal, member::Kind::Operations)),
        (Code::MemberKindForbidden, |stage, _| stage.standing(member::State::Normal, member::Kind::Ordinary)),
        (Code::CouponExpired, |stage, _| stage.coupon_mut().valid_until = at(1)),
        (Code::MemberLimitReached, |stage, _| stage.rule(|rule| rule.per_member = Some(2))),
    ];
    told_in_order(stage, bind_to(MEMBER), &obstacles, |world, op| bind(world, op).map(drop));
}

#[test]
fn reversing_tells_of_the_first_thing_in_its_way() {
    let mut stage = Stage::new(|rule| rule.undo = Undo { days: Some(0), cycles_max: 0 });
    stage.world.now = at(-49);
    let obstacles: [Obstacle<Reverse>; 9] = [
        (Code::CouponNotFound, |stage, _| _ = stage.coupon(7, State::Void, 0)),
        (Code::CouponVoid, |stage, _| {
            stage.coupon(7, State::Redeemed, 2);
            let line = |line: &str| Line { line: line.into(), amount: 4000, discount: 500, returned: false };
            let row = stage.use_mut();
            (row.lines, row.reversed_whole, row.code_id) = (vec![line("1"), line("2")], true, code(8));
        }),
        // Another coupon's use is no use of this one, nor is an undo.
        (Code::RedemptionNotFound, |stage, _| {
            let row = stage.use_mut();
            (row.code_id, row.kind) = (code(7), LedgerKind::Reverse);
        }),
        (Code::RedemptionNotFound, |stage, _| stage.use_mut().kind = LedgerKind::Redeem),
        (Code::RedemptionAlreadyReversed, |stage, _| stage.use_mut().reversed_whole = false),
        (Code::ReverseTooLate, |stage, _| stage.rule(|rule| rule.undo.days = Some(1))),
        (Code::ReverseCyclesExceeded, |stage, _| stage.rule(|rule| rule.undo.cycles_max = 1)),
        (Code::RedemptionLineUnknown, |_, op| op.returned = lines(&["1", "1"])),
        (Code::RedemptionLineReversed, |_, op| op.returned = lines(&["1"])),
    ];
    told_in_order(stage, undo(lines(&["1", "9"])), &obstacles, |world, op| reverse(world, op).map(drop));
}

fn lines(names: &[&str]) -> Returned {
    Returned::Lines(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn a_lock_is_prolonged_and_never_shortened_and_does_not_outlast_the_coupon() {
    let mut stage = Stage::new(|_| {});
    stage.coupon(7, free(), 0);
    for (secs, until) in [(20, 20), (60, 60), (5, 60), (100, 100), (86_400, 100)] {
        let held = lock(&mut stage.world, &lock_by("a", secs)).unwrap();
        assert_eq!(held.lock.unwrap().until, at(until), "{secs} s");
        assert_eq!(stage.now().state, locked("a", until), "{secs} s");
    }
    // At its end the coupon is nobody's, and expired.
    stage.world.now = at(100);
    assert_eq!(stage.act(Do::Redeem), Err(Code::CouponExpired));
}

#[test]
fn releasing_a_lock_that_ran_out_does_nothing_and_tells_nobody() {
    let mut stage = Stage::new(|_| {});
    stage.coupon(7, locked("b", 0), 0);
    assert_eq!(stage.act(Do::Release), Ok(StateName::Issued));
    assert!(stage.world.changed.events.is_empty() && stage.world.changed.coupons.is_empty());
    // An operator names no order.
    stage.coupon(7, locked("b", 10), 0);
    let op = Release { code_id: code(7), event_id: event(), order_ref: None };
    assert_eq!(release(&mut stage.world, &op).unwrap().state, StateName::Issued);
    assert_eq!((stage.now().state.clone(), stage.world.changed.events.len()), (free(), 1));
}

#[test]
fn an_anonymous_coupon_is_redeemed_by_a_member_whom_the_till_names() {
    let mut stage = Stage::new(|_| {});
    stage.coupon(7, free(), 0);
    redeem(&mut stage.world, &Redeem { member_id: Some(member_id(MEMBER)), ..sale(7, 8000) }, 8000).unwrap();
}

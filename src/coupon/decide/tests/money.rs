//! What is given back to whom: stocks, budgets, limits; several coupons at once, and parts of a use.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::*;

#[test]
fn a_voided_coupon_goes_back_to_where_it_was_taken_from_and_to_its_holders_limit() {
    let mut stage = Stage::new(|_| {});
    let coupon = stage.coupon(7, locked("b", 10), 0);
    (coupon.holder, coupon.counted, coupon.issue_store_no) = (Some(member_id(MEMBER)), 7, Some(StoreNo::new(2)));
    assert_eq!(stage.act(Do::Void), Ok(StateName::Void));
    assert_eq!(stage.now().void_reason.as_deref(), Some("printed twice"));
    assert_eq!(stage.world.member_rules[&(member_id(MEMBER), rule_id())].taken, 0);
    let day = today().number();
    assert_eq!([stage.voided(0, 0), stage.voided(day, 0), stage.voided(0, 2)], [1, 1, 1]);
    assert_eq!([stage.voided(day, 2), stage.voided(0, 1)], [0, 0], "and to no other");

    // One of a rule that had no limits goes back to the rule alone, whatever the rule limits now.
    let mut stage = Stage::new(|rule| rule.stock.per_day = Some(5));
    stage.coupon(7, free(), 0).issue_store_no = Some(StoreNo::new(2));
    assert_eq!(stage.act(Do::Void), Ok(StateName::Void));
    assert_eq!([stage.voided(0, 0), stage.voided(day, 0), stage.voided(0, 2)], [1, 0, 0]);
}

#[test]
fn a_use_that_came_back_in_part_still_stands() {
    let mut stage = Stage::new(|_| {});
    stage.coupon(7, free(), 1);
    let part = reverse(&mut stage.world, &undo(Returned::Amount(7999))).unwrap();
    assert_eq!((part.discount, part.returned, part.whole, part.uses), (999, 7999, false, 1));
    assert_eq!((stage.act(Do::Void), stage.now().cycles), (Err(Code::CouponAlreadyRedeemed), 0));
    let rest = reverse(&mut stage.world, &undo(Returned::Whole)).unwrap();
    assert_eq!((rest.discount, rest.returned, rest.whole, rest.uses), (1, 8000, true, 0));
    assert_eq!((stage.now().cycles, &stage.now().last_use), (1, &None), "all parts together are one cycle");
    assert_eq!(stage.act(Do::Void), Ok(StateName::Void));
}

#[test]
fn a_coupon_is_reversed_as_often_as_its_rule_allows_and_as_long() {
    let mut stage = Stage::new(|rule| rule.undo = Undo { days: Some(2), cycles_max: 2 });
    stage.coupon(7, free(), 0);
    for cycle in 0..3 {
        let op = Redeem { redemption_id: use_no(today(), 1), ..sale(7, 8000) };
        redeem(&mut stage.world, &op, 8000).unwrap();
        let used = stage.world.changed.new_redemptions.iter().rfind(|row| row.kind == LedgerKind::Redeem).unwrap();
        stage.world.redemptions.insert(used.redemption_id, used.clone());
        let code = if cycle < 2 { Ok(StateName::Issued) } else { Err(Code::ReverseCyclesExceeded) };
        assert_eq!(stage.act(Do::Reverse), code, "cycle {cycle}");
    }
    let reversed = |after: TimeDelta| {
        let mut stage = Stage::new(|rule| rule.undo = Undo { days: Some(2), cycles_max: 2 });
        stage.coupon(7, free(), 1);
        stage.world.now = at(-50) + after;
        stage.act(Do::Reverse)
    };
    assert_eq!(reversed(TimeDelta::days(2)), Ok(StateName::Expired));
    assert_eq!(reversed(TimeDelta::days(2) + TimeDelta::milliseconds(1)), Err(Code::ReverseTooLate));
}

#[test]
fn a_use_reversed_after_the_coupons_end_comes_back_and_cannot_be_spent() {
    let mut stage = Stage::new(|_| {});
    stage.coupon(7, State::Redeemed, 2).valid_until = at(-1);
    let reversed = reverse(&mut stage.world, &undo(Returned::Whole)).unwrap();
    assert_eq!((reversed.state, reversed.expired, reversed.uses), (StateName::Expired, true, 1));
    assert_eq!(stage.act(Do::Redeem), Err(Code::CouponExpired));
}

#[test]
fn a_basket_shares_a_budget_to_the_smallest_unit_and_is_spent_whole_or_not_at_all() {
    let uses = [sale(7, 3000), sale(8, 8000), sale(9, 8000)];
    let basket = Basket { amount: 8000, uses: uses.to_vec() };
    for (budget, outcome) in
        [(3000, Ok(3000)), (2999, Err((Code::BudgetExhausted, 2, 999))), (0, Err((Code::BudgetExhausted, 0, 0)))]
    {
        let mut stage = Stage::new(|rule| rule.budget.per_day = Some(budget));
        for number in [7, 8, 9] {
            stage.coupon(number, free(), 0);
        }
        let before = stage.world.coupons.clone();
        let got = redeem_basket(&mut stage.world, &basket);
        let number = |refusal: &Refusal, name: &str| refusal.extra[name].as_i64().unwrap();
        let told = got.as_ref().map(|done| done.discount);
        let told = told.map_err(|no| (no.code, number(no, "position"), number(no, "left")));
        assert_eq!(told, outcome, "budget {budget}");
        let spent = stage.spent(today().number(), 0);
        let rows = stage.world.changed.new_redemptions.len();
        match got {
            Ok(_) => assert_eq!((spent, rows, stage.spent(0, 0)), (3000, 3, 0)),
            Err(_) => {
                assert_eq!((spent, rows, stage.world.changed.events.len()), (0, 0, 0));
                assert_eq!(stage.world.coupons, before);
                assert!(stage.world.changed.coupons.is_empty());
            }
        }
    }
    // Any one that is gone, and none is spent; what an earlier request of the batch did stays.
    for gone in [7, 8, 9] {
        let mut stage = Stage::new(|_| {});
        for number in [7, 8, 9] {
            stage.coupon(number, if number == gone { State::Redeemed } else { free() }, 0);
        }
        let other = if gone == 7 { 8 } else { 7 };
        redeem(&mut stage.world, &Redeem { order_ref: "b".into(), ..sale(other, 8000) }, 8000).unwrap();
        let refusal = redeem_basket(&mut stage.world, &basket).unwrap_err();
        assert_eq!((refusal.code, &refusal.extra["position"]), (Code::CouponAlreadyRedeemed, &json!(gone - 7)));
        assert_eq!(stage.world.changed.new_redemptions.len(), 1);
        let changed: Vec<CodeId> = stage.world.changed.coupons.keys().copied().collect();
        assert_eq!((changed, stage.world.coupons[&code(other)].uses), (vec![code(other)], 1));
    }
}

#[test]
fn parts_in_any_order_add_up_and_the_money_goes_back_to_its_day_and_store() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut stage = Stage::new(|rule| {
            rule.discount = Discount::AmountOff { amount: rng.random_range(0..3000) };
            rule.budget = Limit { total: Some(9000), per_day: Some(9000), per_store: Some(9000) };
        });
        stage.coupon(7, free(), 0);
        let amounts: Vec<i64> = (0..rng.random_range(1..7)).map(|_| rng.random_range(0..900)).collect();
        let by_lines = rng.random_bool(0.5);
        let named = || amounts.iter().enumerate().map(|(n, amount)| (n.to_string(), *amount)).collect();
        let yesterday = today().plus(-1);
        let op = Redeem {
            redemption_id: use_no(yesterday, 1),
            lines: if by_lines { named() } else { Vec::new() },
            ..sale(7, amounts.iter().sum())
        };
        let redeemed = redeem(&mut stage.world, &op, op.amount).unwrap();
        let row = stage.world.changed.new_redemptions[0].clone();
        stage.world.redemptions.insert(row.redemption_id, row);
        let spent = |stage: &Stage| [stage.spent(0, 0), stage.spent(yesterday.number(), 0), stage.spent(0, 1)];
        assert_eq!(spent(&stage), [redeemed.discount; 3], "seed {seed}");
        // Days later, elsewhere, under a rule that limits nothing any more.
        stage.head(|head| Arc::make_mut(&mut head.current).budget = Limit::default());
        let mut parts: Vec<usize> = (0..amounts.len()).collect();
        parts.shuffle(&mut rng);
        let (mut back, mut whole) = (0, false);
        for part in parts {
            assert!(!whole, "seed {seed}: whole before the last part");
            let returned = match (by_lines, amounts[part]) {
                (true, _) => Returned::Lines(vec![part.to_string()]),
                (false, 0) => continue,
                (false, amount) => Returned::Amount(amount),
            };
            let op = Reverse { redemption_id: op.redemption_id, reversal_id: use_no(today(), 990), ..undo(returned) };
            let reversed = reverse(&mut stage.world, &op).unwrap();
            back += reversed.discount;
            whole = reversed.whole;
            assert_eq!(spent(&stage), [redeemed.discount - back; 3], "seed {seed}");
        }
        if !whole {
            // Nothing was paid, and so nothing could be returned by amount.
            assert_eq!((op.amount, by_lines), (0, false), "seed {seed}");
            continue;
        }
        assert_eq!((back, stage.now().uses, stage.now().cycles), (redeemed.discount, 0, 1), "seed {seed}");
        assert_eq!([stage.spent(today().number(), 0), stage.spent(0, 2)], [0, 0], "and to no other");
    }
}

#[test]
fn a_use_with_lines_comes_back_by_lines_and_one_without_by_amount() {
    let mut stage = Stage::new(|_| {});
    stage.coupon(7, free(), 1);
    let refused = |stage: &mut Stage, returned| reverse(&mut stage.world, &undo(returned)).unwrap_err();
    let lines = || Returned::Lines(vec!["1".into()]);
    assert_eq!(refused(&mut stage, lines()).code, Code::RedemptionLineUnknown);
    let more = refused(&mut stage, Returned::Amount(8001));
    assert_eq!((more.code, &more.extra["left"], more.detail), (Code::ReverseAmountExceeded, &json!(8000), None));
    stage.use_mut().lines = vec![Line { line: "1".into(), amount: 8000, discount: 1000, returned: false }];
    let amount = refused(&mut stage, Returned::Amount(1));
    assert!(amount.code == Code::ReverseAmountExceeded && amount.detail.is_some());
    let back = reverse(&mut stage.world, &undo(lines())).unwrap();
    assert_eq!((back.whole, back.lines.len()), (true, 1));
}

#[test]
fn stock_is_taken_from_all_that_limit_it_or_from_none() {
    let op = |store_no: Option<i32>, count: i64| Issue {
        rule: Arc::new(RuleVersion::plain(rule_id(), Discount::AmountOff { amount: 1 })),
        code_ids: (0..count).map(code).collect(),
        day: today(),
        event_id: event(),
        member_id: Some(member_id(MEMBER)),
        store_no: store_no.map(StoreNo::new),
        referrer: None,
        claimed: false,
        issued_at: None,
    };
    let limits = |total, per_day, per_store| Limit { total, per_day, per_store };
    // Five of each are taken already, and one by the member.
    for (limit, per_member, store_no, count, expected) in [
        (limits(Some(7), Some(7), Some(7)), Some(3), Some(2), 2, Ok(7)),
        (limits(Some(6), Some(7), Some(7)), None, Some(2), 2, Err((Code::StockExhausted, "total"))),
        (limits(Some(7), Some(6), Some(6)), None, Some(2), 2, Err((Code::StockExhausted, "day"))),
        (limits(Some(7), None, Some(6)), None, Some(2), 2, Err((Code::StockExhausted, "store"))),
        // Without a store it counts for none.
        (limits(None, None, Some(0)), None, None, 2, Ok(1)),
        (limits(Some(7), Some(7), Some(7)), Some(2), Some(2), 2, Err((Code::MemberLimitReached, ""))),
    ] {
        let mut stage = Stage::new(|rule| (rule.stock, rule.per_member) = (limit, per_member));
        let before = stage.world.stocks.clone();
        let got = issue(&mut stage.world, &op(store_no, count));
        let told = got.map(|_| stage.world.changed.new_coupons[0].counted);
        let scope = |refusal: &Refusal| refusal.extra.get("scope").and_then(|s| s.as_str()).unwrap_or("").to_owned();
        let told = told.map_err(|refusal| (refusal.code, scope(&refusal)));
        assert_eq!(told, expected.map_err(|(code, scope)| (code, scope.to_owned())), "{limit:?}");
        if expected.is_err() {
            assert_eq!(stage.world.stocks, before, "{limit:?}");
            assert_eq!(stage.world.member_rules[&(member_id(MEMBER), rule_id())].taken, 1);
        }
    }
}

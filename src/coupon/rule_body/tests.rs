//! What a rule may say, and what must go together.

use super::*;

fn known() -> Known {
    let stores = [("S1", 1), ("S2", 2)].map(|(id, no)| (id.to_owned(), StoreNo::new(no)));
    Known { stores: HashMap::from(stores), regions: ["east", "west"].map(str::to_owned).into() }
}

fn rule(json: &str) -> Result<RuleVersion, Refusal> {
    let new: NewRule = serde_json::from_str(json).unwrap();
    new.read("7".parse().unwrap(), &known())
}

const PLAIN: &str = r#""name":"n","discount":{"type":"percent_off","basis_points":1250,"cap":500},"currency":"CNY",
    "validity":{"days_after_issue":30}"#;

#[test]
fn a_rule_says_where_it_holds() {
    let version =
        rule(&format!(r#"{{{PLAIN},"stores":{{"in":["S2","S1","S1"],"out":["S2"]}},"regions":{{"in":["east"]}}}}"#));
    let places = version.unwrap().places;
    assert_eq!(places.stores_in, Some(vec![StoreNo::new(1), StoreNo::new(2)]));
    assert_eq!((places.stores_out, places.regions_in), (vec![StoreNo::new(2)], Some(vec!["east".into()])));
}

#[test]
fn what_does_not_go_together_is_refused_with_its_field() {
    for (more, code, field) in [
        (r#""stores":{"in":["S9"]}"#, Code::StoreNotFound, "stores.in"),
        (r#""stores":{"out":["S1","S9"]}"#, Code::StoreNotFound, "stores.out"),
        (r#""regions":{"in":["north"]}"#, Code::RegionNotFound, "regions.in"),
        (r#""regions":{"out":["north"]}"#, Code::RegionNotFound, "regions.out"),
        (r#""stores":{"in":[]}"#, Code::InvalidField, "stores.in"),
        (r#""regions":{"out":[]}"#, Code::InvalidField, "regions.out"),
        (r#""stores":{"in":["S1"],"out":["S1","S2"]}"#, Code::InvalidField, "stores.out"),
        (r#""regions":{"in":["east"],"out":["east"]}"#, Code::InvalidField, "regions.out"),
        (r#""stock":10,"stock_per_day":11"#, Code::InvalidField, "stock_per_day"),
        (r#""stock":10,"stock_per_store":11"#, Code::InvalidField, "stock_per_store"),
        (r#""budget":10,"budget_per_day":11"#, Code::InvalidField, "budget_per_day"),
        (r#""budget":10,"budget_per_store":11"#, Code::InvalidField, "budget_per_store"),
    ] {
        let refusal = rule(&format!("{{{PLAIN},{more}}}")).unwrap_err();
        assert_eq!((refusal.code, refusal.extra["field"].as_str()), (code, Some(field)), "{more}");
    }
    for fits in [
        r#""stock":10,"stock_per_day":10,"budget_per_store":11"#,
        r#""stores":{"in":["S1","S2"],"out":["S1"]}"#,
        r#""stores":{"in":["S1"],"out":["S1"]},"regions":{"in":["east"]}"#,
        r#""regions":{"in":["east"],"out":["west"]}"#,
    ] {
        rule(&format!("{{{PLAIN},{fits}}}")).unwrap();
    }
}

#[test]
fn a_patch_makes_the_next_version_only_if_it_changes_something() {
    let before = rule(&format!("{{{PLAIN},\"budget\":100}}")).unwrap();
    let apply = |patch: &str| serde_json::from_str::<RulePatch>(patch).unwrap().apply(&before, &known());
    for (patch, version, budget) in [
        ("{}", 1, Some(100)),
        (r#"{"budget":100}"#, 1, Some(100)),
        (r#"{"budget":null}"#, 2, None),
        (r#"{"budget":7,"threshold":5000}"#, 2, Some(7)),
    ] {
        let after = apply(patch).unwrap();
        assert_eq!((after.version, after.budget.total), (version, budget), "{patch}");
    }
    // It must go with what stays.
    let refusal = apply(r#"{"budget_per_day":101}"#).unwrap_err();
    assert_eq!((refusal.code, refusal.extra["field"].as_str()), (Code::InvalidField, Some("budget_per_day")));
    assert_eq!(apply(r#"{"budget_per_day":101,"budget":101}"#).unwrap().budget.per_day, Some(101));
}

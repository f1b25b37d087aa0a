//! The slice from end to end, in one process.

use serde_json::json;

use crate::support::{TestApp, server::fresh_number};

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_registered_given_a_coupon_and_a_till_redeems_it() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = api.member("+8613800000001").await;
    let found = api.post("/v1/members/lookup", &keys.pos, json!({"phone": "138 0000 0001"})).await.expect(200);
    assert_eq!(found.json["member_id"], json!(member));
    assert_eq!(found.json["phone"], json!("+86138****0001"));
    let rule = api.rule(json!({"per_member": 1, "stock": 10})).await;
    let codes = api.issue(&rule, json!({"member_id": member})).await;
    let body = json!({"store_id": "S0001", "register": "2", "business_date": app_day(&app), "sequence": 417,
        "order_ref": "S0001-0093", "amount": 8000});
    let path = format!("/v1/coupons/{}/redeem", codes[0]);
    let first = api.post(&path, &keys.pos, body.clone()).await.expect(200);
    assert_eq!((&first.json["state"], &first.json["discount"]), (&json!("redeemed"), &json!(1000)));
    let again = api.post(&path, &keys.pos, body).await.expect(200);
    assert_eq!((again.text.as_str(), again.header("idempotency-replayed")), (first.text.as_str(), Some("true")));
    let other = api.redeem(&codes[0]).await.expect(409);
    assert_eq!((other.code(), &other.json["store_id"]), ("coupon_already_redeemed", &json!("S0001")));
    let limit = api
        .post_numbered(
            &format!("/v1/coupon-rules/{rule}/coupons"),
            &keys.marketing,
            &fresh_number(),
            json!({"member_id": member}),
        )
        .await
        .expect(409);
    assert_eq!(limit.code(), "member_limit_reached");
    let undone = api
        .post_numbered(
            &format!("/v1/coupons/{}/reverse", codes[0]),
            &keys.pos,
            &fresh_number(),
            json!({"store_id": "S0001", "redemption_id": first.json["redemption_id"]}),
        )
        .await
        .expect(200);
    assert_eq!((&undone.json["state"], &undone.json["expired"]), (&json!("issued"), &json!(false)));
    api.redeem(&codes[0]).await.expect(200);
    app.stop().await;
}

fn app_day(app: &TestApp) -> String {
    tessera::clock::Zone::DEFAULT.day_of(app.clock.now()).to_string()
}

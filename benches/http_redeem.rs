//! A redemption over HTTP by 64 tills that keep their connections, beside one through the lane.

use std::sync::Arc;

use tessera::app::App;

use crate::{
    lane_redeem::ByLane,
    support::{
        Bench, Measure, Path, Reference, Side,
        built::AMOUNT,
        compare,
        http::{OverHttp, client_runtime},
        stage::{Stage, settings},
    },
};

const FILE: &str = "http_redeem";

/// What a till sends for the next coupon.
fn requests(stage: &'static Stage, token: String, tills: usize) -> Vec<impl FnMut(&mut Vec<u8>) + Send + 'static> {
    let (codes, store_id) = (stage.secrets().codes(), stage.store_id());
    let till = |till: usize| {
        let (codes, token) = (Arc::clone(&codes), token.clone());
        move |buffer: &mut Vec<u8>| {
            use std::io::Write;
            let (number, code_id) = stage.take();
            let body = format!(
                "{{\"store_id\":\"{store_id}\",\"register\":\"r{till}\",\"business_date\":\"{}\",\"sequence\":{number},\
                 \"order_ref\":\"S0001-{number}\",\"amount\":{AMOUNT}}}",
                stage.today
            );
            write!(
                buffer,
                "POST /v1/coupons/{}/redeem HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                codes.format(code_id),
                body.len()
            )
            .expect("it is memory");
        }
    };
    (0..tills).map(till).collect()
}

pub fn run(bench: &mut Bench, stage: &'static Stage, app: &Arc<App>) {
    let (token, runtime) = (stage.token(), client_runtime());
    let place = stage.serve(settings());
    let share = stage.share();
    for (tasks, calls, measures) in [
        (1, share.div_ceil(3), &[(Measure::P50, ""), (Measure::Rate, "")]),
        (64, share * 10, &[(Measure::Rate, "redeem http 64"), (Measure::P99, "")]),
    ] {
        let mut ours = OverHttp::new("HTTP", runtime, place, requests(stage, token.clone(), tasks));
        let mut theirs = Side::new("lane", ByLane::callers(stage, app, tasks));
        let path = Path { file: FILE, path: "redeem over HTTP", tasks, calls };
        compare(bench, path, &mut ours, &mut [Reference { side: &mut theirs, measures }]);
    }
}

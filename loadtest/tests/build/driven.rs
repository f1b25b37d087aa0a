//! Load on a built dataset: by two generators that share it out.

use loadtest::drive::{check, op::Op, report, result::Run, workload::Workload};

use crate::{
    db::TestDb,
    site::{self, Site, loadtest},
};

/// Each of two generators redeems coupons of the dataset that the other does not have, and the books agree.
pub async fn by_two_generators(db: &TestDb, site: &Site, manifest: &std::path::Path) {
    let place = |name: &str| db.secrets_path().with_file_name(format!("{}-{name}.json", db.name));
    let mut workload = Workload::load("pos-day").unwrap();
    // It would want a thousand coupons to look at, and so small a dataset has fewer that are good.
    workload.mix.coupon = 0.0;
    let file = place("workload");
    std::fs::write(&file, toml::to_string(&workload).unwrap()).unwrap();
    let (parts, merged) = ([place("one"), place("two")], place("both"));
    for (part, out) in ["1/2", "2/2"].into_iter().zip(&parts) {
        let (manifest, out) = (manifest.to_str().unwrap(), out.to_str().unwrap());
        let aim = ["run", "--allow-debug", "--lateness-max", "60000", "--url", site.url(), "--dataset", manifest];
        let load = ["--ticket", "9000", "--people", "50", "--part", part, "--out", out];
        let small = ["--workload", file.to_str().unwrap(), "--rate", "60", "--seconds", "2", "--tills", "6"];
        let output = loadtest(db, &[&aim[..], &load, &small].concat()).await;
        assert!(output.status.success(), "{}", site::said(&output));
        let run = Run::load(out.as_ref()).unwrap();
        let redeemed = &run.record.ops[&Op::Redeem];
        // Of stores that a coupon is not for, and of budgets, a dataset has some; a coupon twice it has not.
        assert!(redeemed.ok > 5, "{}", report::text(&run));
        for stats in run.record.ops.values() {
            assert!(!stats.refused.contains_key("coupon_already_redeemed"), "{}", report::text(&run));
        }
        assert!(run.notes.iter().any(|note| note.contains("begins at --ticket 9")), "{:?}", run.notes);
    }
    let all = [parts[0].to_str().unwrap(), parts[1].to_str().unwrap(), "--out", merged.to_str().unwrap()];
    let output = loadtest(db, &[&["merge"], &all[..]].concat()).await;
    assert!(output.status.success(), "{}", site::said(&output));
    let run = Run::load(&merged).unwrap();
    let findings = check::of_run(&mut db.sql().await, &run).await.unwrap();
    assert!(findings.iter().all(|finding| finding.broken == 0), "{}", check::render(&findings));
    // Its rules count too, though the run issued nothing of them.
    let kept = findings.iter().find(|finding| finding.name == "stock-kept").unwrap();
    assert!(kept.looked_at > 4, "{}", check::render(&findings));
}

//! What it costs a write that other nodes learn of it: redemptions on one node while the nodes of a chain read the outbox,
//! beside the same with nobody else there.

use std::sync::Arc;

use tessera::app::App;
use tokio::runtime::Runtime;

use crate::{
    lane_redeem::ByLane,
    support::{
        Bench, Contender, Measure, Path, Reference, Round, Side, compare,
        report::is_quick,
        stage::{Stage, settings},
    },
};

const FILE: &str = "coherence";
/// Nodes besides the one that redeems.
const OTHERS: usize = 4;

/// Redemptions while other nodes keep their caches right.
struct AmongNodes {
    stage: &'static Stage,
    ours: Side<ByLane>,
}

impl Contender for AmongNodes {
    fn name(&self) -> &str {
        "one of five nodes"
    }

    fn round(&mut self, runtime: &Runtime, calls: usize) -> Round {
        let others: Vec<Arc<App>> = (0..OTHERS).map(|_| self.stage.app(settings())).collect();
        runtime.block_on(async {
            for other in &others {
                // From here on it reads what the others write.
                while other.bypass.is_set() {
                    tokio::time::sleep(other.settings.cache.tail_pause).await;
                }
            }
        });
        let round = self.ours.round(runtime, calls);
        runtime.block_on(async {
            for other in &others {
                if other.bypass.is_set() {
                    eprintln!("a node fell behind, and passes its caches by");
                }
                other.stop().await;
            }
        });
        round
    }
}

pub fn run(bench: &mut Bench, stage: &'static Stage, app: &Arc<App>) {
    let cases: &[(usize, usize)] = if is_quick() { &[(16, 6)] } else { &[(1, 1), (16, 6), (64, 14)] };
    for &(tasks, share) in cases {
        let calls = stage.share() * share;
        let mut ours = AmongNodes { stage, ours: Side::new("", ByLane::callers(stage, app, tasks)) };
        let mut alone = Side::new("the only node", ByLane::callers(stage, app, tasks));
        let measures: &[(Measure, &str)] =
            if tasks == 1 { &[(Measure::P50, "")] } else { &[(Measure::Rate, ""), (Measure::P99, "")] };
        let path = Path { file: FILE, path: "redeem while other nodes read the outbox", tasks, calls };
        compare(bench, path, &mut ours, &mut [Reference { side: &mut alone, measures }]);
    }
}

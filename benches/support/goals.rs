//! The goals of the design: each path with its reference. A report ends with this table, whatever of it was measured.

/// One row of the table.
pub struct Goal {
    /// By which a bench names it.
    pub row: &'static str,
    pub path: &'static str,
    pub reference: &'static str,
    pub goal: &'static str,
    /// What it takes to measure it, where a small database is not enough.
    pub needs: &'static str,
}

const fn goal(row: &'static str, path: &'static str, reference: &'static str, goal: &'static str) -> Goal {
    Goal { row, path, reference, goal, needs: "its bench did not run" }
}

const fn large(row: &'static str, path: &'static str, reference: &'static str, goal: &'static str) -> Goal {
    Goal { row, path, reference, goal, needs: "a built dataset that is larger than memory" }
}

const PGBENCH_FLAT: &str = "pgbench, prepared, as many clients, one unpartitioned table";
const PGBENCH_WRITES: &str =
    "pgbench, the same writes on flat tables, a transaction each, at its best number of clients";

/// In the order in which they are shown.
pub const GOALS: &[Goal] = &[
    goal("read hot 64", "point read through the lane, 64 tasks, hot set", PGBENCH_FLAT, "≥ 3"),
    goal("read uniform 64", "the same, uniform over all rows in the page cache", PGBENCH_FLAT, "≥ 2"),
    large("read cold 64", "the same, cold", PGBENCH_FLAT, "≥ 1.2"),
    goal("read p50 1", "the same at 1 task, p50, same transport", "pgbench, 1 client", "≤ 1.2"),
    goal("read parent 1", "the same against the partitioned parent, 1 task", "one query a request", "≥ 1.3"),
    goal("read parent 16", "the same, 16 tasks", "one query a request", "≥ 2.5"),
    goal("read parent 64", "the same, 64 tasks", "one query a request", "≥ 5"),
    goal("partitions", "partitions of a lookup by code", "the same on a tenth of the rows", "≤ 1"),
    goal("buffers", "buffers of a lookup by code", "the same on a tenth of the rows", "≤ 1"),
    goal("redeem 64", "redeem through the lane, durable, all its tables, 64 tasks, resident", PGBENCH_WRITES, "≥ 3"),
    goal("redeem 16", "the same at 16 tasks", "the same at 16 clients", "≥ 1.5"),
    goal("redeem p50 1", "the same at 1 task, p50", "the same at 1 client", "≤ 1.1"),
    large("redeem uniform 64", "the same at 64 tasks, uniform over more than memory holds", PGBENCH_WRITES, "≥ 1.5"),
    goal("redeem http 64", "redeem over HTTP, 64 tills", "redeem through the lane, 64 tasks", "≥ 0.8"),
    goal(
        "get cached",
        "cached GET of a member, random, with authentication, ETag and metrics",
        "a bare actix-web handler that answers the same bytes",
        "≥ 0.8",
    ),
    goal(
        "get uncached",
        "uncached GET of a coupon, random, the same",
        "bare actix-web, tokio-postgres pipelined, one flat table",
        "≥ 1.2",
    ),
    goal(
        "issue job",
        "bulk issue, all its tables",
        "binary COPY of the same rows into the same tables, keys and all",
        "≥ 0.7",
    ),
    Goal {
        row: "dataset build",
        path: "dataset build",
        reference: "binary COPY with FREEZE and the keys' build alone",
        goal: "≥ 0.8",
        needs: "told by the dataset.json of `loadtest build`",
    },
    goal("claim rush", "claim rush on one rule, 64 tasks", "the same claims spread over 1,000 rules", "≥ 1"),
    goal("growth p50", "growth, the same hot set, 16 tasks, p50", "the same on a tenth of the rows", "≤ 1.2"),
    goal("growth p99", "the same, p99", "the same on a tenth of the rows", "≤ 1.5"),
];

/// `≥ 3, met`; only the bound where there is nothing to compare.
pub fn verdict(goal: &str, ratio: f64) -> Option<bool> {
    let (sign, bound) = goal.split_once(' ')?;
    let bound: f64 = bound.parse().ok()?;
    Some(if sign == "≥" { ratio >= bound } else { ratio <= bound })
}

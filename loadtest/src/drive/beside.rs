//! What goes on beside the tills of a run: issue jobs, and changes between nodes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    coherence::{self, Coherent},
    http::{Ask, Target},
    journal::Pen,
    keys::Key,
    office::Office,
    prepare::journal_job,
    run::Aim,
    stop::Stop,
    workload::Workload,
    world::World,
};

/// What came of all that goes on beside the tills.
#[derive(Default)]
pub(super) struct Besides {
    pub coherent: Option<Coherent>,
    pub notes: Vec<String>,
    /// What could not be done.
    pub mishaps: Vec<String>,
}

/// Begins what goes on beside the tills, once it is told when they begin.
pub(super) fn beside(
    aim: &Aim,
    world: &Arc<World>,
    mut pen: Pen,
    stop: Stop,
) -> (JoinHandle<Besides>, oneshot::Sender<Instant>) {
    let (began, begins) = oneshot::channel::<Instant>();
    let (workload, targets) = (aim.workload.clone(), aim.targets.clone());
    let (key, world) = (aim.keys.admin.clone(), Arc::clone(world));
    let handle = tokio::spawn(async move {
        let Ok(at) = begins.await else { return Besides::default() };
        let until = at + Duration::from_secs_f64(workload.seconds);
        let mut besides = Besides::default();
        let jobs = async {
            if workload.jobs.every_seconds <= 0.0 {
                return Ok(Vec::new());
            }
            let mut ended = Vec::new();
            let issuing = issue_jobs(&targets[0], &key, &workload, &world, (at, until), &stop, &mut ended);
            let issued = in_time(&stop, issuing).await;
            // Not cut off, and whatever became of the others: what these made is counted whole.
            let notes = journal_jobs(&targets[0], &key, &ended, at, &mut pen).await;
            issued.and(notes)
        };
        let mut seen = workload.coherence.is_some().then(Coherent::default);
        let changes = async {
            match (&workload.coherence, &mut seen) {
                (Some(settings), Some(seen)) => {
                    let changing = coherence::run(&targets, &key, &world, settings, until, &stop, seen);
                    in_time(&stop, changing).await
                }
                _ => Ok(()),
            }
        };
        let (jobs, changes) = tokio::join!(jobs, changes);
        match jobs {
            Ok(notes) => besides.notes = notes,
            Err(error) => besides.mishaps.push(format!("the issue jobs beside the tills: {error:#}")),
        }
        if let Err(error) = changes {
            besides.mishaps.push(format!("the changes between nodes: {error:#}"));
        }
        besides.coherent = seen;
        besides
    });
    (handle, began)
}

/// Does it, unless it has not ended when what is in flight is cut off.
async fn in_time<T>(stop: &Stop, doing: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = doing => done,
        () = stop.cut_off() => anyhow::bail!("they had not ended when the load was cut off"),
    }
}

/// A job that has ended, and how it did.
struct Ended {
    job: String,
    body: Value,
    at: Instant,
}

/// Begins a job at each interval, and waits until all are done. Once the load is to stop none begins any more, and those
/// that run are cancelled: what they made until then counts.
async fn issue_jobs(
    target: &Target,
    key: &Key,
    workload: &Workload,
    world: &World,
    (at, until): (Instant, Instant),
    stop: &Stop,
    all: &mut Vec<Ended>,
) -> anyhow::Result<()> {
    let mut office = Office::open(target, key).await?;
    let mut jobs = Vec::new();
    let mut due = at;
    while due < until && stop.is_going_at(due).await {
        let rule = &world.rules[jobs.len() % world.rules.len()];
        let path = format!("/v1/coupon-rules/{rule}/issue-jobs?start=true");
        let reply = office.post(&path, &json!({"count": workload.jobs.coupons}), "").await?;
        jobs.push(reply.location.context("a job has a place")?);
        due += Duration::from_secs_f64(workload.jobs.every_seconds);
    }
    for job in jobs {
        let ended = tokio::select! {
            biased;
            () = stop.asked() => None,
            ended = office.ended(&job) => Some(ended?),
        };
        let body = match ended {
            Some(ended) => ended,
            None => {
                // The question that was dropped may still be answered on the old connection.
                office = Office::open(target, key).await?;
                cancel(&mut office, key, &job).await?
            }
        };
        all.push(Ended { job, body, at: Instant::now() });
    }
    Ok(())
}

/// Writes down what the jobs made, when the load is over, so that their coupons can be counted.
async fn journal_jobs(
    target: &Target,
    key: &Key,
    jobs: &[Ended],
    at: Instant,
    pen: &mut Pen,
) -> anyhow::Result<Vec<String>> {
    let mut office = Office::open(target, key).await?;
    let mut made = 0;
    for Ended { job, body, .. } in jobs {
        made += journal_job(&mut office, job, body, pen).await?.len();
    }
    let last = jobs.last().map_or(0.0, |last| last.at.saturating_duration_since(at).as_secs_f64());
    Ok(vec![format!("{} issue jobs made {made} coupons; the last had ended {last:.1} s after the start", jobs.len())])
}

/// Ends a job where it stands; one that had ended stays as it was.
async fn cancel(office: &mut Office, key: &Key, job: &str) -> anyhow::Result<Value> {
    let path = format!("{job}/cancel");
    // A job that is done refuses, and that is as good.
    office.ask(Ask { body: None, ..Ask::post(&path, key, "") }).await?;
    office.ended_or_cancelled(job).await
}

//! Fills leaves: a walk on a thread of its own makes rows, and a connection for each leaf copies them.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};
use tessera::{
    db::copy::TRAILER_BYTES,
    partition::{Leaf, Locked, create_leaf},
    secret::Secrets,
};
use tokio::sync::{Mutex, mpsc};

use super::{
    leaf::{self, Keys},
    progress::Progress,
    rows::Maker,
    source::{Out, Source},
    state,
};
use crate::dataset::Dataset;

/// Messages that wait for their leaf.
const WAITING: usize = 32;

/// What all fills share.
pub struct Site {
    pub dataset: Dataset,
    pub secrets: Secrets,
    pub owner: PgConnectOptions,
    /// Attaches leaves, one at a time.
    pub locked: Mutex<Locked>,
    pub keys: BTreeMap<&'static str, Keys>,
    /// For each of the connections that copy.
    pub settings: String,
    pub progress: Progress,
}

/// Some leaves of a table that one walk fills.
#[derive(Debug, Clone)]
pub struct Job {
    pub source: Source,
    pub leaves: Vec<Leaf>,
}

/// Fills the leaves of a job and attaches them.
///
/// # Errors
/// The database's; leaves that are done stay done.
pub async fn run(site: &Arc<Site>, job: &Job) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut conns = Vec::with_capacity(job.leaves.len());
    for leaf in &job.leaves {
        let mut conn = leaf::connect(&site.owner, &site.settings).await?;
        let begin = format!("begin; {}", leaf::make(leaf.plan, &leaf.to_string()));
        sqlx::raw_sql(AssertSqlSafe(begin))
            .execute(&mut conn)
            .await
            .with_context(|| format!("{leaf} cannot be made"))?;
        conns.push(conn);
    }
    let copied = copy(site, job, &mut conns).await?;
    let copying = started.elapsed();
    for ((leaf, conn), rows) in job.leaves.iter().zip(&mut conns).zip(copied) {
        let share = copying / job.leaves.len() as u32;
        finish(site, job.source, *leaf, conn, rows, share).await.with_context(|| format!("{leaf} failed"))?;
    }
    for conn in conns {
        conn.close().await?;
    }
    for leaf in &job.leaves {
        attach(site, *leaf).await?;
    }
    Ok(())
}

/// Gives a leaf that is filled to its table.
///
/// # Errors
/// The database's.
pub async fn attach(site: &Site, leaf: Leaf) -> anyhow::Result<()> {
    let mut locked = site.locked.lock().await;
    create_leaf(&mut locked, leaf).await.with_context(|| format!("{leaf} cannot be attached"))?;
    Ok(())
}

async fn copy(site: &Arc<Site>, job: &Job, conns: &mut [PgConnection]) -> anyhow::Result<Vec<u64>> {
    let (to, mut from) = mpsc::channel(WAITING);
    let walk = {
        let (site, job) = (Arc::clone(site), job.clone());
        tokio::task::spawn_blocking(move || {
            let codes = site.secrets.codes();
            let maker = Maker::new(&site.dataset, &site.secrets, &codes);
            job.source.walk(&maker, Out::new(job.source.columns(), &job.leaves, to))
        })
    };
    let columns = job.source.columns().join(", ");
    let mut copies = Vec::with_capacity(conns.len());
    for (leaf, conn) in job.leaves.iter().zip(conns) {
        let statement = format!("copy {leaf} ({columns}) from stdin with (format binary, freeze)");
        copies.push(conn.copy_in_raw(&statement).await?);
    }
    while let Some((at, bytes, rows)) = from.recv().await {
        copies[at].send(bytes).await?;
        site.progress.add(rows);
    }
    // It ends early only when nobody takes its rows, and then the loop above has failed.
    walk.await?.map_err(|_| anyhow::anyhow!("the walk was given up"))?;
    let mut copied = Vec::with_capacity(copies.len());
    for mut copy in copies {
        copy.send(&TRAILER_BYTES[..]).await?;
        copied.push(copy.finish().await?);
    }
    Ok(copied)
}

async fn finish(
    site: &Site,
    source: Source,
    leaf: Leaf,
    conn: &mut PgConnection,
    rows: u64,
    copying: Duration,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let keys = site.keys.get(source.table()).context("the keys of all tables are known")?;
    for statement in keys.statements(&leaf.to_string()) {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *conn).await?;
    }
    state::record(conn, &leaf.to_string(), source.table(), rows, copying, started.elapsed()).await?;
    sqlx::raw_sql("commit").execute(&mut *conn).await?;
    Ok(())
}

/// Runs jobs, so many at a time.
///
/// # Errors
/// That of the first job that fails; the others end where they are.
pub async fn run_all(site: &Arc<Site>, jobs: Vec<Job>, at_once: usize) -> anyhow::Result<()> {
    ensure!(at_once > 0, "at least one job must run");
    let mut waiting = jobs.into_iter();
    let mut running = tokio::task::JoinSet::new();
    loop {
        while running.len() < at_once
            && let Some(job) = waiting.next()
        {
            let site = Arc::clone(site);
            running.spawn(async move { run(&site, &job).await });
        }
        match running.join_next().await {
            Some(done) => done??,
            None => return Ok(()),
        }
    }
}

//! What is asked of a server before and beside the load, as an admin: patiently, and one thing at a time.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    http::{Ask, Connection, Reply, Target},
    keys::Key,
};

/// How long a job may take.
const JOB_MAX: Duration = Duration::from_secs(3_600);
const PATIENCE: Duration = Duration::from_secs(600);

/// An admin's connection.
pub struct Office {
    connection: Connection,
    pub key: Key,
}

impl Office {
    /// # Errors
    /// When the server cannot be reached.
    pub async fn open(target: &Target, key: &Key) -> anyhow::Result<Self> {
        let mut connection = Connection::new(target.clone(), PATIENCE);
        connection.connect().await.with_context(|| format!("is a Tessera running at {}?", target.url))?;
        Ok(Self { connection, key: key.clone() })
    }

    /// Asks, and again while the server has too much to do.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn ask(&mut self, ask: Ask<'_>) -> anyhow::Result<Reply> {
        let began = Instant::now();
        loop {
            let (_, outcome) = self.connection.ask(ask.clone()).await;
            match outcome {
                Ok(reply) if matches!(reply.status, 429 | 503) && began.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Ok(reply) => return Ok(reply),
                Err(lost) => bail!("{} did not answer {}", self.connection.url(), lost.name()),
            }
        }
    }

    /// # Errors
    /// When the answer is not 2xx, with its problem.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Reply> {
        let key = self.key.clone();
        let reply = self.ask(Ask::get(path, &key)).await?;
        ensure!(reply.status < 300, "GET {path}: {}", problem(&reply));
        Ok(reply)
    }

    /// # Errors
    /// When the answer is neither 2xx nor of this code, with its problem.
    pub async fn post(&mut self, path: &str, body: &Value, or_code: &str) -> anyhow::Result<Reply> {
        let (key, number) = (self.key.clone(), [("idempotency-key", fresh_number())]);
        let reply = self.ask(Ask::post(path, &key, body.to_string()).with(&number)).await?;
        ensure!(reply.status < 300 || code_of(&reply) == or_code, "POST {path}: {}", problem(&reply));
        Ok(reply)
    }

    /// Sends a file that a job is made of; gives the job's path.
    ///
    /// # Errors
    /// As [`Office::post`].
    pub async fn upload(&mut self, path: &str, csv: String) -> anyhow::Result<String> {
        let (key, number) = (self.key.clone(), [("idempotency-key", fresh_number())]);
        let ask = Ask { content_type: "text/csv", ..Ask::post(path, &key, csv).with(&number) };
        let reply = self.ask(ask).await?;
        ensure!(reply.status < 300, "POST {path}: {}", problem(&reply));
        reply.location.with_context(|| format!("POST {path}: the answer does not say where the job is"))
    }

    /// Waits until a job has ended; gives it.
    ///
    /// # Errors
    /// When it fails, pauses or takes too long.
    pub async fn ended(&mut self, job: &str) -> anyhow::Result<Value> {
        self.ended_as(job, &["done"]).await
    }

    /// Waits until a job has ended, be it that it was cancelled; gives it.
    ///
    /// # Errors
    /// When it fails, pauses or takes too long.
    pub async fn ended_or_cancelled(&mut self, job: &str) -> anyhow::Result<Value> {
        self.ended_as(job, &["done", "cancelled"]).await
    }

    async fn ended_as(&mut self, job: &str, states: &[&str]) -> anyhow::Result<Value> {
        let began = Instant::now();
        loop {
            let view: Value = json(&self.get(job).await?)?;
            match view["state"].as_str() {
                Some(state) if states.contains(&state) => return Ok(view),
                Some("running" | "uploading") => {}
                _ => bail!("the job {job} did not go through: {view}"),
            }
            ensure!(began.elapsed() < JOB_MAX, "the job {job} has not ended after an hour");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The body of an answer.
///
/// # Errors
/// When it is none of that shape.
pub fn json<T: DeserializeOwned>(reply: &Reply) -> anyhow::Result<T> {
    serde_json::from_slice(&reply.body).with_context(|| format!("an answer cannot be read: {}", problem(reply)))
}

/// The code of a problem; empty for anything else.
pub fn code_of(reply: &Reply) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        code: String,
    }
    serde_json::from_slice::<Problem>(&reply.body).map(|problem| problem.code).unwrap_or_default()
}

/// An answer for people.
pub fn problem(reply: &Reply) -> String {
    let text = String::from_utf8_lossy(&reply.body);
    format!("{} {}", reply.status, text.chars().take(400).collect::<String>())
}

/// A request number that nothing else has.
pub fn fresh_number() -> String {
    uuid::Uuid::now_v7().to_string()
}

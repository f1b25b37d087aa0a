//! Taking a file in: pieces as they come, each encrypted and written on its own, so that memory holds one.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    JobError, State,
    file::{self, CHUNK_BYTES},
    store::{self, NewJob, Uploaded},
};
use crate::{
    db::{pool::Office, tx},
    problem::{Code, Refusal},
    secret::Secrets,
};

/// A file on its way in.
pub struct Upload<'a> {
    office: &'a Office,
    secrets: &'a Secrets,
    pub new: NewJob,
    piece: Vec<u8>,
    no: i32,
    digest: Sha256,
}

impl<'a> Upload<'a> {
    /// Makes the job.
    ///
    /// # Errors
    /// `job_limit_reached`; the database's.
    pub async fn begin(
        office: &'a Office,
        secrets: &'a Secrets,
        new: NewJob,
        open_max: i64,
        now: DateTime<Utc>,
    ) -> Result<Self, JobError> {
        let made = &new;
        tx::run(office, "job_insert", async move |conn: &mut PgConnection| {
            store::insert_job(conn, made, open_max, now).await
        })
        .await?;
        Ok(Self { office, secrets, new, piece: Vec::with_capacity(CHUNK_BYTES), no: 0, digest: Sha256::new() })
    }

    /// Takes bytes. Gives the first piece of the file when it is whole, for a look at its header.
    ///
    /// # Errors
    /// `job_state_forbidden` when the job was cancelled meanwhile; the database's.
    pub async fn push(&mut self, mut bytes: &[u8], now: DateTime<Utc>) -> Result<(), JobError> {
        self.digest.update(bytes);
        while self.piece.len() + bytes.len() >= CHUNK_BYTES {
            let (fits, rest) = bytes.split_at(CHUNK_BYTES - self.piece.len());
            self.piece.extend_from_slice(fits);
            self.write(now).await?;
            bytes = rest;
        }
        self.piece.extend_from_slice(bytes);
        Ok(())
    }

    /// In place of a file: so many things to be done. Gives the digest.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn count(&mut self, count: i64, now: DateTime<Utc>) -> Result<Uuid, JobError> {
        let mut conn = self.office.get().await?;
        if !store::grow_uploading(&mut conn, self.new.job_id, count, now).await? {
            return Err(JobError::from(Refusal::new(Code::JobStateForbidden).detail("the job was cancelled")));
        }
        Ok(self.secrets.legacy(&format!("\0job\0count\0{count}")))
    }

    /// What came in so far, as long as it is within the first piece.
    pub fn head(&self) -> Option<&[u8]> {
        (self.no == 0).then_some(&self.piece)
    }

    /// The piece is sealed once its transaction has written: so a key that is dropped seals none that comes in later
    /// (`secret::rotate`).
    async fn write(&mut self, now: DateTime<Utc>) -> Result<(), JobError> {
        let (secrets, job_id, no, piece) = (self.secrets, self.new.job_id, self.no, &self.piece);
        tx::run(self.office, "job_upload", async move |conn: &mut PgConnection| {
            if !store::grow_uploading(conn, job_id, piece.len() as i64, now).await? {
                return Err(JobError::from(Refusal::new(Code::JobStateForbidden).detail("the job was cancelled")));
            }
            let sealed = file::seal(secrets, job_id, no, piece);
            store::insert_chunk(conn, job_id, no, &sealed).await
        })
        .await?;
        self.piece.clear();
        self.no += 1;
        Ok(())
    }

    /// Writes the rest. Gives the bytes of the file and its digest.
    ///
    /// The digest is keyed: of a file with one phone number in it a plain one would tell the number to who tries them all.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn finish(&mut self, now: DateTime<Utc>) -> Result<(i64, Uuid), JobError> {
        let last = self.piece.len() as i64;
        let bytes = i64::from(self.no) * CHUNK_BYTES as i64 + last;
        if last > 0 {
            self.write(now).await?;
        }
        let plain: String = self.digest.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((bytes, self.secrets.legacy(&format!("\0job\0file\0{plain}"))))
    }

    /// Lets the job run, or wait. If its number is that of another job of the same file, that one is given, and the upload
    /// goes; the flag says so.
    ///
    /// # Errors
    /// `request_number_reused` when the other job has another file or other options.
    pub async fn end(&self, uploaded: &Uploaded, now: DateTime<Utc>) -> Result<(super::Job, bool), JobError> {
        let mut conn = self.office.get().await?;
        let (kind, caller, numbers) = (self.new.kind, &self.new.created_by, &uploaded.numbers);
        // A number that carries no day may stand under yesterday.
        let mut first = store::find_by_number(&mut conn, kind, caller, numbers).await?;
        if first.is_none() {
            if let Some(job) = store::update_uploaded(&mut conn, self.new.job_id, uploaded, now).await? {
                return Ok((job, false));
            }
            first = store::find_by_number(&mut conn, kind, caller, numbers).await?;
        }
        let Some(first) = first else {
            return Err(Refusal::new(Code::JobStateForbidden).detail("the job was cancelled").into());
        };
        store::delete_uploading(&mut conn, self.new.job_id).await?;
        let mut options = first.options.clone();
        // What was noted on the job since.
        options.as_object_mut().map(|options| options.remove("undone_by"));
        if first.digest == Some(uploaded.digest) && options == uploaded.options {
            return Ok((first, true));
        }
        Err(Code::RequestNumberReused.into())
    }

    /// Takes everything back.
    pub async fn abandon(&self) {
        // What cannot be deleted now is found as stale later.
        if let Ok(mut conn) = self.office.get().await {
            let _ = store::delete_uploading(&mut conn, self.new.job_id).await;
        }
    }
}

/// The state that an upload ends in.
pub fn state_after(starts: bool) -> State {
    if starts { State::Running } else { State::Ready }
}

//! The transaction of an export.

use std::sync::Arc;

use serde_json::json;

use super::{
    super::{
        binding,
        edit::Actor,
        family,
        log::{self, Audit, Audited},
        store as member_store,
    },
    ExportedKey, ExportedMember, Person, store,
};
use crate::{
    chain::names::StoreNames,
    clock::Clock,
    db::lane::{Tx, WriteError, Writer},
    id::{EventId, MemberId},
    problem::{Code, Refusal},
    secret::Secrets,
};

#[derive(Debug)]
pub(in crate::member) struct ExportOp {
    pub(in crate::member) member_id: MemberId,
    /// Of the row in `audit_log`.
    pub(in crate::member) log_id: EventId,
    pub(in crate::member) actor: Actor,
}

pub(in crate::member) struct ExportWriter {
    pub(in crate::member) clock: Clock,
    pub(in crate::member) secrets: Arc<Secrets>,
    pub(in crate::member) stores: StoreNames,
}

impl Writer for ExportWriter {
    type Op = ExportOp;
    type Answer = Result<Person, Refusal>;

    const NAME: &'static str = "member_export";
    const BATCHED: bool = false;
    /// Logs of years are read: nobody is to wait for that.
    const SNAPSHOT: bool = true;

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<ExportOp>]) -> Result<Vec<Option<Self::Answer>>, WriteError> {
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(Some(self.export(tx, op).await?));
        }
        Ok(answers)
    }

    /// Whoever did not get the answer asks again, and that is written down again.
    async fn look_up(&self, _: &mut Tx<'_>, _: &ExportOp) -> Result<Option<Self::Answer>, WriteError> {
        Ok(None)
    }
}

impl ExportWriter {
    async fn export(&self, tx: &mut Tx<'_>, op: &ExportOp) -> Result<Result<Person, Refusal>, WriteError> {
        let Some(row) = member_store::find_member(tx, op.member_id).await? else {
            return Ok(Err(Code::MemberNotFound.into()));
        };
        let store_id = member_store::store_name(tx, &self.stores, row.home_store_no).await?;
        let auths = binding::store::find_auths(tx, op.member_id).await?;
        let keys = binding::bindings(&self.secrets, &row, &auths).map_err(WriteError::Inconsistent)?;
        let member = ExportedMember::new(&self.secrets, &row, store_id).map_err(WriteError::Inconsistent)?;
        let family = family::export_counted(tx, &self.secrets, op.member_id).await?;
        let (log, more_log) = store::list_log(tx, op.member_id).await?;
        let audit = Audit {
            log_id: op.log_id,
            subject: Some(op.member_id),
            what: Audited::Exported,
            actor: &op.actor,
            body: &json!({}),
        };
        log::store::insert_audit(tx, self.clock.now(), &audit).await?;
        let keys = keys.into_iter().map(ExportedKey::from).collect();
        Ok(Ok(Person { member, keys, family, log, more_log }))
    }
}

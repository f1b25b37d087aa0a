//! What a member may do in a system, as that system names it. Tessera keeps roles and does not read them.

pub mod http;
pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use self::store::RoleRow;
use super::{
    edit::{Edit, Edited, Editing},
    family,
    log::What,
    state::Action,
};
use crate::{
    coupon::decide::millis,
    db::lane::WriteError,
    problem::{Code, Refusal},
    text_type,
};

/// Roles of one member at most, over all systems.
pub const ROLES_MAX: usize = 64;

text_type! {
    /// The name of a system that has roles.
    RoleSystem: word 1..=32, "mall";
    /// A role as its system names it.
    RoleName: word 1..=64, "clerk";
}

/// A role of a member in a system.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct MemberRole {
    #[schema(value_type = RoleSystem)]
    pub system: String,
    #[schema(value_type = RoleName)]
    pub role: String,
    #[serde(serialize_with = "millis")]
    pub granted_at: DateTime<Utc>,
    /// The name of the API key that granted it.
    pub granted_by: String,
}

impl From<&RoleRow> for MemberRole {
    fn from(row: &RoleRow) -> Self {
        Self {
            system: row.system.clone(),
            role: row.role.clone(),
            granted_at: row.granted_at,
            granted_by: row.granted_by.clone(),
        }
    }
}

/// Grants a role, or takes it back. What is so already stays as it is.
#[derive(Debug)]
pub struct SetRole {
    pub system: RoleSystem,
    pub role: RoleName,
    pub granted: bool,
}

impl SetRole {
    fn find<'r>(&self, rows: &'r [RoleRow]) -> Option<&'r RoleRow> {
        rows.iter().find(|row| row.system == self.system.as_str() && row.role == self.role.as_str())
    }
}

impl Edit for SetRole {
    /// The role, if it is granted.
    type Done = Option<MemberRole>;

    const WHAT: What = What::Role;
    const ACTION: Action = Action::Change;

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<Self::Done>, Refusal>, WriteError> {
        let member_id = on.member_id();
        let rows: Vec<RoleRow> = family::rows(on.tx, member_id).await?;
        let done = match (self.find(&rows), self.granted) {
            (Some(row), true) => return Ok(Ok(Edited::nothing(Some(row.into())))),
            (None, false) => return Ok(Ok(Edited::nothing(None))),
            (None, true) if rows.len() >= ROLES_MAX => {
                return Ok(Err(Refusal::new(Code::RoleLimitReached).with("limit", ROLES_MAX)));
            }
            (None, true) => {
                let row = RoleRow {
                    member_id,
                    granted_at: on.now,
                    system: self.system.to_string(),
                    role: self.role.to_string(),
                    granted_by: on.actor.name.to_string(),
                };
                store::insert_role(on.tx, &row).await?;
                Some((&row).into())
            }
            (Some(row), false) => {
                store::delete_role(on.tx, row).await?;
                None
            }
        };
        let did = if self.granted { "granted" } else { "revoked" };
        // Which role it was goes with the member: logs outlive an erasure.
        let body = json!({ "did": did, "system": self.system });
        Ok(Ok(Edited::detail(done, body)))
    }

    async fn read(&self, on: &mut Editing<'_, '_>) -> Result<Self::Done, WriteError> {
        let member_id = on.member_id();
        Ok(self.find(&family::rows::<RoleRow>(on.tx, member_id).await?).map(MemberRole::from))
    }
}

//! Changing the core row of a member: it is compared with the version that the caller has seen, and written back whole.

use chrono::NaiveDate;
use serde_json::json;

use super::{
    Gender, HomeStore, Member, State,
    edit::{Edit, Edited, Editing},
    log::What,
    state::Action,
    store::{MemberRow, seal},
};
use crate::{db::lane::WriteError, problem::Refusal, secret::Secrets};

/// A change of the core row.
#[derive(Debug)]
pub struct Patch {
    /// Versions that the caller has seen; `None` is any.
    pub versions: Option<Vec<i64>>,
    pub change: Change,
}

/// What to change; what is `None` stays, and `Some(None)` clears.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Change {
    pub name: Option<Option<String>>,
    pub nickname: Option<Option<String>>,
    pub signature: Option<Option<String>>,
    pub gender: Option<Gender>,
    pub birthday: Option<Option<NaiveDate>>,
    pub home_store: Option<Option<HomeStore>>,
    /// Normal or frozen. Cancelling is another operation.
    pub state: Option<State>,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.fields()).finish()
    }
}

impl Change {
    /// Names of what is to change.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        [
            ("name", self.name.is_some()),
            ("nickname", self.nickname.is_some()),
            ("signature", self.signature.is_some()),
            ("gender", self.gender.is_some()),
            ("birthday", self.birthday.is_some()),
            ("store_id", self.home_store.is_some()),
            ("state", self.state.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, changes)| changes.then_some(name))
    }

    fn apply(&self, secrets: &Secrets, row: &mut MemberRow) {
        let member_id = row.member_id;
        if let Some(name) = &self.name {
            row.name = name.as_deref().map(|name| seal(secrets, "name", member_id, name));
        }
        if let Some(birthday) = self.birthday {
            row.birthday = birthday.map(|day| seal(secrets, "birthday", member_id, &day.to_string()));
        }
        if let Some(nickname) = &self.nickname {
            row.nickname.clone_from(nickname);
        }
        if let Some(signature) = &self.signature {
            row.signature.clone_from(signature);
        }
        if let Some(gender) = self.gender {
            row.gender = gender.number();
        }
        if let Some(home_store) = &self.home_store {
            row.home_store_no = home_store.as_ref().map(|store| store.store_no);
        }
        if let Some(state) = self.state {
            row.state = state.number();
        }
    }
}

impl Edit for Patch {
    type Done = Member;

    const WHAT: What = What::Core;
    const ACTION: Action = Action::Change;

    fn versions(&self) -> Option<&[i64]> {
        self.versions.as_deref()
    }

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<Member>, Refusal>, WriteError> {
        let fields: Vec<&str> = self.change.fields().collect();
        if fields.is_empty() {
            return Ok(Ok(Edited::nothing(on.show().await?)));
        }
        self.change.apply(on.secrets, &mut on.row);
        on.update_member().await?;
        let body = json!({ "version": on.row.version, "fields": fields, "state": self.change.state });
        Ok(Ok(Edited::core(on.show().await?, body)))
    }

    async fn read(&self, on: &mut Editing<'_, '_>) -> Result<Member, WriteError> {
        on.show().await
    }
}

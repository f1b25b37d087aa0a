//! Changing the core row of a member: it is compared with the version that the caller has seen, and written back whole.

use chrono::NaiveDate;
use serde_json::json;

use super::{
    Attributes, AttributesPatch, Avatar, Gender, HomeStore, Kind, Member, Standing, State,
    edit::{Edit, Edited, Editing, standing},
    log::What,
    state::Action,
    store::{self, MemberRow, json as text_of, seal},
};
use crate::{
    db::lane::WriteError,
    problem::{Code, Refusal},
    secret::Secrets,
};

/// A change of the core row.
#[derive(Debug)]
pub struct Patch {
    /// Versions that the caller has seen; `None` is any.
    pub versions: Option<Vec<i64>>,
    pub change: Change,
}

/// What to change; what is `None` stays, and `Some(None)` clears.
#[derive(Clone, Default, PartialEq)]
pub struct Change {
    pub name: Option<Option<String>>,
    pub nickname: Option<Option<String>>,
    pub signature: Option<Option<String>>,
    pub gender: Option<Gender>,
    pub birthday: Option<Option<NaiveDate>>,
    pub home_store: Option<Option<HomeStore>>,
    /// Whole.
    pub avatar: Option<Option<Avatar>>,
    pub attributes: Option<AttributesPatch>,
    pub level: Option<i16>,
    pub state: Option<State>,
    pub kind: Option<Kind>,
    pub muted: Option<bool>,
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
            ("avatar", self.avatar.is_some()),
            ("attributes", self.attributes.is_some()),
            ("level", self.level.is_some()),
            ("state", self.state.is_some()),
            ("kind", self.kind.is_some()),
            ("muted", self.muted.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, changes)| changes.then_some(name))
    }

    /// The attributes after the change, if it names any.
    fn attributes(&self, row: &MemberRow) -> Result<Result<Option<Attributes>, Refusal>, WriteError> {
        let Some(patch) = &self.attributes else { return Ok(Ok(None)) };
        let stored = row.attributes.as_deref().map(serde_json::from_str::<Attributes>).transpose();
        let impossible = |_| WriteError::Inconsistent(format!("member.attributes of {} is impossible", row.member_id));
        let mut attributes = stored.map_err(impossible)?.unwrap_or_default();
        Ok(attributes.merge(patch).map(|()| Some(attributes)))
    }

    /// What the member, as it stands, must be allowed.
    fn actions(&self) -> Vec<Action> {
        let identifies = matches!(self.name, Some(Some(_))) || matches!(self.birthday, Some(Some(_)));
        let publishes = self.nickname.is_some() || self.signature.is_some() || self.avatar.is_some();
        let plain = self.name.is_some()
            || self.birthday.is_some()
            || self.gender.is_some()
            || self.home_store.is_some()
            || self.attributes.is_some()
            || self.level.is_some()
            || !self.governs();
        let needed = [
            (self.governs(), Action::Govern),
            (plain, Action::Change),
            (identifies, Action::Identify),
            (publishes, Action::Publish),
        ];
        needed.into_iter().filter_map(|(needs, action)| needs.then_some(action)).collect()
    }

    /// Whether it says what the member may do at all.
    fn governs(&self) -> bool {
        self.state.is_some() || self.kind.is_some() || self.muted.is_some()
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
        if let Some(avatar) = &self.avatar {
            row.avatar = avatar.as_ref().map(text_of);
        }
        if let Some(level) = self.level {
            row.level = level;
        }
        if let Some(state) = self.state {
            row.state = state.number();
        }
        if let Some(kind) = self.kind {
            row.kind = kind.number();
        }
        if let Some(muted) = self.muted {
            row.muted = muted;
        }
    }
}

impl Patch {
    /// Whether the member may get this state and kind: the row is as it will be, `before` as it was.
    async fn check(&self, on: &mut Editing<'_, '_>, before: Standing) -> Result<Result<(), Refusal>, WriteError> {
        if let Some(state) = self.change.state
            && let Err(refusal) = before.state.to(state)
        {
            return Ok(Err(refusal));
        }
        if self.change.kind == Some(Kind::Virtual) && identifies_a_person(on).await? {
            return Ok(Err(Refusal::new(Code::MemberKindForbidden)
                .detail(
                    "a virtual member has no name, birthday, phone or e-mail, address or device: take them away first",
                )
                .with("member_kind", before.kind.name())));
        }
        Ok(Ok(()))
    }
}

/// Whether the member has what a virtual one must not have. (A second phone or e-mail has none without a first.)
async fn identifies_a_person(on: &mut Editing<'_, '_>) -> Result<bool, WriteError> {
    let row = &on.row;
    if row.phone.is_some() || row.email.is_some() || row.name.is_some() || row.birthday.is_some() {
        return Ok(true);
    }
    Ok(store::count_identifying(on.tx, on.row.member_id).await? > 0)
}

impl Edit for Patch {
    type Done = Member;

    const WHAT: What = What::Core;
    const ACTION: Action = Action::Change;

    fn versions(&self) -> Option<&[i64]> {
        self.versions.as_deref()
    }

    fn what(&self) -> What {
        if self.change.governs() { What::State } else { What::Core }
    }

    fn actions(&self) -> Vec<Action> {
        self.change.actions()
    }

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<Member>, Refusal>, WriteError> {
        let fields: Vec<&str> = self.change.fields().collect();
        if fields.is_empty() {
            return Ok(Ok(Edited::nothing(on.show().await?)));
        }
        let before = standing(&on.row)?;
        match self.change.attributes(&on.row)? {
            Ok(Some(attributes)) if attributes.0.is_empty() => on.row.attributes = None,
            Ok(Some(attributes)) => on.row.attributes = Some(text_of(&attributes)),
            Ok(None) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
        self.change.apply(on.secrets, &mut on.row);
        if let Err(refusal) = self.check(on, before).await? {
            return Ok(Err(refusal));
        }
        on.update_member().await?;
        let Change { state, kind, muted, .. } = &self.change;
        let body = json!({ "version": on.row.version, "fields": fields, "state": state, "kind": kind, "muted": muted });
        Ok(Ok(Edited::core(on.show().await?, body)))
    }

    async fn read(&self, on: &mut Editing<'_, '_>) -> Result<Member, WriteError> {
        on.show().await
    }
}

//! What a business line knows of a member: one table a line, beside an untouched core. A missing row is a line that the
//! member never used.
//!
//! A line is a file here and a table: its migration, its plan under `partitions`, and `find`, `put` and `delete_all`
//! under `sql/queries/<table>`; one with personal data also the three statements by which rotation of keys writes it
//! again (`<table>_walk`, `_lock` and `_update` under `sql/queries/rotate`, see `secret::columns`), without which nothing
//! starts. The file says what comes in, what is kept and what is shown ([`Line`]), and registers
//! itself ([`Registered`]). Reading, changing, erasing and exporting it, its routes and its part of the document follow
//! from that; nothing else names a line. (A file in this folder needs its `mod` line below, as every file of Rust.)
//!
//! Every table of a line begins with `member_id`, `created_at`, `updated_at` and `version`.

pub mod http;
mod id_card;
mod mall;
mod sport;
pub mod store;

use std::{fmt, hash, marker::PhantomData};

use futures_util::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sqlx::postgres::{PgArguments, PgRow};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

pub use self::{
    id_card::IdCard,
    mall::Mall,
    sport::Sport,
    store::{FindProfile, Profile},
};
use super::{
    desk::{MemberDesk, MemberError},
    edit::{self, Actor, Edit, Edited, Editing},
    family::{self, Table, Vault},
    log::What,
    reveal::Opener,
    state::Action,
};
use crate::{
    db::lane::{Cost, WriteError},
    id::MemberId,
    problem::{Code, Refusal},
};

/// A business line: what it keeps of a member, and how.
pub trait Line: Send + Sync + 'static {
    /// As paths and answers name it.
    const NAME: &'static str;
    const TABLE: &'static str;
    /// Columns that [`Line::write`] encrypts.
    const SEALED: &'static [&'static str];
    /// Under which number changes stand in `change_log`, where their body names the line.
    const WHAT: What = What::Profile;

    /// What a request may say. Denies unknown fields. Its type names are the document's, so no two lines share one.
    type Given: DeserializeOwned + ToSchema + Send + Sync + 'static;
    /// What is kept, unmasked; as JSON what the person's export shows. The default is what a new row begins with.
    type Fields: Clone + Default + PartialEq + Serialize + Send + Sync + 'static;
    /// What answers show.
    type Shown: Serialize + ToSchema + 'static;

    /// Whether it names what only the roles ops and admin may set.
    fn governs(given: &Self::Given) -> bool;

    /// Whether what others see changes, which a muted member may not.
    fn publishes(was: &Self::Fields, is: &Self::Fields) -> bool;

    /// Whether it says who a person is, which is kept of no virtual member.
    fn identifies(_: &Self::Fields) -> bool {
        false
    }

    /// Under which name it is revealed, if answers show something of it masked: then as a list of one
    /// [`Line::reveal`].
    const REVEALED: Option<&'static str> = None;

    /// What answers mask, unmasked.
    fn reveal(fields: &Self::Fields) -> Value {
        json!(fields)
    }

    /// What is kept after a request. `whole`: what it does not name is cleared, but for what only ops and admin set;
    /// else it stays.
    fn apply(given: &Self::Given, was: &Self::Fields, whole: bool) -> Self::Fields;

    fn show(fields: &Self::Fields) -> Self::Shown;

    /// Reads the line's own columns.
    ///
    /// # Errors
    /// Those of the columns; [`impossible`] for a value that cannot be.
    fn read(row: &PgRow, vault: &Vault<'_>) -> Result<Self::Fields, sqlx::Error>;

    /// Adds the line's own columns to the parameters of `put`, each an array of one, after the four common ones.
    ///
    /// # Errors
    /// Those of the encoder.
    fn write(fields: &Self::Fields, vault: &Vault<'_>, to: &mut PgArguments) -> Result<(), sqlx::error::BoxDynError>;
}

/// The error of a stored value that cannot be. `what` names table, column and key.
pub fn impossible(what: String) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(WriteError::Inconsistent(what)))
}

/// A line that is served: `inventory::submit! { Registered::line::<Mall>() }`.
pub struct Registered(&'static dyn AnyLine);

inventory::collect!(Registered);

impl Registered {
    pub const fn line<L: Line>() -> Self {
        Self(&LineOf::<L>(PhantomData))
    }
}

/// Every line, by name.
pub fn lines() -> Vec<&'static dyn AnyLine> {
    let mut lines: Vec<&dyn AnyLine> = inventory::iter::<Registered>.into_iter().map(|one| one.0).collect();
    lines.sort_unstable_by_key(|line| line.name());
    lines
}

/// The line of that name.
pub fn line(name: &str) -> Option<&'static dyn AnyLine> {
    inventory::iter::<Registered>.into_iter().map(|one| one.0).find(|line| line.name() == name)
}

/// A [`Line`] whose types only its file knows, so that one set of routes serves all of them.
pub trait AnyLine: Send + Sync {
    fn name(&self) -> &'static str;
    fn table(&self) -> &'static str;
    fn family_table(&self) -> &'static Table;
    /// The documents of what comes in and what is shown, and the types that they refer to.
    fn given_schema(&self, named: &mut Vec<(String, RefOr<Schema>)>) -> RefOr<Schema>;
    fn shown_schema(&self, named: &mut Vec<(String, RefOr<Schema>)>) -> RefOr<Schema>;
    fn fetch<'a>(&'a self, of: store::Asked<'a>) -> BoxFuture<'a, Result<Vec<(MemberId, Profile)>, sqlx::Error>>;
    fn put<'a>(&'a self, desk: &'a MemberDesk, put: Put<'a>) -> Outcome<'a, (Profile, bool)>;
    fn delete<'a>(&'a self, desk: &'a MemberDesk, actor: Actor, member_id: MemberId) -> Outcome<'a, ()>;
}

/// The inner error is the refusal.
pub type Outcome<'a, T> = BoxFuture<'a, Result<(Result<T, Refusal>, Cost), MemberError>>;

/// What a request wants of a member's profile.
pub struct Put<'a> {
    pub actor: Actor,
    pub member_id: MemberId,
    pub body: &'a [u8],
    pub seen: Seen,
    /// What is not named is cleared, and a missing profile is made.
    pub whole: bool,
    /// Whether the caller may set what governs; the refusal if not.
    pub govern: Result<(), Refusal>,
}

/// What a caller has seen of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It says nothing: there must be none yet.
    Nothing,
    Any,
    Versions(Vec<i64>),
}

struct LineOf<L>(PhantomData<fn() -> L>);

impl<L: Line> AnyLine for LineOf<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn table(&self) -> &'static str {
        L::TABLE
    }

    fn family_table(&self) -> &'static Table {
        const {
            let opener = match L::REVEALED {
                Some(field) => Some(Opener { field, open: store::reveal::<L> }),
                None => None,
            };
            &Table { name: L::TABLE, sealed: L::SEALED, export: store::export::<L>, opener }
        }
    }

    fn given_schema(&self, named: &mut Vec<(String, RefOr<Schema>)>) -> RefOr<Schema> {
        L::Given::schemas(named);
        L::Given::schema()
    }

    fn shown_schema(&self, named: &mut Vec<(String, RefOr<Schema>)>) -> RefOr<Schema> {
        L::Shown::schemas(named);
        L::Shown::schema()
    }

    fn fetch<'a>(&'a self, of: store::Asked<'a>) -> BoxFuture<'a, Result<Vec<(MemberId, Profile)>, sqlx::Error>> {
        Box::pin(async move {
            let rows = store::list::<L>(of).await?;
            Ok(rows.iter().map(|row| (row.member_id, row.show())).collect())
        })
    }

    fn put<'a>(&'a self, desk: &'a MemberDesk, put: Put<'a>) -> Outcome<'a, (Profile, bool)> {
        Box::pin(async move {
            let given: L::Given = match crate::http::extract::parse(put.body) {
                Ok(given) => given,
                Err(refusal) => return Ok((Err(refusal), Cost::default())),
            };
            if L::governs(&given)
                && let Err(refusal) = put.govern
            {
                return Ok((Err(refusal), Cost::default()));
            }
            desk.edit(put.actor, put.member_id, PutProfile::<L> { given, seen: put.seen, whole: put.whole }).await
        })
    }

    fn delete<'a>(&'a self, desk: &'a MemberDesk, actor: Actor, member_id: MemberId) -> Outcome<'a, ()> {
        Box::pin(desk.edit(actor, member_id, DeleteProfile::<L>(PhantomData)))
    }
}

struct PutProfile<L: Line> {
    given: L::Given,
    seen: Seen,
    whole: bool,
}

impl<L: Line> fmt::Debug for PutProfile<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutProfile").field("line", &L::NAME).finish_non_exhaustive()
    }
}

impl<L: Line> PutProfile<L> {
    /// # Errors
    /// `profile_not_found`, `precondition_required`, `precondition_failed`.
    fn check(&self, version: Option<i32>) -> Result<(), Refusal> {
        match (version, &self.seen) {
            (None, Seen::Nothing) if self.whole => Ok(()),
            (None, _) if self.whole => Err(Code::PreconditionFailed.into()),
            (None, _) => Err(Code::ProfileNotFound.into()),
            (Some(_), Seen::Nothing) => Err(Code::PreconditionRequired.into()),
            (Some(version), Seen::Versions(seen)) if !seen.contains(&version.into()) => {
                Err(Refusal::new(Code::PreconditionFailed).with("version", version))
            }
            (Some(_), _) => Ok(()),
        }
    }
}

impl<L: Line> Edit for PutProfile<L> {
    /// And whether it is new.
    type Done = (Profile, bool);

    const WHAT: What = L::WHAT;
    const ACTION: Action = Action::Change;

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<Self::Done>, Refusal>, WriteError> {
        let was = store::find_locked::<L>(on).await?;
        if let Err(refusal) = self.check(was.as_ref().map(|row| row.version)) {
            return Ok(Err(refusal));
        }
        let before = was.as_ref().map(|row| row.fields.clone()).unwrap_or_default();
        let fields = L::apply(&self.given, &before, self.whole);
        if L::identifies(&fields)
            && let Err(refusal) = edit::standing(&on.row)?.may(Action::Identify)
        {
            return Ok(Err(refusal));
        }
        if L::publishes(&before, &fields)
            && let Err(refusal) = edit::standing(&on.row)?.may(Action::Publish)
        {
            return Ok(Err(refusal));
        }
        let mut row = match was {
            Some(row) if row.fields == fields => return Ok(Ok(Edited::nothing((row.show(), false)))),
            Some(row) => row,
            None => store::Stored::<L>::new(on.member_id(), on.now, fields.clone()),
        };
        (row.fields, row.updated_at, row.version) = (fields, on.now, row.version + 1);
        store::put::<L>(on, &row).await?;
        let body = json!({ "line": L::NAME, "did": "put", "version": row.version });
        Ok(Ok(Edited::detail((row.show(), row.version == 1), body)))
    }

    async fn read(&self, on: &mut Editing<'_, '_>) -> Result<Self::Done, WriteError> {
        let row = store::find_locked::<L>(on).await?;
        let row = row.ok_or(WriteError::Again("a profile that was written is gone"))?;
        Ok((row.show(), row.version == 1))
    }
}

struct DeleteProfile<L>(PhantomData<fn() -> L>);

impl<L: Line> fmt::Debug for DeleteProfile<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeleteProfile({})", L::NAME)
    }
}

impl<L: Line> Edit for DeleteProfile<L> {
    type Done = ();

    const WHAT: What = L::WHAT;
    const ACTION: Action = Action::Change;

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<()>, Refusal>, WriteError> {
        let member_id = on.member_id();
        if family::delete_rows(on.tx, L::TABLE, member_id).await? == 0 {
            return Ok(Err(Code::ProfileNotFound.into()));
        }
        Ok(Ok(Edited::detail((), json!({ "line": L::NAME, "did": "deleted" }))))
    }

    async fn read(&self, _: &mut Editing<'_, '_>) -> Result<(), WriteError> {
        Ok(())
    }
}

/// A line as a key of reads.
#[derive(Clone, Copy)]
pub struct LineRef(pub &'static dyn AnyLine);

impl PartialEq for LineRef {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for LineRef {}

impl hash::Hash for LineRef {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_register_themselves_and_no_two_have_one_name() {
        let names: Vec<&str> = lines().iter().map(|line| line.name()).collect();
        assert_eq!(names, ["mall", "sport"]);
        assert!(line("mall").is_some() && line("member_profile_mall").is_none());
    }

    #[test]
    fn a_put_says_whether_it_makes_or_changes() {
        let check = |seen: Seen, whole, version| {
            let put = PutProfile::<Sport> { given: serde_json::from_str("{}").unwrap(), seen, whole };
            put.check(version).err().map(|refusal| refusal.code)
        };
        let two = || Seen::Versions(vec![2]);
        for (seen, whole, version, code) in [
            (Seen::Nothing, true, None, None),
            (Seen::Any, true, None, Some(Code::PreconditionFailed)),
            (two(), true, None, Some(Code::PreconditionFailed)),
            (Seen::Nothing, true, Some(2), Some(Code::PreconditionRequired)),
            (Seen::Any, true, Some(2), None),
            (two(), true, Some(2), None),
            (two(), true, Some(3), Some(Code::PreconditionFailed)),
            (Seen::Any, false, None, Some(Code::ProfileNotFound)),
            (two(), false, Some(2), None),
        ] {
            assert_eq!(check(seen.clone(), whole, version), code, "{seen:?} {whole} {version:?}");
        }
    }
}

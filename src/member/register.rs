//! Registering a member: the identifiers are claimed, then the member is written, in one transaction.
//!
//! `member_key` is the referee: its rows are inserted first, in the order that keeps two registrations from
//! deadlocking, and whoever finds one taken gives back what it won and says no. Registrations can fail on a constraint,
//! so they run alone.
//!
//! An answer lies in `request` for weeks, and what it says of the member must go when the member is erased. So only the
//! id is stored, and a repetition shows the member as it is then; as long as nobody has changed it, that is the first
//! answer byte for byte.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    About, Gender, Member, NewMember, Source,
    edit::Actor,
    key::Identifier,
    log,
    store::{self, KeyRow},
};
use crate::{
    chain::names::StoreNames,
    clock::Clock,
    db::lane::{Tx, WriteError, Writer},
    event::{self, Kind as EventKind, NewEvent},
    id::{EventId, MemberId},
    problem::{Code, Refusal},
    request::store::{Answer, Claim, Ticket, claim, insert_answers, look_up},
    secret::Secrets,
};

/// One registration. The ids are minted beforehand; a refused one wastes them.
#[derive(Debug)]
pub struct Register {
    /// Absent, a repetition meets its own identifiers: `member_key_taken` with the `member_id` of the first attempt.
    pub ticket: Option<Ticket>,
    pub member_id: MemberId,
    /// Also the number of the row in `register_log`.
    pub event_id: EventId,
    pub actor: Actor,
    pub new: NewMember,
    /// What stands in the way, seen before: told if nothing was answered under the number.
    pub refusal: Option<Refusal>,
}

/// What is stored of a registration, and all that a repetition needs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Made {
    pub member_id: MemberId,
}

/// What became of a registration.
#[derive(Debug, Clone)]
pub struct Registered {
    /// As it is stored: of a member its id only.
    pub answer: Answer,
    /// Of a first answer, the member.
    pub member: Option<Member>,
}

impl Registered {
    fn made(member: Member) -> Self {
        let answer = Answer::decided(201, Ok(Made { member_id: member.member_id }));
        Self { answer, member: Some(member) }
    }
}

impl From<Answer> for Registered {
    fn from(answer: Answer) -> Self {
        Self { answer, member: None }
    }
}

pub struct RegisterWriter {
    pub clock: Clock,
    pub secrets: Arc<Secrets>,
    pub stores: StoreNames,
}

/// The digest of a registration, for its request number.
///
/// It stands in `request` for weeks, and who knows a digest can try every phone number until one fits. So it is a keyed
/// hash: without the secret file there is nothing to try. The key is the one that never rotates, for a repetition must
/// meet the digest of the first attempt; the text before it cannot be that of a coupon code, which has no NUL.
pub fn digest(secrets: &Secrets, new: &NewMember) -> i64 {
    #[derive(Serialize)]
    struct Meaning<'a> {
        identifiers: Vec<(u8, &'a str)>,
        name: Option<&'a str>,
        nickname: Option<&'a str>,
        gender: Gender,
        birthday: Option<chrono::NaiveDate>,
        source: Source,
        home_store_no: Option<i32>,
        #[serde(flatten)]
        about: &'a About,
    }
    let meaning = Meaning {
        identifiers: new.identifiers.iter().map(|one| (one.kind().number(), one.normalised())).collect(),
        name: new.name.as_deref(),
        nickname: new.nickname.as_deref(),
        gender: new.gender,
        birthday: new.birthday,
        source: new.source,
        home_store_no: new.home_store.as_ref().map(|store| store.store_no.get()),
        about: &new.about,
    };
    let text = serde_json::to_string(&meaning).expect("plain structs with string keys always serialise");
    let keyed = secrets.legacy(&format!("\0request\0register\0{text}"));
    keyed.as_u64_pair().0.cast_signed()
}

impl Writer for RegisterWriter {
    type Op = Register;
    type Answer = Registered;

    const NAME: &'static str = "register";
    const BATCHED: bool = false;

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<Register>]) -> Result<Vec<Option<Registered>>, WriteError> {
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(self.register(tx, op).await?);
        }
        Ok(answers)
    }

    async fn look_up(&self, tx: &mut Tx<'_>, op: &Register) -> Result<Option<Registered>, WriteError> {
        let now = self.clock.now();
        if let Some(ticket) = &op.ticket {
            return Ok(look_up(tx, now, ticket).await?.map(Registered::from));
        }
        // Without a number the identifiers are the referee: claiming them waits for a commit under way.
        let keys = self.keys(op);
        let won = store::claim_keys(tx, now, op.member_id, keys.iter().map(|(_, row)| *row).collect()).await?;
        // Some may be free though it was committed: those of a version of the blind key that came since.
        if won.len() == keys.len() {
            return Ok(None);
        }
        // None: another's. It may be that this one was refused for it, or that it came too late after a rollback.
        let Some(row) = store::lock_member(tx, op.member_id).await? else { return Ok(None) };
        let store_id = store::store_name(tx, &self.stores, row.home_store_no).await?;
        let member = row.show(&self.secrets, store_id).map_err(WriteError::Inconsistent)?;
        Ok(Some(Registered::made(member)))
    }

    fn settle(&self, op: &Register, decided: Registered, found: Registered) -> Registered {
        if op.ticket.is_none() {
            return found;
        }
        let answer = decided.answer.settled(found.answer);
        let member = if answer.replayed { None } else { decided.member };
        Registered { answer, member }
    }
}

impl RegisterWriter {
    /// The keys to claim, each with the position of its identifier.
    fn keys(&self, op: &Register) -> Vec<(usize, KeyRow)> {
        let identifiers = op.new.identifiers.iter().enumerate();
        identifiers
            .flat_map(|(position, identifier)| {
                store::keys_of(&self.secrets, identifier).map(move |row| (position, row))
            })
            .collect()
    }

    /// `None` while another registration under the same number is under way.
    async fn register(&self, tx: &mut Tx<'_>, op: &Register) -> Result<Option<Registered>, WriteError> {
        let now = self.clock.now();
        match claim(tx, &[op.ticket.as_ref()]).await?.remove(0) {
            Claim::Won => {}
            Claim::Answered(answer) => return Ok(Some(answer.into())),
            Claim::Busy => return Ok(None),
            Claim::Follows(_) | Claim::Clashes(_) => unreachable!("a batch of one has nobody to follow"),
        }
        let decided = match &op.refusal {
            Some(refusal) => Answer::decided::<()>(0, Err(refusal.clone())).into(),
            None => match self.decide(tx, op, now).await? {
                Ok(member) => Registered::made(member),
                Err(refusal) => Answer::decided::<()>(0, Err(refusal)).into(),
            },
        };
        if let Some(ticket) = &op.ticket {
            insert_answers(tx, now, &[(ticket, &decided.answer)]).await?;
        }
        Ok(Some(decided))
    }

    async fn decide(
        &self,
        tx: &mut Tx<'_>,
        op: &Register,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<Result<Member, Refusal>, WriteError> {
        let keys = self.keys(op);
        let won = store::claim_keys(tx, now, op.member_id, keys.iter().map(|(_, row)| *row).collect()).await?;
        let Some(&(position, row)) = keys.iter().find(|(_, row)| !won.contains(&row.key)) else {
            return Ok(Ok(self.write(tx, op, now).await?));
        };
        store::delete_keys(tx, op.member_id, won.into_iter().collect()).await?;
        let identifier = op.new.identifiers.iter().nth(position).expect("positions come from this list");
        Ok(Err(taken(tx, identifier, row).await?))
    }

    async fn write(
        &self,
        tx: &mut Tx<'_>,
        op: &Register,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<Member, WriteError> {
        let row = store::insert_member(tx, &self.secrets, now, op.member_id, &op.new).await?;
        let store_id = op.new.home_store.as_ref().map(|store| Arc::clone(&store.store_id));
        let registration =
            log::Registration { log_id: op.event_id, member_id: op.member_id, source: op.new.source, actor: &op.actor };
        log::store::insert_registration(tx, now, &registration).await?;
        let body = json!({ "source": op.new.source, "store_id": store_id });
        let registered =
            NewEvent { event_id: op.event_id, kind: EventKind::MemberRegistered, subject: op.member_id.get(), body };
        event::store::insert(tx, now, &[registered]).await?;
        // Read back from what was sealed: the answer cannot show what a later look-up would not.
        row.show(&self.secrets, store_id).map_err(WriteError::Inconsistent)
    }
}

/// The refusal for an identifier that somebody has.
pub(super) async fn taken(tx: &mut Tx<'_>, identifier: &Identifier, row: KeyRow) -> Result<Refusal, WriteError> {
    let Some(holder) = store::find_keys(tx, vec![row.key]).await?.remove(&row.key) else {
        return Err(WriteError::Again("an identifier that was taken is free now"));
    };
    Ok(Refusal::new(Code::MemberKeyTaken)
        .detail(format!("{}: {} belongs to a member", identifier.kind(), identifier.mask()))
        .with("kind", identifier.kind().name())
        .with("mask", identifier.mask())
        .with("member_id", holder.to_string()))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        chain::system::Systems,
        member::{Given, Identifiers, key::Region},
        request,
        secret::SecretFile,
    };

    fn secrets(seed: u64) -> Secrets {
        let mut rng = StdRng::seed_from_u64(seed);
        Secrets::new(&SecretFile::generate(&mut rng), rng)
    }

    fn new_member(phone: &str) -> NewMember {
        NewMember {
            identifiers: Identifiers::parse(
                Region::CHINA,
                &Systems::default(),
                Given { phone: Some(phone), ..Given::default() },
            )
            .unwrap(),
            name: Some("Lin".into()),
            nickname: None,
            gender: Gender::Unknown,
            birthday: None,
            source: Source::Unknown,
            home_store: None,
            about: About::default(),
        }
    }

    #[test]
    fn a_digest_is_the_same_for_the_same_meaning_and_key_only() {
        let new = new_member("13800000001");
        let first = digest(&secrets(1), &new);
        assert_eq!(digest(&secrets(1), &new_member("+86 138 0000 0001")), first);
        assert_ne!(digest(&secrets(1), &new_member("13800000002")), first);
        assert_ne!(digest(&secrets(2), &new), first, "it must not be possible to try phone numbers without the key");
        assert_ne!(request::digest(&vec![(1, "+8613800000001")]), first);
    }

    #[test]
    fn debug_shows_nothing_personal() {
        let shown = format!("{:?}", new_member("13800000001"));
        assert!(!shown.contains("13800000001") && !shown.contains("Lin"), "{shown}");
    }
}

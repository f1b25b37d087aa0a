//! The guided turns: from a new key to the end of the old one, of one kind of key or of both.
//!
//! A turn that has its new key is noted in `key_walk`, and so is, of a turn of both kinds, that the first has ended.
//! Whoever is killed and asked again so ends what was begun. Without the notes a turn killed after its old key has
//! gone, or one of both kinds killed in its second, would look like none, and all rows would be written once more.

use rand::CryptoRng;
use sqlx::PgConnection;

use super::{
    KeyKind, RotateError, Run,
    progress::{self, Walk},
};
use crate::db::tx::{self, Mode};

/// The new key of a turn that has not ended, in the place of a leaf.
const fn turn_step(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Pii => "turn pii",
        KeyKind::Blind => "turn blind",
    }
}

/// The kinds that have ended of a turn of both.
const BOTH_STEP: &str = "turn both";
const FIRST: &str = "pii";

impl Run<'_> {
    /// The whole turn of one kind; takes up one that was begun.
    ///
    /// # Errors
    /// [`RotateError`]; ask again.
    pub async fn turn(&mut self, kind: KeyKind, rng: &mut impl CryptoRng) -> Result<(), RotateError> {
        self.alone().await?;
        self.turn_of(kind, rng).await?;
        // Also when somebody began both and then asked for this one alone: the second was all that was left of both.
        let ends_both = kind == KeyKind::Blind;
        self.note_end(kind, None, ends_both).await
    }

    /// The whole turn of both kinds, one after the other; takes up one that was begun.
    ///
    /// # Errors
    /// [`RotateError`]; ask again.
    pub async fn turn_both(&mut self, rng: &mut impl CryptoRng) -> Result<(), RotateError> {
        self.alone().await?;
        if progress::list(&mut self.conn, BOTH_STEP).await?.contains_key(FIRST) {
            self.tell("personal data were written again before this was stopped; going on with the identifiers");
        } else {
            self.turn_of(KeyKind::Pii, rng).await?;
            self.note_end(KeyKind::Pii, Some(FIRST), false).await?;
        }
        self.turn_of(KeyKind::Blind, rng).await?;
        self.note_end(KeyKind::Blind, None, true).await
    }

    async fn turn_of(&mut self, kind: KeyKind, rng: &mut impl CryptoRng) -> Result<(), RotateError> {
        match kind {
            KeyKind::Pii => self.turn_pii(rng).await,
            KeyKind::Blind => self.turn_blind(rng).await,
        }
    }

    async fn turn_pii(&mut self, rng: &mut impl CryptoRng) -> Result<(), RotateError> {
        let holding = self.secrets.holding();
        let is_single = holding.pii == [holding.pii_current];
        if is_single && self.noted(KeyKind::Pii).await? != Some(holding.pii_current.into()) {
            self.add(KeyKind::Pii, rng).await?;
        }
        let newest = *self.secrets.holding().pii.last().expect("a file has a key");
        self.note(KeyKind::Pii, newest.into()).await?;
        if self.secrets.holding().pii_current != newest {
            self.followed(&format!("has personal-data key {newest}"), |node| node.pii.contains(&newest)).await?;
            self.make_current(KeyKind::Pii, newest.into()).await?;
        }
        if self.secrets.holding().pii != [newest] {
            self.rewrite_pii().await?;
        }
        for old in self.secrets.holding().pii.into_iter().filter(|id| *id != newest) {
            self.end_key(KeyKind::Pii, old.into()).await?;
        }
        self.followed("has given up the old personal-data key", |node| node.pii == [newest]).await
    }

    async fn turn_blind(&mut self, rng: &mut impl CryptoRng) -> Result<(), RotateError> {
        let current = self.secrets.holding().blind_current;
        // A drop that was killed was the last of a turn.
        let ended = self.end_blinds().await?;
        let joining = match self.secrets.holding().other_blind() {
            Some(other) if other < current => None,
            Some(other) => Some(other),
            None if ended || self.noted(KeyKind::Blind).await? == Some(current) => None,
            None => Some(self.add(KeyKind::Blind, rng).await?),
        };
        self.note(KeyKind::Blind, joining.unwrap_or(current)).await?;
        if let Some(new) = joining {
            self.join(new).await?;
            self.make_current(KeyKind::Blind, new).await?;
        }
        if let Some(old) = self.secrets.holding().other_blind() {
            self.retire(old).await?;
            self.end_key(KeyKind::Blind, old).await?;
        }
        let current = self.secrets.holding().blind_current;
        self.followed("has given up the old identifier key", |node| node.blind == [current]).await
    }

    /// The new key of a turn of this kind that has not ended.
    async fn noted(&mut self, kind: KeyKind) -> Result<Option<i16>, RotateError> {
        let notes = progress::list(&mut self.conn, turn_step(kind)).await?;
        Ok(notes.keys().filter_map(|key| key.parse().ok()).max())
    }

    async fn note(&mut self, kind: KeyKind, key: i16) -> Result<(), RotateError> {
        let note = Walk { leaf: key.to_string(), ..Walk::default() };
        Ok(progress::save(&mut self.conn, self.clock.now(), turn_step(kind), &note).await?)
    }

    /// Forgets the turn of a kind, and in the same transaction notes or forgets what is left of a turn of both.
    pub(super) async fn note_end(
        &mut self,
        kind: KeyKind,
        ended: Option<&'static str>,
        ends_both: bool,
    ) -> Result<(), RotateError> {
        let now = self.clock.now();
        tx::run_on(&mut self.conn, "keys_turn", Mode::ReadCommitted, async move |conn: &mut PgConnection| {
            progress::forget(conn, turn_step(kind)).await?;
            if let Some(ended) = ended {
                let note = Walk { leaf: ended.to_owned(), done: true, ..Walk::default() };
                progress::save(conn, now, BOTH_STEP, &note).await?;
            }
            if ends_both {
                progress::forget(conn, BOTH_STEP).await?;
            }
            Ok::<_, RotateError>(())
        })
        .await
    }
}

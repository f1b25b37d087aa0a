//! The steps of a rotation, each safe to ask again. `turn` goes through all of them.

use rand::CryptoRng;

use super::{RotateError, Run, Uses, Versions, blind, pieces, pii};
use crate::{
    clock::Zone,
    id::Day,
    secret::{Holding, SecretFile, SecretFileError, Source, columns::PIECES},
};

/// Which kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyKind {
    /// Encrypts personal data.
    Pii,
    /// Makes the index of identifiers.
    Blind,
}

/// The days between today and the first day of a check key: today is another day elsewhere, and nodes follow meanwhile.
const CHECK_DAYS_AHEAD: i64 = 2;

impl Run<'_> {
    /// Adds a key that is not used yet. Gives its number.
    ///
    /// # Errors
    /// [`RotateError`].
    pub async fn add(&mut self, kind: KeyKind, rng: &mut impl CryptoRng) -> Result<i16, RotateError> {
        self.alone().await?;
        let number = match kind {
            KeyKind::Pii => self.edit("add a [[pii]] key", |file| Ok(i16::from(file.add_pii(rng)?)))?,
            KeyKind::Blind => self.edit("add a [[blind]] key with idle = true", |file| file.add_blind(rng))?,
        };
        self.tell(&format!("{} {number} is added; every node gets it within a second or so", noun(kind)));
        Ok(number)
    }

    /// Adds a key for the codes of coupons that are issued from a day on.
    ///
    /// # Errors
    /// [`RotateError::Secrets`] for a day that is too near, or not after that of the last check key.
    pub async fn add_check(&mut self, from: Day, zone: Zone, rng: &mut impl CryptoRng) -> Result<(), RotateError> {
        self.alone().await?;
        let today = zone.day_of(self.clock.now()).to_date();
        let safe = today.checked_add_signed(chrono::TimeDelta::days(CHECK_DAYS_AHEAD - 1)).map(Day::from_date);
        let safe = safe.ok_or(SecretFileError::Refused("the calendar ends"))?;
        self.edit("add a [[check]] key", |file| file.add_check(from, safe, rng))?;
        self.followed("has the new check key", |node| node.check_from == from).await?;
        self.tell(&format!("codes of coupons that are issued from {from} on have a check key of their own"));
        Ok(())
    }

    /// Makes a key the current one. Every node must be ready for it.
    ///
    /// # Errors
    /// [`RotateError::Refused`] names the nodes that are not.
    pub async fn make_current(&mut self, kind: KeyKind, number: i16) -> Result<(), RotateError> {
        self.alone().await?;
        match kind {
            KeyKind::Pii => {
                let id = small(number)?;
                self.demand(&format!("has personal-data key {id}"), |node| node.pii.contains(&id)).await?;
                self.edit(&format!("set pii_current = {id}"), |file| file.set_pii_current(id))?;
            }
            KeyKind::Blind => {
                let what = format!("writes version {number}");
                self.demand(&what, |node| node.blind_written.contains(&number)).await?;
                if self.secrets.holding().blind_current != number && !blind::is_filled(&mut self.conn, number).await? {
                    let why =
                        format!("not every identifier has a row of version {number}; run `tessera keys rotate blind`");
                    return Err(RotateError::Refused(why));
                }
                self.edit(&format!("set blind_current = {number}"), |file| file.set_blind_current(number))?;
            }
        }
        self.tell(&format!("{} {number} is in use; `tessera keys rotate` does the rest", noun(kind)));
        Ok(())
    }

    /// Does what is to be done to rows at the step that the keys are at.
    ///
    /// # Errors
    /// [`RotateError`].
    pub async fn rewrite(&mut self, kind: KeyKind) -> Result<(), RotateError> {
        self.alone().await?;
        let holding = self.secrets.holding();
        match (kind, holding.other_blind()) {
            (KeyKind::Pii, _) => self.rewrite_pii().await,
            (KeyKind::Blind, Some(other)) if other > holding.blind_current => self.join(other).await,
            (KeyKind::Blind, Some(other)) => self.retire(other).await,
            (KeyKind::Blind, None) => {
                self.end_blinds().await?;
                self.tell("there is one version of the identifier key, and every row has it");
                Ok(())
            }
        }
    }

    /// Deletes a key that nothing uses any more; does the rest for one that was deleted by a command that did not end.
    ///
    /// # Errors
    /// [`RotateError::Refused`] says what uses it.
    pub async fn drop_key(&mut self, kind: KeyKind, number: i16) -> Result<(), RotateError> {
        self.alone().await?;
        self.end_key(kind, number).await?;
        // Done by hand, it ends a turn that was begun.
        self.note_end(kind, None, kind == KeyKind::Blind).await
    }

    pub(super) async fn end_key(&mut self, kind: KeyKind, number: i16) -> Result<(), RotateError> {
        let holding = self.secrets.holding();
        let (is_there, current) = match kind {
            KeyKind::Pii => (holding.pii.iter().any(|id| i16::from(*id) == number), i16::from(holding.pii_current)),
            KeyKind::Blind => (holding.blind.contains(&number), holding.blind_current),
        };
        if !is_there && kind == KeyKind::Blind && blind::is_to_be_blanked(&mut self.conn, number).await? {
            return self.end_blind(number).await;
        }
        if !is_there {
            return Err(RotateError::Refused(format!("there is no {} {number}", noun(kind))));
        }
        if number == current {
            return Err(RotateError::Refused(format!("{} {number} is the current one", noun(kind))));
        }
        match kind {
            KeyKind::Pii => self.drop_pii(small(number)?).await,
            KeyKind::Blind => self.drop_blind(number).await,
        }
    }

    /// What uses each key.
    ///
    /// # Errors
    /// [`RotateError`].
    pub async fn count(&mut self) -> Result<(Uses, Versions), RotateError> {
        Ok((self.count_pii().await?, blind::count(self).await?))
    }

    async fn count_pii(&mut self) -> Result<Uses, RotateError> {
        let mut uses = pii::count(self).await?;
        uses.insert(PIECES.0, pieces::count(&mut self.conn).await?);
        Ok(uses)
    }

    pub(super) async fn rewrite_pii(&mut self) -> Result<(), RotateError> {
        let current = self.secrets.holding().pii_current;
        self.followed(&format!("writes with personal-data key {current}"), |node| node.pii_current == current).await?;
        let rows = pii::rewrite(self).await? + pieces::rewrite(self).await?;
        self.tell(&format!("{rows} rows were written again with personal-data key {current}"));
        Ok(())
    }

    /// From idle to complete.
    pub(super) async fn join(&mut self, new: i16) -> Result<(), RotateError> {
        self.followed(&format!("has identifier key {new}"), |node| node.blind.contains(&new)).await?;
        self.edit(&format!("delete idle = true from blind key {new}"), |file| file.set_blind_idle(new, false))?;
        self.followed(&format!("writes version {new}"), |node| node.blind_written.contains(&new)).await?;
        let rows = blind::fill(self, new).await?;
        self.tell(&format!("{rows} rows of version {new} were made; it can be used now"));
        Ok(())
    }

    /// From written beside the new one to no rows at all.
    pub(super) async fn retire(&mut self, old: i16) -> Result<(), RotateError> {
        let current = self.secrets.holding().blind_current;
        self.followed(&format!("looks up by version {current}"), |node| node.blind_current == current).await?;
        // A file that was changed by hand may be ahead of the rows.
        if !blind::is_filled(&mut self.conn, current).await? {
            blind::fill(self, current).await?;
        }
        let logins = blind::rekey_auths(self).await?;
        self.edit(&format!("set idle = true on blind key {old}"), |file| file.set_blind_idle(old, true))?;
        self.followed(&format!("has stopped writing version {old}"), |node| !node.blind_written.contains(&old)).await?;
        let rows = blind::delete(self, old).await?;
        self.tell(&format!("{logins} logins were written again, {rows} rows of version {old} deleted"));
        Ok(())
    }

    async fn drop_pii(&mut self, id: u8) -> Result<(), RotateError> {
        self.followed(&format!("has stopped writing with personal-data key {id}"), |node| node.pii_current != id)
            .await?;
        let uses = self.count_pii().await?;
        let using: Vec<String> =
            uses.iter().filter_map(|(table, keys)| Some(format!("{} rows of {table}", keys.get(&id)?))).collect();
        if !using.is_empty() {
            let what = using.join(" and ");
            return Err(RotateError::Refused(format!("{what} still use it: run `tessera keys rotate pii`")));
        }
        self.edit(&format!("delete pii key {id}"), |file| file.drop_pii(id))?;
        pii::forget(&mut self.conn, self.secrets.holding().pii_current).await?;
        self.tell(&format!("{} {id} is deleted", noun(KeyKind::Pii)));
        Ok(())
    }

    async fn drop_blind(&mut self, version: i16) -> Result<(), RotateError> {
        let what = format!("has stopped writing version {version}");
        self.demand(&what, |node| !node.blind_written.contains(&version)).await?;
        self.followed(&what, |node| !node.blind_written.contains(&version)).await?;
        let (keys, logins) = blind::count(self).await?;
        if let (Some(rows), _) | (None, Some(rows)) = (keys.get(&version), logins.get(&version)) {
            let why = format!("{rows} rows still have version {version}: run `tessera keys rotate blind`");
            return Err(RotateError::Refused(why));
        }
        blind::plan_to_blank(self, version).await?;
        self.edit(&format!("delete blind key {version}"), |file| file.drop_blind(version))?;
        self.end_blind(version).await
    }

    /// What follows when a version has gone from the file.
    async fn end_blind(&mut self, version: i16) -> Result<(), RotateError> {
        for version in [version, self.secrets.holding().blind_current] {
            blind::forget(&mut self.conn, version).await?;
        }
        // Events name keys of every version that is known.
        self.followed(&format!("has given up version {version}"), |node| !node.blind.contains(&version)).await?;
        blind::blank_events(self).await?;
        blind::has_blanked(&mut self.conn).await?;
        self.tell(&format!("{} {version} is deleted", noun(KeyKind::Blind)));
        Ok(())
    }

    /// Does what a drop that was killed left to do. Gives whether there was anything.
    pub(super) async fn end_blinds(&mut self) -> Result<bool, RotateError> {
        let gone = blind::to_be_blanked(&mut self.conn).await?;
        let mut ended = false;
        for version in gone {
            if !self.secrets.holding().blind.contains(&version) {
                self.end_blind(version).await?;
                ended = true;
            }
        }
        Ok(ended)
    }

    /// Changes the file and goes on with what stands in it. `by_hand` says how, for whoever must do it elsewhere.
    fn edit<T>(
        &mut self,
        by_hand: &str,
        change: impl FnOnce(&mut SecretFile) -> Result<T, SecretFileError>,
    ) -> Result<T, RotateError> {
        let path = match self.secrets.source() {
            Some(Source::File(path)) => path.clone(),
            Some(Source::Command(_)) | None => return self.edited_elsewhere(by_hand, change),
        };
        let (_, made) = SecretFile::edit(&path, change)?;
        self.secrets.refresh()?;
        Ok(made)
    }

    /// What comes from a command can't be written from here. What stands there already needs no writing.
    fn edited_elsewhere<T>(
        &mut self,
        by_hand: &str,
        change: impl FnOnce(&mut SecretFile) -> Result<T, SecretFileError>,
    ) -> Result<T, RotateError> {
        let mut file = match self.secrets.source() {
            Some(source) => source.load()?,
            None => return Err(RotateError::Refused("nobody said where the secrets come from".to_owned())),
        };
        let before = file.clone();
        let made = change(&mut file)?;
        if file == before {
            return Ok(made);
        }
        Err(RotateError::Refused(format!(
            "the secrets come from a command, so they cannot be changed from here: {by_hand} where that command takes \
             them from, then ask again (nodes follow within 30 seconds)"
        )))
    }
}

impl Holding {
    /// The version beside the current one.
    pub(super) fn other_blind(&self) -> Option<i16> {
        self.blind.iter().copied().find(|version| *version != self.blind_current)
    }
}

fn noun(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Pii => "personal-data key",
        KeyKind::Blind => "identifier key",
    }
}

fn small(number: i16) -> Result<u8, RotateError> {
    u8::try_from(number).map_err(|_| RotateError::Refused(format!("there is no personal-data key {number}")))
}

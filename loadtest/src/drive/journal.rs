//! The journal of a run: what was acknowledged, and what was sent and never answered. The checker holds the database
//! against it.
//!
//! A text file, a line an entry, fields by tab: `=` was acknowledged, `?` has an unknown outcome. Codes of coupons stand in
//! it, so it is for its owner only.

use std::{
    fs::{File, Permissions, TryLockError},
    io::{BufRead, BufReader, Lines, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

use anyhow::{Context, bail};

use super::op::Op;

/// First line of a journal.
const HEAD: &str = "# tessera load journal 1";
/// A piece is handed to the writing thread when it is so long.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that may wait for the disk: then the generator waits, and its lateness shows it.
const PIECES_MAX: usize = 256;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A job of the run that ended, with its rule and the coupons that it says it made.
    Job { job_id: i64, rule_id: i64, coupons: i64 },
    /// A coupon of a job.
    JobCoupon { job_id: i64, code: String },
    /// A write.
    Write(Sent),
}

/// A write that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub op: Op,
    /// None when its outcome is unknown.
    pub done: Option<Done>,
    /// Id of the API key, the scope of the number.
    pub key_id: String,
    /// The request's number, as `GET /v1/requests/{operation}/{number}` takes it.
    pub number: String,
    /// The coupon, or the rule of claim and issue; nothing for a new member.
    pub subject: String,
    /// The sale of lock, release, redeem and reverse; the holder of claim and issue.
    pub about: String,
    /// Payable amount of redeem; 0 elsewhere.
    pub amount: i64,
}

/// What an answer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub status: u16,
    /// Redemption or reversal, member, or coupons by comma.
    pub result: String,
    /// Given by redeem, taken back by reverse; 0 elsewhere.
    pub discount: i64,
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        let written = match self {
            Self::Job { job_id, rule_id, coupons } => writeln!(out, "job\t{job_id}\t{rule_id}\t{coupons}"),
            Self::JobCoupon { job_id, code } => writeln!(out, "coupon\t{job_id}\t{code}"),
            Self::Write(write) => {
                let Sent { op, done, key_id, number, subject, about, amount } = write;
                let (sign, status, result, discount) = match done {
                    Some(done) => ('=', done.status, done.result.as_str(), done.discount),
                    None => ('?', 0, "", 0),
                };
                let op = op.name();
                writeln!(
                    out,
                    "{sign}\t{op}\t{key_id}\t{number}\t{subject}\t{about}\t{amount}\t{status}\t{result}\t{discount}"
                )
            }
        };
        debug_assert!(written.is_ok(), "writing to memory does not fail");
    }

    fn read(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let entry = match fields[..] {
            ["job", job_id, rule_id, coupons] => Self::Job {
                job_id: job_id.parse().ok()?,
                rule_id: rule_id.parse().ok()?,
                coupons: coupons.parse().ok()?,
            },
            ["coupon", job_id, code] => Self::JobCoupon { job_id: job_id.parse().ok()?, code: code.to_owned() },
            [sign @ ("=" | "?"), op, key_id, number, subject, about, amount, status, result, discount] => {
                let done =
                    Done { status: status.parse().ok()?, result: result.to_owned(), discount: discount.parse().ok()? };
                Self::Write(Sent {
                    op: Op::parse(op)?,
                    done: (sign == "=").then_some(done),
                    key_id: key_id.to_owned(),
                    number: number.to_owned(),
                    subject: subject.to_owned(),
                    about: about.to_owned(),
                    amount: amount.parse().ok()?,
                })
            }
            _ => return None,
        };
        Some(entry)
    }
}

/// Writes a journal from several threads.
pub struct Journal {
    pieces: SyncSender<Vec<u8>>,
    writing: JoinHandle<std::io::Result<()>>,
    pub path: PathBuf,
}

impl Journal {
    /// The file is this process's until it is closed.
    ///
    /// # Errors
    /// When the file cannot be made, or another run writes it.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let mut options = std::fs::OpenOptions::new();
        // Not truncated before it is ours: what another run has written of itself would be gone.
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(path);
        let cannot = || format!("the journal {} cannot be written", path.display());
        let mut file: File = file.with_context(cannot)?;
        match file.try_lock() {
            Ok(()) => file.set_len(0).with_context(cannot)?,
            Err(TryLockError::WouldBlock) => {
                bail!("another run writes the journal {}: give this one a result of its own with --out", path.display())
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        // One that was there before may have been anybody's to read.
        file.set_permissions(Permissions::from_mode(0o600)).with_context(cannot)?;
        let (pieces, waiting) = sync_channel::<Vec<u8>>(PIECES_MAX);
        let writing = std::thread::spawn(move || {
            writeln!(file, "{HEAD}")?;
            for piece in waiting {
                file.write_all(&piece)?;
            }
            file.flush()
        });
        Ok(Self { pieces, writing, path: path.to_owned() })
    }

    pub fn pen(&self) -> Pen {
        Pen { piece: Vec::with_capacity(PIECE_BYTES + 4096), pieces: self.pieces.clone() }
    }

    /// Waits until everything is written; all pens must have been dropped.
    ///
    /// # Errors
    /// When the disk would not take it: then the run cannot be checked.
    pub fn close(self) -> anyhow::Result<()> {
        drop(self.pieces);
        let written = self.writing.join().unwrap_or_else(|_| Err(std::io::Error::other("the writing thread panicked")));
        written.with_context(|| {
            format!("the journal {} could not be written: the run cannot be checked", self.path.display())
        })
    }
}

/// A thread's own end of the journal.
pub struct Pen {
    piece: Vec<u8>,
    pieces: SyncSender<Vec<u8>>,
}

impl Pen {
    pub fn write(&mut self, entry: &Entry) {
        entry.write(&mut self.piece);
        if self.piece.len() >= PIECE_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.piece.is_empty() {
            // A thread that has given up says why when the journal is closed.
            let _ = self.pieces.send(std::mem::take(&mut self.piece));
        }
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A journal, entry by entry: it may be longer than memory.
pub struct Reader {
    lines: Lines<BufReader<File>>,
    path: PathBuf,
    /// Lines read.
    no: usize,
}

impl Reader {
    /// # Errors
    /// When the file is no journal.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("the journal {} cannot be read", path.display()))?;
        let mut lines = BufReader::new(file).lines();
        match lines.next().transpose()? {
            Some(line) if line == HEAD => Ok(Self { lines, path: path.to_owned(), no: 1 }),
            _ => bail!("{} is no journal of a load test", path.display()),
        }
    }
}

impl Iterator for Reader {
    type Item = anyhow::Result<Entry>;

    /// Names the line that is no entry.
    fn next(&mut self) -> Option<Self::Item> {
        let line = self.lines.next()?;
        self.no += 1;
        let read = line.map_err(anyhow::Error::from).and_then(|line| {
            Entry::read(&line)
                .with_context(|| format!("line {} of the journal {} cannot be read", self.no, self.path.display()))
        });
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let write = |done| {
            Entry::Write(Sent {
                op: Op::Redeem,
                done,
                key_id: "abc".into(),
                number: "till:L0001:1:2026-11-22:7".into(),
                subject: "7K3M-0000-0000-0000".into(),
                about: "order-1".into(),
                amount: 8000,
            })
        };
        let entries = [
            Entry::Job { job_id: 5, rule_id: 6, coupons: 1 },
            Entry::JobCoupon { job_id: 5, code: "7K3M-0000-0000-0000".into() },
            write(Some(Done { status: 200, result: "77".into(), discount: 1000 })),
            write(None),
        ];
        std::fs::write(&path, "another run's").unwrap();
        let journal = Journal::create(&path).unwrap();
        let mut pen = journal.pen();
        entries.iter().for_each(|entry| pen.write(entry));
        drop(pen);
        journal.close().unwrap();
        let read: Vec<Entry> = Reader::open(&path).unwrap().collect::<anyhow::Result<_>>().unwrap();
        assert_eq!(read, entries);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_journal_that_is_being_written_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let first = Journal::create(&path).unwrap();
        let entry = Entry::Job { job_id: 5, rule_id: 6, coupons: 1 };
        first.pen().write(&entry);
        let second = Journal::create(&path).err().expect("the second is refused");
        assert!(second.to_string().contains("another run writes the journal"), "{second}");
        first.close().unwrap();
        let read: Vec<Entry> = Reader::open(&path).unwrap().collect::<anyhow::Result<_>>().unwrap();
        assert_eq!(read, [entry]);
        Journal::create(&path).unwrap().close().unwrap();
    }
}

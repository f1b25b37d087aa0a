//! The file of a job: pieces of it in `job_chunk`, read as rows of a CSV file from any checkpoint on.
//!
//! A line break within quotes belongs to its field, so that nobody who writes text into an older system can put a row
//! of his own into the file that comes out of it.
//!
//! What is in memory is one piece and the rows of a slice, however large the file is or any line of it: a line beyond
//! [`ROW_BYTES_MAX`] is passed over and named.

use std::sync::Arc;

use super::{Checkpoint, JobError, store};
use crate::{db::pool::Office, id::JobId, secret::Secrets};

/// Bytes of a piece; the last one has fewer.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of a row.
pub const ROW_BYTES_MAX: usize = 64 << 10;
/// Bytes of the rows of a slice, unless it is a single row.
const SLICE_BYTES_MAX: usize = 2 << 20;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Encrypts a piece. Its number goes in, so that pieces cannot change places.
pub fn seal(secrets: &Secrets, job_id: JobId, no: i32, piece: &[u8]) -> Vec<u8> {
    let mut numbered = Vec::with_capacity(piece.len() + 4);
    numbered.extend_from_slice(&no.to_be_bytes());
    numbered.extend_from_slice(piece);
    secrets.encrypt_bytes("job_chunk", "sealed", job_id.get(), &numbered)
}

fn open(secrets: &Secrets, job_id: JobId, no: i32, sealed: &[u8]) -> Result<Vec<u8>, JobError> {
    let opened = secrets.decrypt_bytes("job_chunk", "sealed", job_id.get(), sealed);
    let mut numbered = opened.map_err(|error| JobError::Damaged(Some(error)))?;
    if numbered.get(..4) != Some(&no.to_be_bytes()) {
        return Err(JobError::Damaged(None));
    }
    numbered.drain(..4);
    Ok(numbered)
}

/// A file under reading.
pub struct FileReader {
    office: Office,
    secrets: Arc<Secrets>,
    job_id: JobId,
    bytes: i64,
    piece: Option<(i32, Vec<u8>)>,
}

/// Rows as they stand in the file.
#[derive(Debug, Default)]
pub struct RawRows {
    text: Vec<u8>,
    rows: Vec<RawRow>,
    /// What follows the last of them.
    pub end: Checkpoint,
    /// Nothing follows.
    pub is_last: bool,
}

#[derive(Debug, Clone, Copy)]
struct RawRow {
    from: usize,
    to: usize,
    line: i64,
    too_long: bool,
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    pub ordinal: i64,
    pub line: i64,
    /// None: it was longer than [`ROW_BYTES_MAX`].
    pub text: Option<&'a [u8]>,
}

impl RawRows {
    pub fn iter(&self) -> impl Iterator<Item = Raw<'_>> {
        let first = self.end.rows - self.rows.len() as i64 + 1;
        self.rows.iter().zip(first..).map(|(row, ordinal)| Raw {
            ordinal,
            line: row.line,
            text: (!row.too_long).then(|| &self.text[row.from..row.to]),
        })
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl FileReader {
    pub fn new(office: Office, secrets: Arc<Secrets>, job_id: JobId, bytes: i64) -> Self {
        Self { office, secrets, job_id, bytes, piece: None }
    }

    /// Rows from a checkpoint on, at most `rows_max`. `skips_header` passes over the first row of the file.
    ///
    /// # Errors
    /// `Damaged` when a piece is missing, or the database's.
    pub async fn read(
        &mut self,
        from: Checkpoint,
        rows_max: usize,
        delimiter: u8,
        skips_header: bool,
    ) -> Result<RawRows, JobError> {
        let rows = RawRows { end: from, ..RawRows::default() };
        let mut lines = Lines { rows, rows_max, delimiter, ..Lines::default() };
        lines.skips = skips_header && from.bytes == 0;
        let mut at = from.bytes;
        while at < self.bytes {
            let no = at / CHUNK_BYTES as i64;
            let piece = self.piece(no as i32).await?;
            let mut begin = (at - no * CHUNK_BYTES as i64) as usize;
            if at == 0 && piece.starts_with(BOM) {
                begin = BOM.len();
            }
            let used = lines.feed(&piece[begin..], at + (begin as i64 - at % CHUNK_BYTES as i64));
            match used {
                Some(()) => return Ok(lines.rows),
                None => at = (no + 1) * CHUNK_BYTES as i64,
            }
        }
        lines.end(self.bytes);
        Ok(lines.rows)
    }

    async fn piece(&mut self, no: i32) -> Result<&[u8], JobError> {
        if self.piece.as_ref().is_none_or(|(held, _)| *held != no) {
            let sealed = {
                let mut conn = self.office.get().await?;
                store::find_chunk(&mut conn, self.job_id, no).await?
            };
            let sealed = sealed.ok_or(JobError::Damaged(None))?;
            let opened = open(&self.secrets, self.job_id, no, &sealed)?;
            let expected = (self.bytes - i64::from(no) * CHUNK_BYTES as i64).min(CHUNK_BYTES as i64);
            if opened.len() as i64 != expected {
                return Err(JobError::Damaged(None));
            }
            self.piece = Some((no, opened));
        }
        Ok(&self.piece.as_ref().expect("it was read above").1)
    }
}

/// Where a byte of a row stands. A quote opens a field only at its begin, as in RFC 4180.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    FieldBegin,
    Plain,
    Quoted,
    /// After a quote in a quoted field: its end, or the first of two.
    AfterQuote,
}

/// Puts rows together from pieces.
#[derive(Default)]
struct Lines {
    rows: RawRows,
    rows_max: usize,
    delimiter: u8,
    /// The first row is still to be passed over.
    skips: bool,
    place: Place,
    /// Where in the text the row under way begins.
    begin: usize,
    /// Of the row under way, also those that were dropped.
    line_bytes: usize,
    /// Line breaks within quotes of the row under way.
    inner: i64,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
}

impl Lines {
    /// Takes bytes that begin at `offset` of the file. Some when there are as many rows as were asked for.
    fn feed(&mut self, bytes: &[u8], offset: i64) -> Option<()> {
        let mut at = 0;
        while at < bytes.len() {
            if self.line_bytes == 0 && std::mem::take(&mut self.after_cr) && bytes[at] == b'\n' {
                at += 1;
                self.rows.end.bytes = offset + at as i64;
                continue;
            }
            if self.is_full() {
                return Some(());
            }
            let end = self.row_end(&bytes[at..]);
            let text = &bytes[at..at + end.unwrap_or(bytes.len() - at)];
            self.line_bytes += text.len();
            if self.line_bytes <= ROW_BYTES_MAX {
                self.rows.text.extend_from_slice(text);
            }
            at += text.len();
            if end.is_some() {
                self.after_cr = bytes[at] == b'\r';
                at += 1;
                self.end_line(offset + at as i64);
            }
        }
        None
    }

    /// Where the row under way ends: at the first line break that is not within quotes. A quote that is not closed
    /// within [`ROW_BYTES_MAX`] holds no longer than that.
    fn row_end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, &byte) in bytes.iter().enumerate() {
            let is_break = matches!(byte, b'\n' | b'\r');
            if is_break && (self.place != Place::Quoted || self.line_bytes + at > ROW_BYTES_MAX) {
                self.place = Place::FieldBegin;
                return Some(at);
            }
            if is_break && !(byte == b'\n' && std::mem::take(&mut self.after_cr)) {
                self.inner += 1;
            }
            self.after_cr = byte == b'\r';
            self.place = match (self.place, byte) {
                (Place::FieldBegin, b'"') | (Place::AfterQuote, b'"') => Place::Quoted,
                (Place::Quoted, b'"') => Place::AfterQuote,
                (Place::Quoted, _) => Place::Quoted,
                (_, byte) if byte == self.delimiter => Place::FieldBegin,
                _ => Place::Plain,
            };
        }
        None
    }

    fn is_full(&self) -> bool {
        self.line_bytes == 0 && (self.rows.rows.len() >= self.rows_max || self.rows.text.len() >= SLICE_BYTES_MAX)
    }

    fn end_line(&mut self, after: i64) {
        let end = &mut self.rows.end;
        let line = end.lines + 1;
        end.lines = line + std::mem::take(&mut self.inner);
        end.bytes = after;
        let is_row = self.line_bytes > 0 && !std::mem::take(&mut self.skips);
        let too_long = self.line_bytes > ROW_BYTES_MAX;
        if is_row {
            end.rows += 1;
            if too_long {
                self.rows.text.truncate(self.begin);
            }
            let (from, to) = (self.begin, self.rows.text.len());
            self.rows.rows.push(RawRow { from, to, line, too_long });
        } else {
            self.rows.text.truncate(self.begin);
        }
        self.begin = self.rows.text.len();
        self.line_bytes = 0;
    }

    /// The file ends here.
    fn end(&mut self, bytes: i64) {
        if self.line_bytes > 0 {
            self.end_line(bytes);
        }
        self.rows.end.bytes = bytes;
        self.rows.is_last = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a file in slices of `rows_max`, in pieces of `piece` bytes.
    fn read(file: &[u8], piece: usize, rows_max: usize) -> Vec<(i64, i64, Option<String>)> {
        let (mut all, mut from) = (Vec::new(), Checkpoint::default());
        loop {
            let rows = RawRows { end: from, ..RawRows::default() };
            let mut lines = Lines { rows, rows_max, delimiter: b',', ..Lines::default() };
            lines.skips = from.bytes == 0;
            let mut at = from.bytes as usize;
            let mut full = false;
            while at < file.len() && !full {
                let end = ((at / piece + 1) * piece).min(file.len());
                full = lines.feed(&file[at..end], at as i64).is_some();
                at = end;
            }
            if !full {
                lines.end(file.len() as i64);
            }
            let text = |raw: Raw<'_>| raw.text.map(|text| String::from_utf8(text.to_vec()).unwrap());
            all.extend(lines.rows.iter().map(|raw| (raw.ordinal, raw.line, text(raw))));
            if lines.rows.is_last {
                return all;
            }
            assert!(lines.rows.end.bytes > from.bytes, "it goes on");
            from = lines.rows.end;
        }
    }

    #[test]
    fn rows_are_the_same_however_the_file_is_cut() {
        let file = b"h1,h2\r\na,1\r\n\r\nb,2\n\n\nc,3\rd,4\r\r\ne,5";
        let row = |ordinal, line, text: &str| (ordinal, line, Some(text.to_owned()));
        let expected = vec![row(1, 2, "a,1"), row(2, 4, "b,2"), row(3, 7, "c,3"), row(4, 8, "d,4"), row(5, 10, "e,5")];
        for piece in 1..file.len() + 1 {
            for rows_max in 1..7 {
                assert_eq!(read(file, piece, rows_max), expected, "pieces of {piece}, slices of {rows_max}");
            }
        }
    }

    #[test]
    fn a_line_break_within_quotes_ends_no_row() {
        let file = b"h1,h2\na,\"one\ntwo,\"\"2\"\"\r\n3\"\nb,x\"y\nc,\"\"\n\"never\nclosed,d\n";
        let row = |ordinal, line, text: &str| (ordinal, line, Some(text.to_owned()));
        let expected = vec![
            row(1, 2, "a,\"one\ntwo,\"\"2\"\"\r\n3\""),
            row(2, 5, "b,x\"y"),
            row(3, 6, "c,\"\""),
            row(4, 7, "\"never\nclosed,d\n"),
        ];
        for piece in 1..file.len() + 1 {
            for rows_max in 1..6 {
                assert_eq!(read(file, piece, rows_max), expected, "pieces of {piece}, slices of {rows_max}");
            }
        }
        let long = format!("h\n\"{}\nb,1\n", "x".repeat(ROW_BYTES_MAX));
        let rows = read(long.as_bytes(), 1000, 2);
        assert_eq!(rows, [(1, 2, None), row(2, 3, "b,1")], "a quote holds no longer than the longest row");
    }

    #[test]
    fn a_line_without_an_end_is_named_and_not_kept() {
        let long = "x".repeat(ROW_BYTES_MAX + 1);
        let file = format!("h\n{long}\nb\n{}\n{long}", &long[1..]);
        for piece in [1000, ROW_BYTES_MAX, 1 << 20] {
            let rows = read(file.as_bytes(), piece, 2);
            let kept: Vec<_> = rows.iter().map(|(_, line, text)| (*line, text.as_ref().map(String::len))).collect();
            assert_eq!(kept, [(2, None), (3, Some(1)), (4, Some(ROW_BYTES_MAX)), (5, None)]);
        }
    }

    #[test]
    fn a_piece_opens_in_its_place_only() {
        use rand::{SeedableRng, rngs::StdRng};
        let mut rng = StdRng::seed_from_u64(1);
        let secrets = Secrets::new(&crate::secret::SecretFile::generate(&mut rng), rng);
        let job = |id| JobId::new(id).unwrap();
        let sealed = seal(&secrets, job(7), 3, b"\xff phone");
        assert_eq!(open(&secrets, job(7), 3, &sealed).unwrap(), b"\xff phone");
        assert!(open(&secrets, job(7), 2, &sealed).is_err());
        assert!(open(&secrets, job(8), 3, &sealed).is_err());
    }
}

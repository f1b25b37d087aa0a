//! CSV files of the office, read as people send them: with or without a byte order mark, LF or CRLF, cells quoted or not.
//!
//! What is wrong with the file as a whole (no header, a column missing, unknown or twice, not UTF-8 at all) is one
//! refusal, `malformed_csv`. What is wrong with a row is named with line, column and code, and the other rows are read.
//! Spaces around a cell do not count. Nothing here knows what the columns mean.

use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::{Code, Refusal};

/// Rows of one file: every store of the largest chain, and some.
pub const ROWS_MAX: usize = 20_000;

/// A cell, or a row, that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RowFailure {
    /// Where the row begins in the file, from 1.
    pub line: u64,
    /// Null when no single cell is to blame.
    #[schema(required)]
    pub column: Option<&'static str>,
    /// As the code of a problem.
    #[schema(value_type = String, example = "invalid_field")]
    pub code: Code,
    pub detail: String,
}

/// A column that a file may have.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    pub required: bool,
}

/// What a file holds: the columns of its header, its rows, and what could not be read of them.
#[derive(Debug)]
pub struct Table {
    pub columns: Vec<&'static str>,
    pub rows: Vec<Row>,
    pub failures: Vec<RowFailure>,
    /// Rows in all, those that could not be read included.
    pub count: usize,
}

/// One row, of as many cells as there are columns.
#[derive(Debug)]
pub struct Row {
    pub line: u64,
    cells: Vec<String>,
}

impl Table {
    /// Reads a file.
    ///
    /// # Errors
    /// `malformed_csv` for what is wrong with the whole of it; `body_too_large` beyond [`ROWS_MAX`] rows.
    pub fn read(bytes: &[u8], known: &[Column]) -> Result<Self, Refusal> {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
            return Err(malformed("the file is UTF-16; save it as UTF-8"));
        }
        let mut records = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
        let mut record = csv::ByteRecord::new();
        if !next(&mut records, &mut record)? {
            return Err(malformed("the file is empty; its first line names the columns"));
        }
        let columns = header(&record, known)?;
        let mut table = Self { columns, rows: Vec::new(), failures: Vec::new(), count: 0 };
        let mut last = (0, 0);
        while next(&mut records, &mut record)? {
            if table.count == ROWS_MAX {
                return Err(Refusal::new(Code::BodyTooLarge)
                    .detail(format!("at most {ROWS_MAX} rows; send the rest in another file"))
                    .with("rows_max", ROWS_MAX));
            }
            table.count += 1;
            last = begin_of(text, &record);
            table.take(last.1, &record);
        }
        // A quote that is never closed takes everything to the end of the file for one cell.
        let (from, line) = last;
        if table.count > 0 && text[from..].iter().filter(|byte| **byte == b'"').count() % 2 == 1 {
            table.rows.retain(|row| row.line < line);
            table.failures.retain(|failure| failure.line < line);
            table.fail(line, None, Code::MalformedCsv, "a quote is not closed");
        }
        Ok(table)
    }

    fn take(&mut self, line: u64, record: &csv::ByteRecord) {
        if record.len() != self.columns.len() {
            let detail = format!("has {} cells where the header has {}", record.len(), self.columns.len());
            return self.fail(line, None, Code::MalformedCsv, &detail);
        }
        let mut cells = Vec::with_capacity(record.len());
        let before = self.failures.len();
        for (position, cell) in record.iter().enumerate() {
            match std::str::from_utf8(cell) {
                Ok(cell) => cells.push(cell.trim().to_owned()),
                Err(_) => self.fail(line, Some(self.columns[position]), Code::MalformedCsv, "is not UTF-8"),
            }
        }
        if self.failures.len() == before {
            self.rows.push(Row { line, cells });
        }
    }

    fn fail(&mut self, line: u64, column: Option<&'static str>, code: Code, detail: &str) {
        self.failures.push(RowFailure { line, column, code, detail: detail.to_owned() });
    }

    /// What a row has in a column; empty where the file has no such column.
    pub fn cell<'r>(&self, row: &'r Row, column: &str) -> &'r str {
        let position = self.columns.iter().position(|name| *name == column);
        position.map_or("", |position| row.cells[position].as_str())
    }
}

/// Reads the cells of one row, and notes each that cannot be.
pub struct Cells<'t> {
    table: &'t Table,
    row: &'t Row,
    pub failures: Vec<RowFailure>,
}

impl<'t> Cells<'t> {
    pub fn new(table: &'t Table, row: &'t Row) -> Self {
        Self { table, row, failures: Vec::new() }
    }

    /// The value of a cell; none for an empty one and for one that was noted as bad.
    pub fn read<T, E: std::fmt::Display>(
        &mut self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.table.cell(self.row, column);
        if text.is_empty() {
            return None;
        }
        parse(text).map_err(|bad| self.fail(column, bad.to_string())).ok()
    }

    /// As [`Self::read`], of a cell that must not be empty.
    pub fn need<T, E: std::fmt::Display>(
        &mut self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if self.table.cell(self.row, column).is_empty() {
            self.fail(column, "must not be empty".to_owned());
            return None;
        }
        self.read(column, parse)
    }

    /// One of the words that a column knows.
    pub fn word<T>(&mut self, column: &'static str, words: &str, known: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        self.read(column, |text| known(text).ok_or_else(|| format!("must be one of {words}")))
    }

    fn fail(&mut self, column: &'static str, detail: String) {
        let line = self.row.line;
        self.failures.push(RowFailure { line, column: Some(column), code: Code::InvalidField, detail });
    }
}

fn next(records: &mut csv::Reader<&[u8]>, record: &mut csv::ByteRecord) -> Result<bool, Refusal> {
    // Reading from memory, of rows of any length and any bytes: what is left to fail is not the sender's to know.
    records.read_byte_record(record).map_err(|error| malformed(&error.to_string()))
}

/// Where a record begins, byte and line; its position is that of the empty lines before it.
fn begin_of(text: &[u8], record: &csv::ByteRecord) -> (usize, u64) {
    let (byte, line) = record.position().map_or((0, 1), |at| (at.byte(), at.line()));
    let from = usize::try_from(byte).unwrap_or(usize::MAX).min(text.len());
    let empty = text[from..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let lines = text[from..from + empty].iter().filter(|byte| **byte == b'\n').count();
    (from + empty, line + lines as u64)
}

fn header(record: &csv::ByteRecord, known: &[Column]) -> Result<Vec<&'static str>, Refusal> {
    let names = || known.iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
    let mut columns = Vec::with_capacity(record.len());
    for (position, cell) in record.iter().enumerate() {
        let name = std::str::from_utf8(cell).unwrap_or("").trim();
        let Some(column) = known.iter().find(|column| column.name == name) else {
            let hint = if name.contains([';', '\t']) { "; columns are separated by commas" } else { "" };
            return Err(malformed(&format!("column {} is none of {}{hint}", position + 1, names()))
                .with("position", position + 1));
        };
        if columns.contains(&column.name) {
            return Err(malformed(&format!("column {name} stands twice in the header")).with("column", name));
        }
        columns.push(column.name);
    }
    match known.iter().find(|column| column.required && !columns.contains(&column.name)) {
        Some(missing) => Err(malformed(&format!("column {} is missing", missing.name)).with("column", missing.name)),
        None => Ok(columns),
    }
}

fn malformed(detail: &str) -> Refusal {
    Refusal::new(Code::MalformedCsv).detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Column; 3] = [
        Column { name: "id", required: true },
        Column { name: "name", required: true },
        Column { name: "city", required: false },
    ];

    #[test]
    fn a_file_is_read_however_it_was_saved() {
        for text in [
            "id,name\nS1,Lin\nS2,\"a, \"\"b\"\"\"\n",
            "\u{feff}id,name\r\nS1,Lin\r\n\r\nS2,\"a, \"\"b\"\"\"\r\n",
            " name , id \n Lin , S1 \n\"a, \"\"b\"\"\",S2",
        ] {
            let table = Table::read(text.as_bytes(), &KNOWN).unwrap();
            let read: Vec<_> = table.rows.iter().map(|row| (table.cell(row, "id"), table.cell(row, "name"))).collect();
            assert_eq!(read, [("S1", "Lin"), ("S2", "a, \"b\"")], "{text}");
            assert_eq!((table.cell(&table.rows[0], "city"), table.failures.len()), ("", 0));
        }
    }

    #[test]
    fn what_is_wrong_with_the_whole_file_is_one_refusal() {
        for (text, said) in [
            (&b""[..], "the file is empty"),
            (b"\n\n", "the file is empty"),
            (b"id\nS1\n", "column name is missing"),
            (b"id,name,id\n", "column id stands twice"),
            (b"id,name,colour\n", "column 3 is none of id, name, city"),
            (b"id;name\n", "separated by commas"),
            (b"id,name,\n", "column 3 is none of"),
            (b"id,\xff\n", "column 2 is none of"),
            (b"\xff\xfei\0d\0", "UTF-16"),
        ] {
            let refusal = Table::read(text, &KNOWN).unwrap_err();
            assert_eq!(refusal.code, Code::MalformedCsv);
            assert!(refusal.detail.as_ref().unwrap().contains(said), "{refusal}");
        }
        let long = format!("id,name\n{}", "S1,Lin\n".repeat(ROWS_MAX + 1));
        assert_eq!(Table::read(long.as_bytes(), &KNOWN).unwrap_err().code, Code::BodyTooLarge);
    }

    #[test]
    fn a_bad_row_is_named_and_the_others_are_read() {
        let text = b"id,name\nS1,Lin\nS2\nS3,a,b\nS4,\xff\xfe\n\nS6,\"two\nlines\"\nS7,Lin\nS8,\"open\nS9,x\n";
        let crlf = text.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(b"\r\n".as_slice());
        for text in [text.as_slice(), &crlf] {
            let table = Table::read(text, &KNOWN).unwrap();
            let lines: Vec<u64> = table.rows.iter().map(|row| row.line).collect();
            assert_eq!((lines, table.count), (vec![2, 7, 9], 7));
            let failed: Vec<_> = table.failures.iter().map(|one| (one.line, one.column, one.detail.as_str())).collect();
            assert_eq!(
                failed,
                [
                    (3, None, "has 1 cells where the header has 2"),
                    (4, None, "has 3 cells where the header has 2"),
                    (5, Some("name"), "is not UTF-8"),
                    (10, None, "a quote is not closed"),
                ]
            );
        }
    }
}

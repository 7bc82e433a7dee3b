//! The table to which rows go, and the one next to it that records which transactions were
//! committed.
//!
//! Everything that can be refused is refused here, before the first row: columns that are missing
//! or of another type, and columns that must have a value and get none.

use super::copy_text::ColumnText;
use super::server::Server;
use arrow_schema::{DataType, Field, SchemaRef};
use streamrt_types::{Error, Result, code};
use tokio_postgres::Row;

/// The table of committed transactions, in the schema of the other.
const NOTES: &str = "streamrt_transactions";

/// Tasks of several processes may open their sinks at once, and CREATE TABLE IF NOT EXISTS is not
/// safe for that.
const LOCK: i64 = 0x7374_7265_616d;

#[derive(Debug)]
pub struct Table {
    /// COPY of the rows' columns.
    pub copy: String,
    pub columns: Vec<ColumnText>,
    /// Records the name of a transaction.
    pub note: String,
    /// Finds the name of a transaction.
    pub is_noted: String,
    notes: String,
}

/// A column of the table.
struct Column {
    name: String,
    /// For example `timestamp with time zone`, without a length.
    data_type: String,
    not_null: bool,
    /// Whether the server fills it in if nobody else does.
    filled: bool,
    /// Whether only the server fills it in.
    generated: bool,
}

fn mismatch(message: String) -> Error {
    Error::new(code::SCHEMA_MISMATCH, message)
}

impl Table {
    /// Looks at the table, and creates the one next to it if it is not there.
    ///
    /// # Errors
    /// `Invalid` if the table is not there or does not fit the rows, `Unavailable` if the server
    /// does not answer.
    pub fn find(server: &mut Server, name: &str, schema: &SchemaRef) -> Result<Table> {
        // First as it is written, then as SQL reads it without quotes: in lower case.
        let sql = "SELECT c.oid, c.relkind::text, quote_ident(n.nspname), quote_ident(c.relname) FROM pg_class c \
                   JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = COALESCE( \
                   (SELECT e.oid FROM pg_class e WHERE e.relname = $1 AND e.relkind NOT IN ('i', 'I') AND pg_table_is_visible(e.oid)), \
                   (SELECT e.oid FROM pg_class e JOIN pg_namespace s ON s.oid = e.relnamespace \
                   WHERE s.nspname || '.' || e.relname = $1 AND e.relkind NOT IN ('i', 'I') LIMIT 1), to_regclass($1))";
        let found = server.retry(&format!("looking for table {name}"), |connection| {
            connection.query_opt(sql, &[&name])
        })?;
        let found = found.ok_or_else(|| {
            mismatch(format!(
                "there is no table {name}; it is to be made first, with columns for {}",
                names(schema)
            ))
        })?;
        if !["r", "p"].contains(&found.get(1)) {
            return Err(mismatch(format!("{name} is no table")));
        }
        let (space, table): (String, String) = (found.get(2), found.get(3));
        let columns = columns(server, found.get(0))?;
        let texts = schema
            .fields()
            .iter()
            .map(|field| text_of(field, &columns, name))
            .collect::<Result<_>>()?;
        check_rest(schema, &columns, name)?;
        let notes = format!("{space}.{NOTES}");
        make(server, &notes)?;
        let quoted: Vec<String> = schema
            .fields()
            .iter()
            .map(|field| format!("\"{}\"", field.name().replace('"', "\"\"")))
            .collect();
        Ok(Table {
            copy: format!("COPY {space}.{table} ({}) FROM STDIN", quoted.join(", ")),
            columns: texts,
            note: format!("INSERT INTO {notes} (name) VALUES ($1)"),
            is_noted: format!("SELECT 1 FROM {notes} WHERE name = $1"),
            notes,
        })
    }

    /// Forgets transactions of this sink that were committed that long ago.
    pub fn forget(&self, server: &mut Server, prefix: &str, age: &str) -> Result<()> {
        let sql = format!(
            "DELETE FROM {} WHERE starts_with(name, $1) AND noted < now() - interval '{age}'",
            self.notes
        );
        server
            .retry("forgetting old transactions", |connection| {
                connection.execute(&sql, &[&prefix])
            })
            .map(drop)
    }
}

fn names(schema: &SchemaRef) -> String {
    schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

fn columns(server: &mut Server, table: u32) -> Result<Vec<Column>> {
    let sql = "SELECT attname::text, format_type(atttypid, NULL), attnotnull, atthasdef OR attidentity <> '', \
               attgenerated <> '' OR attidentity = 'a' \
               FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows = server.retry("looking at the columns of a table", |connection| {
        connection.query(sql, &[&table])
    })?;
    let column = |row: &Row| Column {
        name: row.get(0),
        data_type: row.get(1),
        not_null: row.get(2),
        filled: row.get(3),
        generated: row.get(4),
    };
    Ok(rows.iter().map(column).collect())
}

/// How values of a column of the rows are written.
fn text_of(field: &Field, columns: &[Column], table: &str) -> Result<ColumnText> {
    let Some(column) = columns.iter().find(|column| column.name == *field.name()) else {
        let there = columns
            .iter()
            .map(|column| column.name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        return Err(mismatch(format!(
            "table {table} has no column `{}`; it has {there}",
            field.name()
        )));
    };
    if column.generated {
        return Err(mismatch(format!(
            "column `{}` of table {table} is generated by the server, and takes no values",
            column.name
        )));
    }
    if field.is_nullable() && column.not_null {
        return Err(mismatch(format!(
            "column `{}` of table {table} is NOT NULL, but rows may have nulls there",
            column.name
        )));
    }
    match text_for(field.data_type(), &column.data_type) {
        Some(text) => Ok(text),
        None => {
            let (name, there) = (&column.name, &column.data_type);
            Err(mismatch(format!(
                "column `{name}` of table {table} is {there}, which does not take {}",
                field.data_type()
            )))
        }
    }
}

/// Types that take every value, and times.
fn text_for(rows: &DataType, table: &str) -> Option<ColumnText> {
    use DataType::{Binary, Boolean, Float32, Float64, Int32, Int64, UInt32, UInt64, Utf8};
    match (rows, table) {
        (Boolean, "boolean")
        | (Int32, "integer" | "bigint" | "numeric")
        | (Int64 | UInt32, "bigint" | "numeric")
        | (UInt64, "numeric")
        | (Float32, "real" | "double precision")
        | (Float64, "double precision") => Some(ColumnText::Value),
        (Int64, "timestamp with time zone" | "timestamp without time zone") => {
            Some(ColumnText::Time)
        }
        (Utf8, "text" | "character varying" | "character" | "json" | "jsonb" | "uuid") => {
            Some(ColumnText::Text)
        }
        (Binary, "bytea") => Some(ColumnText::Bytes),
        _ => None,
    }
}

/// Every other column of the table has to get its value from the server.
fn check_rest(schema: &SchemaRef, columns: &[Column], table: &str) -> Result<()> {
    let is_left = |column: &&Column| {
        schema.field_with_name(&column.name).is_err() && column.not_null && !column.filled
    };
    match columns.iter().find(is_left) {
        None => Ok(()),
        Some(column) => {
            let message = format!(
                "column `{}` of table {table} must have a value and has no default, but the rows have {}",
                column.name,
                names(schema)
            );
            Err(mismatch(message))
        }
    }
}

fn make(server: &mut Server, notes: &str) -> Result<()> {
    let find = format!(
        "SELECT to_regclass('{}') IS NOT NULL",
        notes.replace('\'', "''")
    );
    let is_there = server.retry("looking for the table of transactions", |connection| {
        connection
            .query_one(&find, &[])
            .map(|row| row.get::<_, bool>(0))
    })?;
    if is_there {
        return Ok(());
    }
    let sql = format!(
        "BEGIN; SELECT pg_advisory_xact_lock({LOCK}); \
         CREATE TABLE IF NOT EXISTS {notes} (name text PRIMARY KEY, noted timestamptz NOT NULL DEFAULT now()); COMMIT"
    );
    server.retry(&format!("making table {notes}"), |connection| {
        connection.batch_execute(&sql)
    })
}

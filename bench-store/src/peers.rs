// SPDX-License-Identifier: MIT OR Apache-2.0
//! The peers, each as its documentation says for durable commits: one page of
//! 4096 bytes by number, replaced and committed.

use std::error::Error;
use std::path::Path;

use heed::CommitOrAbort;
use heed::byteorder::BigEndian;
use heed::types::{Bytes, U64};
use redb::ReadableDatabase;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Stores pages durably.
pub trait Peer {
    /// For the table.
    fn name(&self) -> &'static str;
    /// Replaces a page; durable when it returns.
    fn commit(&mut self, page: u64, content: &[u8]) -> Result<()>;
    /// The page, to see that it is there.
    fn read(&self, page: u64) -> Result<Vec<u8>>;
}

/// redb: one write transaction, `Durability::Immediate` (its default).
pub struct Redb(redb::Database);

const TABLE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("pages");

impl Redb {
    pub fn open(directory: &Path) -> Result<Self> {
        Ok(Self(redb::Database::create(directory.join("peer.redb"))?))
    }
}

impl Peer for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn commit(&mut self, page: u64, content: &[u8]) -> Result<()> {
        let transaction = self.0.begin_write()?;
        transaction.open_table(TABLE)?.insert(page, content)?;
        Ok(transaction.commit()?)
    }

    fn read(&self, page: u64) -> Result<Vec<u8>> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let found = table.get(page)?.ok_or("not there")?;
        Ok(found.value().to_vec())
    }
}

/// SQLite: write-ahead log, `synchronous=FULL`.
pub struct Sqlite(rusqlite::Connection);

impl Sqlite {
    pub fn open(directory: &Path) -> Result<Self> {
        let connection = rusqlite::Connection::open(directory.join("peer.sqlite"))?;
        connection.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
             CREATE TABLE IF NOT EXISTS pages (page INTEGER PRIMARY KEY, data BLOB);",
        )?;
        Ok(Self(connection))
    }
}

impl Peer for Sqlite {
    fn name(&self) -> &'static str {
        "SQLite (WAL, FULL)"
    }

    fn commit(&mut self, page: u64, content: &[u8]) -> Result<()> {
        let mut statement = self
            .0
            .prepare_cached("INSERT OR REPLACE INTO pages VALUES (?1, ?2)")?;
        statement.execute(rusqlite::params![i64::try_from(page)?, content])?;
        Ok(())
    }

    fn read(&self, page: u64) -> Result<Vec<u8>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT data FROM pages WHERE page = ?1")?;
        Ok(statement.query_row([i64::try_from(page)?], |row| row.get(0))?)
    }
}

/// LMDB: one write transaction, synchronous (its default).
pub struct Lmdb {
    env: heed::Env,
    pages: heed::Database<'static, U64<BigEndian>, Bytes>,
}

impl Lmdb {
    pub fn open(directory: &Path) -> Result<Self> {
        let directory = directory.join("peer.lmdb");
        std::fs::create_dir_all(&directory)?;
        let mut options = heed::EnvOpenOptions::new();
        options.map_size(1 << 30);
        // SAFETY: nobody else has this directory.
        let env = unsafe { options.open(&directory) }?;
        let transaction = env.write_txn()?;
        let made = env.create_databases_and_commit(transaction, |opener, transaction| {
            let pages = opener.create_database(transaction, None);
            pages.map(CommitOrAbort::<_, ()>::Commit)
        });
        let pages = made?.unwrap_commit();
        Ok(Self { env, pages })
    }
}

impl Peer for Lmdb {
    fn name(&self) -> &'static str {
        "LMDB"
    }

    fn commit(&mut self, page: u64, content: &[u8]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        self.pages.put(&mut transaction, &page, content)?;
        Ok(transaction.commit()?)
    }

    fn read(&self, page: u64) -> Result<Vec<u8>> {
        let transaction = self.env.read_txn()?;
        let found = self.pages.get(&transaction, &page)?;
        Ok(found.ok_or("not there")?.to_vec())
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The directory of one primary at its backup: key, epoch, and the store.
//!
//! ```text
//! DIR/NAME/key      the primary's public key
//! DIR/NAME/state    epoch, id of the primary's store, whether promoted
//! DIR/NAME/store/   the images
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use hvckpt_files::{rename_new, sync_directory};
use hvckpt_wire::{PublicKey, valid_name};

use super::control::{Promoted, Status};
use super::incoming::{Group, refuse};
use super::keys::keys;
use super::server::BackupError;
use super::state::{Hello, State, admit, stale};
use super::wire::{Reason, Refusal};
use hvckpt_store::backend::Directory;
use hvckpt_store::parts::AreaShape;
use hvckpt_store::parts::{Shared, write_epoch};
use hvckpt_store::{Store, StoreError, StoreKey, StoreOptions};

#[derive(Debug, Default)]
struct Inner {
    state: State,
    /// This process wrote it.  What an earlier one wrote may be in the memory
    /// of the kernel only.
    proven: bool,
    store: Option<Store>,
    /// Number of the connection which may write; zero for none.
    connection: u64,
    handle: Option<TcpStream>,
    peer: Option<SocketAddr>,
    /// The newest version which the primary has, as it said.
    newest: u64,
    contact: Option<SystemTime>,
}

/// A primary was let in.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) epoch: u64,
    pub(crate) have: u64,
    pub(crate) time: u64,
    pub(crate) areas: Vec<AreaShape>,
}

/// One primary at the backup.
#[derive(Debug)]
pub(crate) struct Vault {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    key: Option<StoreKey>,
    inner: Mutex<Inner>,
}

impl Vault {
    fn open(path: PathBuf, name: &str, key: Option<StoreKey>) -> Result<Self, BackupError> {
        let inner = Inner {
            state: State::read(&path.join("state"))?,
            ..Inner::default()
        };
        Ok(Self {
            name: name.to_owned(),
            path,
            key,
            inner: Mutex::new(inner),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is on disk decides; in memory nothing is left half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what is remembered of the primary.
    fn remember(&self, inner: &mut Inner, state: State) -> Result<(), BackupError> {
        inner.proven = false;
        state.write(&self.path.join("state"))?;
        inner.state = state;
        inner.proven = true;
        Ok(())
    }

    fn directory(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Lets a primary in, in the place of an older connection.
    pub(crate) fn attach(
        &self,
        hello: &Hello,
        (connection, handle, peer): (u64, Option<TcpStream>, SocketAddr),
        options: &StoreOptions,
    ) -> Result<Attached, Refusal> {
        let mut inner = self.lock();
        let before = inner.state;
        let state = admit(&before, hello)?;
        if inner.store.is_none() {
            let opened = Store::open(self.directory(), options.clone());
            inner.store = Some(opened.map_err(|error| refuse(&error))?);
        }
        if state != before || !inner.proven {
            let written = self.remember(&mut inner, state);
            written
                .map_err(|error| Refusal::new(Reason::Unavailable, hvckpt_sys::explain(&error)))?;
        }
        if let Some(old) = inner.handle.take() {
            // It may have noticed by itself.
            let _closed = old.shutdown(Shutdown::Both);
        }
        let Some(store) = &inner.store else {
            return Err(Refusal::new(Reason::Unavailable, "no store"));
        };
        let shared = store.shared();
        let have = shared.newest();
        let attached = Attached {
            epoch: state.epoch,
            have,
            time: shared.time_of(have).unwrap_or(0),
            areas: shared.shapes(),
        };
        if have > hello.newest {
            let text = format!(
                "the backup has version {have}, this store {} only: promote the backup, or bring \
                 the store up to date from it",
                hello.newest
            );
            inner.store = None;
            let mut refusal = Refusal::new(Reason::Ahead, text);
            refusal.version = have;
            return Err(refusal);
        }
        inner.connection = connection;
        inner.handle = handle;
        inner.peer = Some(peer);
        inner.newest = hello.newest;
        inner.contact = Some(SystemTime::now());
        Ok(attached)
    }

    /// Does something with the store, if the connection still may.
    pub(crate) fn with<T>(
        &self,
        connection: u64,
        act: impl FnOnce(&Shared) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut inner = self.lock();
        inner.allow(connection)?;
        inner.contact = Some(SystemTime::now());
        match &inner.store {
            Some(store) => act(store.shared()),
            None => Err(Refusal::new(Reason::Unavailable, "no store")),
        }
    }

    /// Makes versions durable; the newest one.
    pub(crate) fn apply(
        &self,
        connection: u64,
        group: &Group,
        newest: u64,
    ) -> Result<u64, Refusal> {
        let mut inner = self.lock();
        inner.allow(connection)?;
        inner.newest = newest;
        inner.contact = Some(SystemTime::now());
        let Some(store) = &inner.store else {
            return Err(Refusal::new(Reason::Unavailable, "no store"));
        };
        let shared = store.shared();
        if group.batches.is_empty() {
            return Ok(shared.newest());
        }
        let shape = group.shape.as_ref();
        let shape = shape.map(|(base, areas)| (*base, areas.as_slice()));
        let applied = shared.adopt(shape, &group.batches);
        applied.map_err(|error| {
            let refusal = refuse(&error);
            if matches!(
                error,
                StoreError::Unsettled { .. } | StoreError::Poisoned { .. }
            ) {
                // Opened again, it is known what is there.
                inner.store = None;
                inner.connection = 0;
            }
            refusal
        })
    }

    /// The connection ended.
    pub(crate) fn detach(&self, connection: u64) {
        let mut inner = self.lock();
        if inner.connection == connection {
            inner.connection = 0;
            inner.handle = None;
            inner.store = None;
        }
    }

    /// What is here.
    pub(crate) fn status(&self) -> Status {
        let inner = self.lock();
        let version = match &inner.store {
            Some(store) => Some(store.newest()),
            None => self.version().ok().map(|(version, _)| version),
        };
        Status {
            name: self.name.clone(),
            epoch: inner.state.epoch,
            promoted: inner.state.promoted,
            version,
            connected: inner.handle.is_some() && inner.connection > 0,
            peer: inner.peer,
            primary_version: inner.newest,
            contact: inner.contact,
            path: self.directory(),
        }
    }

    fn version(&self) -> Result<(u64, u64), BackupError> {
        let mut options = StoreOptions::default();
        options.read_only = true;
        options.key.clone_from(&self.key);
        let store = Store::open(self.directory(), options).map_err(BackupError::Store)?;
        let recovery = store.recovery();
        Ok((recovery.version, recovery.problems.len() as u64))
    }

    /// Makes what is to be handed out as safe as opening it for writing does;
    /// where the disk does not allow that, that it can be read must do.
    fn prove(&self) -> Result<(), BackupError> {
        let mut options = StoreOptions::default();
        options.create = false;
        options.auto_compact = false;
        options.key.clone_from(&self.key);
        if Store::open(self.directory(), options).is_ok() {
            return Ok(());
        }
        self.version().map(|_| ())
    }

    /// Takes the right to be acknowledged from the primary, and hands the
    /// state out: in place, or moved to another directory.
    pub(crate) fn promote(&self, to: Option<&Path>) -> Result<Promoted, BackupError> {
        let mut inner = self.lock();
        if inner.state.store.is_none() {
            return Err(BackupError::Nothing(self.name.clone()));
        }
        if inner.state.promoted && !self.directory().exists() {
            // A crash came between moving it and writing that down.
            let mut state = inner.state;
            (state.store, state.promoted) = (None, false);
            self.remember(&mut inner, state)?;
            return Err(BackupError::Nothing(self.name.clone()));
        }
        if let Some(to) = to
            && fs::symlink_metadata(to).is_ok()
        {
            return Err(BackupError::Exists(to.to_owned()));
        }
        inner.connection = 0;
        if let Some(handle) = inner.handle.take() {
            // It may be closed already.
            let _closed = handle.shutdown(Shutdown::Both);
        }
        inner.store = None;
        let mut state = inner.state;
        if !state.promoted {
            // That it can be read comes before anybody loses anything.
            self.prove()?;
            state.epoch += 1;
            state.promoted = true;
        }
        if state != inner.state || !inner.proven {
            self.remember(&mut inner, state)?;
        }
        let mut path = self.directory();
        let backend = Directory::new(&path);
        write_epoch(&backend, state.epoch, 0).map_err(BackupError::Store)?;
        let (version, _) = self.version()?;
        if let Some(to) = to {
            rename_new(&path, to).map_err(|error| BackupError::io("move to", to, error))?;
            let parents = [Some(self.path.as_path()), to.parent()];
            for parent in parents.into_iter().flatten() {
                let parent = if parent.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    parent
                };
                sync_directory(parent).map_err(|error| BackupError::io("sync", parent, error))?;
            }
            to.clone_into(&mut path);
            // The place is free for the primary of the new epoch.
            state.store = None;
            state.promoted = false;
            self.remember(&mut inner, state)?;
        }
        Ok(Promoted {
            name: self.name.clone(),
            epoch: state.epoch,
            version,
            path,
        })
    }
}

impl Inner {
    fn allow(&self, connection: u64) -> Result<(), Refusal> {
        if self.connection == connection {
            return Ok(());
        }
        if self.state.promoted || self.state.store.is_none() {
            return Err(stale(self.state.epoch));
        }
        Err(Refusal::new(
            Reason::Replaced,
            "a newer connection with this key took over",
        ))
    }
}

/// All primaries of a backup.
#[derive(Debug)]
pub(crate) struct Vaults {
    directory: PathBuf,
    /// Of encrypted stores.
    key: Option<StoreKey>,
    known: Mutex<BTreeMap<String, Arc<Vault>>>,
}

impl Vaults {
    pub(crate) fn new(directory: &Path, key: Option<StoreKey>) -> Self {
        Self {
            directory: directory.to_owned(),
            key,
            known: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<Vault>, BackupError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vault) = known.get(name) {
            return Ok(vault.clone());
        }
        let path = self.directory.join(name);
        if !valid_name(name) || !path.join("key").is_file() {
            return Err(BackupError::Unknown(name.to_owned()));
        }
        let vault = Arc::new(Vault::open(path, name, self.key.clone())?);
        known.insert(name.to_owned(), vault.clone());
        Ok(vault)
    }

    pub(crate) fn by_key(&self, key: PublicKey) -> Result<Option<Arc<Vault>>, BackupError> {
        let all = keys(&self.directory)?;
        let found = all.into_iter().find(|(_, public)| *public == key);
        found.map(|(name, _)| self.get(&name)).transpose()
    }

    pub(crate) fn all(&self) -> Result<Vec<Arc<Vault>>, BackupError> {
        let all = keys(&self.directory)?;
        all.iter().map(|(name, _)| self.get(name)).collect()
    }
}

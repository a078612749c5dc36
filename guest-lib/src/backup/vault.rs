//! The directory of one primary at its backup: key, epoch, and the store.
//!
//! ```text
//! DIR/NAME/key      the primary's public key
//! DIR/NAME/state    epoch, id of the primary's store, whether promoted
//! DIR/NAME/store/   the images
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use hvckpt_proto::{Key, PublicKey, Secret, valid_name};

use super::control::{Promoted, Status};
use super::fence;
use super::files;
use super::incoming::{Group, refuse};
use super::server::BackupError;
use super::wire::{Reason, Refusal};
use crate::store::backend::Directory;
use crate::store::ship::AreaShape;
use crate::store::{Shared, Store, StoreOptions};

const STATE: &str = "hvckpt-backup-state 1";
const KEY: &str = "hvckpt-primary-key 1";
/// Primaries at most.
const MOST: usize = 4096;

/// What is remembered of a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct State {
    epoch: u64,
    /// Id of the primary's store; `None` before the first contact.
    store: Option<[u8; 16]>,
    promoted: bool,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(text, 16).ok()?;
    (text.len() == 32).then(|| number.to_be_bytes())
}

impl State {
    fn read(path: &Path) -> Result<Self, BackupError> {
        let damaged = || BackupError::State(path.to_owned());
        let text = files::read(path).map_err(|error| BackupError::io("read", path, error))?;
        let Some(text) = text else {
            return Ok(Self::default());
        };
        let [epoch, store, promoted] =
            files::fields(&text, STATE, ["epoch", "store", "promoted"]).ok_or_else(damaged)?;
        let store = match store.as_str() {
            "none" => None,
            id => Some(unhex(id).ok_or_else(damaged)?),
        };
        Ok(Self {
            epoch: epoch.parse().map_err(|_| damaged())?,
            store,
            promoted: match promoted.as_str() {
                "yes" => true,
                "no" => false,
                _ => return Err(damaged()),
            },
        })
    }

    fn write(&self, path: &Path) -> Result<(), BackupError> {
        let store = self.store.map_or("none".to_owned(), |id| hex(&id));
        let promoted = if self.promoted { "yes" } else { "no" };
        let epoch = self.epoch;
        let text = format!("{STATE}\nepoch: {epoch}\nstore: {store}\npromoted: {promoted}\n");
        files::replace(path, &text).map_err(|error| BackupError::io("write", path, error))
    }
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    store: Option<Store>,
    /// Number of the connection which may write; zero for none.
    session: u64,
    handle: Option<TcpStream>,
    peer: Option<SocketAddr>,
    /// The newest version which the primary has, as it said.
    newest: u64,
    contact: Option<SystemTime>,
}

/// What a primary says first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hello {
    pub(crate) store: [u8; 16],
    pub(crate) epoch: u64,
    pub(crate) newest: u64,
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
    inner: Mutex<Inner>,
}

impl Vault {
    fn open(path: PathBuf, name: &str) -> Result<Self, BackupError> {
        let inner = Inner {
            state: State::read(&path.join("state"))?,
            ..Inner::default()
        };
        Ok(Self {
            name: name.to_owned(),
            path,
            inner: Mutex::new(inner),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is on disk decides; in memory nothing is left half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Lets a primary in, in the place of an older connection.
    pub(crate) fn attach(
        &self,
        hello: &Hello,
        (session, handle, peer): (u64, Option<TcpStream>, SocketAddr),
        options: &StoreOptions,
    ) -> Result<Attached, Refusal> {
        let mut inner = self.lock();
        let before = inner.state;
        let state = admit(&before, hello)?;
        if inner.store.is_none() {
            let opened = Store::open(self.directory(), options.clone());
            inner.store = Some(opened.map_err(|error| refuse(&error))?);
        }
        if state != before {
            let written = state.write(&self.path.join("state"));
            written.map_err(|error| Refusal::new(Reason::Unavailable, crate::explain(&error)))?;
            inner.state = state;
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
        inner.session = session;
        inner.handle = handle;
        inner.peer = Some(peer);
        inner.newest = hello.newest;
        inner.contact = Some(SystemTime::now());
        Ok(attached)
    }

    /// Does something with the store, if the connection still may.
    pub(crate) fn with<T>(
        &self,
        session: u64,
        act: impl FnOnce(&Shared) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut inner = self.lock();
        inner.allow(session)?;
        inner.contact = Some(SystemTime::now());
        match &inner.store {
            Some(store) => act(store.shared()),
            None => Err(Refusal::new(Reason::Unavailable, "no store")),
        }
    }

    /// Makes versions durable; the newest one.
    pub(crate) fn apply(&self, session: u64, group: &Group, newest: u64) -> Result<u64, Refusal> {
        let mut inner = self.lock();
        inner.allow(session)?;
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
            if matches!(error, crate::store::StoreError::Poisoned) {
                // Opened again, it is known what is there.
                inner.store = None;
                inner.session = 0;
            }
            refusal
        })
    }

    /// The connection ended.
    pub(crate) fn detach(&self, session: u64) {
        let mut inner = self.lock();
        if inner.session == session {
            inner.session = 0;
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
            connected: inner.handle.is_some() && inner.session > 0,
            peer: inner.peer,
            primary_version: inner.newest,
            contact: inner.contact,
            path: self.directory(),
        }
    }

    fn version(&self) -> Result<(u64, u64), BackupError> {
        let options = StoreOptions {
            read_only: true,
            ..StoreOptions::default()
        };
        let store = Store::open(self.directory(), options).map_err(BackupError::Store)?;
        let recovery = store.recovery();
        Ok((recovery.version, recovery.problems.len() as u64))
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
            state.write(&self.path.join("state"))?;
            inner.state = state;
            return Err(BackupError::Nothing(self.name.clone()));
        }
        if let Some(to) = to
            && fs::symlink_metadata(to).is_ok()
        {
            return Err(BackupError::Exists(to.to_owned()));
        }
        inner.session = 0;
        if let Some(handle) = inner.handle.take() {
            // It may be closed already.
            let _closed = handle.shutdown(Shutdown::Both);
        }
        inner.store = None;
        let mut state = inner.state;
        if !state.promoted {
            // That it can be read comes before anybody loses anything.
            self.version()?;
            state.epoch += 1;
            state.promoted = true;
            state.write(&self.path.join("state"))?;
            inner.state = state;
        }
        let mut path = self.directory();
        let backend = Directory::new(&path);
        fence::write(&backend, state.epoch, 0).map_err(BackupError::Store)?;
        let (version, _) = self.version()?;
        if let Some(to) = to {
            fs::rename(&path, to).map_err(|error| BackupError::io("move to", to, error))?;
            let parents = [Some(self.path.as_path()), to.parent()];
            for parent in parents.into_iter().flatten() {
                let parent = if parent.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    parent
                };
                files::sync_directory(parent)
                    .map_err(|error| BackupError::io("sync", parent, error))?;
            }
            to.clone_into(&mut path);
            // The place is free for the primary of the new epoch.
            state.store = None;
            state.promoted = false;
            state.write(&self.path.join("state"))?;
            inner.state = state;
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
    fn allow(&self, session: u64) -> Result<(), Refusal> {
        if self.session == session {
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

fn stale(epoch: u64) -> Refusal {
    let text = format!("another instance was promoted; epoch {epoch} has begun");
    let mut refusal = Refusal::new(Reason::Stale, text);
    refusal.epoch = epoch;
    refusal
}

/// The state with which a primary is let in.
fn admit(state: &State, hello: &Hello) -> Result<State, Refusal> {
    // Zero: it never had contact, or fell between the answer and writing it
    // down.
    let older = hello.epoch < state.epoch && hello.epoch > 0;
    if older || (state.promoted && hello.epoch < state.epoch) {
        return Err(stale(state.epoch));
    }
    if state.promoted {
        let text = "what is kept under this key was promoted; move it away (hvckpt backup \
                    promote --to) before this backup is used again";
        return Err(Refusal::new(Reason::Promoted, text));
    }
    let other = state.store.is_some_and(|store| store != hello.store);
    if other && hello.epoch <= state.epoch {
        let text = "another store is kept under this key; give each primary its own key";
        return Err(Refusal::new(Reason::OtherStore, text));
    }
    Ok(State {
        epoch: state.epoch.max(hello.epoch).max(1),
        store: Some(hello.store),
        promoted: false,
    })
}

/// All primaries of a backup.
#[derive(Debug)]
pub(crate) struct Vaults {
    directory: PathBuf,
    known: Mutex<BTreeMap<String, Arc<Vault>>>,
}

impl Vaults {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
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
        let vault = Arc::new(Vault::open(path, name)?);
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

/// Primaries which may use the backup in a directory, with their public keys.
///
/// # Errors
/// See [`BackupError`].
pub fn keys(directory: &Path) -> Result<Vec<(String, PublicKey)>, BackupError> {
    let list = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| BackupError::io("list", directory, error))?,
    };
    let mut found = Vec::new();
    for entry in list {
        let entry = entry.map_err(|error| BackupError::io("list", directory, error))?;
        let path = entry.path().join("key");
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Files of our own, and directories of other people.
        let Ok(Some(text)) = files::read(&path) else {
            continue;
        };
        let fields = files::fields(&text, KEY, ["public"]);
        let public = fields.and_then(|[public]| PublicKey::parse(&public));
        found.push((name, public.ok_or(BackupError::State(path))?));
    }
    found.sort();
    Ok(found)
}

/// Makes a key for a new primary, or a new one in the place of a lost one; the
/// text of the key file for it, which holds a secret.
///
/// # Errors
/// See [`BackupError`].
pub fn add_key(directory: &Path, name: &str) -> Result<Key, BackupError> {
    if !valid_name(name) {
        return Err(BackupError::Name(name.to_owned()));
    }
    let server = super::server::identity(directory)?;
    if keys(directory)?.len() >= MOST {
        return Err(BackupError::TooMany(MOST));
    }
    let random = |error| BackupError::io("make a key in", directory, error);
    let secret = Secret::generate().map_err(random)?;
    let public = secret.public_key();
    let path = directory.join(name);
    files::private_directory(&path).map_err(|error| BackupError::io("make", &path, error))?;
    let path = path.join("key");
    files::replace(&path, &format!("{KEY}\npublic: {public}\n"))
        .map_err(|error| BackupError::io("write", &path, error))?;
    Key::new(name, 1, server.public_key(), secret).ok_or_else(|| BackupError::Name(name.to_owned()))
}

/// Takes a primary's key back.  What is kept of it stays; a connection which
/// is open stays until it ends.
///
/// # Errors
/// See [`BackupError`].
pub fn remove_key(directory: &Path, name: &str) -> Result<(), BackupError> {
    let path = directory.join(name).join("key");
    if !valid_name(name) || !path.is_file() {
        return Err(BackupError::Unknown(name.to_owned()));
    }
    fs::remove_file(&path).map_err(|error| BackupError::io("remove", &path, error))
}

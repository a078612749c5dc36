// SPDX-License-Identifier: MIT OR Apache-2.0
//! The backup: listens, authenticates, and keeps a directory per primary.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hvckpt_files::LockFile;
use hvckpt_wire::Secret;
use hvckpt_wire::home::{self, IdentityError};
use hvckpt_wire::listen::{self, Door, Limits, Stop, Stopper, Visit, stopper};
use hvckpt_wire::{Acceptor, ServerError};

use super::connection;
use super::control;
use super::files;
use super::vault::Vaults;
use super::wire::ALPN;
use hvckpt_store::{StoreError, StoreOptions};

/// What may go wrong with a backup as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The operating system refused.
    #[error("cannot {what} {}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {0}; choose another --listen address, or end who has it")]
    Listen(String, #[source] io::Error),
    /// There is no directory to look into.
    #[error("there is no backup in {}; check the directory", .0.display())]
    Absent(PathBuf),
    /// Another backup runs in the directory.
    #[error("another backup runs in {}: {holder}; end that first, or choose another directory", .directory.display())]
    Running {
        /// The directory.
        directory: PathBuf,
        /// Who has it, as far as the system tells.
        holder: String,
    },
    /// A file is not what was written there.
    #[error("{} is damaged; bring it back from a copy, or take it away by hand", .0.display())]
    State(PathBuf),
    /// Others may read or change the directory.
    #[error("{} must be accessible to its owner only (chmod 700)", .0.display())]
    Open(PathBuf),
    /// The server's key cannot be used.
    #[error("cannot use the server's key, {}; bring it back from a copy, or remove it and make all keys anew", .0.display())]
    Key(PathBuf, #[source] hvckpt_wire::KeyError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] ServerError),
    /// No primary of that name.
    #[error("no primary {0:?}; see hvckpt backup key list")]
    Unknown(String),
    /// Not a name for a primary.
    #[error("{0:?} cannot name a primary: 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first")]
    Name(String),
    /// No more primaries fit.
    #[error(
        "there are {0} primaries already, and no more fit; remove one (hvckpt backup key remove)"
    )]
    TooMany(usize),
    /// Nothing was ever received, or it was promoted and moved away.
    #[error(
        "nothing of {0:?} is kept here: nothing was received yet, or it was promoted and moved away; see hvckpt backup status"
    )]
    Nothing(String),
    /// The place to move to is taken.
    #[error("{} exists; name a directory which does not", .0.display())]
    Exists(PathBuf),
    /// A store.
    #[error(transparent)]
    Store(StoreError),
    /// The running backup says no.
    #[error("{0}")]
    Remote(String),
}

impl BackupError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { what, path, source }
    }
}

/// Hears what happens, one line a time.
pub type Log = Arc<dyn Fn(&str) + Send + Sync>;

/// How a backup behaves.
#[derive(Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Where everything is kept.
    pub directory: PathBuf,
    /// `address:port` to listen on.
    pub listen: String,
    /// How stores are kept.
    pub store: StoreOptions,
    /// Connections of primaries at once. There are 32 places more for those
    /// who have not proven a known key yet.
    pub connections: usize,
    /// Connections at once from one address which have proven no known key;
    /// further ones take turns with them, and keep no primary out.
    pub per_address: usize,
    /// Time for a connection to prove its key and greet.
    pub handshake: Duration,
    /// A frame which takes longer ends the connection; so does silence.
    pub idle: Duration,
    /// Hears what happens.
    pub log: Log,
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions")
            .field("directory", &self.directory)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl ServerOptions {
    /// A backup in the directory which listens on the address.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, listen: impl Into<String>) -> Self {
        Self {
            directory: directory.into(),
            listen: listen.into(),
            store: StoreOptions::default(),
            connections: 64,
            per_address: 32,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(15),
            log: Arc::new(|_| {}),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: ServerOptions,
    pub(crate) vaults: Vaults,
    door: Door,
    served: AtomicU64,
}

impl Inner {
    pub(crate) fn say(&self, line: &str) {
        (self.options.log)(line);
    }
}

/// The secret of the backup in a directory, made when there is none.
pub(crate) fn identity(directory: &Path) -> Result<Secret, BackupError> {
    files::private_directory(directory)
        .map_err(|error| BackupError::io("make", directory, error))?;
    let mode =
        fs::metadata(directory).map_err(|error| BackupError::io("look at", directory, error))?;
    if std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o077 != 0 {
        return Err(BackupError::Open(directory.to_owned()));
    }
    home::identity(directory).map_err(|error| {
        let path = directory.join(home::SERVER_KEY);
        match error {
            IdentityError::Key(error) => BackupError::Key(path, error),
            IdentityError::Read(error) => BackupError::io("read", &path, error),
            IdentityError::Write(error) => BackupError::io("write", &path, error),
            IdentityError::Generate(error) => BackupError::io("make a key in", directory, error),
            other => BackupError::io("use", &path, io::Error::other(other)),
        }
    })
}

fn running(directory: &Path) -> BackupError {
    BackupError::Running {
        directory: directory.to_owned(),
        holder: hvckpt_files::holder(&directory.join("lock")),
    }
}

/// Keeps other backups out of the directory; `None` if one is there.
pub(crate) fn lock(directory: &Path) -> Result<Option<LockFile>, BackupError> {
    let path = directory.join("lock");
    LockFile::take(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            BackupError::Absent(directory.to_owned())
        }
        _ => BackupError::io("lock", &path, error),
    })
}

/// A running backup.  Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    inner: Arc<Inner>,
    address: SocketAddr,
    stopper: Stopper,
    threads: Vec<JoinHandle<()>>,
    _lock: LockFile,
}

impl Server {
    /// Begins to listen.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn start(options: ServerOptions) -> Result<Self, BackupError> {
        let directory = options.directory.clone();
        let secret = identity(&directory)?;
        let lock = lock(&directory)?.ok_or_else(|| running(&directory))?;
        let acceptor = Acceptor::speaking(&secret, ALPN).map_err(BackupError::Tls)?;
        let listen = |error| BackupError::Listen(options.listen.clone(), error);
        let listener = TcpListener::bind(&*options.listen).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let control = control::bind(&directory)?;
        let descriptor = |error| BackupError::io("open a socket pair for", &directory, error);
        let (stopper, stop) = stopper().map_err(descriptor)?;
        let stop_control = stop.another().map_err(descriptor)?;
        let control_door = Door::new(control::LIMITS).map_err(descriptor)?;
        let limits = Limits {
            connections: options.connections,
            per_peer: options.per_address,
            deadline: options.handshake,
        };
        let inner = Arc::new(Inner {
            vaults: Vaults::new(&directory, options.store.key.clone()),
            options,
            door: Door::new(limits).map_err(descriptor)?,
            served: AtomicU64::new(0),
        });
        let mut server = Self {
            inner: inner.clone(),
            address,
            stopper,
            threads: Vec::new(),
            _lock: lock,
        };
        let thread = |error| BackupError::io("start a thread for", &directory, error);
        let network = inner.clone();
        let spawned = std::thread::Builder::new()
            .name("hvckpt-backup".to_owned())
            .spawn(move || accept(&network, &listener, &acceptor, &stop));
        server.threads.push(spawned.map_err(thread)?);
        let spawned = std::thread::Builder::new()
            .name("hvckpt-control".to_owned())
            .spawn(move || control::serve(&control, &inner, &control_door, &stop_control));
        server.threads.push(spawned.map_err(thread)?);
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Blocks for ever.
    pub fn wait(mut self) {
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopper.stop();
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
        self.inner.door.close_all();
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.inner.door.count() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn accept(inner: &Arc<Inner>, listener: &TcpListener, acceptor: &Acceptor, stop: &Stop) {
    let start = |visit: Visit<TcpStream>| {
        let (guest, acceptor) = (inner.clone(), acceptor.clone());
        let connection = inner.served.fetch_add(1, Ordering::Relaxed) + 1;
        let unnamed = SocketAddr::from(([0; 4], 0));
        let peer = visit.peer.unwrap_or(unnamed);
        let spawned = std::thread::Builder::new()
            .name(format!("hvckpt-peer-{connection}"))
            .spawn(move || {
                // The place is kept as long as this lives, panic or not.
                let pass = visit.pass;
                let deadline = visit.since + guest.options.handshake;
                // Strangers are not worth a line.
                if let Ok(channel) = acceptor.channel(visit.stream, deadline) {
                    connection::serve(&guest, channel, &pass, peer, connection);
                }
            });
        if let Err(error) = spawned {
            inner.say(&format!("{peer}: no thread for it, {error}"));
        }
    };
    let trouble = |error: &io::Error| inner.say(&format!("cannot accept a connection: {error}"));
    listen::serve(listener, &inner.door, stop, start, |_, _| {}, trouble);
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! `hvckpt-policy serve`: puts the parts together, and takes them apart.

use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hvckpt_wire::home::{self, IdentityError};
use hvckpt_wire::listen::{Door, Limits, stopper};
use hvckpt_wire::{Acceptor, Secret};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::admin::server::Admin;
use crate::audit::{AuditLog, Record};
use crate::files::StateDir;
use crate::hypervisor::{Hypervisor as _, Xen};
use crate::keys::KeyStore;
use crate::policy::{Options, Policy};
use crate::sandbox::{self, Confinement};
use crate::{admin, log, privileges, server};

/// How the daemon is started.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The state directory.
    pub state: PathBuf,
    /// Of decisions.
    pub policy: Options,
    /// Of connections.
    pub limits: Limits,
    /// Size of an audit file, in octets.
    pub audit_bytes: u64,
    /// Old audit files kept.
    pub audit_keep: u32,
    /// Whether the process confines itself; off for debugging only.
    pub sandbox: bool,
}

/// How long requests that are under way may take to finish at the end.
const GRACE: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// A sentence for the administrator: the daemon could not start.
pub fn run(config: &Config) -> Result<(), String> {
    // Before any file is made: all of them are private.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let state = StateDir::open(&config.state)?;
    let secret = server_key(state.path())?;
    let keys = KeyStore::open(state.path())?;
    let audit = AuditLog::open(state.path(), config.audit_bytes, config.audit_keep)
        .map_err(|e| format!("cannot open the audit log: {e}"))?;
    let mut xen = Xen::default();
    // Opens the hypercall device, while there are privileges.
    match xen.version() {
        Ok(version) => log(format_args!("hypervisor has cda, version {}", version.abi)),
        // Not an error: it may come with the next boot, and refusals say so.
        Err(error) => log(format_args!("no tokens can be issued: {error}")),
    }
    // Loads libxenstore, while files can be opened. It is asked anew each time.
    let _ = xen.domains();
    let listener = TcpListener::bind(config.listen)
        .map_err(|e| format!("cannot listen on {}: {e}", config.listen))?;
    let listen = listener.local_addr().map_err(|e| e.to_string())?;
    let socket = admin::socket_path(state.path());
    let local = admin::server::bind(&socket)
        .map_err(|e| format!("cannot listen on {}: {e}", socket.display()))?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|e| e.to_string())?;
    let systemd = Systemd::connect();
    allow_descriptors(&config.limits);
    let (stopper, stop) = stopper().map_err(|e| e.to_string())?;
    let stop_local = stop.another().map_err(|e| e.to_string())?;
    let door = Door::new(config.limits).map_err(|e| e.to_string())?;
    let local_door = Door::new(admin::server::LIMITS).map_err(|e| e.to_string())?;
    let stop_clock = stop.another().map_err(|e| e.to_string())?;

    privileges::drop_all()?;
    let confinement = if config.sandbox {
        sandbox::confine(state.path())?
    } else {
        Confinement::OFF
    };
    log(format_args!("sandbox: {confinement}"));

    let acceptor = Acceptor::new(&secret).map_err(|e| e.to_string())?;
    let policy = Arc::new(Policy::new(keys, audit, Box::new(xen), config.policy));
    // A full disk does not keep the daemon from starting: it refuses tokens,
    // and keys can be revoked.
    let _ = policy.note(Record::new("start", "done").detail(&format!("listening on {listen}")));

    let admin = Arc::new(Admin {
        policy: Arc::clone(&policy),
        server: secret.public_key(),
        listen: listen.to_string(),
        confinement,
    });
    let clock_policy = Arc::clone(&policy);
    let (serve_policy, serve_door) = (Arc::clone(&policy), door.clone());
    let threads = [
        spawn("listen", move || {
            server::serve(&listener, &acceptor, &serve_policy, &serve_door, &stop);
        })?,
        spawn("local", move || {
            admin::server::serve(&local, &admin, &local_door, &stop_local)
        })?,
        spawn(
            "clock",
            move || {
                while stop_clock.pause(clock_policy.tick()) {}
            },
        )?,
    ];
    log(format_args!("listening on {listen}"));
    systemd.tell("READY=1");

    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
    }
    systemd.tell("STOPPING=1");
    stopper.stop();
    let _ = std::fs::remove_file(&socket);
    for thread in threads {
        let _ = thread.join();
    }
    let end = Instant::now() + GRACE;
    while door.count() > 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    let _ = policy.note(Record::new("stop", "done"));
    log(format_args!("stopped"));
    Ok(())
}

fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, String> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|e| format!("cannot start a thread: {e}"))
}

/// Descriptors beside those of connections: listening sockets, files, Xen.
const OWN_DESCRIPTORS: u64 = 64;

/// Raises the limit on descriptors, as far as it may be raised, to what so
/// many connections need.
fn allow_descriptors(limits: &Limits) {
    let connections = limits.connections;
    let taken = limits.descriptors() + admin::server::LIMITS.threads() * 2;
    let wanted = OWN_DESCRIPTORS + u64::try_from(taken).unwrap_or(u64::MAX / 2);
    let limit = getrlimit(Resource::Nofile);
    // None: no limit.
    let enough = |limit: Option<u64>| limit.is_none_or(|n| n >= wanted);
    if enough(limit.current) {
        return;
    }
    let current = match limit.maximum {
        Some(maximum) => wanted.min(maximum),
        None => wanted,
    };
    let raised = Rlimit {
        current: Some(current),
        ..limit
    };
    if setrlimit(Resource::Nofile, raised).is_err() || current < wanted {
        log(format_args!(
            "at most {current} descriptors for {connections} connections: raise LimitNOFILE, or \
             lower --max-connections"
        ));
    }
}

/// The daemon's private key, made at the first start.
///
/// # Errors
/// A sentence for the administrator.
pub fn server_key(state: &Path) -> Result<Secret, String> {
    home::identity(state).map_err(|error| {
        let path = state.join(home::SERVER_KEY);
        let shown = path.display();
        match error {
            IdentityError::Read(e) => format!("cannot read {shown}: {e}"),
            IdentityError::Key(e) => format!("{shown}: {e}"),
            IdentityError::Write(e) => format!("cannot write {shown}: {e}"),
            other => format!("{shown}: {other}"),
        }
    })
}

/// Where systemd wants to be told (sd_notify(3)), if it asked.
struct Systemd(Option<UnixDatagram>);

impl Systemd {
    fn connect() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET").and_then(|path| {
            let bytes = path.as_encoded_bytes();
            let address = match bytes.strip_prefix(b"@") {
                Some(name) => UnixAddr::from_abstract_name(name),
                None => UnixAddr::from_pathname(&path),
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect_addr(&address.ok()?).ok()?;
            Some(socket)
        }))
    }

    fn tell(&self, message: &str) {
        if let Some(socket) = &self.0 {
            let _ = socket.send(message.as_bytes());
        }
    }
}

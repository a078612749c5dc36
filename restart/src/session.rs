// SPDX-License-Identifier: MIT OR Apache-2.0
//! `run` and `restart`: a program below a supervisor which keeps its versions.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::client::{self, Answer, Reply, Request, Session};
use crate::front::{self, say};
use crate::image::{self, Image};
use crate::remote::ENDED;
use crate::sys::{self, bit};
use crate::{Context, Error, capture, files, restore};

/// How a program is kept.
#[derive(Clone, Default, Debug)]
pub struct Options {
    /// A version each time this has passed.
    pub period: Option<Duration>,
    /// The directory of the versions.
    pub store: Option<PathBuf>,
    /// What `hvckpt ps` shows.
    pub name: Option<String>,
    /// Older versions than so many are removed; 0 keeps all.
    pub keep: usize,
}

impl Options {
    /// The name, or one made of the program's.
    fn name_or(&self, program: &str) -> String {
        let made = || format!("{program}-{}", std::process::id());
        self.name.clone().unwrap_or_else(made)
    }
}

/// What a restart does with files that were open for writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Files {
    /// What was appended since is cut off, and kept beside the image.
    Rewind,
    /// They stay as they are.
    Keep,
    /// Refused if one is longer than it was.
    Check,
}

enum What<'a> {
    Program(&'a [OsString]),
    Image {
        image: &'a Image,
        new_ids: bool,
        rewind: bool,
    },
}

/// Starts a program, and waits for its end. Returns the exit status; if a
/// signal ended the program, this process ends by it.
///
/// # Errors
/// It could not be started.
pub fn run(command: &[OsString], options: &Options) -> Result<u8, Error> {
    let program = command
        .first()
        .ok_or_else(|| Error::refused("no program"))?;
    let base = Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy()
        .into_owned();
    let name = options.name_or(&base);
    let store = match &options.store {
        Some(store) => store.clone(),
        None => client::default_store(&name)?,
    };
    fs::create_dir_all(&store).context(|| format!("cannot create {}", store.display()))?;
    below(&What::Program(command), name, &store, &base, options, false)
}

/// Makes a program of an image, and waits for its end, as [`run`] does. With
/// `detach` it returns 0 as soon as the program runs.
///
/// # Errors
/// Refused or damaged: no process was made, no file changed.
pub fn restart(
    of: &str,
    options: &Options,
    new_ids: bool,
    files: Files,
    detach: bool,
) -> Result<u8, Error> {
    let path = image::find(of)?;
    let path = fs::canonicalize(&path).context(|| format!("cannot find {}", path.display()))?;
    let image = Image::open(&path)?;
    image.verify()?;
    let mut objections = restore::objections(&image)?;
    if files == Files::Check {
        // One that cannot be looked at was objected to already.
        let grown = files::grown(image.process.descriptors.iter()).flatten();
        objections.extend(grown.map(|file| {
            format!(
                "descriptor {} ({}): {} octets, and there were {}",
                file.of.fd,
                file.path.display(),
                file.now,
                file.size
            )
        }));
    }
    if !objections.is_empty() {
        return Err(Error::Refused(objections));
    }
    let store = path.parent().unwrap_or(Path::new("/"));
    let exe = &image.process.layout.exe;
    let base = exe
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let name = options.name_or(&base);
    below(
        &What::Image {
            image: &image,
            new_ids,
            rewind: files == Files::Rewind,
        },
        name,
        store,
        &base,
        options,
        detach,
    )
}

/// One program writes into a store at a time.
fn lock(store: &Path) -> Result<File, Error> {
    let path = store.join(".lock");
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = hvckpt_files::open_regular(&path, &mut options)
        .context(|| format!("cannot open {}", path.display()))?;
    // A supervisor whose front was killed is a moment behind it.
    let until = Instant::now() + Duration::from_secs(2);
    while let Err(error) = lock.try_lock() {
        if let TryLockError::Error(error) = error {
            return Err(Error::Io(format!("cannot lock {}", path.display()), error));
        }
        if Instant::now() > until {
            let store = store.display();
            return Err(Error::refused(format!(
                "another program keeps its versions in {store}; see `hvckpt ps`"
            )));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(lock)
}

fn below(
    what: &What<'_>,
    name: String,
    store: &Path,
    program: &str,
    options: &Options,
    detach: bool,
) -> Result<u8, Error> {
    if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
        return Err(Error::refused(format!("{name:?} is no name")));
    }
    let store = fs::canonicalize(store).context(|| format!("cannot find {}", store.display()))?;
    let lock = lock(&store)?;
    let dir = client::run_dir()?;
    if client::sessions()?.iter().any(|s| s.name == name) {
        return Err(Error::refused(format!(
            "{name} runs already; choose another --name"
        )));
    }
    let place = Place {
        socket: dir.join(format!("{name}.sock")),
        info: dir.join(format!("{name}.json")),
    };
    // Left behind by one that was killed: it did not answer.
    place.remove();
    let listener = UnixListener::bind(&place.socket)
        .context(|| format!("cannot bind {}", place.socket.display()))?;
    let wanted = !matches!(what, What::Image { new_ids: true, .. });
    let mask = front::passed() | bit(libc::SIGCHLD);
    let before =
        sys::set_blocked(mask, libc::SIG_BLOCK).context(|| "cannot block signals".into())?;
    let body = |own_ids: bool| {
        let (store, listener, place) = (&store, &listener, &place);
        move |to: File| {
            let mut supervisor = Supervisor {
                pid: 0,
                store,
                place,
                own_ids,
                keep: options.keep,
                status: None,
            };
            supervisor.live(what, listener, &to, before, options.period, detach)
        }
    };
    // Before the program runs: who has seen it do something can ask for a version.
    let tell = |front: i32, own_ids: bool| {
        let session = Session {
            name: name.clone(),
            store: store.clone(),
            program: program.into(),
            front,
            own_ids,
        };
        let octets = serde_json::to_vec(&session).unwrap_or_default();
        hvckpt_files::replace(&place.info, &octets)
            .context(|| format!("cannot write {}", place.info.display()))
    };
    if !detach {
        tell(sys::own_pid(), wanted).inspect_err(|_| place.remove())?;
    }
    let mut own_ids = wanted;
    let mut placed = front::place(own_ids, &body(own_ids))?;
    if placed.is_none() && wanted {
        if matches!(what, What::Image { image, .. } if image.process.own_ids) {
            place.remove();
            return Err(Error::refused(
                "this system gives no namespace of pids (is /proc/sys/kernel/unprivileged_userns_clone 0?); --new-ids goes on with other pids",
            ));
        }
        own_ids = false;
        placed = front::place(false, &body(false))?;
    }
    let Some(mut placed) = placed else {
        place.remove();
        return Err(Error::refused("cannot start the supervisor"));
    };
    drop(lock);
    if detach {
        tell(placed.pid, own_ids)?;
    } else if own_ids != wanted {
        tell(sys::own_pid(), own_ids)?;
    }
    let mut line = String::new();
    let _ = placed.from.read_line(&mut line);
    let line = line.trim_end();
    if line == "ready" && detach {
        // A program which has ended already: see where that is said.
        if front::poll(&[placed.from.get_ref().as_raw_fd()], 0) == [true] {
            place.remove();
        }
        return Ok(0);
    }
    let result = if line == "ready" {
        front::follow(placed)
    } else {
        let _ = sys::wait(placed.pid, 0);
        Err(front::heard(line))
    };
    place.remove();
    drop(listener);
    result.map(front::end_as)
}

/// Where a session is found by others.
struct Place {
    socket: PathBuf,
    info: PathBuf,
}

impl Place {
    /// Not there, or not ours any more, is as good.
    fn remove(&self) {
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(&self.info);
    }
}

struct Supervisor<'a> {
    pid: i32,
    store: &'a Path,
    place: &'a Place,
    own_ids: bool,
    keep: usize,
    status: Option<i32>,
}

impl Supervisor<'_> {
    fn live(
        &mut self,
        what: &What<'_>,
        listener: &UnixListener,
        to: &File,
        before: u64,
        period: Option<Duration>,
        detach: bool,
    ) -> i32 {
        // SAFETY: plain numbers. Who ends the front ends the program.
        unsafe {
            if detach {
                libc::setsid();
            } else if self.own_ids {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            }
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        }
        let started = match what {
            What::Program(command) => spawn(command, before),
            What::Image {
                image,
                new_ids,
                rewind,
            } => restore::start(image, *new_ids, *rewind),
        };
        match started {
            Ok(pid) => self.pid = pid,
            Err(error) => {
                say(to, &front::told(&error));
                return 1;
            }
        }
        say(to, "ready");
        match self.serve(listener, period) {
            Ok(()) => say(to, &format!("status {}", self.status.unwrap_or(0))),
            Err(error) => say(to, &front::told(&error)),
        }
        if detach {
            // Said before: the front removes what it writes after that.
            self.place.remove();
        }
        0
    }

    fn serve(&mut self, listener: &UnixListener, period: Option<Duration>) -> Result<(), Error> {
        let cannot = || "cannot wait for signals".to_owned();
        let mask = front::passed() | bit(libc::SIGCHLD);
        let signals = sys::signal_fd(mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        let signals = File::from(signals.context(cannot)?);
        let mut due = period.map(|p| Instant::now() + p);
        while !self.ended() {
            let left = due.map(|d| d.saturating_duration_since(Instant::now()).as_millis() + 1);
            let timeout = left.map_or(-1, |ms| i32::try_from(ms).unwrap_or(i32::MAX));
            let ready = front::poll(&[signals.as_raw_fd(), listener.as_raw_fd()], timeout);
            while let Some((signal, everybody)) = front::next_signal(&signals).context(cannot)? {
                if signal != libc::SIGCHLD && !everybody && self.status.is_none() {
                    let _ = sys::kill(self.pid, signal);
                }
            }
            if self.ended() {
                break;
            }
            if ready.get(1) == Some(&true)
                && let Ok((stream, _)) = listener.accept()
            {
                self.answer(stream);
            }
            if due.is_some_and(|d| d <= Instant::now()) {
                // One that ended meanwhile wants none.
                if let Err(error) = self.take(false)
                    && !self.ended()
                    && self.status.is_none()
                {
                    let _ = writeln!(std::io::stderr(), "hvckpt: no version was written: {error}");
                }
                due = period.map(|p| Instant::now() + p);
            }
        }
        Ok(())
    }

    /// Reaps; true when the last process of the tree has ended.
    fn ended(&mut self) -> bool {
        let noticed = ENDED
            .lock()
            .map(|mut e| std::mem::take(&mut *e))
            .unwrap_or_default();
        for (pid, status) in noticed {
            if pid == self.pid {
                self.status = Some(status);
            }
        }
        loop {
            match sys::wait(-1, libc::WNOHANG) {
                Ok(Some((pid, status))) if !libc::WIFSTOPPED(status) => {
                    if pid == self.pid {
                        self.status = Some(status);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    fn answer(&mut self, stream: UnixStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let mut line = String::new();
        if BufReader::new(&stream).read_line(&mut line).is_err() {
            return;
        }
        // One who only looks whether somebody is here says nothing.
        let Ok(request) = serde_json::from_str::<Request>(&line) else {
            return;
        };
        let reply = match if request.look {
            self.look()
        } else {
            self.take(request.kill).map(Reply::Taken)
        } {
            Ok(reply) => reply,
            Err(Error::Refused(why)) => Reply::Refused(why),
            Err(error) => Reply::Failed(error.to_string()),
        };
        let text = serde_json::to_string(&reply).unwrap_or_default();
        let _ = writeln!(&stream, "{text}");
    }

    /// What a version could not keep; the program is not touched.
    fn look(&mut self) -> Result<Reply, Error> {
        if self.status.is_some() {
            return Err(self.gone());
        }
        crate::preflight::objections(self.pid, sys::own_pid()).map(Reply::Seen)
    }

    fn gone(&self) -> Error {
        Error::refused("the program has ended; only its children run on")
    }

    fn take(&mut self, kill: bool) -> Result<Answer, Error> {
        if self.status.is_some() {
            return Err(self.gone());
        }
        let versions = image::versions(self.store);
        let version = versions.last().map_or(1, |v| v + 1);
        let taken = capture::take(self.pid, self.store, version, self.own_ids, kill)?;
        if self.keep > 0 {
            let old = (versions.len() + 1).saturating_sub(self.keep);
            for version in versions.iter().take(old) {
                let _ = fs::remove_file(image::path_of(self.store, *version));
            }
        }
        Ok(Answer {
            version: taken.version,
            frozen_us: taken.frozen_us,
            bytes: taken.octets,
            pages: taken.pages,
        })
    }
}

fn spawn(command: &[OsString], blocked: u64) -> Result<i32, Error> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Error::refused("no program"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: one system call, on a number.
    unsafe {
        command.pre_exec(move || sys::set_blocked(blocked, libc::SIG_SETMASK).map(drop));
    }
    let child = command.spawn().map_err(|error| Error::NotStarted {
        status: if error.kind() == ErrorKind::NotFound {
            127
        } else {
            126
        },
        why: format!("cannot start {}: {error}", program.display()),
    })?;
    Ok(i32::try_from(child.id()).unwrap_or(0))
}

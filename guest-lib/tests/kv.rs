// SPDX-License-Identifier: MIT OR Apache-2.0
//! The key-value server, and clients which do not behave.

mod common;

/// For its own tests.
#[allow(dead_code)]
#[path = "../examples/kv/resp.rs"]
mod resp;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const MIB: usize = 1 << 20;

struct Kv {
    child: Child,
    address: SocketAddr,
    directory: PathBuf,
}

impl Kv {
    fn start(name: &str) -> Self {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("kv-{name}"));
        let _absent = std::fs::remove_dir_all(&directory);
        Self::open(directory, &[])
    }

    fn open(directory: PathBuf, arguments: &[&str]) -> Self {
        Self::spawn(directory, arguments, Stdio::inherit())
    }

    fn spawn(directory: PathBuf, arguments: &[&str], complaints: Stdio) -> Self {
        let mut child = Command::new(common::example("kv"))
            .arg("--dir")
            .arg(&directory)
            .args(["--listen", "127.0.0.1:0", "--trackers", "pt"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        let address = said.trim().rsplit(' ').next().unwrap().parse();
        let address = address.unwrap_or_else(|error| panic!("{said}: {error}"));
        Self {
            child,
            address,
            directory,
        }
    }

    /// Ends it, and starts it with the same store.
    fn again(mut self, arguments: &[&str]) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Self::open(std::mem::take(&mut self.directory), arguments)
    }

    fn version(&self) -> String {
        let info = self.all(b"INFO\r\nQUIT\r\n");
        let version = info.lines().find(|line| line.starts_with("version:"));
        version.unwrap().to_owned()
    }

    fn connect(&self) -> TcpStream {
        let tcp = TcpStream::connect(self.address).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        tcp
    }

    /// Sends, and reads until the server closes.
    fn all(&self, octets: &[u8]) -> String {
        let mut tcp = self.connect();
        // It may have closed before all is sent.
        let _sent = tcp.write_all(octets);
        let mut reply = Vec::new();
        let _reset = tcp.read_to_end(&mut reply);
        String::from_utf8_lossy(&reply).into_owned()
    }

    /// Whether a new client is served.
    fn serves(&self) {
        assert_eq!(ask(&mut self.connect(), b"PING\r\n", 7), b"+PONG\r\n");
    }

    fn set(&self, key: &str, bytes: usize) {
        let mut tcp = self.connect();
        let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${bytes}\r\n", key.len());
        let command = [head.as_bytes(), &vec![b'v'; bytes], b"\r\n"].concat();
        assert_eq!(ask(&mut tcp, &command, 5), b"+OK\r\n");
    }

    /// The most memory it ever had.
    fn peak(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<usize>().unwrap() * 1024
    }
}

impl Drop for Kv {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        let _absent = std::fs::remove_dir_all(&self.directory);
    }
}

/// Sends, and reads a reply of so many bytes.
fn ask(tcp: &mut TcpStream, command: &[u8], bytes: usize) -> Vec<u8> {
    tcp.write_all(command).unwrap();
    let mut reply = vec![0; bytes];
    tcp.read_exact(&mut reply).unwrap();
    reply
}

#[test]
fn replies_wait_for_who_takes_them() {
    let kv = Kv::start("replies");
    kv.set("big", 8 * MIB);
    let one = b"$8388608\r\n".len() + 8 * MIB + 2;
    // 14 KB each, for 4 GiB of replies.
    let mut greedy: Vec<_> = (0..8).map(|_| kv.connect()).collect();
    for tcp in &mut greedy {
        tcp.write_all(&b"GET big\r\n".repeat(500)).unwrap();
    }
    for _ in 0..20 {
        kv.serves();
    }
    // Who takes his gets them all.
    let mut tcp = kv.connect();
    let mut reply = vec![0; one];
    tcp.write_all(&b"GET big\r\n".repeat(20)).unwrap();
    for _ in 0..20 {
        tcp.read_exact(&mut reply).unwrap();
        assert!(reply.starts_with(b"$8388608\r\n") && reply.ends_with(b"v\r\n"));
    }
    // And one reply for all of it is refused.
    let many = [&b"MGET"[..], &b" big".repeat(1000), b"\r\n"].concat();
    let wanted = b"-ERR the reply is too long\r\n";
    assert_eq!(ask(&mut tcp, &many, wanted.len()), wanted);
    let peak = kv.peak() / MIB;
    assert!(peak < 600, "{peak} MiB");
}

/// So many lines of replies, and nothing behind them is there yet.
fn lines(tcp: &TcpStream, count: usize) -> Vec<String> {
    let lines = BufReader::new(tcp).lines().take(count);
    lines.map(Result::unwrap).collect()
}

/// A backup which never answers, and its key file.
fn deaf(name: &str) -> (TcpListener, String, PathBuf) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let keys = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("kv-keys-{name}"));
    let _absent = std::fs::remove_dir_all(&keys);
    let key = hvckpt::backup::add_key(&keys, "kv").unwrap();
    let path = keys.join("kv.key");
    let mut file = std::fs::OpenOptions::new();
    file.write(true).create_new(true).mode(0o600);
    let mut file = file.open(&path).unwrap();
    file.write_all(key.to_text().as_bytes()).unwrap();
    (listener, address, path)
}

#[test]
fn who_reads_something_else_does_not_wait_for_a_write() {
    let kv = Kv::start("beside");
    kv.set("old", 3);
    kv.set("new", 3);
    let (_listener, address, key) = deaf("beside");
    let key = key.to_str().unwrap();
    let backup = ["--backup", &*address, "--key", key];
    let kv = kv.again(&[&backup[..], &["--timeout", "3600"]].concat());
    let before = kv.version();
    let mut writes = kv.connect();
    writes.write_all(b"SET new www\r\nGET old\r\n").unwrap();
    while kv.version() == before {
        std::thread::yield_now();
    }
    // These would show it, or build on it.
    let waits = ["GET new", "MGET old new", "KEYS *", "DBSIZE", "SET old 4"].map(|command| {
        let mut tcp = kv.connect();
        tcp.write_all(format!("{command}\r\nPING\r\n").as_bytes())
            .unwrap();
        tcp
    });
    for _ in 0..20 {
        kv.serves();
        assert_eq!(
            kv.all(b"GET old\r\nEXISTS old\r\nMGET old x\r\nQUIT\r\n"),
            "$3\r\nvvv\r\n:1\r\n*2\r\n$3\r\nvvv\r\n$-1\r\n+OK\r\n"
        );
    }
    for mut tcp in [writes].into_iter().chain(waits) {
        tcp.set_nonblocking(true).unwrap();
        let early = tcp.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(early, Err(io::ErrorKind::WouldBlock));
    }
    // Without it they go on, in order.
    let kv = kv.again(&[&backup[..], &["--timeout", "1", "--degrade"]].concat());
    let before = kv.version();
    let mut writes = kv.connect();
    writes.write_all(b"SET new xxx\r\nGET old\r\n").unwrap();
    while kv.version() == before {
        std::thread::yield_now();
    }
    let mut waits = kv.connect();
    waits.write_all(b"GET new\r\nSET old 4\r\n").unwrap();
    assert_eq!(lines(&writes, 3), ["+OK", "$3", "vvv"]);
    assert_eq!(lines(&waits, 3), ["$3", "xxx", "+OK"]);
    let _gone = std::fs::remove_dir_all(PathBuf::from(key).parent().unwrap());
}

#[test]
fn reads_see_all_writes_which_were_acknowledged() {
    let kv = Kv::start("order");
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let (mut writer, mut reader) = (kv.connect(), kv.connect());
                for n in 0..60 {
                    let (ask, count) = match n % 3 {
                        0 => (&b"INCR n\r\n"[..], 1),
                        1 => (&b"INCR n\r\nGET n\r\nINCR n\r\n"[..], 4),
                        _ => (&b"GET n\r\nINCR n\r\n"[..], 3),
                    };
                    writer.write_all(ask).unwrap();
                    let number = |line: &String| line.trim_start_matches(':').parse::<u64>();
                    let said = lines(&writer, count);
                    let acknowledged = number(said.last().unwrap()).unwrap();
                    reader.write_all(b"GET n\r\n").unwrap();
                    let seen = number(&lines(&reader, 2)[1]).unwrap();
                    assert!(seen >= acknowledged, "{seen} after {said:?}");
                }
            });
        }
    });
    // Each third makes one, two and one.
    assert_eq!(kv.all(b"GET n\r\nQUIT\r\n"), "$3\r\n480\r\n+OK\r\n");
}

#[test]
fn quit_closes() {
    let kv = Kv::start("quit");
    assert_eq!(kv.all(b"PING\r\nQUIT\r\nSET a 1\r\n"), "+PONG\r\n+OK\r\n");
    assert_eq!(kv.all(b"*1\r\n$4\r\nquit\r\n"), "+OK\r\n");
    assert_eq!(kv.all(b"EXISTS a\r\nQUIT\r\n"), ":0\r\n+OK\r\n");
}

#[test]
fn nobody_need_read_what_it_complains_of() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kv-unheard");
    let _absent = std::fs::remove_dir_all(&directory);
    let (gone, unheard) = std::io::pipe().unwrap();
    drop(gone);
    let kv = Kv::spawn(directory, &[], unheard.into());
    assert_eq!(kv.all(b"POST / HTTP/1.1\r\n\r\n"), "");
    kv.serves();
}

#[test]
fn web_pages_cannot_give_commands() {
    let kv = Kv::start("http");
    for head in [
        "POST / HTTP/1.1\r\nHost: localhost\r\n",
        "post / HTTP/1.0\r\n",
        "PUT /x HTTP/1.1\r\nhost: localhost\r\n",
        "GET / HTTP/1.1\r\nAccept: */*\r\nHOST: localhost\r\n",
        "*1\r\n$4\r\nPOST\r\n",
        // Those below say nothing of a host.
        "PUT /x HTTP/1.1\r\n",
        "PUT /x HTTP/1.0\r\nContent-Length: 20\r\n",
        "PATCH / HTTP/1.1\r\n",
        "delete /a HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n",
        "WHATEVER / HTTP/2\r\n",
    ] {
        let said = kv.all(format!("{head}\r\nSET a 1\r\nSET b 2\r\n").as_bytes());
        assert!(!said.contains("OK"), "{head}: {said}");
    }
    assert_eq!(kv.all(b"DBSIZE\r\nQUIT\r\n"), ":0\r\n+OK\r\n");
}

#[test]
fn who_waits_for_the_server_says_so() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let mut child = Command::new(common::example("kv_load"))
        .args(["run", "--server", &address, "--seconds", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut heard = BufReader::new(child.stderr.take().unwrap());
    heard.read_line(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.contains("waiting 60 s at most"), "{said}");
    assert!(said.contains(&address), "{said}");
}

#[test]
fn who_sends_no_more_gets_all_replies() {
    let kv = Kv::start("half");
    kv.set("k", MIB);
    let mut tcp = kv.connect();
    tcp.write_all(&[&b"GET k\r\n".repeat(100)[..], b"DBSI"].concat())
        .unwrap();
    tcp.shutdown(Shutdown::Write).unwrap();
    let mut reply = Vec::new();
    tcp.read_to_end(&mut reply).unwrap();
    assert_eq!(reply.len(), 100 * ("$1048576\r\n".len() + MIB + 2));
    // Small ones as well, more than fit a turn.
    let mut tcp = kv.connect();
    tcp.write_all(&b"INCR n\r\n".repeat(5000)).unwrap();
    tcp.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    tcp.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), 5000);
    assert!(text.ends_with(":5000\r\n"));
}

#[test]
fn large_commands_leave_room_for_others() {
    let kv = Kv::start("large");
    let key = [&b"$280\r\n"[..], &[b'k'; 280], b"\r\n"].concat();
    let command = [b"*100001\r\n$3\r\nDEL\r\n", &key.repeat(100_000)[..]].concat();
    let mut tcp = kv.connect();
    for part in command.chunks(MIB) {
        tcp.write_all(part).unwrap();
        kv.serves();
    }
    let mut reply = [0; 4];
    tcp.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b":0\r\n");
}

#[test]
fn what_is_too_much_is_refused() {
    let kv = Kv::start("bounds");
    let endless = [b'x'; 100 << 10];
    let cases: &[&[u8]] = &[
        b"*1000000000\r\n",
        b"*99999999999999999999\r\n",
        b"*1\r\n$-5\r\n",
        b"*1\r\n$9223372036854775807\r\n",
        b"*1\r\n$40000000\r\n",
        b"*1\r\n#1\r\n",
        &endless,
    ];
    for case in cases {
        let said = kv.all(case);
        // Closing with bytes unread may take the words away.
        let right = said.starts_with("-ERR Protocol error") || said.is_empty();
        assert!(
            right,
            "{}: {said}",
            case[..20.min(case.len())].escape_ascii()
        );
        kv.serves();
    }
    // No name of a command is too long to be told that it is none.
    let long = [
        b"*1\r\n$1000000\r\n",
        &vec![b'n'; 1_000_000][..],
        b"\r\nQUIT\r\n",
    ]
    .concat();
    assert!(kv.all(&long).len() < 200);
}

#[test]
fn unfinished_commands_are_bounded_together() {
    let kv = Kv::start("unfinished");
    let part = vec![b'x'; 24 * MIB];
    let mut slow = Vec::new();
    for _ in 0..24 {
        let mut tcp = kv.connect();
        let _closed = tcp
            .write_all(b"*2\r\n$3\r\nGET\r\n$33000000\r\n")
            .and_then(|()| tcp.write_all(&part));
        slow.push(tcp);
        kv.serves();
    }
    let peak = kv.peak() / MIB;
    assert!(peak < 700, "{peak} MiB");
}

#[test]
fn connections_without_end_keep_nobody_out() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is valid for both calls.
    #[allow(unsafe_code)]
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max.min(4096);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    let kv = Kv::start("crowd");
    let mut crowd = Vec::new();
    for n in 0..2000 {
        match TcpStream::connect(kv.address) {
            Ok(tcp) => crowd.push(tcp),
            // No more descriptors here.
            Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => break,
            Err(error) => panic!("{n}: {error}"),
        }
        if n % 50 == 0 {
            kv.serves();
        }
    }
    assert!(crowd.len() > 950, "{}", crowd.len());
    crowd.truncate(crowd.len() - 50);
    kv.serves();
}

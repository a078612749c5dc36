// SPDX-License-Identifier: MIT OR Apache-2.0
//! An endpoint which Prometheus reads: `GET /metrics` and nothing else.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hvckpt_wire::listen::{self, Door, Limits, Pass, Stop, Stopper, Visit, stopper};

use super::Registry;

/// Clients at once. Who sends nothing makes room for who does.
const LIMITS: Limits = Limits {
    connections: 4,
    per_peer: 8,
    deadline: PATIENCE,
};
/// How long a client may take to ask, and then to listen.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest request, in bytes.
const REQUEST: usize = 8 << 10;

/// A running endpoint; dropping it ends it.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    stopper: Stopper,
    door: Door,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Listens on a port of this machine only; 0: any.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn loopback(port: u16, registry: Arc<Registry>) -> io::Result<Self> {
        Self::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), registry)
    }

    /// Listens on an address.  Whoever reaches it can read everything: there
    /// is neither authentication nor encryption.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn listen(address: SocketAddr, registry: Arc<Registry>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let (stopper, stop) = stopper()?;
        let door = Door::new(LIMITS)?;
        let served = door.clone();
        let thread = std::thread::Builder::new().name("hvckpt-metrics".into());
        let thread = thread.spawn(move || serve(&listener, &registry, &served, &stop))?;
        let thread = Some(thread);
        Ok(Self {
            address,
            stopper,
            door,
            thread,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
        self.door.close_all();
    }
}

fn serve(listener: &TcpListener, registry: &Arc<Registry>, door: &Door, stop: &Stop) {
    let start = |visit: Visit<TcpStream>| {
        let registry = registry.clone();
        let thread = std::thread::Builder::new().name("hvckpt-scrape".into());
        // Who hangs up, or sends nonsense, has no answer; so if there is no
        // thread.
        drop(thread.spawn(move || drop(answer(visit.stream, &visit.pass, &registry))));
    };
    // Out of descriptors, perhaps: it tries again.
    listen::serve(listener, door, stop, start, |_, _| {}, |_| {});
}

fn answer(mut client: TcpStream, pass: &Pass, registry: &Registry) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || request.len() > REQUEST {
            return Ok(());
        }
        client.set_read_timeout(Some(left))?;
        match client.read(&mut part)? {
            0 => return Ok(()),
            got => request.extend(&part[..got]),
        }
    }
    // An answer under way is cut for another one only when many do not listen.
    if !pass.prove(b"") {
        return Ok(());
    }
    let line = request.split(|&byte| byte == b'\r').next();
    let mut words = line.unwrap_or_default().split(|&byte| byte == b' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/metrics")) => ("200 OK", registry.prometheus()),
        (Some(b"GET"), _) => ("404 Not Found", "try /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", String::new()),
    };
    let bytes = body.len();
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {bytes}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Sample, Source, Value};

    #[derive(Debug)]
    struct One;

    impl Source for One {
        fn samples(&self) -> Vec<Sample> {
            vec![Sample {
                name: "x",
                help: "help",
                label: None,
                value: Value::Gauge(5),
            }]
        }
    }

    fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(request).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn it_answers_and_survives_nonsense() {
        let registry = Arc::new(Registry::new());
        registry.add("one", Arc::new(One));
        let endpoint = Endpoint::loopback(0, registry).unwrap();
        let address = endpoint.address();
        assert!(address.ip().is_loopback());
        drop(TcpStream::connect(address).unwrap());
        assert!(ask(address, b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask(address, b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(ask(address, b"\xff\r\n\r\n").starts_with("HTTP/1.1 405"));
        let text = ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("x{source=\"one\"} 5\n"));
        drop(endpoint);
        assert!(TcpStream::connect(address).is_err());
    }

    /// Connections which say nothing, or a byte now and then, or ask and do
    /// not listen, delay nobody by more than their turns.
    #[test]
    fn others_get_their_answers_beside_a_crowd() {
        let endpoint = Endpoint::loopback(0, Arc::new(Registry::new())).unwrap();
        let address = endpoint.address();
        let manners: [&[u8]; 3] = [b"", b"G", b"GET /metrics HTTP/1.1\r\n\r\n"];
        for manner in manners {
            let member = || {
                let mut client = TcpStream::connect(address).ok()?;
                client.write_all(manner).ok()?;
                client.set_nonblocking(true).ok()?;
                Some(client)
            };
            let mut crowd: Vec<_> = (0..60).map(|_| member()).collect();
            let mut answers = 0;
            // Anew at once, as they are closed.
            for _ in 0..60 {
                for one in &mut crowd {
                    let read = |client: &mut TcpStream| client.read(&mut [0; 1]);
                    let closed = |got: io::Result<usize>| {
                        got.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
                    };
                    if one.as_mut().is_none_or(|client| closed(read(client))) {
                        *one = member();
                    }
                }
                let mut client = TcpStream::connect(address).unwrap();
                let mut text = String::new();
                let asked = client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
                if asked.is_ok()
                    && client.read_to_string(&mut text).is_ok()
                    && text.starts_with("HTTP/1.1 200")
                {
                    answers += 1;
                }
                assert!(endpoint.door.count() <= LIMITS.threads());
                if answers == 5 {
                    break;
                }
            }
            assert_eq!(answers, 5, "{manner:?}");
        }
    }
}

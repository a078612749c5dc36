//! An endpoint which Prometheus reads: `GET /metrics` and nothing else, one
//! request at a time.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Registry;

/// How long a client may take in all.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest request, in bytes.
const REQUEST: usize = 8 << 10;

/// A running endpoint; dropping it ends it.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
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
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("hvckpt-metrics".into());
        let thread = thread.spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                match client {
                    // Who hangs up, or sends nonsense, has no answer.
                    Ok(client) => drop(answer(client, &registry)),
                    // Out of descriptors, perhaps: not in a tight loop.
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        })?;
        let thread = Some(thread);
        Ok(Self {
            address,
            stop,
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
        self.stop.store(true, Ordering::Release);
        let mut to = self.address;
        if to.ip().is_unspecified() {
            to.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        // Wakes the thread; if that fails it is left alone, not waited for.
        if TcpStream::connect_timeout(&to, PATIENCE).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _panicked = thread.join();
        }
    }
}

fn answer(mut client: TcpStream, registry: &Registry) -> io::Result<()> {
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
}

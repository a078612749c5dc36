// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both halves against each other, and the client against hostile servers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hvckpt_wire::token::Answer;
use hvckpt_wire::{Acceptor, ServerError};
use hvckpt_wire::{
    Error, Grant, Key, ModeSet, Reason, Refusal, Request, Secret, request_token, request_token_with,
};

/// Long enough never to be the reason for a result.
const AMPLE: Duration = Duration::from_secs(60);

fn pair() -> (Secret, Key) {
    let server = Secret::generate().unwrap();
    let key = Key::new("app", 77, server.public_key(), Secret::generate().unwrap()).unwrap();
    (server, key)
}

/// Runs `with` on the first connection.
fn listen<T: Send + 'static>(
    with: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (
        addr,
        thread::spawn(move || with(listener.accept().unwrap().0)),
    )
}

fn serve(server: Secret, answer: Answer) -> (SocketAddr, JoinHandle<Result<Request, ServerError>>) {
    listen(move |tcp| {
        let mut peer = Acceptor::new(&server)?.accept(tcp, Instant::now() + AMPLE)?;
        let request = peer.read_request()?;
        peer.answer(&answer)?;
        Ok(request)
    })
}

#[test]
fn grant_arrives_whole() {
    let (server, key) = pair();
    let mut grant = Grant::new([5; 16], Duration::from_secs(30), 3, 77);
    grant.max_pages = 1 << 40;
    let (addr, thread) = serve(server, Answer::Grant(grant));
    let request = Request {
        modes: ModeSet::PTXEN,
        max_pages: 9,
        max_ranges: 2,
    };
    assert_eq!(
        request_token_with(addr, &key, &request, AMPLE).unwrap(),
        grant
    );
    assert_eq!(thread.join().unwrap().unwrap(), request);
}

#[test]
fn server_learns_the_clients_key() {
    let (server, key) = pair();
    let expected = key.public_key();
    let (addr, thread) = listen(move |tcp| {
        Acceptor::new(&server)
            .unwrap()
            .accept(tcp, Instant::now() + AMPLE)
            .unwrap()
            .key()
    });
    // The server hangs up after the handshake.
    let result = request_token(addr, &key, AMPLE);
    assert!(matches!(result, Err(Error::Closed(_))), "{result:?}");
    assert_eq!(thread.join().unwrap(), expected);
}

#[test]
fn refusal_is_typed() {
    let (server, key) = pair();
    let mut refusal = Refusal::new(Reason::RateLimited, "slow down");
    refusal.retry_after = Duration::from_millis(500);
    let (addr, _thread) = serve(server, Answer::Refusal(refusal.clone()));
    match request_token(addr, &key, AMPLE) {
        Err(Error::Refused(got)) => assert_eq!(got, refusal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_server_is_not_trusted() {
    let (_, key) = pair();
    let (addr, thread) = serve(
        Secret::generate().unwrap(),
        Answer::Grant(Grant::new([1; 16], AMPLE, 1, 1)),
    );
    let result = request_token(addr, &key, AMPLE);
    assert!(
        matches!(result, Err(Error::ServerNotAuthentic(_))),
        "{result:?}"
    );
    assert!(thread.join().unwrap().is_err());
}

#[test]
fn nobody_listens() {
    let (_, key) = pair();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Nobody else can take the port while we have it.
    let port = listener.local_addr().unwrap().port();
    assert!(matches!(
        request_token(("127.0.0.2", port), &key, AMPLE),
        Err(Error::Connect(_))
    ));
    assert!(matches!(
        request_token("not an address", &key, AMPLE),
        Err(Error::Connect(_))
    ));
}

#[test]
fn silent_server_times_out() {
    let (_, key) = pair();
    let (addr, thread) = listen(|mut tcp| {
        // Reads until the client gives up, and never says a word.
        let _ = tcp.read_to_end(&mut Vec::new());
    });
    let result = request_token(addr, &key, Duration::from_millis(200));
    assert!(matches!(result, Err(Error::Timeout)), "{result:?}");
    thread.join().unwrap();
}

#[test]
fn server_which_is_none() {
    let (_, key) = pair();
    let (addr, _thread) = listen(|mut tcp| {
        let _ = tcp.read(&mut [0; 4096]);
        let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = tcp.read_to_end(&mut Vec::new());
    });
    let result = request_token(addr, &key, AMPLE);
    assert!(matches!(result, Err(Error::Handshake(_))), "{result:?}");
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets over versions and restarts.

use crate::kept::refuses;
use crate::world::World;

const SOCKETS: &str = r#"
import os, select, socket, sys, time
a, b = socket.socketpair(); a.sendall(b"left in it"); b.sendall(b"and back")
c, d = socket.socketpair(); d.sendall(b"last words"); d.close()
e, f = socket.socketpair(); e.shutdown(socket.SHUT_WR)
g, h = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400000); big = b"z" * 300000
i, j = socket.socketpair(); i.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
big = big[:i.send(big)]
server = socket.create_server(("127.0.0.1", 0), backlog=7)
server.setblocking(False)
port = server.getsockname()[1]
client = socket.create_connection(("127.0.0.1", port))
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while True:
    try: conn, _ = server.accept(); break
    except BlockingIOError: time.sleep(0.01)
conn.sendall(b"to be read")
select.select([client], [], [])
unix = socket.socket(socket.AF_UNIX); unix.bind("here"); unix.listen(3); os.chmod("here", 0o640)
hidden = socket.socket(socket.AF_UNIX); hidden.bind("\0hvckpt-%d" % time.time_ns()); hidden.listen(3)
udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 0))
to = socket.socket(type=socket.SOCK_DGRAM); to.connect(udp.getsockname())
plain = socket.socket()
poll = select.epoll(); poll.register(server, select.EPOLLIN, )
while not os.path.exists(sys.argv[1]):
    print("line", flush=True); time.sleep(0.005)
def eof(s): return s.recv(100) == b""
assert b.recv(100) == b"left in it" and a.recv(100) == b"and back"
a.sendall(b"new"); assert b.recv(100) == b"new"
assert c.recv(100) == b"last words" and eof(c)
assert eof(f); f.sendall(b"x"); assert e.recv(1) == b"x"
try: e.send(b"y"); assert False
except BrokenPipeError: pass
g.send(b"one"); g.send(b"two"); assert (h.recv(9), h.recv(9)) == (b"one", b"two")
got = b""
while len(got) < len(big): got += j.recv(1 << 20)
assert got == big
assert server.getsockname() == ("127.0.0.1", port) and poll.poll(0) == []
try: server.accept(); assert False
except BlockingIOError: pass
again = socket.create_connection(("127.0.0.1", port))
assert poll.poll(10) == [(server.fileno(), select.EPOLLIN)]
other, _ = server.accept(); other.sendall(b"hello"); assert again.recv(9) == b"hello"
assert client.recv(100) == b"to be read" and eof(client) and eof(conn)
assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
assert os.stat("here").st_mode & 0o777 == 0o640
for s in unix, hidden:
    near = socket.socket(socket.AF_UNIX); near.connect(s.getsockname() if s is hidden else "here")
    far, _ = s.accept(); near.sendall(b"!"); assert far.recv(1) == b"!"
to.send(b"datagram"); assert udp.recv(99) == b"datagram"
plain.connect(("127.0.0.1", port))
print("end", flush=True)
sys.exit(5)
"#;

#[test]
fn sockets_are_kept_and_connections_end() {
    let mut world = World::new();
    world.ordinary = true;
    let stop = world.text("stop");
    let (status, out) = world.lives(&["python3", "-c", SOCKETS, &stop]);
    assert_eq!(
        (status, out.lines().last()),
        (Some(5), Some("end")),
        "{out}"
    );
}

#[test]
fn what_of_sockets_is_not_kept_is_named() {
    refuses(
        "a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [0])",
        &["descriptors, or much"],
    );
    refuses(
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.send(b'x')",
        &["messages that wait"],
    );
    refuses(
        "n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
        &["family 16"],
    );
    refuses(
        "u = socket.socket(socket.AF_UNIX); u.bind('gone'); u.listen(); os.unlink('gone')",
        &["gone does not lead to it"],
    );
}

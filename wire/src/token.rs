// SPDX-License-Identifier: MIT OR Apache-2.0
//! The policy daemon's protocol: one connection, one request, one answer. The
//! octets are specified in `docs/spec-wire.md`.

mod client;
mod message;
mod reason;
mod server;

pub use client::{request_token, request_token_with};
pub use message::{Answer, BODY_MAX, Frame, Grant, Request, VERSION, read_frame};
pub use reason::{Reason, Refusal, TEXT_MAX, cut};
pub use server::Peer;

/// The TLS application protocol name; it carries the protocol's version.
pub const ALPN: &[u8] = b"hvckpt-policy/1";

/// Port the daemon listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 4884;

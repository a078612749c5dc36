// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a guest application gets a one-time token from the policy daemon in
//! Dom0, both halves: the client (used by the guest library) and the server
//! (used by `hvckpt-policy`).
//!
//! One TCP connection carries one TLS 1.3 handshake in which both sides
//! prove a raw Ed25519 public key (RFC 7250), one request and one answer.
//! The octets are specified in `docs/spec-wire.md`.
//!
//! Both kinds of server, this one and a store's backup, let connections in
//! by [`listen`].
//!
//! The crate starts no threads, installs no process-wide provider and keeps
//! no global state, so it can be linked into any application.
//!
//! ```no_run
//! use std::time::Duration;
//! # fn main() -> Result<(), hvckpt_wire::Error> {
//! let key = hvckpt_wire::Key::load("/etc/hvckpt/guest.key")?;
//! let grant = hvckpt_wire::request_token("10.84.0.1:4884", &key, Duration::from_secs(5))?;
//! // Hand `grant.token` to CDA_OP_attach within `grant.lifetime`.
//! # let _ = grant.token; Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod channel;
mod client;
mod deadline;
mod error;
pub mod files;
mod hex;
mod key;
pub mod listen;
pub mod server;
mod tls;
pub mod wire;

pub use channel::Channel;
pub use client::{request_token, request_token_with};
pub use error::{Error, KeyError};
pub use hvckpt_abi::{Mode, ModeSet};
pub use key::{Key, NAME_MAX, PublicKey, Secret, valid_name};
pub use wire::{Grant, Reason, Refusal, Request};

/// The TLS application protocol name; it carries the protocol's version.
pub const ALPN: &[u8] = b"hvckpt-policy/1";

/// Port the daemon listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 4884;

// SPDX-License-Identifier: MIT OR Apache-2.0
//! How machines of hvckpt speak with each other, and what both of their
//! servers need: keys, TLS, frames, listeners.
//!
//! Two protocols stand on it: [`token`], by which a guest application gets a
//! one-time token from the policy daemon in Dom0, is here, both halves; that
//! between a store and its backup is the library's.
//!
//! A connection is TLS 1.3 on TCP, and both sides prove a raw Ed25519 public
//! key (RFC 7250). Servers let connections in by [`listen`].
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

mod accept;
mod channel;
mod connect;
mod deadline;
mod error;
pub mod frame;
mod hex;
pub mod home;
mod key;
pub mod listen;
mod tls;
pub mod token;

pub use accept::{Acceptor, ServerError};
pub use channel::Channel;
pub use error::{Error, KeyError};
pub use hvckpt_abi::{Mode, ModeSet};
pub use key::{Key, NAME_MAX, PublicKey, Secret, random, valid_name};
pub use token::{
    ALPN, DEFAULT_PORT, Grant, Reason, Refusal, Request, request_token, request_token_with,
};

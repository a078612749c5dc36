// SPDX-License-Identifier: MIT OR Apache-2.0
//! No way to the policy daemon.

use std::path::PathBuf;
use std::time::Duration;

use super::AttachError;
use hvckpt_sys::abi::CDA_TOKEN_BYTES;

pub(super) fn request(
    _key: PathBuf,
    _address: String,
    _timeout: Duration,
) -> Result<[u8; CDA_TOKEN_BYTES], AttachError> {
    Err(AttachError::NoTransport)
}

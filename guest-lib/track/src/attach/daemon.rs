// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asking the policy daemon for a token.

use std::path::PathBuf;
use std::time::Duration;

use hvckpt_sys::abi::CDA_TOKEN_BYTES;
use hvckpt_wire::{Key, Reason};

use super::AttachError;

pub(super) fn request(
    path: PathBuf,
    address: String,
    timeout: Duration,
) -> Result<[u8; CDA_TOKEN_BYTES], AttachError> {
    let key = Key::load(&path).map_err(|error| key_error(path, error))?;
    hvckpt_wire::request_token(address.as_str(), &key, timeout)
        .map(|grant| grant.token)
        .map_err(|error| request_error(address, error))
}

fn key_error(path: PathBuf, source: hvckpt_wire::KeyError) -> AttachError {
    use hvckpt_wire::KeyError;
    match source {
        KeyError::Read { source, .. } => AttachError::KeyUnreadable { path, source },
        KeyError::Permissions { mode, .. } => AttachError::KeyOpen { path, mode },
        _ => AttachError::KeyInvalid { path, source },
    }
}

fn request_error(address: String, source: hvckpt_wire::Error) -> AttachError {
    use hvckpt_wire::Error;
    match source {
        Error::ServerNotAuthentic(_) => AttachError::NotAuthentic { address, source },
        Error::Connect(_) | Error::Timeout | Error::Closed(_) => {
            AttachError::Unreachable { address, source }
        }
        Error::Refused(refusal) if refusal.reason == Reason::Quota => {
            AttachError::Quota(refusal.text)
        }
        Error::Refused(refusal) => AttachError::Refused {
            reason: refusal.reason.name(),
            text: refusal.text,
            retry_after: refusal.retry_after,
        },
        _ => AttachError::Protocol { address, source },
    }
}

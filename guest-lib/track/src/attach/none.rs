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

#[cfg(test)]
mod tests {
    use crate::{Attach, AttachError};

    #[test]
    fn who_has_no_way_to_the_daemon_is_told() {
        let attach = Attach::new().key("/nowhere/key").policy("127.0.0.1:1");
        let refused = attach.request_token().unwrap_err();
        assert!(matches!(refused, AttachError::NoTransport), "{refused}");
        assert_eq!(attach.token([7; 16]).request_token().unwrap(), [7; 16]);
    }
}

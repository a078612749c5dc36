// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors as one line of text.

use core::fmt::Write;

/// An error and everything behind it, in one line.
#[must_use]
pub fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.ends_with(&said) {
            // Writing to a string does not fail.
            let _infallible = write!(text, ": {said}");
        }
        cause = inner.source();
    }
    text
}

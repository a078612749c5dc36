// SPDX-License-Identifier: MIT OR Apache-2.0
//! `hvckpt-policy`: see the library for what it does.
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match hvckpt_policy::cli::Cli::try_parse() {
        Ok(cli) => hvckpt_policy::cli::run(cli),
        // Help is a result, too.
        Err(told) => match told.print().and_then(|()| io::stdout().flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe && !told.use_stderr() => {
                let _unheard = writeln!(io::stderr(), "hvckpt-policy: cannot print: {error}");
                ExitCode::FAILURE
            }
            _ => ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2)),
        },
    }
}

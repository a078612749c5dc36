// SPDX-License-Identifier: MIT OR Apache-2.0
//! `hvckpt-policy`: see the library for what it does.
#![forbid(unsafe_code)]

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    hvckpt_policy::cli::run(hvckpt_policy::cli::Cli::parse())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Printing for programs whose reader may go away (`| head`).

/// As `println!`, which would panic then; this ends the program as SIGPIPE does.
macro_rules! say {
    ($($text:tt)*) => { say::line(format_args!($($text)*)) };
}

pub fn line(text: core::fmt::Arguments<'_>) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            // Nobody hears this if standard error is gone, too.
            let _unheard = writeln!(std::io::stderr(), "cannot print: {error}");
        }
        std::process::exit(128 + 13);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Printing for programs whose reader may go away (`| head`, `2>&1 | head`).

/// As `println!`, which would panic then; this ends the program as SIGPIPE does.
#[allow(unused_macros)] // the same
macro_rules! say {
    ($($text:tt)*) => { say::line(format_args!($($text)*)) };
}

/// As `eprintln!`, which would panic if nobody reads standard error any more.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _unheard = writeln!(std::io::stderr(), $($text)*);
    }};
}

#[allow(dead_code)] // not by those who complain only
pub fn line(text: core::fmt::Arguments<'_>) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            complain!("cannot print: {error}");
        }
        std::process::exit(128 + 13);
    }
}

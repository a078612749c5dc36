// SPDX-License-Identifier: MIT OR Apache-2.0
//! The header, as a C program uses it.

use std::path::Path;
use std::process::Command;

#[test]
fn a_c_program() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exe = std::env::current_exe().unwrap();
    let libraries = exe.parent().unwrap();
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("process-program");
    let built = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-O2", "-pthread", "-o"])
        .arg(&program)
        .arg(here.join("tests/program.c"))
        .arg("-I")
        .arg(here.join("include"))
        .arg("-L")
        .arg(libraries)
        .arg("-lhvckpt_process")
        .status()
        .unwrap();
    assert!(built.success());
    let out = Command::new(&program)
        .env("LD_LIBRARY_PATH", libraries)
        .output()
        .unwrap();
    assert!(
        out.status.success() && out.stdout == b"done\n",
        "{}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
}

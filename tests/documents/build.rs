// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes modules of the Rust blocks in README and docs: `documents.rs`.
#![allow(missing_docs)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..");
    let mut files = vec![root.join("README.md"), root.join("xen-patch/README.md")];
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", root.join("docs").display());
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        files.push(entry.unwrap().path());
    }
    files.retain(|file| file.extension().is_some_and(|e| e == "md"));
    files.sort();
    let (mut modules, mut list) = (String::new(), String::new());
    for file in &files {
        println!("cargo:rerun-if-changed={}", file.display());
        let text = fs::read_to_string(file).unwrap();
        for (line, code) in blocks(&text) {
            let module = format!("{}_{line}", name(file, &root));
            write!(
                modules,
                "#[allow(unused_variables, clippy::all)]\nmod {module} {{\n{}\n}}\n",
                program(&code)
            )
            .unwrap();
            let crashes = code.contains("process::abort()");
            writeln!(list, "    (\"{module}\", {module}::run, {crashes}),").unwrap();
        }
    }
    let out = Path::new(&env::var_os("OUT_DIR").unwrap()).join("documents.rs");
    let list = format!("const BLOCKS: &[Block] = &[\n{list}];\n");
    fs::write(out, modules + &list).unwrap();
}

fn name(file: &Path, root: &Path) -> String {
    let inside = file.strip_prefix(root).unwrap().with_extension("");
    let name = inside.to_str().unwrap().to_lowercase();
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// Line and content of each block of Rust.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut inside = None;
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), inside) {
            (Some("rust"), None) => {
                found.push((number + 1, String::new()));
                inside = Some(true);
            }
            (Some(_), None) => inside = Some(false),
            (Some(_), Some(_)) => inside = None,
            (None, Some(true)) => {
                if let Some((_, code)) = found.last_mut() {
                    *code += line;
                    *code += "\n";
                }
            }
            (None, _) => {}
        }
    }
    found
}

/// A whole program as it stands; anything else becomes the body of one. What a
/// reader has to name for himself is named by the test.
fn program(code: &str) -> String {
    let code = code
        .replace("\"/var/lib/app\"", "\"var-lib-app\"")
        .replace("\"backup:4885\"", "std::env::var(\"HVCKPT_DOC_BACKUP\")?");
    let whole = if code.contains("fn main()") {
        code
    } else {
        format!("pub fn main() -> Result<(), Box<dyn std::error::Error>> {{\n{code}\nOk(())\n}}\n")
    };
    format!("{whole}\npub fn run() -> Result<(), String> {{ super::Outcome::outcome(main()) }}")
}

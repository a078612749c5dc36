// SPDX-License-Identifier: MIT OR Apache-2.0
//! What README and docs show works: Rust and C are compiled and run, commands
//! have the options which are shown.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hvckpt::backup::{Server, ServerOptions, add_key};

/// What `main` may return.
trait Outcome {
    fn outcome(self) -> Result<(), String>;
}

impl Outcome for () {
    fn outcome(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Debug> Outcome for Result<(), E> {
    fn outcome(self) -> Result<(), String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Name, what runs it, and whether it is meant to crash.
type Block = (&'static str, fn() -> Result<(), String>, bool);

include!(concat!(env!("OUT_DIR"), "/documents.rs"));

/// Inputs of key derivation, which only look like commands.
const LABELS: [&str; 3] = ["hvckpt image", "hvckpt frame", "hvckpt store key id"];
const BLOCK: &str = "HVCKPT_DOC_BLOCK";

/// A directory which goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hvckpt-doc-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where the programs and libraries of this build are.
fn built() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().nth(2).unwrap().to_owned()
}

/// Builds what the tests of another package would have been given.
fn build(arguments: &[&str]) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet"]).args(arguments);
    if built().ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(root()).status().unwrap();
    assert!(status.success(), "cargo build {arguments:?}: {status}");
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn one_block() {
    let wanted = std::env::var(BLOCK).unwrap();
    let (_, run, _) = BLOCKS.iter().find(|(name, ..)| *name == wanted).unwrap();
    run().unwrap();
}

fn run_block(name: &str, crashes: bool, directory: &Path, backup: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "one_block", "--ignored", "--nocapture"])
        .env(BLOCK, name)
        .env("HVCKPT_DOC_BACKUP", backup)
        .env_remove("HVCKPT_KEY")
        .current_dir(directory)
        .output()
        .unwrap();
    let as_shown = if crashes {
        output.status.signal() == Some(6)
    } else {
        output.status.success()
    };
    assert!(as_shown, "{name}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn rust_runs_as_it_stands() {
    let scratch = Scratch::new("rust");
    let server = scratch.0.join("server");
    fs::create_dir(&server).unwrap();
    fs::set_permissions(&server, fs::Permissions::from_mode(0o700)).unwrap();
    let key = add_key(&server, "app").unwrap();
    let backup = Server::start(ServerOptions::new(&server, "127.0.0.1:0")).unwrap();
    let address = backup.address().to_string();
    assert!(BLOCKS.len() >= 6, "the documents have more than that");
    for (name, _, crashes) in BLOCKS {
        let directory = scratch.0.join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("app.key"), key.to_text().as_bytes()).unwrap();
        fs::set_permissions(directory.join("app.key"), fs::Permissions::from_mode(0o600)).unwrap();
        // The second time finds what the first left.
        for time in 0..2 {
            let said = run_block(name, *crashes, &directory, &address);
            if *crashes {
                let recovered = said.lines().any(|line| line.ends_with(&format!("{time}")));
                assert!(recovered, "{name}, start {time}: {said}");
            }
        }
    }
    assert!(
        BLOCKS
            .iter()
            .any(|(name, _, crashes)| *crashes && name.starts_with("readme"))
    );
}

/// File and text of everything that is read by people.
fn documents() -> BTreeMap<String, String> {
    let mut files = vec![root().join("README.md"), root().join("xen-patch/README.md")];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        files.push(entry.unwrap().path());
    }
    files.retain(|file| file.extension().is_some_and(|e| e == "md"));
    files
        .into_iter()
        .map(|file| {
            (
                file.display().to_string(),
                fs::read_to_string(&file).unwrap(),
            )
        })
        .collect()
}

/// Lines of blocks of this language (empty: none named), block by block.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside: Option<(bool, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), inside.take()) {
            (Some(named), None) => inside = Some((named == language, String::new())),
            (Some(_), Some((wanted, block))) if wanted => found.push(block),
            (Some(_), Some(_)) | (None, None) => {}
            (None, Some((wanted, block))) => inside = Some((wanted, block + line + "\n")),
        }
    }
    found
}

#[test]
fn c_runs_as_it_stands() {
    build(&["--package", "hvckpt", "--lib"]);
    let scratch = Scratch::new("c");
    let include = format!("-I{}", root().join("guest-lib/include").display());
    let search = format!("-L{}", built().display());
    let header = fs::read_to_string(root().join("guest-lib/include/hvckpt.h")).unwrap();
    let mut programs = vec![("hvckpt.h".to_owned(), of_header(&header))];
    for (file, text) in documents() {
        programs.extend(
            blocks(&text, "c")
                .into_iter()
                .map(|code| (file.clone(), code)),
        );
    }
    assert!(programs.len() > 1, "the documents have C");
    for (file, code) in programs {
        let (source, program) = (scratch.0.join("block.c"), scratch.0.join("block"));
        fs::write(&source, &code).unwrap();
        let compiled = Command::new("cc")
            .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", &include, "-o"])
            .args([&program, &source])
            .args([&search, "-lhvckpt"])
            .output()
            .expect("a C compiler (cc) is needed");
        assert!(compiled.status.success(), "{file}: {compiled:?}");
        let output = Command::new(&program)
            .env("LD_LIBRARY_PATH", built())
            .current_dir(&scratch.0)
            .output()
            .unwrap();
        assert!(output.status.success(), "{file}: {output:?}");
    }
}

/// The examples in the header's comments, which go on from each other, as a program.
fn of_header(header: &str) -> String {
    let lines: Vec<&str> = header
        .lines()
        .filter_map(|line| line.strip_prefix(" *     "))
        .collect();
    assert!(lines.len() > 10, "the header has examples");
    let code = lines.join("\n").replace("/var/lib/app", "var-lib-app");
    format!(
        "#include <err.h>\n#include <hvckpt.h>\n#include <string.h>\n\
         int main(void)\n{{\n{code}\nreturn 0;\n}}\n"
    )
}

/// Everything that looks like a command: lines of blocks, and code in text.
fn commands(text: &str) -> Vec<String> {
    let mut found: Vec<String> = blocks(text, "")
        .join("")
        .lines()
        .map(str::to_owned)
        .collect();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
        } else if let Some(line) = line.strip_prefix("    ") {
            found.push(line.to_owned());
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

fn help(program: &Path, arguments: &[&str]) -> String {
    let run = |command: &mut Command| -> Output { command.arg("--help").output().unwrap() };
    let output = run(Command::new(program).args(arguments));
    assert!(
        output.status.success(),
        "{program:?} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Names under "Commands:" of a help text.
fn subcommands(help: &str) -> Vec<&str> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

fn has_option(help: &str, option: &str) -> bool {
    help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))
        .any(|word| word == option)
}

/// What is wrong with a command line, if it is one of ours.
fn wrong(line: &str) -> Option<String> {
    let line = line.split(" #").next().unwrap_or_default();
    let line = line.split(['|', ';', '>', '&']).next().unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    let set = |word: &&&str| word.contains('=') && word.starts_with("HVCKPT_");
    let words = &words[words.iter().take_while(set).count()..];
    let (program, arguments) = words.split_first()?;
    let path = match *program {
        "hvckpt" | "hvckpt-policy" | "exact" | "cost" | "insn" => built().join(program),
        "kv" | "kv_load" => built().join("examples").join(program),
        "cargo" => return wrong_test(arguments),
        script if script.starts_with("scripts/") && !script.starts_with("scripts/li") => {
            root().join(script)
        }
        _ => return None,
    };
    if !path.exists() {
        return Some(format!("there is no {program}"));
    }
    let mut under: Vec<&str> = Vec::new();
    let mut text = help(&path, &under);
    let mut rest = arguments;
    while let Some((word, others)) = rest.split_first() {
        let known = subcommands(&text);
        if known.is_empty()
            || word.starts_with('-')
            || !word.chars().all(|c| c.is_ascii_lowercase())
        {
            break;
        }
        if !known.contains(word) {
            return Some(format!("{program} has no command {word}"));
        }
        under.push(word);
        text = help(&path, &under);
        rest = others;
    }
    rest.iter()
        // What comes after a program of the reader's is its own.
        .take_while(|word| !word.starts_with("./") && **word != "--")
        .filter(|word| word.starts_with('-') && **word != "-")
        .map(|word| word.split('=').next().unwrap_or(word))
        .map(|word| word.trim_end_matches([',', ')', ']']))
        .find(|word| !has_option(&text, word))
        .map(|word| format!("{program} {} has no option {word}", under.join(" ")))
}

/// `cargo test … --test NAME`: there is such a test.
fn wrong_test(arguments: &[&str]) -> Option<String> {
    let at = arguments.iter().position(|word| *word == "--test")?;
    let name = arguments.get(at + 1)?;
    let file = format!("tests/{name}.rs");
    let all = [
        "guest-lib",
        "guest-lib/cli",
        "dom0-policy",
        "wire",
        "bench",
        "process",
        "restart",
        "tests/documents",
        "tests/guest",
    ];
    let there = name.contains('…') || all.iter().any(|dir| root().join(dir).join(&file).exists());
    (!there).then(|| format!("there is no test {name}"))
}

#[test]
fn commands_have_the_options_which_are_shown() {
    build(&["--package", "hvckpt", "--examples"]);
    build(&["--package", "hvckpt-cli", "--bins"]);
    build(&["--package", "hvckpt-policy", "--bins"]);
    build(&["--package", "hvckpt-guest-tests", "--bins"]);
    let (mut seen, mut faults) = (0, Vec::new());
    for (file, text) in documents() {
        for line in commands(&text) {
            seen += 1;
            if LABELS.contains(&&*line) {
                continue;
            }
            if let Some(fault) = wrong(&line) {
                faults.push(format!("{file}: {line}: {fault}"));
            }
        }
    }
    assert!(seen > 100, "only {seen} were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // And it would notice.
    assert!(wrong("hvckpt nothing").is_some());
    assert!(wrong("hvckpt inspect DIR --nothing").is_some());
    assert!(wrong("HVCKPT_QUIET=1 scripts/build-xen --nothing").is_some());
    assert!(wrong("cargo test -p hvckpt --test nothing").is_some());
    assert!(wrong("hvckpt inspect DIR --json").is_none());
}

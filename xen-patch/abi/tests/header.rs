// SPDX-License-Identifier: MIT OR Apache-2.0
//! Has the C compiler evaluate `cda.h`, and compares every size, offset and
//! constant with the definitions here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use hvckpt_abi::{CONSTANTS, LAYOUTS, Mode, ModeSet, control, gate, mode};

fn header() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/public/cda.h")
}

fn constants() -> Vec<(&'static str, u64)> {
    let lists = [
        CONSTANTS,
        gate::CONSTANTS,
        control::CONSTANTS,
        mode::CONSTANTS,
    ];
    lists.concat()
}

/// What C says of these expressions.
fn ask(expressions: &[String]) -> BTreeMap<String, u64> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("abi-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mut source = format!(
        "#include <stdint.h>\n#include <stddef.h>\n#include <stdio.h>\n#include \"{}\"\nint main(void) {{\n",
        header().display()
    );
    for e in expressions {
        let _ = writeln!(
            source,
            "printf(\"%s=%llu\\n\", \"{e}\", (unsigned long long)({e}));"
        );
    }
    source.push_str("return 0; }\n");
    let (c, program) = (dir.join("ask.c"), dir.join("ask"));
    std::fs::write(&c, source).unwrap();
    let built = Command::new("cc")
        .args(["-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg(&c)
        .output();
    let built = built.expect("the test needs a C compiler named cc");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let output = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let parse = |line: &str| {
        let (name, value) = line.rsplit_once('=').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    output.lines().map(parse).collect()
}

#[test]
fn definitions_match_the_header() {
    let mut expected = BTreeMap::new();
    for layout in [LAYOUTS, gate::LAYOUTS, control::LAYOUTS].concat() {
        let name = layout.name;
        expected.insert(format!("sizeof(struct {name})"), layout.size as u64);
        for (field, offset, size) in layout.fields {
            expected.insert(format!("offsetof(struct {name}, {field})"), *offset as u64);
            expected.insert(
                format!("sizeof(((struct {name} *)0)->{field})"),
                *size as u64,
            );
        }
    }
    expected.extend(
        constants()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value)),
    );
    assert!(
        expected.len() > 180,
        "only {} facts compared",
        expected.len()
    );
    let names: Vec<String> = expected.keys().cloned().collect();
    assert_eq!(ask(&names), expected);
}

#[test]
fn nothing_in_the_header_is_forgotten() {
    let text = std::fs::read_to_string(header()).unwrap();
    let here: BTreeSet<&str> = constants().into_iter().map(|(name, _)| name).collect();
    let there = text
        .lines()
        .filter_map(|line| line.strip_prefix("#define "));
    let there = there.filter_map(|line| line.split([' ', '(']).next());
    let there: BTreeSet<&str> = there.filter(|name| !name.ends_with("_H__")).collect();
    assert_eq!(here, there);
    let structures = text
        .lines()
        .filter_map(|line| line.strip_prefix("struct ")?.strip_suffix(" {"));
    let structures: BTreeSet<&str> = structures.collect();
    let layouts = [LAYOUTS, gate::LAYOUTS, control::LAYOUTS].concat();
    assert_eq!(
        layouts.iter().map(|l| l.name).collect::<BTreeSet<_>>(),
        structures
    );
}

#[test]
fn sets_of_modes() {
    assert_eq!(
        ModeSet::parse("ptxen,scanxen"),
        Some(ModeSet::PTXEN | ModeSet::SCANXEN)
    );
    assert_eq!(ModeSet::parse("all"), Some(ModeSet::all()));
    for wrong in ["", "ptxen,", "PTXEN", "all,ptxen", "pt"] {
        assert_eq!(ModeSet::parse(wrong), None, "{wrong:?}");
    }
    assert_eq!(
        (ModeSet::PTXEN | ModeSet::AUTOXEN).to_string(),
        "ptxen,autoxen"
    );
    assert_eq!(ModeSet::empty().to_string(), "none");
    for mode in Mode::ALL {
        assert_eq!(mode.set().bits(), 1 << mode.number());
        assert_eq!(ModeSet::of_capabilities(1 | mode.capability()), mode.set());
        assert_eq!(ModeSet::parse(mode.name()), Some(mode.set()));
    }
    assert_eq!(ModeSet::of_capabilities(u64::MAX), ModeSet::all());
}

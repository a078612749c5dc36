//! Compiles `cda.h` with the C compiler and compares every size, offset and
//! constant with the Rust definitions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use xen_sys::abi::{CONSTANTS, LAYOUTS};

#[test]
fn definitions_match_the_header() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xen-patch/include/public/cda.h");
    let mut source = format!(
        "#include <stdint.h>\n#include <stddef.h>\n#include <stdio.h>\n#include \"{}\"\nint main(void) {{\n",
        header.display()
    );
    let mut expected = BTreeMap::new();
    let mut want = |expression: String, value: u64| {
        let _ = writeln!(
            source,
            "printf(\"%s=%llu\\n\", \"{expression}\", (unsigned long long)({expression}));"
        );
        expected.insert(expression, value);
    };
    for layout in LAYOUTS {
        let name = layout.name;
        want(format!("sizeof(struct {name})"), layout.size as u64);
        for (field, offset, size) in layout.fields {
            want(format!("offsetof(struct {name}, {field})"), *offset as u64);
            want(
                format!("sizeof(((struct {name} *)0)->{field})"),
                *size as u64,
            );
        }
    }
    for (name, value) in CONSTANTS {
        want((*name).to_owned(), *value);
    }
    source.push_str("return 0; }\n");

    let dir = tempfile::tempdir().unwrap();
    let (c, program) = (dir.path().join("layout.c"), dir.path().join("layout"));
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
    let found: BTreeMap<String, u64> = output
        .lines()
        .map(|line| line.rsplit_once('=').unwrap())
        .map(|(expression, value)| (expression.to_owned(), value.parse().unwrap()))
        .collect();
    assert_eq!(found, expected);
    assert!(found.len() > 100, "only {} facts compared", found.len());
}

//! The Rust mirror of the ABI against the header, as the C compiler sees it.

use std::collections::BTreeMap;
use std::fs;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use hvckpt::abi::*;

fn header() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../xen-patch/include/public/cda.h")
}

/// Lets the compiler evaluate expressions.
fn ask_c(expressions: &[String]) -> BTreeMap<String, u64> {
    // Tests run at once; each has expressions of its own number.
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "abi-{}-{}",
        std::process::id(),
        expressions.len()
    ));
    fs::create_dir_all(&dir).unwrap();
    let mut source = format!(
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n#include \"{}\"\nint main(void) {{\n",
        header().display()
    );
    for expression in expressions {
        let print = format!(
            "printf(\"%s=%llu\\n\", \"{expression}\", (unsigned long long)({expression}));\n"
        );
        source.push_str(&print);
    }
    source.push_str("return 0; }\n");
    let (c, program) = (dir.join("ask.c"), dir.join("ask"));
    fs::write(&c, source).unwrap();
    let built = Command::new("cc")
        .arg("-Wall")
        .arg("-o")
        .arg(&program)
        .arg(&c)
        .output();
    let built = built.expect("a C compiler (cc) is needed");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let output = Command::new(&program).output().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let parse = |line: &str| {
        let (name, value) = line.rsplit_once('=').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(parse)
        .collect()
}

fn compare(pairs: &[(String, u64)]) {
    let names: Vec<String> = pairs.iter().map(|(name, _)| name.clone()).collect();
    let c = ask_c(&names);
    for (name, rust) in pairs {
        assert_eq!(c[name], *rust, "{name}: C has {}, Rust {rust}", c[name]);
    }
}

#[test]
fn constants_agree_and_none_is_forgotten() {
    let pairs: Vec<(String, u64)> = [
        ("CDA_ABI_VERSION", CDA_ABI_VERSION),
        ("CDA_VECTOR", u64::from(CDA_VECTOR)),
        ("CDA_OP_version", CDA_OP_VERSION),
        ("CDA_OP_attach", CDA_OP_ATTACH),
        ("CDA_OP_detach", CDA_OP_DETACH),
        ("CDA_OP_register", CDA_OP_REGISTER),
        ("CDA_OP_unregister", CDA_OP_UNREGISTER),
        ("CDA_OP_begin", CDA_OP_BEGIN),
        ("CDA_OP_end", CDA_OP_END),
        ("CDA_OP_commit", CDA_OP_COMMIT),
        ("CDA_OP_peek", CDA_OP_PEEK),
        ("CDA_OP_query", CDA_OP_QUERY),
        ("CDA_CAP_PTXEN", CDA_CAP_PTXEN),
        ("CDA_CAP_EMULXEN", CDA_CAP_EMULXEN),
        ("CDA_CAP_SCANXEN", CDA_CAP_SCANXEN),
        ("CDA_CAP_AUTOXEN", CDA_CAP_AUTOXEN),
        ("CDA_ALL_RANGES", CDA_ALL_RANGES),
        ("CDA_RESULT_LOST", CDA_RESULT_LOST),
        ("CDA_RESULT_COUNT", CDA_RESULT_COUNT),
        ("CDA_EKEYREVOKED", CDA_EKEYREVOKED.cast_unsigned()),
        ("CDA_TOKEN_BYTES", CDA_TOKEN_BYTES as u64),
        ("CDA_MODE_PTXEN", u64::from(CDA_MODE_PTXEN)),
        ("CDA_MODE_EMULXEN", u64::from(CDA_MODE_EMULXEN)),
        ("CDA_MODE_SCANXEN", u64::from(CDA_MODE_SCANXEN)),
        ("CDA_MODE_AUTOXEN", u64::from(CDA_MODE_AUTOXEN)),
        ("CDA_LOG_LOST", u64::from(CDA_LOG_LOST)),
        ("CDA_ENTRY_INDEX", CDA_ENTRY_INDEX),
        ("CDA_ENTRY_KIND_SHIFT", u64::from(CDA_ENTRY_KIND_SHIFT)),
        ("CDA_ENTRY_KIND_MASK", CDA_ENTRY_KIND_MASK),
        ("CDA_ENTRY_SIZE_SHIFT", u64::from(CDA_ENTRY_SIZE_SHIFT)),
        ("CDA_ENTRY_PAGE", CDA_ENTRY_PAGE),
        ("CDA_ENTRY_WORD", CDA_ENTRY_WORD),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    compare(&pairs);

    // Whatever the header defines for guests must be above.
    let text = fs::read_to_string(header()).unwrap();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some("#define"), Some(name), Some(_)) = (words.next(), words.next(), words.next()) {
            let control = ["CDA_CTL_", "CDA_LIMIT_", "CDA_SESSION_", "__HYPERVISOR"];
            let known = pairs.iter().any(|(known, _)| known == name)
                || control.iter().any(|prefix| name.starts_with(prefix));
            assert!(known, "abi.rs lacks {name}");
        }
    }
}

macro_rules! layout {
    ($pairs:ident, $name:ident { $($field:ident),* $(,)? }) => {
        let name = stringify!($name);
        $pairs.push((format!("sizeof(struct {name})"), size_of::<$name>() as u64));
        let mut end = 0;
        $({
            let field = stringify!($field);
            let offset = offset_of!($name, $field) as u64;
            $pairs.push((format!("offsetof(struct {name}, {field})"), offset));
            let value = $name::default();
            let size = size_of_val(&value.$field) as u64;
            $pairs.push((format!("sizeof(((struct {name} *)0)->{field})"), size));
            assert_eq!(offset, end, "{name}.{field}: a hole, or out of order");
            end = offset + size;
        })*
        assert_eq!(end, size_of::<$name>() as u64, "{name}: a field is not compared");
    };
}

#[test]
fn structures_agree() {
    let mut pairs = Vec::new();
    layout!(
        pairs,
        cda_attach {
            size,
            flags,
            token,
            cookie,
            max_pages,
            reserved
        }
    );
    layout!(
        pairs,
        cda_register {
            size,
            mode,
            flags,
            start,
            pages,
            log,
            log_bytes,
            reserved
        }
    );
    layout!(
        pairs,
        cda_log {
            epoch,
            count,
            dirty,
            flags,
            entry_bytes,
            reserved
        }
    );
    layout!(
        pairs,
        cda_counters {
            crossings,
            restarts,
            faults_fixed,
            faults_forwarded,
            faults_spurious,
            faults_xen,
            guest_updates,
            write_protected,
            walks,
            forks,
            flushes,
            cycles,
            watched,
            heated,
            cooled,
            emulated,
            degraded,
            reserved,
        }
    );
    layout!(
        pairs,
        cda_query {
            size,
            flags,
            session,
            pages,
            max_pages,
            ranges,
            max_ranges,
            reserved,
            counters,
        }
    );
    compare(&pairs);
}

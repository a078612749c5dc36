// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that are not as they were written.

use proptest::prelude::*;

use super::*;

fn unlinked(fd: i32, at: u64, size: u64) -> Descriptor {
    let kind = Kind::Unlinked {
        path: "/tmp/gone".into(),
        offset: 3,
        mode: 0o600,
        content: Content { at, size },
    };
    Descriptor {
        fd,
        flags: libc::O_RDWR,
        cloexec: false,
        kind,
    }
}

fn memfd() -> Descriptor {
    let kind = Kind::Memfd {
        name: Octets(b"mine".to_vec()),
        offset: 3,
        mode: 0o777,
        seals: 1,
        content: Content {
            at: CONTENTS + 3 * PAGE,
            size: 10,
        },
    };
    Descriptor {
        kind,
        ..unlinked(5, CONTENTS, 0)
    }
}

#[test]
fn contents_of_files_are_beyond_memory_and_have_a_size_of_files() {
    let judged = |at, size| {
        let mut process = process();
        process.descriptors = vec![unlinked(4, at, size)];
        check(&process).is_ok()
    };
    assert!(judged(CONTENTS, 0) && judged(CONTENTS + PAGE, MOST_FILE));
    for (at, size) in [
        (CONTENTS - PAGE, 1),
        (CONTENTS + 1, 1),
        (0, 1),
        (CONTENTS, MOST_FILE + 1),
        (!(PAGE - 1), PAGE),
    ] {
        assert!(!judged(at, size), "{at:x} {size:x}");
    }
}

/// Also with holes and a part of a page at its end.
#[test]
fn what_a_file_without_a_name_holds_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = tempfile::tempfile_in(dir.path()).unwrap();
    let (hole, end) = (9_u64 << 20, (9 << 20) + 5000);
    file.set_len(end).unwrap();
    file.write_all_at(b"begin", 4094).unwrap();
    file.write_all_at(&[7; 4000], hole + 1000).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    let mut process = process();
    process.descriptors = vec![unlinked(fd, CONTENTS, end)];
    let pid = i32::try_from(std::process::id()).unwrap();
    let mut writer = Writer::create(dir.path(), 1).unwrap();
    crate::contents::save(pid, &process.descriptors, &mut writer).unwrap();
    writer.pages(0x10000, &[7; 8192]).unwrap();
    let (_, pages) = writer.finish(&process).unwrap();
    assert_eq!(pages, 2 + 2 + 2, "holes are not written");
    let image = Image::open(&path_of(dir.path(), 1)).unwrap();
    image.verify().unwrap();
    let mut contents = crate::contents::Contents::new(&image);
    let content = Content {
        at: CONTENTS,
        size: end,
    };
    let path = dir.path().join("gone");
    let made = contents.file(&path, content, 0o640).unwrap();
    assert_eq!(contents.file(&path, content, 0o640).unwrap(), made);
    contents.finish().unwrap();
    let read = fs::read(format!("/proc/self/fd/{made}")).unwrap();
    let mut then = vec![0; usize::try_from(end).unwrap()];
    file.read_exact_at(&mut then, 0).unwrap();
    assert!(read == then);
}

fn process() -> Process {
    let thread = Thread {
        tid: 7,
        name: Octets(b"main".to_vec()),
        regs: Octets(vec![0; 216]),
        xstate: Octets(vec![1; 832]),
        blocked: 0,
        altstack: [0; 3],
        clear_tid: 0,
        robust: [0; 2],
        rseq: [0; 3],
        nice: 0,
        affinity: Octets(vec![3]),
        pending: 0,
    };
    Process {
        pid: 7,
        own_ids: true,
        cwd: "/".into(),
        umask: 0o22,
        no_new_privs: false,
        own_session: false,
        own_group: false,
        capabilities: [0; 3],
        rlimits: vec![[1, 2]],
        areas: Vec::new(),
        guards: vec![[PAGE, 2 * PAGE]],
        vdso_crc: 5,
        layout: Layout {
            fields: [1; 11],
            auxv: Octets(vec![0; 16]),
            exe: "/bin/true".into(),
        },
        actions: vec![[0; 4]; 64],
        itimers: Vec::new(),
        pending: 0,
        threads: vec![thread],
        descriptors: vec![unlinked(4, CONTENTS, 5000), memfd()],
    }
}

fn written(dir: &Path) -> Vec<u8> {
    let mut writer = Writer::create(dir, 1).unwrap();
    writer.pages(0x10000, &[7; 8192]).unwrap();
    writer.pages(0x20000, &[9; 4096]).unwrap();
    let (octets, pages) = writer.finish(&process()).unwrap();
    let all = fs::read(path_of(dir, 1)).unwrap();
    assert_eq!((all.len() as u64, pages), (octets, 3));
    all
}

fn look(dir: &Path, octets: &[u8]) -> Result<Image, Error> {
    let path = path_of(dir, 2);
    fs::write(&path, octets).unwrap();
    let image = Image::open(&path)?;
    image.verify()?;
    Ok(image)
}

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let all = written(dir.path());
    let image = look(dir.path(), &all).unwrap();
    assert_eq!(
        image.runs.iter().map(|r| r.pages).collect::<Vec<_>>(),
        [2, 1]
    );
    assert_eq!(image.process.threads[0].xstate, Octets(vec![1; 832]));
    assert_eq!(versions(dir.path()), [1, 2]);
    assert!(!dir.path().join(".000001.tmp").exists());
}

#[test]
fn any_cut_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let all = written(dir.path());
    for length in (0..all.len()).step_by(61) {
        assert!(look(dir.path(), &all[..length]).is_err(), "{length}");
    }
    let longer = [&all[..], &[0]].concat();
    assert_eq!(look(dir.path(), &longer).unwrap_err().status(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_flip_is_damage(at in 0_usize..1 << 20, bit in 0_u8..8) {
        let dir = tempfile::tempdir().unwrap();
        let mut all = written(dir.path());
        let at = at % all.len();
        all[at] ^= 1 << bit;
        prop_assert_eq!(look(dir.path(), &all).unwrap_err().status(), 3);
    }

    /// With right checksums, so that the parsers behind them see it.
    #[test]
    fn a_wrong_table_or_section_never_panics(at in 0_usize..1 << 20, value: u8) {
        let dir = tempfile::tempdir().unwrap();
        let mut all = written(dir.path());
        let table = 4 * 4096;
        let at = table + at % (all.len() - table);
        all[at] = value;
        let (runs, section) = all[table..].split_at(48);
        let (runs, section) = (crc32c::crc32c(runs), crc32c::crc32c(section));
        all[48..52].copy_from_slice(&runs.to_le_bytes());
        all[52..56].copy_from_slice(&section.to_le_bytes());
        let head = crc32c::crc32c(&all[..4092]);
        all[4092..4096].copy_from_slice(&head.to_le_bytes());
        if let Err(error) = look(dir.path(), &all) {
            prop_assert_eq!(error.status(), 3);
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers for errors.

use core::ffi::CStr;

use crate::arena::{ArenaError, HeapError};
use crate::error::Error;
use crate::store::{DurableError, MapError, StoreError};
use hvckpt_sys::gate::GateError;
use hvckpt_sys::memory::MemoryError;
use hvckpt_sys::session::SessionError;
use hvckpt_track::AttachError;
use hvckpt_track::RegionError;
use hvckpt_track::{CycleError, TrackError};

macro_rules! codes {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        $(pub(super) const $name: i32 = $value;)*

        /// What a code means.
        pub(super) fn text(code: i32) -> &'static CStr {
            match code {
                0 => c"success",
                $($value => $text,)*
                _ => c"unknown error code",
            }
        }

        /// Every code with its name in the header.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, i32)] = &[$((stringify!($name), $value)),*];
    };
}

// The names and numbers of include/hvckpt.h; never reuse one.
codes! {
    INVALID = -1, c"invalid argument";
    OS = -2, c"a system call failed";
    INTERNAL = -3, c"internal error of the library";
    NO_CHOICE = -4, c"no tracker was chosen";

    NOT_XEN = -10, c"not a Xen guest";
    GUEST_TYPE = -11, c"this type of guest has no gate";
    NO_GATE = -12, c"this Xen lacks the patch or was booted with cda=off, or this domain has had no token yet";
    ABI_VERSION = -13, c"the hypervisor speaks another version of the ABI";
    NO_CAPABILITY = -14, c"the hypervisor does not offer this tracker";
    UNSUPPORTED = -15, c"the hypervisor refuses this process or, now, this domain";

    NO_KEY = -20, c"no key file was named (HVCKPT_KEY)";
    NO_POLICY = -21, c"no policy daemon was named (HVCKPT_POLICY)";
    KEY_UNREADABLE = -22, c"the key file cannot be read";
    KEY_INVALID = -23, c"the key file is not usable";
    UNREACHABLE = -24, c"the policy daemon cannot be reached";
    NOT_AUTHENTIC = -25, c"the server is not the one this key belongs to";
    PROTOCOL = -26, c"the policy daemon speaks otherwise";
    KEY_REFUSED = -27, c"the policy daemon refuses the key";
    TOKEN_REFUSED = -28, c"the hypervisor refuses the token";
    QUOTA = -29, c"a quota is reached";
    FOREIGN_SESSION = -30, c"this process has a session of other code";

    FORK_CHILD = -40, c"this is a fork child; session and regions are its parent's";
    NOT_ATTACHED = -41, c"the hypervisor knows no session of this process";
    REVOKED = -42, c"the administrator ended the session";
    STOLEN = -43, c"the session is not ours any more";
    BUSY = -44, c"another thread keeps the session busy";

    MODE = -46, c"the key does not allow this tracker";
    NEEDS_LOCK = -47, c"this tracker needs locked memory";
    NO_ALIAS = -48, c"this tracker needs memory which the library allocates";
    SOFT_DIRTY = -49, c"soft-dirty bits are not available";
    EMPTY = -50, c"a region needs at least one page";
    UNALIGNED = -51, c"address or size are not whole pages";
    TOO_LARGE = -52, c"too large for a region";
    OVERLAP = -53, c"the region overlaps another one, or a log";
    UNTRACKABLE = -54, c"these pages cannot be tracked";
    LOCK_LIMIT = -55, c"the pages cannot be locked (RLIMIT_MEMLOCK)";
    NO_TRACKER = -56, c"none of the trackers asked for works here";
    UFFD = -57, c"userfaultfd or PAGEMAP_SCAN is not available";
    HANDLER = -58, c"the SIGSEGV or SIGBUS handler is not the library's";
    SHAPE = -59, c"the hypervisor refuses the shape of the region";

    ALREADY_OPEN = -60, c"a transaction is open on this region";
    NOT_OPEN = -61, c"no transaction is open on this region";
    IN_USE = -62, c"another thread begins or ends a transaction on this region";
    LOG_FAULT = -63, c"the log cannot be written; count every page as dirty";
    TAKEN_BACK = -64, c"a version was refused, and later ones with it";

    STORE_IO = -70, c"a file of the store cannot be read or written";
    STORE_FULL = -71, c"no space is left for the store";
    STORE_READ_ONLY = -72, c"the store, or its disk, is read-only";
    STORE_LOCKED = -73, c"the store is in use by another writer";
    NOT_A_STORE = -74, c"there is no store in the directory";
    STORE_FUTURE = -75, c"the store was made by a newer version of the library";
    STORE_DAMAGED = -76, c"bytes of the store are not what was written";
    STORE_POISONED = -77, c"a commit could not be taken back; try again, or open the store again";
    STORE_EXHAUSTED = -78, c"a number of the store's format is used up";
    NO_VERSION = -79, c"the version is not kept";
    NO_AREA = -80, c"the store has no such area";
    AREA_SHAPE = -81, c"the area cannot have this name or size";
    AREA_IN_USE = -82, c"the area is open already";
    ADDRESS_TAKEN = -83, c"something else is mapped where the region belongs";
    OTHER_ADDRESS = -84, c"the area is kept at another address";
    STORE_KEY_NEEDED = -85, c"the store is encrypted, and no key was given";
    STORE_WRONG_KEY = -86, c"the store is encrypted with another key";
    STORE_NOT_ENCRYPTED = -87, c"a key was given, and the store is not encrypted";
    STORE_KEY_FILE = -88, c"the key file of the store is not usable";
    STORE_LOCK_LOST = -89, c"another writer may have taken the store over; open it again";

    NO_MEMORY = -90, c"the arena is full";
    NO_ARENA = -91, c"no arena was opened in the region";
    NOT_AN_ARENA = -92, c"the region holds something else than an arena";
    ARENA_DAMAGED = -93, c"the arena's own data is damaged";
    OTHER_ROOT = -94, c"the root of the arena is of another type";

    UNREPLICATED = -100, c"the version is not known to be on the backup";
    FENCED = -101, c"another instance was promoted; this one must not go on";
}

// Enumerations of other crates are open for the compiler; a test below sees to
// it that none of their errors is forgotten.

pub(super) fn of(error: &Error) -> i32 {
    match error {
        Error::Region(error) => region(error),
        Error::Cycle(error) => cycle(error),
        Error::Attach(error) => attach(error),
        Error::Store(error) => store(error),
        Error::Durable(error) => durable(error),
        Error::Arena(error) => arena(error),
    }
}

fn region(error: &RegionError) -> i32 {
    match error {
        RegionError::Empty => EMPTY,
        RegionError::Unaligned { .. } => UNALIGNED,
        RegionError::TooLarge { .. } => TOO_LARGE,
        RegionError::NoChoice => NO_CHOICE,
        RegionError::Memory(error) => memory(error),
        RegionError::Session(error) => session(error),
        RegionError::Tracker { source, .. } | RegionError::Default { source } => track(source),
        RegionError::NoTracker(_) => NO_TRACKER,
        _ => INTERNAL,
    }
}

pub(super) fn track(error: &TrackError) -> i32 {
    match error {
        TrackError::Attach(error) => attach(error),
        TrackError::Session(error) => session(error),
        TrackError::Memory(error) => memory(error),
        TrackError::Uffd(_) => UFFD,
        TrackError::Handler(_) => HANDLER,
        TrackError::Overlap => OVERLAP,
        TrackError::Mode => MODE,
        TrackError::NeedsLock(_) => NEEDS_LOCK,
        TrackError::Quota { .. } => QUOTA,
        TrackError::Shape => SHAPE,
        TrackError::NoAlias => NO_ALIAS,
        TrackError::SoftDirty(_) => SOFT_DIRTY,
        _ => INTERNAL,
    }
}

fn memory(error: &MemoryError) -> i32 {
    match error {
        MemoryError::Os { .. } => OS,
        MemoryError::TooMuch { .. } => TOO_LARGE,
        MemoryError::LockLimit { .. } => LOCK_LIMIT,
        _ => INTERNAL,
    }
}

fn attach(error: &AttachError) -> i32 {
    match error {
        AttachError::Gate(error) => gate(error),
        AttachError::NoKey => NO_KEY,
        AttachError::NoPolicy => NO_POLICY,
        AttachError::KeyUnreadable { .. } => KEY_UNREADABLE,
        AttachError::KeyInvalid { .. } | AttachError::KeyOpen { .. } => KEY_INVALID,
        AttachError::Unreachable { .. } | AttachError::NoTransport => UNREACHABLE,
        AttachError::NotAuthentic { .. } => NOT_AUTHENTIC,
        AttachError::Protocol { .. } => PROTOCOL,
        AttachError::Refused { .. } => KEY_REFUSED,
        AttachError::TokenRefused => TOKEN_REFUSED,
        AttachError::Quota(_) => QUOTA,
        AttachError::ForeignSession => FOREIGN_SESSION,
        AttachError::Session(error) => session(error),
        AttachError::Os(_) => OS,
        _ => INTERNAL,
    }
}

pub(super) fn gate(error: &GateError) -> i32 {
    match error {
        GateError::NotXen => NOT_XEN,
        GateError::GuestType(_) => GUEST_TYPE,
        GateError::NoGate => NO_GATE,
        GateError::AbiVersion { .. } => ABI_VERSION,
        GateError::NoCapability(_) => NO_CAPABILITY,
        GateError::Refused(_) => UNSUPPORTED,
        GateError::Probe(_) => OS,
        _ => INTERNAL,
    }
}

fn session(error: &SessionError) -> i32 {
    match error {
        SessionError::ForkChild => FORK_CHILD,
        SessionError::NotAttached => NOT_ATTACHED,
        SessionError::Revoked => REVOKED,
        SessionError::Stolen => STOLEN,
        SessionError::Busy => BUSY,
        SessionError::Unsupported => UNSUPPORTED,
        SessionError::Errno(_) => OS,
        _ => INTERNAL,
    }
}

fn cycle(error: &CycleError) -> i32 {
    match error {
        CycleError::AlreadyOpen => ALREADY_OPEN,
        CycleError::NotOpen => NOT_OPEN,
        CycleError::InUse => IN_USE,
        CycleError::LogFault => LOG_FAULT,
        CycleError::Untrackable => UNTRACKABLE,
        CycleError::HandlerReplaced(_) => HANDLER,
        CycleError::Session(error) => session(error),
        CycleError::Attach(error) => track(error),
        CycleError::Os { .. } => OS,
        _ => INTERNAL,
    }
}

fn store(error: &StoreError) -> i32 {
    match error {
        StoreError::Io { .. } => STORE_IO,
        StoreError::Full { .. } => STORE_FULL,
        StoreError::ReadOnlyDisk { .. } | StoreError::ReadOnly => STORE_READ_ONLY,
        StoreError::Locked { .. } => STORE_LOCKED,
        StoreError::LockLost(_) => STORE_LOCK_LOST,
        StoreError::NotAStore(_) => NOT_A_STORE,
        StoreError::Future { .. } | StoreError::Features { .. } => STORE_FUTURE,
        StoreError::KeyNeeded { .. } => STORE_KEY_NEEDED,
        StoreError::WrongKey { .. } => STORE_WRONG_KEY,
        StoreError::NotEncrypted(_) => STORE_NOT_ENCRYPTED,
        StoreError::Key(_) => STORE_KEY_FILE,
        StoreError::Damaged(_) => STORE_DAMAGED,
        StoreError::NoVersion { .. } => NO_VERSION,
        StoreError::NoArea(_) => NO_AREA,
        StoreError::Shape { .. } => AREA_SHAPE,
        StoreError::NoPage { .. } => INVALID,
        StoreError::Unsettled { .. } | StoreError::Poisoned { .. } => STORE_POISONED,
        StoreError::Exhausted(_) => STORE_EXHAUSTED,
        StoreError::ForkChild => FORK_CHILD,
        StoreError::Thread(_) => OS,
        error if error.fenced() => FENCED,
        StoreError::Unreplicated { .. } => UNREPLICATED,
        StoreError::Fenced { .. } => FENCED,
        _ => INTERNAL,
    }
}

fn durable(error: &DurableError) -> i32 {
    match error {
        DurableError::Store(error) => store(error),
        DurableError::Map(MapError::Taken { .. }) => ADDRESS_TAKEN,
        DurableError::Map(MapError::Os { .. }) => OS,
        DurableError::Region(error) => region(error),
        DurableError::Cycle(error) => cycle(error),
        DurableError::AlreadyOpen => ALREADY_OPEN,
        DurableError::NotOpen => NOT_OPEN,
        DurableError::NoSize(_) => EMPTY,
        DurableError::OtherAddress { .. } => OTHER_ADDRESS,
        DurableError::InUse(_) => AREA_IN_USE,
        DurableError::TakenBack { .. } => TAKEN_BACK,
    }
}

fn arena(error: &ArenaError) -> i32 {
    match error {
        ArenaError::Durable(error) => durable(error),
        ArenaError::OtherRoot { .. } => OTHER_ROOT,
        ArenaError::Heap(HeapError::TooSmall) => NO_MEMORY,
        ArenaError::Heap(HeapError::NotAnArena) => NOT_AN_ARENA,
        ArenaError::Heap(HeapError::Future(_)) => STORE_FUTURE,
        ArenaError::Heap(HeapError::Damaged) => ARENA_DAMAGED,
    }
}

#[cfg(test)]
mod tests {
    use super::ALL;

    /// As if the compiler could tell.
    #[test]
    fn every_error_of_the_other_crates_has_a_code() {
        let own = include_str!("codes.rs");
        for (name, source) in [
            ("MemoryError", include_str!("../../sys/src/memory.rs")),
            ("GateError", include_str!("../../sys/src/gate.rs")),
            ("SessionError", include_str!("../../sys/src/session.rs")),
            ("RegionError", include_str!("../../track/src/region.rs")),
            ("AttachError", include_str!("../../track/src/attach.rs")),
            ("TrackError", include_str!("../../track/src/tracker/mod.rs")),
            ("CycleError", include_str!("../../track/src/tracker/mod.rs")),
            ("StoreError", include_str!("../../store/src/error.rs")),
        ] {
            let body = source.split_once(&format!("pub enum {name} {{\n"));
            let body = body.and_then(|(_, rest)| rest.split_once("\n}\n"));
            let (body, _) = body.unwrap_or_else(|| panic!("{name} is not where it was"));
            let mut variants = 0;
            for line in body.lines().filter_map(|line| line.strip_prefix("    ")) {
                if !line.starts_with(|first: char| first.is_ascii_uppercase()) {
                    continue;
                }
                let end = line.find(|c: char| !c.is_ascii_alphanumeric());
                let variant = format!("{name}::{}", &line[..end.unwrap_or(line.len())]);
                let whole = |(at, found): (usize, &str)| {
                    !own[at + found.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
                };
                let coded = own.match_indices(&variant).any(whole);
                assert!(coded, "{variant} has no code");
                variants += 1;
            }
            assert!(variants > 2, "{name}: {variants} variants");
        }
    }

    /// The committed header must name the same numbers.
    #[test]
    fn header_has_the_codes() {
        let header = include_str!("../../include/hvckpt.h");
        let names = header
            .lines()
            .filter(|l| l.trim().starts_with("HVCKPT_E_"))
            .count();
        for (name, code) in ALL {
            let line = format!("HVCKPT_E_{name} = {code},");
            assert!(header.contains(&line), "the header lacks: {line}");
        }
        assert_eq!(names, ALL.len(), "the header has codes which do not exist");
    }
}

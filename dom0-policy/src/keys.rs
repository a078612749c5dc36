// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which keys there are: public halves, limits, and the file they live in.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use hvckpt_wire::{ModeSet, PublicKey, valid_name};
use serde::{Deserialize, Serialize};

use crate::hypervisor::Domain;

/// Keys which one daemon keeps, revoked ones included.
pub const KEYS_MAX: usize = 4096;

const FILE: &str = "keys.json";
const FORMAT: u32 = 1;

/// A key's number, which is also the tag of its sessions in Xen. Never 0,
/// never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub std::num::NonZeroU64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl KeyId {
    /// Reads 16 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 16 && text.bytes().all(|c| c.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| plain)?;
        Some(Self(std::num::NonZeroU64::new(number)?))
    }
}

/// The domain which a key is for, by name or by UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainRef {
    /// By name: whichever domain bears it.
    Name(String),
    /// By UUID, in lower case.
    Uuid(String),
}

impl DomainRef {
    /// Reads a name or a UUID; what looks like a UUID is one.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let groups: Vec<usize> = text.split('-').map(str::len).collect();
        let hex = text.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-');
        if hex && groups == [8, 4, 4, 4, 12] {
            return Ok(Self::Uuid(text.to_ascii_lowercase()));
        }
        if text.is_empty() || text.len() > 128 || !text.bytes().all(|c| c.is_ascii_graphic()) {
            return Err("not a domain name or UUID".to_owned());
        }
        Ok(Self::Name(text.to_owned()))
    }

    /// Whether `domain` is (one of) the domain(s) meant.
    #[must_use]
    pub fn matches(&self, domain: &Domain) -> bool {
        match self {
            Self::Name(name) => domain.name.as_ref() == Some(name),
            Self::Uuid(uuid) => domain.uuid.as_ref() == Some(uuid),
        }
    }
}

impl fmt::Display for DomainRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) | Self::Uuid(text) => f.write_str(text),
        }
    }
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its number.
    #[serde(with = "as_text")]
    pub id: KeyId,
    /// What the administrator calls it; unique among the keys not revoked.
    pub name: String,
    /// Its public half.
    #[serde(with = "as_text")]
    pub public: PublicKey,
    /// The domain it is for.
    #[serde(with = "as_text")]
    pub domain: DomainRef,
    /// Live sessions at a time; 0: the domain's limit only.
    pub sessions: u32,
    /// Pages of 4 KiB per session; 0: the domain's default.
    pub pages: u64,
    /// Ranges per session; 0: the domain's default.
    pub ranges: u32,
    /// Trackers which the library may use.
    #[serde(with = "as_text")]
    pub modes: ModeSet,
    /// When it was added, in seconds since 1970.
    pub created: u64,
    /// When it stops being good and its sessions end; 0: never.
    pub expires: u64,
    /// When it was revoked.
    pub revoked: Option<u64>,
    /// It was revoked, but the hypervisor could not be told everywhere yet.
    pub revocation_pending: bool,
    /// Domain numbers for which tokens were issued: where its sessions are.
    pub domids: BTreeSet<u32>,
}

impl Key {
    /// Whether it is too late at time `now`.
    #[must_use]
    pub fn expired(&self, now: u64) -> bool {
        self.expires != 0 && self.expires <= now
    }

    /// The key's state at time `now`, for display.
    #[must_use]
    pub fn status(&self, now: u64) -> &'static str {
        match self {
            Self {
                revocation_pending: true,
                ..
            } => "revoked (hypervisor not told yet)",
            Self {
                revoked: Some(_), ..
            } => "revoked",
            _ if self.expired(now) => "expired",
            _ => "active",
        }
    }
}

/// `Display` and a `parse` of our own as the JSON form.
mod as_text {
    use super::{DomainRef, KeyId, ModeSet, PublicKey};
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) trait Text: Sized + std::fmt::Display {
        fn read(text: &str) -> Option<Self>;
    }
    impl Text for KeyId {
        fn read(text: &str) -> Option<Self> {
            Self::parse(text)
        }
    }
    impl Text for PublicKey {
        fn read(text: &str) -> Option<Self> {
            Self::parse(text)
        }
    }
    impl Text for DomainRef {
        fn read(text: &str) -> Option<Self> {
            Self::parse(text).ok()
        }
    }
    impl Text for ModeSet {
        fn read(text: &str) -> Option<Self> {
            Self::parse(text)
        }
    }

    pub(super) fn serialize<T: Text, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        T::read(&text).ok_or_else(|| D::Error::custom(format!("not valid: `{text}`")))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    keys: Vec<Key>,
}

/// All keys, as on disk.
#[derive(Debug)]
pub struct KeyStore {
    path: PathBuf,
    keys: Vec<Key>,
}

impl KeyStore {
    /// Reads the file in `dir`; none is the same as no keys.
    ///
    /// # Errors
    /// A sentence for the administrator. A damaged file is an error: going on
    /// without it would forget revocations.
    pub fn open(dir: &Path) -> Result<Self, String> {
        let path = dir.join(FILE);
        let shown = path.display();
        let keys = match hvckpt_files::read_regular(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(format!("cannot read {shown}: {e}")),
            Ok(bytes) => {
                let contents: Contents = serde_json::from_slice(&bytes)
                    .map_err(|e| format!("{shown} is damaged, restore it from a backup: {e}"))?;
                if contents.version != FORMAT {
                    return Err(format!(
                        "{shown} has format {}, not {FORMAT}",
                        contents.version
                    ));
                }
                contents.keys
            }
        };
        let ids: BTreeSet<KeyId> = keys.iter().map(|k| k.id).collect();
        if ids.len() != keys.len() || keys.iter().any(|k| !valid_name(&k.name)) {
            return Err(format!(
                "{shown} is damaged: ids not unique or names not valid"
            ));
        }
        Ok(Self { path, keys })
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn all(&self) -> &[Key] {
        &self.keys
    }

    /// The key with this public half.
    #[must_use]
    pub fn by_public(&self, public: PublicKey) -> Option<&Key> {
        self.keys.iter().find(|k| k.public == public)
    }

    /// The key with this number.
    #[must_use]
    pub fn by_id(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|k| k.id == id)
    }

    /// The key which `text` names: by name the one not revoked, or else the
    /// one revoked last; or by number.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<&Key> {
        let named = || self.keys.iter().filter(|k| k.name == text);
        named()
            .find(|k| k.revoked.is_none())
            .or_else(|| named().max_by_key(|k| k.revoked))
            .or_else(|| self.by_id(KeyId::parse(text)?))
    }

    /// Adds a key, durably.
    ///
    /// # Errors
    /// A sentence for the administrator; nothing changed.
    pub fn add(&mut self, key: Key) -> Result<(), String> {
        if !valid_name(&key.name) {
            return Err("a key name is 1 to 64 of A-Z a-z 0-9 . _ -".to_owned());
        }
        if self
            .keys
            .iter()
            .any(|k| k.name == key.name && k.revoked.is_none())
        {
            return Err(format!(
                "there is a key named {} already; revoke it first",
                key.name
            ));
        }
        if self.by_public(key.public).is_some() || self.by_id(key.id).is_some() {
            return Err("this key is known already".to_owned());
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(format!("there are {KEYS_MAX} keys already"));
        }
        let mut keys = self.keys.clone();
        keys.push(key);
        self.save(&keys)
            .map_err(|e| format!("cannot write {}: {e}", self.path.display()))?;
        self.keys = keys;
        Ok(())
    }

    /// Changes a key in memory at once and then on disk.
    ///
    /// # Errors
    /// When the disk does not take it: the change holds until a restart.
    pub fn change(&mut self, id: KeyId, with: impl FnOnce(&mut Key)) -> io::Result<()> {
        if let Some(key) = self.keys.iter_mut().find(|k| k.id == id) {
            with(key);
        }
        self.save(&self.keys)
    }

    fn save(&self, keys: &[Key]) -> io::Result<()> {
        let contents = Contents {
            version: FORMAT,
            keys: keys.to_vec(),
        };
        let mut text = serde_json::to_vec_pretty(&contents)?;
        text.push(b'\n');
        hvckpt_files::replace(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn key(number: u64, name: &str) -> Key {
        Key {
            id: KeyId(number.try_into().unwrap()),
            name: name.to_owned(),
            public: PublicKey([u8::try_from(number).unwrap(); 32]),
            domain: DomainRef::parse("domu").unwrap(),
            sessions: 0,
            pages: 0,
            ranges: 0,
            modes: ModeSet::all(),
            created: 1,
            expires: 0,
            revoked: None,
            revocation_pending: false,
            domids: BTreeSet::new(),
        }
    }

    #[test]
    fn survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = KeyStore::open(dir.path()).unwrap();
        store.add(key(1, "a")).unwrap();
        store.add(key(2, "b")).unwrap();
        store
            .change(key(2, "b").id, |k| k.revoked = Some(9))
            .unwrap();
        let again = KeyStore::open(dir.path()).unwrap();
        assert_eq!(again.all(), store.all());
        assert_eq!(again.find("b").unwrap().revoked, Some(9));
        assert_eq!(again.find("0000000000000001").unwrap().name, "a");
    }

    #[test]
    fn names_are_unique_among_live_keys() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = KeyStore::open(dir.path()).unwrap();
        store.add(key(1, "a")).unwrap();
        assert!(store.add(key(2, "a")).unwrap_err().contains("already"));
        store
            .change(key(1, "a").id, |k| k.revoked = Some(5))
            .unwrap();
        store.add(key(2, "a")).unwrap();
        assert_eq!(store.find("a").unwrap().id, key(2, "a").id);
        assert!(store.add(key(2, "c")).is_err(), "public key known");
        assert!(store.add(key(3, "../c")).is_err());
    }

    #[test]
    fn damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = KeyStore::open(dir.path()).unwrap();
        store.add(key(1, "a")).unwrap();
        let path = dir.path().join(FILE);
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in [
            &good[..good.len() / 2],
            "",
            &good.replace("\"version\": 1", "\"version\": 2"),
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(KeyStore::open(dir.path()).is_err());
        }
    }

    #[test]
    fn failed_add_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = KeyStore::open(dir.path()).unwrap();
        store.path = dir.path().join("gone/keys.json");
        assert!(store.add(key(1, "a")).is_err());
        assert!(store.all().is_empty());
    }

    #[test]
    fn domains_by_name_or_uuid() {
        let uuid = "0F0E0D0C-0b0a-0908-0706-050403020100";
        let by_uuid = DomainRef::parse(uuid).unwrap();
        assert_eq!(by_uuid, DomainRef::Uuid(uuid.to_ascii_lowercase()));
        let domain = Domain {
            domid: 1,
            name: Some("domu".to_owned()),
            uuid: Some(uuid.to_ascii_lowercase()),
        };
        assert!(by_uuid.matches(&domain));
        assert!(DomainRef::parse("domu").unwrap().matches(&domain));
        assert!(!DomainRef::parse("dom").unwrap().matches(&domain));
        assert!(DomainRef::parse("").is_err() && DomainRef::parse("a b").is_err());
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys and the files which hold them.

use std::fmt::{self, Write as _};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::SigningKey;
use zeroize::Zeroizing;

use crate::{KeyError, hex};

/// Longest key name, in bytes.
pub const NAME_MAX: usize = 64;

/// Longest key file, in bytes.
pub(crate) const FILE_MAX: usize = 4096;

const CLIENT_MAGIC: &str = "hvckpt-key 1";
const SERVER_MAGIC: &str = "hvckpt-server-key 1";
const ALGORITHM: &str = "ed25519:";

/// DER in front of the 32 octets of an Ed25519 public key (RFC 8410).
const SPKI_PREFIX: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// DER in front of the 32 octets of an Ed25519 seed (RFC 8410, PKCS #8 v1).
const PKCS8_PREFIX: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Reads `ed25519:` followed by 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hex::read(text.strip_prefix(ALGORITHM)?).map(Self)
    }

    /// The SubjectPublicKeyInfo, as TLS carries it.
    pub(crate) fn to_spki(self) -> [u8; 44] {
        let mut der = [0; 44];
        der[..12].copy_from_slice(&SPKI_PREFIX);
        der[12..].copy_from_slice(&self.0);
        der
    }

    /// The reverse of [`to_spki`](Self::to_spki); any other algorithm is `None`.
    pub(crate) fn from_spki(der: &[u8]) -> Option<Self> {
        let raw = der.strip_prefix(&SPKI_PREFIX)?;
        raw.try_into().ok().map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALGORITHM)?;
        hex::write(f, &self.0)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ed25519 private key. Wiped when dropped; never shown by `Debug`.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// A fresh key from the operating system's random numbers.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn generate() -> std::io::Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        random(&mut seed[..])?;
        Ok(Self(seed))
    }

    /// The public key which belongs to it.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.signer()
            .public_key()
            .and_then(|spki| PublicKey::from_spki(spki.as_ref()))
            .expect("an Ed25519 key has an Ed25519 public key")
    }

    pub(crate) fn signer(&self) -> std::sync::Arc<dyn SigningKey> {
        let mut der = Zeroizing::new([0; 48]);
        der[..16].copy_from_slice(&PKCS8_PREFIX);
        der[16..].copy_from_slice(&self.0[..]);
        ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&der[..]))
            .expect("every 32-octet seed is an Ed25519 key")
    }

    fn parse(text: &str) -> Option<Self> {
        hex::read(text.strip_prefix(ALGORITHM)?).map(|seed| Self(Zeroizing::new(seed)))
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        out.push_str(ALGORITHM);
        hex::write(out, &self.0[..])
    }

    /// The text of a server key file: holds the secret, to be kept 0600.
    #[must_use]
    pub fn to_server_file(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(256));
        let _ = write!(
            text,
            "{SERVER_MAGIC}\npublic: {}\nsecret: ",
            self.public_key()
        );
        let _ = self.write(&mut text);
        text.push('\n');
        text
    }

    /// Reads a server key file.
    ///
    /// # Errors
    /// See [`KeyError`]; also when the two halves do not belong together.
    pub fn from_server_file(text: &str) -> Result<Self, KeyError> {
        let [public, secret] = fields(text, SERVER_MAGIC, ["public", "secret"])?;
        let secret = secret.convert(Self::parse, "not an Ed25519 secret")?;
        let line = public.line;
        if public.convert(PublicKey::parse, "not an Ed25519 public key")? != secret.public_key() {
            return Err(KeyError::Line {
                line,
                what: "does not belong to the secret",
            });
        }
        Ok(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a guest application authenticates with: its own private key and the
/// public key of the one daemon it will talk to.
#[derive(Clone, Debug)]
pub struct Key {
    name: String,
    id: u64,
    server: PublicKey,
    secret: Secret,
}

impl Key {
    /// Puts a key together; `id` is what the daemon gave when it took the
    /// public key, and not 0. `None` when name or id is not valid.
    #[must_use]
    pub fn new(name: &str, id: u64, server: PublicKey, secret: Secret) -> Option<Self> {
        (valid_name(name) && id != 0).then(|| Self {
            name: name.to_owned(),
            id,
            server,
            secret,
        })
    }

    /// Reads a key file. Group and others must have no access to it.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let read = |source| KeyError::Read {
            path: path.display().to_string(),
            source,
        };
        let options = &mut std::fs::OpenOptions::new();
        let file = hvckpt_files::open_regular(path, options.read(true)).map_err(read)?;
        // The mode of the file that was opened, not of what the path names now.
        let mode = file.metadata().map_err(read)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Permissions {
                path: path.display().to_string(),
                mode,
            });
        }
        let mut text = Zeroizing::new(String::with_capacity(FILE_MAX + 1));
        file.take(FILE_MAX as u64 + 1)
            .read_to_string(&mut text)
            .map_err(read)?;
        Self::parse(&text)
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let [name, id, server, secret] =
            fields(text, CLIENT_MAGIC, ["name", "id", "server", "secret"])?;
        Ok(Self {
            name: name.convert(|t| valid_name(t).then(|| t.to_owned()), "not a key name")?,
            id: id.convert(parse_id, "not a key id")?,
            server: server.convert(PublicKey::parse, "not an Ed25519 public key")?,
            secret: secret.convert(Secret::parse, "not an Ed25519 secret")?,
        })
    }

    /// The text of the key file: holds the secret, to be kept 0600.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // One allocation, so that no copy of the secret is left behind.
        let mut text = Zeroizing::new(String::with_capacity(FILE_MAX));
        let _ = write!(
            text,
            "{CLIENT_MAGIC}\n# Secret: whoever reads this file can use the key. Keep mode 0600.\n\
             name: {}\nid: {:016x}\nserver: {}\nsecret: ",
            self.name, self.id, self.server
        );
        let _ = self.secret.write(&mut text);
        text.push('\n');
        text
    }

    /// The name the administrator gave.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's 64-bit id: the tag under which Xen knows its sessions.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The public key of the daemon.
    #[must_use]
    pub fn server(&self) -> PublicKey {
        self.server
    }

    /// The public half of the client's own key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.secret.public_key()
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }
}

/// Whether `name` can name a key: 1 to [`NAME_MAX`] of `A-Z a-z 0-9 . _ -`,
/// beginning with a letter or digit.
#[must_use]
pub fn valid_name(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
}

/// Fills `out` from the operating system's random numbers.
///
/// # Errors
/// When the system gives none.
pub fn random(out: &mut [u8]) -> std::io::Result<()> {
    let provider: CryptoProvider = ring::default_provider();
    provider
        .secure_random
        .fill(out)
        .map_err(|_| std::io::Error::other("no random numbers"))
}

fn parse_id(text: &str) -> Option<u64> {
    hex::read(text)
        .map(u64::from_be_bytes)
        .filter(|&id| id != 0)
}

/// The value of one line, with its number for the error message.
#[derive(Clone, Copy)]
struct Field<'a> {
    line: usize,
    text: &'a str,
}

impl<'a> Field<'a> {
    fn convert<T>(
        self,
        with: impl FnOnce(&'a str) -> Option<T>,
        what: &'static str,
    ) -> Result<T, KeyError> {
        with(self.text).ok_or(KeyError::Line {
            line: self.line,
            what,
        })
    }
}

/// `name: value` lines below a version line; every name once, no other name,
/// blank lines and lines which begin with `#` ignored.
fn fields<'a, const N: usize>(
    text: &'a str,
    magic: &'static str,
    names: [&'static str; N],
) -> Result<[Field<'a>; N], KeyError> {
    if text.len() > FILE_MAX {
        return Err(KeyError::TooLong);
    }
    let mut lines = text.lines().enumerate();
    if lines
        .next()
        .is_none_or(|(_, first)| first.trim_end() != magic)
    {
        return Err(KeyError::Version(magic));
    }
    let mut found: [Option<Field<'a>>; N] = [None; N];
    for (index, raw) in lines {
        let (line, raw) = (index + 1, raw.trim());
        if raw.is_empty() || raw.starts_with('#') {
            continue;
        }
        let fail = |what| KeyError::Line { line, what };
        let (name, value) = raw.split_once(':').ok_or(fail("expected `name: value`"))?;
        let slot = names
            .iter()
            .position(|n| *n == name)
            .ok_or(fail("unknown name"))?;
        if found[slot]
            .replace(Field {
                line,
                text: value.trim(),
            })
            .is_some()
        {
            return Err(fail("given twice"));
        }
    }
    let mut out = [Field { line: 0, text: "" }; N];
    for ((out, found), name) in out.iter_mut().zip(found).zip(names) {
        *out = found.ok_or(KeyError::Missing(name))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> Key {
        let secret = Secret(Zeroizing::new([7; 32]));
        Key::new("guest", 0x1234, PublicKey([9; 32]), secret).unwrap()
    }

    #[test]
    fn rfc8032_test_vector_1() {
        let seed = hex::read("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = Secret(Zeroizing::new(seed.unwrap())).public_key();
        assert_eq!(
            public.to_string(),
            "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
    }

    #[test]
    fn round_trip() {
        let text = key().to_text();
        let again = Key::parse(&text).unwrap();
        assert_eq!(again.to_text(), text);
        assert_eq!((again.name(), again.id()), ("guest", 0x1234));
        assert_eq!(again.public_key(), key().public_key());
        let server = Secret::generate().unwrap();
        let again = Secret::from_server_file(&server.to_server_file()).unwrap();
        assert_eq!(again.public_key(), server.public_key());
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", key());
        assert!(
            !shown.contains("0707") && shown.contains("Secret(..)"),
            "{shown}"
        );
    }

    #[test]
    fn refuses_bad_files() {
        let good = key().to_text();
        let bad = |from: &str, to: &str| Key::parse(&good.replace(from, to)).unwrap_err();
        assert!(matches!(
            bad("hvckpt-key 1", "hvckpt-key 2"),
            KeyError::Version(_)
        ));
        assert!(matches!(
            bad("id: 0000", "id: 000"),
            KeyError::Line { line: 4, .. }
        ));
        assert!(matches!(
            bad("name: guest", "name: a b"),
            KeyError::Line { line: 3, .. }
        ));
        assert!(matches!(
            bad("name: guest\n", ""),
            KeyError::Missing("name")
        ));
        assert!(matches!(bad("name:", "nome:"), KeyError::Line { .. }));
        assert!(matches!(
            bad("id: ", "name: x\nid: "),
            KeyError::Line { .. }
        ));
        assert!(matches!(
            bad("0000000000001234", "0000000000000000"),
            KeyError::Line { .. }
        ));
        let long = format!("{}{}", &good[..], "#".repeat(FILE_MAX));
        assert!(matches!(Key::parse(&long), Err(KeyError::TooLong)));
        let halves = Secret(Zeroizing::new([7; 32])).to_server_file();
        let other = halves.replace("secret: ed25519:07", "secret: ed25519:08");
        assert!(Secret::from_server_file(&other).is_err());
    }

    #[test]
    fn refuses_files_others_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        std::fs::write(&path, &key().to_text()[..]).unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Key::load(&path).is_ok(), good, "{mode:o}");
        }
        assert!(matches!(
            Key::load(dir.path().join("none")),
            Err(KeyError::Read { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,200}") {
            let _ = Key::parse(&text);
            let _ = Secret::from_server_file(&text);
        }

        #[test]
        fn any_lines_below_the_magic(lines in "((name|id|server|secret|x): ?[a-z0-9:]{0,80}\n){0,6}") {
            let _ = Key::parse(&format!("{CLIENT_MAGIC}\n{lines}"));
        }

        #[test]
        fn every_key_survives_its_file(
            name in "[A-Za-z0-9][A-Za-z0-9._-]{0,63}", id in 1u64.., server: [u8; 32], seed: [u8; 32],
        ) {
            let key = Key::new(&name, id, PublicKey(server), Secret(Zeroizing::new(seed))).unwrap();
            let text = key.to_text();
            prop_assert_eq!(&Key::parse(&text).unwrap().to_text()[..], &text[..]);
        }

        #[test]
        fn one_flipped_byte_never_panics(at in 0usize..250, bit in 0u8..7) {
            let mut text = key().to_text().as_bytes().to_vec();
            let at = at % text.len();
            text[at] ^= 1 << bit;
            let _ = Key::parse(&String::from_utf8_lossy(&text));
        }
    }
}

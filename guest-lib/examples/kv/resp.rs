//! The Redis protocol, version 2.

/// A command and how many bytes it took.
pub type Parsed = (Vec<Vec<u8>>, usize);

/// A line and how many bytes it took; `None` if it is not complete.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

pub fn integer(text: &[u8]) -> Option<i64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// The first command; `None` if it is not complete.  Who calls limits how much
/// there may be of that.
pub fn parse(bytes: &[u8]) -> Result<Option<Parsed>, &'static str> {
    let Some((first, mut at)) = line(bytes) else {
        return Ok(None);
    };
    let Some(count) = first.strip_prefix(b"*") else {
        let words = first.split(u8::is_ascii_whitespace);
        let words = words.filter(|word| !word.is_empty()).map(<[u8]>::to_vec);
        return Ok(Some((words.collect(), at)));
    };
    let mut arguments = Vec::new();
    for _ in 0..integer(count).ok_or("invalid multibulk length")? {
        let Some((head, used)) = line(&bytes[at..]) else {
            return Ok(None);
        };
        at += used;
        let length = head.strip_prefix(b"$").ok_or("expected '$'")?;
        let length = integer(length).and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or("invalid bulk length")?;
        let Some(bulk) = bytes.get(at..at + length + 2) else {
            return Ok(None);
        };
        if !bulk.ends_with(b"\r\n") {
            return Err("expected a line break behind an argument");
        }
        arguments.push(bulk[..length].to_vec());
        at += length + 2;
    }
    Ok(Some((arguments, at)))
}

/// Replies, one behind the other.
#[derive(Debug, Default)]
pub struct Replies(pub Vec<u8>);

impl Replies {
    fn head(&mut self, kind: u8, text: &str) {
        self.0.push(kind);
        self.0.extend(text.as_bytes());
        self.0.extend(b"\r\n");
    }

    pub fn simple(&mut self, text: &str) {
        self.head(b'+', text);
    }

    pub fn error(&mut self, text: &str) {
        self.head(b'-', &text.replace(['\r', '\n'], " "));
    }

    pub fn integer(&mut self, value: i64) {
        self.head(b':', &value.to_string());
    }

    pub fn count(&mut self, value: usize) {
        self.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }

    pub fn bulk(&mut self, value: Option<&[u8]>) {
        let Some(value) = value else {
            return self.head(b'$', "-1");
        };
        self.head(b'$', &value.len().to_string());
        self.0.extend(value);
        self.0.extend(b"\r\n");
    }

    pub fn array(&mut self, length: usize) {
        self.head(b'*', &length.to_string());
    }
}

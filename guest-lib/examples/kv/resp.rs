// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Redis protocol, version 2.

/// Name and arguments.
pub type Command = Vec<Vec<u8>>;

/// The longest command, and the longest reply to one, in bytes.
pub const LONGEST: usize = 32 << 20;
/// Arguments of a command.
const ARGUMENTS: i64 = 1 << 17;
/// The longest line, which a command typed by hand is.
const LINE: usize = 64 << 10;
/// A buffer which was larger is given back when it is empty.
pub const KEPT: usize = 1 << 20;

/// What the parser says of an HTTP request.
pub const HTTP: &str = "an HTTP request";

pub fn integer(text: &[u8]) -> Option<i64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// Takes commands from a stream. Each byte is looked at once, however many
/// parts it arrives in.
#[derive(Debug, Default)]
pub struct Parser {
    input: Vec<u8>,
    /// So much of it is done with.
    at: usize,
    /// Of a command that is not complete.
    arguments: Command,
    /// Arguments which it still lacks.
    missing: usize,
    /// Length of the next one.
    length: Option<usize>,
    /// Bytes of all of them.
    size: usize,
}

impl Parser {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    /// Bytes of memory, about.
    pub fn held(&self) -> usize {
        self.input.capacity() + self.size + 64 * self.arguments.len()
    }

    /// The next command; `None` if it is not complete. After an error there is
    /// none.
    pub fn command(&mut self) -> Result<Option<Command>, &'static str> {
        let found = self.find();
        if self.at == self.input.len() {
            self.input.clear();
            self.at = 0;
            if self.input.capacity() > KEPT {
                self.input = Vec::new();
            }
        } else if self.at > self.input.len() / 2 {
            // Less is moved than was done with since the last time.
            self.input.drain(..self.at);
            self.at = 0;
        }
        found
    }

    fn find(&mut self) -> Result<Option<Command>, &'static str> {
        loop {
            if self.missing == 0 {
                let Some(line) = self.line("too big inline request")? else {
                    return Ok(None);
                };
                let Some(count) = line.strip_prefix(b"*") else {
                    let words = line.split(u8::is_ascii_whitespace);
                    let words = words.filter(|word| !word.is_empty()).map(<[u8]>::to_vec);
                    let words: Command = words.collect();
                    if words.is_empty() {
                        continue;
                    }
                    if words.len() == 3 && words[2].starts_with(b"HTTP/") {
                        return Err(HTTP);
                    }
                    return Ok(Some(words));
                };
                let count = integer(count).filter(|&count| count <= ARGUMENTS);
                let count = count.ok_or("invalid multibulk length")?;
                // Nothing, as Redis has it, if negative.
                self.missing = usize::try_from(count).unwrap_or(0);
                self.size = 0;
                continue;
            }
            let length = match self.length {
                Some(length) => length,
                None => {
                    let Some(line) = self.line("too big bulk count string")? else {
                        return Ok(None);
                    };
                    let length = line.strip_prefix(b"$").ok_or("expected '$'")?;
                    let length = integer(length).and_then(|length| usize::try_from(length).ok());
                    let length = length.filter(|&length| length <= LONGEST);
                    let length = length.ok_or("invalid bulk length")?;
                    self.size += length;
                    if self.size > LONGEST {
                        return Err("too big command");
                    }
                    self.length = Some(length);
                    length
                }
            };
            let Some(bulk) = self.input[self.at..].get(..length + 2) else {
                return Ok(None);
            };
            let Some(argument) = bulk.strip_suffix(b"\r\n") else {
                return Err("expected a line break behind an argument");
            };
            self.arguments.push(argument.to_vec());
            self.at += length + 2;
            self.length = None;
            self.missing -= 1;
            if self.missing == 0 {
                self.size = 0;
                return Ok(Some(core::mem::take(&mut self.arguments)));
            }
        }
    }

    /// The next line; `None` if it is not complete.
    fn line(&mut self, too_long: &'static str) -> Result<Option<Vec<u8>>, &'static str> {
        let rest = &self.input[self.at..];
        let rest = &rest[..rest.len().min(LINE)];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            return if rest.len() == LINE {
                Err(too_long)
            } else {
                Ok(None)
            };
        };
        let line = &rest[..end];
        self.at += end + 1;
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line).to_vec()))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn all(parser: &mut Parser) -> Result<Vec<Command>, &'static str> {
        let mut commands = Vec::new();
        while let Some(command) = parser.command()? {
            commands.push(command);
        }
        Ok(commands)
    }

    #[test]
    fn parts_make_the_same_commands() {
        let text: &[u8] =
            b"*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\nPING  x\r\n\n*0\r\n*-1\r\n*1\r\n$0\r\n\r\n";
        let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Command>();
        let wanted = [
            words(&[b"GET", b"\r\n"]),
            words(&[b"PING", b"x"]),
            words(&[b""]),
        ];
        for size in 1..=text.len() {
            let mut parser = Parser::default();
            let mut commands = Vec::new();
            for part in text.chunks(size) {
                parser.feed(part);
                commands.extend(all(&mut parser).unwrap());
            }
            assert_eq!(commands, wanted, "parts of {size}");
            assert!(parser.input.is_empty());
        }
    }

    /// What has been looked at is not kept to be looked at again.
    #[test]
    fn a_large_command_is_taken_as_it_comes() {
        let mut parser = Parser::default();
        parser.feed(b"*100001\r\n$3\r\nDEL\r\n");
        for n in 1..=100_000 {
            assert_eq!(parser.command(), Ok(None));
            assert!(parser.input.len() < 300);
            assert_eq!(parser.arguments.len(), n);
            parser.feed(b"$280\r\n");
            parser.feed(&[b'k'; 280]);
            parser.feed(b"\r\n");
        }
        assert_eq!(parser.command().unwrap().unwrap().len(), 100_001);
    }

    #[test]
    fn what_is_too_much_is_refused_at_once() {
        let cases: &[&[u8]] = &[
            b"*1000000000\r\n",
            b"*9223372036854775808\r\n",
            b"*x\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$9223372036854775807\r\n",
            b"*1\r\n$99999999\r\n",
            b"*1\r\n:1\r\n",
            b"*1\r\n$1\r\nabc",
            b"*3\r\n$0\r\n\r\n$1\r\nabc",
        ];
        for case in cases {
            let mut parser = Parser::default();
            parser.feed(case);
            assert!(all(&mut parser).is_err(), "{}", case.escape_ascii());
        }
        for start in ["x", "*", "*1\r\n$"] {
            let mut parser = Parser::default();
            parser.feed(start.as_bytes());
            parser.feed(&[b'1'; LINE]);
            assert!(all(&mut parser).is_err(), "{start}");
        }
        let mut parser = Parser::default();
        parser.feed(b"*3\r\n");
        for _ in 0..2 {
            parser.feed(format!("${}\r\n", LONGEST * 2 / 3).as_bytes());
            parser.feed(&vec![b'x'; LONGEST * 2 / 3]);
            parser.feed(b"\r\n");
        }
        assert_eq!(all(&mut parser), Err("too big command"));
    }
}

//! Owns the message format: a message's length and bytes, and how the peer learns both, on bare TCP or in HTTP.
//!
//! A relay hides the sender's identity, so each message says whose bytes it carries. A message too short for that takes
//! all but its first byte from a stream that all such messages share.

use anyhow::{Context, Result, ensure};
use workloads::pattern::{Random, Stream};

const HEAD: usize = 20;
const FULL: u8 = 255;
/// A short message's first byte holds its length in the lower bits, and the magnitude of its answer in the upper.
const LENGTH_BITS: u32 = 5;
const MOST: u64 = 10_000_000;
/// The maximum size of most messages.
const USUAL: u64 = 100_000;
/// The maximum size of an HTTP head.
const LONGEST_HEAD: usize = 4096;

pub const REQUEST: u64 = 0;
pub const ANSWER: u64 = 1;
pub const GREETING: u64 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Framing {
    Bare,
    Http,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub connection: u32,
    pub number: u32,
    /// The length after the head.
    pub body: usize,
    pub answer: usize,
}

impl Message {
    /// A size from 1 byte to 10 MB, small ones as frequent as large ones.
    pub fn draw(random: &mut Random, connection: u32, number: u32, large_one_in: u64) -> Self {
        let most = if random.chance(large_one_in) { MOST } else { USUAL };
        let [size, answer] = [(), ()].map(|()| random.spread(1, most) as usize);
        let mut message = Self {
            connection,
            number,
            body: size.saturating_sub(HEAD),
            answer,
        };
        if size < HEAD {
            message = Self::of_first_byte(size as u8 | (answer.ilog10() as u8) << LENGTH_BITS);
        }
        message
    }

    fn of_first_byte(first: u8) -> Self {
        let length = usize::from(first & ((1 << LENGTH_BITS) - 1));
        Self {
            connection: u32::MAX,
            number: first.into(),
            body: length.saturating_sub(1),
            answer: 10_usize.pow(u32::from(first >> LENGTH_BITS)),
        }
    }

    /// The bytes after the head, of the message or of its answer.
    pub fn stream(&self, seed: u64, direction: u64) -> Stream {
        let key = u64::from(self.connection) << 32 | u64::from(self.number);
        Stream::new(seed, key, direction)
    }

    pub fn head(&self, framing: Framing) -> Vec<u8> {
        let Self {
            connection,
            number,
            body,
            answer,
        } = *self;
        match framing {
            Framing::Http => format!(
                "POST /{connection}/{number}/{answer} HTTP/1.1\r\nHost: test\r\nContent-Length: {body}\r\n\r\n"
            )
            .into_bytes(),
            Framing::Bare if connection == u32::MAX => vec![number as u8],
            Framing::Bare => {
                let words = [u32::from(FULL), connection, number, body as u32, answer as u32];
                words.iter().flat_map(|word| word.to_le_bytes()).collect()
            }
        }
    }

    /// The head that precedes the answer.
    pub fn answer_head(&self, framing: Framing) -> Vec<u8> {
        match framing {
            Framing::Http => {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", self.answer).into_bytes()
            }
            Framing::Bare => Vec::new(),
        }
    }

    /// The message at the start of these bytes and the length of its head, once the head is complete.
    pub fn parse(framing: Framing, bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        match (framing, bytes) {
            (_, []) => Ok(None),
            (Framing::Http, _) => {
                let Some((lines, length)) = http_head(bytes)? else {
                    return Ok(None);
                };
                let path = lines.split(' ').nth(1).context("no path")?;
                let mut words = path.split('/').skip(1).map(str::parse::<u32>);
                let mut word = || words.next().context("a short path")?.context("not a number");
                let message = Self {
                    connection: word()?,
                    number: word()?,
                    answer: word()? as usize,
                    body: content_length(&lines)?,
                };
                Ok(Some((message, length)))
            }
            (Framing::Bare, [FULL, ..]) => {
                let Some(head) = bytes.get(..HEAD) else {
                    return Ok(None);
                };
                let word =
                    |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
                let message = Self {
                    connection: word(4),
                    number: word(8),
                    body: word(12) as usize,
                    answer: word(16) as usize,
                };
                let wrong = word(0) != u32::from(FULL)
                    || [message.body, message.answer].iter().any(|&n| n as u64 > MOST);
                ensure!(!wrong, "not a head: {head:?}");
                Ok(Some((message, HEAD)))
            }
            (Framing::Bare, [first, ..]) => Ok(Some((Self::of_first_byte(*first), 1))),
        }
    }

    /// The length of the head at the start of an answer, once the head is complete.
    pub fn parse_answer(&self, framing: Framing, bytes: &[u8]) -> Result<Option<usize>> {
        if framing == Framing::Bare {
            return Ok(Some(0));
        }
        let Some((lines, length)) = http_head(bytes)? else {
            return Ok(None);
        };
        ensure!(lines.starts_with("http/1.1 200 "), "not an answer: {lines}");
        ensure!(
            content_length(&lines)? == self.answer,
            "another answer than of {}: {lines}",
            self.answer
        );
        Ok(Some(length))
    }
}

/// The lines of a head in lower case, which proxies may change, and its length.
fn http_head(bytes: &[u8]) -> Result<Option<(String, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        ensure!(bytes.len() < LONGEST_HEAD, "a head without an end");
        return Ok(None);
    };
    let lines = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    Ok(Some((lines, end + 4)))
}

fn content_length(lines: &str) -> Result<usize> {
    let value = lines
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let value = value.with_context(|| format!("no length: {lines}"))?;
    value.trim().parse().context("not a length")
}

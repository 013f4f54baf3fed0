//! Owns the bytes of a stream: which byte is at which offset of which direction of which connection, generated and
//! compared at memory-copy speed.

use std::sync::LazyLock;

/// A stream is a series of chunks, each cut from one random table at a place given by chunk number and stream; so a
/// shift, a loss, a repetition and another stream's bytes all show as mismatches.
const CHUNK: usize = 4096;
const STARTS: usize = 1 << 18;

static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random::new(0x7061_7474_6572_6e73);
    (0..(STARTS + CHUNK) / 8)
        .flat_map(|_| random.word().to_le_bytes())
        .collect()
});

/// The finaliser of splitmix64.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The source of all random choices: splitmix64.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A separate generator for one part of a run.
    pub fn of(seed: u64, connection: u64, part: u64) -> Self {
        Self(mix(seed ^ mix(connection ^ mix(part))))
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number from `low` to `high`, inclusive.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.word() % (high - low + 1)
    }

    /// A number from `low` to `high` with a random order of magnitude, so that small ones are as frequent as large ones.
    pub fn spread(&mut self, low: u64, high: u64) -> u64 {
        let octaves = u64::from((high / low).ilog2());
        let base = low << self.range(0, octaves);
        self.range(base, (base * 2 - 1).min(high))
    }

    /// True once in `of` times, on average.
    pub fn chance(&mut self, of: u64) -> bool {
        self.word() % of == 0
    }
}

/// A wrong byte.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub offset: u64,
    pub expected: u8,
    pub found: u8,
    /// The offset in the same stream at which the received bytes belong, if nearby.
    pub belongs_at: Option<u64>,
}

/// The bytes of one direction of one connection.
#[derive(Clone, Copy)]
pub struct Stream {
    key: u64,
}

impl Stream {
    pub fn new(seed: u64, connection: u64, direction: u64) -> Self {
        Self {
            key: mix(seed ^ mix(connection.wrapping_mul(2) ^ direction)),
        }
    }

    /// The expected bytes from `offset` to the end of its chunk.
    fn chunk(&self, offset: u64) -> &'static [u8] {
        let number = offset / CHUNK as u64;
        let start = (mix(self.key.wrapping_add(number)) % STARTS as u64) as usize;
        &TABLE[start + (offset % CHUNK as u64) as usize..start + CHUNK]
    }

    pub fn fill(&self, mut offset: u64, mut into: &mut [u8]) {
        while !into.is_empty() {
            let chunk = self.chunk(offset);
            let length = chunk.len().min(into.len());
            into[..length].copy_from_slice(&chunk[..length]);
            into = &mut into[length..];
            offset += length as u64;
        }
    }

    pub fn check(&self, offset: u64, received: &[u8]) -> Result<(), Mismatch> {
        let mut done = 0;
        while done < received.len() {
            let at = offset + done as u64;
            let rest = &received[done..];
            let chunk = self.chunk(at);
            let length = chunk.len().min(rest.len());
            if chunk[..length] != rest[..length] {
                let wrong = (0..length).find(|&i| chunk[i] != rest[i]).unwrap_or(0);
                return Err(Mismatch {
                    offset: at + wrong as u64,
                    expected: chunk[wrong],
                    found: rest[wrong],
                    belongs_at: self.find(at + wrong as u64, &rest[wrong..]),
                });
            }
            done += length;
        }
        Ok(())
    }

    /// Searches a megabyte in both directions for the bytes, to tell reordering from loss.
    fn find(&self, around: u64, needle: &[u8]) -> Option<u64> {
        const REACH: u64 = 1 << 20;
        let needle = &needle[..needle.len().min(16)];
        if needle.len() < 8 {
            return None;
        }
        let start = around.saturating_sub(REACH);
        let mut bytes = vec![0; (around - start + REACH) as usize];
        self.fill(start, &mut bytes);
        bytes
            .windows(needle.len())
            .position(|window| window == needle)
            .map(|at| start + at as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::{Mismatch, Random, Stream};

    const LENGTH: usize = 100_000;

    fn bytes(stream: &Stream, offset: u64) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        stream.fill(offset, &mut bytes);
        bytes
    }

    #[test]
    fn a_stream_in_any_pieces_is_the_same_stream() {
        let stream = Stream::new(1, 2, 0);
        let whole = bytes(&stream, 0);
        let mut random = Random::new(3);
        let mut at = 0;
        while at < LENGTH {
            let length = (random.spread(1, 20_000) as usize).min(LENGTH - at);
            let mut piece = vec![0; length];
            stream.fill(at as u64, &mut piece);
            assert_eq!(piece, whole[at..at + length]);
            assert_eq!(stream.check(at as u64, &piece), Ok(()));
            at += length;
        }
    }

    #[test]
    fn a_flipped_byte_is_found_where_it_is() {
        let stream = Stream::new(1, 2, 0);
        for wrong in [0, 1, 4095, 4096, 50_000, LENGTH - 1] {
            let mut received = bytes(&stream, 7);
            received[wrong] ^= 1;
            let mismatch = stream.check(7, &received).expect_err("one byte is wrong");
            assert_eq!(mismatch.offset, 7 + wrong as u64);
            assert_eq!(mismatch.found, mismatch.expected ^ 1);
        }
    }

    #[test]
    fn a_lost_a_repeated_and_an_overtaking_piece_are_found() {
        let stream = Stream::new(1, 2, 0);
        let whole = bytes(&stream, 0);
        for length in [1, 7, 64, 4096, 8192] {
            let lost = stream
                .check(1000, &whole[1000 + length..])
                .expect_err("bytes are missing");
            assert!(lost.offset < 1000 + 16);
            let repeated = stream
                .check(20_000, &whole[20_000 - length..])
                .expect_err("bytes came twice");
            assert!(repeated.offset < 20_000 + 16);
        }
        let Mismatch {
            belongs_at, offset, ..
        } = stream.check(1000, &whole[9000..]).expect_err("bytes overtook");
        assert_eq!(belongs_at, Some(offset + 8000));
    }

    #[test]
    fn bytes_of_another_stream_are_found() {
        let whole = bytes(&Stream::new(1, 2, 0), 0);
        for other in [Stream::new(1, 2, 1), Stream::new(1, 3, 0), Stream::new(2, 2, 0)] {
            assert!(other.check(0, &whole[..64]).is_err());
        }
    }

    #[test]
    fn random_numbers_stay_in_their_range() {
        let mut random = Random::of(1, 2, 3);
        for _ in 0..10_000 {
            assert!((3..=9).contains(&random.range(3, 9)));
            assert!((1..=1_000_000).contains(&random.spread(1, 1_000_000)));
        }
    }
}

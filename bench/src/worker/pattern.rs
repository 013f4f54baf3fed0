//! The payload of connections: each byte is known by its position in the stream, so that arrivals can be checked.

use anyhow::{Result, ensure};

/// Divides no message or buffer size, so that misplaced bytes differ from the expected ones.
const PERIOD: usize = 4093;
/// Bytes at either end of an arrival that are always checked.
const EDGE: usize = 8;
/// One in this many arrivals is checked completely; checking all would cost more than some of what is measured.
const THOROUGH: u64 = 64;

pub struct Pattern(Vec<u8>);

impl Pattern {
    /// For pieces of up to this many bytes.
    pub fn new(longest: usize) -> Self {
        let mut bytes = Vec::with_capacity(PERIOD + longest);
        let mut state: u32 = 0x9e37_79b9;
        for place in 0..PERIOD + longest {
            if place >= PERIOD {
                bytes.push(bytes[place - PERIOD]);
                continue;
            }
            // Xorshift: any bytes without a short period will do.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            bytes.push(state as u8);
        }
        Self(bytes)
    }

    /// The bytes at a position of the stream.
    pub fn at(&self, place: u64, length: usize) -> &[u8] {
        let begin = (place % PERIOD as u64) as usize;
        &self.0[begin..begin + length]
    }

    /// Fails if an arrival is not what was sent at its position. `number` counts the arrivals of a connection.
    pub fn check(&self, place: u64, arrival: &[u8], number: u64) -> Result<()> {
        let expected = self.at(place, arrival.len());
        let edge = arrival.len().min(EDGE);
        let tail = arrival.len() - edge;
        let is_right = arrival[..edge] == expected[..edge]
            && arrival[tail..] == expected[tail..]
            && (number % THOROUGH != 0 || arrival == expected);
        ensure!(
            is_right,
            "what arrived from byte {place} on is not what was sent there"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_out_of_place_are_noticed() {
        let pattern = Pattern::new(1 << 16);
        for place in [0, 7, 4092, 4093, 1 << 40] {
            let sent = pattern.at(place, 1000).to_vec();
            pattern.check(place, &sent, 0).unwrap();
            for shift in [1, 64, 1024, 65536] {
                assert!(pattern.check(place + shift, &sent, 1).is_err());
            }
        }
    }

    #[test]
    fn a_wrong_byte_in_the_middle_is_noticed_by_a_thorough_look() {
        let pattern = Pattern::new(1 << 16);
        let mut sent = pattern.at(0, 1000).to_vec();
        sent[500] ^= 1;
        assert!(pattern.check(0, &sent, THOROUGH).is_err());
    }
}

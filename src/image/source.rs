//! The byte sources that ELF files are read from.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;

use super::Why;

/// Why a file cannot be read completely.
pub(super) enum Flaw {
    Is(Why),
    Io(io::Error),
}

pub(super) const MALFORMED: Flaw = Flaw::Is(Why::Malformed);

pub(super) trait Source {
    fn fill(&self, at: u64, into: &mut [u8]) -> Result<(), Flaw>;

    fn bytes(&self, at: u64, length: u64, most: u64) -> Result<Vec<u8>, Flaw> {
        if length > most {
            return Err(MALFORMED);
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| MALFORMED)?];
        self.fill(at, &mut bytes)?;
        Ok(bytes)
    }
}

impl Source for File {
    fn fill(&self, at: u64, into: &mut [u8]) -> Result<(), Flaw> {
        self.read_exact_at(into, at).map_err(|error| match error.kind() {
            // Offsets too large for the kernel are refused as invalid arguments.
            ErrorKind::UnexpectedEof | ErrorKind::InvalidInput => MALFORMED,
            _ => Flaw::Io(error),
        })
    }
}

impl Source for [u8] {
    fn fill(&self, at: u64, into: &mut [u8]) -> Result<(), Flaw> {
        let from = usize::try_from(at).map_err(|_| MALFORMED)?;
        let to = from.checked_add(into.len()).ok_or(MALFORMED)?;
        into.copy_from_slice(self.get(from..to).ok_or(MALFORMED)?);
        Ok(())
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Flaw> {
    let (bytes, _) = bytes
        .get(at..)
        .and_then(<[u8]>::split_first_chunk)
        .ok_or(MALFORMED)?;
    Ok(u16::from_ne_bytes(*bytes))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Flaw> {
    let (bytes, _) = bytes
        .get(at..)
        .and_then(<[u8]>::split_first_chunk)
        .ok_or(MALFORMED)?;
    Ok(u32::from_ne_bytes(*bytes))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Flaw> {
    let (bytes, _) = bytes
        .get(at..)
        .and_then(<[u8]>::split_first_chunk)
        .ok_or(MALFORMED)?;
    Ok(u64::from_ne_bytes(*bytes))
}

//! What the sections and notes of a file show.

use super::elf::Elf;
use super::layout::{SECTION, SHT_DYNSYM, SYMBOL};
use super::source::{Flaw, MALFORMED, Source, u16_at, u32_at, u64_at};

const MOST_SECTION_BYTES: u64 = 8 << 20;
const MOST_NOTE_BYTES: u64 = 1 << 20;

/// From the section headers, without which programs run as well.
#[derive(Default)]
pub(super) struct Sections {
    pub(super) go: bool,
    /// Address and number of the symbols.
    pub(super) symbols: Option<(u64, u64)>,
}

impl<S: Source + ?Sized> Elf<'_, S> {
    pub(super) fn sections(&self) -> Result<Sections, Flaw> {
        let offset = u64_at(&self.header, 40)?;
        let size = usize::from(u16_at(&self.header, 58)?);
        let mut count = u64::from(u16_at(&self.header, 60)?);
        let mut names = u32::from(u16_at(&self.header, 62)?);
        let mut found = Sections::default();
        if offset == 0 {
            return Ok(found);
        }
        if size < SECTION {
            return Err(MALFORMED);
        }
        // Numbers that do not fit are in the first section.
        let first = self.source.bytes(offset, SECTION as u64, SECTION as u64)?;
        if count == 0 {
            count = u64_at(&first, 32)?;
        }
        if names == 0xffff {
            names = u32_at(&first, 40)?;
        }
        let bytes = count.checked_mul(size as u64).ok_or(MALFORMED)?;
        let table = self.source.bytes(offset, bytes, MOST_SECTION_BYTES)?;
        let mut sections = table.chunks_exact(size);
        let names = match sections.clone().nth(names as usize) {
            Some(section) if names != 0 => {
                self.source
                    .bytes(u64_at(section, 24)?, u64_at(section, 32)?, MOST_SECTION_BYTES)?
            }
            _ => Vec::new(),
        };
        sections.try_for_each(|section| {
            let name = names.get(u32_at(section, 0)? as usize..).unwrap_or_default();
            let is = |wanted: &[u8]| name.starts_with(wanted);
            found.go |= is(b".go.buildinfo\0") || is(b".note.go.buildid\0") || is(b".gopclntab\0");
            if u32_at(section, 4)? == SHT_DYNSYM {
                let count = u64_at(section, 32)? / SYMBOL as u64;
                found.symbols = Some((u64_at(section, 16)?, count));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Go's linker leaves its build ID in a note, which survives stripping.
    pub(super) fn has_go_note(&self) -> Result<bool, Flaw> {
        for at in &self.notes {
            let bytes = self.source.bytes(at.offset, at.size, MOST_NOTE_BYTES)?;
            let mut rest = &bytes[..];
            // Property notes are aligned to eight bytes; their parts are sized so that this makes no difference.
            while rest.len() >= 12 {
                let name = u32_at(rest, 0)? as usize;
                let description = u32_at(rest, 4)? as usize;
                if rest.get(12..).is_some_and(|rest| rest.starts_with(b"Go\0\0")) && name == 4 {
                    return Ok(true);
                }
                let aligned = |length: usize| length.div_ceil(4).saturating_mul(4);
                let next = 12_usize
                    .saturating_add(aligned(name))
                    .saturating_add(aligned(description));
                rest = rest.get(next..).unwrap_or_default();
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Why;
    use super::super::sample::Builder;

    #[test]
    fn go_is_known_by_its_note_and_by_its_sections() {
        let note = Builder {
            note: Some(b"Go\0\0"),
            ..Builder::program().without_sections()
        };
        assert_eq!(note.splices(), Some(Why::Go));
        for name in [".go.buildinfo", ".note.go.buildid", ".gopclntab"] {
            let section = Builder {
                sections: Some(name),
                ..Builder::program()
            };
            assert_eq!(section.splices(), Some(Why::Go), "{name}");
        }
        let unlike = Builder {
            sections: Some(".gopclntab2"),
            note: Some(b"Gopher\0\0"),
            ..Builder::program()
        };
        assert_eq!(unlike.splices(), None);
    }
}

//! What one ELF file shows, from a few small parts of it, whatever its size.

use std::fs::File;
use std::io;

use super::Why;
use super::layout::*;
use super::source::{Flaw, MALFORMED, Source, u16_at, u32_at, u64_at};

/// Sizes beyond which a file is rejected, here and for sections and symbols, so that it is examined in bounded time. The
/// largest known ones reach a tenth.
const MOST_SEGMENTS: u16 = 1024;
const MOST_DYNAMIC_BYTES: u64 = 1 << 20;
const LONGEST_NAME: u64 = 4096;

/// What one file shows. It depends only on the content, so it can be cached for as long as that stays the same.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Image {
    /// `None` if nothing in it calls splice.
    pub splices: Option<Why>,
    /// The loader, if it can be started as a program.
    pub interpreter: Option<String>,
    /// The name by which libraries and programs request it.
    pub(super) soname: Option<String>,
    pub(super) needed: Vec<String>,
}

impl Image {
    pub(super) fn spliced(why: Why) -> Self {
        Self {
            splices: Some(why),
            ..Self::default()
        }
    }

    /// Judges it as a program; without a loader it gets no libraries.
    pub fn as_program(&self) -> Option<Why> {
        self.splices.or(self.interpreter.is_none().then_some(Why::Static))
    }
}

/// Reads a few small parts of a file, whatever its size.
pub fn of_file(file: &File) -> io::Result<Image> {
    of_source(file)
}

/// Like `of_file`, for a file's content.
#[cfg(test)]
pub fn of_image(bytes: &[u8]) -> Image {
    of_source(bytes).unwrap_or_else(|_| Image::spliced(Why::Malformed))
}

fn of_source(source: &(impl Source + ?Sized)) -> io::Result<Image> {
    match Elf::new(source).and_then(|elf| elf.image()) {
        Ok(image) => Ok(image),
        Err(Flaw::Is(why)) => Ok(Image::spliced(why)),
        Err(Flaw::Io(error)) => Err(error),
    }
}

/// A part of the file.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) size: u64,
}

struct Load {
    address: u64,
    at: Extent,
}

pub(super) struct Elf<'source, S: ?Sized> {
    pub(super) source: &'source S,
    pub(super) header: Vec<u8>,
    loads: Vec<Load>,
    pub(super) notes: Vec<Extent>,
    dynamic: Option<Extent>,
    interpreter: Option<Extent>,
}

impl<'source, S: Source + ?Sized> Elf<'source, S> {
    fn new(source: &'source S) -> Result<Self, Flaw> {
        let mut magic = [0; 4];
        match source.fill(0, &mut magic) {
            Err(Flaw::Is(_)) => return Err(Flaw::Is(Why::NotElf)),
            done => done?,
        }
        if magic != *b"\x7fELF" {
            return Err(Flaw::Is(Why::NotElf));
        }
        let header = source.bytes(0, HEADER, HEADER)?;
        if header[4] != CLASS64 || header[5] != DATA_HERE || Some(u16_at(&header, 18)?) != MACHINE_HERE {
            return Err(Flaw::Is(Why::Foreign));
        }
        let mut elf = Self {
            source,
            header,
            loads: Vec::new(),
            notes: Vec::new(),
            dynamic: None,
            interpreter: None,
        };
        elf.read_segments()?;
        Ok(elf)
    }

    fn read_segments(&mut self) -> Result<(), Flaw> {
        let size = usize::from(u16_at(&self.header, 54)?);
        let count = u16_at(&self.header, 56)?;
        if count > MOST_SEGMENTS || count > 0 && size < SEGMENT {
            return Err(MALFORMED);
        }
        let bytes = u64::from(count) * size as u64;
        let table = self.source.bytes(u64_at(&self.header, 32)?, bytes, bytes)?;
        for segment in table.chunks_exact(size.max(SEGMENT)) {
            let at = Extent {
                offset: u64_at(segment, 8)?,
                size: u64_at(segment, 32)?,
            };
            match u32_at(segment, 0)? {
                PT_LOAD => self.loads.push(Load {
                    address: u64_at(segment, 16)?,
                    at,
                }),
                PT_DYNAMIC => self.dynamic = Some(at),
                PT_INTERP => self.interpreter = Some(at),
                PT_NOTE => self.notes.push(at),
                _ => {}
            }
        }
        Ok(())
    }

    fn image(&self) -> Result<Image, Flaw> {
        let sections = self.sections()?;
        if sections.go || self.has_go_note()? {
            return Err(Flaw::Is(Why::Go));
        }
        // For a library this means that it is loaded by other means than this process's loader.
        let dynamic = self.dynamic.ok_or(Flaw::Is(Why::Static))?;
        let dynamic = self.tags(dynamic)?;
        let interpreter = match self.interpreter {
            Some(at) => Some(self.text(at)?),
            None => None,
        };
        let mut image = Image {
            interpreter,
            ..Image::default()
        };
        let names = Extent {
            offset: match tag(&dynamic, DT_STRTAB) {
                Some(address) => self.place(address)?.offset,
                None => 0,
            },
            size: tag(&dynamic, DT_STRSZ).unwrap_or(0),
        };
        for &(tag, value) in &dynamic {
            match tag {
                DT_NEEDED => image.needed.push(self.text(part(names, value)?)?),
                DT_SONAME => image.soname = Some(self.text(part(names, value)?)?),
                _ => {}
            }
        }
        if self.imports_splice(&dynamic, &sections, names)? {
            image.splices = Some(Why::Imports);
        }
        Ok(image)
    }

    /// The file offset of an address in the image, and how much of its segment follows.
    pub(super) fn place(&self, address: u64) -> Result<Extent, Flaw> {
        self.loads
            .iter()
            .find_map(|load| {
                let within = address.checked_sub(load.address)?;
                let size = load.at.size.checked_sub(within).filter(|&left| left > 0)?;
                let offset = load.at.offset.checked_add(within)?;
                Some(Extent { offset, size })
            })
            .ok_or(MALFORMED)
    }

    pub(super) fn loaded(&self, address: u64, length: u64, most: u64) -> Result<Vec<u8>, Flaw> {
        let place = self.place(address)?;
        if length > place.size {
            return Err(MALFORMED);
        }
        self.source.bytes(place.offset, length, most)
    }

    pub(super) fn loaded_u32(&self, address: u64) -> Result<u32, Flaw> {
        u32_at(&self.loaded(address, 4, 4)?, 0)
    }

    /// The text at the beginning of a part, up to its NUL.
    fn text(&self, at: Extent) -> Result<String, Flaw> {
        let bytes = self
            .source
            .bytes(at.offset, at.size.min(LONGEST_NAME), LONGEST_NAME)?;
        let length = bytes.iter().position(|&byte| byte == 0).ok_or(MALFORMED)?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    fn tags(&self, at: Extent) -> Result<Vec<(u64, u64)>, Flaw> {
        let bytes = self.source.bytes(at.offset, at.size, MOST_DYNAMIC_BYTES)?;
        let mut tags = Vec::new();
        for entry in bytes.chunks_exact(DYNAMIC) {
            let tag = u64_at(entry, 0)?;
            if tag == DT_NULL {
                break;
            }
            tags.push((tag, u64_at(entry, 8)?));
        }
        Ok(tags)
    }
}

pub(super) fn tag(dynamic: &[(u64, u64)], wanted: u64) -> Option<u64> {
    dynamic
        .iter()
        .find(|(tag, _)| *tag == wanted)
        .map(|(_, value)| *value)
}

/// The part from this offset on.
pub(super) fn part(of: Extent, from: u64) -> Result<Extent, Flaw> {
    Ok(Extent {
        offset: of.offset.checked_add(from).ok_or(MALFORMED)?,
        size: of.size.checked_sub(from).ok_or(MALFORMED)?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::sample::{Builder, variants};
    use super::*;

    #[test]
    fn an_image_without_splice_is_read_whole() {
        for builder in variants(Builder::program) {
            let image = builder.look();
            assert_eq!(image.splices, None);
            assert_eq!(image.as_program(), None);
            assert_eq!(image.interpreter.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
            assert_eq!(image.needed, ["libx.so.1", "libc.so.6"]);
            assert_eq!(image.soname, None);
        }
        assert_eq!(Builder::library().look().soname.as_deref(), Some("libx.so.1"));
    }

    #[test]
    fn static_programs_have_system_calls_of_their_own() {
        // static-pie has a dynamic section, for its own relocations
        let pie = Builder {
            interpreter: None,
            ..Builder::program()
        };
        assert_eq!(pie.look().as_program(), Some(Why::Static));
        let image = Builder {
            is_dynamic: false,
            ..pie
        };
        assert_eq!(image.look().as_program(), Some(Why::Static));
        assert_eq!(image.splices(), Some(Why::Static));
    }

    #[test]
    fn other_machines_are_foreign() {
        let valid = Builder::program().build();
        for (at, value) in [(4, 1), (5, 3 - DATA_HERE), (18, 0x7f)] {
            let mut bytes = valid.clone();
            bytes[at] = value;
            assert_eq!(of_image(&bytes).as_program(), Some(Why::Foreign));
        }
    }

    #[test]
    fn other_files_are_no_images() {
        for bytes in [&b""[..], b"\x7fEL", b"#!/bin/sh\n", b"MZ\x90\0"] {
            assert_eq!(of_image(bytes).as_program(), Some(Why::NotElf));
        }
        assert_eq!(of_image(b"\x7fELF\x02\x01").splices, Some(Why::Malformed));
    }

    #[test]
    fn a_truncated_image_can_splice() {
        for builder in variants(|| Builder::program().importing("splice")) {
            let bytes = builder.build();
            for length in 0..bytes.len() {
                assert!(of_image(&bytes[..length]).as_program().is_some(), "{length}");
            }
        }
        // Without the import the same holds, except for parts that are never read.
        let bytes = Builder::program().build();
        for length in 0..bytes.len() - 8 * 8 {
            assert!(of_image(&bytes[..length]).as_program().is_some(), "{length}");
        }
    }

    #[test]
    fn nonsense_anywhere_is_survived() {
        for builder in variants(|| Builder::program().importing("splice")) {
            let valid = builder.build();
            for at in 0..valid.len() {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bytes = valid.clone();
                    bytes[at] = value;
                    of_image(&bytes);
                }
                let mut bytes = valid.clone();
                let end = bytes.len().min(at + 8);
                bytes.splice(at..end, vec![0xff; end - at]);
                of_image(&bytes);
            }
        }
    }

    #[test]
    fn a_file_says_what_its_content_does() {
        let exe = Path::new("/proc/self/exe");
        let image = of_file(&File::open(exe).unwrap()).unwrap();
        assert_eq!(image, of_image(&fs::read(exe).unwrap()));
    }
}

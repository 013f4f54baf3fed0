//! Synthetic images for tests.

use super::Why;
use super::elf::{Image, of_image};
use super::layout::*;

const BASE: u64 = 0x40_0000;
const SEGMENTS: usize = 5;
const STT_FUNC: u8 = 0x12;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Hash {
    Old,
    New,
    None,
}

/// An image with one segment, whose parts follow each other in the order of `build`.
pub(super) struct Builder {
    pub(super) interpreter: Option<&'static str>,
    pub(super) soname: Option<&'static str>,
    pub(super) needed: Vec<&'static str>,
    pub(super) imports: Vec<&'static str>,
    pub(super) exports: Vec<&'static str>,
    pub(super) hash: Hash,
    pub(super) sections: Option<&'static str>,
    pub(super) note: Option<&'static [u8]>,
    pub(super) is_dynamic: bool,
    pub(super) relocates: bool,
}

impl Builder {
    pub(super) fn program() -> Self {
        Self {
            interpreter: Some("/lib64/ld-linux-x86-64.so.2"),
            soname: None,
            needed: vec!["libx.so.1", "libc.so.6"],
            imports: vec!["read", "write"],
            exports: vec!["main"],
            hash: Hash::New,
            sections: Some(".text"),
            note: Some(b"GNU\0"),
            is_dynamic: true,
            relocates: true,
        }
    }

    pub(super) fn library() -> Self {
        Self {
            interpreter: None,
            soname: Some("libx.so.1"),
            ..Self::program()
        }
    }

    pub(super) fn importing(mut self, name: &'static str) -> Self {
        self.imports.push(name);
        self
    }

    pub(super) fn exporting(mut self, name: &'static str) -> Self {
        self.exports.push(name);
        self
    }

    pub(super) fn hashed(mut self, hash: Hash) -> Self {
        self.hash = hash;
        self
    }

    pub(super) fn without_sections(mut self) -> Self {
        self.sections = None;
        self
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER as usize + SEGMENTS * SEGMENT];
        let mut segments = Vec::new();
        if let Some(interpreter) = self.interpreter {
            let at = bytes.len();
            bytes.extend(interpreter.bytes().chain([0]));
            segments.push((PT_INTERP, at, bytes.len()));
        }
        align(&mut bytes);
        if let Some(owner) = self.note {
            let at = bytes.len();
            // Another owner's note in front.
            for owner in [b"abcde\0", owner] {
                put32(&mut bytes, &[owner.len() as u32, 3, 4]);
                bytes.extend(owner);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                bytes.extend(b"xyz\0");
            }
            segments.push((PT_NOTE, at, bytes.len()));
        }
        align(&mut bytes);

        let strings = bytes.len();
        let mut text = |name: &str| {
            let at = bytes.len() - strings;
            bytes.extend(name.bytes().chain([0]));
            at as u64
        };
        text("");
        let mut tags: Vec<_> = self
            .needed
            .iter()
            .map(|name| (DT_NEEDED, text(name)))
            .chain(self.soname.map(|_| (DT_SONAME, 0)))
            .collect();
        if let Some(name) = self.soname {
            let at = text(name);
            tags.last_mut().unwrap().1 = at;
        }
        let imports: Vec<_> = self.imports.iter().map(|name| (text(name), 0)).collect();
        let exports: Vec<_> = self.exports.iter().map(|name| (text(name), 1)).collect();
        tags.push((DT_STRSZ, (bytes.len() - strings) as u64));
        align(&mut bytes);

        let symbols = bytes.len();
        let all: Vec<_> = [(0, 0)].into_iter().chain(imports).chain(exports).collect();
        for (name, section) in &all {
            put32(&mut bytes, &[*name as u32]);
            bytes.extend([STT_FUNC, 0]);
            bytes.extend(u16::to_ne_bytes(*section));
            put64(&mut bytes, &[0, 0]);
        }
        let symbols_end = bytes.len();

        let hash = bytes.len();
        let count = all.len() as u32;
        let first = 1 + self.imports.len() as u32;
        match self.hash {
            Hash::Old => put32(&mut bytes, &[1, count, 1]),
            // As GNU ld writes an empty table: its first symbol is not where imports end.
            Hash::New if first == count => put32(&mut bytes, &[1, 1, 1, 0, 0, 0, 0]),
            Hash::New => {
                put32(&mut bytes, &[1, first, 1, 0, 0, 0, first]);
                for symbol in first..count {
                    put32(&mut bytes, &[u32::from(symbol + 1 == count)]);
                }
            }
            Hash::None => {}
        }
        align(&mut bytes);

        let relocations = bytes.len();
        if self.relocates {
            for symbol in 1..u64::from(first) {
                put64(&mut bytes, &[0, symbol << 32 | 7, 0]);
            }
        }
        let at = |offset: usize| BASE + offset as u64;
        tags.extend([
            (DT_STRTAB, at(strings)),
            (DT_SYMTAB, at(symbols)),
            (DT_SYMENT, SYMBOL as u64),
            (DT_JMPREL, at(relocations)),
            (DT_PLTRELSZ, (bytes.len() - relocations) as u64),
        ]);
        match self.hash {
            Hash::Old => tags.push((DT_HASH, at(hash))),
            Hash::New => tags.push((DT_GNU_HASH, at(hash))),
            Hash::None => {}
        }
        if self.is_dynamic {
            let dynamic = bytes.len();
            for (tag, value) in tags.into_iter().chain([(DT_NULL, 0)]) {
                put64(&mut bytes, &[tag, value]);
            }
            segments.push((PT_DYNAMIC, dynamic, bytes.len()));
        }
        segments.push((PT_LOAD, 0, bytes.len()));

        let mut table = 0;
        if let Some(name) = self.sections {
            let names = bytes.len();
            bytes.extend(format!("\0{name}\0").bytes());
            let names_end = bytes.len();
            align(&mut bytes);
            table = bytes.len();
            let (kinds, parts) = (
                [0, 1, SHT_DYNSYM, 3],
                [(0, 0), (0, 0), (symbols, symbols_end), (names, names_end)],
            );
            for (index, (kind, (from, to))) in kinds.into_iter().zip(parts).enumerate() {
                put32(&mut bytes, &[u32::from(index == 1), kind]);
                put64(
                    &mut bytes,
                    &[0, at(from), from as u64, (to - from) as u64, 0, 0, 0],
                );
            }
        }

        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head[5] = DATA_HERE;
        head.resize(16, 0);
        for half in [3, MACHINE_HERE.unwrap_or(0)] {
            head.extend(u16::to_ne_bytes(half));
        }
        put32(&mut head, &[1]);
        put64(&mut head, &[0, HEADER, table as u64]);
        put32(&mut head, &[0]);
        let sections = if table == 0 { 0 } else { 4 };
        for half in [
            64,
            SEGMENT as u16,
            segments.len() as u16,
            SECTION as u16,
            sections,
            3,
        ] {
            head.extend(u16::to_ne_bytes(half));
        }
        for (kind, from, to) in segments {
            put32(&mut head, &[kind, 5]);
            let size = (to - from) as u64;
            put64(&mut head, &[from as u64, at(from), at(from), size, size, 8]);
        }
        bytes[..head.len()].copy_from_slice(&head);
        bytes
    }

    pub(super) fn look(&self) -> Image {
        of_image(&self.build())
    }

    pub(super) fn splices(&self) -> Option<Why> {
        self.look().splices
    }
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn put32(bytes: &mut Vec<u8>, values: &[u32]) {
    bytes.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
}

fn put64(bytes: &mut Vec<u8>, values: &[u64]) {
    bytes.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
}

/// One for each way to determine the number of symbols.
pub(super) fn variants(make: impl Fn() -> Builder) -> Vec<Builder> {
    vec![
        make(),
        make().hashed(Hash::Old),
        make().hashed(Hash::Old).without_sections(),
        make().hashed(Hash::New).without_sections(),
        make().hashed(Hash::None),
        make().hashed(Hash::None).without_sections(),
    ]
}

//! Which symbols a file imports.

use super::elf::{Elf, Extent, part, tag};
use super::layout::*;
use super::sections::Sections;
use super::source::{Flaw, MALFORMED, Source, u16_at, u32_at, u64_at};

const MOST_SYMBOLS: u64 = 2 << 20;
const MOST_HASH_BYTES: u64 = 16 << 20;
const MOST_RELOCATION_BYTES: u64 = 128 << 20;
const CHUNK: u64 = 64 << 10;

/// The symbol and its terminator. Neither glibc nor musl has it by another name; vmsplice and tee do not read sockets.
const SPLICE: &[u8] = b"splice\0";

impl<S: Source + ?Sized> Elf<'_, S> {
    pub(super) fn imports_splice(
        &self,
        dynamic: &[(u64, u64)],
        sections: &Sections,
        names: Extent,
    ) -> Result<bool, Flaw> {
        let Some(symbols) = tag(dynamic, DT_SYMTAB) else {
            return Ok(false);
        };
        let count = self.count_symbols(dynamic, sections, symbols)?;
        if count > MOST_SYMBOLS || tag(dynamic, DT_SYMENT).is_some_and(|size| size != SYMBOL as u64) {
            return Err(MALFORMED);
        }
        let place = self.place(symbols)?;
        let bytes = count * SYMBOL as u64;
        if bytes > place.size {
            return Err(MALFORMED);
        }
        let mut undefined = Vec::new();
        let chunk = CHUNK / SYMBOL as u64 * SYMBOL as u64;
        let mut at = 0;
        while at < bytes {
            let length = chunk.min(bytes - at);
            for symbol in self
                .source
                .bytes(part(place, at)?.offset, length, chunk)?
                .chunks_exact(SYMBOL)
            {
                if u16_at(symbol, 6)? == 0 {
                    undefined.push(u32_at(symbol, 0)?);
                }
            }
            at += length;
        }
        undefined.sort_unstable();
        undefined.dedup();
        self.has_splice(&undefined, names)
    }

    /// Names in ascending order, so that each chunk of them is read only once.
    fn has_splice(&self, undefined: &[u32], names: Extent) -> Result<bool, Flaw> {
        let mut window = Vec::new();
        let mut start = 0;
        for &name in undefined {
            let name = u64::from(name);
            let left = names.size.checked_sub(name).ok_or(MALFORMED)?;
            if left < SPLICE.len() as u64 {
                continue;
            }
            let end = name + SPLICE.len() as u64;
            if end > start + window.len() as u64 {
                start = name;
                window = self
                    .source
                    .bytes(part(names, name)?.offset, left.min(CHUNK), CHUNK)?;
            }
            if window[(name - start) as usize..].starts_with(SPLICE) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The loader does not need the number of symbols, so only the older kind of hash table states it.
    fn count_symbols(&self, dynamic: &[(u64, u64)], sections: &Sections, symbols: u64) -> Result<u64, Flaw> {
        if let Some(hash) = tag(dynamic, DT_HASH) {
            let chains = hash.checked_add(4).ok_or(MALFORMED)?;
            return Ok(self.loaded_u32(chains)?.into());
        }
        // The newer kind lists only defined symbols. Imported ones precede them; but if none is defined, the table need not
        // say where they would begin.
        let hashed = match tag(dynamic, DT_GNU_HASH) {
            Some(hash) => self.count_hashed(hash)?,
            None => 0,
        };
        let others = match sections.symbols {
            Some((address, count)) if address == symbols => count,
            _ => self.count_relocated(dynamic)?,
        };
        Ok(hashed.max(others))
    }

    fn count_hashed(&self, hash: u64) -> Result<u64, Flaw> {
        let head = self.loaded(hash, 16, 16)?;
        let (buckets, first, bloom) = (u32_at(&head, 0)?, u32_at(&head, 4)?, u32_at(&head, 8)?);
        let at = hash.checked_add(16 + 8 * u64::from(bloom)).ok_or(MALFORMED)?;
        let size = 4 * u64::from(buckets);
        if size == 0 {
            return Ok(first.into());
        }
        let table = self.loaded(at, size, MOST_HASH_BYTES)?;
        let mut last = 0;
        for bucket in table.chunks_exact(4) {
            last = last.max(u32_at(bucket, 0)?);
        }
        // The last chain ends with the last symbol. An empty table has no chains.
        let Some(skipped) = last.checked_sub(first).filter(|_| last != 0) else {
            return Ok(first.into());
        };
        let chains = at.checked_add(size).ok_or(MALFORMED)?;
        let mut chain = chains.checked_add(4 * u64::from(skipped)).ok_or(MALFORMED)?;
        let mut count = u64::from(last) + 1;
        while self.loaded_u32(chain)? & 1 == 0 {
            count += 1;
            chain = chain.checked_add(4).ok_or(MALFORMED)?;
            if count > MOST_SYMBOLS {
                return Err(MALFORMED);
            }
        }
        Ok(count)
    }

    /// A symbol that no relocation refers to is never called.
    fn count_relocated(&self, dynamic: &[(u64, u64)]) -> Result<u64, Flaw> {
        let mut count = 0;
        for (table, size) in [(DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)] {
            let (Some(table), Some(size)) = (tag(dynamic, table), tag(dynamic, size)) else {
                continue;
            };
            if size == 0 {
                continue;
            }
            for relocation in self
                .loaded(table, size, MOST_RELOCATION_BYTES)?
                .chunks_exact(RELOCATION)
            {
                count = count.max((u64_at(relocation, 8)? >> 32) + 1);
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Why;
    use super::super::sample::{Builder, variants};

    #[test]
    fn an_import_of_splice_is_found_wherever_it_is() {
        for make in [Builder::program, Builder::library] {
            for builder in variants(|| make().importing("splice")) {
                assert_eq!(builder.splices(), Some(Why::Imports));
            }
            for builder in variants(|| make().importing("splice").importing("sendfile")) {
                assert_eq!(builder.splices(), Some(Why::Imports));
            }
        }
    }

    #[test]
    fn an_import_is_found_if_nothing_is_exported() {
        let make = || Builder {
            exports: Vec::new(),
            ..Builder::program().importing("splice")
        };
        for builder in variants(make) {
            assert_eq!(builder.splices(), Some(Why::Imports));
        }
    }

    #[test]
    fn an_import_is_found_if_only_the_table_of_exports_tells_of_it() {
        let builder = Builder {
            relocates: false,
            ..Builder::program().importing("splice").without_sections()
        };
        assert_eq!(builder.splices(), Some(Why::Imports));
    }

    #[test]
    fn an_import_is_found_among_names_of_several_windows() {
        for last in ["splice", "sendfile"] {
            let mut builder = Builder::program();
            builder.imports.extend(["a_name_of_some_length"; 10_000]);
            builder = builder.importing(last);
            assert_eq!(builder.splices().is_some(), last == "splice");
        }
    }

    #[test]
    fn a_libc_and_names_like_it_do_not_count() {
        let builders = [
            Builder::library().exporting("splice"),
            Builder::program().importing("vmsplice"),
            Builder::program().importing("tee"),
            Builder::program().importing("spliced"),
            Builder::program().importing("splic"),
            Builder::program().importing("list_splice"),
        ];
        for builder in builders {
            assert_eq!(builder.splices(), None);
        }
    }
}

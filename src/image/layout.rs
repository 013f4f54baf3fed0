//! The constants of elf.h that are needed here.

pub(super) const CLASS64: u8 = 2;
pub(super) const DATA_HERE: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };
/// Untested on other machines, whose tables may have other entries (as DT_HASH does on s390x).
pub(super) const MACHINE_HERE: Option<u16> = if cfg!(target_arch = "x86_64") {
    Some(62)
} else if cfg!(target_arch = "aarch64") {
    Some(183)
} else {
    None
};
pub(super) const HEADER: u64 = 64;
pub(super) const SEGMENT: usize = 56;
pub(super) const SECTION: usize = 64;
pub(super) const DYNAMIC: usize = 16;
pub(super) const SYMBOL: usize = 24;
pub(super) const RELOCATION: usize = 24;
pub(super) const PT_LOAD: u32 = 1;
pub(super) const PT_DYNAMIC: u32 = 2;
pub(super) const PT_INTERP: u32 = 3;
pub(super) const PT_NOTE: u32 = 4;
pub(super) const SHT_DYNSYM: u32 = 11;
pub(super) const DT_NULL: u64 = 0;
pub(super) const DT_NEEDED: u64 = 1;
pub(super) const DT_PLTRELSZ: u64 = 2;
pub(super) const DT_HASH: u64 = 4;
pub(super) const DT_STRTAB: u64 = 5;
pub(super) const DT_SYMTAB: u64 = 6;
pub(super) const DT_RELA: u64 = 7;
pub(super) const DT_RELASZ: u64 = 8;
pub(super) const DT_STRSZ: u64 = 10;
pub(super) const DT_SYMENT: u64 = 11;
pub(super) const DT_SONAME: u64 = 14;
pub(super) const DT_JMPREL: u64 = 23;
pub(super) const DT_GNU_HASH: u64 = 0x6fff_fef5;

//! Whether a running process can call splice(2), judged by the files it runs: its program and every library it has mapped.
//!
//! Only dynamically linked programs can be judged: they reach `splice` through an imported symbol. In doubt a program
//! counts as splicing. Imports do not show what is reached through `syscall`, `dlsym`, io_uring or a library loaded
//! later: this is only a head start, and the datapath must still notice programs that splice.

mod elf;
mod layout;
mod mappings;
#[cfg(test)]
mod sample;
mod sections;
mod source;
mod symbols;

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use elf::{Image, of_file};
use mappings::{Mapping, mapping, open};

/// What the files of a process show.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Splicing {
    Cannot,
    /// The reason, and the file.
    Can(Why, PathBuf),
    /// May change: ask again later, and treat it as `Can` until then.
    Unknown(Doubt),
}

/// Why a file must be assumed to splice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    Imports,
    /// It makes its own system calls: no imports to inspect.
    Static,
    /// So does Go, even if dynamically linked.
    Go,
    /// 32-bit, or for another machine: its symbols and system calls differ.
    Foreign,
    NotElf,
    /// An ELF file that contradicts itself or is truncated.
    Malformed,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Doubt {
    /// The library of this name is not mapped yet: the loader is still at work.
    Loading(String),
    /// The process has executed another program meanwhile.
    Changed,
}

impl fmt::Display for Splicing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cannot => out.write_str("imports no splice"),
            Self::Can(why, file) => write!(out, "{} {why}", file.display()),
            Self::Unknown(Doubt::Loading(library)) => write!(out, "{library} is not loaded yet"),
            Self::Unknown(Doubt::Changed) => out.write_str("runs another program now"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Imports => "imports splice",
            Self::Static => "is static",
            Self::Go => "is Go",
            Self::Foreign => "is 32-bit or of another machine",
            Self::NotElf => "is not ELF",
            Self::Malformed => "is malformed",
        })
    }
}

/// Checks all files of a process.
pub fn of_process(pid: u32) -> io::Result<Splicing> {
    of_process_by(pid, of_file)
}

/// Like `of_process`, with the caller's way to examine a file, such as a caching one. Fails if the process has exited or
/// its files cannot be opened: /proc/PID/exe and /proc/PID/maps need CAP_SYS_PTRACE, /proc/PID/map_files
/// CAP_CHECKPOINT_RESTORE. Without the latter a file is opened by its path, as long as that is still valid.
pub fn of_process_by(pid: u32, mut look: impl FnMut(&File) -> io::Result<Image>) -> io::Result<Splicing> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let exe = proc.join("exe");
    let told = |splices: Why, file: &Path| Ok(Splicing::Can(splices, file.to_owned()));

    let file = File::open(&exe).map_err(|error| about(&exe, &error))?;
    let identity = identity(&file.metadata()?);
    let program = look(&file)?;
    if let Some(why) = program.as_program() {
        return told(why, &fs::read_link(&exe)?);
    }
    let musl = program.interpreter.as_deref().is_some_and(is_musl);

    let maps = fs::read(proc.join("maps"))?;
    let mappings: Vec<_> = maps.split(|&byte| byte == b'\n').filter_map(mapping).collect();
    let mut images = vec![program];
    let mut seen = HashSet::from([identity]);
    let mut opened = HashSet::new();
    for mapping in mappings.iter().filter(|mapping| mapping.executable) {
        if !opened.insert((mapping.device, mapping.inode)) {
            continue;
        }
        let Some(file) = open(&proc, mapping)? else {
            continue;
        };
        if !seen.insert(self::identity(&file.metadata()?)) {
            continue;
        }
        let image = look(&file)?;
        match image.splices {
            None => images.push(image),
            // Files also hold code generated at run time, and libraries of other systems.
            Some(Why::NotElf) => {}
            Some(why) => return told(why, mapping.name()),
        }
    }

    // The mappings are from one instant, because the open maps file keeps its address space. The program is not: it is the
    // same one only if it still is.
    if self::identity(&fs::metadata(&exe)?) != identity {
        return Ok(Splicing::Unknown(Doubt::Changed));
    }
    Ok(match missing(&images, &mappings, musl) {
        Some(library) => Splicing::Unknown(Doubt::Loading(library.to_owned())),
        None => Splicing::Cannot,
    })
}

/// A library that one of the images needs and that is not mapped. The loader maps all of them before it starts the
/// program, so a missing one has yet to be checked.
fn missing<'image>(images: &'image [Image], mappings: &[Mapping<'_>], musl: bool) -> Option<&'image str> {
    let mut present: HashSet<&str> = images
        .iter()
        .filter_map(|image| image.soname.as_deref())
        .collect();
    present.extend(
        mappings
            .iter()
            .filter_map(|mapping| mapping.name().file_name()?.to_str()),
    );
    images
        .iter()
        .flat_map(|image| &image.needed)
        .map(String::as_str)
        .find(|needed| {
            let name = needed.rsplit('/').next().unwrap_or(needed);
            // Data libraries such as libicudata have no code, so their soname was not read: libx.so.1 is in libx.so.1.2.
            let is_version = |present: &&str| {
                present
                    .strip_prefix(name)
                    .is_some_and(|version| version.starts_with('.'))
            };
            !(present.contains(name) || musl && is_own_of_musl(name) || present.iter().any(is_version))
        })
}

fn is_musl(interpreter: &str) -> bool {
    interpreter
        .rsplit('/')
        .next()
        .is_some_and(|name| name.starts_with("ld-musl-"))
}

/// Musl's loader is its libc, and serves for these too.
fn is_own_of_musl(name: &str) -> bool {
    let own = ["c", "pthread", "rt", "m", "dl", "util", "xnet"];
    name.strip_prefix("lib")
        .and_then(|name| name.split_once('.'))
        .is_some_and(|(name, _)| own.contains(&name))
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::process;

    use super::*;

    #[test]
    fn a_library_that_is_not_mapped_is_missed() {
        let lines = [
            &b"400000-401000 r-xp 00000000 fe:00 1      /usr/bin/program"[..],
            b"500000-501000 r--p 00000000 fe:00 2      /usr/lib/libdata.so.72.1",
            b"600000-601000 r-xp 00000000 fe:00 3      /usr/lib/libc.so.6",
        ];
        let mappings: Vec<_> = lines.into_iter().filter_map(mapping).collect();
        let needing = |needed: &[&str]| Image {
            needed: needed.iter().map(|&name| name.to_owned()).collect(),
            ..Image::default()
        };
        let library = Image {
            soname: Some("libx.so.1".to_owned()),
            ..Image::default()
        };
        let missing = |needed: &[&str], musl| {
            let images = [needing(needed), library.clone()];
            super::missing(&images, &mappings, musl).map(str::to_owned)
        };
        assert_eq!(
            missing(
                &["libc.so.6", "libx.so.1", "libdata.so.72", "/opt/libc.so.6"],
                false
            ),
            None
        );
        assert_eq!(
            missing(&["libc.so.6", "libdata.so.7"], false).as_deref(),
            Some("libdata.so.7")
        );
        assert_eq!(missing(&["libm.so.6"], false).as_deref(), Some("libm.so.6"));
        assert_eq!(missing(&["libc.musl-x86_64.so.1", "libm.so"], true), None);
        assert_eq!(missing(&["libmm.so"], true).as_deref(), Some("libmm.so"));
    }

    /// This would change if the tool or one of its tests passed a `File` or a child's pipe to std::io::copy, which imports
    /// splice, for copies from a socket as well.
    #[test]
    fn this_process_cannot_splice() {
        let expected = if cfg!(target_feature = "crt-static") {
            Splicing::Can(Why::Static, fs::read_link("/proc/self/exe").unwrap())
        } else {
            Splicing::Cannot
        };
        assert_eq!(of_process(process::id()).unwrap(), expected);
    }

    #[test]
    fn each_file_of_a_process_is_looked_at_once_until_one_splices() {
        let mut files = Vec::new();
        let by = |file: &File| {
            files.push(identity(&file.metadata()?));
            of_file(file)
        };
        of_process_by(process::id(), by).unwrap();
        let exe = fs::metadata("/proc/self/exe").unwrap();
        assert_eq!(files[0], identity(&exe));
        let distinct: HashSet<_> = files.iter().collect();
        assert_eq!(distinct.len(), files.len());

        for (index, wanted) in files.iter().enumerate() {
            let mut looked = 0;
            let by = |file: &File| {
                looked += 1;
                let image = of_file(file)?;
                Ok(if identity(&file.metadata()?) == *wanted {
                    Image::spliced(Why::Imports)
                } else {
                    image
                })
            };
            let Splicing::Can(Why::Imports, path) = of_process_by(process::id(), by).unwrap() else {
                panic!("not heeded");
            };
            assert_eq!(identity(&fs::metadata(path).unwrap()), *wanted);
            assert_eq!(looked, index + 1);
        }
    }

    #[test]
    fn a_library_that_is_not_there_yet_is_waited_for() {
        let by = |file: &File| {
            let mut image = of_file(file)?;
            image.needed.push("libnever.so.1".to_owned());
            Ok(image)
        };
        let expected = Splicing::Unknown(Doubt::Loading("libnever.so.1".to_owned()));
        assert_eq!(of_process_by(process::id(), by).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_read_is_no_answer() {
        let by = |_: &File| Err(ErrorKind::PermissionDenied.into());
        assert!(of_process_by(process::id(), by).is_err());
    }

    #[test]
    fn a_process_that_is_none_fails() {
        assert!(of_process(0).is_err());
        assert!(of_process(u32::MAX).is_err());
    }
}

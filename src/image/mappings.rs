//! The files that a process has mapped, from /proc/PID/maps.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::about;

/// A line of /proc/PID/maps with a file.
pub(super) struct Mapping<'line> {
    /// As in /proc/PID/map_files.
    range: &'line str,
    pub(super) executable: bool,
    pub(super) device: &'line str,
    pub(super) inode: u64,
    path: &'line [u8],
}

/// What the kernel appends to the path of a file that was removed or replaced.
const DELETED: &[u8] = b" (deleted)";

impl Mapping<'_> {
    fn is_deleted(&self) -> bool {
        self.path.ends_with(DELETED)
    }

    pub(super) fn name(&self) -> &Path {
        let path = self.path.strip_suffix(DELETED).unwrap_or(self.path);
        Path::new(OsStr::from_bytes(path))
    }
}

pub(super) fn mapping(line: &[u8]) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let range = field()?;
    let executable = field()?.contains('x');
    field()?;
    let device = field()?;
    let inode = field()?.parse().ok()?;
    let path = fields.next()?.trim_ascii_start();
    (inode != 0 && path.starts_with(b"/")).then_some(Mapping {
        range,
        executable,
        device,
        inode,
        path,
    })
}

/// `None` if it is not a regular file: opening a device can have side effects.
pub(super) fn open(proc: &Path, mapping: &Mapping<'_>) -> io::Result<Option<File>> {
    let link = proc.join("map_files").join(short_range(mapping.range));
    let error = match open_regular(&link) {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound) => error,
        done => return done.map_err(|error| about(&link, &error)),
    };
    if mapping.is_deleted() {
        return Err(about(mapping.name(), &error));
    }
    let path = proc
        .join("root")
        .join(mapping.name().strip_prefix("/").unwrap_or(mapping.name()));
    let file = open_regular(&path).map_err(|error| about(&path, &error))?;
    // Not the device: file systems with several volumes report another one in stat.
    if let Some(file) = &file {
        if file.metadata()?.ino() != mapping.inode {
            let text = format!("{}: not the file that is mapped", path.display());
            return Err(io::Error::other(text));
        }
    }
    Ok(file)
}

fn open_regular(path: &Path) -> io::Result<Option<File>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    // A FIFO in its place would block until there is a writer.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Addresses are zero-padded in maps, but not in map_files.
fn short_range(range: &str) -> String {
    let short = |address: &str| match address.trim_start_matches('0') {
        "" => "0".to_owned(),
        address => address.to_owned(),
    };
    range
        .split_once('-')
        .map(|(from, to)| format!("{}-{}", short(from), short(to)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_parsed_as_the_kernel_writes_them() {
        let line = b"7f5a1c021000-7f5a1c043000 r-xp 00001000 fe:00 1234                       /a b/libx.so.1 (deleted)";
        let found = mapping(line).unwrap();
        assert_eq!(found.range, "7f5a1c021000-7f5a1c043000");
        assert!(found.executable && found.is_deleted());
        assert_eq!((found.device, found.inode), ("fe:00", 1234));
        assert_eq!(found.name(), Path::new("/a b/libx.so.1"));
        for none in [
            &b"7ffc0d5f2000-7ffc0d5f4000 r-xp 00000000 00:00 0                          [vdso]"[..],
            b"7f5a1c021000-7f5a1c043000 rwxp 00000000 00:00 0 ",
            b"",
            b"7f5a1c021000-7f5a1c043000 r-xp",
            b"\xff \xff \xff \xff \xff \xff",
        ] {
            assert!(mapping(none).is_none());
        }
        assert_eq!(short_range("00400000-00401000"), "400000-401000");
        assert_eq!(short_range("00000000-00401000"), "0-401000");
    }
}

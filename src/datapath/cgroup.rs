//! Cgroups: where version 2 is mounted, whether a folder is a cgroup, and who else works on it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::sys;
use crate::model::finding::Finding;

/// A cgroup of version 2, kept open.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    folder: File,
    /// Tells the folder from a later one with the same name.
    inode: u64,
}

impl Cgroup {
    /// Opens the named cgroup, or the root. Fails if it is not a cgroup.
    pub fn open(path: Option<&Path>) -> Result<Self, Finding> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => root()?,
        };
        let failed = |error: io::Error| {
            Finding::new(
                format!("failed to open cgroup {}: {error}", path.display()),
                name_another(),
            )
        };
        let folder = File::open(&path).map_err(failed)?;
        // Every folder of cgroup2 has this file; none of version 1 does.
        if !path.join("cgroup.controllers").is_file() {
            return Err(Finding::new(
                format!("{} is not a cgroup of version 2", path.display()),
                name_another(),
            ));
        }
        let inode = folder.metadata().map_err(failed)?.ino();
        Ok(Self { path, folder, inode })
    }

    /// Keeps other instances off the cgroup; fails if one holds it.
    pub fn lock(&self) -> Result<(), Finding> {
        if self.try_lock()? {
            return Ok(());
        }
        Err(Finding::new(
            format!("another sockredir runs on cgroup {}", self.path.display()),
            "stop it first, take over from it with --replace, or name another cgroup",
        ))
    }

    /// Like [`Self::lock`]; false if another instance holds it. The holder may call it again.
    pub fn try_lock(&self) -> Result<bool, Finding> {
        sys::try_lock(&self.folder).map_err(|error| {
            Finding::new(
                format!("failed to lock cgroup {}: {error}", self.path.display()),
                "name another cgroup",
            )
        })
    }

    /// Lets another instance have it.
    pub fn unlock(&self) -> Result<()> {
        sys::unlock(&self.folder).with_context(|| format!("failed to unlock cgroup {}", self.path.display()))
    }

    /// As the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Open for as long as the value lives.
    pub fn fd(&self) -> RawFd {
        self.folder.as_raw_fd()
    }

    /// Unique among all cgroups.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// True if the folder still exists and is still the same one.
    pub fn exists(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|folder| folder.ino() == self.inode)
    }
}

/// The cgroups that an instance covers: at least one, none nested in another.
#[derive(Debug)]
pub struct Cgroups(Vec<Cgroup>);

impl Cgroups {
    /// Opens the named ones, or the root. A program must see a socket once, so none may be covered twice.
    pub fn open(paths: &[PathBuf]) -> Result<Self, Finding> {
        if paths.is_empty() {
            return Ok(Self(vec![Cgroup::open(None)?]));
        }
        let mut cgroups: Vec<Cgroup> = Vec::with_capacity(paths.len());
        for path in paths {
            cgroups.push(Cgroup::open(Some(path))?);
        }
        match nested(paths) {
            None => Ok(Self(cgroups)),
            Some((inner, outer)) => Err(Finding::new(
                format!(
                    "cgroup {} is covered by {} already",
                    inner.display(),
                    outer.display()
                ),
                "name the outer one only",
            )),
        }
    }

    /// Keeps other instances off all of them; fails with the first that one holds.
    pub fn lock(&self) -> Result<(), Finding> {
        self.0.iter().try_for_each(Cgroup::lock)
    }

    /// Like [`Self::lock`]; false, with none locked, if another instance holds one of them.
    pub fn try_lock(&self) -> Result<bool, Finding> {
        for cgroup in &self.0 {
            if !cgroup.try_lock()? {
                // Unlocking those that are not locked does nothing.
                let _ = self.unlock();
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets another instance have them.
    pub fn unlock(&self) -> Result<()> {
        self.0.iter().try_for_each(Cgroup::unlock)
    }

    /// The first one that the user named.
    pub fn first(&self) -> &Cgroup {
        &self.0[0]
    }

    /// In the order in which they were named, like the next two.
    pub fn iter(&self) -> impl Iterator<Item = &Cgroup> {
        self.0.iter()
    }

    /// As the user named them.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.iter().map(|cgroup| cgroup.path.clone()).collect()
    }

    /// Open for as long as the value lives.
    pub fn fds(&self) -> Vec<RawFd> {
        self.iter().map(Cgroup::fd).collect()
    }
}

/// Two of the folders that are the same or nested, the inner one first.
fn nested(paths: &[PathBuf]) -> Option<(&PathBuf, &PathBuf)> {
    // A folder that has vanished meanwhile is reported later.
    let real: Vec<_> = paths
        .iter()
        .map(|path| (path, fs::canonicalize(path).unwrap_or_else(|_| path.clone())))
        .collect();
    real.iter().enumerate().find_map(|(at, (inner, place))| {
        let others = real.iter().enumerate().filter(|(other, _)| *other != at);
        let (outer, _) = others
            .map(|(_, other)| other)
            .find(|(_, around)| place.starts_with(around))?;
        Some((*inner, *outer))
    })
}

fn name_another() -> String {
    let mount = root().map(|root| format!(", {}", root.display()));
    format!("name a folder below cgroup2's mount{}", mount.unwrap_or_default())
}

fn root() -> Result<PathBuf, Finding> {
    const REMEDY: &str = "mount it with `mount -t cgroup2 none /sys/fs/cgroup`";
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Finding::new(format!("failed to read /proc/self/mountinfo: {error}"), REMEDY))?;
    mounted(&mounts).ok_or_else(|| Finding::new("cgroup2 is not mounted", REMEDY))
}

/// The mount point of cgroup2 in the text of /proc/PID/mountinfo. The last one wins, as it hides earlier ones.
fn mounted(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().rev().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let place = mount.split(' ').nth(4)?;
        source.starts_with("cgroup2 ").then(|| unescape(place))
    })
}

/// The cgroup of this process if it is visible here and no other program is in it. An instance that is being replaced, and
/// the process that started this one, are the same program.
pub fn own_alone() -> Option<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let path = own(&cgroups, &mounts)?;
    let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let own_name = name("self")?;
    // A process of another PID namespace is listed as 0.
    let processes = fs::read_to_string(path.join("cgroup.procs")).ok()?;
    let is_alone = processes.lines().all(|pid| name(pid).as_ref() == Some(&own_name));
    is_alone.then_some(path)
}

/// True if a process is in the same cgroup as this one, as those of one service are.
pub fn shares_own(pid: u32) -> bool {
    let line = |pid: &str| {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        cgroups
            .lines()
            .find(|line| line.starts_with("0::"))
            .map(str::to_owned)
    };
    let own = line("self");
    own.is_some() && own == line(&pid.to_string())
}

/// From the texts of /proc/PID/cgroup and mountinfo. Of several mounts, the path belongs to the one with the root of the
/// hierarchy, or of the cgroup namespace; a container may have the host's as well.
fn own(cgroups: &str, mountinfo: &str) -> Option<PathBuf> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = mountinfo.lines().rev().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (source.starts_with("cgroup2 ") && root == "/").then(|| unescape(place))
    })?;
    Some(root.join(path))
}

/// The kernel escapes blanks, tabs, newlines and backslashes in paths as three octal digits (show_mountinfo).
fn unescape(place: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(place.len());
    let mut rest = place.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
            .filter(|_| byte == b'\\')
        {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "\
24 1 0:22 / /sys rw shared:2 - sysfs sysfs rw
31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
32 24 0:28 / /sys/fs/pstore rw - pstore pstore rw";
    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:7 - cgroup2 cgroup2 rw";

    #[test]
    fn cgroup2_is_found_on_unified_and_hybrid_hosts() {
        assert_eq!(mounted(UNIFIED), Some("/sys/fs/cgroup".into()));
        assert_eq!(mounted(HYBRID), Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn folders_within_each_other_are_told_from_neighbours() {
        let nested = |paths: [&str; 3]| {
            let paths = paths.map(PathBuf::from);
            nested(&paths).map(|(inner, outer)| (inner.clone(), outer.clone()))
        };
        assert_eq!(nested(["/x/a", "/x/ab", "/x/b"]), None);
        let found = Some(("/x/a/b".into(), "/x/a".into()));
        assert_eq!(nested(["/x/a", "/x/c", "/x/a/b"]), found);
        assert_eq!(nested(["/x/a/b", "/x/c", "/x/a"]), found);
        assert_eq!(
            nested(["/x/a", "/x/c", "/x/a"]),
            Some(("/x/a".into(), "/x/a".into()))
        );
    }

    #[test]
    fn a_host_without_cgroup2_has_none() {
        assert_eq!(
            mounted("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"),
            None
        );
        assert_eq!(mounted(""), None);
    }

    #[test]
    fn the_own_cgroup_is_found_on_hosts_and_in_containers() {
        let service = "4:memory:/x\n0::/system.slice/sockredir.service\n";
        assert_eq!(
            own(service, UNIFIED),
            Some("/sys/fs/cgroup/system.slice/sockredir.service".into())
        );
        assert_eq!(
            own(service, HYBRID),
            Some("/sys/fs/cgroup/unified/system.slice/sockredir.service".into())
        );
        let container = "\
50 49 0:27 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate
51 48 0:27 /../../.. /host/cgroup ro,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(own("0::/\n", container), Some("/sys/fs/cgroup/".into()));
        assert_eq!(own("0::/\n", ""), None);
        assert_eq!(own("4:memory:/x\n", UNIFIED), None);
    }

    #[test]
    fn escaped_paths_are_read() {
        let line = r"41 31 0:38 / /mnt/my\040cgroup\134x rw - cgroup2 none rw";
        assert_eq!(mounted(line), Some(r"/mnt/my cgroup\x".into()));
    }
}

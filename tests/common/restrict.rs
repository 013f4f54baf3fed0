//! Owns commands that run under restrictions: without a capability, a mount, kernel types, loopback or an answer to FIONREAD.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::arena::cgroup2_mounts;
use super::sys;

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path has no zero byte")
}

/// Runs the program without these capabilities, even as root.
pub fn drop_capabilities(command: &mut Command, numbers: &[u64]) {
    let numbers = numbers.to_vec();
    sys::before_exec(command, move || {
        numbers
            .iter()
            .try_for_each(|number| sys::drop_capability(*number))
    });
}

/// Hides every cgroup2 hierarchy from the program.
pub fn hide_cgroup2(command: &mut Command) {
    let mounts: Vec<_> = cgroup2_mounts().iter().map(|path| c_path(path)).collect();
    sys::before_exec(command, move || {
        sys::unshare_mounts()?;
        mounts.iter().rev().try_for_each(|mount| sys::unmount(mount))
    });
}

/// Makes every cgroup2 hierarchy read-only for the program.
pub fn lock_cgroup2(command: &mut Command) {
    let mounts: Vec<_> = cgroup2_mounts().iter().map(|path| c_path(path)).collect();
    sys::before_exec(command, move || {
        sys::unshare_mounts()?;
        mounts.iter().try_for_each(|mount| sys::make_read_only(mount))
    });
}

/// Runs the program on a kernel whose FIONREAD appears not to count.
pub fn break_fionread(command: &mut Command) {
    sys::before_exec(command, sys::silence_fionread);
}

/// Gives the program these bytes as the kernel's BTF.
pub fn replace_btf(command: &mut Command, btf: &[u8]) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("sockredir-test-{}-{number}.btf", std::process::id()));
    fs::write(&file, btf).unwrap_or_else(|error| panic!("failed to write {}: {error}", file.display()));
    let file = c_path(&file);
    sys::before_exec(command, move || {
        sys::unshare_mounts()?;
        sys::bind_mount(&file, c"/sys/kernel/btf/vmlinux")?;
        // The mount keeps the file alive.
        sys::unlink(&file)
    });
}

/// Runs the program in a network namespace whose loopback interface is down.
pub fn without_loopback(command: &mut Command) {
    sys::before_exec(command, sys::unshare_network);
}

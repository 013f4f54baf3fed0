//! Compiles the BPF object and generates the Rust skeleton that embeds it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "src/bpf/sockredir.bpf.c";
/// The first clang that supports all CO-RE relocations in the source.
const CLANG_MIN: u32 = 14;
/// The first libbpf that works with libbpf-rs skeletons; with 1.3 the program crashes.
const LIBBPF_MIN: (u32, u32) = (1, 5);

fn main() {
    println!("cargo::rerun-if-changed=src/bpf");
    println!("cargo::rerun-if-changed=vmlinux");
    println!("cargo::rerun-if-env-changed=CLANG");

    if let Err(error) = build() {
        // These lines fail the build by themselves. A failing exit status would add a dump of all output of this
        // script.
        for line in error.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn build() -> Result<(), String> {
    let clang = PathBuf::from(env::var_os("CLANG").unwrap_or_else(|| "clang".into()));
    check_clang(&clang)?;
    check_libbpf()?;

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    SkeletonBuilder::new()
        .source(SOURCE)
        .obj(out.join("sockredir.o"))
        .reference_obj(true)
        .clang(&clang)
        .clang_args(clang_args())
        // A rustup without that component has a rustfmt that only fails, and nobody reads the skeleton.
        .rustfmt(out.join("no-rustfmt"))
        .build_and_generate(out.join("sockredir.skel.rs"))
        .map_err(|error| {
            let cause = error.root_cause().to_string();
            if bundled_headers().is_none() && cause.contains("'bpf/bpf_helpers.h' file not found") {
                "the BPF headers of libbpf are missing: install libbpf-dev (Debian) or libbpf-devel (Fedora)"
                    .into()
            } else if cause.contains('\n') {
                // The clang diagnostics suffice; the errors around them name temporary files.
                cause
            } else {
                format!("{error:#}")
            }
        })
}

fn clang_args() -> Vec<OsString> {
    let mut args: Vec<OsString> = ["-Wall", "-Werror", "-mcpu=v3", "-Ivmlinux"]
        .map(Into::into)
        .into();
    let root = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    // Keeps paths of the build machine out of the object's line information.
    args.push(joined("-ffile-prefix-map=", root, "=sockredir"));
    if let Some(headers) = bundled_headers() {
        args.push(joined("-ffile-prefix-map=", &headers, "=libbpf"));
        args.push(joined("-I", &headers, ""));
    }
    args
}

fn joined(flag: &str, path: impl AsRef<OsStr>, suffix: &str) -> OsString {
    let mut arg = OsString::from(flag);
    arg.push(path);
    arg.push(suffix);
    arg
}

/// The headers of the bundled libbpf. The distribution's need no `-I`.
fn bundled_headers() -> Option<PathBuf> {
    env::var_os("DEP_BPF_INCLUDE")
        .map(PathBuf::from)
        .filter(|headers| headers.is_dir())
}

fn check_clang(clang: &Path) -> Result<(), String> {
    let name = clang.display();
    let cure = "install clang (Debian and Fedora: package clang) or name another one in the variable CLANG";
    let output = Command::new(clang)
        .arg("-dumpversion")
        .output()
        .map_err(|error| {
            format!("the BPF program needs clang, and `{name}` does not run ({error}): {cure}")
        })?;
    let version = String::from_utf8_lossy(&output.stdout);
    let version = version.trim();
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major >= CLANG_MIN => Ok(()),
        Some(_) => Err(format!(
            "`{name}` is clang {version}, the BPF program needs {CLANG_MIN} or newer: {cure}"
        )),
        None => Err(format!(
            "`{name} -dumpversion` printed no version ({}): {cure}",
            output.status
        )),
    }
}

fn check_libbpf() -> Result<(), String> {
    // SAFETY: both functions take no arguments and return a number.
    let (major, minor) = unsafe {
        (
            libbpf_sys::libbpf_major_version(),
            libbpf_sys::libbpf_minor_version(),
        )
    };
    if (major, minor) >= LIBBPF_MIN {
        return Ok(());
    }
    Err(format!(
        "this system has libbpf {major}.{minor}, and {}.{} or newer is needed: build with the default features, which \
         bundle one",
        LIBBPF_MIN.0, LIBBPF_MIN.1
    ))
}

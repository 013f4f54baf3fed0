//! The floors of the sources: each knows only those below it, and only the datapath knows libbpf and `unsafe`. So it is with the
//! module of system calls among the programs that tests start.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors from the bottom, with what each may import: only floors listed above it. A file next to the folders is one too.
const FLOORS: [(&str, &[&str]); 10] = [
    ("model", &[]),
    ("image", &[]),
    ("cli", &["model"]),
    ("datapath", &["model"]),
    ("preflight", &["cli", "datapath", "model"]),
    ("daemon", &["cli", "datapath", "image", "model", "preflight"]),
    // A client of an instance needs none of its programs: it finds the socket through the cgroup.
    ("client", &["cli", "datapath::cgroup", "model"]),
    ("generate", &["cli", "model"]),
    (
        "lib",
        &[
            "cli",
            "client",
            "daemon",
            "datapath",
            "generate",
            "model",
            "preflight",
        ],
    ),
    ("main", &[]),
];

/// A source, with its module path starting at the floor.
struct Source {
    path: PathBuf,
    module: Vec<String>,
    text: String,
}

/// The sources below a folder of the project.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let place = path.strip_prefix(&root).unwrap().with_extension("");
                let mut module: Vec<_> = place
                    .iter()
                    .map(|name| name.to_str().unwrap().to_owned())
                    .collect();
                if module.last().is_some_and(|name| name == "mod") {
                    module.pop();
                }
                let text = fs::read_to_string(&path).unwrap();
                sources.push(Source { path, module, text });
            }
        }
    }
    assert!(sources.len() > 50, "{} sources", sources.len());
    sources
}

fn allowed(floor: &str) -> Option<&'static [&'static str]> {
    let row = FLOORS.iter().find(|(name, _)| *name == floor);
    row.map(|(_, allowed)| *allowed)
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// The paths that start at the root of the crate, as far as they are identifiers, without that root.
fn from_root(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crate::").map(|(at, root)| {
        let path = &line[at + root.len()..];
        let end = path.find(|letter| !is_name(letter) && letter != ':');
        path[..end.unwrap_or(path.len())].trim_end_matches(':')
    })
}

/// The most modules by which a path in the line goes up.
fn ups(line: &str) -> usize {
    let mut most = 0;
    let mut rest = line;
    while let Some(at) = rest.find("super::") {
        rest = &rest[at..];
        let mut count = 0;
        while let Some(path) = rest.strip_prefix("super::") {
            (count, rest) = (count + 1, path);
        }
        most = most.max(count);
    }
    most
}

/// The forbidden imports of a source, each with its line.
fn leaks(source: &Source) -> Vec<String> {
    let floor = &source.module[0];
    let allowed = allowed(floor).unwrap_or_else(|| panic!("{} is on no floor", source.path.display()));
    let is_allowed = |path: &str| {
        let is_within = |known: &str| {
            path.strip_prefix(known)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        is_within(floor) || allowed.iter().any(|known| is_within(known))
    };
    let mut leaks = Vec::new();
    // A module inside a file, such as its tests, is one level further down.
    let mut inner = 0;
    for (number, line) in source.text.lines().enumerate() {
        if line.starts_with("mod ") && line.ends_with('{') {
            inner = 1;
        } else if line == "}" {
            inner = 0;
        }
        let leaves = ups(line) >= source.module.len() + inner && source.module != ["main"];
        if leaves || from_root(line).any(|path| !is_allowed(path)) {
            leaks.push(format!(
                "{}:{}: {}",
                source.path.display(),
                number + 1,
                line.trim()
            ));
        }
    }
    leaks
}

#[test]
fn every_floor_imports_only_what_is_below_it() {
    let leaks: Vec<_> = sources("src").iter().flat_map(leaks).collect();
    assert!(leaks.is_empty(), "these lead up:\n{}", leaks.join("\n"));
}

#[test]
fn the_table_has_no_circle() {
    for (at, (floor, allowed)) in FLOORS.iter().enumerate() {
        for known in *allowed {
            let below = FLOORS[..at]
                .iter()
                .any(|(name, _)| Some(*name) == known.split("::").next());
            assert!(below, "{floor} may import {known}, which does not stand above it");
        }
    }
}

/// Demands that only this module has any of these words.
fn demand_alone(sources: &[Source], module: &str, words: &[&str]) {
    for source in sources.iter().filter(|source| source.module[0] != module) {
        for word in words {
            assert!(!source.text.contains(word), "{word} in {}", source.path.display());
        }
    }
}

const UNSAFE: [&str; 3] = ["unsafe {", "unsafe fn", "unsafe impl"];

#[test]
fn the_datapath_alone_knows_libbpf_and_unsafe() {
    demand_alone(&sources("src"), "datapath", &UNSAFE);
    demand_alone(&sources("src"), "datapath", &["libbpf_rs::", "libbpf_sys::"]);
}

#[test]
fn the_workloads_have_one_module_of_system_calls() {
    demand_alone(&sources("tests/workloads/src"), "sys", &UNSAFE);
}

#[test]
fn a_path_that_leads_up_is_noticed() {
    let source = |module: &[&str], text: &str| Source {
        path: PathBuf::new(),
        module: module.iter().map(|name| (*name).to_owned()).collect(),
        text: text.to_owned(),
    };
    for (module, text) in [
        (&["model", "text"][..], "use crate::datapath::Datapath;"),
        (&["model"], "use super::datapath::Datapath;"),
        (&["model", "text"], "use super::super::datapath::Datapath;"),
        (&["client", "ask"], "use crate::datapath::Datapath;"),
        (&["client", "ask"], "use crate::datapath::cgroups::Datapath;"),
        (&["cli"], "fn a() { crate::client::b() }"),
        (&["cli"], "use crate::{client, model};"),
        (&["cli"], "mod tests {\n    use super::super::model;\n}"),
    ] {
        assert_eq!(leaks(&source(module, text)).len(), 1, "{text}");
    }
    for (module, text) in [
        (&["datapath", "load"][..], "use crate::model::text::bytes;"),
        (&["datapath", "load"], "use super::sys;"),
        (&["client", "ask"], "use crate::datapath::cgroup::Cgroup;"),
        (&["cli"], "mod tests {\n    use super::*;\n}"),
        (&["daemon", "metrics", "http"], "use super::super::control;"),
    ] {
        assert_eq!(leaks(&source(module, text)), [""; 0], "{text}");
    }
}

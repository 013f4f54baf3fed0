//! The documents match the sources: every link resolves, every path and function exists, every reason is a counter.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The directories with which a path in a document may begin.
const FOLDERS: [&str; 9] = [
    "src/", "tests/", "scripts/", "docs/", "dist/", "compare/", "vmlinux/", ".ci/", ".github/",
];
/// The prefixes of the reasons.
const REASONS: [&str; 8] = [
    "refused_",
    "tcp_only_",
    "drain_",
    "adopt_",
    "messages_",
    "resets_",
    "leave_",
    "admitted_",
];

struct Document {
    path: PathBuf,
    /// The lines outside of code blocks.
    lines: Vec<String>,
    anchors: BTreeSet<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()))
}

/// The anchor of a heading, as code forges generate it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars();
    let kept = kept.filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

impl Document {
    fn read(path: PathBuf) -> Self {
        let mut is_code = false;
        let mut lines = Vec::new();
        for line in read(&path).lines() {
            if line.starts_with("```") {
                is_code = !is_code;
            } else if !is_code && !line.starts_with("    ") {
                lines.push(line.to_owned());
            }
        }
        let anchors = lines.iter().filter(|line| line.starts_with('#'));
        let anchors = anchors.map(|line| anchor(line)).collect();
        Self { path, lines, anchors }
    }

    /// All documents of the project.
    fn all() -> Vec<Self> {
        let folders = ["", "docs", "tests", "vmlinux"].map(|folder| root().join(folder));
        let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
        let paths = entries.map(|entry| entry.unwrap().path());
        let documents: Vec<_> = paths
            .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
            .map(Self::read)
            .collect();
        assert!(documents.len() > 10);
        documents
    }

    /// The texts in single backticks.
    fn spans(&self) -> impl Iterator<Item = &str> {
        self.lines
            .iter()
            .flat_map(|line| line.split('`').skip(1).step_by(2))
    }

    /// The targets of links within the project.
    fn links(&self) -> impl Iterator<Item = &str> {
        let targets = self.lines.iter().flat_map(|line| line.split("](").skip(1));
        targets
            .filter_map(|rest| rest.split(')').next())
            .filter(|target| !target.contains("://"))
    }

    fn name(&self) -> &str {
        let path = self.path.strip_prefix(root()).unwrap();
        path.to_str().unwrap()
    }
}

/// Fails with everything that is wrong, not just the first item.
fn demand_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_link_leads_somewhere() {
    let documents = Document::all();
    let mut wrong = Vec::new();
    for document in &documents {
        for link in document.links() {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = match file {
                "" => document.path.clone(),
                file => document.path.parent().unwrap().join(file),
            };
            let target = path.canonicalize().ok();
            let of_document = |each: &&Document| Some(&each.path) == target.as_ref();
            let is_there = match documents.iter().find(of_document) {
                Some(target) => anchor.is_empty() || target.anchors.contains(anchor),
                None => target.is_some() && anchor.is_empty(),
            };
            if !is_there {
                wrong.push(format!("{}: {link} leads nowhere", document.name()));
            }
        }
    }
    demand_none(&wrong);
}

#[test]
fn every_path_exists() {
    let mut wrong = Vec::new();
    for document in Document::all() {
        for word in document.spans().flat_map(str::split_whitespace) {
            let path = word.trim_end_matches([',', ';', '.', ':']);
            let is_path = FOLDERS.iter().any(|folder| path.starts_with(folder));
            if is_path && !path.contains('*') && !root().join(path).exists() {
                wrong.push(format!("{}: there is no {path}", document.name()));
            }
        }
    }
    demand_none(&wrong);
}

#[test]
fn every_reason_is_a_counter() {
    let contract = read(&root().join("src/bpf/sockredir.h"));
    let words = contract.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let counters: BTreeSet<_> = words
        .filter_map(|word| word.strip_prefix("COUNTER_"))
        .map(str::to_lowercase)
        .collect();
    let mut wrong = Vec::new();
    for document in Document::all() {
        for name in document.spans() {
            let is_reason = REASONS
                .iter()
                .filter_map(|prefix| name.strip_prefix(prefix))
                .any(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            if is_reason && !counters.contains(name) {
                wrong.push(format!("{}: {name} is no reason", document.name()));
            }
        }
    }
    demand_none(&wrong);
}

/// The functions named in the walk-throughs of the datapath.
#[test]
fn every_function_of_the_architecture_exists() {
    let sources: String = fs::read_dir(root().join("src/bpf"))
        .unwrap()
        .map(|entry| read(&entry.unwrap().path()))
        .collect();
    let document = Document::read(root().join("docs/architecture.md"));
    let named: Vec<_> = document
        .spans()
        .filter_map(|span| span.strip_suffix("()"))
        .collect();
    assert!(named.len() > 10, "{named:?}");
    let mut wrong = Vec::new();
    for name in named {
        let defined = [format!(" {name}("), format!("*{name}("), format!("({name},")];
        if !defined.iter().any(|text| sources.contains(text)) {
            wrong.push(format!("src/bpf has no {name}()"));
        }
    }
    demand_none(&wrong);
}
